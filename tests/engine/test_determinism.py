"""A seed in any company, in short, and that what breaks it is found: `checks/determinism.py`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from checks.determinism import SMALL, VOCAB, WANTED, WAYS, small_model, some_requests, try_model
from checks.determinism import try_texts as texts
from llm.small import write_small
from qwick.engine import sampler, scheduler
from qwick.engine.live import Live
from qwick.engine.prefix import extend_keys
from qwick.llm import Qwen
from qwick.model.batch import Batch
from qwick.model.decoder import Decoder
from qwick.native import ops

REQUESTS = 11


def differing(rows: list[dict[str, Any]]) -> set[str]:
    return {row["way"] for row in rows if row["differ"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Decoder]:
    folder = tmp_path_factory.mktemp("small")
    return {name: small_model(name, folder) for name in SMALL}


@pytest.fixture
def vectors() -> Iterator[None]:
    """The best instruction set of this CPU that promises the same in company."""
    before = ops.isa()
    usable = [i.name for i in ops.available() if i.usable and not i.name.startswith("amx")]
    ops.force(usable[0])
    yield
    ops.force(before)


@pytest.mark.usefixtures("vectors")
def test_every_way_gives_the_same_answers(models: dict[str, Decoder]) -> None:
    counts: Counter[str] = Counter()
    requests = some_requests(REQUESTS, VOCAB, random.Random(3))
    for name, model in models.items():
        rows, more = try_model(name, model, VOCAB, requests)
        assert differing(rows) == set(), name
        counts.update(more)
    assert [name for name in WANTED if not counts[name]] == []


@pytest.mark.usefixtures("vectors")
def test_streams_and_choices_are_the_same(tmp_path: Path) -> None:
    with Qwen.load(write_small(tmp_path / "a.gguf")) as qwen:
        assert texts(qwen, 4)["differ"] == 0


# -- mutants -------------------------------------------------------------------------------------


def seeds_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Callable[..., None] = Live.__init__

    def init(self: Live, number: int, *rest: Any, **more: Any) -> None:
        made(self, number, *rest, **more)
        self.seed = (self.seed or 0) + number

    monkeypatch.setattr(Live, "__init__", init)


def shares_its_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream of numbers for all requests, as a generator of the engine would be."""
    uniform, turns = sampler.uniform, count()
    monkeypatch.setattr(sampler, "uniform", lambda seed, index: uniform(seed, next(turns)))


def counts_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic that depends on how many rows a step has."""
    forward = Decoder.forward

    def other(self: Decoder, batch: Batch, cache: Any) -> Any:
        hidden = forward(self, batch, cache)
        hidden *= 1 + len(batch.ids) * 2**-20
        return hidden

    monkeypatch.setattr(Decoder, "forward", other)


def ignores_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept pages that are taken for those of other ids."""

    def keys_of(keys: Any, root: bytes, ids: Any, *rest: Any) -> None:
        extend_keys(keys, root, [0] * len(ids), *rest)

    monkeypatch.setattr(scheduler, "extend_keys", keys_of)


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize(
    ("mutant", "ways"),
    [
        (seeds_with_the_number, {"batch of 7"}),
        (shares_its_draws, {"batch of 7"}),
        (counts_rows, {"batch of 7", "chunks of 5"}),
        (ignores_ids, {"reused"}),
    ],
)
def test_what_breaks_it_is_found(
    models: dict[str, Decoder],
    mutant: Callable[[pytest.MonkeyPatch], None],
    ways: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutant(monkeypatch)
    requests = some_requests(REQUESTS, VOCAB, random.Random(3))
    some = [way for way in WAYS if way.name in ways]
    name = "qwen2 blocks int8 pages"
    rows, _ = try_model(name, models[name], VOCAB, requests, some)
    assert differing(rows) == ways
