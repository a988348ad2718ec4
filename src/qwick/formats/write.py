"""Writing checkpoints from (config, named float32 arrays): GGUF files and safetensors folders.

For tests and benchmarks, which need models of any shape in any stored type. Knows only what
`gguf_checkpoint` reads; does not judge whether config and tensors fit each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwick.errors import ParameterError, UnsupportedError
from qwick.family import MODEL_TYPES
from qwick.formats import qwen1
from qwick.formats.checkpoint import TokenizerData, check_known
from qwick.formats.gguf_names import (
    LAST,
    ROPE_KEYS,
    gguf_name,
    is_expert,
    keys_of,
    weights_sum_to_one,
)
from qwick.formats.hf_folder import INDEX, SINGLE
from qwick.quant.encode import encode
from qwick.quant.types import GGUF_TYPES, StoredType

F32 = NDArray[np.float32]
Types = StoredType | Mapping[str, StoredType]

_FLOATS = {StoredType.F32: "F32", StoredType.F16: "F16", StoredType.BF16: "BF16"}


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, F32],
    types: Types = StoredType.F32,
    *,
    tokenizer: TokenizerData | None = None,
    chat_template: str | None = None,
    metadata: Mapping[str, str] | None = None,
    part_tensors: int = 0,
    part_bytes: int = 0,
) -> list[Path]:
    """Write a GGUF file through the `gguf` package; return the files written.

    `config` and `tensors` (F32 [n, k] or [n]) bear Hugging Face names. `types` is the type of all
    matrices, or a type per name (others: F32); vectors are F32 unless named. `metadata` adds texts.
    `part_tensors` and `part_bytes` are the most tensors, and bytes of them, that a file may hold
    (0: any; a larger tensor has a file of its own). A model that needs several files is written to
    NAME-00001-of-0000n.gguf and so on instead of NAME.gguf.
    Raises UnsupportedError for a model type or tensor that GGUF has no name for here, FormatError
    for rows that the type's blocks do not divide, ParameterError for a negative limit.
    """
    import gguf

    kind = MODEL_TYPES[check_known(path, "model_type", config.get("model_type"))]
    arch = kind.gguf
    for limit, most in {"part_tensors": part_tensors, "part_bytes": part_bytes}.items():
        if most < 0:
            raise ParameterError(f"{limit} is {most}; allowed: 0 (no limit) and more")
    if kind.experts and bool(config.get("norm_topk_prob")) is not weights_sum_to_one(kind):
        raise UnsupportedError(
            f"GGUF has no key for norm_topk_prob={config.get('norm_topk_prob')} of a {arch}"
        )
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=part_tensors, split_max_size=part_bytes)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    _add_config(writer, arch, config)
    if tokenizer is not None:
        _add_tokenizer(writer, tokenizer)
    if chat_template is not None:
        writer.add_string("tokenizer.chat_template", chat_template)
    for theirs, names in _named(path, tensors, fused=arch == qwen1.MODEL_TYPE).items():
        several = is_expert(names[0])
        ordered = _in_order(path, names) if several else names
        parts = [_encode(name, tensors[name], types) for name in ordered]
        raw, stored = parts[0]
        if len({of for _, of in parts}) > 1:
            raise UnsupportedError(f"{path}: the parts of {theirs} have several types")
        if stored.ggml_id is None:
            raise UnsupportedError(
                f"{path}: no GGUF file holds {stored.name}; allowed: "
                f"{', '.join(t.name for t in GGUF_TYPES)}"
            )
        if several:  # one tensor of three axes
            raw = np.stack([part for part, _ in parts])
        elif len(parts) > 1:  # query, key and value
            axis = 0 if tensors[names[0]].ndim > 1 else 1
            raw = np.concatenate([part for part, _ in parts], axis)
        # The package derives the stored row from uint8 shapes; a vector is one row.
        rows = raw if tensors[names[0]].ndim > 1 else raw.reshape(-1)
        writer.add_tensor(theirs, rows, raw_dtype=gguf.GGMLQuantizationType(stored.ggml_id))
    written = writer.format_shard_names(path)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _named(path: Path, tensors: Mapping[str, F32], *, fused: bool) -> dict[str, list[str]]:
    """Return GGUF's names, and which tensors of ours each holds: one, or a layer's experts.

    fused: or query, key and value, which come in this order.
    """
    found: dict[str, list[str]] = {}
    for name in tensors:
        theirs = gguf_name(name, fused=fused)
        if theirs is None:
            raise UnsupportedError(f"{path}: GGUF has no name for the tensor {name!r}")
        found.setdefault(theirs, []).append(name)
    return found


def _in_order(path: Path, names: list[str]) -> list[str]:
    """Return the names of a layer's experts by number, which must run from 0 without a gap."""
    by_number = {int(name.split(".experts.")[1].partition(".")[0]): name for name in names}
    if sorted(by_number) != list(range(len(names))):
        raise UnsupportedError(f"{path}: the experts {sorted(by_number)} do not run from 0")
    return [by_number[number] for number in range(len(names))]


def _encode(name: str, values: F32, types: Types) -> tuple[NDArray[np.uint8], StoredType]:
    if isinstance(types, StoredType):
        stored = types if values.ndim > 1 else StoredType.F32
    else:
        stored = types.get(name, StoredType.F32)
    return encode(stored, values.reshape(-1, values.shape[-1])), stored


def _add_config(writer: Any, arch: str, config: Mapping[str, Any]) -> None:
    def add(key: str, kind: type, value: Any) -> None:
        put = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[kind]
        put(f"{arch}.{key.rstrip('!')}", value)

    for key, (name, kind) in keys_of(arch).items():
        if config.get(name) is not None:
            doubled = arch == qwen1.MODEL_TYPE and name == "intermediate_size"
            add(key, kind, 2 * config[name] if doubled else config[name])
    scaling = dict(config.get("rope_scaling") or {})
    for key, (name, kind) in ROPE_KEYS.items():
        if name in scaling:
            add(f"rope.scaling.{key}", kind, scaling.pop(name))
    if scaling:
        raise UnsupportedError(f"GGUF has no key for {sorted(scaling)} of rope_scaling")
    bare = MODEL_TYPES[config["model_type"]].bare
    if bare is not None and config.get("architectures") == [bare]:
        writer.add_uint32(f"{arch}.pooling_type", LAST)


def _add_tokenizer(writer: Any, data: TokenizerData) -> None:
    if data.tokens is None or data.token_types is None or data.merges is None:
        raise ParameterError(
            "the tokenizer lacks tokens, token types or merges; a GGUF file must be given all three"
        )
    writer.add_string("tokenizer.ggml.model", "gpt2")
    if data.pre is not None:
        writer.add_string("tokenizer.ggml.pre", data.pre)
    writer.add_token_list(list(data.tokens))
    writer.add_token_types(list(data.token_types))
    writer.add_token_merges(list(data.merges))
    ids = {"eos": data.eos_id, "bos": data.bos_id, "padding": data.pad_id}
    for name, token in ids.items():
        if token is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    writer.add_bool("tokenizer.ggml.add_bos_token", data.add_bos)


def write_folder(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, F32],
    stored: StoredType = StoredType.F32,
    *,
    shards: int = 1,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write a Hugging Face folder: config.json, safetensors, and further text `files` by name.

    With `shards` > 1 the tensors are dealt out in turn and an index is written.
    Raises ParameterError for a stored type that safetensors does not have here, or a bad `shards`.
    """
    if stored not in _FLOATS:
        raise ParameterError(
            f"{stored.name} in safetensors; allowed: {', '.join(_FLOATS.values())}"
        )
    if not 1 <= shards <= max(1, len(tensors)):
        raise ParameterError(f"shards is {shards}; allowed: 1 to the number of tensors")
    path.mkdir(parents=True, exist_ok=True)
    for name, text in {"config.json": json.dumps(dict(config), indent=2), **(files or {})}.items():
        (path / name).write_text(text, encoding="utf-8")
    if shards == 1:
        _write_safetensors(path / SINGLE, tensors, stored)
        return
    table: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in list(tensors)[shard::shards]}
        _write_safetensors(path / name, part, stored)
        table.update(dict.fromkeys(part, name))
    size = sum(values.size * stored.bytes for values in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": table}
    (path / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_safetensors(path: Path, tensors: Mapping[str, F32], stored: StoredType) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in tensors.items():
        end = at + values.size * stored.bytes
        shape = list(values.shape)
        header[name] = {"dtype": _FLOATS[stored], "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, values in tensors.items():
            file.write(_encode(name, values.reshape(1, -1), stored)[0].tobytes())
