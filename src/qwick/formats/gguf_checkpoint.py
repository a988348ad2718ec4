"""GGUF files as a Checkpoint: Hugging Face names for their tensors and keys for the config.

The names are those of `gguf_names.py`. A metadata key of the architecture that is not understood is
an error, for it may change what is computed; all other metadata is free. Knows nothing of how the
model is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from qwick.errors import ConfigError, FormatError, UnsupportedError, shown
from qwick.family import MODEL_TYPES
from qwick.formats import qwen1
from qwick.formats.checkpoint import (
    Checkpoint,
    Tensor,
    TokenizerData,
    check_known,
    closed,
)
from qwick.formats.gguf import MAX_TENSORS, GgufFile, Value
from qwick.formats.gguf_names import (
    DUAL_CHUNKS,
    EXPERT_PARTS,
    FUSED,
    LAST,
    MILLION,
    OF_EXPERTS,
    POOLINGS,
    ROPE_KEYS,
    hf_name,
    keys_of,
    type_of,
    weights_sum_to_one,
)
from qwick.formats.gguf_split import part_name, read_parts
from qwick.formats.mapped import damaged, give_back
from qwick.formats.strings import StringArray

# Keys that repeat what other keys say; checked against them, or of no effect on what is computed.
# An attention factor multiplies YaRN's own in GGUF, and replaces it in a Hugging Face config.
_ATTENTION_FACTORS = ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor")
_CHECKED = {"attention.value_length", "rope.dimension_count", "vocab_size", *_ATTENTION_FACTORS}
_NO_EFFECT = {"rope.scaling.finetuned", "tensor_data_layout"}

_SAMPLING: dict[str, tuple[str, type]] = {
    "temp": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "penalty_repeat": ("repetition_penalty", float),
}


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file, or all parts of the model that it is a part of.

    Raises as `read_parts`, and ConfigError for metadata that does not fit.
    """
    files = read_parts(path)
    meta = _Metadata(files[0])
    if "general.architecture" not in meta.values:
        raise ConfigError(f"{meta.path}: the metadata lacks general.architecture")
    known = [kind.gguf for kind in MODEL_TYPES.values()]
    arch = check_known(meta.path, "architecture", meta.values["general.architecture"], known)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(_tensors(file, arch))
        if len(tensors) > MAX_TENSORS:
            raise _too_many(path, len(tensors))
    config = _config(meta, arch, tensors)
    part = part_name(path.name) if len(files) > 1 else None

    def read_tokenizer() -> TokenizerData:
        if not files:
            raise closed(path)
        return _tokenizer(meta, int(config["vocab_size"]))

    def release() -> None:
        for file in files:
            give_back(file.data)
        files.clear()
        tensors.clear()
        meta.forget()

    return Checkpoint(
        path=path,
        format="gguf",
        config=MappingProxyType(config),
        tensors=MappingProxyType(tensors),
        chat_template=meta.get("tokenizer.chat_template", str, None),
        generation=MappingProxyType(_generation(meta)),
        name=meta.text("general.name") or (part.stem if part else None),
        author=meta.text("general.author") or meta.text("general.organization"),
        license=meta.text("general.license"),
        size_bytes=sum(len(file.data) for file in files),
        read_tokenizer=read_tokenizer,
        release=release,
        files=tuple(file.path for file in files),
    )


def _too_many(path: Path, count: int) -> FormatError:
    """Return the error of a file whose experts, counted one by one, are too many tensors."""
    return FormatError(
        f"{path}: {count} tensors, each expert's counted; allowed: {MAX_TENSORS}",
        hint="use another file of this model",
    )


class _Metadata:
    """Typed look-ups in the metadata."""

    def __init__(self, file: GgufFile) -> None:
        self.path = file.path
        self.values: dict[str, Value] = dict(file.metadata)

    def forget(self) -> None:
        self.values.clear()

    def get(self, key: str, kind: type, *default: Any) -> Any:
        """Return the value of `key`; ConfigError if it has another type or lacks (no default).

        A float32 comes back as the shortest decimal that rounds to it: 1e-06, not 9.99999997e-07.
        """
        if key not in self.values:
            if default:
                return default[0]
            raise ConfigError(f"{self.path}: the metadata lacks {key}")
        value = self.values[key]
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            shown = repr(value) if isinstance(value, (int, float, str)) else "an array"
            raise ConfigError(f"{self.path}: {key} is {shown[:80]}; a {kind.__name__} is wanted")
        if isinstance(value, float):
            return _shortest(value)
        return value

    def text(self, key: str) -> str | None:
        """Return a free text, or None: nothing depends on it, so any other type is left aside."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None


def _shortest(value: float) -> float:
    if not abs(value) < float(np.finfo(np.float32).max):
        return value
    single = np.float32(value)
    return float(np.format_float_scientific(single)) if single == value else value


def _tensors(file: GgufFile, arch: str) -> dict[str, Tensor]:
    raw = np.frombuffer(file.data, np.uint8)
    out: dict[str, Tensor] = {}
    sparse = type_of(arch)[1].experts
    for info in file.tensors.values():
        experts = OF_EXPERTS.fullmatch(info.name) if sparse else None
        if experts is not None and experts[2] in EXPERT_PARTS:
            tensor = Tensor.at(info, raw, info.name)
            if len(tensor.shape) == 3 and len(out) + tensor.shape[0] > MAX_TENSORS:
                raise _too_many(file.path, len(out) + tensor.shape[0])
            out.update(_cut(file.path, tensor, experts[1], experts[2]))
            continue
        fused = FUSED.fullmatch(info.name) if arch == qwen1.MODEL_TYPE else None
        if fused is not None:
            tensor = Tensor.at(info, raw, info.name)
            out.update(qwen1.cut_attention(file.path, tensor, fused[1], fused[2]))
            continue
        name = hf_name(info.name)
        if name is None:
            raise UnsupportedError(
                f"{file.path}: the tensor {info.name!r} has no place in the architecture {arch!r}"
            )
        tensor = Tensor.at(info, raw, name)
        if name.endswith(".shared_expert_gate.weight") and len(tensor.shape) == 1:
            tensor = replace(tensor, shape=(1, *tensor.shape))
        out[name] = tensor
    return out


def _cut(path: Path, tensor: Tensor, layer: str, part: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the experts of a tensor [experts, n, k], by name."""
    if len(tensor.shape) != 3:
        raise damaged(
            path,
            f"{shown(tensor.name)} has the shape {list(tensor.shape)}; experts have three axes",
        )
    count, *shape = tensor.shape
    for i in range(count):
        name = f"model.layers.{layer}.mlp.experts.{i}.{EXPERT_PARTS[part]}.weight"
        yield name, tensor.cut(name, i, count, tuple(shape))


def _config(meta: _Metadata, arch: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    model_type, kind = type_of(arch)
    config: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [kind.architecture],
        "hidden_act": "silu",
        "use_sliding_window": False,
        "rope_theta": 10000.0,
    }
    if kind.experts:
        config["norm_topk_prob"] = weights_sum_to_one(kind)
        config.update(_expert_sizes(tensors))
    for key, (name, of) in keys_of(arch).items():
        full = f"{arch}.{key.rstrip('!')}"
        value = meta.get(full, of, *([] if key.endswith("!") else [None]))
        if value is not None:
            config[name] = value
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    if config["max_position_embeddings"] == MILLION:
        config["dual_chunk_attention_config"] = dict(DUAL_CHUNKS)
    if model_type == qwen1.MODEL_TYPE:
        config.update(qwen1.gguf_positions(config))
        config["intermediate_size"] = qwen1.halved(meta.path, config["intermediate_size"])
    config["rope_scaling"] = _rope_scaling(meta, arch)
    config["vocab_size"] = _vocab_size(meta.path, tensors)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    for name in ("eos", "bos"):
        token = meta.get(f"tokenizer.ggml.{name}_token_id", int, None)
        if token is not None:
            config[f"{name}_token_id"] = token
    if kind.bare is not None and _pools_last(meta, arch):
        config["architectures"] = [kind.bare]
    _refuse_unknown(meta, arch)
    _check_repeats(meta, arch, config)
    return config


def _pools_last(meta: _Metadata, arch: str) -> bool:
    """Whether the file says that it is for embeddings; refuses those of any token but the last."""
    pooling = meta.get(f"{arch}.pooling_type", int, None)
    if pooling is None:
        return False
    if pooling != LAST:
        name = POOLINGS[pooling] if 0 <= pooling < len(POOLINGS) else "unknown"
        raise UnsupportedError(
            f"{meta.path}: {arch}.pooling_type is {shown(pooling)} ({name}); known: {LAST} (last)",
            hint="take a conversion of Qwen3-Embedding, or of Qwen3-Reranker without pooling_type",
        )
    return True


def _expert_sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how high the experts are by their tensors, for what the metadata do not say."""
    found: dict[str, int] = {}
    for key, part in (
        ("moe_intermediate_size", "experts.0"),
        ("shared_expert_intermediate_size", "shared_expert"),
    ):
        tensor = tensors.get(f"model.layers.0.mlp.{part}.gate_proj.weight")
        if tensor is not None:
            found[key] = tensor.shape[0]
    return found


def _vocab_size(path: Path, tensors: Mapping[str, Tensor]) -> int:
    tensor = tensors.get("model.embed_tokens.weight")
    if tensor is None or len(tensor.shape) != 2:
        raise damaged(path, "there is no matrix 'token_embd.weight'")
    return tensor.shape[0]


def _rope_scaling(meta: _Metadata, arch: str) -> dict[str, Any] | None:
    prefix = f"{arch}.rope.scaling."
    kind = meta.get(prefix + "type", str, "none")
    if kind == "none":
        return None
    out: dict[str, Any] = {}
    for key, (name, of) in ROPE_KEYS.items():
        value = meta.get(prefix + key, of, None)
        if value is not None:
            out[name] = value
    return out


def _refuse_unknown(meta: _Metadata, arch: str) -> None:
    known = {key.rstrip("!") for key in keys_of(arch)} | _CHECKED | _NO_EFFECT
    known |= set() if type_of(arch)[1].bare is None else {"pooling_type"}
    known |= {f"rope.scaling.{key}" for key in ROPE_KEYS}
    for key in meta.values:
        if key.startswith(f"{arch}.") and key[len(arch) + 1 :] not in known:
            raise ConfigError(
                f"{meta.path}: the metadata key {key!r} is not understood, and may change what is "
                "computed",
                hint="take another conversion of this model",
            )


def _check_repeats(meta: _Metadata, arch: str, config: Mapping[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or (config["hidden_size"] // heads if heads > 0 else 0)
    wanted = {
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "vocab_size": config["vocab_size"],
    }
    for key, value in wanted.items():
        found = meta.get(f"{arch}.{key}", int, value)
        if found != value:
            raise ConfigError(f"{meta.path}: {arch}.{key} is {found}; only {value} is supported")
    for key in _ATTENTION_FACTORS:
        factor = meta.get(f"{arch}.{key}", float, 1.0)
        if factor != 1.0:
            raise ConfigError(f"{meta.path}: {arch}.{key} is {factor}; only 1.0 is supported")


def _generation(meta: _Metadata) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, (name, kind) in _SAMPLING.items():
        value = meta.get(f"general.sampling.{key}", kind, None)
        if value is not None:
            out[name] = value
    return out


def _tokenizer(meta: _Metadata, rows: int) -> TokenizerData:
    path = meta.path
    model = meta.get("tokenizer.ggml.model", str)
    if model != "gpt2":
        raise UnsupportedError(f"{path}: the tokenizer model {model!r} is not supported: 'gpt2' is")
    tokens = _strings(meta, "tokenizer.ggml.tokens")
    merges = _strings(meta, "tokenizer.ggml.merges")
    types = meta.values.get("tokenizer.ggml.token_type")
    if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu":
        raise damaged(path, "tokenizer.ggml.token_type is no array of whole numbers")
    if not 0 < len(tokens) <= rows:
        raise damaged(path, f"there are {len(tokens)} tokens for {rows} rows of embeddings")
    if len(types) != len(tokens):
        raise damaged(path, f"there are {len(types)} token types for {len(tokens)} tokens")
    ids: dict[str, int | None] = {}
    for name in ("eos", "bos", "padding"):
        token = meta.get(f"tokenizer.ggml.{name}_token_id", int, None)
        if token is not None and not 0 <= token < len(tokens):
            raise damaged(
                path, f"tokenizer.ggml.{name}_token_id is {token}; there are {len(tokens)} tokens"
            )
        ids[name] = token
    return TokenizerData(
        tokens=tokens,
        token_types=types.tolist(),
        merges=merges,
        pre=meta.get("tokenizer.ggml.pre", str, None),
        eos_id=ids["eos"],
        bos_id=ids["bos"],
        pad_id=ids["padding"],
        add_bos=meta.get("tokenizer.ggml.add_bos_token", bool, False),
    )


def _strings(meta: _Metadata, key: str) -> StringArray:
    value = meta.values.get(key)
    if not isinstance(value, StringArray):
        raise damaged(meta.path, f"{key} is no array of strings")
    return value
