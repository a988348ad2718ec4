"""How good a checkpoint is at a task, as far as its family, size and kind tell.

Published scores have different settings and cannot be ranked across tables, so the ranking goes by
a rule, and the scores stand beside it as evidence. The rule counts in doublings of size: +1 is
what twice the parameters would bring. `tests/choose/test_quality.py` holds it to the published
tables: where two checkpoints have a score of the same benchmark in the same setting and source,
the rule must nearly always put the same one first. Knows nothing about machines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from qwick.choose.tasks import Task
from qwick.hub import Model, Score
from qwick.values import check_kind

__all__ = [
    "BEARABLE",
    "FORMAT_LOSS",
    "evidence",
    "gain_of_languages",
    "language_evidence",
    "quality",
    "side_by_side",
]

# What a generation gains over Qwen2.5 at the same size. Qwen3: its base models of 1.7B, 4B, 8B, 14B
# and 32B perform as Qwen2.5's of 3B, 7B, 14B, 32B and 72B (blog qwen3): one doubling. Earlier ones:
# from the tables of the releases after them (blogs qwen2 and qwen2.5, README of Qwen1.5).
GENERATION: Mapping[str, float] = MappingProxyType(
    {
        "Qwen": -3.0,
        "Qwen1.5": -2.5,
        "Qwen2": -1.0,
        "Qwen2.5": 0.0,
        "Qwen3": 1.0,
        "Qwen3-VL": 1.2,
        "Qwen3-Omni": 1.0,
        "Qwen3-Next": 1.7,
        "Qwen3.5": 2.2,
        "Qwen3.6": 2.5,
        "Qwen3.8": 2.8,
    }
)
# Its post-training gained more than its base models: Qwen3-32B is ahead of Qwen2.5-72B-Instruct in
# 18 of 23 rows (tr3, table 14).
POST_TRAINED_QWEN3 = 0.3
# Qwen3-4B-Instruct-2507 is ahead of Qwen3-8B and 14B without thinking (its card; tr3, table 17).
REVISION_2507 = 1.3
PREVIEW = -0.5  # what a preview lacks beside the release that followed it
# The parameters of a dense model that a mixture of experts is worth: total and active ones, weighed
# so that Qwen3-30B-A3B comes just above Qwen3-14B (tr3, tables 5, 15 and 16).
OF_TOTAL, OF_ACTIVE = 0.7, 0.3
OUT_OF_FIELD = -0.7  # a coder at what is no code: its other skills were kept, not trained
# What rounding costs, in the same unit.
FORMAT_LOSS: Mapping[str, float] = MappingProxyType(
    {
        **{"bf16": 0.0, "fp16": 0.0, "fp8": 0.02, "q8_0": 0.02, "int8": 0.02, "gptq-int8": 0.03},
        **{"q6_k": 0.05, "q5_k_m": 0.1, "q5_0": 0.15, "q4_k_m": 0.2, "awq": 0.25},
        **{"gptq-int4": 0.3, "iq4_xs": 0.25, "q4_0": 0.35, "int4": 0.4},
        **{"q3_k_m": 0.8, "q2_k": 2.0},
    }
)
BEARABLE = FORMAT_LOSS["int4"]  # below 4 bits rather the next smaller checkpoint
# Benchmarks in one language, as the publisher spells them.
LANGUAGE_SCORES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ar": ("AMMLU (Arabic)",),
        "en": ("MMLU", "MMLU-Redux", "MMLU-redux"),
        "id": ("IndoMMLU (Indonesian)",),
        "ja": ("JMMLU (Japanese)",),
        "ko": ("KMMLU (Korean)",),
        "tr": ("TurkishMMLU (Turkish)",),
        "zh": ("C-Eval", "CEval (val)", "CMMLU"),
    }
)
MANY_LANGUAGES = 100  # a family that counts so many and names none of them has the usual ones
UNNAMED_LANGUAGE = -1.5  # the publisher names others
EVERYWHERE = ("en", "zh")  # that every checkpoint of the family was trained on and tested in
STRETCHED = -0.7  # a context beyond the native one costs on short texts, too (docs R2.5, YaRN)


def quality(model: Model, task: Task) -> float | None:
    """Return the worth of a checkpoint for a task; None where its size is not known."""
    check_kind("model", model, Model, "a Model of the catalog")
    check_kind("task", task, Task, "a Task")
    total, active = model.parameters.total, model.parameters.active
    if total is None or active is None:
        return None
    worth = OF_TOTAL * math.log2(total / 1e9) + OF_ACTIVE * math.log2(active / 1e9)
    worth += GENERATION[model.generation]
    in_field = "coder" in task.worth or task.name in ("tools", "fim")
    later_coder = "coder" in model.tags and model.generation == "Qwen3"
    if "2507" in model.tags or (later_coder and in_field):
        worth += REVISION_2507
    if model.generation == "Qwen3" and model.variant in ("instruct", "thinking"):
        worth += POST_TRAINED_QWEN3
    if model.id.endswith("-preview"):
        worth += PREVIEW
    if model.thinking == "only":
        worth += task.only_thinking
    elif model.thinking == "hybrid":
        worth += task.thinking
    if "coder" in model.tags and not in_field:
        worth += OUT_OF_FIELD
    return worth + sum(task.worth.get(tag, 0.0) for tag in model.tags)


def gain_of_languages(model: Model, codes: tuple[str, ...]) -> float:
    """Return what the wished languages change in the worth of a checkpoint."""
    languages, gain = model.languages, 0.0
    for code in codes:
        named = None if languages is None else languages.has(code)
        many = languages is not None and (languages.count or 0) >= MANY_LANGUAGES
        if code not in EVERYWHERE and (named is False or (named is None and not many)):
            gain += UNNAMED_LANGUAGE
    return gain


def language_evidence(model: Model, code: str) -> tuple[Score, ...]:
    """Return published scores in that language alone; empty: none are published."""
    check_kind("code", code, str, "a language's code, such as hu")
    names = LANGUAGE_SCORES.get(code, ())
    return tuple(score for score in model.scores if score.name in names)


def side_by_side(model: Model, other: Model, task: Task) -> tuple[tuple[Score, Score], ...]:
    """Return scores of both that may be compared: same benchmark and setting in one document.

    One pair for each benchmark that speaks for the task, the closest first.
    """
    theirs = {(s.name, s.setting, s.document): s for s in other.scores if s.document}
    found: dict[str, tuple[Score, Score]] = {}
    for key in task.evidence:
        for score in sorted(model.scores, key=_mode_first(model, task)):
            same = theirs.get((score.name, score.setting, score.document))
            if same is not None and key in (score.key, score.name):
                found.setdefault(key, (score, same))
    return tuple(found.values())


def evidence(model: Model, task: Task, most: int = 3) -> tuple[Score, ...]:
    """Return published scores that speak for the task, the closest benchmark first."""
    found: list[Score] = []
    for key in task.evidence:
        scores = [score for score in model.scores if key in (score.key, score.name)]
        if model.variant != "base":  # tables of base models stand beside their offspring's
            scores = [score for score in scores if not score.setting.startswith("base")]
        found += sorted(scores, key=_mode_first(model, task))[:1]
    return tuple(found[:most])


def _mode_first(model: Model, task: Task) -> Callable[[Score], bool]:
    """Return a key of scores that puts those of the mode that the task wants first."""
    thinking = task.thinking > 0 or model.thinking == "only"
    return lambda score: ("non" in score.setting) == thinking
