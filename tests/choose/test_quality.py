"""The rule that ranks, held to the published tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

from qwick.choose.quality import (
    FORMAT_LOSS,
    GENERATION,
    LANGUAGE_SCORES,
    evidence,
    gain_of_languages,
    language_evidence,
    quality,
    side_by_side,
)
from qwick.choose.sizes import BITS
from qwick.choose.tasks import TASKS
from qwick.hub import Model, read_catalog

MODELS = read_catalog().models
# The task that a benchmark speaks for.
SPEAKS_FOR = {
    **dict.fromkeys(("mmlu_redux", "mmlu_pro", "mmlu", "arena_hard"), "chat"),
    **dict.fromkeys(("livecodebench", "humaneval", "mbpp"), "code"),
    **dict.fromkeys(("math", "math_500", "gsm8k"), "math"),
    **{"gpqa": "reasoning", "ifeval": "support", "bfcl": "tools", "mmmlu": "multilingual"},
    **{"mgsm": "multilingual", "mteb_multilingual": "embedding"},
    **{"docvqa": "vision", "mmmu": "vision"},
}


def pairs() -> Iterator[tuple[str, Model, float, Model, float]]:
    """Yield two checkpoints with results of one benchmark in one setting of one source."""
    tables = defaultdict(list)
    for model in MODELS.values():
        for score in model.scores:
            if score.key in SPEAKS_FOR:
                place = (score.key, score.name, score.setting, score.source)
                tables[place].append((model, score.value))
    for (key, *_), results in tables.items():
        for number, (one, mine) in enumerate(results):
            for other, theirs in results[:number]:
                alike = (one.variant == "base") == (other.variant == "base")
                if alike and mine != theirs:
                    yield key, one, mine, other, theirs


def test_the_rule_puts_first_what_the_published_tables_put_first() -> None:
    right = wrong = 0
    for key, one, mine, other, theirs in pairs():
        task = TASKS[SPEAKS_FOR[key]]
        worths = quality(one, task), quality(other, task)
        if None in worths or worths[0] == worths[1]:
            continue
        first, second = worths
        assert first is not None
        assert second is not None
        right += (first > second) == (mine > theirs)
        wrong += (first > second) != (mine > theirs)
    assert right + wrong > 1000
    assert right / (right + wrong) > 0.92, (right, wrong)


def test_every_generation_and_format_has_its_figure() -> None:
    assert {model.generation for model in MODELS.values()} == set(GENERATION)
    assert set(BITS) == set(FORMAT_LOSS)


@pytest.mark.parametrize("name", TASKS)
def test_evidence_is_of_the_tasks_benchmarks(name: str) -> None:
    task, found = TASKS[name], 0
    for model in MODELS.values():
        scores = evidence(model, task)
        assert len(scores) <= 3
        assert all(score in model.scores for score in scores)
        assert all({score.key, score.name} & set(task.evidence) for score in scores)
        found += len(scores)
    assert found > 0 or not task.evidence  # no spelling that nothing has


def test_scores_in_one_language() -> None:
    names = {score.name for model in MODELS.values() for score in model.scores}
    assert all(name in names for group in LANGUAGE_SCORES.values() for name in group)
    assert language_evidence(MODELS["qwen2.5-72b-instruct"], "xx") == ()


def test_only_what_may_be_compared_stands_side_by_side() -> None:
    task = TASKS["math"]
    found = side_by_side(MODELS["qwen3-8b"], MODELS["qwen3-14b"], task)
    assert found
    for mine, theirs in found:
        assert (mine.name, mine.setting) == (theirs.name, theirs.setting)
        assert mine.source.split()[0] == theirs.source.split()[0] == "tr3"
    assert side_by_side(MODELS["qwen3-8b"], MODELS["qwen3-4b-thinking-2507"], task) == ()


def test_gains_are_of_the_mode_that_the_task_wants() -> None:
    small, large = MODELS["qwen3-8b"], MODELS["qwen3-14b"]
    for name, thinking in (("chat", False), ("math", True)):
        for mine, theirs in side_by_side(small, large, TASKS[name]):
            assert mine in small.scores
            assert theirs in large.scores
            assert mine.setting == ("thinking" if thinking else "non-thinking"), mine


def test_languages_that_the_publisher_leaves_out_count_against() -> None:
    assert gain_of_languages(MODELS["qwen3-8b"], ("hu", "cs", "sw")) == 0
    assert gain_of_languages(MODELS["qwen2.5-7b-instruct"], ("hu",)) < 0
    assert gain_of_languages(MODELS["qwen2.5-7b-instruct"], ("de",)) == 0
    assert gain_of_languages(MODELS["qwen2-math-7b-instruct"], ("de",)) < 0


def test_an_unknown_size_has_no_worth() -> None:
    unknown = [m for m in MODELS.values() if m.parameters.total is None]
    assert unknown
    assert all(quality(model, TASKS["audio"]) is None for model in unknown)
