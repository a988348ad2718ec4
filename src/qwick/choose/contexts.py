"""How long a context a checkpoint has by a runtime, and what the runtime must be told for it.

`plain` is what the published config gives without a word; beyond it the publisher documents YaRN,
or dual chunks that only `config_1m.json` sets up, which none of the runtimes here reads. Sources:
docs R2.5 and R3 (deployment/vllm, run_locally/llama.cpp), docs.vllm.ai (hf_overrides), and for
qwick `model.positions.with_yarn`. Knows nothing about memory.
"""

from __future__ import annotations

import math

from qwick.hub import Model
from qwick.values import check_kind

__all__ = ["plain", "reach", "stretch"]

YARN = ("qwick", "llama.cpp", "vllm")  # runtimes that can be told to stretch positions


def plain(model: Model) -> int:
    """Return the tokens of context that a checkpoint has without being told anything; 0: unknown.

    Where its configuration says more than the publisher (Qwen3's 40,960 are 32,768 and room for an
    answer), runtimes go by the configuration.
    """
    check_kind("model", model, Model, "a Model of the catalog")
    configured: int = model.config.get("max_position_embeddings") or 0
    return max(model.context.native or 0, configured)


def reach(model: Model, runtime: str) -> int:
    """Return the longest context that a runtime can give it as the publisher documents."""
    method = model.context.method or ""
    if runtime in YARN and method.startswith("YaRN"):
        return max(plain(model), model.context.longest)
    return plain(model)


def stretch(model: Model, context: int) -> int | None:
    """Return the factor of YaRN for so many tokens; None: none is needed."""
    native = model.context.native
    if native is None or context <= plain(model):
        return None
    return math.ceil(context / native)
