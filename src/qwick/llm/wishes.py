"""The keywords of a question told apart: sampling, the template's variables, and the rest.

What is none of them is refused by name. Knows no checkpoint but the names that its template reads.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwick.engine.request import Sampling
from qwick.errors import ParameterError, shown
from qwick.text.grammar import Grammar
from qwick.values import check_kind, check_switch, refused, whole

SAMPLING = tuple(field.name for field in dataclasses.fields(Sampling))
MAX_BUDGET = 1 << 24  # tokens of thinking; longer than any context
CHOICES = "auto, none, required, or the name of a tool in a mapping: {'name': ...}"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools may be called: mode auto, none or required; with required, perhaps only one."""

    mode: str = "auto"
    name: str | None = None


@dataclass(frozen=True)
class Wishes:
    """What a caller said, checked as far as it can be without a checkpoint.

    sampling            fields of Sampling, None where nothing was said
    variables           of the checkpoint's chat template
    namespace           whose prefixes may be shared
    enable_thinking     True, False, or None: the checkpoint's own habit
    thinking_budget     most tokens of thinking; None: in proportion to max_tokens
    thinking_aim        the same, which gives way so that the answer keeps its proportion
    tool_choice         which tools may be called
    parallel_tool_calls whether one answer may hold several calls
    grammar             what the answer must match, after any thinking
    extra_stop_ids      ids that end the answer beside the others, also with ignore_eos
    progress            tell how far the prompt is
    prompt_logprobs     tell how probable the prompt's ids were, and so many best in their places
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    thinking_aim: int | None = None
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    grammar: Grammar | None = None
    progress: bool = False
    prompt_logprobs: int | None = None
    extra_stop_ids: tuple[int, ...] = ()


_OWN = (
    "namespace",
    "enable_thinking",
    "thinking_budget",
    "thinking_aim",
    "tool_choice",
    "parallel_tool_calls",
    "grammar",
    "progress",
    "prompt_logprobs",
    "extra_stop_ids",
)
_OF_CHATS = (
    "enable_thinking",
    "thinking_budget",
    "thinking_aim",
    "tool_choice",
    "parallel_tool_calls",
)
TEMPLATE = "chat_template_kwargs"  # of a chat: variables apart from our names, as servers get them


def read_wishes(
    given: Mapping[str, Any], template_variables: Iterable[str], *, chat: bool = True
) -> Wishes:
    """Sort keywords; ParameterError for a name that is none, or a value that cannot be.

    chat: whether it is a conversation, which alone can think and call tools. (No template has a
    variable called namespace or grammar: the first is a function in Jinja.) Strangers' variables
    come as one keyword, TEMPLATE: a mapping in which no other name is known.
    """
    own = [name for name in _OWN if chat or name not in _OF_CHATS]
    variables = set(template_variables) - set(own)
    others = dict(given)
    apart = others.pop(TEMPLATE, {}) if chat else {}
    check_kind(TEMPLATE, apart, Mapping, "a mapping of the chat template's variables")
    for name in apart:
        if name not in variables:
            known = sorted({*variables, "enable_thinking"})
            raise ParameterError(f"{TEMPLATE} has {shown(name)}; allowed: {', '.join(known)}")
    sampling = {name: others.pop(name) for name in SAMPLING if name in others}
    said = {name: others.pop(name, None) for name in own}
    for name in others:
        if name not in variables:
            known = [*SAMPLING, *own, *sorted(variables)]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise ParameterError(f"there is no parameter {shown(name)}", hint=hint)
    values = {name: value for name, value in said.items() if value is not None}
    for name in ("enable_thinking", "parallel_tool_calls", "progress"):
        check_switch(name, values.get(name, False))
    for name in ("thinking_budget", "thinking_aim"):
        if name in values:
            values[name] = whole(name, values[name], 0, MAX_BUDGET)
    if "tool_choice" in values:
        values["tool_choice"] = _tool_choice(values["tool_choice"])
    if "extra_stop_ids" in values:
        values["extra_stop_ids"] = Sampling(stop_ids=values["extra_stop_ids"]).stop_ids
    check_kind("grammar", values.get("grammar"), (Grammar, type(None)), "a Grammar, or none")
    return Wishes(sampling, {**others, **apart}, **values)


def _tool_choice(value: Any) -> ToolChoice:
    if isinstance(value, ToolChoice):
        return value
    if isinstance(value, str) and value in ("auto", "none", "required"):
        return ToolChoice(value)
    if isinstance(value, Mapping) and isinstance(value.get("name"), str) and len(value) == 1:
        return ToolChoice("required", value["name"])
    raise refused("tool_choice", value, CHOICES)
