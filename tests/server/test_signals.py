"""A closed terminal (SIGHUP) is an orderly end, unless under nohup."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from qwick.server.audit import read_all
from server.live import SERVES, Server, chat_body, events_of

pytestmark = pytest.mark.model

CHAT = "/v1/chat/completions"


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
