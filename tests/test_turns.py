"""Two workers of pytest-xdist: side by side, but for a test that is to be alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qwick.settings import child_environment

CONFTEST = """
from turns import take_turns

def pytest_configure(config):
    config.addinivalue_line("markers", "alone: by itself")
    take_turns(config)
"""
COMMON = """
import os, time
from pathlib import Path
import pytest

def note(text):
    with open("log", "a") as file:
        file.write(text + "\\n")

def meet(own, other):
    Path(own).touch()
    end = time.monotonic() + 30
    while not Path(other).exists():
        assert time.monotonic() < end, "the other worker did not come"
        time.sleep(0.01)
    note("threads " + os.environ["QWICK_THREADS"])
"""
FIRST = """
def test_meet():
    meet("a", "b")

@pytest.mark.parametrize("n", range(6))
def test_more(n):
    note("begin")
    time.sleep(0.1)
    note("end")
"""
SECOND = """
def test_meet():
    meet("b", "a")

@pytest.mark.alone
def test_alone():
    note("alone")
    time.sleep(0.3)
    note("no more")
"""


def test_alone_means_alone_and_others_run_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_a.py").write_text(COMMON + FIRST)
    (tmp_path / "test_b.py").write_text(COMMON + SECOND)
    options = ["-p", "xdist.plugin", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    environment = child_environment(
        PYTHONPATH=str(Path(__file__).parent), QWICK_THREADS="", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / "log").read_text().splitlines()
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert log.count(f"threads {share}") == 2
    assert log.count("end") == 6
    start, end = log.index("alone"), log.index("no more")
    assert end == start + 1
    assert log[:start].count("begin") == log[:start].count("end")
