"""Limits for child processes by a control group, where this process may make one.

Both versions of control groups. What cannot be limited is measured only, and said to be.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
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
    v1 = {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
    v2 = {"memory.max": size, "memory.swap.max": 0}
    with _group("memory", v1, v2, f"of {size / 2**30:g} GiB") as limit:
        yield limit


@contextmanager
def limited_cpus(cpus: float) -> Iterator[Limit]:
    """Limit children that run `enter` to `cpus` CPU seconds a second, if that can be done."""
    quota, period = int(cpus * 100_000), 100_000  # microseconds
    v1 = {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": quota}
    with _group("cpu", v1, {"cpu.max": f"{quota} {period}"}, f"of {cpus:g} CPUs") as limit:
        yield limit


@contextmanager
def _group(
    controller: str, v1: Mapping[str, object], v2: Mapping[str, object], words: str
) -> Iterator[Limit]:
    made = _make(ROOT / controller, v1) or _make(ROOT, v2)
    if made is None:
        yield Limit(None, "not limited: no control group could be made")
        return
    procs = made / "cgroup.procs"

    def enter() -> None:
        procs.write_text(str(os.getpid()))

    try:
        yield Limit(enter, f"in a control group {words}", made)
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


def _make(parent: Path, files: Mapping[str, object]) -> Path | None:
    """Return a new group with these limits; None where it cannot be had."""
    group = parent / f"qwick-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        for name, value in files.items():
            if "sw" not in name or (group / name).is_file():  # swap may not be accounted for
                (group / name).write_text(str(value))
    except OSError:
        with suppress(OSError):
            group.rmdir()
        return None
    return group


def forget_pages(file: Path) -> None:
    """Drop a file's pages from memory, so that whoever reads it next is charged for them."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
