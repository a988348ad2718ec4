"""Drafts on the real default checkpoint: the same answers in fewer steps, row for row exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwick.engine.batching import build
from qwick.engine.draft import MOST_ROWS
from qwick.engine.scheduler import Chunk
from qwick.engine.sequence import Sequence
from qwick.engine.thread import EngineThread
from qwick.errors import ParameterError
from qwick.evaluate.editing import TASK
from qwick.llm import Qwen, Reply
from qwick.llm.load import Loaded, Options, load
from qwick.model.decoder import Decoder
from qwick.text.tokenizer import Tokenizer

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def loaded(default_checkpoint: Path) -> Loaded:
    return load(default_checkpoint, Options(ctx=2048))


@pytest.fixture(scope="module")
def both(loaded: Loaded) -> Iterator[tuple[Qwen, Qwen]]:
    """The same model in two engines, the first without drafts."""

    def started(drafts: bool) -> Qwen:
        return Qwen(EngineThread(loaded.engine(Options(drafts=drafts))), loaded.texts)

    with started(False) as plain, started(True) as drafting:
        yield plain, drafting


def same_answers(both: tuple[Qwen, Qwen], prompt: str, **keywords: Any) -> Reply:
    """Ask both, compare all but the times, and return the one with drafts."""
    plain, drafting = (qwen.chat(prompt, **keywords) for qwen in both)
    assert drafting.ids == plain.ids
    assert drafting.text == plain.text
    assert drafting.logprobs == plain.logprobs
    assert (drafting.finish_reason, drafting.stop) == (plain.finish_reason, plain.stop)
    assert (plain.timings.drafted, plain.timings.accepted) == (0, 0)
    assert drafting.timings.accepted <= drafting.timings.drafted
    return drafting


def test_quoted_code_is_the_same_and_mostly_drafted(both: tuple[Qwen, Qwen]) -> None:
    reply = same_answers(both, TASK, temperature=0, max_tokens=96)
    assert reply.usage.completion_tokens == 96
    assert reply.timings.accepted > 48
    assert reply.to_dict()["timings"]["accepted"] == reply.timings.accepted


def test_drawn_tokens_with_a_penalty_are_the_same(both: tuple[Qwen, Qwen]) -> None:
    """The checkpoint's own settings: temperature, top_k, top_p and a repetition penalty."""
    prompt = "Say this three times: one two three four five six seven eight nine ten."
    drafted = 0
    for seed in range(3):
        reply = same_answers(both, prompt, seed=seed, max_tokens=48, logprobs=2)
        drafted += reply.timings.drafted
    assert drafted > 0


def test_a_stop_string_inside_a_draft_ends_the_answer(both: tuple[Qwen, Qwen]) -> None:
    reply = same_answers(both, TASK, temperature=0, max_tokens=96, stop=["source: str"])
    assert reply.stop == "source: str"
    assert reply.timings.accepted > 10


def test_text_without_repeats_is_the_same(both: tuple[Qwen, Qwen]) -> None:
    same_answers(both, "Tell me about the sea.", temperature=0, max_tokens=48)


def test_a_row_is_computed_among_others_as_it_is_alone(loaded: Loaded) -> None:
    """Bit for bit, from the embedding to the logits: what makes drafts exact under greedy."""
    model, tokenizer = loaded.model, loaded.texts.tokenizer
    assert isinstance(model, Decoder)
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode(TASK, parse_special=False)[:120]
    most = min(MOST_ROWS, model.exact_rows)
    assert most >= 4
    first = 90  # the rows lie in two pages
    pages = list(range(4))

    def logits_of(start: int, count: int, cache: Any) -> Any:
        sequence = Sequence(0, ids, start, cached=start, pages=pages)
        batch, _ = build((Chunk(sequence, start, count, 0),), model.page_size)
        return model.logits(model.forward(batch, cache)).copy()

    cache = model.new_cache(4)
    logits_of(0, first, cache)
    alone = np.concatenate([logits_of(first + i, 1, cache) for i in range(most)])
    for count in range(2, most + 1):
        together = logits_of(first, count, cache)
        assert np.array_equal(together.view(np.uint32), alone[:count].view(np.uint32)), count


def test_a_switch_that_is_none_is_refused_before_loading() -> None:
    with pytest.raises(ParameterError, match="drafts is 1; allowed: True or False"):
        Qwen.load("no such model", drafts=1)  # type: ignore[arg-type]
