"""The limits that control groups set on this process: CPU time and memory, versions 1 and 2.

A limit holds for a group and everything below it, so each is read at every level from the process's
own group up to the mount, and the tightest counts. Files as in the kernel's documentation:
admin-guide/cgroup-v2 (cpu.max, memory.max, memory.high) and admin-guide/cgroup-v1,
scheduler/sched-bwc. Reads files below a given root only; knows nothing about cores or physical
memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qwick.values import a_path

__all__ = ["CgroupLimits", "read_cgroup"]

_UNLIMITED_V1 = 1 << 60  # version 1 writes "no limit" as the largest page-aligned 64-bit number
# Per version: controller, limits, what is used, and what of that the kernel takes back before it
# refuses anything: the pages of files, those read twice (active) too, as in MemAvailable (proc(5)).
# Whoever exceeds memory.high is slowed down until hardly anything moves, so it counts as a limit.
_MEMORY = (
    (
        "memory",
        ("memory.limit_in_bytes",),
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
    (
        None,
        ("memory.max", "memory.high"),
        "memory.current",
        ("inactive_file", "active_file", "slab_reclaimable"),
    ),
)


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The tightest limits found; None where there is none."""

    cpus: float | None = None  # CPU seconds per second
    memory: int | None = None  # bytes that the group may use
    memory_free: int | None = None  # bytes of it still to be had (pages of files count as free)


def read_cgroup(root: Path = Path("/")) -> CgroupLimits:
    """Return the limits of this process, reading /proc and /sys below `root`."""
    root = a_path("root", root, "a folder")
    cpus: list[float] = []
    limits: list[int] = []
    free: list[int] = []
    for folder in _levels(root, "cpu"):
        quota = _number(folder / "cpu.cfs_quota_us")
        period = _number(folder / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            cpus.append(quota / period)
    for folder in _levels(root, None):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            cpus.append(int(words[0]) / int(words[1]))
    for controller, limit_files, used_file, cached in _MEMORY:
        for folder in _levels(root, controller):
            found = [_number(folder / name) for name in limit_files]
            limit = min((n for n in found if n is not None), default=_UNLIMITED_V1)
            if limit >= _UNLIMITED_V1:
                continue
            used = _number(folder / used_file) or 0
            limits.append(limit)
            back = _statistics(folder / "memory.stat", cached)
            free.append(min(limit, max(0, limit - used + back)))
    return CgroupLimits(
        cpus=min(cpus, default=None),
        memory=min(limits, default=None),
        memory_free=min(free, default=None),
    )


def _levels(root: Path, controller: str | None) -> Iterator[Path]:
    """Yield this process's group and its parents; controller None means version 2."""
    group = _group_path(root, controller)
    mount = _mount(root, controller)
    if group is None or mount is None:
        return
    mount_root, mount_point = mount
    top = root / mount_point.lstrip("/")
    # In a container the group may lie outside of what is mounted; the mount itself is then ours.
    inside = group == mount_root or group.startswith(mount_root.rstrip("/") + "/")
    relative = group[len(mount_root) :].strip("/") if inside else ""
    folder = top / relative
    if ".." in Path(relative).parts:
        folder = top
    yield folder
    while folder != top:
        folder = folder.parent
        yield folder


def _group_path(root: Path, controller: str | None) -> str | None:
    """Return the path of this process's group from /proc/self/cgroup."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller is None:
            if number == "0" and not controllers:
                return path
        elif controller in controllers.split(","):
            return path
    return None


def _mount(root: Path, controller: str | None) -> tuple[str, str] | None:
    """Return (root inside the hierarchy, mount point) from /proc/self/mountinfo."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        is_v2 = controller is None and kind[0] == "cgroup2"
        is_v1 = controller is not None and kind[0] == "cgroup" and controller in kind[2].split(",")
        if is_v1 or is_v2:
            return _unescape(fields[3]), _unescape(fields[4])
    return None


def _unescape(text: str) -> str:
    """Undo the octal escapes of mountinfo (a space is written \\040)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _statistics(path: Path, keys: tuple[str, ...]) -> int:
    """Return the sum of some figures of a memory.stat; those that are not there count as 0."""
    total = 0
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if name in keys and value.strip().isdigit():
            total += int(value)
    return total


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:  # no such file, or the word "max"
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
