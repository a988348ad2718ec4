"""The memory plan: its sum, its defaults, and what it says when nothing fits."""

from __future__ import annotations

from typing import Any

import pytest

from qwick.choose.memory import PROCESS_BYTES, MemoryPlan, plan_memory
from qwick.errors import ParameterError, ResourceError, UnsupportedError
from qwick.machine.cpu import Memory

# Qwen2.5-0.5B as published.
CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
GB = 10**9
WEIGHTS = 491 * 10**6


def plan(available: int, context: int | None = None, **more: Any) -> MemoryPlan:
    return plan_memory(
        {**CONFIG, **more.pop("config", {})},
        WEIGHTS,
        memory=Memory(64 * GB, available, limited_by=more.pop("limited_by", "machine")),
        context=context,
        rows=576,
        logit_rows=64,
        kv_kinds=(more.pop("kv", "bf16"),) * 24,
        **more,
    )


def test_the_cache_of_a_token() -> None:
    # 24 layers x (keys and values) x 2 heads x 64 x 2 bytes = 12 KiB, as measured for this model
    assert plan(20 * GB).kv_per_token == 12 * 1024
    assert plan(20 * GB, kv="f32").kv_per_token == 24 * 1024


def test_roomy() -> None:
    p = plan(20 * GB)
    assert (p.context, p.cache_tokens) == (32768, 4 * 32768)
    assert PROCESS_BYTES < p.scratch < PROCESS_BYTES + 120 * 10**6
    assert p.needed == WEIGHTS + p.scratch + 32768 * 12288


def test_a_long_context_has_its_rotation_in_the_plan() -> None:
    more = plan(20 * GB, 131_072).scratch - plan(20 * GB, 1).scratch
    # cosines and sines of 64 components in float32, whole and half, and half a table in float64
    assert more >= 131_071 * 64 * 4 * 2.5


def test_the_models_own_context_when_smaller() -> None:
    assert plan(20 * GB, config={"max_position_embeddings": 4096}).context == 4096


def test_the_wish_wins_over_the_default() -> None:
    p = plan(20 * GB, 100_000)
    assert p.context == 100_000
    assert p.cache_tokens == 400_000
    assert plan(20 * GB, 1).context == 1


def test_tight_memory_shortens_the_default_but_not_a_wish() -> None:
    tight = WEIGHTS + plan(20 * GB, 2000).scratch + 2000 * 12288
    p = plan(tight)
    assert (p.context, p.cache_tokens) == (2000, 2000)
    assert p.needed <= tight
    with pytest.raises(ResourceError) as caught:
        plan(tight, 2001)
    assert "context of 2001 tokens" in str(caught.value)
    assert "--ctx 2000" in str(caught.value)


def test_the_pool_takes_half_of_what_is_left() -> None:
    left = 40_000 * 12288
    p = plan(WEIGHTS + plan(20 * GB, 8192).scratch + left, 8192)
    assert p.cache_tokens == 20_000


def test_too_small_a_machine() -> None:
    with pytest.raises(ResourceError) as caught:
        plan(GB // 2)
    text = str(caught.value)
    for part in ("0.49 GB weights", "context of 512", "0.50 GB", "are available", "smaller model"):
        assert part in text
    with pytest.raises(ResourceError, match="the control group leaves"):
        plan(GB // 2, limited_by="cgroup")
    with pytest.raises(ResourceError, match=r"process \(ulimit -v, ulimit -d\) leave 0.50 GB"):
        plan(GB // 2, limited_by="ulimit")


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "8"])
def test_a_bad_context(bad: Any) -> None:
    with pytest.raises(ParameterError, match=r"ctx is .*; allowed: whole numbers from 1 to 131072"):
        plan(20 * GB, bad)


def test_a_context_beyond_the_models() -> None:
    with pytest.raises(UnsupportedError, match=r"131073.*trained for 131072"):
        plan(20 * GB, 131_073)


def test_rows_lie_with_each_expert_that_they_take() -> None:
    """Qwen3-30B-A3B: 8 of 128, each with three times 2,048 floats of a row, and 768 between."""
    dense = plan(8 * GB)
    experts = {
        "model_type": "qwen3_moe",
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    }
    sparse = plan(8 * GB, config=experts)
    more = 576 * 4 * (8 * (3 * 896 + 768) + 128 - 4864)
    # A qwen3_moe of these sizes has as many queries and keys as the qwen2.
    assert sparse.scratch - dense.scratch == more


# ---- experts in a file ---------------------------------------------------------------------------

LEAST = 60 * 10**6


def test_a_wish_for_less_than_the_weights() -> None:
    p = plan(20 * GB, least=LEAST, weights_ram=200 * 10**6)
    assert (p.weights, p.weights_ram) == (200 * 10**6, 200 * 10**6)
    roomy = plan(20 * GB)
    assert p.needed == roomy.needed - WEIGHTS + 200 * 10**6
    assert (p.context, roomy.weights_ram) == (roomy.context, None)
    for enough in (WEIGHTS, WEIGHTS + 1):
        assert plan(20 * GB, least=LEAST, weights_ram=enough) == roomy
        assert plan(20 * GB, weights_ram=enough) == roomy, "without experts too"


def test_a_wish_for_too_little() -> None:
    with pytest.raises(ParameterError) as caught:
        plan(20 * GB, least=LEAST, weights_ram=LEAST - 1)
    assert f"weights_ram is {LEAST - 1:,} bytes; allowed: from {LEAST:,}" in caught.value.message
    assert plan(20 * GB, least=LEAST, weights_ram=LEAST).weights == LEAST
    with pytest.raises(ParameterError) as caught:
        plan(20 * GB, weights_ram=WEIGHTS - 1)
    assert f"allowed: from {WEIGHTS:,} bytes (all weights: only experts" in caught.value.message
    with pytest.raises(ResourceError, match=r"0\.40 GB weights"):
        plan(GB // 2, least=LEAST, weights_ram=400 * 10**6)


def test_experts_stay_in_a_file_where_all_would_not_fit() -> None:
    p = plan(500 * 10**6, least=LEAST)
    assert p.weights_ram is not None
    assert p.weights_ram == p.weights > LEAST
    # A tenth is left to the system, and a quarter of what the other weights leave is the context's.
    assert p.needed <= 450 * 10**6 < p.needed + 2
    scratch = plan(20 * GB, 1).scratch
    tables = p.scratch - scratch
    assert p.context * p.kv_per_token + tables <= (500 * 10**6 - LEAST - scratch) / 4
    assert p.context > 512
    assert p.cache_tokens == p.context
    assert plan(500 * 10**6, 700, least=LEAST).context == 700


def test_what_fits_stays_in_memory() -> None:
    assert plan(GB, least=LEAST).weights_ram is None


def test_not_even_the_least_fits() -> None:
    with pytest.raises(ResourceError, match=r"0\.06 GB weights"):
        plan(200 * 10**6, least=LEAST)
    with pytest.raises(ResourceError) as caught:
        plan(500 * 10**6, 100_000, least=LEAST)
    assert "--ctx" in str(caught.value)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "8"])
def test_bad_bounds(bad: Any) -> None:
    with pytest.raises(ParameterError, match="weights_ram is"):
        plan(20 * GB, least=LEAST, weights_ram=bad)
