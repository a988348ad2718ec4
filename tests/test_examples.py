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
    "tasks.py": ["maths: 17", "return a + b", "Paris", "'age': 34", "cut off after 24 tokens"],
    "long_document.py": ["lines 1 to 1", "Tom Baird", "[line 5]", "summary: "],
    "prompts.py": ["'temperature': 0.0", "\\boxed{}.", "<|fim_suffix|>", "can fill in: code"],
    "lean.py": ["heap", "cache: ", "loading included"],
    "phone.py": ["known already]"],
    "service.py": ["200 ", "200 ["],
    "monitored_service.py": ["verdict: ", "qwick:generation_tokens_total", "ended with 0"],
    "secured_service.py": ["without a key: 401", "65 tokens: 400", "alice: 200", "more: 429"],
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
        # QWICK_THREADS: of all cores, as users run them, whatever the tests themselves have
        env=child_environment(PYTHONPATH=str(Path(qwick.__file__).parents[1]), QWICK_THREADS=""),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in EXPECTED[name]:
        assert text in done.stdout, done.stdout
