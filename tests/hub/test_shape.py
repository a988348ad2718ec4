"""The numbers of weights by part, against the totals of the catalog and against known sizes."""

from __future__ import annotations

import pytest

from qwick.errors import ConfigError
from qwick.hub import Model, arch_config, read_catalog, shape_of
from qwick.model.arch import read_arch

MODELS = read_catalog().models
# What the text says nothing of: encoders and talkers without published sizes, and Qwen4's preview.
NOT_COUNTED = {
    *("qwen-vl", "qwen-vl-chat", "qwen-audio", "qwen-audio-chat"),
    *("qwen2.5-omni-7b", "qwen2.5-omni-3b"),
    *(f"qwen3-omni-30b-a3b-{name}" for name in ("instruct", "thinking", "captioner")),
    "qwen3.8-flash-next",
}
COUNTED = [model for name, model in MODELS.items() if name not in NOT_COUNTED]
# A key that no copy of their config.json confirms.
UNREADABLE = {
    "rope_theta": {
        f"qwen2-math-{size}{end}" for size in ("1.5b", "72b") for end in ("", "-instruct")
    },
    "rms_norm_eps": {"qwen2.5-coder-14b-instruct", "qwen2.5-math-72b-instruct"},
    "max_position_embeddings": {
        *(f"qwen3-{size}-base" for size in ("1.7b", "4b", "8b", "14b", "30b-a3b")),
        *("qwen3-embedding-0.6b", "qwen3-embedding-8b"),
    },
    "vocab_size": {f"qwen3-reranker-{size}" for size in ("0.6b", "4b", "8b")},
}


def test_which_are_not_counted() -> None:
    assert {name for name, model in MODELS.items() if shape_of(model) is None} == NOT_COUNTED


@pytest.mark.parametrize("model", COUNTED, ids=lambda model: model.id)
def test_the_numbers_of_the_catalog(model: Model) -> None:
    shape = shape_of(model)
    assert shape is not None
    stated = model.parameters
    counted = (shape.total, shape.active, shape.non_embedding)
    assert counted == (stated.total, stated.active, stated.non_embedding)
    parts = (shape.embedding, shape.head, shape.attention, shape.dense, shape.routed)
    parts += (shape.shared, shape.router, shape.delta, shape.other, shape.vision, shape.audio)
    assert sum(parts) == shape.total
    assert min(parts) >= 0


def test_the_parts_of_a_small_one_by_hand() -> None:
    """Qwen2.5-0.5B: 24 layers of 896, 14 heads over 2 of 64, feed-forward of 4864, tied."""
    shape = shape_of(MODELS["qwen2.5-0.5b-instruct"])
    assert shape is not None
    assert (shape.embedding, shape.head) == (151_936 * 896, 0)
    assert shape.attention == 24 * (896 * (896 + 128 + 128 + 896) + 896 + 128 + 128)
    assert shape.dense == 24 * 3 * 896 * 4864
    assert shape.other == (24 * 2 + 1) * 896
    assert (shape.layers, shape.kv_layers, shape.kv_dim) == (24, 24, 128)
    assert (shape.experts, shape.taken, shape.routed) == (0, 0, 0)


def test_the_parts_of_one_with_experts_and_delta_nets() -> None:
    """Qwen3-Next-80B-A3B: 12 of 48 layers attend, 10 of 512 experts and a shared one are taken."""
    shape = shape_of(MODELS["qwen3-next-80b-a3b-instruct"])
    assert shape is not None
    assert (shape.layers, shape.kv_layers, shape.kv_dim) == (48, 12, 2 * 256)
    assert (shape.experts, shape.taken, shape.dense) == (512, 10, 0)
    assert shape.routed == 48 * 512 * 3 * 2048 * 512
    assert shape.routed - (shape.total - shape.active) == 48 * 10 * 3 * 2048 * 512
    assert shape.router == 48 * 2048 * (512 + 1)


@pytest.mark.parametrize(
    "model", [m for m in MODELS.values() if m.runs_here], ids=lambda model: model.id
)
def test_the_engine_reads_what_is_said_to_run(model: Model) -> None:
    missing = next((key for key, names in UNREADABLE.items() if model.id in names), None)
    if missing is not None:
        with pytest.raises(ConfigError, match=missing):
            read_arch(arch_config(model))
        return
    arch, shape = read_arch(arch_config(model)), shape_of(model)
    assert shape is not None
    assert (arch.layers, arch.hidden, arch.vocab) == (shape.layers, shape.hidden, shape.vocab)
    assert (arch.kv_dim, shape.kv_layers) == (shape.kv_dim, arch.layers)
    assert arch.tied == (shape.head == 0)
    if arch.experts is None:
        assert shape.dense == arch.layers * 3 * arch.hidden * arch.intermediate
    else:
        assert (arch.experts.count, arch.experts.taken) == (shape.experts, shape.taken)
