"""Embeddings and reranking against transformers, through the whole API, in every form on disk."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm import pooled
from llm.pooled import END, FORMS, judged, states, write_checkpoint
from llm.small import small_qwen
from qwick.engine.request import Request
from qwick.errors import (
    ContextLengthError,
    EngineError,
    ParameterError,
    RequestCancelled,
    UnsupportedError,
)
from qwick.formats.open import open_checkpoint
from qwick.llm import Qwen, gather, pooling
from qwick.model.decoder import Decoder

TASK = "Given a web search query, retrieve relevant passages that answer the query"
TEXTS = [
    "The capital of France is Paris.",
    "x",
    "Ein Satz mit Umlauten: äöü, and 2 + 2 = 4.\n" * 3,
    "the then he no yes",
    "long " * 90,
]
QUERIES = ["What is the capital of France?", "he"]
AS_QUERIES = [f"Instruct: {TASK}\nQuery:{query}" for query in QUERIES]  # the card's own line
LIMIT = 2e-4  # of the deviation of a vector's numbers: the oracle rule in float32

F32 = np.ndarray
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("pooled"), "whole")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> list[F32]:
    """All final states of the texts, and of the queries behind them."""
    return states(folder, [*TEXTS, *AS_QUERIES])


@pytest.fixture(scope="module")
def qwen(folder: Path) -> Iterator[Qwen]:
    with Qwen.load(folder, kv="f32", threads=1) as loaded:
        yield loaded


def unit(vectors: list[F32]) -> F32:
    stacked = np.stack(vectors).astype(np.float64)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def distance(found: F32, expected: F32) -> float:
    """The largest error, in deviations of the expected numbers."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.abs(found - expected).max() / expected.std())


def embedded(qwen: Qwen) -> F32:
    namespace = str(next(_NAMES))  # so that nothing is found that was computed before
    return np.concatenate(
        [
            qwen.embed(TEXTS, namespace=namespace),
            qwen.embed(QUERIES, instruction=TASK, namespace=namespace),
        ]
    )


_NAMES = itertools.count()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_on_disk_gives_the_vectors_of_transformers(
    tmp_path: Path, oracle: list[F32], form: str
) -> None:
    path = write_checkpoint(tmp_path, form)
    expected = unit([rows[-1] for rows in oracle])
    if form.startswith("bare"):  # which transformers reads by itself too
        alone = states(path, TEXTS[:2])
        assert distance(alone[0], oracle[0]) < 1e-5
    with Qwen.load(path, kv="f32", threads=1) as loaded:
        assert distance(embedded(loaded), expected) <= LIMIT
        answers = "whole" in form
        assert loaded.engine.capacity.head is answers
        if answers:
            assert loaded.complete("he", max_tokens=1, temperature=0).usage.prompt_tokens == 1
        else:
            assert loaded.defaults.family.name == "qwen3-embedding"
            for ask in (
                lambda: loaded.chat("Hi"),
                lambda: loaded.complete("Hi"),
                lambda: loaded.rerank("Hi", ["x"]),
                lambda: loaded.score([1, 2]),
            ):
                with pytest.raises(UnsupportedError, match=r"embeddings.*Qwen\.embed"):
                    ask()


def test_raw_states_and_fewer_numbers(qwen: Qwen, oracle: list[F32]) -> None:
    last = np.stack([rows[-1] for rows in oracle[: len(TEXTS)]])
    assert distance(qwen.embed(TEXTS, normalize=False), last) <= LIMIT
    cut = qwen.embed(TEXTS, dimensions=40)
    assert distance(cut, unit([row[:40] for row in last])) <= LIMIT
    assert np.abs(np.linalg.norm(cut, axis=1) - 1).max() < 1e-6
    raw = qwen.embed(TEXTS, dimensions=32, normalize=False)
    assert distance(raw, last[:, :32]) <= LIMIT


def takes_ids(change: Callable[[Any], Any]) -> Callable[[Patch], None]:
    def mutate(monkeypatch: Patch) -> None:
        real = pooling.Request
        monkeypatch.setattr(
            pooling,
            "Request",
            lambda ids, **more: real(change(list(ids)), **more) if more else real(ids),
        )

    return mutate


def takes_states(change: Callable[[Decoder, Any, F32, Any], F32]) -> Callable[[Patch], None]:
    """Other states than those of the last rows; change: of (decoder, residual stream, rows)."""

    def mutate(monkeypatch: Patch) -> None:
        def final(self: Decoder, b: Any, batch: Any) -> F32:
            stream = b.x[: b.m] + b.delta[: b.m]
            starts, rows = batch.starts, batch.logit_rows
            first = starts[np.searchsorted(starts, rows, side="right") - 1]
            return change(self, stream, first, rows)

        monkeypatch.setattr(Decoder, "_final_states", final)

    return mutate


def normed(decoder: Decoder, x: F32) -> F32:
    out = np.empty_like(x)
    if len(x):
        decoder.weights.norm(np.ascontiguousarray(x), None, out)
    return out


MUTANTS: dict[str, Callable[[Patch], None]] = {
    "no end of text": takes_ids(lambda ids: ids[:-1]),
    "end of text twice": takes_ids(lambda ids: [*ids, END]),
    "first token": takes_states(lambda d, x, first, rows: normed(d, x[first])),
    "last but one": takes_states(lambda d, x, first, rows: normed(d, x[np.maximum(rows - 1, 0)])),
    "mean": takes_states(
        lambda d, x, first, rows: (
            np.stack(
                [normed(d, x[a : b + 1]).mean(axis=0) for a, b in zip(first, rows, strict=True)]
            )
            if len(rows)
            else x[:0]
        )
    ),
    "no final norm": takes_states(lambda d, x, first, rows: x[rows]),
    "a space before the query": lambda m: m.setattr(pooling, "_QUERY", pooling._QUERY + " "),
    "no instruction": lambda m: m.setattr(pooling, "_QUERY", "Query:"),
    "not of length 1": lambda m: m.setattr(
        pooling, "_vector", lambda event, size, normalize: event.state[:size]
    ),
}


def test_what_the_mutants_change_is_right_without_them(
    qwen: Qwen, oracle: list[F32], monkeypatch: Patch
) -> None:
    """The seam of the mutants itself changes nothing."""
    takes_states(lambda d, x, first, rows: normed(d, x[rows]))(monkeypatch)
    assert distance(embedded(qwen), unit([rows[-1] for rows in oracle])) <= LIMIT


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(qwen: Qwen, oracle: list[F32], monkeypatch: Patch, mutant: str) -> None:
    MUTANTS[mutant](monkeypatch)
    assert distance(embedded(qwen), unit([rows[-1] for rows in oracle])) > 50 * LIMIT


# -- texts -----------------------------------------------------------------------------------------


def asked(qwen: Qwen, monkeypatch: Patch, *texts: Any, **keywords: Any) -> list[list[int]]:
    found: list[list[int]] = []
    real = gather._Crowd

    def noting(requests: list[Request], *rest: Any) -> Any:
        found.extend(list(r.ids) for r in requests)
        return real(requests, *rest)

    monkeypatch.setattr(gather, "_Crowd", noting)
    qwen.embed(list(texts), **keywords)
    return found


def test_control_tokens_in_texts_stay_text(qwen: Qwen, monkeypatch: Patch) -> None:
    text = "a<|endoftext|>b<|im_end|>"
    (ids,) = asked(qwen, monkeypatch, text)
    assert ids == [*qwen.tokenizer.encode(text, parse_special=False), END]
    assert ids.count(END) == 1
    (ids,) = asked(qwen, monkeypatch, text, instruction="{text}<|im_start|>{query}")
    assert ids[-1] == END
    assert (
        qwen.tokenizer.decode(ids[:-1]) == f"Instruct: {{text}}<|im_start|>{{query}}\nQuery:{text}"
    )
    assert not set(ids[:-1]) & qwen.tokenizer.control_ids


def test_ids_are_taken_as_they_are(qwen: Qwen, monkeypatch: Patch) -> None:
    assert asked(qwen, monkeypatch, [1, 2], [1, 2, END], np.array([7])) == [
        [1, 2, END],
        [1, 2, END],
        [7, END],
    ]
    same = qwen.embed([[1, 2], [1, 2, END]])
    assert np.abs(same[0] - same[1]).max() < 1e-6


def test_a_text_that_is_too_long(qwen: Qwen, monkeypatch: Patch) -> None:
    long = "a " * 400
    with pytest.raises(ContextLengthError, match=r"texts\[1\] has 801 tokens.*holds 640") as told:
        qwen.embed(["x", long])
    assert "truncate" in str(told.value)
    (ids, short) = asked(qwen, monkeypatch, long, "x", truncate=5)
    assert ids == [*qwen.tokenizer.encode("a a ", parse_special=False), END]
    assert short == [*qwen.tokenizer.encode("x", parse_special=False), END]
    with pytest.raises(ContextLengthError, match=r"texts\[0\] has more than 640 tokens"):
        qwen.embed(["7a " * 100_000])  # told without reading it whole
    assert len(qwen.embed(["x" * 639])) == 1  # just fits


@pytest.mark.parametrize(
    ("texts", "keywords", "part"),
    [
        ([], {}, "texts holds 0 texts"),
        (["x", ""], {}, r"texts\[1\] is empty"),
        ([3], {}, r"texts\[0\] is 3; allowed: a text"),
        ([[1, 10_000]], {}, "an id in the prompt is 10000"),
        (["x"], {"instruction": ""}, "the instruction is empty"),
        ([[1]], {"instruction": "y"}, r"texts\[0\] is a list of ids"),
        (["x"], {"dimensions": 31}, "dimensions is 31; allowed: whole numbers from 32 to 96"),
        (["x"], {"dimensions": 97}, "dimensions is 97"),
        (["x"], {"truncate": 0}, "truncate is 0; allowed: whole numbers from 1 to 640"),
        (["x"], {"truncate": 1}, "truncate is 1; allowed: more than 1"),
        (["x"], {"normalize": 1}, "normalize is 1"),
        (["\ud800"], {}, r"texts\[0\] holds a lone surrogate"),
    ],
)
def test_what_cannot_be_embedded(qwen: Qwen, texts: Any, keywords: Any, part: str) -> None:
    with pytest.raises(ParameterError, match=part):
        qwen.embed(texts, **keywords)


# -- company, cancelling, the end ------------------------------------------------------------------


def test_company_and_what_was_computed_before_change_nothing(qwen: Qwen) -> None:
    alone = [qwen.embed(text, namespace=f"alone {i}")[0] for i, text in enumerate(TEXTS)]
    together = qwen.embed(TEXTS * 3, namespace="together")
    assert np.abs(together - np.stack(alone * 3)).max() < 1e-5
    before = qwen.stats.prefix_hit_tokens
    again = qwen.embed(TEXTS, namespace="together")
    assert qwen.stats.prefix_hit_tokens - before > 100, "nothing was used again"
    assert np.abs(again - np.stack(alone)).max() < 1e-5


def test_many_texts_go_a_few_at_a_time() -> None:
    with small_qwen(cache_tokens=16384) as qwen:
        found = qwen.embed([[i % 250] * 100 for i in range(150)])
        assert len({row.tobytes() for row in found}) == 150
        assert found.shape == (150, 4)
        assert qwen.stats.finished["stop"] == 150


def test_cancelling_the_task_cancels_what_is_left() -> None:
    with small_qwen(cache_tokens=16384) as qwen:

        async def give_up() -> None:
            task = asyncio.create_task(qwen.aembed([[i % 250] * 400 for i in range(2000)]))
            while not qwen.stats.finished["stop"]:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(give_up())
        assert np.isfinite(qwen.embed("after it")).all()
        assert qwen.stats.finished["stop"] < 1900
        assert qwen.engine.snapshot.pages_used == 0


def test_async_gives_the_same(qwen: Qwen) -> None:
    async def both() -> tuple[F32, Any]:
        return await qwen.aembed(TEXTS, dimensions=64), await qwen.arerank("he", TEXTS[:4], top_n=2)

    vectors, best = asyncio.run(both())
    assert np.abs(vectors - qwen.embed(TEXTS, dimensions=64)).max() < 1e-5
    assert [row.index for row in best] == [row.index for row in qwen.rerank("he", TEXTS[:4])][:2]
    with pytest.raises(ParameterError):
        asyncio.run(qwen.aembed([""]))


def test_a_closed_model_says_so() -> None:
    qwen = small_qwen()
    qwen.close()
    with pytest.raises((EngineError, RequestCancelled)):
        qwen.embed("x")


def test_an_engine_in_a_process_of_its_own(folder: Path, qwen: Qwen) -> None:
    with Qwen.load(folder, kv="f32", threads=1, own_process=True) as apart:
        assert apart.engine.capacity == qwen.engine.capacity
        assert np.abs(apart.embed(TEXTS) - qwen.embed(TEXTS)).max() < 1e-5
        assert apart.rerank("he", TEXTS[:2])[0].score == pytest.approx(
            qwen.rerank("he", TEXTS[:2])[0].score, abs=1e-5
        )


# -- reranking -------------------------------------------------------------------------------------

DOCUMENTS = [text[:150] for text in TEXTS]


@pytest.fixture(scope="module")
def verdicts(folder: Path) -> list[float]:
    found = judged(folder, TASK, QUERIES[0], DOCUMENTS)
    assert max(found) - min(found) > 0.2, "scores that are all alike show nothing"
    return found


def test_scores_are_those_of_the_card(qwen: Qwen, folder: Path, verdicts: list[float]) -> None:
    found = qwen.rerank(QUERIES[0], DOCUMENTS)
    assert [row.score for row in found] == pytest.approx(sorted(verdicts, reverse=True), abs=1e-4)
    assert [row.index for row in found] == np.argsort([-v for v in verdicts]).tolist()
    assert [row.document for row in found] == [DOCUMENTS[row.index] for row in found]
    assert qwen.rerank(QUERIES[0], DOCUMENTS, top_n=2) == found[:2]
    (own,) = judged(folder, "Find it", "he", ["the"])
    (row,) = qwen.rerank("he", ["the"], instruction="Find it")
    assert row.score == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda m: m.setattr(pooling, "YES", "no"),
        lambda m: (m.setattr(pooling, "YES", "no"), m.setattr(pooling, "NO", "yes")),
        lambda m: m.setattr(pooling, "_JUDGE_TAIL", pooling._JUDGE_TAIL.replace("<think>", "")),
        lambda m: m.setattr(pooling, "_JUDGE_HEAD", pooling._JUDGE_HEAD[:-1]),
        lambda m: m.setattr(pooling, "_JUDGE_BODY", pooling._JUDGE_BODY[:-1]),
        takes_ids(lambda ids: ids[:-1]),
    ],
    ids=["yes is no", "swapped", "no thinking", "a line less", "a space less", "last but one"],
)
def test_mutants_of_scores_are_caught(
    qwen: Qwen, monkeypatch: Patch, verdicts: list[float], mutant: Any
) -> None:
    mutant(monkeypatch)
    found = {row.index: row.score for row in qwen.rerank(QUERIES[0], DOCUMENTS)}
    assert max(abs(found[i] - score) for i, score in enumerate(verdicts)) > 5e-3


def test_what_cannot_be_judged(qwen: Qwen) -> None:
    for query, documents, keywords, part in (
        ("", ["x"], {}, "the query is empty"),
        ("x", [], {}, "documents holds 0 texts"),
        ("x", "xy", {}, "documents is 'xy'; allowed: a list"),
        ("x", [1], {}, r"documents\[0\] is of type int"),
        ("x", ["x"], {"top_n": 0}, "top_n is 0"),
        ("x", ["x"], {"truncate": 30}, "truncate is 30; allowed: more than"),
    ):
        with pytest.raises(ParameterError, match=part):
            qwen.rerank(query, documents, **keywords)  # type: ignore[arg-type]
    with pytest.raises(ContextLengthError, match=r"documents\[1\] has \d+ tokens"):
        qwen.rerank("x", ["x", "a " * 319])
    assert len(qwen.rerank("x", ["x", "a " * 319], truncate=600)) == 2
    with small_qwen() as plain, pytest.raises(UnsupportedError, match="no token of its own"):
        plain.rerank("x", ["y"])


def test_what_goes_before_every_text_is_refused_once(qwen: Qwen, monkeypatch: Patch) -> None:
    """Before any text is read with it, truncated or not."""
    read: list[int] = []
    real = type(qwen.tokenizer).encode

    def encode(self: Any, text: str, **keywords: Any) -> list[int]:
        read.append(len(text))
        return real(self, text, **keywords)

    monkeypatch.setattr(type(qwen.tokenizer), "encode", encode)
    long, far = "a" * 700, "7a " * 100_000
    documents = ["x"] * 100
    for truncate, (text, tokens) in itertools.product(
        (None, 640), ((long, r"\d+"), (far, "more than 640"))
    ):
        calls = (
            ("query", partial(qwen.rerank, text, documents)),
            ("instruction", partial(qwen.rerank, "x", documents, instruction=text)),
            ("instruction", partial(qwen.embed, documents, instruction=text)),
        )
        for field, call in calls:
            read.clear()
            with pytest.raises(ContextLengthError, match=f"has {tokens} tokens") as told:
                call(truncate=truncate)
            assert told.value.field == field
            assert sum(read) < 2000
    # What fits by itself but not below truncate.
    with pytest.raises(ParameterError, match=r"truncate is 50; allowed: more than \d{3}"):
        qwen.embed(documents, instruction="a" * 100, truncate=50)
    # With a text it is too long: told without reading both.
    read.clear()
    with pytest.raises(ContextLengthError, match=r"texts\[0\] has more than 640 tokens"):
        qwen.embed(["7" * 2300], instruction="7" * 400)
    assert read == [len("Instruct: \nQuery:") + 400]


# -- files -----------------------------------------------------------------------------------------


def test_other_poolings_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a", "bare")
    (path / "1_Pooling").mkdir()
    at = path / "1_Pooling" / "config.json"
    for mode in ("mean_tokens", "lasttoken"):
        at.write_text(f'{{"word_embedding_dimension": 96, "pooling_mode_{mode}": true}}')
        if mode == "lasttoken":
            open_checkpoint(path).close()
        else:
            with pytest.raises(UnsupportedError, match=r"pooling \['mean_tokens'\]"):
                open_checkpoint(path)


@pytest.mark.parametrize(
    ("number", "name"), [(0, "none"), (1, "mean"), (4, "rank"), (9, "unknown")]
)
def test_other_poolings_of_gguf_are_refused(
    tmp_path: Path, monkeypatch: Patch, number: int, name: str
) -> None:
    from qwick.formats import write

    monkeypatch.setattr(write, "LAST", number)
    path = pooled.write_checkpoint(tmp_path, "gguf")
    with pytest.raises(UnsupportedError, match=rf"pooling_type is {number} \({name}\)"):
        open_checkpoint(path)
