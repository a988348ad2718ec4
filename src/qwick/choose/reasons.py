"""What speaks for an option of a recommendation, and what one should know of it, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwick.choose.contexts import stretch
from qwick.choose.memory import DEFAULT_CONTEXT
from qwick.choose.quality import EVERYWHERE, quality
from qwick.choose.runtimes import Way
from qwick.choose.speed import Speed
from qwick.choose.tasks import Task
from qwick.hub import Model

if TYPE_CHECKING:
    from qwick.choose.recommend import Ask, Option

__all__ = ["cautions_of", "place_of", "reasons_of"]

LONG_WAIT = 60.0  # seconds to the first token of which one should know


def place_of(option: Option, ranked: Sequence[Option], task: Task) -> str:
    """Return why an option has its place among all that were ranked."""
    first = ranked[0]
    if option is first:
        if len(ranked) == 1:
            return "the only one that fits"
        return (
            f"ranked first of the {len(ranked)} that fit: by size, generation and kind, less what "
            "rounding and waiting cost"
        )
    if (quality(first.model, task) or 0.0) < (quality(option.model, task) or 0.0):
        return "stronger than 1 by the rule, but slower, larger or rounded further"
    better = []
    if option.rate > 1.1 * first.rate:
        better.append(f"{option.rate / first.rate:.1f} times as fast")
    if option.parts.total < 0.9 * first.parts.total:
        better.append(f"{option.parts.total / first.parts.total:.0%} of the memory")
    if option.download < 0.9 * first.download:
        better.append(f"{option.download / first.download:.0%} of the download")
    if better:
        return f"beside 1: {', '.join(better)}; weaker by the rule"
    return "a little behind 1 by the rule"


def reasons_of(model: Model, ask: Ask) -> tuple[str, ...]:
    """Return what speaks for it, in words."""
    found = [f"made for {ask.task.name}"] if set(model.tags) & set(ask.task.worth) else []
    if ask.task.thinking > 0 and model.thinking != "none":
        found.append(
            "thinks before it answers" + (" (can be switched off)" * (model.thinking == "hybrid"))
        )
    if model.experts:
        share = (model.parameters.active or 0) / (model.parameters.total or 1)
        found.append(f"a mixture of experts: {share:.0%} of its parameters work on a token")
    for code in ask.languages:
        if model.languages is not None and model.languages.has(code):
            found.append(f"the publisher names {code} among its languages")
    if (model.context.native or 0) >= ask.length > DEFAULT_CONTEXT:
        found.append(f"trained for {model.context.native:,} tokens")
    return tuple(found)


def cautions_of(model: Model, way: Way, speed: Speed, ask: Ask) -> tuple[str, ...]:
    """Return what one should know before."""
    found = list(way.cautions)
    if not model.runs_here and ask.device.kind == "cpu":
        found.append(f"qwick does not compute it: {way.runtime} does, which has to be installed")
    license_ = model.license
    if license_ is None:
        found.append("its licence is not confirmed: read it before any use that is not private")
    elif license_.use != "commercial":
        found.append(f"{license_.title}: {license_.condition}")
    for code in ask.languages:
        named = None if model.languages is None else model.languages.has(code)
        if not named and code not in EVERYWHERE:
            among = "is not among the languages that" if named is False else "is not named by"
            found.append(f"{code} {among} the publisher" + " names" * (named is False))
    if way.runtime == "ollama":
        found.append(f"its context is Ollama's to set: OLLAMA_CONTEXT_LENGTH={ask.length}")
    if stretch(model, ask.length):
        found.append(
            f"trained for {model.context.native or 0:,} tokens; beyond: {model.context.method}"
        )
    if model.thinking == "only" and ask.task.only_thinking < 0:
        found.append("always thinks before it answers: answers come late")
    if speed.first > LONG_WAIT:
        found.append(f"a prompt of {speed.prompt:,} tokens is read for {_time(speed.first)} first")
    if not way.form.official:
        found.append(f"the file is made by {way.form.repository.partition('/')[0]}, not by Qwen")
    return tuple(found)


def _time(seconds: float) -> str:
    """Return a length of time above LONG_WAIT, as roughly as it is known."""
    if seconds < 90:
        return "about a minute"
    if seconds < 90 * 60:
        return f"some {seconds / 60:.0f} minutes"
    return f"some {seconds / 3600:.0f} hours"
