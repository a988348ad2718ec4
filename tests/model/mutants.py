"""Models that are wrong in one place each: what the parity tests must be able to see.

A mutant changes the weights or the config that our model is loaded from, or the loaded model; the
oracle keeps the true ones. Knows nothing of how far a mutant's logits lie from the truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from qwick.model.arch import Arch, read_arch
from qwick.model.decoder import Block, Decoder
from qwick.model.layers import F32, Linear, RMSNorm
from qwick.native import ops

LAYER = "model.layers.1."


@dataclass
class Subject:
    """What a mutant may change before and after loading."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    patch: pytest.MonkeyPatch
    after: list[Callable[[Decoder], None]] = field(default_factory=list)

    @property
    def arch(self) -> Arch:
        return read_arch(self.config)


Mutant = Callable[[Subject], None]
MUTANTS: dict[str, tuple[Callable[[Arch], bool], Mutant]] = {}  # name -> (fits the arch, mutant)


def mutant(fits: Callable[[Arch], bool] = lambda arch: True) -> Callable[[Mutant], Mutant]:
    def register(change: Mutant) -> Mutant:
        MUTANTS[change.__name__] = (fits, change)
        return change

    return register


def change_block(subject: Subject, change: Callable[[Block], Block]) -> None:
    """Replace the middle layer of the loaded model."""

    def apply(model: Decoder) -> None:
        blocks = list(model.weights.blocks)
        blocks[1] = change(blocks[1])
        model.weights = replace(model.weights, blocks=tuple(blocks))

    subject.after.append(apply)


# ---- positions -----------------------------------------------------------------------------------


@mutant()
def no_rotation(subject: Subject) -> None:
    def still(model: Decoder) -> None:
        model.rope.tables[0].cos.fill(1)
        model.rope.tables[0].sin.fill(0)

    subject.after.append(still)


@mutant()
def rotation_backwards(subject: Subject) -> None:
    def backwards(model: Decoder) -> None:
        sin = model.rope.tables[0].sin
        np.negative(sin, out=sin)

    subject.after.append(backwards)


@mutant()
def interleaved_rotation(subject: Subject) -> None:
    """Component 2i turns with 2i + 1: the same as reordering queries and keys to suit that."""
    d = subject.arch.head_dim
    order = np.arange(d).reshape(-1, 2).T.ravel()
    for name, value in subject.tensors.items():
        if any(part in name for part in ("q_proj", "k_proj", "q_norm", "k_norm")):
            heads = value.reshape(-1, d, *value.shape[1:])
            subject.tensors[name] = np.ascontiguousarray(heads[:, order].reshape(value.shape))


@mutant()
def other_base(subject: Subject) -> None:
    subject.config["rope_theta"] *= 1.1


@mutant()
def queries_one_position_ahead(subject: Subject) -> None:
    true, width = ops.rope_store, subject.arch.q_dim

    def shifted(qkv: Any, heads: int, cos: Any, sin: Any, at: Any, *rest: Any) -> None:
        ahead = qkv.copy()
        true(ahead, heads, cos, sin, at + 1, *rest)
        true(qkv, heads, cos, sin, at, *rest)
        qkv[:, :width] = ahead[:, :width]

    subject.patch.setattr(ops, "rope_store", shifted)


def _mask_moved(subject: Subject, by: int) -> None:
    true = ops.attention

    def moved(qkv: Any, heads: int, *rest: Any) -> None:
        *cache, starts, at, out, sums = rest
        last = np.repeat(at[starts[1:] - 1], np.diff(starts))  # nothing beyond is written yet
        seen = np.clip(at + by, 0, last).astype(np.int32)
        true(qkv, heads, *cache, starts, seen, out, sums)

    subject.patch.setattr(ops, "attention", moved)


@mutant()
def sees_the_next_token(subject: Subject) -> None:
    _mask_moved(subject, 1)


@mutant()
def does_not_see_itself(subject: Subject) -> None:
    _mask_moved(subject, -1)


# ---- biases and norms ----------------------------------------------------------------------------


def _zero_bias(letter: str) -> Mutant:
    def change(subject: Subject) -> None:
        subject.tensors[f"{LAYER}self_attn.{letter}_proj.bias"][:] = 0

    change.__name__ = f"no_{letter}_bias"
    return mutant(lambda arch: arch.qkv_bias)(change)


for _letter in "qkv":
    _zero_bias(_letter)


@mutant(lambda arch: arch.qkv_bias)
def biases_of_two_layers_swapped(subject: Subject) -> None:
    a, b = (f"model.layers.{i}.self_attn.v_proj.bias" for i in (0, 1))
    subject.tensors[a], subject.tensors[b] = subject.tensors[b], subject.tensors[a]


@mutant(lambda arch: arch.qk_norm)
def no_norms_of_queries_and_keys(subject: Subject) -> None:
    change_block(subject, lambda b: replace(b, attention=replace(b.attention, norms=None)))


def _ones(name: str, short: str, fits: Callable[[Arch], bool] = lambda arch: True) -> None:
    def change(subject: Subject) -> None:
        subject.tensors[name][:] = 1

    change.__name__ = f"{short}_all_ones"
    mutant(fits)(change)


_ones(LAYER + "input_layernorm.weight", "attention_norm")
_ones(LAYER + "post_attention_layernorm.weight", "mlp_norm")
_ones("model.norm.weight", "final_norm")
_ones(LAYER + "self_attn.q_norm.weight", "q_norm", lambda arch: arch.qk_norm)
_ones(LAYER + "self_attn.k_norm.weight", "k_norm", lambda arch: arch.qk_norm)


@mutant(lambda arch: arch.qk_norm)
def q_norm_and_k_norm_swapped(subject: Subject) -> None:
    q, k = (f"{LAYER}self_attn.{x}_norm.weight" for x in "qk")
    subject.tensors[q], subject.tensors[k] = subject.tensors[k], subject.tensors[q]


@mutant()
def larger_epsilon(subject: Subject) -> None:
    subject.config["rms_norm_eps"] = 1e-2


# ---- matrices and the residual stream ------------------------------------------------------------


@mutant()
def gate_and_up_swapped(subject: Subject) -> None:
    for a in [name for name in subject.tensors if re.search(LAYER + r"mlp\..*gate_proj", name)]:
        b = a.replace("gate_proj", "up_proj")
        subject.tensors[a], subject.tensors[b] = subject.tensors[b], subject.tensors[a]


@mutant(lambda arch: arch.kv_heads > 1)
def two_key_heads_swapped(subject: Subject) -> None:
    """Keys and values together, as a wrong grouping of the heads would have it."""
    d = subject.arch.head_dim
    for name, value in subject.tensors.items():
        if name.startswith(LAYER) and ("k_proj" in name or "v_proj" in name):
            value[: 2 * d] = np.roll(value[: 2 * d], d, axis=0)


@mutant(lambda arch: arch.heads > arch.kv_heads > 1)
def heads_dealt_out_in_turn(subject: Subject) -> None:
    """Head h reads key head h mod kv_heads, not h // group."""
    arch = subject.arch
    order = np.arange(arch.heads).reshape(arch.kv_heads, -1).T.ravel()
    q, o = LAYER + "self_attn.q_proj.weight", LAYER + "self_attn.o_proj.weight"
    rows = np.arange(arch.q_dim).reshape(arch.heads, -1)[order].ravel()
    subject.tensors[q] = np.ascontiguousarray(subject.tensors[q][rows])
    subject.tensors[o] = np.ascontiguousarray(subject.tensors[o][:, rows])
    if arch.qkv_bias:
        bias = LAYER + "self_attn.q_proj.bias"
        subject.tensors[bias] = np.ascontiguousarray(subject.tensors[bias][rows])


# ---- experts -------------------------------------------------------------------------------------


def _has_experts(arch: Arch) -> bool:
    return arch.experts is not None


def _has_shared(arch: Arch) -> bool:
    return arch.experts is not None and arch.experts.shared is not None


@mutant(lambda arch: arch.experts is not None and 1 < arch.experts.taken < arch.experts.count)
def weights_summed_otherwise(subject: Subject) -> None:
    """Over the experts taken where it should be over all, or the other way round."""
    subject.config["norm_topk_prob"] = not subject.config["norm_topk_prob"]


@mutant(lambda arch: arch.experts is not None and arch.experts.taken > 1)
def one_expert_less(subject: Subject) -> None:
    subject.config["num_experts_per_tok"] -= 1


@mutant(_has_experts)
def two_experts_exchanged(subject: Subject) -> None:
    for part in ("gate_proj", "up_proj", "down_proj"):
        a, b = (f"{LAYER}mlp.experts.{i}.{part}.weight" for i in (0, 1))
        subject.tensors[a], subject.tensors[b] = subject.tensors[b], subject.tensors[a]


@mutant(lambda arch: arch.experts is not None and arch.experts.taken > 1)
def a_flatter_router(subject: Subject) -> None:
    subject.tensors[LAYER + "mlp.gate.weight"] *= 0.9


@mutant(_has_shared)
def no_gate_of_the_shared_expert(subject: Subject) -> None:
    subject.tensors[LAYER + "mlp.shared_expert_gate.weight"][:] = 0  # sigmoid: one half


@mutant(_has_shared)
def no_shared_expert(subject: Subject) -> None:
    subject.tensors[LAYER + "mlp.shared_expert.down_proj.weight"][:] = 0


class _Deaf(RMSNorm):
    def __call__(self, x: F32, delta: F32 | None, out: F32) -> None:
        super().__call__(x, None, out)


@mutant()
def attention_not_added(subject: Subject) -> None:
    change_block(subject, lambda b: replace(b, mlp_norm=_Deaf(b.mlp_norm.weight, b.mlp_norm.eps)))


@mutant()
def mlp_not_added(subject: Subject) -> None:
    """The MLP of layer 0, which the first norm of layer 1 should add."""
    change_block(
        subject,
        lambda b: replace(b, attention_norm=_Deaf(b.attention_norm.weight, b.attention_norm.eps)),
    )


@mutant()
def other_head(subject: Subject) -> None:
    """Another matrix in the place of the head, tied or not: two rows of it exchanged."""

    def change(model: Decoder) -> None:
        name = "model.embed_tokens.weight" if model.arch.tied else "lm_head.weight"
        head = subject.tensors[name].copy()
        head[[3, 4]] = head[[4, 3]]
        packed = ops.pack([("f32", head.reshape(-1).view(np.uint8), *head.shape)])
        model.weights = replace(model.weights, head=Linear(packed))

    subject.after.append(change)


@mutant()
def two_layers_exchanged(subject: Subject) -> None:
    subject.after.append(
        lambda model: setattr(
            model, "weights", replace(model.weights, blocks=model.weights.blocks[::-1])
        )
    )
