"""What loading a checkpoint will take of the memory there is, told before anything is loaded.

Arithmetic on a config and three numbers. Knows no files and loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwick.errors import ParameterError, ResourceError
from qwick.machine.cpu import Memory, read_memory
from qwick.model.arch import KV_DTYPES, Arch, read_arch
from qwick.values import check_kind, refused, whole

__all__ = ["MemoryPlan", "plan_memory"]

MOST_BYTES = 1 << 62

DEFAULT_CONTEXT = 32_768  # tokens; what the family was trained on before any scaling of positions
LEAST_CONTEXT = 512  # tokens; a default below this would be a surprise, not a help
POOL_CONTEXTS = 4  # the cache of all requests together, in contexts
POOL_SHARE = 0.5  # of the memory that weights leave, at most, for that cache
# Where experts stay in a file and have what memory there is: at most so much of what the other
# weights leave is for a context that nobody has asked for, and so much of all is the system's.
CONTEXT_SHARE, SPARE_SHARE = 0.25, 0.1
# The interpreter with numpy, the tokenizer, what loading and sampling need for a moment, the
# kernels' scratch: measured with steps of full size.
PROCESS_BYTES = 96 << 20
TABLES = 3  # of positions: what they become, what they were, and the angles in double precision


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Sizes in bytes, lengths in tokens."""

    weights: int
    scratch: int  # activations and logits of a step, tables, the process itself
    kv_per_token: int
    context: int  # of one sequence
    cache_tokens: int  # of all sequences together, at least `context`
    available: int
    weights_ram: int | None = None  # most bytes of weights in memory; None: all of them are

    @property
    def needed(self) -> int:
        """Bytes with one sequence that fills the context: what must fit."""
        return self.weights + self.scratch + self.kv_per_token * self.context


def plan_memory(
    config: Mapping[str, Any],
    weights: int,
    *,
    rows: int,
    logit_rows: int,
    context: int | None = None,
    kv_kinds: Sequence[str],
    memory: Memory | None = None,
    least: int | None = None,
    weights_ram: int | None = None,
) -> MemoryPlan:
    """Return context and cache size for a checkpoint, or say that it does not fit.

    config: Hugging Face keys. weights: what `model.load.weight_bytes` says (packing keeps the size
    of tensors to 3 %). context: as wished, or None: the model's, at most DEFAULT_CONTEXT, and less
    where memory allows less. rows, logit_rows: most tokens, and most rows of logits, of a step.
    kv_kinds: what each layer's cache holds (`model.load.kv_kinds`). memory: default: the machine's.

    The cache is virtual memory until a page is first used, but as pages are kept to be found again,
    all of it is used in time. It is sized for several requests, within what can really be had:
    POOL_CONTEXTS contexts, or what POOL_SHARE of the remaining memory holds if that is less, and
    always one context.

    least: bytes of weights that must be in memory if experts may stay in a file
    (`model.load.WeightSizes`); None: all. weights_ram: most bytes of weights in memory, as wished.
    Without a wish, experts stay in a file where otherwise all would not fit.

    Raises ResourceError with the numbers when it cannot fit, UnsupportedError for a context beyond
    the model's, ParameterError, and ConfigError as `read_arch` does.
    """
    check_kind("config", config, Mapping, "a mapping of Hugging Face keys")
    if (
        not isinstance(kv_kinds, (list, tuple))
        or not kv_kinds
        or not all(isinstance(kind, str) and kind in KV_DTYPES for kind in kv_kinds)
    ):
        raise refused("kv_kinds", kv_kinds, f"for each layer one of {', '.join(KV_DTYPES)}")
    weights = whole("weights", weights, 0, MOST_BYTES)
    rows, logit_rows = whole("rows", rows, 1, 1 << 31), whole("logit_rows", logit_rows, 1, 1 << 31)
    arch = read_arch(config)
    kv_per_token = arch.kv_bytes(kv_kinds)
    if context is not None:
        arch.check_context(context)
    memory = read_memory() if memory is None else memory
    check_kind("memory", memory, Memory, "a Memory, or none")
    least = weights if least is None else whole("least", least, 0, MOST_BYTES)
    bound = None
    if weights_ram is not None:
        bound = _bound(whole("weights_ram", weights_ram, 1, MOST_BYTES), least, weights)
        weights = weights if bound is None else bound
    scratch = scratch_bytes(arch, rows, logit_rows, 0)
    tables = _table_bytes(arch)

    def planned(weights: int, share: float = 1.0) -> tuple[MemoryPlan, int]:
        """Return a plan, and the context that would fit; share: of what is left, for that."""
        left = memory.available - weights - scratch
        fits = max(int(left * share), 0) // (kv_per_token + tables)
        wished = context
        if wished is None:
            wished = min(arch.context, DEFAULT_CONTEXT)
            if fits < wished:
                wished = max(min(LEAST_CONTEXT, wished), fits)
        left -= tables * wished
        pool = max(wished, min(POOL_CONTEXTS * wished, int(left * POOL_SHARE) // kv_per_token))
        more = scratch + tables * wished
        plan = MemoryPlan(weights, more, kv_per_token, wished, pool, memory.available, bound)
        return plan, fits

    plan, fits = planned(weights)
    if plan.needed > memory.available and least < weights and bound is None:
        plan, _ = planned(least, CONTEXT_SHARE)
        plan = replace(plan, cache_tokens=plan.context)
        room = memory.available - plan.needed + least - int(SPARE_SHARE * memory.available)
        _, fits = planned(least)
        plan = replace(plan, weights=max(room, least), weights_ram=max(room, least))
    if plan.needed > memory.available:
        raise ResourceError(_too_much(plan, memory), hint=_way_out(fits))
    return plan


def scratch_bytes(arch: Arch, rows: int, logit_rows: int, context: int) -> int:
    """Bytes beside weights, keys and values: a step's activations and logits, tables, the process.

    rows, logit_rows: most tokens, and most rows of logits, of a step; context: in tokens.
    """
    widths = 3 * arch.hidden + 2 * arch.q_dim + 2 * arch.kv_dim + _feed_forward_width(arch)
    step = 4 * (rows * widths + logit_rows * (arch.vocab + 2 * arch.hidden))
    return PROCESS_BYTES + step + _table_bytes(arch) * context


def _table_bytes(arch: Arch) -> int:
    """Bytes of the cosines and sines of one position."""
    return TABLES * 4 * arch.head_dim


def _bound(weights_ram: int, least: int, weights: int) -> int | None:
    """Return the bound on weights in memory, None if all fit; ParameterError if it cannot be."""
    if weights_ram >= weights:
        return None
    if least >= weights:
        raise ParameterError(
            f"weights_ram is {weights_ram:,} bytes; allowed: from {weights:,} bytes (all weights: "
            "only experts can stay in a file), or none"
        )
    if weights_ram < least:
        raise ParameterError(
            f"weights_ram is {weights_ram:,} bytes; allowed: from {least:,} bytes (the weights "
            "that every token uses, and the experts of one layer)"
        )
    return weights_ram


def _feed_forward_width(arch: Arch) -> int:
    """Return the floats of a row between a layer's norm and the end of its feed-forward part.

    With experts each row lies there once for each that it takes: as it came, in the kernels' form,
    and as it goes.
    """
    if arch.experts is None:
        return arch.intermediate
    each = arch.experts.taken + (arch.experts.shared is not None)
    highest = max(arch.experts.intermediate, arch.experts.shared or 0)
    return each * (3 * arch.hidden + highest) + arch.experts.count


def _too_much(plan: MemoryPlan, memory: Memory) -> str:
    where = {
        "cgroup": "the control group leaves",
        "ulimit": "the limits of this process (ulimit -v, ulimit -d) leave",
    }.get(memory.limited_by, "are available")
    kv = plan.kv_per_token * plan.context
    return (
        f"the model needs {_gb(plan.needed)} of memory: {_gb(plan.weights)} weights, {_gb(kv)} for "
        f"a context of {plan.context} tokens, {_gb(plan.scratch)} besides; {where} "
        f"{_gb(plan.available)}"
    )


def _way_out(fits: int) -> str:
    if fits >= LEAST_CONTEXT:
        return f"a context of {fits} tokens would fit (--ctx {fits}), or a smaller quantisation"
    return "a smaller model or quantisation would (`qwick recommend` names some), or more memory"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
