"""What processes that test side by side (pytest-xdist) agree on: who is alone, and the cores."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

ENTRY, ROOM = 0, 1  # bytes of the file of `Turns` that are locked


def take_turns(config: pytest.Config) -> None:
    """In a worker of pytest-xdist: let tests that are marked `alone` be so, and share the cores.

    Where two pools of kernel threads have the same cores, their threads wait for each other in
    every kernel. The tests of the pool set their own number, the examples have a user's.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        share = len(os.sched_getaffinity(0)) // worker["workercount"]
        if not os.environ.get("QWICK_THREADS"):
            os.environ["QWICK_THREADS"] = str(max(1, share))
        config.pluginmanager.register(Turns(worker["testrunuid"]))


class Turns:
    """A worker shares the room while a test of its runs, or, if that is `alone`, has the room.

    Who wants it alone keeps the entry until the others have left: nobody overtakes.
    """

    def __init__(self, run: str) -> None:
        self.path = Path(tempfile.gettempdir()) / f"qwick-tests-{run}"
        self.file = self.path.open("a+b")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        how = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
        fcntl.lockf(self.file, fcntl.LOCK_EX, 1, ENTRY)
        fcntl.lockf(self.file, how, 1, ROOM)
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, ENTRY)
        try:
            return (yield)
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, ROOM)

    def pytest_unconfigure(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)
