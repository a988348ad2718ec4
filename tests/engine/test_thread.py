"""The engine's thread: many callers, cancelling, closing, breaking, leaving."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import qwick
from engine.toy import Sink, ToyModel, engine_of, greedy, run
from qwick.engine.request import Event, Finished, FinishReason, Request, Sampling
from qwick.engine.thread import EngineThread
from qwick.errors import ContextLengthError, EngineError, ResourceError
from qwick.model.batch import Batch


class Waiting(Sink):
    """A sink that another thread can wait on."""

    def __init__(self) -> None:
        super().__init__()
        self.done = threading.Event()

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Finished):
            self.done.set()

    def wait(self) -> Sink:
        assert self.done.wait(30), "no end came"
        return self


class Gate:
    """Holds the model before each step until opened."""

    def __init__(self, model: ToyModel) -> None:
        self.reached = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        model.before_forward = self.hold

    def hold(self, _: Batch) -> None:
        self.reached.release()
        assert self.go.acquire(timeout=30)


@pytest.fixture
def thread() -> Iterator[EngineThread]:
    runner = EngineThread(engine_of(ToyModel(), cache_tokens=160))
    yield runner
    assert runner.close(timeout=30)


def test_many_threads_at_once_get_what_each_gets_alone(thread: EngineThread) -> None:
    requests = [
        Request([i % 40, i % 7], sampling=Sampling(seed=i, max_tokens=3 + i % 9)) for i in range(60)
    ]

    def ask(request: Request) -> list[int]:
        sink = Waiting()
        thread.submit(request, sink)
        return sink.wait().ids

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, requests))
    assert together == [run(engine_of(ToyModel()), [r])[0].ids for r in requests]
    assert thread.stats.steps < sum(len(ids) for ids in together), "they were not batched"


def test_cancel_from_another_thread() -> None:
    model = ToyModel(context=4096)
    gate = Gate(model)
    runner = EngineThread(engine_of(model))
    sink = Waiting()
    ticket = runner.submit(greedy([1], 4000), sink)
    for _ in range(3):
        assert gate.reached.acquire(timeout=30)
        gate.go.release()
    assert gate.reached.acquire(timeout=30)
    ticket.cancel()
    gate.go.release()
    assert sink.wait().end.reason is FinishReason.CANCELLED
    assert len(sink.ids) == 4, "no step after the one under way"
    ticket.cancel()
    assert runner.close(timeout=30)


def test_a_bad_request_is_refused_where_it_is_submitted(thread: EngineThread) -> None:
    with pytest.raises(ContextLengthError):
        thread.submit(greedy([1] * 100), Sink())


@pytest.mark.parametrize("cancel", [True, False])
def test_close_cancels_or_drains(cancel: bool) -> None:
    model = ToyModel()
    gate = Gate(model)
    runner = EngineThread(engine_of(model))
    sinks = [Waiting() for _ in range(3)]
    for sink in sinks:
        runner.submit(greedy([1], 5), sink)
    assert gate.reached.acquire(timeout=30)
    closing = threading.Thread(target=runner.close, kwargs={"cancel": cancel})
    closing.start()
    while not runner.closed:
        time.sleep(0.001)
    with pytest.raises(EngineError, match="the engine is closed"):
        runner.submit(greedy([1]), Sink())
    for _ in range(20):
        gate.go.release()
    closing.join(30)
    assert not closing.is_alive()
    reasons = {sink.wait().end.reason for sink in sinks}
    assert reasons == {FinishReason.CANCELLED if cancel else FinishReason.LENGTH}
    assert runner.close(timeout=1), "closing twice is fine"


@pytest.mark.parametrize("before", ["nothing", "answer", "failure", "broken"])
def test_closing_lets_go_of_model_and_cache(before: str) -> None:
    """At once, not when the garbage collector comes by: half a gigabyte and more hangs on it."""
    gc.collect()
    gc.disable()
    try:
        model = ToyModel()
        engine = engine_of(model)
        held = [weakref.ref(model), weakref.ref(engine._cache)]
        runner = EngineThread(engine)
        sink, kept = Waiting(), None
        if before in ("failure", "broken"):
            model.before_forward = break_down(SystemExit if before == "broken" else ValueError)
        if before != "nothing":
            kept = runner.submit(greedy([1], 3), sink)
            reason = FinishReason.LENGTH if before == "answer" else FinishReason.ERROR
            assert sink.wait().end.reason is reason
        del model
        assert runner.close(timeout=30)
        assert [ref() for ref in held] == [None, None]
        assert runner.stats.finished.total() == (before != "nothing")
        with pytest.raises(
            EngineError, match="the engine stopped" if before == "broken" else "closed"
        ):
            runner.submit(greedy([1]), Sink())
        with pytest.raises(EngineError, match="the engine is closed"):
            engine.submit(greedy([1]), Sink())
        assert not engine.step()
        if kept is not None:
            kept.cancel()
    finally:
        gc.enable()


def break_down(kind: type[BaseException]) -> Callable[[Batch], None]:
    def fail(_: Batch) -> None:
        raise kind("broken kernel")

    return fail


def test_close_from_a_callback_does_not_wait_for_itself() -> None:
    runner = EngineThread(engine_of(ToyModel()))
    done = threading.Event()

    def deliver(event: Event) -> None:
        runner.close()
        if isinstance(event, Finished):
            done.set()

    runner.submit(greedy([1], 5), deliver)
    assert done.wait(30)
    assert runner.close(timeout=30)


def test_a_failing_step_does_not_stop_the_thread(thread: EngineThread) -> None:
    model = thread._loop.engine.model
    assert isinstance(model, ToyModel)

    def fail(_: Batch) -> None:
        model.before_forward = lambda batch: None
        raise ValueError("broken kernel")

    model.before_forward = fail
    bad, good = Waiting(), Waiting()
    thread.submit(greedy([1], 3), bad)
    error = bad.wait().end.error
    assert isinstance(error, EngineError)
    assert "broken kernel" in str(error)
    thread.submit(greedy([1], 3), good)
    assert good.wait().end.reason is FinishReason.LENGTH


def test_a_broken_engine_fails_everyone_and_refuses_more() -> None:
    model = ToyModel()
    gate = Gate(model)
    engine = engine_of(model)
    runner = EngineThread(engine)
    sinks = [Waiting() for _ in range(3)]
    for sink in sinks[:2]:
        runner.submit(greedy([1], 5), sink)
    assert gate.reached.acquire(timeout=30)

    def broken() -> bool:
        raise AssertionError("state in doubt")

    engine.step = broken  # type: ignore[method-assign]
    runner.submit(greedy([2], 5), sinks[2])
    gate.go.release()
    for sink in sinks:
        error = sink.wait().end.error
        assert isinstance(error, EngineError)
        assert "the engine stopped: AssertionError: state in doubt" in str(error)
    runner._thread.join(30)
    with pytest.raises(EngineError, match="state in doubt"):
        runner.submit(greedy([1]), Sink())


def test_submissions_racing_with_close_always_end() -> None:
    for _ in range(30):
        runner = EngineThread(engine_of(ToyModel()))
        accepted: list[Waiting] = []

        def push(runner: EngineThread = runner, accepted: list[Waiting] = accepted) -> None:
            for _ in range(50):
                sink = Waiting()
                try:
                    runner.submit(greedy([1], 2), sink)
                except EngineError:
                    return
                accepted.append(sink)

        pushers = [threading.Thread(target=push) for _ in range(3)]
        for pusher in pushers:
            pusher.start()
        assert runner.close(timeout=30)
        for pusher in pushers:
            pusher.join(30)
        for sink in accepted:
            sink.wait()


def test_dropping_it_ends_the_thread() -> None:
    runner = EngineThread(engine_of(ToyModel()))
    worker = runner._thread
    del runner
    gc.collect()
    worker.join(30)
    assert not worker.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_is_told_that_it_has_no_engine(thread: EngineThread) -> None:
    code = (
        "import os, sys\n"
        "from engine.toy import *\n"
        "from qwick.engine.thread import EngineThread\n"
        "from qwick.errors import EngineError\n"
        "runner = EngineThread(engine_of(ToyModel()))\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try:\n"
        "        runner.submit(greedy([1]), Sink())\n"
        "    except EngineError as error:\n"
        "        os._exit(0 if 'fork' in str(error) else 1)\n"
        "    os._exit(2)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert in_a_process(code).returncode == 0


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(__file__).parents[1]), str(Path(qwick.__file__).parents[1])]
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("busy", [True, False])
def test_the_interpreter_exits_without_close(busy: bool) -> None:
    code = (
        "import time\n"
        "from engine.toy import *\n"
        "from qwick.engine.thread import EngineThread\n"
        "model = ToyModel(context=1000000)\n"
        "model.before_forward = lambda batch: time.sleep(0.01)\n"
        "runner = EngineThread(engine_of(model, cache_tokens=100000))\n"
        f"if {busy}: runner.submit(greedy([1], 90000), lambda event: None)\n"
        "time.sleep(0.1)\n"
        "print('end of main')\n"
    )
    started = time.monotonic()
    ended = in_a_process(code)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end of main\n", "")
    assert time.monotonic() - started < 20


def test_a_thread_that_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = threading.active_count()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ResourceError, match="can't start new thread"):
        EngineThread(engine_of(ToyModel()))
    monkeypatch.undo()
    assert threading.active_count() == before
