"""Several processes at one store: one fetches, the others wait; a killed one spoils nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import qwick
from hub.support import CONTENT, HubServer, Recorder, entry_of
from qwick.hub import Store
from qwick.settings import child_environment

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn(server: HubServer, store: Store) -> Iterator[Spawn]:
    """Start a process that pulls the tiny checkpoint into the store of this test."""
    started: list[subprocess.Popen[str]] = []

    def start(*extra: str) -> subprocess.Popen[str]:
        worker = str(Path(__file__).with_name("pull_worker.py"))
        entry = entry_of()
        arguments = [str(store.home), server.endpoint, str(entry.size), entry.sha256, *extra]
        process = subprocess.Popen(
            [sys.executable, worker, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(PYTHONPATH=str(Path(qwick.__file__).parents[1])),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_process_waits_and_finds_the_file(
    spawn: Spawn, server: HubServer, store: Store
) -> None:
    server.gate = threading.Event()
    first = spawn()
    assert server.half_sent.wait(20)
    second = spawn()
    assert second.stderr is not None
    while "waiting for it" not in (line := second.stderr.readline()):
        assert line, "the second process never said that it waits"
    server.gate.set()
    path = str(store.path(entry_of()))
    for process in (first, second):
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out.strip()) == (0, path), err
        assert "verifying" not in err  # the first one's word is enough
    assert len(server.requests) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_fetch_leaves_nothing_trusted(
    spawn: Spawn, server: HubServer, store: Store, number: signal.Signals
) -> None:
    server.gate = threading.Event()
    process = spawn()
    assert server.half_sent.wait(20)
    incoming = store.path(entry_of()).parent / "incoming"
    until = time.monotonic() + 20
    while not any(p.stat().st_size for p in incoming.glob("*.part")):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert not incoming.exists()
    assert store.show("tiny").state == "missing"
    server.gate.set()
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT
    assert not incoming.exists()


def test_a_disk_that_fills_up_on_the_way(spawn: Spawn, store: Store) -> None:
    process = spawn(str(1 << 20))  # the kernel refuses files beyond 1 MiB
    _, err = process.communicate(timeout=20)
    assert process.returncode == 6, err
    assert "ResourceError" in err
    assert "is full" in err
    assert "QWICK_HOME" in err
    assert not (store.path(entry_of()).parent / "incoming").exists()
    assert store.show("tiny").state == "missing"
