"""The kernels' NumPy definitions in the place of `ops`, so that a Decoder runs on them.

`Definitions` computes with them; `Checked` computes with the kernels and holds every single call of
a forward pass against its definition on the same inputs. Knows nothing of what the model computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qwick.model import attention, decoder, layers
from qwick.native import ops, reference
from qwick.quant.decode import decode
from qwick.quant.types import StoredType

F32_EPS = 2.0**-24


def mlp_of(mlp: Any, x: np.ndarray, of: ops.Experts, prompt: bool) -> Callable[[int, Any], Any]:
    """What an expert makes of some rows, by a way to compute an MLP."""

    def one(expert: int, rows: np.ndarray) -> np.ndarray:
        gate_up, down = of.parts[expert]
        out = np.empty((len(rows), down.n), np.float32)
        mlp(np.ascontiguousarray(x[rows]), gate_up, down, out, prompt=prompt)
        return out

    return one


class Definitions:
    """`native.reference` behind the signatures of `native.ops`, for one instruction set's forms."""

    add_rms_norm = staticmethod(reference.add_rms_norm)
    rope_store = staticmethod(reference.rope_store)
    attention = staticmethod(reference.attention)
    rotate = staticmethod(reference.rotate)

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self.decoded: dict[int, np.ndarray] = {}
        self.kept: list[ops.Packed] = []  # or an id could be used again

    def prompts_differ(self) -> bool:
        return ops.prompts_differ()

    def weights(self, w: ops.Packed) -> np.ndarray:
        if id(w) not in self.decoded:
            self.decoded[id(w)] = ops.unpack(w)
            self.kept.append(w)
        return self.decoded[id(w)]

    def matmul(
        self,
        x: np.ndarray,
        w: ops.Packed,
        out: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        prompt: bool = False,
    ) -> None:
        at = 0
        for packed, n in w.segments:
            part = slice(at, at + n)
            form = reference.form_of(self.isa, packed, len(x), prompt=prompt)
            own = None if bias is None else bias[part]
            reference.matmul(x, self.weights(w)[part], out[:, part], own, packed, form)
            at += n

    def mlp(
        self,
        x: np.ndarray,
        gate_up: ops.Packed,
        down: ops.Packed,
        out: np.ndarray,
        *,
        prompt: bool = False,
    ) -> None:
        both, inner = np.empty((len(x), gate_up.n)), np.empty((len(x), down.k), np.float32)
        self.matmul(x, gate_up, both, prompt=prompt)
        reference.swiglu(both, inner)
        self.matmul(inner, down, out, prompt=prompt)

    def experts(
        self,
        x: np.ndarray,
        logits: np.ndarray,
        of: ops.Experts,
        top: int,
        out: np.ndarray,
        *,
        renormalize: bool,
        prompt: bool = False,
    ) -> None:
        one = mlp_of(self.mlp, x, of, prompt)
        how: dict[str, Any] = {"renormalize": renormalize, "shared": of.shared}
        reference.experts(logits, top, one, out, **how)

    def gather_rows(
        self, stored: str, data: np.ndarray, n: int, ids: np.ndarray, out: np.ndarray
    ) -> None:
        rows = decode(StoredType[stored.upper()], data.reshape(n, -1))
        reference.gather_rows(rows, ids, out)


class Checked:
    """The kernels, each call compared with its definition; `calls` counts, `worst` is the ratio.

    The limits are those of float32: a few roundings of each output's largest possible sum, and for
    a matrix unit the bfloat16 neighbour that a differently rounded product may fall to.
    """

    def __init__(self, isa: str) -> None:
        self.definitions = Definitions(isa)
        self.calls: dict[str, int] = {}
        self.worst: dict[str, float] = {}

    def prompts_differ(self) -> bool:
        return ops.prompts_differ()

    def note(self, name: str, found: np.ndarray, expected: np.ndarray, limit: Any) -> None:
        ratio = float((np.abs(found.astype(np.float64) - expected) / limit).max())
        self.calls[name] = self.calls.get(name, 0) + 1
        self.worst[name] = max(ratio, self.worst.get(name, 0.0))
        assert ratio <= 1, f"{name} is {ratio:.3g} times further from its definition than allowed"

    def matmul(
        self,
        x: np.ndarray,
        w: ops.Packed,
        out: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        prompt: bool = False,
    ) -> None:
        ops.matmul(x, w, out, bias, prompt=prompt)
        expected = np.empty(out.shape)
        self.definitions.matmul(x, w, expected, bias, prompt=prompt)
        # The sum of the magnitudes, four-bit minimums included, bounds every partial sum.
        magnitude = np.einsum("mk,nk->mn", np.abs(x), np.abs(self.definitions.weights(w)))
        form = reference.form_of(self.definitions.isa, w.segments[0][0], len(x), prompt=prompt)
        steps = 2.0**-9 / np.sqrt(w.k) if form == "bf16" else F32_EPS * np.sqrt(w.k)
        limit = steps * magnitude + 1e-6
        if form == "rounded":  # a weight in a hundred may round to the other neighbour
            grid = np.abs(self.definitions.weights(w)).max(1) / 127
            size = np.sqrt(0.36 * (x.astype(np.float64) ** 2).sum(1)) + np.abs(x).max(1)
            limit = limit + np.outer(size, grid)
        self.note("matmul", out, expected, limit)

    def gather_rows(
        self, stored: str, data: np.ndarray, n: int, ids: np.ndarray, out: np.ndarray
    ) -> None:
        ops.gather_rows(stored, data, n, ids, out)
        expected = np.empty_like(out)
        self.definitions.gather_rows(stored, data, n, ids, expected)
        self.note("gather_rows", out, expected, 1e-30)

    def add_rms_norm(
        self,
        x: np.ndarray,
        delta: np.ndarray | None,
        weight: np.ndarray,
        eps: float,
        out: np.ndarray,
    ) -> None:
        theirs, expected = x.copy(), np.empty(out.shape)
        ops.add_rms_norm(x, delta, weight, eps, out)
        reference.add_rms_norm(theirs, delta, weight, eps, expected)
        self.note("residual", x, theirs, 1e-30)
        self.note("add_rms_norm", out, expected, 1e-6 * np.abs(expected) + 1e-7)

    def mlp(
        self,
        x: np.ndarray,
        gate_up: ops.Packed,
        down: ops.Packed,
        out: np.ndarray,
        *,
        prompt: bool = False,
    ) -> None:
        both, inner = np.empty((len(x), gate_up.n), np.float32), np.empty((len(x), down.k))
        self.matmul(x, gate_up, both, prompt=prompt)
        reference.swiglu(both, inner)
        expected = np.empty(out.shape, np.float32)
        self.matmul(inner.astype(np.float32), down, expected, prompt=prompt)
        ops.mlp(x, gate_up, down, out, prompt=prompt)
        # The kernels' e^x moves what goes into the last product by 2 ulp, and so, where that is
        # rounded to 8 bits or bf16, a few of it by a step.
        magnitude = np.einsum("mk,nk->mn", np.abs(inner), np.abs(self.definitions.weights(down)))
        form = reference.form_of(self.definitions.isa, down.segments[0][0], len(x), prompt=prompt)
        steps = F32_EPS * np.sqrt(down.k) if form == "f32" else 2.0**-6 / np.sqrt(down.k)
        self.note("mlp", out, expected, steps * magnitude + 1e-6)

    def experts(
        self,
        x: np.ndarray,
        logits: np.ndarray,
        of: ops.Experts,
        top: int,
        out: np.ndarray,
        *,
        renormalize: bool,
        prompt: bool = False,
    ) -> None:
        expected = np.empty(out.shape)
        one = mlp_of(ops.mlp, x, of, prompt)
        reference.experts(logits, top, one, expected, renormalize=renormalize, shared=of.shared)
        ops.experts(x, logits, of, top, out, renormalize=renormalize, prompt=prompt)
        self.note("experts", out, expected, 1e-5 * np.abs(expected).max())

    def rope_store(
        self, qkv: np.ndarray, heads: int, cos: Any, sin: Any, positions: Any, slots: Any,
        norms: Any, eps: float, keys: np.ndarray, values: np.ndarray,
    ) -> None:  # fmt: skip
        theirs = [qkv.copy(), keys.copy(), values.copy()]
        ops.rope_store(qkv, heads, cos, sin, positions, slots, norms, eps, keys, values)
        reference.rope_store(
            theirs[0], heads, cos, sin, positions, slots, norms, eps, theirs[1], theirs[2]
        )
        for found, expected in zip((qkv, keys, values), theirs, strict=True):
            unwritten = np.isnan(expected)
            assert np.array_equal(np.isnan(found), unwritten)
            size = np.abs(expected[~unwritten]).max()
            self.note("rope_store", found[~unwritten], expected[~unwritten], 2e-6 * size)

    def rotate(
        self, qkv: np.ndarray, heads: int, cos: Any, sin: Any, positions: Any, norm: Any, eps: float
    ) -> None:
        theirs = qkv.copy()
        ops.rotate(qkv, heads, cos, sin, positions, norm, eps)
        reference.rotate(theirs, heads, cos, sin, positions, norm, eps)
        self.note("rotate", qkv, theirs, 2e-6 * np.abs(theirs).max())

    def attention(
        self, qkv: np.ndarray, heads: int, keys: np.ndarray, values: np.ndarray, pages: Any,
        starts: Any, positions: Any, out: np.ndarray, sums: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        expected = np.empty(out.shape)
        theirs = None if sums is None else np.empty(sums.shape)
        ops.attention(qkv, heads, keys, values, pages, starts, positions, out, sums)
        reference.attention(qkv, heads, keys, values, pages, starts, positions, expected, theirs)
        self.note("attention", out, expected, 1e-5 * np.abs(expected).max())
        if sums is not None and theirs is not None:
            self.note("sums", sums, theirs, 1e-5 * np.abs(theirs) + 1e-5)


def substitute(patch: pytest.MonkeyPatch, instead: Definitions | Checked) -> None:
    """Let every Decoder compute with `instead` of `ops` until the patch is undone."""
    patch.setattr(layers, "ops", instead)
    patch.setattr(decoder, "ops", instead)
    patch.setattr(attention, "ops", instead)
