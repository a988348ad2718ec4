"""Reading honest GGUF files: what was written comes back; metadata is read strictly."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf as reference
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formats.samples import (
    ARRAY,
    BOOL,
    CONFIG,
    F32,
    I32,
    STRING,
    TOKENIZER,
    U8,
    U32,
    U64,
    arrays,
    gguf,
    pair,
    strings,
    tensor,
    text,
)
from qwick.errors import (
    ConfigError,
    FormatError,
    UnsupportedError,
    UsageError,
)
from qwick.formats.gguf import read_gguf
from qwick.formats.gguf_names import gguf_name, hf_name
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_gguf
from qwick.quant.decode import decode
from qwick.quant.types import GGUF_TYPES, StoredType


def test_an_honest_file(honest: Path) -> None:
    with open_checkpoint(honest) as checkpoint:
        config = dict(checkpoint.config)
        assert {key: config[key] for key in CONFIG} == CONFIG
        assert config["tie_word_embeddings"] is True
        assert config["rope_scaling"] is None
        assert (config["eos_token_id"], "bos_token_id" in config) == (6, False)
        assert checkpoint.format == "gguf"
        assert (checkpoint.name, checkpoint.license) == ("Honest", "apache-2.0")
        assert checkpoint.author is None
        assert checkpoint.chat_template == "{{ messages }}"
        assert checkpoint.tokenizer == TOKENIZER
        assert checkpoint.size_bytes == honest.stat().st_size
        wanted = arrays()
        assert set(checkpoint.tensors) == set(wanted)
        for name, found in checkpoint.tensors.items():
            assert found.name == name
            assert found.shape == wanted[name].shape
            assert not found.data.flags.writeable
            if found.type is StoredType.F32:
                assert found.data.tobytes() == wanted[name].tobytes()


# Half a step of some normally distributed numbers, where it is large; else less than a half.
COARSE = {"Q2_K": 2.0, "Q3_K": 1.5, "Q4_0": 0.75, "IQ4_NL": 0.75, "IQ4_XS": 0.75}


@given(
    n=st.integers(1, 9),
    blocks=st.integers(1, 3),
    name=st.sampled_from([t.name for t in GGUF_TYPES]),
    seed=st.integers(0, 99),
)
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_matrices_round_trip(tmp_path: Path, n: int, blocks: int, name: str, seed: int) -> None:
    stored = StoredType[name]
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((n, blocks * stored.block)).astype(np.float32)
    write_gguf(tmp_path / "m.gguf", CONFIG, {"model.embed_tokens.weight": matrix}, stored)
    theirs = reference.GGUFReader(tmp_path / "m.gguf").tensors[0]
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        found = checkpoint.tensors["model.embed_tokens.weight"]
        assert found.shape == matrix.shape
        assert checkpoint.config["vocab_size"] == n
        values = decode(found.type, found.data.reshape(n, -1))
    wanted = reference.quants.dequantize(
        theirs.data.view(np.uint8).reshape(n, -1), theirs.tensor_type
    )
    np.testing.assert_array_equal(values, wanted)
    assert np.abs(values - matrix).max() < COARSE.get(name, 0.5)


def test_version_2_reads_like_3(honest: Path, tmp_path: Path) -> None:
    raw = bytearray(honest.read_bytes())
    raw[4] = 2
    (tmp_path / "two.gguf").write_bytes(raw)
    assert open_checkpoint(tmp_path / "two.gguf").tokenizer == TOKENIZER


def written(path: Path, alignment: int = 32, **kind: reference.GGUFEndian) -> dict[str, np.ndarray]:
    """A file of the gguf package: three tensors of lengths that are no multiples of 32 bytes."""
    writer = reference.GGUFWriter(path, "qwen3", **kind)
    writer.add_custom_alignment(alignment)
    values = {f"t{n}": np.arange(n, n + n, dtype=np.float32) for n in (3, 5, 17)}
    for name, value in values.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.mark.parametrize("alignment", [4, 8, 16, 64, 256, 65536])
def test_other_alignments(tmp_path: Path, alignment: int) -> None:
    values = written(tmp_path / "a.gguf", alignment)
    file = read_gguf(tmp_path / "a.gguf")
    assert file.alignment == alignment
    assert set(file.tensors) == set(values)
    for name, info in file.tensors.items():
        assert info.start % alignment == 0
        assert file.data[info.start : info.start + info.size] == values[name].tobytes()


def test_a_big_endian_file_of_the_gguf_package(tmp_path: Path) -> None:
    written(tmp_path / "b.gguf", endianess=reference.GGUFEndian.BIG)
    with pytest.raises(UnsupportedError, match=r"a big-endian GGUF file; .*gguf-convert-endian"):
        read_gguf(tmp_path / "b.gguf")


def test_every_value_type_and_nested_arrays(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", ARRAY, 2) + struct.pack("<IQ3H", 2, 3, 1, 2, 3) + strings(["x", ""])
    pairs = [
        pair("u8", U8, b"\xff"),
        pair("i8", 1, b"\xff"),
        pair("u16", 2, b"\xff\xff"),
        pair("i16", 3, b"\xff\xff"),
        pair("u32", U32, struct.pack("<I", 2**32 - 1)),
        pair("i32", I32, struct.pack("<i", -5)),
        pair("f32", F32, struct.pack("<f", 0.5)),
        pair("yes", BOOL, b"\1"),
        pair("text", STRING, text("你好")),
        pair("u64", U64, struct.pack("<Q", 2**64 - 1)),
        pair("i64", 11, struct.pack("<q", -(2**63))),
        pair("f64", 12, struct.pack("<d", 1e300)),
        pair("nested", ARRAY, nested),
        pair("none", ARRAY, strings([])),
    ]
    (tmp_path / "v.gguf").write_bytes(gguf(pairs))
    found = dict(read_gguf(tmp_path / "v.gguf").metadata)
    numbers, words = found.pop("nested")  # type: ignore[misc, has-type]
    assert numbers.tolist() == [1, 2, 3]
    assert words.decode() == ["x", ""]
    assert found.pop("none").decode() == []  # type: ignore[attr-defined]
    assert found == {
        "u8": 255,
        "i8": -1,
        "u16": 65535,
        "i16": -1,
        "u32": 2**32 - 1,
        "i32": -5,
        "f32": 0.5,
        "yes": True,
        "text": "你好",
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f64": 1e300,
    }
    assert found["yes"] is True


def meta(change: Callable[[dict[str, bytes]], None]) -> bytes:
    """An honest qwen2 file of no layers, with its metadata changed."""
    number = struct.Struct("<I").pack
    pairs = {
        "general.architecture": pair("general.architecture", STRING, text("qwen2")),
        **{
            key: pair(f"qwen2.{key}", U32, number(value))
            for key, value in {
                "block_count": 1,
                "context_length": 64,
                "embedding_length": 8,
                "feed_forward_length": 8,
                "attention.head_count": 2,
            }.items()
        },
        "eps": pair("qwen2.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-6)),
    }
    change(pairs)
    return gguf(list(pairs.values()), [tensor("token_embd.weight", [8, 1])], bytes(32))


def put(key: str, kind: int, payload: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda pairs: pairs.__setitem__(key, pair(key, kind, payload))


METADATA: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "no architecture": (lambda p: p.pop("general.architecture"), r"lacks general.architecture"),
    "key missing": (lambda p: p.pop("block_count"), r"lacks qwen2.block_count"),
    "wrong type": (
        put("qwen2.rope.freq_base", STRING, text("10000")),
        r"qwen2.rope.freq_base is '10000'; a float is wanted",
    ),
    "array": (put("qwen2.rope.freq_base", ARRAY, strings([])), r"freq_base is an array"),
    "truth for a number": (put("qwen2.attention.head_count_kv", BOOL, b"\1"), r"is True; a int"),
    "not understood": (
        put("qwen2.attention.sliding_window", U32, b"\1\0\0\0"),
        r"'qwen2.attention.sliding_window' is not understood, and may change what is computed",
    ),
    "value length": (
        put("qwen2.attention.value_length", U32, b"\5\0\0\0"),
        r"value_length is 5; only 4 is supported",
    ),
    "partial rotary": (
        put("qwen2.rope.dimension_count", U32, b"\2\0\0\0"),
        r"dimension_count is 2; only 4",
    ),
    "attention factor": (
        put("qwen2.rope.scaling.attn_factor", F32, struct.pack("<f", 1.5)),
        r"attn_factor is 1.5; only 1.0",
    ),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_is_read_strictly(tmp_path: Path, case: str) -> None:
    change, message = METADATA[case]
    (tmp_path / "m.gguf").write_bytes(meta(change))
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(tmp_path / "m.gguf")


def test_config_of_a_bare_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(meta(lambda pairs: None))
    config = open_checkpoint(tmp_path / "m.gguf").config
    assert config == {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_act": "silu",
        "use_sliding_window": False,
        "num_hidden_layers": 1,
        "max_position_embeddings": 64,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "vocab_size": 1,
        "tie_word_embeddings": True,
    }


def test_yarn_and_sampling(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = {**CONFIG, "rope_scaling": yarn}
    write_gguf(tmp_path / "y.gguf", config, arrays())
    assert open_checkpoint(tmp_path / "y.gguf").config["rope_scaling"] == yarn
    raw = meta(put("general.sampling.temp", F32, struct.pack("<f", 0.7)))
    (tmp_path / "s.gguf").write_bytes(raw)
    assert open_checkpoint(tmp_path / "s.gguf").generation == {"temperature": 0.7}


def test_no_embeddings_and_strange_tensors(tmp_path: Path) -> None:
    path = tmp_path / "t.gguf"
    path.write_bytes(meta(lambda pairs: None).replace(b"token_embd.weight", b"output_norm.weigh"))
    with pytest.raises(UnsupportedError, match=r"'output_norm\.weigh' has no place in .* 'qwen2'"):
        open_checkpoint(path)
    path.write_bytes(meta(lambda pairs: None).replace(b"token_embd.weight", b"output_norm.w\0ght"))
    with pytest.raises(UnsupportedError, match="no place"):
        open_checkpoint(path)
    write_gguf(path, CONFIG, {"model.norm.weight": np.ones(32, np.float32)})
    with pytest.raises(FormatError, match=r"no matrix 'token_embd\.weight'"):
        open_checkpoint(path)


TOKENIZERS: dict[str, tuple[dict[str, object], str]] = {
    "types": ({"token_types": [1]}, r"1 token types for 7 tokens"),
    "eos": ({"eos_id": 7}, r"eos_token_id is 7; there are 7 tokens"),
    "rows": ({"tokens": ["t"] * 9, "token_types": [1] * 9}, r"9 tokens for 8 rows"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_damaged_tokenizers(tmp_path: Path, case: str) -> None:
    from dataclasses import replace

    change, message = TOKENIZERS[case]
    data = replace(TOKENIZER, **change)  # type: ignore[arg-type]
    write_gguf(tmp_path / "t.gguf", CONFIG, arrays(), tokenizer=data)
    checkpoint = open_checkpoint(tmp_path / "t.gguf")
    with pytest.raises(FormatError, match=message):
        _ = checkpoint.tokenizer


def test_close(honest: Path) -> None:
    checkpoint = open_checkpoint(honest)
    kept = checkpoint.tensors["model.norm.weight"].data
    before = kept.tobytes()
    checkpoint.close()
    checkpoint.close()
    assert not checkpoint.tensors
    assert kept.tobytes() == before
    with pytest.raises(UsageError, match="closed"):
        _ = checkpoint.tokenizer


def mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_close_unmaps(honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(honest.read_bytes())
    checkpoint = open_checkpoint(path)
    assert mapped(path)
    assert checkpoint.tokenizer
    checkpoint.close()
    assert not mapped(path)


def test_names_go_both_ways() -> None:
    layer = "model.layers.17."
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
        "blk.17.attn_q.bias": layer + "self_attn.q_proj.bias",
        "blk.17.attn_output.weight": layer + "self_attn.o_proj.weight",
        "blk.17.attn_k_norm.weight": layer + "self_attn.k_norm.weight",
        "blk.17.ffn_gate.weight": layer + "mlp.gate_proj.weight",
        "blk.17.ffn_norm.weight": layer + "post_attention_layernorm.weight",
    }
    for theirs, ours in pairs.items():
        assert hf_name(theirs) == ours
        assert gguf_name(ours) == theirs
    for strange in ["rope_freqs.weight", "blk.01.attn_q.bias", "blk.0.attn_q", "attn_q.weight", ""]:
        assert hf_name(strange) is None
    for strange in ["lm_head", "model.layers.x.mlp.gate_proj.weight", "visual.weight", ""]:
        assert gguf_name(strange) is None
