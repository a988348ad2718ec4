"""Reading GGUF: honest files come back as written, damaged ones give our errors only."""

from __future__ import annotations

import struct
import tracemalloc
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
    ModelNotFoundError,
    QwickError,
    UnsupportedError,
    UsageError,
)
from qwick.formats.gguf import read_gguf
from qwick.formats.gguf_checkpoint import gguf_name, hf_name
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_gguf
from qwick.quant.decode import decode
from qwick.quant.types import StoredType


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "honest.gguf"
    values = arrays()
    types = {"model.layers.0.mlp.down_proj.weight": StoredType.Q8_0}
    write_gguf(
        path,
        CONFIG,
        values,
        types,
        tokenizer=TOKENIZER,
        chat_template="{{ messages }}",
        metadata={"general.name": "Honest", "general.license": "apache-2.0"},
    )
    return path


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


@given(
    n=st.integers(1, 9),
    blocks=st.integers(1, 3),
    name=st.sampled_from([t.name for t in StoredType]),
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
    assert np.abs(values - matrix).max() < 0.5


def test_version_2_reads_like_3(honest: Path, tmp_path: Path) -> None:
    raw = bytearray(honest.read_bytes())
    raw[4] = 2
    (tmp_path / "two.gguf").write_bytes(raw)
    assert open_checkpoint(tmp_path / "two.gguf").tokenizer == TOKENIZER


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


BIG = 2**63
ONE = tensor("a", [8])  # 32 bytes at offset 0
DEEP = struct.pack("<IQ", ARRAY, 1) * 50 + struct.pack("<IQ", U8, 0)
WIDE = struct.pack("<IQ", ARRAY, 1 << 20) + struct.pack("<IQ", U8, 0) * (1 << 20)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "tensor count": (
        gguf(n_tensors=BIG),
        r"number of tensors at byte 8 is 9223372036854775808; the l",
    ),
    "tensor count that cannot fit": (gguf(n_tensors=60_000), r"60000 tensors need at least"),
    "key count": (gguf(n_pairs=BIG), r"number of metadata keys at byte 16 is 9223372036854775808"),
    "key length": (
        gguf([struct.pack("<Q", BIG) + bytes(8)]),
        r"metadata key 0 at byte 24 is 92233\d+ bytes long",
    ),
    "key beyond the end": (
        gguf([struct.pack("<QI", 99, 0) + b"x"]),
        r"needs 99 bytes, but the file",
    ),
    "text length": (gguf([pair("k", STRING, struct.pack("<Q", BIG))]), r"'k' at byte 37 is 922337"),
    "array count": (
        gguf([pair("k", ARRAY, struct.pack("<IQ", U32, BIG))]),
        r"is 9223372036854775808",
    ),
    "array beyond the end": (
        gguf([pair("k", ARRAY, struct.pack("<IQ", U32, 9))]),
        r"9 values of 'k'",
    ),
    "string count": (
        gguf([pair("k", ARRAY, struct.pack("<IQ", STRING, BIG))]),
        r"strings of 'k' at",
    ),
    "strings beyond": (
        gguf([pair("k", ARRAY, struct.pack("<IQQ", STRING, 1, BIG))]),
        r"a string of 'k' leaves the file",
    ),
    "depth": (gguf([pair("k", ARRAY, DEEP)]), r"'k' nests arrays deeper than 4"),
    "many nested": (
        gguf([pair("k", ARRAY, WIDE)]),
        r"number of arrays of 'k' .* the limit is 4096",
    ),
    "value type": (gguf([pair("k", 13, b"")]), r"'k' has the unknown value type 13"),
    "item type": (gguf([pair("k", ARRAY, struct.pack("<IQ", 99, 0))]), r"unknown item type 99"),
    "truth": (gguf([pair("k", BOOL, b"\2")]), r"'k' holds a truth value of 2"),
    "key twice": (gguf([pair("k", U8, b"\0")] * 2), r"metadata key 'k' occurs twice"),
    "key no UTF-8": (gguf([pair(b"\xff", U8, b"\0")]), r"metadata key 0 at byte 24 is not UTF-8"),
    "text no UTF-8": (gguf([pair("k", STRING, text(b"\xff"))]), r"value of 'k' .* not UTF-8"),
    "tensor twice": (gguf([], [ONE, ONE], bytes(64)), r"tensor 'a' occurs twice"),
    "overlap": (
        gguf([], [tensor("a", [16]), tensor("b", [8], offset=32)], bytes(64)),
        r"tensors 'a' and 'b' overlap at byte",
    ),
    "offset": (gguf([], [tensor("a", [8], offset=BIG)], bytes(64)), r"'a' needs the bytes 9223"),
    "shape product": (gguf([], [tensor("a", [2**62] * 4)], bytes(64)), r"'a' needs the bytes"),
    "unaligned": (
        gguf([], [tensor("a", [8], offset=8)], bytes(64)),
        r"offset 8, no multiple of.* 32",
    ),
    "no dimensions": (
        gguf([], [tensor("a", [])], bytes(64)),
        r"'a' has 0 dimensions; 1 to 4 allowed",
    ),
    "dimensions": (gguf([], [tensor("a", [1] * 5)], bytes(64)), r"'a' has 5 dimensions"),
    "dimension count": (
        gguf([], [text("a") + struct.pack("<I", 2**32 - 1) + bytes(40)], bytes(64)),
        r"'a' has 4294967295 dimensions",
    ),
    "zero dimension": (
        gguf([], [tensor("a", [8, 0])], bytes(64)),
        r"shape \[8, 0\]; no dimension may",
    ),
    "blocks": (
        gguf([], [tensor("a", [48], StoredType.Q8_0)], bytes(64)),
        r"rows of 48, no multiple of Q8_0's block of 32",
    ),
    "short data": (gguf([], [tensor("a", [17])], bytes(64)), r"but the file ends at byte"),
    "alignment 0": (
        gguf([pair("general.alignment", U32, bytes(4))], [ONE], bytes(32)),
        r"general.alignment is 0; a power of two",
    ),
    "alignment 48": (
        gguf([pair("general.alignment", U32, struct.pack("<I", 48))], [ONE], bytes(32)),
        r"general.alignment is 48",
    ),
    "alignment text": (
        gguf([pair("general.alignment", STRING, text("32"))], [ONE], bytes(32)),
        r"general.alignment is '32'",
    ),
    "empty": (b"", r"is empty \(0 bytes\)"),
    "three bytes": (b"GGU", r"ends after 3 bytes"),
    "html": (b"<!DOCTYPE html><html><body>404", r"not a GGUF file but an HTML page \(the download"),
    "html after blanks": (b"\n\n  <HTML>", r"an HTML page"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\n",
        r"Git LFS pointer \(run `git lfs pull`",
    ),
    "pickle": (b"PK\x03\x04archive/data.pkl", r"zip or pickle archive"),
    "json": (b'{"error": "not found"}', r"a JSON text"),
    "zeros": (bytes(100), r"not a GGUF file but zeros"),
    "other": (b"RIFFxxxxWAVE", r"unknown kind \(it starts with b'RIFFxxxx'\)"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path: Path, case: str) -> None:
    raw, message = HOSTILE[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as caught:
            open_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint
    assert peak < 4_000_000


UNSUPPORTED: dict[str, tuple[bytes, str]] = {
    "version 1": (gguf(version=1), r"GGUF version 1; supported: 2, 3"),
    "version 4": (gguf(version=4), r"GGUF version 4; supported: 2, 3"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), r"big-endian .* little endian"),
    "type": (
        gguf([], [tensor("blk.0.x", [32], 2)], bytes(64)),
        r"'blk.0.x' is stored as Q4_0; supported: F32, F16, BF16, Q4_K, Q5_0, Q6_K, Q8_0",
    ),
    "type number": (gguf([], [tensor("a", [32], 77)], bytes(64)), r"stored as number 77"),
    "architecture": (
        gguf([pair("general.architecture", STRING, text("llama"))]),
        r"architecture 'llama' is not supported; known: qwen2, qwen3",
    ),
    "moe": (
        gguf([pair("general.architecture", STRING, text("qwen3moe"))]),
        r"architecture 'qwen3moe' is not supported",
    ),
    "split": (
        gguf(
            [
                pair("general.architecture", STRING, text("qwen2")),
                pair("split.count", 2, struct.pack("<H", 3)),
            ]
        ),
        r"one of 3 parts of a split GGUF",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_files(tmp_path: Path, case: str) -> None:
    raw, message = UNSUPPORTED[case]
    (tmp_path / "no.gguf").write_bytes(raw)
    with pytest.raises(UnsupportedError, match=message):
        open_checkpoint(tmp_path / "no.gguf")


def test_truncated_at_every_byte(honest: Path, tmp_path: Path) -> None:
    whole = honest.read_bytes()
    ends = [t.start + t.size for t in read_gguf(honest).tensors.values()]
    path = tmp_path / "cut.gguf"
    data_start = min(t.start for t in read_gguf(honest).tensors.values())
    for length in [*range(data_start + 8), *range(data_start + 8, max(ends), 97), max(ends) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError) as caught:
            open_checkpoint(path)
        assert str(path) in caught.value.message, length
    path.write_bytes(whole[: max(ends)])
    open_checkpoint(path)


def test_flipped_bytes_give_only_our_errors(honest: Path, tmp_path: Path) -> None:
    whole = honest.read_bytes()
    header = min(t.start for t in read_gguf(honest).tensors.values())
    rng = np.random.default_rng(1)
    path = tmp_path / "flip.gguf"
    refused: list[str] = []
    for _ in range(2500):
        raw = bytearray(whole)
        for at in rng.integers(0, header, rng.integers(1, 4)):
            raw[at] = rng.choice([0, 1, 127, 128, 255, raw[at] ^ (1 << rng.integers(0, 8))])
        path.write_bytes(raw)
        try:
            with open_checkpoint(path) as checkpoint:
                assert checkpoint.tokenizer
                for found in checkpoint.tensors.values():
                    decode(found.type, found.data.reshape(1, -1))
        except (FormatError, UnsupportedError) as error:
            refused.append(error.message)
    assert len(refused) > 1000
    assert all(message.startswith(f"{path}: ") for message in refused)


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


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        open_checkpoint(tmp_path / "none.gguf")
    with pytest.raises(QwickError):
        open_checkpoint(Path("a\0b"))
    with pytest.raises(FormatError, match="not a regular file"):
        open_checkpoint(Path("/dev/null"))
