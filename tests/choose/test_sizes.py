"""Memory told from the catalog: against the published files, and against the plan of real ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwick.choose.memory import scratch_bytes
from qwick.choose.sizes import (
    BITS,
    GGUF,
    STEP_LOGIT_ROWS,
    STEP_ROWS,
    held_weights,
    parts_of,
    stored_bytes,
)
from qwick.engine.engine import LOGIT_ROWS, TOKEN_BUDGET
from qwick.hub import Format, Model, read_catalog, resolve, shape_of

MODELS = read_catalog().models
KNOWN = [
    (model, form)
    for model in MODELS.values()
    for form in model.formats
    if form.size is not None and form.name in BITS and shape_of(model) is not None
]


@pytest.mark.parametrize(("model", "form"), KNOWN, ids=lambda value: getattr(value, "id", None))
def test_counted_sizes_are_those_of_the_published_files(model: Model, form: Format) -> None:
    counted = stored_bytes(model, replace(form, files=()))
    assert counted is not None
    assert not counted.known
    assert stored_bytes(model, form) == replace(counted, size=form.size, known=True)
    off = counted.size / (form.size or 1) - 1
    # Others than the publisher mix their own way, and rows that no block divides are estimated.
    even = model.config["hidden_size"] % 256 == 0
    assert abs(off) < (0.015 if form.official and even else 0.06), f"{off:+.2%}"


def test_there_are_enough() -> None:
    assert len(KNOWN) >= 60
    assert {form.name for _, form in KNOWN} >= {"q2_k", "q3_k_m", "q4_k_m", "q6_k", "q8_0"}
    assert {
        form.name for m in MODELS.values() for form in m.formats if form.container == "gguf"
    } <= GGUF


def test_the_default_checkpoint_as_its_file_says() -> None:
    from qwick.formats.open import open_checkpoint
    from qwick.model.arch import read_arch
    from qwick.model.load import kv_kinds, weight_bytes

    model = MODELS["qwen2.5-coder-0.5b-instruct"]
    form = model.format("q4_k_m")
    assert form is not None
    parts = parts_of(model, form, 4096)
    assert parts is not None
    assert parts.total == parts.weights + parts.kv + parts.scratch
    with open_checkpoint(resolve()) as checkpoint:
        arch, held = read_arch(checkpoint.config), weight_bytes(checkpoint)
        kv = arch.kv_bytes(kv_kinds(checkpoint, "auto")) * 4096
    assert abs(parts.weights / held - 1) < 0.03
    assert abs(parts.kv / kv - 1) < 0.2  # two layers hold 16 bits: their biases are not published
    assert parts.scratch > scratch_bytes(arch, TOKEN_BUDGET, LOGIT_ROWS, 4096)


def test_the_engines_step() -> None:
    assert (STEP_ROWS, STEP_LOGIT_ROWS) == (TOKEN_BUDGET, LOGIT_ROWS)


def test_rounding_while_loading_leaves_less() -> None:
    model = MODELS["qwen3-4b-instruct-2507"]
    form = model.format("bf16")
    assert form is not None
    sizes = [held_weights(model, form, quantize=q, here=True) for q in (None, "int8", "int4")]
    assert None not in sizes
    whole, eight, four = (size or 0 for size in sizes)
    assert whole > 1.8 * eight > 3 * four


def test_what_grows_with_the_context() -> None:
    model = MODELS["qwen3-8b"]
    form = model.format("q4_k_m")
    assert form is not None
    short, long = parts_of(model, form, 1024), parts_of(model, form, 32_768)
    assert short is not None
    assert long is not None
    assert long.kv == 32 * short.kv
    assert long.kv == 2 * 2 * 36 * 8 * 128 * 32_768  # keys and values, 16 bits, layers, heads
    assert long.weights == short.weights


def test_nobody_can_tell() -> None:
    model = MODELS["qwen2.5-omni-7b"]
    assert parts_of(model, model.formats[0], 4096) is None
