"""What counts for the limits of a key: every text, every id, every answer, also where no model
computes anything."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwick.server.keys import KeyRing
from qwick.server.limits import Limits, Rate
from server.live import MODEL, Server, chat_body

pytestmark = pytest.mark.model

CHAT = "/v1/chat/completions"
LIMITS = Limits(Rate(5, "hour"), max_characters=400, concurrent=2)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing(tmp_path_factory.mktemp("counted") / "server")


@pytest.fixture(scope="module")
def server(default_checkpoint: Path, keys: KeyRing) -> Iterator[Server]:
    keys.create("first")
    with Server(keys.path.parent.parent) as running:
        yield running.ready()


@pytest.fixture
def client(server: Server, keys: KeyRing, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    _, text = keys.create(request.node.name[:60], limits=LIMITS)
    with server.client(text) as found:
        yield found


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body("x" * 401)),
        (CHAT, chat_body(guided_grammar="start: " + " | ".join(f'"{i}"' for i in range(100)))),
        (
            CHAT,
            chat_body(
                messages=[
                    {"role": "user", "content": "x"},
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": f"{i}", "function": {"name": "n" * 100, "arguments": "{}"}}
                            for i in range(5)
                        ],
                    },
                ]
            ),
        ),
        ("/v1/completions", {"prompt": [14990] * 300, "max_tokens": 1}),
        ("/v1/completions", {"prompt": ["x" * 100] * 5, "max_tokens": 1}),
        ("/v1/completions", {"prompt": "a", "suffix": "x" * 400, "max_tokens": 1}),
        ("/v1/embeddings", {"model": MODEL, "input": ["x" * 200, "y" * 201]}),
        ("/v1/embeddings", {"model": MODEL, "input": [1] * 401}),
        ("/v1/embeddings", {"model": MODEL, "input": "x", "instruction": "y" * 400}),
        ("/v1/rerank", {"model": MODEL, "query": "x" * 200, "documents": ["y" * 201]}),
        ("/tokenize", {"prompt": "x" * 401}),
        ("/tokenize", {"messages": [{"role": "user", "content": "x" * 401}]}),
        ("/detokenize", {"tokens": [1] * 401}),
    ],
)
def test_every_text_counts(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    if "prompt" in body and path != "/tokenize":
        body = {"model": MODEL, **body}
    response = client.post(path, json=body)
    assert response.status_code == 400, response.text
    assert "allowed with this key: at most 400" in response.json()["error"]["message"]


def test_every_request_counts(client: httpx.Client) -> None:
    for left in (4, 3):
        response = client.post("/tokenize", json={"prompt": "a b"})
        assert response.headers["x-ratelimit-remaining-requests"] == str(left)
    for left in (2, 1):
        response = client.post("/detokenize", json={"tokens": [1, 2]})
        assert response.headers["x-ratelimit-remaining-requests"] == str(left)
    assert client.post(CHAT, json=chat_body()).status_code == 200
    for path, body in (("/tokenize", {"prompt": "a"}), (CHAT, chat_body())):
        assert client.post(path, json=body).status_code == 429


def test_every_answer_is_one_at_once(client: httpx.Client) -> None:
    response = client.post(CHAT, json=chat_body(n=3))
    assert response.status_code == 400
    assert "n asks for 3 answers at once" in response.json()["error"]["message"]
    many = client.post("/v1/embeddings", json={"model": MODEL, "input": ["a", "b", "c"]})
    assert (many.status_code, len(many.json()["data"])) == (200, 3)  # one answer
    assert client.post(CHAT, json=chat_body(n=2)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "Some words, and a few more. " * 70_000, "with_pieces": True},
        {"prompt": "1" * 1_000_000},
    ],
)
@pytest.mark.alone
def test_long_texts_do_not_keep_others_waiting(
    server: Server, keys: KeyRing, body: dict[str, Any]
) -> None:
    _, text = keys.create("long")
    waits: list[float] = []
    done = threading.Event()

    def look() -> None:
        with server.client() as client:
            while not done.is_set():
                begun = time.monotonic()
                assert client.get("/health").status_code == 200
                waits.append(time.monotonic() - begun)
                time.sleep(0.01)

    thread = threading.Thread(target=look)
    with server.client(text) as client:
        thread.start()
        response = client.post("/tokenize", content=json.dumps(body), headers=JSON)
        done.set()
        thread.join()
    keys.revoke("long")
    assert response.status_code == 200
    assert max(waits) < 2.0  # it was twenty seconds for eight million characters


JSON = {"content-type": "application/json"}
