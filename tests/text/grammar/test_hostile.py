"""Grammars meant to cost much: refused or bounded, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from text.grammar.hostile import cases

pytestmark = pytest.mark.model

# CPU seconds and megabytes. Beginning an answer includes a text that is forced as a whole.
MOST = {"make": 1.5, "check": 2.0, "compile": 1.0, "mask": 0.1, "accept": 0.25, "megabytes": 200}


@pytest.fixture(scope="module")
def measured(default_checkpoint) -> dict[str, dict]:
    script = Path(__file__).with_name("hostile.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (rows[-1:], done.stderr[-2000:])
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize("name", cases())
def test_it_is_refused_or_bounded(measured, name: str) -> None:
    row = measured[name]
    over = {key: row[key] for key, most in MOST.items() if row.get(key, 0) > most}
    assert not over, row
    if row["error"] is not None:
        assert row["error"].startswith(("ParameterError: ", "UnsupportedError: "))
        assert len(row["error"]) < 700


def test_most_of_the_list_is_refused_for_a_reason_and_some_runs(measured) -> None:
    """So that the list tests what it is meant to: neither everything nor nothing is refused."""
    refused = [row for row in measured.values() if row["error"]]
    assert 20 < len(refused) < len(measured) - 15
    assert any("costs too much" in row["error"] for row in refused)
