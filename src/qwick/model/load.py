"""From an opened checkpoint to a Decoder: tensors checked against the table, decoded or packed.

What is missing, unexpected or misshapen is reported in one message, before anything is packed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Named
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwick.errors import FormatError, ResourceError, shown
from qwick.model.arch import Arch, read_arch
from qwick.model.attention import Attention
from qwick.model.decoder import (
    MLP,
    Block,
    Decoder,
    ExpertMLP,
    Weights,
    feed_forward_parts,
    tensor_table,
)
from qwick.model.expert_file import ExpertFile, ExpertLayout, Write
from qwick.model.layers import F32, Embedding, Linear, RMSNorm
from qwick.model.positions import with_yarn
from qwick.model.requantise import requantised
from qwick.model.residency import Residency
from qwick.native import ops
from qwick.native.mapping import Mapping
from qwick.quant.decode import decode
from qwick.quant.types import StoredType

if TYPE_CHECKING:
    from qwick.formats.checkpoint import Checkpoint, Tensor

__all__ = [
    "ExpertFile",
    "ExpertLayout",
    "MappedExperts",
    "Progress",
    "WeightSizes",
    "Write",
    "kv_kinds",
    "load_model",
    "weight_bytes",
    "weight_sizes",
]

Progress = Callable[[int, int], None]  # stored bytes that are ready, stored bytes in all
Keep = Callable[[ExpertLayout, Write, Progress], ExpertFile]
"""What finds the file of packed experts, or has it written; the progress is that of a wait."""

GROUP_BYTES = 512 << 20
"""Stored bytes that are packed in one go, between two words about progress."""

MADE_BYTES = 64 << 20
"""The same where they are made: they are held, beside what they become, until it is ready.

A matrix more is made where that many bytes are not reached yet: `_most_made` says what it comes to.
"""

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_ROUTERS = ("mlp.gate.weight", "mlp.shared_expert_gate.weight")  # a shared expert's beside it
_PIECE = 1 << 20  # bytes compared at a time: the answer of a comparison stays in the cache


@dataclass(frozen=True)
class MappedExperts:
    """Experts in a file: how many bytes all weights may have in memory, and who keeps the file."""

    weights_ram: int
    keep: Keep


@dataclass(frozen=True)
class WeightSizes:
    """Bytes of a checkpoint's weights: with all in memory, or with experts in a mapped file."""

    every: int  # of memory, as `weight_bytes` tells
    always: int  # of what every token uses, and of the embedding, whose rows are mapped
    layer: int  # of the packed experts of the layer that has most; 0: there are none

    @property
    def least(self) -> int | None:
        """Least bytes of weights in memory with the experts in a file; None without experts."""
        return self.always + self.layer if self.layer else None


def load_model(
    checkpoint: Checkpoint,
    *,
    context: int | None = None,
    kv: str = "auto",
    quantize: str | None = None,
    progress: Progress | None = None,
    experts: MappedExperts | None = None,
) -> Decoder:
    """Build the checkpoint's decoder. The checkpoint may be closed afterwards.

    context: positions to prepare for, at most the model's own (the default). kv: for
    `Arch.kv_kinds`. quantize: as `requantised` has it. experts: keep them in a file; default: in
    memory, as all else. Raises ConfigError, FormatError (tensors), UnsupportedError (context beyond
    the model's), ParameterError.
    """
    arch = read_arch(checkpoint.config)
    if arch.tied and arch.head and _HEAD in checkpoint.tensors:
        _check_copy(checkpoint)
    checkpoint = requantised(checkpoint, quantize)
    arch = read_arch(checkpoint.config)
    if context is None:
        context = arch.context
    arch.check_context(context)
    kinds = kv_kinds(checkpoint, kv)
    weights = _Loader(checkpoint, arch, progress, experts).weights()
    return Decoder(arch, weights, context=context, kv_kinds=kinds)


def stretched(checkpoint: Checkpoint, factor: float) -> tuple[Checkpoint, int]:
    """Return the checkpoint as if it asked for YaRN itself, and how many positions it has then.

    Raises as `positions.with_yarn`, and ConfigError.
    """
    checkpoint = replace(checkpoint, config=with_yarn(checkpoint.config, factor))
    return checkpoint, read_arch(checkpoint.config).positions.longest


def kv_kinds(checkpoint: Checkpoint, kv: str) -> tuple[str, ...]:
    """Return what each layer's cache will hold, by the sizes of its keys: `Arch.kv_kinds`.

    Raises ConfigError, FormatError (tensors), ParameterError.
    """
    arch = read_arch(checkpoint.config)
    _check(checkpoint, arch)
    name, factor = ("k_norm.weight", 3.0) if arch.qk_norm else ("k_proj.bias", 1.0)
    tensors = (checkpoint.tensors[f"model.layers.{i}.self_attn.{name}"] for i in range(arch.layers))
    sizes = [factor * float(np.abs(_decoded(tensor)).max()) for tensor in tensors]
    return arch.kv_kinds(kv, sizes)


def weight_bytes(checkpoint: Checkpoint, quantize: str | None = None) -> int:
    """Bytes of memory that the weights of a checkpoint will take; ConfigError, ParameterError.

    Each tensor once, for packing keeps its size and gives the file's pages back. The rows of an
    embedding are read where the file is mapped, and leave memory when it is short: not counted.
    """
    checkpoint = requantised(checkpoint, quantize)
    tensors, arch = checkpoint.tensors, read_arch(checkpoint.config)
    tied = arch.tied and arch.head
    loaded = [tensors[spec.name] for spec in tensor_table(arch) if spec.name in tensors]
    counted = [t for t in loaded if tied or t.made or t.name != _EMBEDDING]
    return sum(map(_held, counted)) + _most_made(tensors, arch)


def _most_made(tensors: Named[str, Tensor], arch: Arch) -> int:
    """Return the bytes that are made and held at once, at least MADE_BYTES; 0: none are made."""
    found = [m for m in _all_matrices(arch) if all(name in tensors for name in m)]
    made = [
        sum(t.nbytes for names in group for t in map(tensors.__getitem__, names) if t.made)
        for group in _groups(tensors, found)
    ]
    return max(MADE_BYTES, *made) if any(made) else 0


def weight_sizes(checkpoint: Checkpoint, quantize: str | None = None) -> WeightSizes:
    """Return what the weights take with and without a file of experts; raises as `kv_kinds`."""
    checkpoint = requantised(checkpoint, quantize)
    arch = read_arch(checkpoint.config)
    _check(checkpoint, arch)
    every = weight_bytes(checkpoint)
    layout = ExpertLayout(checkpoint.tensors, arch)
    always = every - layout.stored + checkpoint.tensors[_EMBEDDING].nbytes
    return WeightSizes(every, always, layout.layer_size)


def _held(tensor: Tensor) -> int:
    """Return the bytes of a tensor in memory: routers become float32 (see `_Loader`)."""
    return 4 * prod(tensor.shape) if tensor.name.endswith(_ROUTERS) else tensor.nbytes


def _check(checkpoint: Checkpoint, arch: Arch) -> None:
    """Compare the checkpoint's tensors with the architecture's table."""
    expected = {spec.name: spec.shape for spec in tensor_table(arch)}
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    # Saved by old exporters: a constant, and a copy of the tied embedding. Or not asked for.
    spare = {n for n in found if n.endswith("rotary_emb.inv_freq")}
    spare |= {_HEAD} if arch.tied or not arch.head else set()
    faults = [f"missing: {n} {list(s)}" for n, s in expected.items() if n not in found]
    strange = [n for n in found if n not in expected and n not in spare]
    faults += [f"unexpected: {shown(n)} {list(found[n])}" for n in strange]
    faults += [
        f"{n} has the shape {list(found[n])}, expected {list(s)}"
        for n, s in expected.items()
        if n in found and found[n] != s
    ]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise FormatError(
            f"{checkpoint.path}: the tensors do not fit the config: {'; '.join(faults[:8])}{more}"
        )


def _check_copy(checkpoint: Checkpoint) -> None:
    """Refuse a head beside a tied embedding unless it is that embedding: which one is meant?

    Engines differ on it. The bytes are compared a piece at a time: no copy of a matrix is made.
    """
    head, embedding = checkpoint.tensors[_HEAD], checkpoint.tensors[_EMBEDDING]
    head_data, data = head.data, embedding.data
    alike = (head.type, head.shape) == (embedding.type, embedding.shape) and all(
        np.array_equal(head_data[at : at + _PIECE], data[at : at + _PIECE])
        for at in range(0, data.size, _PIECE)
    )
    if not alike:
        raise FormatError(
            f"{checkpoint.path}: tie_word_embeddings says that the embedding is the head, but "
            f"there is {_HEAD}, which is another matrix",
            hint="if it was trained by itself, set tie_word_embeddings to false in config.json",
        )


class _Loader:
    def __init__(
        self,
        checkpoint: Checkpoint,
        arch: Arch,
        progress: Progress | None,
        experts: MappedExperts | None,
    ) -> None:
        self.tensors = checkpoint.tensors
        self.arch = arch
        self.progress = progress
        self.done = 0
        self.total = sum(self.tensors[spec.name].nbytes for spec in tensor_table(arch))
        self.packed: dict[tuple[str, ...], ops.Packed] = {}
        self.experts = experts
        self.mapped: list[list[tuple[ops.Packed, ops.Packed]]] = []  # experts, layer after layer
        self.residency: Residency | None = None

    def weights(self) -> Weights:
        layers = [f"model.layers.{i}." for i in range(self.arch.layers)]
        if self.experts is not None:
            layout = ExpertLayout(self.tensors, self.arch)
            mapping, begins = self._map(layout, self.experts.keep)
        matrices = _all_matrices(self.arch)
        self._pack([n for n in matrices if not (self.mapped and ".experts." in n[0])])
        if self.experts is not None:
            held = sum(packed.bytes for packed in self.packed.values())
            held += self.tensors[_EMBEDDING].nbytes
            held += sum(_held(t) for n, t in self.tensors.items() if n.endswith(_ROUTERS))
            left = self.experts.weights_ram - held
            self.residency = Residency(mapping, begins, layout.sizes, left)
        return Weights(
            embedding=self._embedding(),
            blocks=tuple(self._block(i, layer) for i, layer in enumerate(layers)),
            norm=self._norm("model.norm.weight"),
            head=Linear(self.packed[matrices[-1]]) if self.arch.head else None,
        )

    def _map(self, layout: ExpertLayout, keep: Keep) -> tuple[Mapping, NDArray[np.int64]]:
        """Map the experts, written first where they are not there already; say where they lie."""
        done, stored = self.done, layout.stored

        def waited(arrived: int, total: int) -> None:
            if self.progress is not None:
                self.progress(done + stored * arrived // max(total, 1), self.total)

        file = keep(layout, lambda to: layout.write(to, self._count), waited)
        try:
            mapping, begins, self.mapped = layout.open(file)
        finally:
            os.close(file.descriptor)  # the mapping stays
        self.done = done + stored
        return mapping, begins

    def _block(self, number: int, layer: str) -> Block:
        attn = layer + "self_attn."
        bias = norms = None
        if self.arch.qkv_bias:
            bias = np.concatenate([self._vector(f"{attn}{name}_proj.bias") for name in "qkv"])
        if self.arch.qk_norm:
            norms = (self._vector(attn + "q_norm.weight"), self._vector(attn + "k_norm.weight"))
        qkv, out, *units = (
            self.packed[names] for names in _matrices(self.arch, layer) if names in self.packed
        )
        return Block(
            attention_norm=self._norm(layer + "input_layernorm.weight"),
            attention=Attention(Linear(qkv, bias), norms, Linear(out)),
            mlp_norm=self._norm(layer + "post_attention_layernorm.weight"),
            mlp=self._mlp(number, layer, units),
        )

    def _mlp(self, number: int, layer: str, units: list[ops.Packed]) -> MLP | ExpertMLP:
        """Make a feed-forward part; units: gate and up, and down, of each that is not mapped."""
        experts = self.arch.experts
        pairs = list(zip(units[::2], units[1::2], strict=True))
        if self.mapped:
            pairs = self.mapped[number] + pairs
        if experts is None:
            ((gate_up, down),) = pairs
            return MLP(Linear(gate_up), Linear(down))
        return ExpertMLP(
            router=self._router(layer, shared=experts.shared is not None),
            experts=ops.Experts(pairs, shared=experts.shared is not None),
            taken=experts.taken,
            renormalize=experts.renormalize,
            layer=number,
            residency=self.residency,
        )

    def _router(self, layer: str, *, shared: bool) -> Linear:
        """Make the router, with a shared expert's gate as its last row.

        In float32 however it is stored: what a token takes may depend on no rounding that its
        company decides, as that of a matrix unit is. It is small.
        """
        tensors = [self.tensors[layer + gate] for gate in _ROUTERS[: 1 + shared]]
        self._count(*tensors)
        rows = np.concatenate([decode(t.type, t.data.reshape(t.shape[0], -1)) for t in tensors])
        return Linear(ops.pack([("f32", rows.reshape(-1).view(np.uint8), *rows.shape)]))

    def _norm(self, name: str) -> RMSNorm:
        return RMSNorm(self._vector(name), self.arch.rms_eps)

    def _embedding(self) -> Embedding:
        tensor = self.tensors[_EMBEDDING]
        if not (self.arch.tied and self.arch.head):  # a tied one is counted as the head
            self._count(tensor)
        return Embedding(_stored(tensor.type), tensor.data, tensor.shape[0])

    def _vector(self, name: str) -> F32:
        self._count(self.tensors[name])
        return _decoded(self.tensors[name])

    def _pack(self, matrices: list[tuple[str, ...]]) -> None:
        """Pack all matrices, each of one or several tensors, a group at a time.

        A group is one call that leaves the interpreter free from its first byte to its last.
        """
        for group in _groups(self.tensors, matrices):
            self._pack_group(group)

    def _pack_group(self, group: list[tuple[str, ...]]) -> None:
        tensors = [[self.tensors[name] for name in names] for names in group]
        flat = [tensor for parts in tensors for tensor in parts]
        size = sum(tensor.nbytes for tensor in flat)
        try:
            packed = ops.pack_all(
                [[_part(tensor) for tensor in parts] for parts in tensors],
                mapped=all(tensor.mapped for tensor in flat),
            )
        except MemoryError:
            raise ResourceError(
                f"packing {flat[0].name} to {flat[-1].name} needs {size:,} bytes; "
                "this machine gives no more",
                hint="use a smaller model or quantisation",
            ) from None
        self.packed.update(zip(group, packed, strict=True))
        for tensor in flat:
            self._count(tensor)

    def _count(self, *tensors: Tensor) -> None:
        self.done += sum(t.nbytes for t in tensors)
        if self.progress is not None:
            self.progress(self.done, self.total)


def _groups(
    tensors: Named[str, Tensor], matrices: list[tuple[str, ...]]
) -> Iterator[list[tuple[str, ...]]]:
    """Yield the matrices that are packed in one go, and in memory together if they are made."""
    group: list[tuple[str, ...]] = []
    size = 0
    for names in matrices:
        size += sum(tensors[name].nbytes for name in names)
        group.append(names)
        made = any(tensors[name].made for name in names)
        if size >= (MADE_BYTES if made else GROUP_BYTES) or names is matrices[-1]:
            yield group
            group, size = [], 0


def _all_matrices(arch: Arch) -> list[tuple[str, ...]]:
    """Return the tensors of every matrix but for routers, layer after layer; then the head."""
    layers = [names for i in range(arch.layers) for names in _matrices(arch, f"model.layers.{i}.")]
    return [*layers, (_EMBEDDING if arch.tied else _HEAD,)] if arch.head else layers


def _matrices(arch: Arch, layer: str) -> list[tuple[str, ...]]:
    """Return the tensors of a layer's matrices but for routers.

    Query, key and value; output; gate and up, and down, of each unit.
    """
    attn = layer + "self_attn."
    found: list[tuple[str, ...]] = [
        tuple(f"{attn}{name}_proj.weight" for name in "qkv"),
        (attn + "o_proj.weight",),
    ]
    for part, _ in feed_forward_parts(arch):
        unit = f"{layer}{part}."
        found.append((unit + "gate_proj.weight", unit + "up_proj.weight"))
        found.append((unit + "down_proj.weight",))
    return found


def _decoded(tensor: Tensor) -> F32:
    """Return a vector's values."""
    return decode(tensor.type, tensor.data.reshape(1, -1)).reshape(-1)


def _stored(kind: StoredType) -> str:
    return kind.name.lower()


def _part(tensor: Tensor) -> tuple[str, ops.U8, int, int]:
    n, k = tensor.shape
    return _stored(tensor.type), tensor.data, n, k
