"""Reading Hugging Face folders: config, safetensors, shards and index, tokenizer, templates."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from formats.samples import CONFIG, arrays
from qwick.errors import ConfigError, FormatError, ParameterError, UnsupportedError, UsageError
from qwick.formats.hf_folder import INDEX, SINGLE
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_folder
from qwick.quant.decode import decode
from qwick.quant.types import StoredType

TOKENIZER_CONFIG: dict[str, Any] = {
    "added_tokens_decoder": {
        "6": {"content": "<|endoftext|>", "special": True},
        "7": {"content": "<|im_end|>", "special": True},
    },
    "eos_token": {"content": "<|im_end|>"},
    "pad_token": "<|endoftext|>",
    "bos_token": None,
    "add_bos_token": False,
    "chat_template": "from the config",
}
FILES = {
    "tokenizer.json": '{"version": "1.0"}',
    "tokenizer_config.json": json.dumps(TOKENIZER_CONFIG),
    "generation_config.json": '{"temperature": 0.7, "top_k": 20}',
}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_an_honest_folder(tmp_path: Path, name: str, shards: int) -> None:
    stored = StoredType[name]
    config = {**CONFIG, "bos_token_id": 6}
    write_folder(tmp_path, config, arrays(), stored, shards=shards, files=FILES)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert checkpoint.config == config
        assert checkpoint.generation == {"temperature": 0.7, "top_k": 20}
        assert checkpoint.chat_template == "from the config"
        assert checkpoint.name == tmp_path.name
        weights = list(tmp_path.glob("*.safetensors"))
        assert len(weights) == shards
        assert checkpoint.size_bytes == sum(p.stat().st_size for p in weights)
        tokenizer = checkpoint.tokenizer
        assert tokenizer.json == FILES["tokenizer.json"]
        assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (7, 6, 6)
        assert tokenizer.added_tokens[7]["content"] == "<|im_end|>"
        assert tokenizer.tokens is tokenizer.merges is tokenizer.pre is None
        assert set(checkpoint.tensors) == set(arrays())
        for key, values in arrays().items():
            found = checkpoint.tensors[key]
            assert (found.type, found.shape) == (stored, values.shape)
            assert not found.data.flags.writeable
            got = decode(found.type, found.data.reshape(1, -1)).reshape(values.shape)
            np.testing.assert_allclose(got, values, rtol=2**-8, atol=1e-7)
    assert not checkpoint.tensors
    with pytest.raises(UsageError, match="closed"):
        _ = open_and_close(tmp_path).tokenizer


def open_and_close(path: Path) -> Any:
    checkpoint = open_checkpoint(path)
    checkpoint.close()
    return checkpoint


def test_a_file_of_the_safetensors_library(tmp_path: Path) -> None:
    write_folder(tmp_path, CONFIG, {})
    values = {"lm_head.weight": np.arange(12, dtype=np.float16).reshape(3, 4), **arrays()}
    save_file(values, tmp_path / SINGLE, {"format": "pt"})
    found = open_checkpoint(tmp_path).tensors
    assert found["lm_head.weight"].data.tobytes() == values["lm_head.weight"].tobytes()
    assert {name: t.shape for name, t in found.items()} == {n: v.shape for n, v in values.items()}


def safetensors(header: Any, data: bytes = bytes(32), *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: Any = "F32", shape: Any = (8,), at: Any = (0, 32), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": at, **more}


DEEP = b'{"a":' * 100_000
TWICE = b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2)

DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "short": (b"\1\2", r"header's length at byte 0 needs 8 bytes"),
    "header length": (safetensors({}, length=2**63), r"not a safetensors file but"),
    "header beyond the end": (safetensors({}, length=90), r"the header at byte 8 needs 90 bytes"),
    "pickle": (b"PK\x03\x04archive/data.pkl", r"zip or pickle archive"),
    "html": (b"<!DOCTYPE html><html>", r"HTML page"),
    "gguf": (b"GGUF" + bytes(20), r"a GGUF file"),
    "no JSON": (safetensors(b"{]"), r"the header is not valid JSON"),
    "no UTF-8": (safetensors(b'{"\xff"'), r"the header is not UTF-8"),
    "deep": (safetensors(DEEP), r"header (nests too deeply|is not valid JSON)"),
    "NaN": (safetensors(b'{"a": NaN}'), r"header: NaN is no JSON number"),
    "infinite": (safetensors(b'{"a": 1e999}'), r"header: the number 1e999 is beyond float64"),
    "twice": (safetensors(TWICE), r"the key 'a' occurs twice"),
    "metadata": (safetensors({"__metadata__": {"a": 1}}), r"__metadata__ is no object of texts"),
    "entry": (safetensors({"a": 5}), r"entry of 'a' must hold dtype, shape and data_offsets"),
    "entry lacks": (safetensors({"a": {"dtype": "F32"}}), r"entry of 'a' must hold"),
    "entry has more": (safetensors({"a": entry(x=1)}), r"entry of 'a' must hold"),
    "dtype": (safetensors({"a": entry(5)}), r"dtype of 'a' is 5"),
    "shape": (safetensors({"a": entry(shape=[-8])}), r"shape of 'a' is \[-8\]"),
    "shape of truth": (safetensors({"a": entry(shape=[True])}), r"shape of 'a' is \[True\]"),
    "shape of floats": (safetensors({"a": entry(shape=[8.0])}), r"shape of 'a' is \[8.0\]"),
    "shape 0": (safetensors({"a": entry(shape=[8, 0])}), r"shape of 'a' is \[8, 0\]"),
    "shape of no size": (safetensors({"a": entry(shape=[])}), r"shape of 'a' is \[\]"),
    "huge shape": (
        safetensors({"a": entry(shape=[2**62] * 8)}),
        r"'a' of shape .* needs \d+ bytes",
    ),
    "size": (safetensors({"a": entry(shape=[7])}), r"needs 28 bytes; its offsets give 32"),
    "offsets": (safetensors({"a": entry(at=[32, 0])}), r"data_offsets of 'a' are \[32, 0\]"),
    "offset count": (safetensors({"a": entry(at=[0])}), r"data_offsets of 'a' are \[0\]"),
    "offset 2^63": (safetensors({"a": entry(at=[2**63, 2**63 + 32])}), r"data_offsets of 'a'"),
    "beyond the end": (safetensors({"a": entry()}, bytes(31)), r"end at byte \d+, but the file at"),
    "left over": (safetensors({"a": entry()}, bytes(33)), r"end at byte \d+, but the file at"),
    "overlap": (safetensors({"a": entry(), "b": entry(at=[0, 32])}), r"'b' .* overlaps 'a'"),
    "hole": (
        safetensors({"a": entry(), "b": entry(at=[64, 96])}, bytes(96)),
        r"'b' .* leaves a hole after 'a'",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_safetensors(tmp_path: Path, case: str) -> None:
    raw, message = DAMAGED[case]
    write_folder(tmp_path, CONFIG, {})
    (tmp_path / SINGLE).write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as caught:
            open_checkpoint(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.message.startswith(f"{tmp_path / SINGLE}: ")
    assert peak < 8_000_000


@pytest.mark.parametrize("dtype", ["F64", "I8", "F8_E4M3", "BOOL"])
def test_other_dtypes_are_named(tmp_path: Path, dtype: str) -> None:
    write_folder(tmp_path, CONFIG, {})
    (tmp_path / SINGLE).write_bytes(safetensors({"a": entry(dtype)}))
    with pytest.raises(UnsupportedError, match=f"'a' is stored as {dtype}; supported: F32, F16, B"):
        open_checkpoint(tmp_path)


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    values = {"model.norm.weight": np.ones(8, np.float32), "b": np.ones((2, 3), np.float32)}
    write_folder(tmp_path, CONFIG, values)
    path = tmp_path / SINGLE
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            open_checkpoint(tmp_path)


def test_flipped_bytes_give_only_our_errors(tmp_path: Path) -> None:
    write_folder(tmp_path, CONFIG, arrays())
    path = tmp_path / SINGLE
    whole = path.read_bytes()
    header = 8 + struct.unpack_from("<Q", whole)[0]
    rng = np.random.default_rng(2)
    refused: list[str] = []
    for _ in range(1500):
        raw = bytearray(whole)
        for at in rng.integers(0, header, rng.integers(1, 4)):
            raw[at] = rng.choice([0, ord("9"), ord("]"), 255, raw[at] ^ (1 << rng.integers(0, 8))])
        path.write_bytes(raw)
        try:
            open_checkpoint(tmp_path).close()
        except (FormatError, UnsupportedError) as error:
            refused.append(error.message)
    assert len(refused) > 500
    assert all(str(path) in message for message in refused)


def change_index(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((path / INDEX).read_text())
    change(index["weight_map"])
    (path / INDEX).write_text(json.dumps(index))


NORM = "model.norm.weight"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"

INDICES: dict[str, tuple[Callable[[dict[str, str]], object], str]] = {
    "missing tensor": (lambda m: m.update(extra=FIRST), r"'extra' should be in .* in no shard"),
    "extra tensor": (lambda m: m.pop(NORM), r"'model.norm.weight' is in .* does not name it"),
    "wrong shard": (
        lambda m: m.update({NORM: FIRST if m[NORM] == SECOND else SECOND}),
        r"'model.norm.weight' should be in .*, but it is in",
    ),
    "missing shard": (
        lambda m: m.update({NORM: "x.safetensors"}),
        r"shard x.safetensors is missing",
    ),
    "empty": (lambda m: m.clear(), r"no weight_map"),
    **{
        f"leaves by {shard}": (
            lambda m, shard=shard: m.update({NORM: shard}),  # type: ignore[misc]
            r"only a .safetensors file of the same folder is allowed",
        )
        for shard in [
            "../other/model.safetensors",
            "/etc/model.safetensors",
            "sub/model.safetensors",
            "..\\model.safetensors",
            "..",
            "",
            "a\0.safetensors",
            "\ud800.safetensors",
            "model.bin",
            5,
            None,
        ]
    },
}


@pytest.mark.parametrize("case", INDICES)
def test_index_and_shards_are_cross_checked(tmp_path: Path, case: str) -> None:
    change, message = INDICES[case]
    write_folder(tmp_path, CONFIG, arrays(), shards=2)
    change_index(tmp_path, change)
    with pytest.raises(FormatError, match=message):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    values = arrays()
    write_folder(tmp_path, CONFIG, values, shards=2)
    save_file(values, tmp_path / FIRST)
    with pytest.raises(FormatError, match=r"is in both .*00001.* and .*00002"):
        open_checkpoint(tmp_path)


def test_index_beside_a_single_file_and_shards_without_index(tmp_path: Path) -> None:
    write_folder(tmp_path, CONFIG, arrays(), shards=2)
    save_file(arrays(), tmp_path / SINGLE)
    with pytest.raises(FormatError, match="beside the index"):
        open_checkpoint(tmp_path)
    (tmp_path / SINGLE).unlink()
    (tmp_path / INDEX).unlink()
    with pytest.raises(FormatError, match=r"neither model\.safetensors nor .*index\.json"):
        open_checkpoint(tmp_path)


def test_links_as_the_hub_cache_has_them(tmp_path: Path) -> None:
    write_folder(tmp_path / "blobs", CONFIG, arrays(), shards=2)
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(f"../blobs/{file.name}")
    assert set(open_checkpoint(tmp_path / "snapshot").tensors) == set(arrays())


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"give the file: .*some\.gguf"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(FormatError, match="no weights"):
        open_checkpoint(tmp_path)
    for name in ("pytorch_model.bin", "model.pt"):
        (tmp_path / name).write_bytes(b"\x80\x02")
        with pytest.raises(FormatError, match=f"pickles .*{name}.*run any code.*take the model's"):
            open_checkpoint(tmp_path)
        with pytest.raises(FormatError, match="a pickle"):
            open_checkpoint(tmp_path / name)
        (tmp_path / name).unlink()
    with pytest.raises(FormatError, match=r"one file of a checkpoint folder .give the folder"):
        open_checkpoint(tmp_path / "config.json")


CONFIGS: dict[str, tuple[str, type[Exception], str]] = {
    "no JSON": ("{", FormatError, r"config\.json: the file is not valid JSON"),
    "a list": ("[]", FormatError, r"holds a JSON list; an object is wanted"),
    "twice": ('{"model_type": 1, "model_type": 2}', FormatError, r"'model_type' occurs twice"),
    "no model type": ("{}", ConfigError, r"config\.json lacks model_type"),
    "llama": (
        '{"model_type": "llama"}',
        UnsupportedError,
        r"model_type 'llama' is not supported; known: qwen, qwen2, qwen2_moe",
    ),
    "no text": ('{"model_type": ["qwen2"]}', UnsupportedError, r"model_type \['qwen2'\]"),
    "class": (
        '{"model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"]}',
        UnsupportedError,
        r"Qwen2ForSequenceClassification.* not supported; known: Qwen2ForCausalLM",
    ),
    "quantized": (
        '{"model_type": "qwen2", "quantization_config": {"quant_method": "aqlm"}}',
        UnsupportedError,
        r"quantized with 'aqlm'.*known: gptq, awq.*take the unquantized",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_are_refused(tmp_path: Path, case: str) -> None:
    raw, kind, message = CONFIGS[case]
    write_folder(tmp_path, CONFIG, arrays(), files={"config.json": raw})
    with pytest.raises(kind, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_where_the_chat_template_comes_from(tmp_path: Path) -> None:
    def template(files: dict[str, str]) -> str | None:
        write_folder(tmp_path, CONFIG, arrays(), files=files)
        return open_checkpoint(tmp_path).chat_template

    def named(*names: str) -> dict[str, str]:
        listed = [{"name": name, "template": f"the {name}"} for name in names]
        return {"tokenizer_config.json": json.dumps({"chat_template": listed})}

    assert template({}) is None
    assert template({"chat_template.json": '{"chat_template": "of json"}'}) == "of json"
    assert template(named("tool_use", "default")) == "the default"
    with pytest.raises(FormatError, match=r"no 'default' among \['tool_use'\]"):
        template(named("tool_use"))
    for item in (5, {"name": [1], "template": "x"}, {"name": "default", "template": 1}, {}):
        with pytest.raises(FormatError, match="no text or list"):
            template({"tokenizer_config.json": json.dumps({"chat_template": [item]})})
    files = {**FILES, "chat_template.jinja": "of jinja\n"}
    assert template(files) == "of jinja\n"


TOKENIZERS: dict[str, tuple[dict[str, Any], str]] = {
    "id": ({"added_tokens_decoder": {"x": {"content": "a"}}}, r"has the id 'x'"),
    "content": ({"added_tokens_decoder": {"5": {}}}, r"the added token 5 has no content"),
    "table": ({"added_tokens_decoder": []}, r"added_tokens_decoder is no object"),
    "bos": ({"add_bos_token": "no"}, r"add_bos_token is 'no'"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_damaged_tokenizer_configs(tmp_path: Path, case: str) -> None:
    value, message = TOKENIZERS[case]
    files = {**FILES, "tokenizer_config.json": json.dumps(value)}
    write_folder(tmp_path, CONFIG, arrays(), files=files)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(FormatError, match=message):
        _ = checkpoint.tokenizer


def test_ids_from_the_config_and_a_missing_tokenizer(tmp_path: Path) -> None:
    files = {"tokenizer.json": "{}"}
    write_folder(tmp_path, {**CONFIG, "eos_token_id": [5, 6]}, arrays(), files=files)
    data = open_checkpoint(tmp_path).tokenizer
    assert (data.eos_id, data.bos_id, data.pad_id) == (5, None, None)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FormatError, match=r"no tokenizer\.json"):
        _ = open_checkpoint(tmp_path).tokenizer
    write_folder(tmp_path, {**CONFIG, "eos_token_id": "x"}, arrays(), files=files)
    with pytest.raises(ConfigError, match="eos_token_id"):
        _ = open_checkpoint(tmp_path).tokenizer


def test_the_writer_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="Q8_0 in safetensors; allowed: F32, F16, BF16"):
        write_folder(tmp_path, CONFIG, arrays(), StoredType.Q8_0)
    with pytest.raises(ParameterError, match="shards is 0"):
        write_folder(tmp_path, CONFIG, arrays(), shards=0)
