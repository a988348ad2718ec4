"""The pieces of a decoder: linear map, embedding, norm, and their buffers.

Each does one kernel call. Shapes: m rows (tokens) of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwick.model.arch import Arch
from qwick.model.batch import Run
from qwick.native import ops

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Linear:
    """y = x W^T + bias. Several stored matrices may lie side by side in one (query, key, value)."""

    weight: ops.Packed
    bias: F32 | None = None

    def __call__(self, x: F32, out: F32, runs: tuple[Run, ...] = ()) -> None:
        """x: F32[m, k] -> out: F32[m, n]; runs: whose rows they are, all of answers if empty."""
        if not runs:
            ops.matmul(x, self.weight, out, self.bias)
        for run in runs:
            rows = slice(run.begin, run.end)
            ops.matmul(x[rows], self.weight, out[rows], self.bias, prompt=run.prompt)


@dataclass(frozen=True)
class Embedding:
    """Token rows, decoded from the stored bytes: never packed, and only touched rows are read."""

    stored: str  # stored type, as ops.gather_rows names it
    data: U8
    rows: int

    def __call__(self, ids: I32, out: F32) -> None:
        """ids: I32[m] -> out: F32[m, hidden]."""
        ops.gather_rows(self.stored, self.data, self.rows, ids, out)


@dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square norm; adds the block's output to the residual stream in the same pass."""

    weight: F32
    eps: float

    def __call__(self, x: F32, delta: F32 | None, out: F32) -> None:
        """X += delta; out = norm(x).  x, delta, out: F32[m, hidden]."""
        ops.add_rms_norm(x, delta, self.weight, self.eps, out)


class Buffers:
    """Every temporary of a forward pass over m rows, reused by all layers and all steps."""

    def __init__(self, arch: Arch, m: int) -> None:
        def rows(width: int) -> F32:
            return np.empty((m, width), np.float32)

        self.m = m
        self.x = rows(arch.hidden)  # the residual stream
        self.normed = rows(arch.hidden)
        self.qkv = rows(arch.q_dim + 2 * arch.kv_dim)
        self.attended = rows(arch.q_dim)
        e = arch.experts
        self.routed = rows(0 if e is None else e.count + (e.shared is not None))  # logits
        self.delta = rows(arch.hidden)  # a block's output, added by the next norm

    def first(self, m: int) -> Buffers:
        """The first m rows of every buffer, as views."""
        view = object.__new__(Buffers)
        for name, array in vars(self).items():
            setattr(view, name, m if name == "m" else array[:m])
        return view
