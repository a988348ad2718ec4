"""The experts of a checkpoint as one file of packed weights: where each lies, written, mapped.

Layer after layer, expert after expert: gate above up, then down. A shared expert, which every token
takes, is not among them. Knows neither folders nor which experts are in memory.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable
from collections.abc import Mapping as Named
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwick.errors import ResourceError
from qwick.model.arch import Arch
from qwick.native import ops
from qwick.native.mapping import PACKING, Mapping, Shape, pack_to, packed_bytes

if TYPE_CHECKING:
    from qwick.formats.checkpoint import Tensor

I64 = NDArray[np.int64]

ALIGNMENT = 1 << 16
"""Bytes, of which each expert begins at a multiple: no page has two of them.

Linux maps so much around a page that is read (fault_around_bytes; csrc/packed.cpp aligns it with
the file), and no page is larger.
"""
MADE = 1
"""Version of the bytes of tensors that are made (quantised folders, `requantised`).

Raise it when a decoder of formats/quantised, or quant/encode.py, makes other bytes of the same
checkpoint: files packed of the former ones are made again then.
"""
PIECE = 64 << 20  # bytes that are packed in memory at a time, or one expert

Put = Callable[[mmap.mmap], object]  # takes the next bytes of the file
Write = Callable[[Put], None]


@dataclass(frozen=True)
class ExpertFile:
    """A file of packed experts, open to be read: its descriptor, and where the experts begin."""

    descriptor: int
    start: int


class ExpertLayout:
    """Where the packed experts of a checkpoint lie in their file.

    tensors: by a checkpoint's names, as `tensor_table` wants them. offsets, sizes: I64[layers,
    experts], bytes, of which an expert's are its alone; size: of all.
    """

    def __init__(self, tensors: Named[str, Tensor], arch: Arch) -> None:
        count = 0 if arch.experts is None else arch.experts.count
        self._names = [
            [f"model.layers.{layer}.mlp.experts.{i}." for i in range(count)]
            for layer in range(arch.layers)
        ]
        self._tensors = tensors
        shape = (arch.layers, count)
        self._downs, self.sizes = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        known: dict[tuple[Shape, ...], int] = {}  # most are alike
        for at in np.ndindex(shape):
            gate_up, down = (tuple(_shape(t) for t in part) for part in self._parts(at))
            for part in (gate_up, down):
                known[part] = known[part] if part in known else packed_bytes(part)
            self._downs[at] = known[gate_up]
            self.sizes[at] = -(-(known[gate_up] + known[down]) // ALIGNMENT) * ALIGNMENT
        ends = self.sizes.cumsum().reshape(shape)
        self.offsets = ends - self.sizes
        self.size = int(self.sizes.sum())

    @property
    def layer_size(self) -> int:
        """Bytes of the experts of the layer that has most: what one kernel call may read."""
        return int(self.sizes.sum(axis=1).max(initial=0))

    @property
    def stored(self) -> int:
        """Bytes of these experts in the checkpoint."""
        return sum(tensor.nbytes for tensor in self._all())

    def facts(self) -> dict[str, object]:
        """Return what the file's bytes depend on, but for the checkpoint's own, as plain values.

        made: `MADE`, if a tensor is; then they depend on the checkpoint's config.json as well.
        """
        tensors = self._all()
        table = [[t.name, *_shape(t)] for t in tensors]
        digest = hashlib.sha256(json.dumps(table).encode("utf-8")).hexdigest()
        facts = {"packing": PACKING, "alignment": ALIGNMENT, "tensors": digest}
        return {**facts, "made": MADE} if any(t.made for t in tensors) else facts

    def write(self, put: Put, written: Callable[[Tensor], None]) -> None:
        """Hand on all bytes; written: hears of each tensor. ResourceError for want of memory."""
        order = list(np.ndindex(self.sizes.shape))
        while order:
            end, size = 0, 0
            while end < len(order) and (not end or size + self.sizes[order[end]] <= PIECE):
                size += int(self.sizes[order[end]])
                end += 1
            piece, order = order[:end], order[end:]
            put(self._packed(piece, size))
            for at in piece:
                for tensor in sum(self._parts(at), ()):
                    written(tensor)

    def _packed(self, piece: list[tuple[int, ...]], size: int) -> mmap.mmap:
        """Return the bytes of some experts that lie one after the other."""
        parts = [part for at in piece for part in self._parts(at)]
        offsets = [
            o for at in piece for o in (self.offsets[at], self.offsets[at] + self._downs[at])
        ]
        first = int(self.offsets[piece[0]])
        try:
            room = mmap.mmap(-1, size)  # which begins at a page, and is given back at once
            pack_to(
                [[(t.type.name.lower(), t.data, *t.shape) for t in part] for part in parts],  # type: ignore[misc]
                [int(offset) - first for offset in offsets],
                np.frombuffer(room, np.uint8),
                mapped=all(t.mapped for part in parts for t in part),
            )
        except (MemoryError, OSError):
            raise ResourceError(
                f"packing experts needs {size:,} bytes; this machine gives no more",
                hint="use a smaller model or quantisation",
            ) from None
        return room

    def open(
        self, file: ExpertFile
    ) -> tuple[Mapping, I64, list[list[tuple[ops.Packed, ops.Packed]]]]:
        """Map a file that `write` has filled.

        Return the mapping, where each expert begins in it (I64[layers, experts]), and layer after
        layer gate-up and down of each.

        ResourceError where the system does not map it.
        """
        try:
            mapping = Mapping(file.descriptor, file.start + self.size)
        except (RuntimeError, MemoryError) as error:
            raise ResourceError(
                f"{self.size:,} bytes of packed experts cannot be mapped: {error}",
                hint="allow more address space (ulimit -v)",
            ) from None
        begins = self.offsets + file.start
        layers = []
        for layer, names in enumerate(self._names):
            offsets = np.stack([begins[layer], (begins + self._downs)[layer]], axis=1)
            parts = [part for i in range(len(names)) for part in self._parts((layer, i))]
            shapes = [[_shape(t) for t in part] for part in parts]
            packed = mapping.packed(shapes, offsets.reshape(-1).tolist())
            layers.append(list(zip(packed[::2], packed[1::2], strict=True)))
        return mapping, begins, layers

    def _parts(self, at: tuple[int, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return gate and up, and down, of an expert."""
        name = self._names[at[0]][at[1]]
        gate, up, down = (self._tensors[f"{name}{p}_proj.weight"] for p in ("gate", "up", "down"))
        return (gate, up), (down,)

    def _all(self) -> list[Tensor]:
        return [t for at in np.ndindex(self.sizes.shape) for t in sum(self._parts(at), ())]


def _shape(tensor: Tensor) -> Shape:
    n, k = tensor.shape
    return tensor.type.name.lower(), n, k
