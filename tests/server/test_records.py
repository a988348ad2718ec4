"""What a server tells of its requests, asked of a real one: speeds, averages, probes, readiness."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwick.engine.client import Pulse, State
from qwick.errors import OverloadedError
from qwick.server.hosted import Hosted
from qwick.server.options import ServeOptions
from qwick.server.watching import check_ready
from server.live import MODEL, Server, chat_body

CHAT, MONITOR = "/v1/chat/completions", "/v1/monitor"


def last_record(client: Any, **parameters: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.get(MONITOR, params=parameters).json()["last"][0]
    return found


@pytest.mark.model
def test_a_speed_is_that_of_the_tokens_after_the_first(server: Server) -> None:
    with server.client() as client:
        body = chat_body("Count.", max_tokens=2, ignore_eos=True)
        timings = client.post(CHAT, json=body).json()["timings"]
        record = last_record(client)
        assert record["completion_tokens"] == 2
        told = timings["predicted_per_second"]
        assert record["tokens_per_second"] == pytest.approx(told, rel=0.01)
        assert record["tpot"] == pytest.approx(1 / told, rel=0.01)


@pytest.mark.model
def test_what_others_wait_for_their_prompts_is_no_speed(server: Server) -> None:
    """Several answers of one token each have no tokens after the first."""
    with server.client() as client:
        body = {"model": MODEL, "prompt": [[1, 2, 3], [4, 5, 6]], "max_tokens": 1}
        assert client.post("/v1/completions", json=body).status_code == 200
        record = last_record(client)
        assert record["completion_tokens"] == 2
        assert (record["tpot"], record["tokens_per_second"]) == (None, 0)


@pytest.mark.model
def test_averages_are_of_as_many_as_one_asks_for(server: Server) -> None:
    with server.client() as client:
        for _ in range(2):
            assert client.post(CHAT, json=chat_body(max_tokens=1)).status_code == 200
        assert client.get(MONITOR, params={"last": 1}).json()["averages"]["count"] == 1
        assert client.get(MONITOR).json()["averages"]["count"] >= 2
        for wrong in ("0", "1001", "-1", "x", "", "1.0", "9" * 5000, "\u0661"):
            response = client.get(MONITOR, params={"last": wrong})
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "last"
            assert "allowed: whole numbers from 1 to 1000" in response.json()["error"]["message"]


@pytest.mark.model
def test_a_probe_asks_what_it_is_told_to(server: Server) -> None:
    with server.client() as client:
        probe = {"prompts": ["One.", "Two."], "max_tokens": 3}
        rows = client.post(f"{MONITOR}/probe", json=probe).json()["rows"]
        assert [row["max_tokens"] for row in rows] == [3, 3]
        assert all(1 <= row["completion_tokens"] <= 3 for row in rows)
        for field, wrong in (
            *(("prompts", []), ("prompts", ["x"] * 33), ("prompts", [""]), ("prompts", [1])),
            *(("max_tokens", 0), ("max_tokens", 1.0), ("prompt", "x")),
        ):
            response = client.post(f"{MONITOR}/probe", json={field: wrong})
            assert response.status_code == 400
            assert field in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("silent", "computing", "ready"),
    [
        (9.0, False, True),
        (11.0, False, False),
        (29.0, True, True),
        (31.0, True, False),  # it spins, and is replaced only after many times that
    ],
)
def test_an_engine_that_gives_no_sign_of_life_is_not_ready(
    silent: float, computing: bool, ready: bool
) -> None:
    hosted = Hosted("m", None, ServeOptions(stuck_seconds=30.0))
    pulse = Pulse(State.READY, 1, silent, computing, 0)
    hosted._qwen = SimpleNamespace(engine=SimpleNamespace(pulse=pulse))  # type: ignore[assignment]
    if ready:
        check_ready([hosted])
        return
    with pytest.raises(OverloadedError, match="has been silent for"):
        check_ready([hosted])


@pytest.mark.model
def test_what_the_switches_of_the_watch_do(tmp_path: Path) -> None:
    """Thresholds of one's own; texts in the log only where they are asked for."""
    options = ["--speed-below", "1000000", "--memory-above", "1", "--slow-above", "0.01"]
    for switch, logged in (([], False), (["--log-content"], True)):
        with Server(tmp_path, [*options, *switch]) as server, server.client() as client:
            server.ready()
            for _ in range(3):  # fewer are not judged
                answer = client.post(CHAT, json=chat_body("Say ringing.")).json()
            told = client.get(MONITOR).json()["verdict"]
            assert told["status"] == "unhealthy"  # many times beyond them
            assert sum("the threshold is" in reason for reason in told["reasons"]) == 3
        *_, event = (e for e in server.events() if e["event"] == "request")
        assert ("Say ringing." in json.dumps(event)) is logged
        text = answer["choices"][0]["message"]["content"]
        assert (event.get("answer") == [text]) is logged
