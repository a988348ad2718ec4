"""A server where something runs short: descriptors, or room for its audit log."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
from pathlib import Path

import pytest

from qwick.errors import ResourceError
from qwick.server.audit import read, read_all
from qwick.server.keys import KeyRing
from qwick.server.running import LEAST_FILES, _raise_files
from server.live import Server, chat_body, until
from server.processes import fork, wait
from server.test_attacks import CHAT, code_of, status_of

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def the_checkpoint(default_checkpoint: Path) -> None:
    """Fetched before any server asks for it."""


# -- descriptors -----------------------------------------------------------------------------------


class Few(Server):
    """A server that may open as few files as it can do with."""

    program = ("sh", "-c", f'ulimit -n {LEAST_FILES}; exec "$@"', "sh", *Server.program)


def test_connections_beyond_what_may_be_opened_are_told_so(tmp_path: Path) -> None:
    """Each gets its 503, and what is left is enough to replace an engine and to write the log."""
    key = KeyRing(tmp_path / "server").create("x", admin=True)[1]
    with Few(tmp_path) as server, contextlib.ExitStack() as stack, server.client(key) as client:
        server.ready()
        assert client.get("/v1/models").status_code == 200  # holds a connection from here on
        answers = []
        for number in range(100):
            address = ("127.0.0.1", server.port), 10, (f"127.0.0.{2 + number % 4}", 0)
            connection = stack.enter_context(socket.create_connection(*address))
            connection.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                answers.append(connection.recv(65536))
        assert len(answers) >= 100 - LEAST_FILES // 2
        assert {status_of(answer) for answer in answers} == {503}
        assert all(b"there are 32 connections" in answer for answer in answers)
        (engine,) = server.engines()
        os.kill(engine, signal.SIGKILL)

        def answered() -> bool:
            return client.post(CHAT, json=chat_body(max_tokens=1)).status_code == 200

        until(answered, 20)
        assert server.engines() != [engine]
        assert client.get("/v1/monitor").json()["models"][0]["restarts"] == 1
    (told,) = (e for e in server.events() if e["event"] == "fewer_connections")
    assert told["notice"].startswith("32 connections, not 1024: a process may open 64 files")
    assert read_all(tmp_path / "server").events[-1]["event"] == "server_stopped"
    assert not any(e["event"] in ("fault", "audit_unwritten") for e in server.events())


def test_too_few_files_to_serve_with() -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LEAST_FILES - 1, LEAST_FILES - 1))
        with pytest.raises(ResourceError, match="may open 63 files here; a server needs 64"):
            _raise_files(1536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (10, LEAST_FILES - 1))

    assert wait(fork(work)) == 0


@pytest.mark.parametrize(
    ("soft", "hard", "files"), [(100, 2000, 1536), (100, 800, 800), (1800, 2000, 1536)]
)
def test_files_are_raised_as_far_as_they_may_be(soft: int, hard: int, files: int) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert _raise_files(1536) == files
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (max(soft, files), hard)

    assert wait(fork(work)) == 0


# -- the audit log ---------------------------------------------------------------------------------


def test_an_audit_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    _, admin = KeyRing(tmp_path / "server").create("admin", admin=True)
    with Server(tmp_path) as server, server.client(admin) as client:
        server.ready()
        path = tmp_path / "server" / "server.jsonl"
        path.rename(path.with_suffix(".away"))
        path.mkdir()  # nothing can be written there now
        with server.client("wrong") as other:
            for _ in range(3):
                assert other.get("/v1/models").status_code == 401
        until(lambda: "audit_unwritten" in [e["event"] for e in server.events()], 20)
        gauge = r"qwick:audit_unwritten_lines ([1-9])"
        until(lambda: re.search(gauge, client.get("/metrics").text) is not None, 20)
        verdict = client.get("/v1/monitor").json()["verdict"]
        assert verdict["status"] == "degraded"
        assert "the audit log cannot be written" in " ".join(verdict["reasons"])
        path.rmdir()
        path.with_suffix(".away").rename(path)
        until(lambda: "audit_written" in [e["event"] for e in server.events()], 20)
        assert client.get("/v1/monitor").json()["verdict"]["status"] == "healthy"
    events = read_all(tmp_path / "server").events
    times = [event for event in events if event["event"] == "refused"]
    assert sum(line.get("count", 1) for line in times) == 3
    assert all(line.get("key") is None for line in times)
    assert not any(line["reason"] == "overloaded" for line in times)  # from /ready, while it loaded


def test_two_servers_write_whole_lines_into_one_folder(tmp_path: Path) -> None:
    KeyRing(tmp_path / "server").create("x")
    with (
        Server(tmp_path) as first,
        Server(tmp_path) as second,
        first.client("qk-bad") as one,
        second.client("qk-bad") as two,
    ):
        for _ in range(150):
            for client in (one, two):
                response = client.get("/v1/models")
                assert (response.status_code, code_of(response)) == (401, "invalid_api_key")
    found = read(tmp_path / "server" / "server.jsonl")
    assert found.unreadable == 0
    refused = [event for event in found.events if event["event"] == "refused"]
    assert sum(event.get("count", 1) for event in refused) == 300
    for name in ("server_started", "server_stopped"):
        pids = {event["process"] for event in found.events if event["event"] == name}
        assert pids == {first.process.pid, second.process.pid}
