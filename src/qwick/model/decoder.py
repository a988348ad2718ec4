"""The Qwen decoder: Qwen1 to Qwen3. Read `Decoder.forward` top to bottom.

The generations differ by switches of `Arch`: `qkv_bias`, `qk_norm`, `tied`, `experts`. Knows layers
and pages; knows nothing of requests, text or files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from qwick.errors import UnsupportedError
from qwick.model.arch import Arch
from qwick.model.attention import Attention
from qwick.model.batch import Batch, Run
from qwick.model.cache import KVCache
from qwick.model.expert_use import ExpertUse
from qwick.model.layers import F32, I32, Buffers, Embedding, Linear, RMSNorm
from qwick.model.positions import Rotations
from qwick.model.residency import Residency
from qwick.model.rope import Rope
from qwick.native import ops


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a checkpoint must hold: its name there and its shape."""

    name: str
    shape: tuple[int, ...]


def tensor_table(arch: Arch) -> Iterator[TensorSpec]:
    """Every tensor of the architecture, under the checkpoint's names: what a loader checks."""
    hidden = arch.hidden
    yield TensorSpec("model.embed_tokens.weight", (arch.vocab, hidden))
    for i in range(arch.layers):
        layer = f"model.layers.{i}."
        yield TensorSpec(layer + "input_layernorm.weight", (hidden,))
        for name, width in (("q", arch.q_dim), ("k", arch.kv_dim), ("v", arch.kv_dim)):
            yield TensorSpec(f"{layer}self_attn.{name}_proj.weight", (width, hidden))
            if arch.qkv_bias:
                yield TensorSpec(f"{layer}self_attn.{name}_proj.bias", (width,))
        if arch.qk_norm:
            yield TensorSpec(layer + "self_attn.q_norm.weight", (arch.head_dim,))
            yield TensorSpec(layer + "self_attn.k_norm.weight", (arch.head_dim,))
        yield TensorSpec(layer + "self_attn.o_proj.weight", (hidden, arch.q_dim))
        yield TensorSpec(layer + "post_attention_layernorm.weight", (hidden,))
        for part, inner in feed_forward_parts(arch):
            yield TensorSpec(f"{layer}{part}.gate_proj.weight", (inner, hidden))
            yield TensorSpec(f"{layer}{part}.up_proj.weight", (inner, hidden))
            yield TensorSpec(f"{layer}{part}.down_proj.weight", (hidden, inner))
        if arch.experts is not None:
            yield TensorSpec(layer + "mlp.gate.weight", (arch.experts.count, hidden))
            if arch.experts.shared is not None:
                yield TensorSpec(layer + "mlp.shared_expert_gate.weight", (1, hidden))
    yield TensorSpec("model.norm.weight", (hidden,))
    if arch.head and not arch.tied:
        yield TensorSpec("lm_head.weight", (arch.vocab, hidden))


def feed_forward_parts(arch: Arch) -> Iterator[tuple[str, int]]:
    """Each gated unit of a layer, by its name in a checkpoint and its height; a shared one last."""
    if arch.experts is None:
        yield "mlp", arch.intermediate
        return
    for i in range(arch.experts.count):
        yield f"mlp.experts.{i}", arch.experts.intermediate
    if arch.experts.shared is not None:
        yield "mlp.shared_expert", arch.experts.shared


@dataclass(frozen=True)
class MLP:
    """SwiGLU feed-forward."""

    gate_up: Linear
    down: Linear

    def __call__(self, b: Buffers, runs: tuple[Run, ...]) -> None:
        """b.normed -> b.delta, F32[m, hidden]."""
        for begin, end, prompt in runs or (Run(0, b.m, prompt=False),):
            rows = slice(begin, end)
            gate_up, down = self.gate_up.weight, self.down.weight
            ops.mlp(b.normed[rows], gate_up, down, b.delta[rows], prompt=prompt)


@dataclass(frozen=True)
class ExpertMLP:
    """A router, and the experts that it chooses for each token."""

    router: Linear  # of a shared expert too: its gate is the last row
    experts: ops.Experts
    taken: int
    renormalize: bool
    layer: int
    residency: Residency | None = None  # where experts lie in a mapped file

    @property
    def active(self) -> list[ops.Packed]:
        """As many experts' weights as one token passes through, a shared one's among them."""
        parts = self.experts.parts
        pairs = parts[: self.taken] + (parts[-1:] if self.experts.shared else ())
        return [weight for pair in pairs for weight in pair]

    def __call__(self, b: Buffers, runs: tuple[Run, ...]) -> None:
        """b.normed -> b.delta, F32[m, hidden]."""
        self.router(b.normed, b.routed)
        if self.residency is not None:
            self.residency.ready(self.layer, self.experts.chosen(self.taken, b.routed))
        for begin, end, prompt in runs or (Run(0, b.m, prompt=False),):
            rows = slice(begin, end)
            ops.experts(
                b.normed[rows], b.routed[rows], self.experts, self.taken, b.delta[rows],
                renormalize=self.renormalize, prompt=prompt,
            )  # fmt: skip
        if self.residency is not None:
            self.residency.settle()


@dataclass(frozen=True)
class Block:
    """One layer: norm, attention, norm, MLP, with the residual additions folded into the norms."""

    attention_norm: RMSNorm
    attention: Attention
    mlp_norm: RMSNorm
    mlp: MLP | ExpertMLP


@dataclass(frozen=True)
class Weights:
    """The decoder's parameters, ready for the kernels."""

    embedding: Embedding
    blocks: tuple[Block, ...]
    norm: RMSNorm
    head: Linear | None  # None: states are all that is wanted


class Decoder:
    """A model that turns a Batch into hidden states and those into logits. Not thread-safe."""

    page_size = ops.PAGE_SIZE

    def __init__(
        self, arch: Arch, weights: Weights, *, context: int, kv_kinds: tuple[str, ...]
    ) -> None:
        self.arch = arch
        self.weights = weights
        self.context = context
        self.kv_kinds = kv_kinds  # of each layer's cache
        self.rope = Rope(arch, context)
        self._chain()
        self.buffers = Buffers(arch, 1)
        self._logits = np.empty((1, arch.vocab), np.float32)
        self._wanted = np.empty((1, arch.hidden), np.float32)

    @property
    def rotations(self) -> Rotations:
        """Which rotation a request gets."""
        return self.rope.rotations

    @property
    def hidden(self) -> int:
        """Numbers of a final state."""
        return self.arch.hidden

    @property
    def has_head(self) -> bool:
        """Whether states lead to logits."""
        return self.weights.head is not None

    @property
    def exact_rows(self) -> int:
        """Most rows of a step whose results are, bit for bit, those of a step with one row.

        With experts 1: more rows read more of them, so that drafts cost what nobody has measured.
        """
        if self.arch.experts is not None:
            return 1
        return min(ops.exact_rows(linear.weight) for linear in self.linears)

    def new_cache(self, pages: int) -> KVCache:
        """Memory for `pages` pages of PAGE_SIZE tokens."""
        return KVCache(self.arch, pages, self.kv_kinds)

    @property
    def linears(self) -> list[Linear]:
        """Every matrix that all tokens pass through, a head last: no experts."""
        found: list[Linear] = []
        for block in self.weights.blocks:
            mlp = block.mlp
            found += [block.attention.qkv, block.attention.out]
            found += [mlp.router] if isinstance(mlp, ExpertMLP) else [mlp.gate_up, mlp.down]
        return found if self.weights.head is None else [*found, self.weights.head]

    @property
    def expert_use(self) -> ExpertUse | None:
        """How the experts were used so far; None where there are none."""
        mlps = [b.mlp for b in self.weights.blocks if isinstance(b.mlp, ExpertMLP)]
        if not mlps or self.arch.experts is None:
            return None
        count = self.arch.experts.count
        uses = np.array([mlp.experts.uses[:count] for mlp in mlps])
        rows = uses.sum(axis=1)
        found = ExpertUse(
            layers=len(mlps),
            experts=count,
            calls=sum(mlp.experts.calls for mlp in mlps),
            taken=sum(mlp.experts.taken for mlp in mlps),
            rows=int(rows.sum()),
            busiest=float((uses.max(axis=1) / np.maximum(rows, 1)).max()),
            idle=int((uses == 0).sum()),
        )
        there = mlps[0].residency  # one for all layers
        if there is None:
            return found
        counts = {
            name: getattr(there, name) for name in ("budget", "held", "hits", "misses", "read")
        }
        return replace(found, **counts)

    def _chain(self) -> None:
        """Tell each matrix which one is read next, so that the memory has work between two."""
        mlps = [block.mlp for block in self.weights.blocks]
        gates = {id(mlp.gate_up) for mlp in mlps if isinstance(mlp, MLP)}
        routers = {id(mlp.router) for mlp in mlps if isinstance(mlp, ExpertMLP)}
        for linear, following in pairwise(self.linears):
            if id(linear) not in routers:  # what follows one is not known
                linear.weight.set_next(following.weight, pairs=id(following) in gates)

    def forward(self, batch: Batch, cache: KVCache) -> F32:
        """Run one step; returns the final-normed states of batch.logit_rows.

        F32[r, hidden], valid until the next call. Raises IndexError for ids, positions, slots or
        pages out of range (a defect of the caller).
        """
        m = len(batch.ids)
        if m > self.buffers.m:
            self.buffers = Buffers(self.arch, m)
        b = self.buffers.first(m)
        if batch.runs and not ops.prompts_differ():  # then all rows go together
            batch = replace(batch, runs=())
        turns = self.rope.turns(batch)
        w = self.weights
        w.embedding(batch.ids, b.x)
        delta = None
        for layer, block in enumerate(w.blocks):
            block.attention_norm(b.x, delta, b.normed)
            block.attention(self.arch, turns, batch, cache, layer, b)
            block.mlp_norm(b.x, b.delta, b.normed)
            block.mlp(b, batch.runs)
            delta = b.delta
        return self._final_states(b, batch)

    def _final_states(self, b: Buffers, batch: Batch) -> F32:
        """Norm only the rows whose logits are wanted."""
        rows = batch.logit_rows
        x = b.x[rows] + b.delta[rows]
        if len(rows) > len(self._wanted):
            self._wanted = np.empty((len(rows), self.arch.hidden), np.float32)
        out = self._wanted[: len(rows)]
        if len(rows):
            self.weights.norm(x, None, out)
        return out

    def logits(self, hidden: F32) -> F32:
        """hidden: F32[r, hidden] -> F32[r, vocab], padding included; valid until the next call.

        For a model with a head only, as `best`.
        """
        r = len(hidden)
        if r > len(self._logits):
            self._logits = np.empty((r, self.arch.vocab), np.float32)
        out = self._logits[:r]
        if r:
            self._head(hidden, out)
        return out

    def best(self, hidden: F32, n_vocab: int) -> I32:
        """Return the id of each row's largest logit among the first n_vocab, the lowest of equals.

        hidden: F32[r, hidden] -> I32[r]; -1 where one of them is NaN or infinite. Quicker than
        `logits`, which 152,000 columns make larger than what most memories near a core hold.
        """
        ids = np.empty(len(hidden), np.int32)
        ops.matmul_argmax(hidden, self._head.weight, n_vocab, ids)
        return ids

    @property
    def _head(self) -> Linear:
        if self.weights.head is None:
            raise UnsupportedError("this model has no head", hint="load one that generates")
        return self.weights.head
