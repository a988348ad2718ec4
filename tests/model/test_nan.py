"""Damaged weights: a NaN or infinity anywhere must reach the logits, where the sampler refuses it.

One that a kernel turns into an ordinary number would make a broken checkpoint speak nonsense.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.stepping import prefill, run, stepwise
from model.stored import dealt_out, in_memory
from model.wild import BLOCKED, CONFIGS, wild_tensors
from quant.halves import HALVES
from qwick.formats.checkpoint import Tensor
from qwick.model.load import load_model
from qwick.quant.types import StoredType

IDS = [np.arange(40, dtype=np.int32)]
LAYER = "model.layers.1."


def damaged(
    config: dict[str, Any],
    name: str,
    types: dict[str, StoredType] | None = None,
    value: float = np.nan,
) -> Any:
    """A model one of whose stored numbers is `value`: a weight, or the scale of a block."""
    checkpoint = in_memory(config, wild_tensors(config), types)
    tensor = checkpoint.tensors[name]
    raw = tensor.data.copy()
    if tensor.type is StoredType.F32:
        raw.view(np.float32)[5] = value
    else:
        at = HALVES[tensor.type][0]
        raw[at : at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    held = {**checkpoint.tensors, name: Tensor(name, tensor.type, tensor.shape, raw)}
    object.__setattr__(checkpoint, "tensors", held)
    return load_model(checkpoint, kv="f32")


def require_nan(model: Any) -> None:
    for schedule in (prefill, stepwise):
        (logits,) = run(model, IDS, schedule)
        assert logits is not None
        assert np.isnan(logits).all(), f"{np.isfinite(logits).mean():.0%} are finite"


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ("qwen2-tied", "self_attn.v_proj.weight"),
        ("qwen2-tied", "self_attn.v_proj.bias"),
        ("qwen2-tied", "self_attn.o_proj.weight"),
        ("qwen2-tied", "mlp.gate_proj.weight"),
        ("qwen2-tied", "mlp.up_proj.weight"),
        ("qwen2-tied", "mlp.down_proj.weight"),
        ("qwen2-tied", "input_layernorm.weight"),
        ("qwen2-tied", "post_attention_layernorm.weight"),
        ("qwen2-tied", "self_attn.q_proj.weight"),
        ("qwen2-tied", "self_attn.q_proj.bias"),
        ("qwen2-tied", "self_attn.k_proj.weight"),
        ("qwen3-tied", "self_attn.q_norm.weight"),
        ("qwen3-tied", "self_attn.k_norm.weight"),
    ],
)
def test_in_a_layer(isa: str, shape: str, part: str) -> None:
    require_nan(damaged(CONFIGS[shape], LAYER + part))


@pytest.mark.parametrize("shape", ["qwen2-tied", "qwen2.5-group7"])
def test_in_the_last_norm(isa: str, shape: str) -> None:
    require_nan(damaged(CONFIGS[shape], "model.norm.weight"))


@pytest.mark.parametrize("shape", ["qwen2-tied", "qwen2.5-group7"])
def test_in_one_row_of_the_head(isa: str, shape: str) -> None:
    """Row 0: its own column everywhere; tied, the rest of token 0's row, and what follows it."""
    config = CONFIGS[shape]
    tied = config["tie_word_embeddings"]
    model = damaged(config, "model.embed_tokens.weight" if tied else "lm_head.weight")
    for schedule in (prefill, stepwise):
        (logits,) = run(model, [IDS[0][1:]], schedule)  # without token 0
        assert logits is not None
        assert np.isnan(logits[:, 0]).all()
        assert np.isfinite(logits[:, 1:]).all()


def test_in_the_embedding_of_one_token(isa: str) -> None:
    """Row 0 of an untied embedding, in a sequence that has the token at 20.

    Rows of the same step may take a NaN from a later one: a weight of 0 times NaN is NaN.
    """
    model = damaged(CONFIGS["qwen2.5-group7"], "model.embed_tokens.weight")
    for schedule in (prefill, stepwise):
        (logits,) = run(model, [np.roll(IDS[0], 20)], schedule)
        assert logits is not None
        assert np.isnan(logits[20]).all()
        assert schedule is prefill or np.isfinite(logits[:20]).all()


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ("qwen2", "mlp.down_proj.weight"),
        ("qwen3", "self_attn.o_proj.weight"),
        ("qwen2", "self_attn.q_proj.weight"),
        ("qwen2", "self_attn.v_proj.weight"),
        ("qwen2", "mlp.up_proj.weight"),
        ("qwen3", "mlp.gate_proj.weight"),
        ("qwen3", "input_layernorm.weight"),
        ("qwen3", "post_attention_layernorm.weight"),
    ],
)
def test_in_block_formats(isa: str, shape: str, part: str) -> None:
    config = BLOCKED[shape]
    # The scale of MXFP4 is a power of two for every byte: it holds no NaN.
    types = {n: of if HALVES[of] else StoredType.Q4_0 for n, of in dealt_out(config).items()}
    require_nan(damaged(config, LAYER + part, types))


def require_unusable(model: Any) -> None:
    """An infinity may reach the logits as it is, or as what inf - inf gives."""
    for schedule in (prefill, stepwise):
        (logits,) = run(model, IDS, schedule)
        assert logits is not None
        assert not np.isfinite(logits).all(axis=1).any(), "a row that could be sampled"


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ("qwen2-tied", LAYER + "self_attn.v_proj.weight"),
        ("qwen2-tied", LAYER + "self_attn.o_proj.weight"),
        ("qwen2-tied", LAYER + "self_attn.q_proj.bias"),
        ("qwen2-tied", LAYER + "self_attn.k_proj.weight"),
        ("qwen2-tied", LAYER + "mlp.gate_proj.weight"),
        ("qwen2-tied", LAYER + "mlp.down_proj.weight"),
        ("qwen2-tied", LAYER + "input_layernorm.weight"),
        ("qwen3-tied", LAYER + "self_attn.k_norm.weight"),
        ("qwen2-tied", "model.norm.weight"),
    ],
)
def test_infinity(isa: str, shape: str, part: str, value: float) -> None:
    require_unusable(damaged(CONFIGS[shape], part, value=value))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("part", ["mlp.down_proj", "mlp.up_proj", "self_attn.o_proj"])
def test_an_infinite_scale(isa: str, part: str, value: float) -> None:
    config = BLOCKED["qwen2"]
    require_unusable(damaged(config, f"{LAYER}{part}.weight", dealt_out(config), value))
