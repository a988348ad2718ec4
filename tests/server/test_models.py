"""Several models, and engines that are away: nobody else waits, and a server that can is ready."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from qwick.server.keys import KeyRing
from qwick.server.limits import Limits, Rate
from server.live import Server, chat_body, until

pytestmark = pytest.mark.model

CHAT = "/v1/chat/completions"


def asking(model: str, **fields: object) -> dict[str, object]:
    return {**chat_body(**fields), "model": model}


def two(checkpoint: Path, *options: str) -> list[str]:
    return [f"first={checkpoint}", f"second={checkpoint}", *options]


def test_two_models_and_memory_for_one(tmp_path: Path, default_checkpoint: Path) -> None:
    options = two(default_checkpoint, "--memory", "600MB")
    with Server(tmp_path, options) as server, server.client() as client:
        server.ready()

        def states() -> list[str]:
            return [m["state"] for m in client.get("/v1/models").json()["data"]]

        found = []
        for model in ("first", "second", "first", "second"):
            response = client.post(CHAT, json=asking(model))
            assert response.status_code == 200
            assert response.json()["model"] == model
            found.append(states())
        assert found == [["ready", "cold"], ["cold", "ready"]] * 2
        assert len(server.engines()) == 1
        # Who looks after the server finds it ready, and unloads nobody's model.
        assert client.get("/ready").status_code == 200
        assert [*client.get("/health_generate").json()["seconds"]] == ["second"]
        probe = {"prompts": ["Hi."], "max_tokens": 1}
        assert client.post("/v1/monitor/probe", json=probe).status_code == 200
        assert states() == ["cold", "ready"]
        # Asked for at once, one waits for the other.
        codes: list[int] = []

        def ask(model: str) -> None:
            codes.append(httpx.post(server.url + CHAT, json=asking(model), timeout=60).status_code)

        threads = [threading.Thread(target=ask, args=(m,)) for m in ("first", "second")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [200, 200]


def test_an_engine_that_is_away_holds_up_nobody_else(
    tmp_path: Path, default_checkpoint: Path
) -> None:
    """Its replacement hangs while it is loaded, and many wait for it: others are served."""
    options = two(default_checkpoint, "--stuck-after", "6", "--drain", "1")
    with Server(tmp_path, options) as server, server.client() as client:
        server.ready()
        assert client.post(CHAT, json=asking("second")).status_code == 200
        (healthy,) = [e for e in server.engines() if e not in (gone := server.engines()[:1])]
        os.kill(gone[0], signal.SIGKILL)
        until(lambda: len({*server.engines()} - {healthy, *gone}) == 1)
        (replaced,) = {*server.engines()} - {healthy, *gone}
        os.kill(replaced, signal.SIGSTOP)
        models = {m["id"]: m["state"] for m in client.get("/v1/models").json()["data"]}
        (away,) = [name for name, state in models.items() if state == "loading"]
        other = "second" if away == "first" else "first"

        def wait() -> None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(server.url + CHAT, json=asking(away), timeout=60)

        threads = [threading.Thread(target=wait, daemon=True) for _ in range(40)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        begun = time.monotonic()
        assert client.post(CHAT, json=asking(other)).status_code == 200
        assert client.post("/tokenize", json={"content": "hi", "model": other}).status_code == 200
        assert time.monotonic() - begun < 3
        # A load that hangs is noticed too.
        until(lambda: replaced not in server.engines())
        for thread in threads:
            thread.join(60)
        assert client.post(CHAT, json=asking(away)).status_code == 200


def test_a_server_that_waits_for_an_engine_ends(tmp_path: Path) -> None:
    with Server(tmp_path, ["--drain", "1"]) as server:
        server.ready()
        (first,) = server.engines()
        os.kill(first, signal.SIGKILL)
        until(lambda: server.engines() not in ([], [first]))
        os.kill(server.engines()[0], signal.SIGSTOP)
        codes: list[int] = []

        def wait() -> None:
            codes.append(httpx.post(server.url + CHAT, json=chat_body(), timeout=60).status_code)

        threads = [threading.Thread(target=wait) for _ in range(12)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)
        assert time.monotonic() - begun < 15
        for thread in threads:
            thread.join()
        assert codes == [503] * 12


def test_an_engine_that_was_given_up_comes_back_unasked(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client() as client:
        server.ready()
        for _ in range(3):
            until(lambda: client.get("/ready").status_code == 200)
            os.kill(server.engines()[0], signal.SIGKILL)
            until(lambda: client.get("/ready").status_code == 503)
        until(lambda: client.get("/ready").status_code == 200)
        assert "engine_given_up" in [event["event"] for event in server.events()]
        assert client.post(CHAT, json=chat_body()).status_code == 200


def test_prompts_that_are_far_too_long_hold_up_nobody(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "server")
    _, greedy = ring.create("greedy", limits=Limits(requests=Rate(4, "hour")))
    _, other = ring.create("other")
    text = "All work and no play makes Jack a dull boy.\n" * 110_000
    assert len(text) < 8 << 20
    with Server(tmp_path) as server, server.client(other) as client:
        server.ready()
        answers: list[httpx.Response] = []

        def ask() -> None:
            with server.client(greedy) as own:
                answers.append(own.post(CHAT, json=chat_body(text)))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        begun = time.monotonic()
        assert client.post(CHAT, json=chat_body()).status_code == 200
        assert time.monotonic() - begun < 5
        for thread in threads:
            thread.join()
        # They count, though they were refused.
        assert sorted(answer.status_code for answer in answers) == [400] * 4 + [429] * 2
        long = next(answer for answer in answers if answer.status_code == 400).json()["error"]
        assert long["code"] == "context_length_exceeded"
        assert long["n_prompt_tokens"] > long["n_ctx"]
