"""The processor and the memory that this process may use.

Affinity, control groups and the kernel's own figures together decide; instruction sets are the
native layer's to tell. Knows nothing about models.
"""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwick import settings
from qwick.errors import QwickError, ResourceError
from qwick.machine.arm import cores_named
from qwick.machine.cgroup import CgroupLimits, read_cgroup
from qwick.values import a_path, check_kind, whole

if TYPE_CHECKING:
    from qwick.native.ops import InstructionSet

__all__ = [
    "Cpu",
    "Kernels",
    "Memory",
    "read_cpu",
    "read_kernels",
    "read_memory",
    "threads_for",
    "usable_cores",
    "use_threads",
]

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor, as far as this process is concerned."""

    model: str
    architecture: str  # as uname gives it: x86_64, aarch64
    logical: int  # logical processors of the machine
    affinity: int  # logical processors this process may be scheduled on
    physical: int  # different cores among those
    quota: float | None  # CPU seconds per second that control groups allow; None: no limit
    usable: int  # kernel threads that make sense: physical cores within the quota, at least 1


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in bytes, control groups included."""

    total: int  # physical, or the control group's limit where that is smaller
    available: int  # what a new allocation may count on
    limited_by: str  # "machine", "cgroup" or "ulimit": which of them sets `available`


@dataclass(frozen=True, slots=True)
class Kernels:
    """The native layer's own account of itself."""

    sets: tuple[InstructionSet, ...]  # every one in this build, best first
    used: str | None  # the one in force
    problem: str | None  # why none is: a broken build, or a setting that cannot be obeyed


def usable_cores(root: Path = ROOT) -> int:
    """Return how many kernel threads make sense for this process, at least 1."""
    return read_cpu(root).usable


def threads_for(wished: int | None, root: Path = ROOT) -> int:
    """Return how many kernel threads to use: the wish, else QWICK_THREADS, else the usable cores.

    The kernels' own default knows neither control groups nor cores with several threads.
    ParameterError, which names the option or the variable, outside 1 to 1024.
    """
    root = a_path("root", root, "a folder")
    if wished is None:
        asked = settings.THREADS.get()
        return min(usable_cores(root), settings.MAX_THREADS) if asked is None else asked
    return whole("threads", wished, 1, settings.MAX_THREADS)


def use_threads(wished: int | None) -> int:
    """Set how many threads every kernel of this process uses, and return it: see `threads_for`.

    Raises ParameterError, ResourceError when the system does not give so many (a limit on
    processes), and NativeBuildError when there are no kernels.
    """
    count = threads_for(wished)
    from qwick.native import ops

    try:
        ops.set_threads(count)
    except RuntimeError as error:  # std::system_error, from pthread_create
        raise ResourceError(
            f"the system does not give {count} threads: {error}",
            hint=f"ask for fewer (--threads, {settings.THREADS.name}), or raise ulimit -u or -v",
        ) from error
    return count


def read_cpu(root: Path = ROOT, limits: CgroupLimits | None = None) -> Cpu:
    """Return the processor as seen by this process; files are read below `root`."""
    root, limits = _checked(root, limits)
    allowed = sorted(os.sched_getaffinity(0))
    physical = _physical_cores(root, allowed)
    # A share of a core cannot run a thread without throttling all of them, so it is rounded down.
    usable = physical if limits.cpus is None else min(physical, int(limits.cpus))
    return Cpu(
        model=_model_name(root),
        architecture=platform.machine(),
        logical=os.cpu_count() or len(allowed),
        affinity=len(allowed),
        physical=physical,
        quota=limits.cpus,
        usable=max(1, usable),
    )


def read_memory(root: Path = ROOT, limits: CgroupLimits | None = None) -> Memory:
    """Return the memory this process may use; files are read below `root`.

    MemAvailable is the kernel's estimate of what can be allocated without swapping (proc(5)). A
    limit of this process (ulimit -v, ulimit -d) leaves what it has not mapped yet.
    """
    root, limits = _checked(root, limits)
    figures = _meminfo(root)
    total = figures.get("MemTotal", 0)
    available = figures.get("MemAvailable", figures.get("MemFree", total))
    if limits.memory is not None:
        total = min(total, limits.memory)
    limited_by = "machine"
    for name, left in (("cgroup", limits.memory_free), ("ulimit", _left_to_map(root))):
        if left is not None and left < available:
            available, limited_by = left, name
    return Memory(total, available, limited_by)


def read_kernels() -> Kernels:
    """Return what the native layer can do here; never raises for a broken build or setting."""
    sets: tuple[InstructionSet, ...] = ()
    try:
        from qwick.native import ops

        sets = tuple(ops.available())
        return Kernels(sets, ops.isa(), None)
    except QwickError as error:  # not built, or the environment asks for what cannot be
        return Kernels(sets, None, error.message)
    except RuntimeError as error:  # no threads to be had
        return Kernels(sets, None, str(error))


def _checked(root: Path, limits: CgroupLimits | None) -> tuple[Path, CgroupLimits]:
    """Return the root, and the limits or those that are read below it; raises ParameterError."""
    root = a_path("root", root, "a folder")
    if limits is None:
        return root, read_cgroup(root)
    check_kind("limits", limits, CgroupLimits, "a CgroupLimits, or none")
    return root, limits


def _physical_cores(root: Path, processors: list[int]) -> int:
    """Return how many cores the logical processors belong to (kernel: cputopology)."""
    cores = set()
    for number in processors:
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        try:
            package = (folder / "physical_package_id").read_text().strip()
            core = (folder / "core_id").read_text().strip()
        except OSError:  # no topology (some containers): every processor counts
            return len(processors)
        # On ARM the kernel numbers cores anew in each cluster (drivers/base/arch_topology.c).
        cluster = folder / "cluster_id"
        cores.add((package, cluster.read_text().strip() if cluster.exists() else "", core))
    return max(1, len(cores))


def _model_name(root: Path) -> str:
    """Return the processor's name: of an ARM machine its cores', and its own where it has one."""
    try:
        lines = (root / "proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    cores = cores_named(lines)
    for wanted in ("model name", "Model", "Hardware"):
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == wanted and value.strip():
                return f"{value.strip()}: {cores}" if cores else value.strip()
    return cores or platform.machine()


def _left_to_map(root: Path) -> int | None:
    """Return how much this process's own limits let it still map (setrlimit(2)); None: no limit."""
    try:
        pages = [int(word) for word in (root / "proc/self/statm").read_text().split()]
    except (OSError, ValueError):
        return None
    left = []
    for limit, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            left.append(max(0, most - used * resource.getpagesize()))
    return min(left, default=None)


def _meminfo(root: Path) -> dict[str, int]:
    """Return the figures of /proc/meminfo in bytes."""
    figures = {}
    try:
        lines = (root / "proc/meminfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            figures[key] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return figures
