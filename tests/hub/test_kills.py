"""Fifty pulls killed at random moments: `checks.store_kills` as a developer runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwick.settings import child_environment

ROOT = Path(__file__).parents[2]


def check(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "checks.store_kills", *arguments],
        cwd=ROOT,
        env=child_environment(**changes),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_thirty_kills_leave_nothing_half_trusted_and_lose_little() -> None:
    done = check("--kills", "30", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert sum(figures["moments"].values()) == figures["kills"] == 30
    assert len(figures["moments"]) >= 3  # in the transfer, before and after the move
    assert figures["trusted_half_files"] == 0
    assert figures["resumed_requests"] > 0
    assert figures["bytes_served"] < figures["kills_times_size"]


@pytest.mark.parametrize("arguments", [["--kills", "0"], ["--size", "0"]])
def test_bad_arguments_end_in_a_line(arguments: list[str]) -> None:
    done = check(*arguments)
    assert done.returncode == 2
    assert "--kills must be 1 or more" in done.stderr
