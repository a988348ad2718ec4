"""An engine in a process of its own: real processes that answer, die, hang and are left behind."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest

from engine import builds
from engine.test_thread import Waiting
from engine.toy import ToyModel, engine_of, greedy, run
from qwick.engine.client import State
from qwick.engine.process import EngineProcess
from qwick.engine.request import Event, FinishReason, Progress, Request, Sampling
from qwick.errors import ContextLengthError, EngineError, FormatError, UnsupportedError


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not waited for does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pid_of(process: EngineProcess) -> int:
    pid = process.pulse.pid
    assert pid is not None
    return pid


def started(build: Callable[..., object], **options: float) -> EngineProcess:
    process = EngineProcess(build, **options)  # type: ignore[arg-type]
    process.wait_ready(30)
    return process


@pytest.fixture(scope="module")
def shared() -> Iterator[EngineProcess]:
    process = started(builds.toy)
    yield process
    pid = pid_of(process)
    assert process.close(timeout=30)
    assert not alive(pid)


@pytest.fixture
def process() -> Iterator[EngineProcess]:
    process = started(partial(builds.toy, pause=0.01))
    yield process
    assert process.close(timeout=30)


def test_many_threads_at_once_get_what_each_gets_alone(shared: EngineProcess) -> None:
    requests = [
        Request([i % 40, i % 7], sampling=Sampling(seed=i, max_tokens=3 + i % 9)) for i in range(60)
    ]

    def ask(request: Request) -> list[int]:
        sink = Waiting()
        shared.submit(request, sink)
        return sink.wait().ids

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, requests))
    assert together == [run(engine_of(ToyModel(context=4096)), [r])[0].ids for r in requests]
    until(lambda: shared.stats.finished.total() >= 60)
    assert shared.snapshot.running == 0
    assert shared.snapshot.pages_used == 0


def test_what_cannot_be_is_refused_at_once(shared: EngineProcess) -> None:
    with pytest.raises(ContextLengthError, match="the context holds 4096"):
        shared.submit(Request([1] * 4097), Waiting())
    with pytest.raises(UnsupportedError, match="stop strings need a tokenizer"):
        shared.submit(Request([1], sampling=Sampling(stop=("a",))), Waiting())
    with pytest.raises(UnsupportedError, match="a guide needs a tokenizer"):
        shared.submit(Request([1], guide="anything"), Waiting())


def test_cancel_ends_within_a_step(process: EngineProcess) -> None:
    sink = Waiting()
    ticket = process.submit(greedy([1], 4000), sink)
    until(lambda: len(sink.ids) > 3)
    before = len(sink.ids)
    ticket.cancel()
    end = sink.wait().end
    assert end.reason is FinishReason.CANCELLED
    assert end.completion_tokens <= before + 20  # of 10 ms each
    ticket.cancel()  # once more is nothing


def test_progress_of_a_long_prompt(shared: EngineProcess) -> None:
    events: list[Event] = []
    sink = Waiting()

    def both(event: Event) -> None:
        events.append(event)
        if not isinstance(event, Progress):
            sink(event)

    shared.submit(
        Request(
            [i % 40 for i in range(3000)],
            sampling=Sampling(max_tokens=1, seed=1),
            namespace="progress",
            progress=True,
        ),
        both,
    )
    sink.wait()
    told = [event for event in events if isinstance(event, Progress)]
    assert len(told) >= 3
    assert [p.total for p in told] == [3000] * len(told)
    assert all(a.done < b.done for a, b in itertools.pairwise(told))
    assert told[-1].done < 3000


def test_events_of_a_step_are_posted_together() -> None:
    calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
    process = EngineProcess(partial(builds.toy, pause=0.05), post=calls.put)
    try:
        process.wait_ready(30)
        sinks = [Waiting() for _ in range(8)]
        for i, sink in enumerate(sinks):
            process.submit(greedy([i], 10), sink)
        posted = 0
        while not all(sink.done.is_set() for sink in sinks):
            calls.get(timeout=30)()
            posted += 1
        assert posted <= 40, "80 tokens came in as many calls"
    finally:
        process.close()


def test_a_killed_engine_is_replaced(process: EngineProcess) -> None:
    first = pid_of(process)
    sinks = [Waiting() for _ in range(5)]
    for i, sink in enumerate(sinks):
        process.submit(greedy([i], 4000), sink)
    until(lambda: all(len(sink.ids) > 2 for sink in sinks))
    os.kill(first, signal.SIGKILL)
    for sink in sinks:
        end = sink.wait().end
        assert end.reason is FinishReason.ERROR
        assert isinstance(end.error, EngineError)
        assert "signal 9" in end.error.message
    process.wait_ready(30)
    assert pid_of(process) != first
    assert process.pulse.restarts == 1
    assert process.pulse.restarted is not None
    assert process.pulse.restarted < 60
    sink = Waiting()
    process.submit(greedy([3], 5), sink)
    assert len(sink.wait().ids) == 5


def test_deaths_are_told_with_their_reason() -> None:
    """Before the requests that end with it hear of it."""
    told: list[tuple[int, str, int, bool]] = []
    process = EngineProcess(
        builds.toy,
        on_death=lambda pid, error, restarts, last: told.append(
            (pid, error.message, restarts, last)
        ),
    )
    try:
        process.wait_ready(30)
        pids = []
        for number in range(3):
            process.wait_ready(30)
            pids.append(pid_of(process))
            os.kill(pids[-1], signal.SIGKILL)
            until(lambda number=number: len(told) > number)  # type: ignore[misc]
        until(lambda: process.pulse.state is State.FAILED)
    finally:
        process.close()
    why = "the engine's process ended with signal 9"
    assert told == [
        (pids[0], why, 1, False),
        (pids[1], why, 2, False),
        (pids[2], why, 2, True),
    ]


def test_while_it_is_replaced_requests_are_refused_not_lost() -> None:
    """Asked without a pause across the death: each one is refused at once, or has its end."""
    process = started(builds.toy)
    try:
        sinks: list[Waiting] = []
        refused = 0
        os.kill(pid_of(process), signal.SIGKILL)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            sink = Waiting()
            try:
                process.submit(greedy([1], 2), sink)
                sinks.append(sink)
            except EngineError:  # it is being started
                refused += 1
                time.sleep(0.001)
            if refused and process.pulse.state is State.READY:
                break
        reasons = {sink.wait().end.reason for sink in sinks}
        assert reasons <= {FinishReason.ERROR, FinishReason.LENGTH}
        assert refused
    finally:
        process.close()


def test_a_stopped_engine_is_noticed_and_replaced() -> None:
    process = started(builds.toy, stuck_seconds=1.0)
    try:
        first = pid_of(process)
        os.kill(first, signal.SIGSTOP)
        sink = Waiting()
        process.submit(greedy([1], 5), sink)
        until(lambda: process.pulse.silent > 0.5)
        assert not process.pulse.computing
        end = sink.wait().end
        assert end.error is not None
        assert "the engine was stuck" in end.error.message
        process.wait_ready(30)
        assert pid_of(process) != first
        assert not alive(first)
        sink = Waiting()
        process.submit(greedy([1], 5), sink)
        assert len(sink.wait().ids) == 5
    finally:
        process.close()


def test_a_long_step_is_no_reason_to_replace_it() -> None:
    process = started(partial(builds.busy, seconds=3.0), stuck_seconds=0.5)
    try:
        sink = Waiting()
        process.submit(greedy([1], 1), sink)
        until(lambda: process.pulse.silent > 1.0)
        assert process.pulse.computing
        assert len(sink.wait().ids) == 1
        assert process.pulse.restarts == 0
    finally:
        process.close()


def test_an_endless_step_is_ended() -> None:
    process = started(partial(builds.busy, seconds=3600), stuck_seconds=0.1)
    try:
        sink = Waiting()
        process.submit(greedy([1], 1), sink)
        end = sink.wait().end
        assert end.error is not None
        assert "the engine was stuck" in end.error.message
    finally:
        process.close()


def test_a_broken_engine_says_so_and_is_replaced_until_that_is_hopeless() -> None:
    process = started(builds.broken)
    try:
        for restarts in range(3):
            process.wait_ready(30)
            assert process.pulse.restarts == restarts
            sink = Waiting()
            process.submit(greedy([1], 1), sink)
            end = sink.wait().end
            assert end.error is not None
            assert "the scheduler lost a page" in end.error.message
        until(lambda: process.pulse.state is State.FAILED)
        for _ in range(2):
            with pytest.raises(EngineError, match="the scheduler lost a page"):
                process.submit(greedy([1], 1), Waiting())
        assert process.closed
    finally:
        process.close()


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (builds.refusing, FormatError, "the toy is damaged"),
        (builds.failing, EngineError, "the model could not be loaded: ValueError: no such toy"),
    ],
)
def test_a_model_that_cannot_be_loaded(
    build: Callable[..., object], error: type[Exception], words: str
) -> None:
    process = EngineProcess(build)  # type: ignore[arg-type]
    with pytest.raises(error, match=words):
        process.wait_ready(30)
    with pytest.raises(error, match=words):
        process.submit(greedy([1], 1), Waiting())
    assert process.pulse.restarts == 0
    assert process.close(timeout=30)


def test_loading_is_told() -> None:
    told: list[tuple[int, int]] = []
    process = EngineProcess(builds.toy, on_loading=lambda done, total: told.append((done, total)))
    process.wait_ready(30)
    process.close()
    assert told == [(done, 10) for done in range(11)]


def test_closing_can_wait_for_what_runs(process: EngineProcess) -> None:
    sinks = [Waiting() for _ in range(3)]
    for sink in sinks:
        process.submit(greedy([1], 30), sink)
    assert not process.close(cancel=False, timeout=0.05)
    with pytest.raises(EngineError, match="the engine is closed"):
        process.submit(greedy([1], 1), Waiting())
    assert process.close(cancel=False, timeout=30)
    assert [len(sink.wait().ids) for sink in sinks] == [30] * 3


def test_closing_cancels(process: EngineProcess) -> None:
    sink = Waiting()
    process.submit(greedy([1], 4000), sink)
    until(lambda: len(sink.ids) > 1)
    pid = pid_of(process)
    assert process.close()
    assert sink.wait().end.reason is FinishReason.CANCELLED
    assert not alive(pid)
    assert process.close()  # again is nothing


def test_a_dropped_engine_ends() -> None:
    process = started(builds.toy)
    pid = pid_of(process)
    del process
    gc.collect()
    until(lambda: not alive(pid))


@pytest.mark.parametrize("busy", [False, True])
def test_it_dies_with_its_parent(busy: bool) -> None:
    program = (
        "import time\n"
        "from functools import partial\n"
        "from engine import builds\n"
        "from engine.toy import greedy\n"
        "from qwick.engine.process import EngineProcess\n"
        "process = EngineProcess(partial(builds.busy, seconds=3600))\n"
        "process.wait_ready(30)\n"
        f"if {busy}: process.submit(greedy([1], 1), print)\n"
        "time.sleep(0.5)\n"
        "print(process.pulse.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert parent.stdout is not None
    with parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    until(lambda: not alive(pid))


def test_a_program_that_just_ends_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "from engine import builds\n"
        "from engine.toy import greedy\n"
        "from qwick.engine.process import EngineProcess\n"
        "process = EngineProcess(builds.toy)\n"
        "process.wait_ready(30)\n"
        "process.submit(greedy([1], 4000), lambda event: None)\n"
        "print(process.pulse.pid, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not alive(int(done.stdout))


def test_the_current_folder_is_not_searched_for_modules(tmp_path: Path) -> None:
    """Where a server is started, strangers' files may lie."""
    (tmp_path / "pickle.py").write_text("raise SystemExit('a stranger was imported')\n")
    (tmp_path / "numpy.py").write_text("raise SystemExit('a stranger was imported')\n")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        started(builds.toy).close()
    finally:
        os.chdir(before)


def test_no_descriptor_or_thread_is_left() -> None:
    import threading

    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    started(builds.toy).close()
    before = count()
    for _ in range(3):
        process = started(builds.toy)
        os.kill(pid_of(process), signal.SIGKILL)
        until(lambda process=process: process.pulse.restarts == 1)  # type: ignore[misc]
        process.wait_ready(30)
        process.close()
    until(lambda: count() == before)
