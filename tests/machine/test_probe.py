"""This machine measured, and what is kept of it: found again, not believed when it does not fit."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import qwick
from qwick.errors import ParameterError, ResourceError
from qwick.machine import probe as module
from qwick.machine.cpu import Memory, read_cpu, read_memory, threads_for
from qwick.machine.gpu import Gpu
from qwick.machine.probe import Machine, cached, probe
from qwick.settings import child_environment

TOO_LITTLE = Memory(1 << 40, 1, "machine")  # to measure with


@pytest.fixture(scope="module")
def threads() -> Iterator[int]:
    """The kernels' threads before, which are put back after all."""
    from qwick.native import ops

    before = ops.threads()
    yield before
    ops.set_threads(before)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, threads: int) -> tuple[Machine, bytes]:
    """This machine as the first call measures it, and the file that it leaves, alone."""
    path = tmp_path_factory.mktemp("probe") / "home" / "machine.json"
    assert cached(path) is None
    machine = probe(cache=path)
    assert [file.name for file in path.parent.iterdir()] == ["machine.json"]
    return machine, path.read_bytes()


@pytest.fixture
def cache(measured: tuple[Machine, bytes], tmp_path: Path) -> Path:
    """A copy of that file."""
    path = tmp_path / "machine.json"
    path.write_bytes(measured[1])
    return path


def test_what_is_measured(measured: tuple[Machine, bytes]) -> None:
    machine, cpu = measured[0], read_cpu()
    assert (machine.cpu, machine.architecture) == (cpu.model, cpu.architecture)
    assert (machine.cores, machine.threads) == (cpu.usable, threads_for(None))
    assert machine.memory == read_memory().total
    assert 1e8 < machine.bandwidth < 1e13
    assert 1e8 < machine.peak < 1e16
    assert time.time() - 600 < machine.measured <= time.time()
    from qwick.native import ops

    assert machine.isa == ops.isa()
    told = json.loads(json.dumps(machine.to_dict()))
    assert Machine(**{**told, "gpus": tuple(Gpu(**one) for one in told["gpus"])}) == machine


def test_it_is_found_again_without_measuring(measured: tuple[Machine, bytes], cache: Path) -> None:
    assert cached(cache) == measured[0]
    assert probe(cache=cache) == measured[0]
    # What is read each time is not taken from the file.
    assert probe(cache=cache, memory=TOO_LITTLE).memory == 1 << 40
    assert cache.read_bytes() == measured[1]


def test_finding_it_is_quick_and_loads_no_kernels(cache: Path) -> None:
    script = (
        "import sys, time; from qwick.machine.probe import cached, probe\n"
        "from pathlib import Path; path = Path(sys.argv[1]); took = []\n"
        "for _ in range(5):\n"
        "    start = time.perf_counter(); assert probe(cache=path) == cached(path)\n"
        "    took.append(time.perf_counter() - start)\n"
        "assert not {'numpy', 'qwick.native.ops', 'qwick.native._native'} & set(sys.modules)\n"
        "print(min(took))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(cache)],
        env=child_environment(PYTHONPATH=str(Path(qwick.__file__).parents[1])),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.05


def test_its_place_is_the_stores_home(
    measured: tuple[Machine, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWICK_HOME", str(cache.parent))
    assert cached() == probe() == measured[0]
    monkeypatch.setenv("QWICK_HOME", "~no such user/x")
    with pytest.raises(ParameterError, match="QWICK_HOME is '~no such user/x'"):
        cached()


def test_a_user_without_a_home_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QWICK_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert cached() is None
    with pytest.raises(ResourceError):  # it would measure
        probe(memory=TOO_LITTLE)


@pytest.mark.parametrize(
    "name",
    ["format", "cpu", "architecture", "processors", "quota", "cores", "threads", "isa", "kernels"],
)
def test_figures_of_another_machine_do_not_count(cache: Path, name: str) -> None:
    found = json.loads(cache.read_bytes())
    assert name in found["key"]
    found["key"][name] = "another"
    cache.write_text(json.dumps(found))
    assert cached(cache) is None


def test_settings_that_change_the_figures(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("QWICK_THREADS", str(threads_for(None) + 1))
        assert cached(cache) is None
    with monkeypatch.context() as changed:
        changed.setenv("QWICK_ISA", "scalar")
        assert cached(cache) is None
    assert cached(cache) is not None


@pytest.mark.parametrize(
    ("busy", "hours", "counts"),
    [
        *((False, 29 * 24, True), (False, 31 * 24, False), (False, -1, False)),
        *((True, 0.9, True), (True, 1.1, False), (True, -1, False)),
    ],
)
def test_figures_grow_old(cache: Path, busy: bool, hours: float, counts: bool) -> None:
    edit(cache, measured=time.time() - hours * 3600, busy=busy)
    assert (cached(cache) is not None) == counts


def edit(cache: Path, **figures: Any) -> None:
    """Write other figures into a file."""
    found = json.loads(cache.read_bytes())
    found["figures"].update(figures)
    cache.write_text(json.dumps(found))


GPU = {"name": "NVIDIA A10", "memory": 1 << 34, "kind": "nvidia"}


def test_gpus_are_kept(cache: Path) -> None:
    edit(cache, gpus=[GPU, {**GPU, "memory": None}])
    machine = cached(cache)
    assert machine is not None
    assert machine.gpus == (Gpu(**GPU), Gpu("NVIDIA A10", None, "nvidia"))  # type: ignore[arg-type]
    assert machine.to_dict()["gpus"][0] == GPU


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("isa", value) for value in ("", "a\x1b[31m", None, 1, "x" * 300)),
        *(("bandwidth", value) for value in (0, -1, True, "1", None, math.nan, math.inf, 10**400)),
        *(("peak", value) for value in (0, math.nan, [1])),
        *(("measured", value) for value in (math.nan, -math.inf, "now", 10**400)),
        *(("gpus", value) for value in (None, {}, "ab", [1], [{}], [[]])),
        *(("gpus", [{**GPU, "memory": value}]) for value in (0, -1, 1.5, "1", True)),
        *(("gpus", [{**GPU, "name": value}]) for value in ("", "a\nb", None)),
    ],
)
def test_damaged_figures_do_not_count(cache: Path, name: str, value: Any) -> None:
    edit(cache, **{name: value})
    assert cached(cache) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" + data,
        lambda data: data + b" " * (1 << 20),
        lambda data: b"[" * 100_000,
        lambda data: b"1" * 10_000,
        lambda data: b"null",
        lambda data: b'{"key": 1}',
        lambda data: data.replace(b'"figures"', b'"others"'),
    ],
)
def test_damaged_files_do_not_count(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    cache.write_bytes(damage(cache.read_bytes()))
    assert cached(cache) is None


def test_what_is_no_file_is_not_read(cache: Path) -> None:
    cache.unlink()
    os.mkfifo(cache)
    assert cached(cache) is None  # and it does not wait for somebody to write
    assert cached(cache / "below") is None
    assert cached(cache.parent) is None
    assert cached(Path("a" * 5000)) is None


def test_a_damaged_file_is_measured_anew_by_the_threads_in_force(
    cache: Path, measured: tuple[Machine, bytes]
) -> None:
    from qwick.native import ops

    cache.write_text("{")
    ops.set_threads(3)  # of somebody who has loaded a model
    machine = probe(cache=cache)
    assert ops.threads() == 3
    assert machine.threads == threads_for(None)
    assert machine.measured > measured[0].measured
    assert cached(cache) == machine


def test_a_busy_machine_is_told(cache: Path) -> None:
    spin = "import sys, time\nwhile time.monotonic() < float(sys.argv[1]): pass"
    end = str(time.monotonic() + 60)  # should this test not end them
    command = [sys.executable, "-c", spin, end]
    others = [subprocess.Popen(command) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        machine = probe(refresh=True, cache=cache)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert machine.busy
    assert cached(cache) == machine


def test_refresh_measures_anew(cache: Path) -> None:
    edit(cache, bandwidth=1.0, isa="none")
    assert probe(cache=cache).isa == "none"
    machine = probe(refresh=True, cache=cache)
    assert machine.bandwidth > 1e8
    assert machine.isa != "none"
    assert cached(cache) == machine


def test_a_place_that_cannot_be_written_is_no_error(cache: Path) -> None:
    machine = probe(cache=cache / "below" / "machine.json")
    assert machine.bandwidth > 1e8
    for place in (cache.parent, Path(), Path("/proc/none/x"), Path("a" * 5000)):
        module._keep(place, {}, module._Figures("x", *4 * [1.0], (), 1.0, False))
    assert [file.name for file in cache.parent.iterdir()] == ["machine.json"]


def test_who_cannot_measure_leaves_the_file(cache: Path) -> None:
    before = cache.read_bytes()
    with pytest.raises(ResourceError, match="measuring this machine's memory takes 64 MB"):
        probe(refresh=True, cache=cache, memory=TOO_LITTLE)
    assert cache.read_bytes() == before


def test_whoever_reads_while_others_write_finds_a_whole_file(
    cache: Path, measured: tuple[Machine, bytes]
) -> None:
    key = json.loads(measured[1])["key"]
    figures = module._kept(cache, key)
    assert figures is not None
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            module._keep(cache, key, figures)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        found = [module._kept(cache, key) for _ in range(500)]
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert set(found) == {figures}
    assert [file.name for file in cache.parent.iterdir()] == ["machine.json"]
