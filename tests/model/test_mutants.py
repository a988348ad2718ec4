"""The parity tests can fail: every mutant is run, and must be caught by the very comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from model.mutants import MUTANTS, Subject
from model.numpy_ops import Definitions, substitute
from model.parity import Logits, require_f32, require_no_further
from model.stepping import mixed, prefill, run, stepwise
from model.stored import Samples, dealt_out, in_memory
from model.wild import BLOCKED, CONFIGS, wild_tensors
from qwick.model.arch import read_arch
from qwick.model.decoder import Decoder
from qwick.model.load import load_model
from qwick.native import ops
from qwick.quant.types import StoredType

CASES = [
    pytest.param(shape, name, id=f"{shape}-{name}")
    for shape, config in CONFIGS.items()
    for name, (fits, _) in MUTANTS.items()
    if fits(read_arch(config))
]
# What cannot show in a schedule, and why; `test_caught` holds that it does not.
HIDDEN = {("sees_the_next_token", "stepwise"): "no later one is in the cache yet"}


def load_mutant(
    name: str | None,
    config: Mapping[str, Any],
    patch: pytest.MonkeyPatch,
    types: Mapping[str, StoredType] | None = None,
    kv: str = "f32",
) -> Decoder:
    """Load the wild weights of a config with one mutant's change, or with none."""
    tensors = {key: value.copy() for key, value in wild_tensors(config).items()}
    subject = Subject(dict(config), tensors, patch)
    if name is not None:
        MUTANTS[name][1](subject)
    model = load_model(in_memory(subject.config, subject.tensors, types), kv=kv)
    for change in subject.after:
        change(model)
    return model


@pytest.mark.parametrize("shape", CONFIGS)
def test_without_a_mutant_it_passes(
    samples: Samples, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    oracle = samples.folder(shape, StoredType.F32).oracle
    for schedule in (prefill, stepwise, mixed):
        require_f32(load_mutant(None, CONFIGS[shape], monkeypatch), oracle, schedule)


@pytest.mark.parametrize(("shape", "name"), CASES)
def test_caught(samples: Samples, monkeypatch: pytest.MonkeyPatch, shape: str, name: str) -> None:
    oracle = samples.folder(shape, StoredType.F32).oracle
    model = load_mutant(name, CONFIGS[shape], monkeypatch)
    for schedule in (prefill, stepwise, mixed):
        if (name, schedule.__name__) in HIDDEN:
            require_f32(model, oracle, schedule)
            continue
        with pytest.raises(AssertionError, match="of the logits' deviation"):
            require_f32(model, oracle, schedule)


# ---- the coarser comparisons ---------------------------------------------------------------------
# Rounding to bfloat16, or activations to 8 bits, hides what is this small: float32 alone sees it.
SMALL = {"larger_epsilon", "a_flatter_router"}


def coarse(configs: Mapping[str, Mapping[str, Any]], shapes: Iterable[str]) -> list[Any]:
    return [
        pytest.param(shape, name, id=f"{shape}-{name}")
        for shape in shapes
        for name, (fits, _) in MUTANTS.items()
        if fits(read_arch(configs[shape])) and name not in SMALL
    ]


@pytest.mark.parametrize(("shape", "name"), coarse(CONFIGS, ("qwen2-tied", "qwen3-tied")))
def test_caught_in_bfloat16(
    samples: Samples, monkeypatch: pytest.MonkeyPatch, shape: str, name: str
) -> None:
    oracle = samples.folder(shape, StoredType.BF16).oracle
    types = dict.fromkeys(wild_tensors(CONFIGS[shape]), StoredType.BF16)
    model = load_mutant(name, CONFIGS[shape], monkeypatch, types, kv="bf16")
    with pytest.raises(AssertionError, match="the yardstick"):
        require_no_further(model, oracle, prefill, oracle.bf16)


@pytest.fixture(scope="module")
def by_definition(samples: Samples) -> dict[str, Logits]:
    found = {}
    for shape in BLOCKED:
        sample = samples.blocks(shape)
        with pytest.MonkeyPatch.context() as patch:
            substitute(patch, Definitions(ops.isa()))
            found[shape] = run(sample.load(), sample.oracle.ids, prefill)
    return found


@pytest.mark.parametrize(("shape", "name"), coarse(BLOCKED, BLOCKED))
def test_caught_in_blocks(
    samples: Samples,
    by_definition: dict[str, Logits],
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    name: str,
) -> None:
    oracle, config = samples.blocks(shape).oracle, BLOCKED[shape]
    model = load_mutant(name, config, monkeypatch, dealt_out(config))
    with pytest.raises(AssertionError, match="the yardstick"):
        require_no_further(model, oracle, prefill, by_definition[shape], rms_slack=1.1)
