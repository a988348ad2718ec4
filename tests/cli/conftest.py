"""The command line as a process of its own, as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import qwick as package
from qwick.hub import DEFAULT, Store
from qwick.settings import child_environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**changes: str) -> dict[str, str]:
    """The environment in which a child finds the qwick that is being tested."""
    return child_environment(PYTHONPATH=str(Path(package.__file__).parents[1]), **changes)


def read_terminal(descriptor: int) -> str:
    """Return what is written to a terminal until its other end is closed, and close this one."""
    seen = b""
    try:
        while chunk := os.read(descriptor, 65536):
            seen += chunk
    except OSError:  # Linux: the other end is closed
        pass
    os.close(descriptor)
    return seen.decode()


@pytest.fixture(scope="session")
def qwick() -> Run:
    """Return a function that runs `qwick ...` and returns the finished process."""

    def run(*arguments: str, stdin: str | bytes = b"", **changes: str) -> object:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        process = subprocess.run(
            [sys.executable, "-m", "qwick", *arguments],
            input=data,
            capture_output=True,
            env=environment(**changes),
            timeout=120,
            check=False,
        )
        out, err = (s.decode("utf-8", "replace") for s in (process.stdout, process.stderr))
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run  # type: ignore[return-value]


@pytest.fixture
def stocked_home(default_checkpoint: Path, tmp_path: Path) -> Path:
    """A store of this test alone, where the default checkpoint lies but was never verified."""
    store = Store(tmp_path / "home")
    path = store.path(store.entry(DEFAULT))
    path.parent.mkdir(parents=True)
    os.symlink(default_checkpoint.absolute(), path)
    return store.home


@pytest.fixture
def same_threads() -> Iterator[None]:
    """For tests that load a model in this process: the kernels' threads return afterwards."""
    from qwick.native import ops

    before = ops.threads()
    yield
    ops.set_threads(before)
