"""Processes that are killed, ended and overrun: no stream without an end, nothing lost or left."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwick.server.audit import read_all
from qwick.server.keys import KeyRing
from server.live import MODEL, Server, chat_body, events_of, until

pytestmark = pytest.mark.model

CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True, "temperature": 1}


@pytest.fixture(autouse=True)
def the_checkpoint(default_checkpoint: Path) -> None:
    """Fetched before any server asks for it."""


def stream_of(server: Server, begun: threading.Semaphore, **fields: Any) -> list[Any]:
    """Read a stream to its end, and return its events; what breaks off is an error."""
    body = chat_body("Go on.", stream=True, **{**LONG, **fields})
    with server.client() as client, client.stream("POST", CHAT, json=body) as response:
        if response.status_code != 200:
            response.read()
            return [response.json()]
        found: list[Any] = []
        for line in response.iter_lines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
                begun.release()
        return found


def test_an_engine_that_is_killed_leaves_no_stream_without_an_end(tmp_path: Path) -> None:
    with Server(tmp_path) as server, ThreadPoolExecutor(4) as pool:
        server.ready()
        begun = threading.Semaphore(0)
        streams = [pool.submit(stream_of, server, begun) for _ in range(4)]
        for _ in range(12):
            assert begun.acquire(timeout=30)
        (engine,) = server.engines()
        os.kill(engine, signal.SIGKILL)
        for stream in streams:
            *_, last, done = stream.result(30)
            assert done == "[DONE]"
            assert last["error"]["code"] == "engine_error"
            assert "signal 9" in last["error"]["message"]
        with server.client() as client:
            # A new one waits for the new engine.
            assert client.post(CHAT, json=chat_body()).status_code == 200
            report = client.get("/v1/monitor").json()
            assert report["models"][0]["restarts"] == 1
            assert "was replaced once" in report["verdict"]["reasons"][0]
        (again,) = server.engines()
        assert again != engine
    (death,) = (e for e in server.events() if e["event"] == "engine_replaced")
    assert (death["pid"], death["restarts"], death["model"]) == (engine, 1, MODEL)
    assert "signal 9" in death["error"]
    failed = [e for e in server.events() if e["event"] == "request" and e["status"] != 200]
    assert [e["error"] for e in failed] == ["engine_error"] * 4


def test_an_engine_that_hangs_is_seen_and_replaced(tmp_path: Path) -> None:
    with Server(tmp_path, ["--stuck-after", "2"]) as server:
        server.ready()
        (engine,) = server.engines()
        os.kill(engine, signal.SIGSTOP)
        with server.client() as client:
            assert client.get("/health").status_code == 200  # this process is alive
            response = client.post(CHAT, json=chat_body())
            assert response.status_code == 503
            assert "stuck" in response.json()["error"]["message"]
            assert int(response.headers["retry-after"]) >= 1
            assert client.post(CHAT, json=chat_body()).status_code == 200
        server.ready()


def test_an_end_that_is_asked_for_lets_answers_finish(tmp_path: Path) -> None:
    with Server(tmp_path, ["--drain", "30"]) as server, ThreadPoolExecutor(2) as pool:
        server.ready()
        begun = threading.Semaphore(0)
        short = pool.submit(stream_of, server, begun, max_tokens=60)
        assert begun.acquire(timeout=30)
        server.process.send_signal(signal.SIGTERM)
        events = short.result(60)
        assert events[-1] == "[DONE]"
        assert events[-2]["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(30) == 0
        assert server.engines() == []


def test_what_is_left_after_the_drain_time_is_told_so(tmp_path: Path) -> None:
    with Server(tmp_path, ["--drain", "1"]) as server, ThreadPoolExecutor(2) as pool:
        server.ready()
        begun = threading.Semaphore(0)
        streams = [pool.submit(stream_of, server, begun, max_tokens=20_000) for _ in range(2)]
        for _ in range(6):
            assert begun.acquire(timeout=30)
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            *_, last, done = stream.result(30)
            assert done == "[DONE]"
            assert "the server is ending" in last["error"]["message"]
        assert server.process.wait(30) == 0
        assert time.monotonic() - asked < 10


def test_a_server_that_is_killed_takes_its_engine_with_it_and_loses_nothing(
    tmp_path: Path,
) -> None:
    ring = KeyRing(tmp_path / "server")
    key, text = ring.create("kept")
    with Server(tmp_path) as server, server.client(text) as client:
        server.ready()
        assert client.post(CHAT, json=chat_body()).status_code == 200
        with server.client("qk-wrong") as stranger:
            assert stranger.get("/v1/models").status_code == 401
        engines = server.engines()
        assert len(engines) == 1
        server.process.kill()
        server.process.wait(10)
        until(lambda: not Path(f"/proc/{engines[0]}").exists())
    events = [event["event"] for event in read_all(tmp_path / "server", 100).events]
    assert events[:2] == ["key_created", "server_started"]
    assert "refused" in events
    with Server(tmp_path) as server, server.client(text) as client:
        server.ready()
        assert client.post(CHAT, json=chat_body()).status_code == 200
        ring.revoke(key.id)
        assert client.post(CHAT, json=chat_body()).status_code == 401


def test_what_cannot_wait_is_sent_away_with_a_time(tmp_path: Path) -> None:
    options = ["--places", "1", "--waiting", "1"]
    with Server(tmp_path, options) as server, ThreadPoolExecutor(4) as pool:
        server.ready()
        begun = threading.Semaphore(0)
        first = pool.submit(stream_of, server, begun, max_tokens=150)
        assert begun.acquire(timeout=30)
        second = pool.submit(stream_of, server, threading.Semaphore(0), max_tokens=5)

        def waiting() -> int:
            with server.client() as client:
                found: int = client.get("/v1/monitor").json()["models"][0]["waiting"]
                return found

        until(lambda: waiting() == 1)
        with server.client() as client:
            response = client.post(CHAT, json=chat_body())
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "overloaded"
            assert int(response.headers["retry-after"]) >= 1
            report = client.get("/v1/monitor").json()  # that is no error of the server
            assert (report["averages"]["errors"], report["averages"]["turned_away"]) == (0, 1)
            assert report["last"][0]["finish"] == "refused"
            assert report["last"][0]["error"] == "overloaded"
        assert first.result(60)[-1] == second.result(60)[-1] == "[DONE]"


def test_an_answer_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with Server(tmp_path, ["--deadline", "1"]) as server:
        server.ready()
        with server.client() as client:
            response = client.post(CHAT, json=chat_body("Go on.", **LONG))
            assert response.status_code == 504
            assert response.json()["error"]["code"] == "deadline_exceeded"
        *_, last, done = stream_of(server, threading.Semaphore(0))
        assert done == "[DONE]"
        assert last["error"]["code"] == "deadline_exceeded"


def test_a_long_prompt_is_kept_alive_and_tells_its_progress(tmp_path: Path) -> None:
    with Server(tmp_path, ["--keep-alive", "0.1"]) as server, server.client() as client:
        server.ready()
        body = chat_body("word " * 2500, stream=True, return_progress=True)
        lines = []
        with client.stream("POST", CHAT, json=body) as response:
            lines = [line for line in response.iter_lines() if line]
        progress = [
            json.loads(line.removeprefix("data: "))["prompt_progress"]
            for line in lines
            if "prompt_progress" in line
        ]
        assert len(progress) >= 4
        assert [p["total"] for p in progress] == [progress[0]["total"]] * len(progress)
        assert all(a["processed"] < b["processed"] for a, b in itertools.pairwise(progress))
        del body["return_progress"]
        body["cache_prompt"] = False
        with client.stream("POST", CHAT, json=body) as response:
            lines = list(response.iter_lines())
        assert keep_alives(lines) >= 3
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_a_stream_of_several_prompts_is_kept_alive_to_its_end(tmp_path: Path) -> None:
    """Also after the first of its answers has ended."""
    with Server(tmp_path, ["--keep-alive", "0.1"]) as server, server.client() as client:
        server.ready()
        prompts = [[1, 2, 3], [*range(1000, 2000)]]
        body = {"model": MODEL, "prompt": prompts, "stream": True, "max_tokens": 1}
        with client.stream("POST", "/v1/completions", json=body) as response:
            lines = list(response.iter_lines())
        first = next(i for i, line in enumerate(lines) if '"length"' in line)
        assert keep_alives(lines[first:]) >= 3
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_leaving_frees_the_engine_at_once(tmp_path: Path) -> None:
    """Also while a long prompt is computed, which servers are known to go on with."""
    with Server(tmp_path) as server, server.client() as client:
        server.ready()
        for stream in (True, False):
            body = chat_body("word " * 20_000, stream=stream, cache_prompt=False)
            with pytest.raises(httpx.ReadTimeout):
                client.post(CHAT, json=body, timeout=1.0)
            left = time.monotonic()
            until(lambda: client.get("/v1/monitor").json()["models"][0]["running"] == 0)
            assert client.post(CHAT, json=chat_body()).status_code == 200
            assert time.monotonic() - left < 5


def test_pages_of_other_origins_and_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout",
         str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    options += ["--cors-origin", "https://good.example", "--header-seconds", "1"]
    with Server(tmp_path / "state", options) as server:
        assert server.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=server.url, verify=trusted) as client:
            assert client.get("/health").status_code == 200
            url = f"https://localhost:{server.port}"
            monitor = [sys.executable, "-m", "qwick", "monitor", "--once", "--url", url]
            watch = partial(subprocess.run, capture_output=True, text=True)
            blind = watch(monitor)
            assert blind.returncode == 7
            assert "is not trusted" in blind.stderr
            assert "--ca names a PEM file" in blind.stderr
            assert "healthy" in watch([*monitor, "--ca", str(certificate)]).stdout
            assert "cannot be used" in watch([*monitor, "--ca", str(key)]).stderr
            preflight = {
                "origin": "https://good.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type,x-stainless-os,openai-project",
            }
            answer = client.options(CHAT, headers=preflight)
            assert answer.headers["access-control-allow-origin"] == "https://good.example"
            for path in ("/v1/models", "/health"):
                evil = client.get(path, headers={"origin": "https://evil.example"})
                assert "access-control-allow-origin" not in evil.headers
            assert (
                client.get("/v1/models", headers={"origin": "https://evil.example"}).status_code
                == 403
            )
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as silent:
            assert silent.recv(1) == b""  # it never began with TLS
        assert time.monotonic() - begun < 10


def test_a_door_that_would_be_open(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="there is no API key"),
        Server(tmp_path, ["--host", "0.0.0.0"]),
    ):
        pass
    KeyRing(tmp_path / "server").create("somebody")
    with Server(tmp_path, ["--host", "0.0.0.0"]) as server, server.client() as client:
        address = f"http://127.0.0.1:{server.port}/v1/models"
        assert client.get(address).status_code == 401


def test_damaged_keys_open_no_door(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "server")
    _, text = ring.create("somebody")
    with Server(tmp_path) as server, server.client(text) as client:
        assert client.get("/v1/models").status_code == 200
        whole = ring.path.read_bytes()
        ring.path.write_bytes(whole[: len(whole) // 2])
        for _ in range(2):
            response = client.get("/v1/models")
            assert response.status_code == 503
            assert str(tmp_path) not in response.text
        assert client.get("/health").status_code == 200
        ring.path.write_bytes(whole)
        assert client.get("/v1/models").status_code == 200


def test_the_content_policy_says_when_it_acts(tmp_path: Path) -> None:
    body = chat_body(max_tokens=30, guided_choice=["see <script>alert(1)</script> or javascript:x"])
    expected = "see [removed] or removed:x"
    with Server(tmp_path, ["--policy"]) as server, server.client() as client:
        server.ready()
        choice = client.post(CHAT, json=body).json()["choices"][0]
        assert choice["message"]["content"] == expected
        assert "took 2 scripts" in choice["warnings"][0]
        with client.stream("POST", CHAT, json={**body, "stream": True}) as response:
            events = events_of(response)
        texts = [e["choices"][0]["delta"].get("content", "") for e in events[:-1]]
        assert "".join(texts) == expected
        assert "took 2 scripts" in events[-2]["choices"][0]["warnings"][0]
        complete = {"model": MODEL, "prompt": "<script>", "max_tokens": 1}
        for path, wish in (
            (CHAT, {**body, "logprobs": True}),
            ("/v1/completions", {**complete, "logprobs": 0}),
            ("/v1/completions", {**complete, "echo": True}),
        ):
            error = client.post(path, json=wish).json()["error"]
            assert error["param"] == ("echo" if "echo" in wish else "logprobs")
            assert "content policy" in error["message"]
        asked = {"model": MODEL, "query": "x", "documents": ["<script>"]}
        error = client.post("/v1/rerank", json={**asked, "return_documents": True}).json()["error"]
        assert error["param"] == "return_documents"
        (row,) = client.post("/v1/rerank", json=asked).json()["results"]
        assert "document" not in row
        plain = {**complete, "prompt": "1 + 1 =", "echo": False}
        assert client.post("/v1/completions", json=plain).status_code == 200


def keep_alives(lines: list[str]) -> int:
    """Return the events of nothing among a stream's lines: two blank ones each, behind another."""
    return sum(not (a or b) for a, b in pairwise(lines)) // 2
