"""Fixtures that every area may use, and what two processes that test side by side agree on."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ENTRY, ROOM = 0, 1  # bytes of the file of `Turns` that are locked


class Turns:
    """Tests of pytest-xdist's workers run side by side; one that is marked `alone` does not.

    A worker shares the room for as long as a test of its runs, or has it alone. Who wants it alone
    keeps the entry until the others have left: nobody overtakes.
    """

    def __init__(self, run: str) -> None:
        self.path = Path(tempfile.gettempdir()) / f"qwick-tests-{run}"
        self.file = self.path.open("a+b")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        how = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
        fcntl.lockf(self.file, fcntl.LOCK_EX, 1, ENTRY)
        fcntl.lockf(self.file, how, 1, ROOM)
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, ENTRY)
        try:
            return (yield)
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, ROOM)

    def pytest_unconfigure(self) -> None:
        self.path.unlink(missing_ok=True)


def pytest_configure(config: pytest.Config) -> None:
    """In a worker of pytest-xdist: take turns, and share the cores.

    Threads of more than one pool on a core wait for each other in every kernel. The tests of the
    pool itself set their own number, and the examples run with that of a user.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        share = len(os.sched_getaffinity(0)) // worker["workercount"]
        os.environ.setdefault("QWICK_THREADS", str(max(1, share)))
        config.pluginmanager.register(Turns(worker["testrunuid"]))


@pytest.fixture(scope="session")
def default_checkpoint() -> Path:
    """The default checkpoint's verified file: fetched once into the user's store, never skipped."""
    from qwick import hub

    return hub.resolve()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that takes `isa` once on every instruction set that this CPU can run."""
    if "isa" in metafunc.fixturenames:
        from qwick.native import ops  # here: most tests need no compiled kernels

        usable = [i.name for i in ops.available() if i.usable]
        metafunc.parametrize("isa", usable, indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the instruction set in force; what was in force before returns afterwards."""
    from qwick.native import ops

    before = ops.isa()
    ops.force(request.param)
    yield request.param
    ops.force(before)
