"""A lock between processes (and threads) on one machine, held through a file.

The kernel drops the lock when its holder dies, so a killed process leaves nothing locked: a lock
file that lies about is no lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["NoLocksError", "is_held", "locked"]

POLL_SECONDS = 0.1  # between two looks at a lock that another holds

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class NoLocksError(Exception):
    """The file system has no locks; the text is the system's reason. Stays within the hub."""


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path` for the length of a `with` block, alone.

    Calls `waiting` several times a second while another holds it; what that raises ends the wait.
    OSError when the file cannot be made, NoLocksError where there are no locks. Only who holds the
    lock may remove the file.
    """
    descriptor = _acquire(path, waiting)
    try:
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file `path` now; makes and changes nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _taken(descriptor)
    finally:
        os.close(descriptor)


def _acquire(path: Path, waiting: Callable[[], None]) -> int:
    """Return the descriptor that holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while not _taken(descriptor):
                waiting()
                time.sleep(POLL_SECONDS)
            # Its holder may have removed the file: then somebody else locks a new one.
            if _is_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Take the lock unless another holds it, and say whether it was taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocksError(error.strerror) from error
        raise
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
