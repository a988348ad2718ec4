"""Grouped-query attention of a layer over the pages of its cache.

Read `Attention.__call__`. Knows weights, tables of rotations and pages; nothing of requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwick.model.arch import Arch
from qwick.model.batch import Batch
from qwick.model.cache import KVCache
from qwick.model.layers import F32, Buffers, Linear
from qwick.model.rope import Far, Turns
from qwick.native import ops


@dataclass(frozen=True)
class Attention:
    """Projections, the norms of Qwen3, and what lies between them."""

    qkv: Linear
    norms: tuple[F32, F32] | None  # of queries and keys, per head
    out: Linear

    def __call__(
        self, arch: Arch, turns: Turns, batch: Batch, cache: KVCache, layer: int, b: Buffers
    ) -> None:
        """b.normed -> b.delta, F32[m, hidden]; this step's keys and values go to the cache."""
        keys, values = cache.keys[layer], cache.values[layer]
        self.qkv(b.normed, b.qkv, batch.runs)
        unturned = [b.qkv[far.rows] for far in turns.far]
        ops.rope_store(
            b.qkv, arch.heads, turns.cos, turns.sin, turns.rows, batch.slots,
            self.norms, arch.rms_eps, keys, values,
        )  # fmt: skip
        if turns.query_scale is not None:
            b.qkv[:, : arch.q_dim] *= turns.query_scale
        sums = np.empty((b.m, arch.heads), np.float32) if turns.far else None
        ops.attention(
            b.qkv, arch.heads, keys, values, turns.pages, turns.starts, turns.positions, b.attended,
            sums,
        )  # fmt: skip
        for far, qkv in zip(turns.far, unturned, strict=True):
            assert sums is not None
            self._look_further(arch, turns, far, qkv, (keys, values), sums, b.attended)
        self.out(b.attended, b.delta, batch.runs)

    def _look_further(
        self,
        arch: Arch,
        turns: Turns,
        far: Far,
        qkv: F32,
        pages: tuple[ops.Array, ops.Array],
        sums: F32,
        attended: F32,
    ) -> None:
        """Let rows meet keys of earlier chunks too, with queries that turn as `far` says.

        qkv: as projected, F32[r, ..]. sums: logarithms of the sums so far, F32[m, heads], and
        attended: what came of them; both are brought up to date.
        """
        norm = None if self.norms is None else self.norms[0]
        ops.rotate(qkv, arch.heads, turns.cos, turns.sin, far.turns, norm, arch.rms_eps)
        if turns.query_scale is not None:
            qkv[:, : arch.q_dim] *= turns.query_scale[far.rows]
        found = np.empty((len(qkv), arch.q_dim), np.float32)
        their = np.empty((len(qkv), arch.heads), np.float32)
        ops.attention(qkv, arch.heads, *pages, far.pages, far.starts, far.positions, found, their)
        mine = sums[far.rows]
        both = np.logaddexp(mine, their)
        shape = (len(qkv), arch.heads, arch.head_dim)
        near = attended[far.rows].reshape(shape) * np.exp(mine - both)[:, :, None]
        near += found.reshape(shape) * np.exp(their - both)[:, :, None]
        attended[far.rows] = near.reshape(len(qkv), -1)
        sums[far.rows] = both
