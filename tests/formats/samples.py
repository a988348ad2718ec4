"""Small checkpoints for this folder's tests: an honest model, and GGUF files made by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from qwick.formats.checkpoint import TokenizerData
from qwick.quant.types import StoredType

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64 = range(11)

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "vocab_size": 8,
}

TOKENIZER = TokenizerData(
    tokens=["a", "b", "ab", "Ġ", "你", "", "<|endoftext|>"],
    token_types=[1, 1, 1, 1, 1, 5, 3],
    merges=["a b"],
    pre="qwen2",
    eos_id=6,
    bos_id=None,
    pad_id=6,
)


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of CONFIG's model, tied."""
    layer = "model.layers.0."
    return {
        "model.embed_tokens.weight": (8, 32),
        "model.norm.weight": (32,),
        layer + "input_layernorm.weight": (32,),
        layer + "post_attention_layernorm.weight": (32,),
        layer + "self_attn.q_proj.weight": (32, 32),
        layer + "self_attn.q_norm.weight": (16,),
        layer + "mlp.down_proj.weight": (32, 64),
    }


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes().items()}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def strings(values: Sequence[str | bytes]) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def tensor(
    name: str, dims: Sequence[int], stored: StoredType | int = StoredType.F32, offset: int = 0
) -> bytes:
    kind = stored if isinstance(stored, int) else stored.ggml_id
    return (
        text(name)
        + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        + struct.pack("<IQ", kind, offset)
    )


def gguf(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    n_pairs: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if n_tensors is None else n_tensors,
        len(pairs) if n_pairs is None else n_pairs,
    )
    head += b"".join(pairs) + b"".join(tensors)
    if data:
        head += b"\0" * (-len(head) % alignment)
    return head + data
