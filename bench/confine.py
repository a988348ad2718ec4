"""A memory limit for child processes by a control group, where this process may make one.

Both versions of control groups. What cannot be limited is measured only, and said to be.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limit:
    """`enter` runs in a child before its program; `words` say what holds."""

    enter: Callable[[], None] | None  # None: nothing is limited
    words: str
    group: Path | None = None

    def peak(self) -> int | None:
        """Return the most bytes that the group has held, file pages included; None: not told."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if self.group is not None and (self.group / name).is_file():
                return int((self.group / name).read_text())
        return None


@contextmanager
def limited(size: int) -> Iterator[Limit]:
    """Limit the memory of children that run `enter` to `size` bytes, if that can be done."""
    made = _make(size)
    if made is None:
        yield Limit(None, "not limited: no control group could be made")
        return
    procs = made / "cgroup.procs"

    def enter() -> None:
        procs.write_text(str(os.getpid()))

    try:
        yield Limit(enter, f"in a control group of {size / 2**30:g} GiB", made)
    finally:
        _remove(made)


def _remove(group: Path) -> None:
    """Remove a group once the last process has left it; a second is ample."""
    for _ in range(100):
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.01)


def _make(size: int) -> Path | None:
    name = f"qwick-bench-{os.getpid()}"
    for parent, file in ((ROOT / "memory", "memory.limit_in_bytes"), (ROOT, "memory.max")):
        group = parent / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(str(size))
            for swap, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", size)):
                if (group / swap).is_file():
                    (group / swap).write_text(str(value))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        return group
    return None


def forget_pages(file: Path) -> None:
    """Drop a file's pages from memory, so that whoever reads it next is charged for them."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
