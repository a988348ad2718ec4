"""The short form of `python -m checks.fuzz_values`, and that it can fail."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from checks import fuzz_values
from values.kinds import Case, judge, whole


def test_short_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz_values.main(["--examples", "200", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["examples"] == 200
    assert told["functions"] > 70


@pytest.mark.parametrize(
    ("takes", "value"),
    [(lambda n: n, "x"), (lambda n: n + 1, "x"), (lambda n: [][n], 5)],
    ids=["ignored", "TypeError", "IndexError"],
)
def test_a_careless_function_is_found(takes: Callable[..., object], value: object) -> None:
    assert judge(Case(lambda _: takes, {"n": whole(0)}), None, "n", value) is not None


def test_the_check_fails_on_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(lambda _: lambda n: n, {"n": whole(0)})
    monkeypatch.setattr(fuzz_values, "TABLE", {"careless": case})
    monkeypatch.setattr(fuzz_values, "NAMES", ["careless"])
    assert fuzz_values.main(["--examples", "50", "--json"]) == 1
    assert "careless(n=" in capsys.readouterr().err
