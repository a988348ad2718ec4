"""The processor and memory of the machine that runs the tests, and made-up ones in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import qwick
from qwick.errors import ParameterError, ResourceError
from qwick.machine.cpu import (
    Memory,
    read_cpu,
    read_kernels,
    read_memory,
    threads_for,
    usable_cores,
    use_threads,
)
from qwick.machine.limits import Limits, measure
from qwick.settings import child_environment


def told_by(script: str) -> str:
    """Return what Python code prints in a process of its own, whose limits it may change."""
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=child_environment(PYTHONPATH=str(Path(qwick.__file__).parents[1])),
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


def test_this_machine() -> None:
    cpu, memory = read_cpu(), read_memory()
    assert 1 <= cpu.usable <= cpu.physical <= cpu.affinity <= cpu.logical
    assert cpu.affinity == len(os.sched_getaffinity(0))
    assert cpu.model
    assert 100e6 < memory.available <= memory.total


def test_affinity_is_honoured() -> None:
    """By what is told, by the kernels, and by the threads that the system has for them."""
    one = min(os.sched_getaffinity(0))
    script = (
        f"import os; os.sched_setaffinity(0, [{one}])\n"
        "from qwick.machine.cpu import read_cpu, use_threads; c = read_cpu()\n"
        "from qwick.native import ops; before = len(os.listdir('/proc/self/task'))\n"
        "print(c.affinity, c.usable, use_threads(None), ops.threads())\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
        "use_threads(3); print(len(os.listdir('/proc/self/task')) - before)"
    )
    environment = child_environment(PYTHONPATH=str(Path(qwick.__file__).parents[1]))
    environment.pop("QWICK_THREADS", None)
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["1", "1", "1", "1", "0", "2"]


def arm(implementer: int, part: int) -> str:
    """Return a processor as Linux on ARM lists it (arch/arm64/kernel/cpuinfo.c)."""
    return (
        "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp\n"
        f"CPU implementer\t: {implementer:#04x}\nCPU architecture: 8\nCPU variant\t: 0x3\n"
        f"CPU part\t: {part:#05x}\nCPU revision\t: 1\n\n"
    )


def one_core(root: Path) -> None:
    """Write a machine whose processors are all threads of one core."""
    for number in os.sched_getaffinity(0):
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text("0\n")
        (folder / "core_id").write_text("5\n")


def test_hyperthreads_count_once(tmp_path: Path) -> None:
    one_core(tmp_path)
    assert read_cpu(tmp_path).physical == 1
    assert usable_cores(tmp_path) == 1


def test_cores_of_two_clusters_may_have_the_same_number(tmp_path: Path) -> None:
    one_core(tmp_path)
    processors = sorted(os.sched_getaffinity(0))
    for number in processors:
        folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
        (folder / "cluster_id").write_text(f"{number}\n")
    assert read_cpu(tmp_path).physical == len(processors)


def test_without_topology_every_processor_counts(tmp_path: Path) -> None:
    assert read_cpu(tmp_path).physical == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: Some CPU @ 2 GHz: fast\n", "Some CPU @ 2 GHz: fast"),
        (4 * arm(0x41, 0xD0C), "Neoverse N1"),
        (4 * arm(0x41, 0xD05) + 2 * arm(0x41, 0xD0B), "4 x Cortex-A55 + 2 x Cortex-A76"),
        (arm(0x41, 0xD0B) + "\nModel\t\t: Some Board 5\n", "Some Board 5: Cortex-A76"),
        (arm(0x61, 0), "Apple, part 0x000"),
        (arm(0x7F, 0xABC), "implementer 0x7f, part 0xabc"),
        ("CPU implementer\t: nobody\nCPU part\t: none\n", ""),
        ("", ""),
    ],
)
def test_model_name(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert read_cpu(tmp_path).model == (name or os.uname().machine)


def test_kernels_are_reported() -> None:
    kernels = read_kernels()
    names = [s.name for s in kernels.sets]
    assert kernels.problem is None
    assert "scalar" in names
    assert kernels.used in [s.name for s in kernels.sets if s.usable]
    assert all(s.usable == (not s.missing) for s in kernels.sets)


def test_the_roofline_is_the_slower_of_two() -> None:
    limits = Limits(bandwidth=10e9, peak=1e12)
    assert limits.seconds(bytes_read=10e9, operations=1) == 1.0
    assert limits.seconds(bytes_read=1, operations=2e12) == 2.0


@pytest.mark.parametrize("megabytes", [0, -1, 63])
def test_measuring_over_too_little_is_refused(megabytes: int) -> None:
    with pytest.raises(ParameterError, match=f"{megabytes}; allowed: 64 or more"):
        measure(megabytes)


def test_measuring_makes_do_with_the_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwick.native import ops

    sizes: list[int] = []

    def read(size: int) -> float:
        sizes.append(size)
        return 1.0

    monkeypatch.setattr(ops, "read_bandwidth", read)
    monkeypatch.setattr(ops, "peak_rate", lambda: 1.0)
    for available in (1 << 40, 200 << 20, 86 << 20):
        measure(memory=Memory(1 << 40, available, "cgroup"))
    assert sizes == [512 << 20, 150 << 20, 64 << 20]
    with pytest.raises(ResourceError, match="takes 64 MB and some to spare; 84 MB are available"):
        measure(memory=Memory(1 << 40, 84 << 20, "cgroup"))


def test_memory_that_the_system_refuses_is_told_so() -> None:
    script = (
        "import resource; from qwick.native import ops; from qwick.machine.limits import measure\n"
        "from qwick.errors import ResourceError; from qwick.machine.cpu import Memory\n"
        "ops.threads()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)\n"
        "try: measure(2048, Memory(1 << 40, 1 << 40, 'machine'))\n"
        "except ResourceError as error: print(error)"
    )
    assert "the system refused " in told_by(script)


def test_measured_limits_are_sane() -> None:
    limits = measure(megabytes=64)
    assert 1e8 < limits.bandwidth < 1e13
    assert 1e8 < limits.peak < 1e16


@pytest.mark.parametrize("wished", [0, -1, 1025, 2.0, True, "2"])
def test_threads_outside_their_range_are_refused(wished: object) -> None:
    with pytest.raises(
        ParameterError, match=r"threads is .*; allowed: whole numbers from 1 to 102"
    ):
        use_threads(wished)  # type: ignore[arg-type]


def test_threads_are_the_wish_or_the_variable_or_the_usable_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one_core(tmp_path)
    monkeypatch.delenv("QWICK_THREADS", raising=False)
    assert threads_for(None, tmp_path) == 1
    monkeypatch.setenv("QWICK_THREADS", "3")
    assert threads_for(None, tmp_path) == 3
    assert threads_for(2, tmp_path) == 2
    monkeypatch.setenv("QWICK_THREADS", "5000")
    with pytest.raises(ParameterError, match=r"QWICK_THREADS is '5000'; allowed: .* 1 to 1024"):
        threads_for(None, tmp_path)


def test_threads_that_the_system_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwick.native import ops

    def refuse(count: int) -> None:  # as pthread_create does beyond RLIMIT_NPROC, root excepted
        raise RuntimeError("Resource temporarily unavailable")

    monkeypatch.setattr(ops, "set_threads", refuse)
    with pytest.raises(ResourceError, match="does not give 7 threads: Resource temp") as caught:
        use_threads(7)
    assert "QWICK_THREADS" in str(caught.value.hint)


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_memory_under_a_limit_of_the_process(limit: str) -> None:
    """What is left of it is what is available, and a checkpoint is refused before it is loaded."""
    script = (
        "import resource, sys; from qwick.machine.cpu import read_memory\n"
        "before = read_memory(); assert before.limited_by != 'ulimit'\n"
        f"resource.setrlimit(resource.{limit}, (400 << 20,) * 2)\n"
        "told = read_memory(); print(told.limited_by, told.total == before.total)\n"
        "import mmap; held = mmap.mmap(-1, 100 << 20, mmap.MAP_PRIVATE)\n"
        "print(told.available - read_memory().available >> 20)\n"
        "try: mmap.mmap(-1, read_memory().available + (1 << 20), mmap.MAP_PRIVATE)\n"
        "except OSError: print('refused')\n"
        "held = mmap.mmap(-1, read_memory().available - (1 << 20), mmap.MAP_PRIVATE)\n"
    )
    assert told_by(script).split() == ["ulimit", "True", "100", "refused"]


def test_the_kernels_use_what_was_asked_for() -> None:
    from qwick.native import ops

    before = ops.threads()
    try:
        assert use_threads(before + 1) == before + 1
        assert ops.threads() == before + 1
    finally:
        ops.set_threads(before)
