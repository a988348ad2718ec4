"""/v1/embeddings and /v1/rerank end to end: real processes, the official client, transformers."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import openai
import pytest
from openai.types import embedding_create_params

from llm.pooled import judged, states, write_checkpoint
from llm.small import POOLED_TOKENIZER_DATA, small_qwen
from qwick.engine.request import Request
from qwick.errors import (
    ContextLengthError,
    EngineError,
    OverloadedError,
    ParameterError,
    RefusedError,
)
from qwick.llm import Qwen, gather
from qwick.llm.pooling import Pooled
from qwick.server import pooled
from qwick.server.ask import check_size
from qwick.server.caller import Caller
from qwick.server.openai import replies
from qwick.server.openai.bodies import EmbeddingBody, RerankBody
from qwick.server.openai.pooling import embedding_ask, rerank_ask
from qwick.server.options import Bounds
from qwick.server.pooled import Pool, PooledFlight
from qwick.text.tokenizer import Tokenizer
from server.live import MODEL, Server, chat_body, until

pytestmark = pytest.mark.model

TEXTS = ["The capital of France is Paris.", "x", "the then he no yes"]
TASK = "Given a web search query, retrieve relevant passages that answer the query"
EMBED, RERANK = "/v1/embeddings", "/v1/rerank"

F32 = np.ndarray


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("judge"), "whole")


@pytest.fixture(scope="module")
def small(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of an embedding checkpoint, and of one that judges."""
    bare = write_checkpoint(tmp_path_factory.mktemp("embedder"), "bare")
    models = [f"embedder={bare}", f"judge={folder}"]
    with Server(tmp_path_factory.mktemp("state"), models, QWICK_KV="f32") as running:
        yield running.ready()


def clients(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def post(server: Server, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    with server.client() as client:
        response = client.post(path, json=body)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


def embed(server: Server, given: Any, status: int = 200, **fields: Any) -> dict[str, Any]:
    return post(server, EMBED, {"model": "embedder", "input": given, **fields}, status)


def vectors(found: dict[str, Any]) -> F32:
    replies.EmbeddingList.model_validate(found)
    assert [row["index"] for row in found["data"]] == list(range(len(found["data"])))
    return np.array([row["embedding"] for row in found["data"]])


def unit(rows: list[F32]) -> F32:
    stacked = np.stack(rows)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def test_the_official_client_gets_the_vectors_of_transformers(small: Server, folder: Path) -> None:
    expected = unit([rows[-1] for rows in states(folder, TEXTS)])
    with clients(small) as client:
        for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            found = client.embeddings.create(model="embedder", input=TEXTS, **options)
            got = [row.embedding for row in found.data]
            if options.get("encoding_format") == "base64":
                raw = [base64.b64decode(row) for row in got]  # type: ignore[arg-type]
                got = [np.frombuffer(row, "<f4").tolist() for row in raw]
            assert np.abs(np.array(got) - expected).max() < 2e-4 * expected.std()
            assert found.usage.prompt_tokens == found.usage.total_tokens > 20
        cut = client.embeddings.create(model="embedder", input=TEXTS, dimensions=32, user="me")
        wanted = unit(list(expected[:, :32]))
        assert np.abs(np.array([row.embedding for row in cut.data]) - wanted).max() < 1e-4


def test_every_form_of_input_and_every_field(small: Server, folder: Path) -> None:
    one = vectors(embed(small, TEXTS[0]))
    ids = post(small, "/tokenize", {"model": "embedder", "prompt": TEXTS[0]})["tokens"]
    assert np.abs(vectors(embed(small, ids)) - one).max() < 1e-5
    assert np.abs(vectors(embed(small, [ids, ids])) - one).max() < 1e-5
    assert np.abs(vectors(embed(small, TEXTS))[:1] - one).max() < 1e-5
    (query,) = unit([states(folder, [f"Instruct: Find it\nQuery:{TEXTS[0]}"])[0][-1]])
    asked = embed(small, TEXTS[0], instruction="Find it")
    assert np.abs(vectors(asked)[0] - query).max() < 1e-4
    raw = vectors(embed(small, TEXTS[0], normalize=False))
    assert np.abs(raw / np.linalg.norm(raw) - one).max() < 1e-5
    assert np.linalg.norm(raw) > 2
    long = "a " * 400
    short = vectors(embed(small, "a a ", truncate_prompt_tokens=5))
    assert np.abs(vectors(embed(small, long, truncate_prompt_tokens=5)) - short).max() < 1e-5
    assert embed(small, long, truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == 640
    fresh = {"cache_prompt": False, "input": long[:600], "model": "embedder"}
    usages = [post(small, EMBED, fresh)["usage"] for _ in range(2)]
    assert [u["prompt_tokens_details"]["cached_tokens"] for u in usages] == [0, 0]
    salted = [embed(small, long[:600], cache_salt=salt)["usage"] for salt in ("a", "b", "b")]
    cached = [u["prompt_tokens_details"]["cached_tokens"] for u in salted]
    assert (cached[:2], cached[2] > 100) == ([0, 0], True)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": ["x", "a " * 400]}, "input", "input[1] has 801 tokens"),
        ({"input": "7a " * 9999}, "input", "input has more than 640 tokens"),
        ({"input": ""}, "input", "input is empty"),
        ({"input": []}, "input", "input"),
        ({"input": ["x"] * 2049}, "input", "at most 2048"),
        ({"input": ["x", 3]}, "input[1]", "input[1] is 3"),
        ({"input": [[9999]]}, "input", "an id in the prompt is 9999"),
        ({"input": [1], "instruction": "y"}, "input", "input is a list of ids"),
        ({"dimensions": 97}, "dimensions", "allowed: whole numbers from 32 to 96"),
        ({"dimensions": 0}, "dimensions", "dimensions is 0"),
        ({"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"truncate_prompt_tokens": 641}, "truncate_prompt_tokens", "1 to 640"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "1 to 640"),
        ({"stream": True}, "stream", "no field"),
        ({"add_special_tokens": False}, "add_special_tokens", "no field"),
    ],
)
def test_what_is_wrong_is_named(
    small: Server, fields: dict[str, Any], param: str, words: str
) -> None:
    error = embed(small, **{"given": "x", "status": 400, **_as_given(fields)})["error"]
    assert words in error["message"]
    assert error["param"] == param
    if "has 801" in words:
        assert (error["code"], error["n_ctx"]) == ("context_length_exceeded", 640)


def _as_given(fields: dict[str, Any]) -> dict[str, Any]:
    return {("given" if name == "input" else name): value for name, value in fields.items()}


def test_numbers_as_text_have_a_limit(small: Server) -> None:
    from qwick.server.openai import pooling

    texts = ["x"] * 2048  # of 96 numbers: allowed; told of the limit in process
    assert len(vectors(embed(small, texts))) == 2048
    assert 2048 * 96 < pooling.MOST_NUMBERS < 2048 * 1024


def test_an_embedding_checkpoint_does_not_answer(small: Server) -> None:
    for path, body in (
        ("/v1/chat/completions", chat_body(model="embedder")),
        ("/v1/completions", {"model": "embedder", "prompt": "x"}),
        (RERANK, {"model": "embedder", "query": "x", "documents": ["y"]}),
    ):
        error = post(small, path, body, 400)["error"]
        assert "makes embeddings only" in error["message"]
        assert "/v1/embeddings" in error["message"]
    with small.client() as client:
        data = client.get("/v1/models").json()["data"]
        told = {model["id"]: model["meta"] for model in data}
    assert (told["embedder"]["answers"], told["embedder"]["embedding"]) == (False, 96)


def test_the_client_knows_no_field_that_is_unknown_here() -> None:
    names = set(get_type_hints(embedding_create_params.EmbeddingCreateParams))
    assert len(names) == 5
    assert names <= set(EmbeddingBody.model_fields)


# -- rankings --------------------------------------------------------------------------------------


def test_a_ranking_has_the_scores_of_the_card(small: Server, folder: Path) -> None:
    scores = judged(folder, TASK, "he", TEXTS)
    body = {"model": "judge", "query": "he", "documents": [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]}
    for path in (RERANK, "/rerank"):
        found = post(small, path, body)
        replies.Ranking.model_validate(found)
        order = np.argsort([-score for score in scores], kind="stable").tolist()
        assert [row["index"] for row in found["results"]] == order
        assert [row["document"] for row in found["results"]] == [{"text": TEXTS[i]} for i in order]
        got = [row["relevance_score"] for row in found["results"]]
        assert got == pytest.approx([scores[i] for i in order], abs=1e-4)
        assert found["usage"]["prompt_tokens"] > 500
    best = post(small, RERANK, {**body, "top_n": 1, "return_documents": False, "user": "me"})
    assert [list(row) for row in best["results"]] == [["index", "relevance_score"]]
    assert len(post(small, RERANK, {**body, "top_n": 0})["results"]) == 3
    (own,) = judged(folder, "Find it", "he", ["the"])
    asked = {**body, "documents": ["the"], "instruction": "Find it"}
    assert post(small, RERANK, asked)["results"][0]["relevance_score"] == pytest.approx(
        own, abs=1e-4
    )
    for fields, param, words in (
        ({"documents": ["x", "a " * 300]}, "documents", "documents[1] has"),
        ({"documents": []}, "documents", "documents"),
        ({"documents": [3]}, "documents[0]", "documents[0] is 3"),
        ({"documents": [{"text": "x", "id": 1}]}, "documents[0].id", "is no field"),
        ({"query": ""}, "documents", "the query is empty"),
        ({"top_n": -1}, "top_n", "0 or more"),
        ({"truncate_prompt_tokens": 9}, "truncate_prompt_tokens", "allowed: more than"),
        ({"max_chunks_per_doc": 1}, "max_chunks_per_doc", "no field"),
    ):
        error = post(small, RERANK, {**body, **fields}, 400)["error"]
        assert words in error["message"], error
        if "query" not in fields:
            assert error["param"] == param, error
    cut = {**body, "documents": ["x", "a " * 300], "truncate_prompt_tokens": -1}
    assert len(post(small, RERANK, cut)["results"]) == 2


# -- the real checkpoint ---------------------------------------------------------------------------


def last_record(server: Server, kind: str) -> dict[str, Any]:
    with server.client() as client:
        last = client.get("/v1/monitor").json()["last"]
    found = [record for record in last if record["kind"] == kind]
    return found[0] if found else {}


def test_real_weights_tell_texts_apart(server: Server) -> None:
    texts = [
        "def add(a, b):\n    return a + b",
        "def plus(x, y):\n    return x + y",
        "Good morning!",
    ]
    with clients(server) as client:
        found = client.embeddings.create(model=MODEL, input=texts)
    a, b, c = (np.array(row.embedding) for row in found.data)
    assert len(a) == 896
    assert a @ b > a @ c + 0.05
    record = last_record(server, "embedding")
    assert (record["status"], record["completion_tokens"]) == (200, 0)
    assert record["prompt_tokens"] == found.usage.prompt_tokens
    with server.client() as client:
        assert 'path="/v1/embeddings"' in client.get("/metrics").text


def test_others_are_answered_meanwhile_and_who_leaves_is_cancelled(server: Server) -> None:
    texts = [f"{i} " + "many words " * 100 for i in range(150)]
    body = json.dumps({"model": MODEL, "input": texts, "cache_prompt": False}).encode()
    head = (
        f"POST {EMBED} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head + body)
        with server.client() as other:
            other.timeout = 300  # of a busy machine
            until(lambda: other.get("/v1/monitor").json()["models"][0]["running"] > 0)
            answer = other.post("/v1/chat/completions", json=chat_body("Hi", max_tokens=2))
            assert answer.status_code == 200
            assert other.get("/v1/monitor").json()["models"][0]["running"] == 1
    until(lambda: last_record(server, "embedding").get("finish") == "cancelled", 60)
    assert last_record(server, "embedding")["status"] == 499


# -- what is read with each of many texts ----------------------------------------------------------


def test_a_query_counts_with_every_document() -> None:
    caller = Caller(None, "", "r")
    texts = ["a", "bc", "d"]
    for instruction, more in ((None, 0), ("Find", 4)):
        asked = RerankBody(model="m", query="12345", documents=texts, instruction=instruction)
        assert rerank_ask(asked, caller, documents=True).characters == 3 * (5 + more) + 4
        given = EmbeddingBody(model="m", input=texts, instruction=instruction)
        assert embedding_ask(given, caller).characters == 3 * more + 4
    many = RerankBody(model="m", query="x" * 8_000_000, documents=["x"] * 2048)
    with pytest.raises(RefusedError, match="the request has 16384002048 characters") as told:
        check_size(rerank_ask(many, caller, documents=True), Bounds())
    assert "counts with each text" in str(told.value)


def test_tokens_of_all_texts_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwick.server.openai import pooling

    monkeypatch.setattr(pooling, "MOST_TOKENS", 3000)
    caller = Caller(None, "", "r")
    with small_qwen(tokenizer=Tokenizer.from_data(POOLED_TOKENIZER_DATA)) as qwen:
        given = EmbeddingBody(model="m", input=["x" * 99] * 30)  # with their ends, 3000
        (pool,) = {embedding_ask(given, caller).pool} - {None}
        assert len(pool.prepare(qwen).requests) == 30
        body = RerankBody(model="m", query="he", documents=["x"] * 2048)
        more = EmbeddingBody(model="m", input=[[7] * 99] * 31)
        for ask, field in (
            (embedding_ask(more, caller), "input"),
            (rerank_ask(body, caller, documents=True), "documents"),
        ):
            assert ask.pool is not None
            words = f"{field} holds more than 3000 tokens.*allowed: up to 3000 in one request"
            with pytest.raises(ParameterError, match=words) as told:
                ask.pool.prepare(qwen)
            assert (told.value.status, told.value.field) == (400, field)


# -- a flight by itself ----------------------------------------------------------------------------


def flown(qwen: Qwen, pool: Pool, meanwhile: Callable[[PooledFlight], object]) -> list[Any]:
    """The pieces of a pool's flight, which is made on a thread, as the desk has it."""

    async def run() -> list[Any]:
        flight = await asyncio.to_thread(pool.flight, qwen)
        task = asyncio.create_task(_all_of(flight.pieces(qwen)))
        await asyncio.sleep(0.01)
        meanwhile(flight)
        return await task

    return asyncio.run(run())


async def _all_of(pieces: AsyncIterator[Any]) -> list[Any]:
    return [piece async for piece in pieces]


def a_pool(read: Callable[[Any], Any] = list, ids: int = 3, many: int = 2) -> Pool:
    requests = [Request([i % 200 + 1] * ids, kind="embed") for i in range(many)]
    return Pool("input", lambda _: Pooled(requests, read), lambda found, _: repr(found).encode())


def test_the_event_loop_neither_checks_nor_reads_what_is_pooled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, where = threading.get_ident(), {"check": set[int](), "read": set[int]()}
    checked: list[Request] = []
    real = gather.check_all

    def check_all(requests: Sequence[Request], engine: Any) -> None:
        where["check"].add(threading.get_ident())
        checked.extend(requests)
        real(requests, engine)

    def read(events: Any) -> str:
        where["read"].add(threading.get_ident())
        return f"{len(events)} read"

    monkeypatch.setattr(gather, "check_all", check_all)
    monkeypatch.setattr(pooled, "check_all", check_all)
    with small_qwen() as qwen:
        ((_, reply),) = flown(qwen, a_pool(read), lambda _: None)
        assert reply.body == b"'2 read'"
        assert len(checked) == 2, "checked more than once"
        assert len(asyncio.run(qwen.aembed([[1, 2], [3]]))) == 2
        assert len(checked) == 4
        with pytest.raises(ContextLengthError):
            asyncio.run(qwen.aembed([[1] * 600]))
    assert all(threads and home not in threads for threads in where.values())


def test_a_pooled_answer_that_the_server_cancels_says_so() -> None:
    qwen = small_qwen(cache_tokens=16384)
    pool = a_pool(ids=400, many=2000)
    # Closed between two portions of the texts, the engine refuses the next one.
    with pytest.raises(EngineError, match=r"cancelled by the server|the engine is closed") as told:
        flown(qwen, pool, lambda _: qwen.close())
    assert told.value.status == 503
    with small_qwen(cache_tokens=16384) as qwen:
        why = OverloadedError("the server ends", hint="ask again", retry_after=1.0)
        with pytest.raises(OverloadedError):
            flown(qwen, pool, lambda flight: flight.abort(why))
