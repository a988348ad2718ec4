"""The audit log: whole lines, kills, floods, full disks, and nothing in it that is private."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qwick.errors import FormatError, ParameterError, ResourceError
from qwick.server import audit
from qwick.server.audit import AuditLog, read, read_all, utc_text
from qwick.server.pseudonyms import Pseudonyms
from qwick.server.state import alone
from server.processes import fork, limited, wait

KEY, USER = "0123456789abcdef", "fedcba9876543210"


def test_events_are_lines_in_their_order(tmp_path: Path) -> None:
    now = [1_000_000.25]
    log = AuditLog(tmp_path / "s", clock=lambda: now[0])
    log.server_event("server_started")
    now[0] += 1
    log.key_event("key_created", KEY, USER)
    now[0] += 1
    log.refused("unknown")
    now[0] += 2.5
    log.refused("unknown")
    log.refused("requests", key=KEY, user=USER)
    assert len(read_all(tmp_path / "s").events) == 5  # the first of each kind
    log.refused("unknown")
    assert len(read_all(tmp_path / "s").events) == 5  # the others wait for the flush
    assert log.flush()
    found = read_all(tmp_path / "s")
    assert found.unreadable == 0
    assert found.events == [
        {"time": "1970-01-12T13:46:40.250Z", "event": "server_started", "process": os.getpid()},
        {"time": "1970-01-12T13:46:41.250Z", "event": "key_created", "key": KEY},
        {"time": "1970-01-12T13:46:41.250Z", "event": "key_created", "key": USER},
        {"time": "1970-01-12T13:46:42.250Z", "event": "refused", "reason": "unknown"},
        {
            "time": "1970-01-12T13:46:44.750Z",
            "event": "refused",
            "reason": "requests",
            "key": KEY,
            "user": USER,
        },
        {
            "time": "1970-01-12T13:46:44.750Z",
            "event": "refused",
            "reason": "unknown",
            "count": 2,
            "since": "1970-01-12T13:46:44.750Z",
        },
    ]
    assert read_all(tmp_path / "s", 2).events == found.events[-2:]
    assert read_all(tmp_path / "s", 0).events == []
    for name in ("audit.jsonl", "server.jsonl"):
        assert stat.S_IMODE((tmp_path / "s" / name).stat().st_mode) == 0o600


def test_what_might_be_private_gets_in_nowhere(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for wrong in ("alice", "alice@example.org", KEY[:-1], KEY.upper(), KEY + "\n", 5, b"0" * 16):
        with pytest.raises(ParameterError, match="no pseudonym") as caught:
            log.refused("unknown", user=wrong)  # type: ignore[arg-type]
        assert "alice" not in str(caught.value)
        with pytest.raises(ParameterError, match="no pseudonym"):
            log.refused("unknown", key=wrong)  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match="no pseudonym"):
            log.key_event("key_created", wrong)  # type: ignore[arg-type]
    for reason in ("", "Bad", "my prompt", "a\nb", "x" * 33, None):
        with pytest.raises(ParameterError, match="reason is"):
            log.refused(reason)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="event is"):
        log.key_event("server_started", KEY)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="event is"):
        log.server_event("key_created")  # type: ignore[arg-type]
    assert log.flush()
    assert list(tmp_path.iterdir()) == []


# -- on the disk -----------------------------------------------------------------------------------


def test_a_key_event_is_on_the_disk_before_the_call_returns(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    script = f"from qwick.server.audit import AuditLog; AuditLog({str(tmp_path / 's')!r})"
    script += f".key_event('key_revoked', {KEY!r}); print('returned', flush=True)"
    try:
        subprocess.run(["strace", "-V"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("strace is not installed")
    calls = "trace=write,fdatasync,fsync"
    command = ["strace", "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if "ptrace" in done.stderr:
        pytest.skip("processes may not be traced here")
    assert done.returncode == 0, done.stderr
    lines = [
        row for row in trace.read_text().splitlines() if "audit.jsonl" in row or "returned" in row
    ]
    assert ["write" in lines[0], "fdatasync" in lines[1], "returned" in lines[2]] == [True] * 3


def test_each_key_event_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    fdatasync = os.fdatasync

    def watched(descriptor: int) -> None:
        fdatasync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").read_bytes())

    monkeypatch.setattr(os, "fdatasync", watched)
    log = AuditLog(tmp_path)
    for number in range(1, 4):
        log.key_event("key_created", KEY)
        assert len(synced) == number
        assert synced[-1].count(b"\n") == number
    for _ in range(1000):
        log.refused("unknown")
    assert len(synced) == 3
    log.flush()
    log.flush()
    assert len(synced) == 4


def test_processes_write_whole_lines_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        log = AuditLog(tmp_path)
        for i in range(40):
            log.key_event("key_created", f"{number * 1000 + i:016x}")
            log.refused("unknown", key=f"{number * 1000 + i:016x}")
            assert log.flush()

    children = [fork(lambda n=n: write(n)) for n in range(4)]
    assert [wait(child) for child in children] == [0] * 4
    expected = sorted(f"{n * 1000 + i:016x}" for n in range(4) for i in range(40))
    for name in ("audit.jsonl", "server.jsonl"):
        found = read(tmp_path / name)
        assert found.unreadable == 0
        assert sorted(event["key"] for event in found.events) == expected


@pytest.mark.alone
def test_kills_lose_no_event_that_was_told(tmp_path: Path) -> None:
    chance = random.Random(7)
    told = 0
    log = tmp_path / "audit.jsonl"
    for _ in range(40):
        reading, writing = os.pipe()

        def write(pipe: int = writing) -> None:
            own = AuditLog(tmp_path)
            while True:
                own.key_event("key_created", KEY)
                os.write(pipe, b".")

        child = fork(write)
        os.close(writing)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert wait(child) == -signal.SIGKILL
        with open(reading, "rb") as pipe:
            told += len(pipe.read())
        if log.exists() and chance.random() < 0.5:  # as if it had been within the write
            line = json.dumps({"time": "t", "event": "key_created", "key": KEY}).encode()
            with log.open("ab") as file:
                file.write(line[: chance.randint(1, len(line) - 1)])
    AuditLog(tmp_path).key_event("key_revoked", KEY)
    found = read(log)
    assert told > 20
    assert len(found.events) > told
    assert found.unreadable > 5
    assert found.events[-1]["event"] == "key_revoked"
    assert log.read_bytes().endswith(b"\n")


def test_a_line_that_lacks_only_its_end_is_an_event(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.key_event("key_created", KEY)
    path = tmp_path / "audit.jsonl"
    os.truncate(path, path.stat().st_size - 1)
    assert read(path) == audit.Read([], 1)
    log.key_event("key_revoked", KEY)
    assert [event["event"] for event in read(path).events] == ["key_created", "key_revoked"]
    assert read(path).unreadable == 0


@pytest.mark.parametrize(
    ("data", "events", "unreadable"),
    [
        (b"", 0, 0),
        (b"\n", 0, 1),
        (b'{"time": "t", "event": "e"}\n{"time": "t", "ev', 1, 1),
        (b'{"time": "t", "ev\n{"time": "t", "event": "e"}\n', 1, 1),
        (b'{"time": 5, "event": "e"}\n[]\nnull\n"x"\n{}\n', 0, 5),
        (b"\xff\xfe\n\0\0\0\n" + b"[" * 3000 + b"\n", 0, 3),
        (b"x" * 10_000 + b'\n{"time": "t", "event": "e"}\n', 1, 3),
    ],
)
def test_reading_what_is_damaged(data: bytes, events: int, unreadable: int, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    found = read(path)
    assert (len(found.events), found.unreadable) == (events, unreadable)


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    assert read(tmp_path / "none.jsonl") == audit.Read([], 0)
    assert read_all(tmp_path / "none") == audit.Read([], 0)
    with pytest.raises(ResourceError, match="cannot be read: Is a directory"):
        read(tmp_path)
    for last in (-1, "5", 1.0, True):
        with pytest.raises(ParameterError, match="last is"):
            read(tmp_path / "none.jsonl", last)  # type: ignore[arg-type]


# -- floods ----------------------------------------------------------------------------------------


def test_a_flood_costs_little_and_every_refusal_is_counted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for number in range(20_000):
        log.refused("unknown")
        log.refused("requests", key=KEY, user=f"{number:016x}")
    assert len(log._pending) == audit.MOST_PENDING + 1
    assert log.flush()
    found = read_all(tmp_path).events
    assert len(found) == audit.MOST_PENDING + 1
    assert sum(event.get("count", 1) for event in found) == 40_000
    assert {event["reason"] for event in found} == {"unknown", "requests", "others"}
    assert log.flush()
    assert len(read_all(tmp_path).events) == len(found)


def test_the_first_of_each_kind_survives_a_kill(tmp_path: Path) -> None:
    AuditLog(tmp_path).server_event("server_started")

    def serve() -> None:
        log = AuditLog(tmp_path)
        for _ in range(7):
            log.refused("unknown")
            log.refused("requests", key=KEY)
        os.kill(os.getpid(), signal.SIGKILL)

    assert wait(fork(serve)) == -signal.SIGKILL
    assert [e.get("reason") for e in read_all(tmp_path).events] == [None, "unknown", "requests"]


@pytest.mark.alone
def test_what_is_written_at_once_is_bounded_and_waits_for_nobody(tmp_path: Path) -> None:
    log, path = AuditLog(tmp_path), tmp_path / "server.jsonl"
    log.server_event("server_started")

    def flood() -> None:
        for number in range(100):
            for _ in range(2):
                log.refused("requests", user=f"{number:016x}")

    with alone(path):  # another process is at it, or hangs
        begun = time.perf_counter()
        flood()
        assert time.perf_counter() - begun < 1
    assert len(read(path).events) == 1
    assert log.flush()
    assert len(read(path).events) == 101
    for _ in range(2):
        before = len(read(path).events)
        flood()
        assert len(read(path).events) == before + audit.MOST_AT_ONCE
        assert log.flush()
    tmp_path.chmod(0o770)  # others may write: nothing is
    flood()
    tmp_path.chmod(0o700)
    assert len(read(path).events) == 1 + 3 * 100 + 2 * audit.MOST_AT_ONCE
    assert log.flush()
    assert sum(e.get("count", 1) for e in read(path).events) == 1 + 4 * 200


def test_the_disk_that_refusals_take_is_bounded_and_no_key_event_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MOST_BYTES", 20_000)
    log = AuditLog(tmp_path)
    log.key_event("key_created", KEY)
    for round_ in range(100):
        for number in range(50):
            log.refused("tokens", key=KEY, user=f"{round_ * 50 + number:016x}")
        assert log.flush()
        sizes = {path.name: path.stat().st_size for path in tmp_path.glob("server.jsonl*")}
        assert set(sizes) <= {"server.jsonl", "server.jsonl.1"}
        assert max(sizes.values()) <= 20_000
    assert set(sizes) == {"server.jsonl", "server.jsonl.1"}
    found = read_all(tmp_path)
    assert found.unreadable == 0
    assert found.events[0]["event"] == "key_created"
    assert found.events[-1]["user"] == f"{4999:016x}"


# -- disks that are full ---------------------------------------------------------------------------


def test_a_full_disk_fails_a_key_event_and_leaves_whole_lines(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.key_event("key_created", KEY)
    path = tmp_path / "audit.jsonl"
    before = path.read_bytes()

    def write() -> None:
        with pytest.raises(ResourceError, match=r"audit\.jsonl cannot be written: File too large"):
            log.key_event("key_revoked", KEY)

    for room in (0, 1, 40, len(before) - 1):
        assert limited(len(before) + room, write) == 0
        assert path.read_bytes() == before
    log.key_event("key_revoked", KEY)
    assert len(read(path).events) == 2


def test_a_server_on_a_full_disk_goes_on_refusing_and_counts(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.refused("unknown")
    assert log.flush()
    size = (tmp_path / "server.jsonl").stat().st_size

    def serve() -> None:
        for number in range(5000):
            log.refused("unknown")
            log.refused("requests", user=f"{number:016x}")
            if number % 1000 == 0:
                assert not log.flush()
                assert log.unwritten == 2 * (number + 1)
        assert log.unwritten == 10_000
        assert len(log._pending) <= audit.MOST_PENDING + 1
        # There is room again: nothing was lost but whose the later ones were.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, resource.RLIM_INFINITY))
        assert log.flush()
        assert log.unwritten == 0

    assert limited(size + 30, serve) == 0
    found = read_all(tmp_path)
    assert found.unreadable == 0
    assert sum(event.get("count", 1) for event in found.events) == 10_001


def test_a_disk_without_a_free_block(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(small)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system may not be mounted here")
    try:
        log = AuditLog(small / "s")
        log.key_event("key_created", KEY)
        log.server_event("server_started")
        with (small / "filler").open("wb", 0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        log.refused("unknown")
        failed = False
        for _ in range(100):  # the last block of the file takes some lines yet
            try:
                log.key_event("key_revoked", KEY)
            except ResourceError as error:
                failed = "No space left on device" in error.message
                break
        assert failed
        written = read(small / "s" / "audit.jsonl")
        assert written.unreadable == 0
        while log.flush():
            log.refused("unknown")
        assert log.unwritten == 1
        (small / "filler").unlink()
        assert log.flush()
        log.key_event("key_deleted", KEY)
        assert read(small / "s" / "audit.jsonl").events[-1]["event"] == "key_deleted"
        assert read_all(small / "s").unreadable == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


# -- pseudonyms ------------------------------------------------------------------------------------


def test_pseudonyms_are_the_same_in_one_installation_alone(tmp_path: Path) -> None:
    first, second = Pseudonyms(tmp_path / "a"), Pseudonyms(tmp_path / "b")
    alice = first.of("user", "alice")
    assert Pseudonyms(tmp_path / "a").of("user", "alice") == alice
    others = {
        *(first.of("key", "alice"), first.of("user", "alicf"), first.of("user", "")),
        *(second.of("user", "alice"), first.of("user", "\ud800"), first.of("address", "alice")),
    }
    assert len({alice, *others}) == 7
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in others)
    assert stat.S_IMODE((tmp_path / "a" / "secret").stat().st_mode) == 0o600
    assert len((tmp_path / "a" / "secret").read_bytes()) == 32
    wrong: Any
    for wrong in (("name", "x"), ("user", 5), ("user", None), (None, "x")):
        with pytest.raises(ParameterError):
            first.of(*wrong)


def test_processes_that_need_the_secret_at_once_have_the_same(tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / str(number)
        reading, writing = os.pipe()

        def tell(place: Path = folder, pipe: int = writing) -> None:
            os.write(pipe, Pseudonyms(place).of("user", "x").encode() + b"\n")

        children = [fork(tell) for _ in range(4)]
        os.close(writing)
        assert [wait(child) for child in children] == [0] * 4
        with open(reading, encoding="utf-8") as pipe:
            assert set(pipe.read().split()) == {Pseudonyms(folder).of("user", "x")}


@pytest.mark.parametrize("size", [0, 31, 33, 100_000])
def test_a_damaged_secret_is_told_of(size: int, tmp_path: Path) -> None:
    Pseudonyms(tmp_path)
    path = tmp_path / "secret"
    path.write_bytes(bytes(size))
    with pytest.raises(FormatError, match="secret") as caught:
        Pseudonyms(tmp_path)
    assert "delete it" in str(caught.value)
    path.unlink()
    Pseudonyms(tmp_path)


# -- times -----------------------------------------------------------------------------------------


def test_times_are_utc() -> None:
    assert utc_text(0) == "1970-01-01T00:00:00Z"
    assert utc_text(1_795_706_734.25, 3) == "2026-11-26T15:25:34.250Z"
    for wrong in ((float("nan"), 0), (1e30, 0), ("x", 0), (0, 2)):
        with pytest.raises(ParameterError):
            utc_text(*wrong)  # type: ignore[arg-type]
