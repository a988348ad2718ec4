"""A memory limit for child processes by a control group, where this process may make one.

Both versions of control groups. What cannot be limited is measured only, and said to be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limit:
    """`enter` runs in a child before its program; `words` say what holds."""

    enter: Callable[[], None] | None
    words: str


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
        yield Limit(enter, f"in a control group of {size / 2**30:g} GiB")
    finally:
        with suppress(OSError):  # a child that is still leaving holds it; it is empty soon
            made.rmdir()


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
            swap = group / "memory.swap.max"
            if swap.is_file():
                swap.write_text("0")
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        return group
    return None
