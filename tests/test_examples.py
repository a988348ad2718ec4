"""Every example runs from start to end on the default checkpoint, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import qwick
from qwick.settings import child_environment

ROOT = Path(__file__).parents[1]

# Example -> texts that a run must print, whatever the instruction set.
EXPECTED = {
    "chat.py": ["zip", "tok/s]"],
    "stream.py": ["5", "[stop at '6'", "..."],
    "batch.py": ["4", "as one batch"],
    "async_many.py": ["14", "[given up after half a second]"],
    "fill_in_the_middle.py": ["sum(values) / len(values)", "ended by stop]"],
    "perplexity.py": ["code: perplexity", "' b'"],
}


def test_none_is_left_out() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXPECTED)


@pytest.mark.model
@pytest.mark.usefixtures("default_checkpoint")
@pytest.mark.parametrize("name", EXPECTED)
def test_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        capture_output=True,
        text=True,
        timeout=300,
        env=child_environment(PYTHONPATH=str(Path(qwick.__file__).parents[1])),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in EXPECTED[name]:
        assert text in done.stdout, done.stdout
