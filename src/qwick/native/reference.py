"""The kernels of `ops.py` in plain NumPy: the specification, and the oracle of their tests.

Same names, same argument order, same arrays; weights are given decoded (F32[n, k]) with the packed
class that says in which form the activations meet them. Slow on purpose: one idea a line, float64
inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

GROUP = 32
INTEGER = ("i4", "i5", "i6", "i8")


def to_bf16(x: NDArray[Any]) -> NDArray[np.uint16]:
    """Round float32 to bfloat16 bits: to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, bits >> 16 | 0x40, rounded).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> F32:
    """Widen bfloat16 bits to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantize(x: F32) -> tuple[NDArray[np.int8], F32]:
    """Rows in 8 bits: x ~ q * scale, one scale per 32.  x: F32[m, k] -> I8[m, k], F32[m, k / 32].

    q = round(x * (127 / max|x|)) in float32, ties to even; scale = max|x| / 127.
    """
    groups = x.reshape(x.shape[0], -1, GROUP)
    top = np.abs(groups).max(axis=2)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    q = np.rint(groups * inverse[:, :, None]).astype(np.int8)
    return q.reshape(x.shape), top / np.float32(127)


def seen_by(x: F32, packed: str, form: str) -> F64:
    """Activations as a kernel sees them: form "i8" (group-wise 8-bit), "bf16", or "f32"."""
    if form == "i8":
        q, scale = quantize(x)
        return q.astype(np.float64) * np.repeat(scale.astype(np.float64), GROUP, axis=1)
    if form == "bf16":
        return from_bf16(to_bf16(x)).astype(np.float64)
    return x.astype(np.float64)


def form_of(isa: str, packed: str, rows: int) -> str:
    """In which form `ops.matmul` reads activations: by instruction set, packed class and rows."""
    if isa.startswith("amx") and rows > 4 and packed in (*INTEGER, "bf16"):
        return "bf16"
    return "i8" if packed in INTEGER else "f32"


def matmul(x: F32, w: F32, out: NDArray[Any], bias: F32 | None, packed: str, form: str) -> None:
    """out = x W^T + bias, exactly, on activations (bf16: and weights) as the kernel sees them."""
    weights = from_bf16(to_bf16(w)) if form == "bf16" else w
    # Not `@`: the threads of NumPy's BLAS wait for each other for seconds on a busy machine.
    out[...] = np.einsum("mk,nk->mn", seen_by(x, packed, form), weights.astype(np.float64))
    if bias is not None:
        out[...] += bias


def gather_rows(w: F32, ids: I32, out: NDArray[Any]) -> None:
    """out[i] = w[ids[i]], of a decoded matrix."""
    out[...] = w[ids]


def add_rms_norm(
    x: NDArray[Any], delta: F32 | None, weight: F32, eps: float, out: NDArray[Any]
) -> None:
    """X += delta; out = x / sqrt(mean(x^2) + eps) * weight."""
    if delta is not None:
        x += delta
    wide = x.astype(np.float64)
    out[...] = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + eps) * weight


def swiglu(gate_up: F32, out: NDArray[Any]) -> None:
    """out = silu(gate) * up."""
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=1)
    out[...] = gate / (1 + np.exp(-gate)) * up


def _rotate(x: F64, cos: F32, sin: F32) -> F64:
    """x: F64[m, heads, head_dim] turned by cos, sin: F32[m, head_dim / 2]."""
    a, b = np.split(x, 2, axis=2)
    c, s = cos[:, None, :], sin[:, None, :]
    return np.concatenate([a * c - b * s, b * c + a * s], axis=2)


def _write(cache: NDArray[Any], index: Any, x: F64) -> None:
    wide = x.astype(np.float32)
    cache[index] = to_bf16(wide) if cache.dtype == np.uint16 else wide


def rope_store(
    qkv: NDArray[Any],
    heads: int,
    cos: F32,
    sin: F32,
    positions: I32,
    slots: I32,
    norms: tuple[F32, F32] | None,
    eps: float,
    keys: NDArray[Any],
    values: NDArray[Any],
) -> None:
    """Normalise (Qwen3), rotate, and store keys and values into their slots."""
    _, kv_heads, head_dim, page_size = keys.shape
    rows = qkv.reshape(len(qkv), -1, head_dim).astype(np.float64)
    turned, stored = rows[:, : heads + kv_heads].copy(), rows[:, heads + kv_heads :]
    if norms is not None:
        scale = 1 / np.sqrt((turned**2).mean(axis=2, keepdims=True) + eps)
        turned *= scale
        turned[:, :heads] *= norms[0]
        turned[:, heads:] *= norms[1]
    turned = _rotate(turned, cos[positions], sin[positions])
    qkv[:, : turned[0].size] = turned.reshape(len(qkv), -1)
    for row, slot in enumerate(slots):
        page, offset = divmod(int(slot), page_size)
        _write(keys, (page, slice(None), slice(None), offset), turned[row, heads:])
        _write(values, (page, slice(None), offset), stored[row])


def _read(cache: NDArray[Any], pages: I32) -> F64:
    some = cache[pages]
    return (from_bf16(some) if some.dtype == np.uint16 else some).astype(np.float64)


def attention(
    qkv: F32,
    heads: int,
    keys: NDArray[Any],
    values: NDArray[Any],
    pages: I32,
    starts: I32,
    positions: I32,
    out: NDArray[Any],
) -> None:
    """Softmax attention of each row over positions 0 to its own; groups of heads share a key."""
    _, kv_heads, head_dim, page_size = keys.shape
    group = heads // kv_heads
    queries = qkv[:, : heads * head_dim].reshape(-1, heads, head_dim).astype(np.float64)
    for s in range(len(pages)):
        for row in range(starts[s], starts[s + 1]):
            seen = int(positions[row]) + 1
            mine = pages[s, : -(-seen // page_size)]
            # [pages, kv_heads, head_dim, tokens] -> [kv_heads, head_dim, seen]
            k = _read(keys, mine).transpose(1, 2, 0, 3).reshape(kv_heads, head_dim, -1)[..., :seen]
            v = _read(values, mine).transpose(1, 0, 2, 3).reshape(kv_heads, -1, head_dim)[:, :seen]
            for h in range(heads):
                scores = queries[row, h] @ k[h // group] / np.sqrt(head_dim)
                weights = np.exp(scores - scores.max())
                result = weights @ v[h // group] / weights.sum()
                out[row, h * head_dim : (h + 1) * head_dim] = result
