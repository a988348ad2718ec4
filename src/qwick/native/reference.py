"""The kernels of `ops.py` in plain NumPy: the specification, and the oracle of their tests.

Same names, same argument order, same arrays; weights are given decoded (F32[n, k]) with the packed
class that says in which form the activations meet them. Slow on purpose: one idea a line, float64
inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwick.native.ops import AMX_SMALL_ROWS, PAGE_SIZE

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

PANEL = 896  # columns that share a scale of rounded weights (csrc/inl/matmul_rounded.inl)
BLOCK = 32
LEAST_ROUNDED = np.float32(2.0**-100)  # csrc/kernels.h


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
    """Rows in 8 bits: x ~ q * scale, one scale per 32 columns (the last block may be shorter).

    x: F32[m, k] -> I8[m, k], F32[m, ceil(k / 32)]. q = round(x * (127 / max|x|)) in float32, ties
    to even; scale = max|x| / 127. A block below LEAST_ROUNDED has quants of 0. x is finite.
    """
    starts = np.arange(0, x.shape[1], BLOCK)
    top = np.maximum.reduceat(np.abs(x), starts, axis=1)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top >= LEAST_ROUNDED)
    q = np.rint(x * _per_column(inverse, x)).astype(np.int8)
    return q, top / np.float32(127)


def _per_column(blocks: NDArray[Any], x: F32) -> NDArray[Any]:
    columns: NDArray[Any] = np.repeat(blocks, BLOCK, axis=1)[:, : x.shape[1]]
    return columns


def rounded(w: F32) -> F32:
    """Weights rounded to 8 bits, with a scale max|w| / 127 per row and PANEL columns."""
    parts = []
    for first in range(0, w.shape[1], PANEL):
        part = w[:, first : first + PANEL]
        scale = np.abs(part).max(1, keepdims=True) / np.float32(127)
        quants = np.rint(np.divide(part, scale, out=np.zeros_like(part), where=scale > 0))
        parts.append(quants * scale)
    return np.concatenate(parts, 1)


def seen_by(x: F32, packed: str, form: str) -> F64:
    """Activations as a kernel sees them: block-wise 8-bit ("i8", "rounded"), "bf16" or "f32"."""
    if form in ("i8", "rounded"):
        q, scale = quantize(x)
        seen: F64 = q.astype(np.float64) * _per_column(scale.astype(np.float64), x)
        return seen
    if form == "bf16":
        return from_bf16(to_bf16(x)).astype(np.float64)
    return x.astype(np.float64)


def is_integer(packed: str) -> bool:
    """Whether a packed class holds integers and their scales ("i4k"), not floats ("f16")."""
    return packed.startswith("i")


def form_of(isa: str, packed: str, rows: int, *, prompt: bool = False) -> str:
    """In which form `ops.matmul` multiplies: by instruction set, packed class and rows.

    "i8": activations in 8 bits; "rounded": weights too; "bf16": both in bf16; "f32".
    """
    if isa.startswith("amx") and (prompt or rows > AMX_SMALL_ROWS):
        if is_integer(packed) or packed == "bf16":
            return "bf16"
    elif prompt and isa.startswith("avx512") and is_integer(packed):
        return "rounded"
    return "i8" if is_integer(packed) else "f32"


def matmul(x: F32, w: F32, out: NDArray[Any], bias: F32 | None, packed: str, form: str) -> None:
    """out = x W^T + bias, exactly, on activations (bf16: and weights) as the kernel sees them."""
    weights = from_bf16(to_bf16(w)) if form == "bf16" else w
    if form == "rounded":
        weights = rounded(w)
    # Not `@`: the threads of NumPy's BLAS wait for each other for seconds on a busy machine.
    out[...] = np.einsum("mk,nk->mn", seen_by(x, packed, form), weights.astype(np.float64))
    if bias is not None:
        out[...] += bias


def argmax(y: NDArray[Any], columns: int, out: I32) -> None:
    """What `ops.matmul_argmax` says of y = x W^T: the first largest of `columns`, or -1."""
    for i, row in enumerate(y[:, :columns]):
        out[i] = row.argmax() if np.isfinite(row).all() else -1


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
    out[...] = gate / (1 + np.exp(np.minimum(-gate, 700))) * up  # e^710 is too large for float64


def route(logits: F32, top: int, *, renormalize: bool, shared: bool) -> tuple[I32, F64]:
    """Return the experts that each row takes, the largest weight first, and their weights.

    logits: F32[m, experts] -> I32[m, top (+ 1 if shared)], F64 of the same shape.
    """
    routed = logits[:, :-1] if shared else logits
    chosen = np.argsort(-routed, axis=1, kind="stable")[:, :top].astype(np.int32)
    wide = np.exp(routed.astype(np.float64) - routed.max(axis=1, keepdims=True))
    weights = np.take_along_axis(wide / wide.sum(axis=1, keepdims=True), chosen, 1)
    if renormalize:
        weights /= weights.sum(axis=1, keepdims=True)
    if shared:
        last = np.full((len(logits), 1), logits.shape[1] - 1, np.int32)
        gate = 1 / (1 + np.exp(-logits[:, -1:].astype(np.float64)))
        chosen, weights = np.hstack([chosen, last]), np.hstack([weights, gate])
    return chosen, weights


def experts(
    logits: F32,
    top: int,
    one: Callable[[int, NDArray[Any]], NDArray[Any]],
    out: NDArray[Any],
    *,
    renormalize: bool,
    shared: bool,
) -> None:
    """out = sum over the experts that a row takes: weight * what it makes of the row.

    one(expert, rows): what an expert makes of these rows, [rows, n].
    """
    chosen, weights = route(logits, top, renormalize=renormalize, shared=shared)
    wide = np.zeros(out.shape)
    for expert in range(logits.shape[1]):
        rows, places = np.nonzero(chosen == expert)
        if len(rows):
            wide[rows] += weights[rows, places, None] * one(expert, rows)
    out[...] = wide


def _rotate(x: F64, cos: F32, sin: F32) -> F64:
    """x: F64[m, heads, head_dim] turned by cos, sin: F32[m, head_dim / 2]."""
    a, b = np.split(x, 2, axis=2)
    c, s = cos[:, None, :], sin[:, None, :]
    return np.concatenate([a * c - b * s, b * c + a * s], axis=2)


def write_slot(cache: NDArray[Any], page: int, offset: int, x: F64, *, key: bool) -> None:
    """Put x: F64[kv_heads, head_dim] into one slot, in the cache's own format and layout."""
    wide = x.astype(np.float32)
    if cache.dtype == np.uint8:
        _write_bytes(cache[page], offset, wide, key=key)
        return
    if cache.dtype == np.uint16:
        pairs = _pairs(cache[page])
        if key:
            pairs[:, :, offset] = to_bf16(wide).reshape(len(wide), -1, 2)
        else:
            pairs[:, offset // 2, :, offset % 2] = to_bf16(wide)
    elif key:
        cache[page, :, :, offset] = wide
    else:
        cache[page, :, offset] = wide


def _pairs(page: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """View of a bf16 page: keys [heads, head_dim / 2, tokens, 2], values [., tokens / 2, ., 2]."""
    return page.reshape(*page.shape[:2], -1, 2)


def _byte_parts(
    page: NDArray[np.uint8], *, key: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Views of an 8-bit page's quants (in their operand order) and of the floats behind them."""
    kv_heads, tokens, width = page.shape
    d = width * 8 // 9 if key else width - 8
    flat = page.reshape(kv_heads, -1)
    shape = (kv_heads, d // 4, tokens, 4) if key else (kv_heads, tokens // 4, d, 4)
    floats = flat[:, tokens * d :].view(np.float32).reshape(kv_heads, -1, tokens)
    return flat[:, : tokens * d].reshape(shape), floats


def _quants(x: F32) -> tuple[NDArray[np.int8], F32]:
    """Round each row of x: F32[n, w], finite, to 8 bits with one scale."""
    top = np.abs(x).max(axis=1, keepdims=True)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top >= LEAST_ROUNDED)
    return np.rint(x * inverse).astype(np.int8), top[:, 0] / np.float32(127)


def _write_bytes(page: NDArray[np.uint8], offset: int, x: F32, *, key: bool) -> None:
    quants, floats = _byte_parts(page, key=key)
    kv_heads = len(x)
    if key:
        q, scale = _quants(x.reshape(-1, 32))
        quants[:, :, offset] = q.reshape(kv_heads, -1, 4).view(np.uint8) ^ 0x80
        floats[:, :, offset] = scale.reshape(kv_heads, -1)
        return
    q, scale = _quants(x)
    quants[:, offset // 4, :, offset % 4] = q.view(np.uint8)
    scale = np.maximum(scale, LEAST_ROUNDED / np.float32(127))
    floats[:, :, offset] = np.stack([np.log2(scale), 1 / scale], axis=1)


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
    kv_heads = keys.shape[1]
    head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
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
        page, offset = divmod(int(slot), PAGE_SIZE)
        write_slot(keys, page, offset, turned[row, heads:], key=True)
        write_slot(values, page, offset, stored[row], key=False)


def rotate(
    qkv: NDArray[Any], heads: int, cos: F32, sin: F32, positions: I32, norm: F32 | None, eps: float
) -> None:
    """Normalise (Qwen3) and rotate the queries alone."""
    width = heads * 2 * cos.shape[1]
    turned = qkv[:, :width].reshape(len(qkv), heads, -1).astype(np.float64)
    if norm is not None:
        turned *= norm / np.sqrt((turned**2).mean(axis=2, keepdims=True) + eps)
    qkv[:, :width] = _rotate(turned, cos[positions], sin[positions]).reshape(len(qkv), width)


def read_pages(cache: NDArray[Any], pages: I32, *, key: bool) -> F64:
    """Decode some pages of keys or values to F64[kv_heads, tokens, head_dim]."""
    some = cache[pages]
    if some.dtype == np.uint8:
        return np.concatenate([_read_bytes(page, key=key) for page in some], axis=1)
    if some.dtype == np.uint16:
        return np.concatenate([_read_pairs(page, key=key) for page in some], axis=1)
    heads, d = some.shape[1], some.shape[2 if key else 3]
    rows = some.transpose((1, 0, 3, 2) if key else (1, 0, 2, 3)).reshape(heads, -1, d)
    wide: F64 = rows.astype(np.float64)
    return wide


def _read_pairs(page: NDArray[np.uint16], *, key: bool) -> F64:
    pairs: F64 = from_bf16(_pairs(page)).astype(np.float64)
    kv_heads, _, twice = page.shape
    order, tokens = ((0, 2, 1, 3), twice // 2) if key else ((0, 1, 3, 2), PAGE_SIZE)
    rows: F64 = pairs.transpose(order).reshape(kv_heads, tokens, -1)
    return rows


def _read_bytes(page: NDArray[np.uint8], *, key: bool) -> F64:
    quants, floats = _byte_parts(page, key=key)
    kv_heads, tokens = page.shape[:2]
    wide: F64
    if key:
        q = (quants ^ 0x80).view(np.int8).transpose(0, 2, 1, 3).reshape(kv_heads, tokens, -1, 32)
        wide = q * floats.transpose(0, 2, 1)[..., None].astype(np.float64)
    else:
        q = quants.view(np.int8).transpose(0, 1, 3, 2).reshape(kv_heads, tokens, -1)
        wide = q * np.exp2(floats[:, 0].astype(np.float64))[..., None]
    return wide.reshape(kv_heads, tokens, -1)


def multiplies_pairs(isa: str) -> bool:
    """Whether an instruction set has a dot product of bf16 pairs."""
    return isa in ("avx512bf16", "amx", "neoni8mm")


def attention(
    qkv: F32,
    heads: int,
    keys: NDArray[Any],
    values: NDArray[Any],
    pages: I32,
    starts: I32,
    positions: I32,
    out: NDArray[Any],
    sums: NDArray[Any] | None = None,
    *,
    isa: str = "",
) -> None:
    """Softmax attention of each row over positions 0 to its own; groups of heads share a key.

    With 8-bit pages queries are rounded to 8 bits per 32 components; with bf16 pages to bf16, on
    instruction sets that multiply pairs of it. The rounding of weights is left out: it is an error
    of the kernel, in 8 bits at most 1/510 of a page's largest weight, in bf16 1/512 of each.
    """
    kv_heads = keys.shape[1]
    head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
    group = heads // kv_heads
    queries: NDArray[Any] = qkv[:, : heads * head_dim].reshape(-1, heads, head_dim)
    if keys.dtype == np.uint8:
        quants, scale = _quants(queries.reshape(-1, 32))
        queries = (quants * scale[:, None].astype(np.float64)).reshape(queries.shape)
    if keys.dtype == np.uint16 and multiplies_pairs(isa):
        queries = from_bf16(to_bf16(queries))
    queries = queries.astype(np.float64)
    for s in range(len(pages)):
        for row in range(starts[s], starts[s + 1]):
            seen = int(positions[row]) + 1
            mine = pages[s, : -(-seen // PAGE_SIZE)]
            k = read_pages(keys, mine, key=True)[:, :seen]
            v = read_pages(values, mine, key=False)[:, :seen]
            for h in range(heads):
                scores = k[h // group] @ queries[row, h] / np.sqrt(head_dim)
                weights = np.exp(scores - scores.max())
                if sums is not None:
                    sums[row, h] = scores.max() + np.log(weights.sum())
                result = weights @ v[h // group] / weights.sum()
                out[row, h * head_dim : (h + 1) * head_dim] = result
