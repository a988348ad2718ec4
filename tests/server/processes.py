"""Processes that a test starts, kills or confines."""

from __future__ import annotations

import os
import resource
import traceback
from collections.abc import Callable


def fork(work: Callable[[], object]) -> int:
    """Do `work` in a process of its own and return its id; exit code 1 if it fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def wait(child: int) -> int:
    """Return how a process ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def limited(most: int, work: Callable[[], object]) -> int:
    """Do `work` in a process whose files may have `most` bytes: writes end early, then fail."""

    def inner() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        work()

    return wait(fork(inner))
