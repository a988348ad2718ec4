"""A real server in a process of its own, with the real default checkpoint unless told otherwise."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

MODEL = "qwen2.5-coder-0.5b-instruct"
SERVES = re.compile(r"qwick serves at (https?)://(\S+):(\d+)")


class Server:
    """`qwick serve` as a user starts it. A context manager; `state` is its QWICK_STATE folder."""

    program: tuple[str, ...] = (sys.executable, "-m", "qwick")

    def __init__(self, state: Path, options: Sequence[str] = (), **environment: str) -> None:
        self.state = state
        self.options = [*options]
        self._environment = environment
        self.lines: list[str] = []
        self.url = ""

    def __enter__(self) -> Server:
        command = [*self.program, "serve", *self.options]
        if "--port" not in self.options:
            command += ["--port", "0"]
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "QWICK_STATE": str(self.state), **self._environment},
        )
        self._found = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not (self._found.wait(60) and self.url):
            self.process.kill()
            raise AssertionError("the server did not start: " + "".join(self.lines))
        return self

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            match = SERVES.match(line)
            if match is not None:
                self.url = f"{match[1]}://{match[2]}:{match[3]}"
                self.port = int(match[3])
                self._found.set()
        self._found.set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("the server did not end: " + "".join(self.lines)) from None
        self._reader.join(10)

    def ready(self, seconds: float = 60.0) -> Server:
        """Wait until it answers requests."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self.client() as client:
                if client.get("/ready").status_code == 200:
                    return self
            time.sleep(0.05)
        raise AssertionError("the server is not ready: " + "".join(self.lines))

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """Return an HTTP client."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, timeout=60, headers=headers, **options)

    def events(self) -> list[dict[str, Any]]:
        """Return what it has logged."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def engines(self) -> list[int]:
        """Return the processes of its engines, once they are no longer copies of the server's."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                begun = b"qwick.engine.child" in (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid and fields[0] != "Z" and begun:
                found.append(int(entry.name))
        return found


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something to come about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.05)


def chat_body(text: str = "Say hi.", **fields: Any) -> dict[str, Any]:
    """Return a body of /v1/chat/completions."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 8, **fields}


def events_of(response: httpx.Response) -> list[Any]:
    """Return the data of a stream's events, read to its end; the last one is "[DONE]"."""
    found: list[Any] = []
    for line in response.iter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
        else:
            assert not line or line.startswith(":"), line
    return found
