"""What the system tells a server: a closed terminal, few files, a disk that takes nothing."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from qwick.server.audit import read_all
from qwick.server.keys import KeyRing
from server.live import SERVES, Server, chat_body, events_of

pytestmark = pytest.mark.model

CHAT = "/v1/chat/completions"


def until(done: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_closed_terminal_is_an_orderly_end(tmp_path: Path) -> None:
    with Server(tmp_path, ["--drain", "0.5"]) as server, server.client() as client:
        server.ready()
        body = chat_body(stream=True, max_tokens=2000, ignore_eos=True)
        with client.stream("POST", CHAT, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGHUP)
            left = [line for line in lines if line]
        assert '"error"' in left[-2]
        assert left[-1] == "data: [DONE]"
        server.process.wait(30)
    assert read_all(tmp_path / "server").events[-1]["event"] == "server_stopped"


def test_under_nohup_it_goes_on(tmp_path: Path) -> None:
    command = ["nohup", sys.executable, "-m", "qwick", "serve", "--port", "0"]
    environment = {**os.environ, "QWICK_STATE": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        url = next(m for line in process.stdout if (m := SERVES.match(line)))
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert httpx.get(f"http://{url[2]}:{url[3]}/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_few_files_are_few_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shell = f"ulimit -n 80 && exec {sys.executable} -m qwick serve --port 0"
    environment = {**os.environ, "QWICK_STATE": str(tmp_path)}
    with subprocess.Popen(
        ["bash", "-c", shell], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        url = None
        while url is None:
            lines.append(process.stderr.readline())
            assert lines[-1], "the server did not start"
            url = SERVES.match(lines[-1])
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        assert re.search("fewer_connections.*40 connections, not 1024", "".join(lines))
        address = ("127.0.0.1", int(url[3]))
        many = [socket.create_connection(address, timeout=5) for _ in range(60)]
        try:  # a quarter of them is told so, none is cut off without a word
            many[-1].sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert many[-1].recv(100).startswith(b"HTTP/1.1 503")
        finally:
            for one in many:
                one.close()
        until(lambda: httpx.get(f"http://127.0.0.1:{address[1]}/ready").status_code == 200, 10)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_an_audit_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    _, admin = KeyRing(tmp_path / "server").create("admin", admin=True)
    with Server(tmp_path) as server, server.client(admin) as client:
        server.ready()
        path = tmp_path / "server" / "audit" / "server.jsonl"
        path = path if path.exists() else next((tmp_path / "server").rglob("server.jsonl"))
        path.rename(path.with_suffix(".away"))
        path.mkdir()  # nothing can be written there now
        with server.client("wrong") as other:
            for _ in range(3):
                assert other.get("/v1/models").status_code == 401
        until(lambda: "audit_unwritten" in [e["event"] for e in server.events()])
        gauge = r"qwick:audit_unwritten_lines ([1-9])"
        until(lambda: re.search(gauge, client.get("/metrics").text) is not None)
        verdict = client.get("/v1/monitor").json()["verdict"]
        assert verdict["status"] == "degraded"
        assert "the audit log cannot be written" in " ".join(verdict["reasons"])
        path.rmdir()
        path.with_suffix(".away").rename(path)
        until(lambda: "audit_written" in [e["event"] for e in server.events()])
        assert client.get("/v1/monitor").json()["verdict"]["status"] == "healthy"
    events = read_all(tmp_path / "server").events
    times = [event for event in events if event["event"] == "refused"]
    assert sum(line.get("count", 1) for line in times) == 3
    assert all(line.get("key") is None for line in times)
    assert not any(line["reason"] == "overloaded" for line in times)  # from /ready, while it loaded


def test_a_stream_is_read_to_its_end_meanwhile(tmp_path: Path) -> None:
    """A second signal of the same kind cuts nothing that is within the drain time."""
    with Server(tmp_path) as server, server.client() as client:
        server.ready()
        body = chat_body(stream=True, max_tokens=60, ignore_eos=True)
        with client.stream("POST", CHAT, json=body) as response:
            server.process.send_signal(signal.SIGHUP)
            events = events_of(response)
        assert events[-2]["choices"][0]["finish_reason"] == "length"
        server.process.wait(30)
