"""Several processes at one store: one fetches, the others wait; a killed one spoils nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.support import CONTENT, FILE, HubServer, Recorder, Spawn, children, entry_of
from qwick.errors import ResourceError
from qwick.hub import Store
from qwick.hub.partial import part_path


@pytest.fixture
def spawn(server: HubServer, store: Store) -> Iterator[Spawn]:
    """Start a process that pulls the tiny checkpoint into the store of this test."""
    worker, entry = str(Path(__file__).with_name("pull_worker.py")), entry_of()
    told = [worker, str(store.home), server.endpoint, str(entry.size), FILE.digest]
    with children() as start:
        yield lambda *extra: start(*told, *extra)


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
def test_a_killed_fetch_leaves_nothing_trusted_and_goes_on_where_it_was(
    spawn: Spawn, server: HubServer, store: Store, number: signal.Signals
) -> None:
    server.gate = threading.Event()
    process = spawn()
    assert server.half_sent.wait(20)
    part = part_path(store.incoming("tiny"), FILE)
    until = time.monotonic() + 20
    while not part.exists() or not part.stat().st_size:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert store.show("tiny").state == "missing"
    arrived = part.stat().st_size
    server.gate.set()
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT
    assert server.requests[1][1] == f"bytes={arrived}-"
    assert server.if_ranges[1] == server.etag
    assert not part.parent.exists()


def test_who_waits_sees_how_far_the_other_is(spawn: Spawn, server: HubServer, store: Store) -> None:
    server.gate = threading.Event()
    first = spawn()
    assert server.half_sent.wait(20)
    heard = Recorder()
    second = threading.Thread(target=store.pull, args=("tiny", heard), daemon=True)
    second.start()
    until = time.monotonic() + 20
    while not heard.steps:
        assert time.monotonic() < until
        time.sleep(0.01)
    server.gate.set()
    second.join(20)
    assert first.wait(20) == 0
    assert {what for what, _, _ in heard.steps} == {"waiting for tiny"}
    assert all(0 < done <= total == len(CONTENT) for _, done, total in heard.steps)


def test_a_file_system_without_locks(spawn: Spawn, server: HubServer, store: Store) -> None:
    process = spawn("no-locks")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 6, err
    assert f"the file system of the store {store.home} has no file locks: No locks available" in err
    assert "QWICK_HOME" in err
    assert server.requests == []
    store.pull("tiny", Recorder())
    served = spawn("no-locks")
    out, err = served.communicate(timeout=20)
    assert (served.returncode, out.strip()) == (0, str(store.path(entry_of()))), err


def test_a_store_that_may_only_be_read(spawn: Spawn, server: HubServer, store: Store) -> None:
    path = store.pull("tiny", Recorder())
    store.marker_path(entry_of(), FILE).rename(path.parent / "kept")
    folders = (store.home, *(p for p in store.home.rglob("*") if p.is_dir()))
    try:
        for folder in folders:
            folder.chmod(0o555)
        for state in ("unmarked", "marked"):
            served = spawn("read-only")
            out, err = served.communicate(timeout=20)
            assert (served.returncode, out.strip()) == (0, str(path)), err
            assert ("verifying" in err) == (state == "unmarked")
            path.parent.chmod(0o755)
            if state == "unmarked":
                (path.parent / "kept").rename(store.marker_path(entry_of(), FILE))
            else:
                path.unlink()
            path.parent.chmod(0o555)
        refused = spawn("read-only")
        _, err = refused.communicate(timeout=20)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert refused.returncode == 6, err
    assert f"the store {store.home} cannot be written: Permission denied" in err
    assert "QWICK_HOME" in err
    assert len(server.requests) == 1


def test_a_disk_that_fills_up_on_the_way(spawn: Spawn, server: HubServer, store: Store) -> None:
    process = spawn("1-mib-files")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 6, err
    assert "ResourceError" in err
    assert "is full" in err
    assert "QWICK_HOME" in err
    assert store.show("tiny").state == "missing"
    assert part_path(store.incoming("tiny"), FILE).stat().st_size == 1 << 20
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT
    assert server.requests[1][1] == f"bytes={1 << 20}-"  # nothing was lost


def test_a_device_without_space(store: Store, server: HubServer) -> None:
    part = part_path(store.incoming("tiny"), FILE)
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")  # whose every write ends in ENOSPC
    with pytest.raises(ResourceError, match="is full: No space left on device") as caught:
        store.pull("tiny", Recorder())
    assert "qwick models du" in str(caught.value.hint)
    assert store.show("tiny").state == "missing"
    assert len(server.requests) == 1
