"""Block formats, mixed in one file by tensor, against transformers on the decoded weights.

What the oracle cannot know is that block formats meet activations rounded to 8 bits (on a matrix
unit: to bfloat16). So the yardstick is the same forward pass on the kernels' NumPy definitions,
which round exactly so and are otherwise exact in float64: the kernels may be no further from the
float32 oracle than 1.5 times that. The yardstick itself is held to a figure derived from the
rounding alone, and each kernel call of a pass to its definition on the same inputs, to float32.
"""

from __future__ import annotations

import numpy as np
import pytest

from model.numpy_ops import Checked, Definitions, substitute
from model.parity import distance, require_f32, require_no_further
from model.stepping import SCHEDULES, mixed, prefill, run
from model.stored import MIX, Samples
from model.wild import BLOCKED
from qwick.formats.open import open_checkpoint
from qwick.native import ops, reference

LARGEST_OF_32 = 2.39


def rounding_noise(layers: int) -> float:
    """Expected error of the logits by rounding activations to 8 bits, in their deviations.

    A group of 32 normal values has its largest magnitude at 2.39 deviations (root of the mean
    square). Steps of 2.39 / 127 round with an error of a step / sqrt(12): 0.54 % of the values'
    deviation, and as much of a product with independent weights. Each layer rounds four inputs
    (of qkv, output, gate and up, down) and the head one; independent errors add in square.
    Softmax and SwiGLU enlarge the errors of their inputs: a product's relative errors add, and
    scores of a deviation of two or three multiply an error by as much. Three covers that; 1.6 was
    measured.
    """
    each = LARGEST_OF_32 / 127 / np.sqrt(12)
    return float(3 * each * np.sqrt(4 * layers + 1))


def test_the_constants_of_the_derivation() -> None:
    x = np.random.default_rng(0).standard_normal((20_000, 32)).astype(np.float32)
    assert np.sqrt((np.abs(x).max(axis=1) ** 2).mean()) == pytest.approx(LARGEST_OF_32, rel=0.01)
    error = reference.seen_by(x, "i8", "i8") - x
    assert error.std() == pytest.approx(LARGEST_OF_32 / 127 / np.sqrt(12), rel=0.02)


@pytest.mark.parametrize("name", BLOCKED)
def test_mixed_blocks(samples: Samples, isa: str, name: str) -> None:
    sample = samples.blocks(name)
    with open_checkpoint(sample.path) as checkpoint:
        assert {t.type for t in checkpoint.tensors.values()} >= set(MIX)
    model = sample.load()
    for schedule in SCHEDULES.values():
        with pytest.MonkeyPatch.context() as patch:
            substitute(patch, Definitions(isa))
            by_definition = run(model, sample.oracle.ids, schedule)
        assert distance(by_definition, sample.oracle).rms < rounding_noise(model.arch.layers)
        require_no_further(model, sample.oracle, schedule, by_definition, rms_slack=1.1)


@pytest.mark.parametrize("name", BLOCKED)
def test_each_call_equals_its_definition(samples: Samples, isa: str, name: str) -> None:
    sample = samples.blocks(name)
    model = sample.load()
    checked = Checked(isa)
    with pytest.MonkeyPatch.context() as patch:
        substitute(patch, checked)
        run(model, sample.oracle.ids, mixed)
    plans = list(mixed([len(x) for x in sample.oracle.ids]))
    steps = len(plans)
    runs = sum(map(len, plans)) if ops.prompts_differ() else steps
    assert checked.calls["attention"] == model.arch.layers * steps
    if model.arch.experts is None:
        assert checked.calls["matmul"] == 4 * model.arch.layers * runs + steps
        assert checked.calls["mlp"] == model.arch.layers * runs
    else:  # the router takes all rows
        assert checked.calls["experts"] == model.arch.layers * runs
        assert checked.calls["matmul"] == model.arch.layers * (2 * runs + steps) + steps


@pytest.mark.parametrize("name", BLOCKED)
def test_the_definitions_are_the_model(samples: Samples, name: str) -> None:
    """Without the 8-bit rounding the NumPy forward pass is transformers', to float32."""
    sample = samples.blocks(name)
    model = sample.load()
    with pytest.MonkeyPatch.context() as patch:
        exact = Definitions("none")
        patch.setattr("qwick.native.reference.form_of", lambda *_, **__: "f32")
        substitute(patch, exact)
        require_f32(model, sample.oracle, prefill)
