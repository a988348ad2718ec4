"""The reference page of architectures says what the tests do, but for measured errors."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from checks.architectures import PAGE, TOLD, page, without_errors
from model import test_mutants, test_positions, test_qwen1
from model.parity import F32_LIMIT
from model.wild import CONFIGS
from qwick.family import MODEL_TYPES


def test_the_page_is_that_of_the_tests() -> None:
    told = PAGE.read_text("utf-8")
    assert without_errors(told) == without_errors(page({})), "run python -m checks.architectures"
    errors = [float(found) for found in re.findall(r"\| (\d\.\de[+-]\d\d) \|", told)]
    assert errors
    assert max(errors) <= F32_LIMIT
    assert min(errors) > 0


def test_every_model_type_is_told_of() -> None:
    assert list(TOLD) == list(MODEL_TYPES)


def mutants(text: str) -> dict[str, str]:
    """The last column of the page's tables, by the first."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[-1] for row in cells}


def test_the_mutants_told_of_are_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    told = mutants(PAGE.read_text("utf-8"))
    run = Counter(case.values[0] for case in test_mutants.CASES)
    assert {shape: told[shape] for shape in CONFIGS} == {s: str(run[s]) for s in CONFIGS}
    assert told["dynamic NTK and log-n attention"] == "9"  # three ways, each against three others

    def parametrized(test: Any, cases: list[Any]) -> None:
        monkeypatch.setattr(test, "pytestmark", [pytest.mark.parametrize("x", cases).mark])

    fewer = [case for case in test_mutants.CASES if case.values[0] != "qwen3-moe"]
    parametrized(test_mutants.test_caught, fewer[1:])
    parametrized(test_qwen1.test_another_way_shows, [])
    parametrized(test_positions.test_other_stretches_show, ["one", "two"])
    told = mutants(page({}))
    assert told["qwen3-moe"] == told["dynamic NTK and log-n attention"] == "none"
    assert told[fewer[0].values[0]] == str(run[fewer[0].values[0]] - 1)
    assert told["YaRN"] == "2"
