"""`qwick monitor` as a process of its own: servers that answer well, badly, or not at all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.terminal import SHELL, Terminal
from monitor.test_records import record
from qwick.errors import AuthenticationError, EngineError, PermissionDeniedError
from qwick.monitor.health import ModelFacts, Thresholds, verdict
from qwick.monitor.records import Averages, RequestRecord
from qwick.settings import child_environment
from server.live import MODEL, Server, chat_body, until

FACTS = ModelFacts("qwen", "ready", running=2, waiting=0, cache_used=0.25, memory=700_000_000)


def report(records: list[RequestRecord], facts: ModelFacts = FACTS, **server: Any) -> Any:
    """A report as the server makes it of the same parts."""
    averages = Averages.of(records)
    found = verdict(averages, {facts.name: facts}, Thresholds(), memory=None)
    return {
        "server": {
            **{"version": "1.2", "pid": 7, "started": 0.0, "uptime": 3725.0},
            **{"memory": 900_000_000, "under_way": 2},
            **server,
        },
        "models": [facts.to_dict()],
        "verdict": found.to_dict(),
        "averages": averages.to_dict(),
        "thresholds": Thresholds().to_dict(),
        "last": [one.to_dict() for one in records],
    }


GOOD = report([record(model="qwen")] * 3)
SLOW = report([record(model="qwen", total=40.0)] * 3)


class Recorded:
    """A real HTTP server that answers every request with what it was told to; notes what came."""

    def __init__(self) -> None:
        self.told = 200, json.dumps(GOOD)
        self.asked: list[tuple[str, str, str | None]] = []
        recorded = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = (self.command, self.path, self.headers.get("authorization"))
                status, body = recorded.told  # before anybody hears of it and tells another
                recorded.asked.append(found)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def tell(self, body: Any, status: int = 200) -> None:
        """Answer with this from now on: a str as it is, anything else as JSON."""
        self.told = status, body if isinstance(body, str) else json.dumps(body)


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    server = Recorded()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def monitor(url: str, *options: str, code: int = 0, **environment: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "qwick", "monitor", "--url", url, *options],
        **{"capture_output": True, "text": True, "check": False, "timeout": 120},  # type: ignore[call-overload]
        env=child_environment(**{"COLUMNS": "120", "QWICK_API_KEY": "", **environment}),
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_once(recorded: Recorded) -> None:
    out, _ = monitor(recorded.url, "--once")
    assert recorded.asked == [("GET", "/v1/monitor", None)]
    assert re.search(r"qwick 1.2 at http://\S+ · up 1 h 2 min · 900.0 MB · 2 under way", out)
    assert re.search(r"^healthy", out, re.M)
    assert re.search(r"^qwen +ready +2 +0 +25% +700.0 MB +0", out, re.M)
    assert "last 3: 20.0 tok/s · first token 300 ms (p95 300 ms) · per token 50 ms" in out
    assert len(re.findall(r"qwen +200 +stop +10 +0 +5 +300 ms +20.0", out)) == 3


def test_a_narrow_window_cuts_nothing_off(recorded: Recorded) -> None:
    out, _ = monitor(recorded.url, "--once", COLUMNS="50")
    assert max(map(len, out.splitlines())) <= 50
    words = " ".join(out.split())
    assert "model qwen · state ready · running 2 · waiting 0 · cache 25% · memory 700.0 MB" in words
    assert words.count("answer 5 · first 300 ms · tok/s 20.0") == 3
    assert "…" not in out


def test_a_small_window_shows_what_matters_first(recorded: Recorded) -> None:
    """The verdict and the models; requests as far as there is room for them."""
    recorded.tell(report([record(model="qwen", total=40.0)] * 8))
    command = f"{sys.executable} -m qwick monitor --url {recorded.url} --interval 0.2"
    with Terminal(child_environment(QWICK_API_KEY="", COLUMNS="60", LINES="7")) as terminal:
        terminal.enter(command, r"unhealthy\s+answers take 40.0 s[\s\S]*qwen +ready")
        assert "last 8" not in terminal.seen()
        terminal.press("C-c")
        terminal.wait_for(SHELL)


def test_the_verdict_is_the_exit_code(recorded: Recorded) -> None:
    recorded.tell(SLOW)
    out, _ = monitor(recorded.url, "--once", code=1)
    assert "unhealthy\n  answers take 40.0 s on average; the threshold is 10 s" in out
    assert "→ ask for fewer tokens (max_tokens), or stream the answers" in out
    out, _ = monitor(recorded.url, "--once", "--json", code=1)
    assert json.loads(out) == SLOW
    recorded.tell(GOOD)
    assert json.loads(monitor(recorded.url, "--json")[0]) == GOOD


def test_a_probe_is_posted(recorded: Recorded) -> None:
    recorded.tell({"verdict": GOOD["verdict"], "averages": GOOD["averages"], "rows": GOOD["last"]})
    out, _ = monitor(recorded.url + "/", "--probe")
    assert recorded.asked == [("POST", "/v1/monitor/probe", None)]
    assert "healthy" in out
    assert len(re.findall(r"qwen +200", out)) == 3


def test_where_the_key_comes_from(recorded: Recorded) -> None:
    monitor(recorded.url, "--once", QWICK_API_KEY="qk-env")
    monitor(recorded.url, "--once", "--key", "qk-given", QWICK_API_KEY="qk-env")
    monitor(recorded.url, "--once", "--key", "", QWICK_API_KEY="qk-env")
    assert [key for *_, key in recorded.asked] == ["Bearer qk-env", "Bearer qk-given", None]
    for bad in ("qk-schlüssel", "two\nlines"):
        _, err = monitor(recorded.url, "--once", "--key", bad, code=AuthenticationError.exit_code)
        assert bad.split("\n")[0] not in err
    assert len(recorded.asked) == 3


def test_no_proxy_stands_between_a_machine_and_itself(recorded: Recorded) -> None:
    """And none hears the key."""
    nowhere = "http://127.0.0.1:9"
    monitor(recorded.url, "--once", http_proxy=nowhere, HTTP_PROXY=nowhere, ALL_PROXY=nowhere)
    assert len(recorded.asked) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AuthenticationError), (403, PermissionDeniedError), (503, EngineError)],
)
def test_a_refusal_is_shown(recorded: Recorded, status: int, error: type[EngineError]) -> None:
    recorded.tell({"error": {"message": "not \x1b[31mtoday"}}, status)
    _, err = monitor(recorded.url, "--once", code=error.exit_code)
    assert "error: not ␛[31mtoday" in err


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("Ollama is running", 200),
        ("", 200),
        ("[" * 100_000, 200),
        ([], 200),
        ({}, 200),
        ({"status": "ok"}, 200),
        ({"detail": "Not Found"}, 404),
        ({"error": "Unauthorized"}, 401),
        ({"error": {"message": None}}, 500),
        ({**GOOD, "models": [1]}, 200),
        ({**GOOD, "models": None}, 200),
        ({**GOOD, "last": {"a": 1}}, 200),
        ({**GOOD, "verdict": "fine"}, 200),
        ({**GOOD, "server": {**GOOD["server"], "uptime": float("inf")}}, 200),
        ({**GOOD, "averages": {**GOOD["averages"], "ttft_p50": "soon"}}, 200),
        ({**GOOD, "models": [{**GOOD["models"][0], "cache_used": None}]}, 200),
    ],
)
def test_what_is_no_qwick_server(recorded: Recorded, body: Any, status: int) -> None:
    recorded.tell(body, status)
    out, err = monitor(recorded.url, "--json", code=EngineError.exit_code)
    assert not out
    assert err.startswith(f"error: no qwick server answers at {recorded.url}: ")


def test_nobody_there() -> None:
    for url in ("http://127.0.0.1:9", "127.0.0.1:8000", "http://[", "http://a b", "ftp://host"):
        _, err = monitor(url, "--once", code=EngineError.exit_code)
        assert err.startswith(f"error: no qwick server answers at {url}: ")
        assert "hint: `qwick serve` starts one" in err


def test_strange_texts_are_only_shown(recorded: Recorded) -> None:
    """Neither control characters nor rich's markup act; no number is too large for a clock."""
    evil = "[red]x[/red][/]\x1b[2J"
    facts = ModelFacts(evil, "failed")
    recorded.tell(report([record(model=evil, finish=evil, time=1e300)], facts, version=evil))
    out, _ = monitor(recorded.url, "--once", code=1)
    assert out.count("[red]x[/red][/]␛[2J") >= 4
    assert "\x1b" not in out


def test_it_watches_until_it_is_interrupted(recorded: Recorded) -> None:
    """Over a server that goes and comes back; Ctrl-C leaves the terminal as it was."""
    command = f"{sys.executable} -m qwick monitor --url {recorded.url} --interval 0.2"
    with Terminal(child_environment(QWICK_API_KEY="")) as terminal:
        before = terminal.state()
        terminal.enter(command, r"healthy[\s\S]*last 3: 20.0 tok/s")
        recorded.tell(SLOW)
        terminal.wait_for(r"unhealthy\s+answers take 40.0 s")
        recorded.tell({"error": {"message": "gone [for] now"}}, 503)
        terminal.wait_for(r"gone \[for\] now")
        recorded.tell(GOOD)
        terminal.wait_for(r"healthy[\s\S]*last 3", after="gone [for] now", times=0)
        terminal.press("C-c")
        terminal.wait_for(SHELL)
        assert "Traceback" not in terminal.seen()
        assert terminal.enter("echo $?", SHELL).split("\n")[0] == "130"
        assert terminal.state() == before
    assert len(recorded.asked) > 3


def test_it_ends_when_the_key_is_revoked(recorded: Recorded) -> None:
    done = subprocess.Popen(
        [sys.executable, "-m", "qwick", "monitor", "--url", recorded.url, "--interval", "0.2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=child_environment(QWICK_API_KEY="qk-good"),
    )
    while not recorded.asked and done.poll() is None:
        time.sleep(0.02)
    recorded.tell({"error": {"message": "revoked"}}, 401)
    _, err = done.communicate(timeout=60)
    assert done.returncode == AuthenticationError.exit_code
    assert "error: revoked" in err


def told(client: httpx.Client, name: str) -> float:
    """Return a metric of the only model."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == f"qwick:{name}":
                return sample.value
    raise AssertionError(f"there is no metric {name}")


@pytest.fixture
def server(default_checkpoint: Path, tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as running:
        yield running.ready()


@pytest.mark.model
@pytest.mark.alone  # it is to be found healthy, which a slow one is not
def test_a_real_server(server: Server) -> None:
    out, _ = monitor(server.url, "--probe", "--json")
    rows = json.loads(out)["rows"]
    assert len(rows) == 5
    assert all(row["status"] == 200 and row["completion_tokens"] > 0 for row in rows)
    with server.client() as client:
        assert client.post("/v1/chat/completions", json=chat_body()).status_code == 200
    out, _ = monitor(server.url, "--once")
    assert re.search(rf"^{MODEL} +ready +0 +0 ", out, re.M)
    assert "last 6: " in out


@pytest.mark.model
def test_counters_of_a_real_engine_go_on_when_it_is_replaced(server: Server) -> None:
    """Nothing is counted twice while the next one is loaded, or lost when it counts from 0."""
    with server.client() as client:
        assert client.post("/v1/chat/completions", json=chat_body()).status_code == 200
        time.sleep(2.5)  # an engine tells its counters every second
        steps = told(client, "engine_steps_total")
        assert steps > 0
        (engine,) = server.engines()
        os.kill(engine, signal.SIGKILL)
        until(lambda: told(client, "engine_restarts_total") == 1)
        assert told(client, "engine_steps_total") == steps
        server.ready()
        assert client.post("/v1/chat/completions", json=chat_body(max_tokens=2)).status_code == 200
        until(lambda: told(client, "engine_steps_total") > steps)
        assert told(client, "engine_steps_total") < 2 * steps
    monitor(server.url, "--once", code=1)  # it was replaced
