"""This machine in one record: what can be read at once, and what was measured, kept in a file.

Measuring takes a second or two and the kernels; whoever only wants to know the figures finds them
in a small file in the store's home, for as long as what they depend on is the same. Knows nothing
about models.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwick import settings
from qwick.errors import ParameterError, QwickError
from qwick.machine.cgroup import read_cgroup
from qwick.machine.cpu import Cpu, Memory, read_cpu, read_memory, threads_for, use_threads
from qwick.machine.gpu import Gpu, read_gpus
from qwick.machine.limits import measure, measure_products
from qwick.values import a_path, check_kind, check_switch, real, refused, whole

__all__ = ["Machine", "cached", "probe"]

FILE = "machine.json"  # in the store's home
MONTH = 30 * 86400.0  # seconds for which figures count: firmware, neighbours and memory change
HOUR = 3600.0  # seconds for which they do when others computed while they were measured

# Of the time of its threads that a process waited for a core while it measured, on 2 cores: 0.01 to
# 0.14 on an idle machine, 0.20 to 0.36 beside one or two programs that compute, which cost 20 to
# 50 % of both figures.
_WAITED = 0.15

# 2**20 bytes each. On a Xeon of 2 cores with an L3 of 480 of them, shared with its neighbours, a
# first call took 0.7 to 1.8 s, 0.4 of that for the import and the arithmetic, most of the rest for
# the buffer's first pages. It read 19 to 24 GB/s over 256, 512 and 1024 alike, but 23 to 35 over
# 128 and 37 to 46 over 64: those are caches.
MEGABYTES = 512
_FORMAT = 2  # of the file: another one whenever what is written, or how it is found out, changes
_MOST_BYTES = 1 << 20  # of the file
_MOST_GPUS = 1 << 10
_ENDLESS = 1e300  # above any figure; infinity is none


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use, and how fast that is. Everything in it is plain data."""

    cpu: str  # the processor's name
    architecture: str  # as uname gives it: x86_64, aarch64
    cores: int  # usable: physical cores within affinity and quota, at least 1
    threads: int  # kernel threads: QWICK_THREADS, else the usable cores
    isa: str  # instruction set of the kernels, as measured with
    memory: int  # bytes: physical, or the control group's limit where that is smaller
    bandwidth: float  # bytes that all threads together read from memory per second
    peak: float  # operations per second of the matrix kernels, on registers alone
    products: float  # the same on a prompt's product with weights in 4 bits
    products_wide: float  # and with weights in bf16
    gpus: tuple[Gpu, ...]
    measured: float  # when, in seconds since 1970 (UTC)
    busy: bool  # others computed meanwhile: the machine can do more than bandwidth and peak say

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name, as JSON has it."""
        return {**asdict(self), "gpus": [asdict(one) for one in self.gpus]}


def probe(
    refresh: bool = False, cache: Path | None = None, memory: Memory | None = None
) -> Machine:
    """Return this machine; measured anew with `refresh`, or where `cached` finds nothing.

    Cores and memory (default: this machine's) are read each time; bandwidth, peak, instruction set
    and GPUs come from the file `cache` (default: machine.json in the store's home). What is
    measured is written there in one step; a file that cannot be written is no error, and of two
    processes that measure at once the later one's figures stay. Bandwidth and peak are the best of
    several runs, so a short load does not lower them. A lasting one does: then they are `busy`, and
    count for an hour instead of 30 days.

    Raises ParameterError for what is no path, switch or Memory, or a bad setting; and what
    `measure` and `use_threads` raise: ResourceError without the memory that measuring takes, or
    the threads, and NativeBuildError without usable kernels.
    """
    check_switch("refresh", refresh)
    path = _place(cache)
    if memory is not None:
        check_kind("memory", memory, Memory, "a Memory, or none")
    limits = read_cgroup()
    memory = read_memory(limits=limits) if memory is None else memory
    processor, threads = read_cpu(limits=limits), threads_for(None)
    key = _key(processor, threads)
    found = None if refresh or path is None else _kept(path, key)
    if found is None:
        found = _measured(threads, memory)
        if path is not None:
            _keep(path, key, found)
    return _machine(processor, threads, memory, found)


def cached(cache: Path | None = None) -> Machine | None:
    """Return this machine where its figures are in the file `cache` (default: as `probe`'s).

    None where there is no such file, or one that is damaged, too old (see `probe`) or from the
    future, or measured with another processor, other cores, threads, instruction set or kernels.
    Measures and writes nothing, and loads no kernels. Raises ParameterError for what is no path,
    or a bad setting.
    """
    path = _place(cache)
    limits = read_cgroup()
    processor, threads = read_cpu(limits=limits), threads_for(None)
    found = None if path is None else _kept(path, _key(processor, threads))
    if found is None:
        return None
    return _machine(processor, threads, read_memory(limits=limits), found)


@dataclass(frozen=True, slots=True)
class _Figures:
    """What is measured, or takes as long to find out."""

    isa: str
    bandwidth: float
    peak: float
    products: float
    products_wide: float
    gpus: tuple[Gpu, ...]
    measured: float
    busy: bool


def _machine(processor: Cpu, threads: int, memory: Memory, found: _Figures) -> Machine:
    return Machine(
        cpu=processor.model,
        architecture=processor.architecture,
        cores=processor.usable,
        threads=threads,
        isa=found.isa,
        memory=memory.total,
        bandwidth=found.bandwidth,
        peak=found.peak,
        products=found.products,
        products_wide=found.products_wide,
        gpus=found.gpus,
        measured=found.measured,
        busy=found.busy,
    )


def _place(cache: Path | None) -> Path | None:
    """Return where figures are kept; None: this user has no home folder, and does without."""
    if cache is not None:
        return a_path("cache", cache, "a file, or none")
    try:
        return settings.HOME.get() / FILE
    except ParameterError:
        if settings.HOME.is_set:
            raise
        return None


def _key(processor: Cpu, threads: int) -> dict[str, Any]:
    """Return everything that the figures depend on, as JSON has it."""
    return {
        "format": _FORMAT,
        "cpu": processor.model,
        "architecture": processor.architecture,
        "processors": sorted(os.sched_getaffinity(0)),  # cores differ, and so do their memories
        "quota": processor.quota,
        "cores": processor.usable,
        "threads": threads,
        "isa": settings.ISA.get(),
        "kernels": _build(),
    }


def _build() -> list[int] | None:
    """Return size and time of the kernels' file, which tell one build from another.

    The version does not, while kernels are written, and to look it up takes longer than a call may.
    """
    try:
        found = importlib.util.find_spec("qwick.native._native")  # found, not loaded
        status = os.stat(found.origin) if found is not None and found.origin else None
    except (ImportError, OSError, ValueError):
        return None
    return None if status is None else [status.st_size, status.st_mtime_ns]


def _measured(threads: int, memory: Memory) -> _Figures:
    """Measure with `threads` kernel threads; whoever has loaded kernels keeps the number of his."""
    loaded = "qwick.native.ops" in sys.modules
    from qwick.native import ops

    before = ops.threads() if loaded else threads
    use_threads(threads)
    start, waited = time.monotonic(), _waited()
    try:
        limits, products = measure(MEGABYTES, memory), measure_products()
        busy = _waited() - waited > _WAITED * threads * (time.monotonic() - start)
    finally:
        use_threads(before)
    return _Figures(
        isa=ops.isa(),
        bandwidth=limits.bandwidth,
        peak=limits.peak,
        products=products.small,
        products_wide=products.wide,
        gpus=read_gpus(),
        measured=time.time(),
        busy=busy,
    )


def _waited() -> float:
    """Return the seconds that the threads of this process were ready to run, but had no core.

    The second figure of schedstat (kernel: scheduler/sched-stats); 0 of a kernel without it.
    """
    waited = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # a thread that has ended
            waited += int(path.read_text().split()[1])
    return waited / 1e9


def _kept(path: Path, key: dict[str, Any]) -> _Figures | None:
    """Return the figures in a file; None: it has none that hold for this key and this day."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
        found = json.loads(data)
        if len(data) == _MOST_BYTES or found["key"] != key:
            return None
        given = found["figures"]
        figures = _Figures(
            isa=_words("isa", given["isa"]),
            bandwidth=real("bandwidth", given["bandwidth"], 1, _ENDLESS),
            peak=real("peak", given["peak"], 1, _ENDLESS),
            products=real("products", given["products"], 1, _ENDLESS),
            products_wide=real("products_wide", given["products_wide"], 1, _ENDLESS),
            gpus=tuple(_gpu(one) for one in given["gpus"][:_MOST_GPUS]),
            measured=real("measured", given["measured"], 0, _ENDLESS),
            busy=given["busy"] is not False,
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError, QwickError):
        return None
    counts = HOUR if figures.busy else MONTH
    return figures if 0 <= time.time() - figures.measured <= counts else None


def _gpu(given: dict[str, Any]) -> Gpu:
    memory = given["memory"]
    return Gpu(
        name=_words("name", given["name"]),
        memory=None if memory is None else whole("memory", memory, 1, 1 << 62),
        kind=_words("kind", given["kind"]),
    )


def _words(name: str, value: Any) -> str:
    """Return a text that can be shown; raises ParameterError."""
    if not (isinstance(value, str) and value.isprintable() and 1 <= len(value) <= 200):
        raise refused(name, value, "1 to 200 printable characters")
    return value


def _keep(path: Path, key: dict[str, Any], figures: _Figures) -> None:
    """Write figures in one step, or leave it: they can be measured again.

    For the same reason nothing is synced: what a power loss leaves half written counts as damaged.
    """
    text = json.dumps({"key": key, "figures": asdict(figures)}, indent=1)
    part = path.parent / f"{path.name}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text, "utf-8")
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
