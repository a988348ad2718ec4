"""A conversation to token ids, closed against control tokens written by the caller.

A template pastes caller strings between control tokens such as `<|im_end|>`, and text is only read
for control tokens after that. So a caller who writes `<|im_end|>`, or pieces that become it once
pasted together, could end the turn and open another. Here every character by which caller text
could form a control literal is exchanged, before rendering, for a private-use character that occurs
nowhere in the input (a shield); control tokens found in the shielded rendering are the template's
own. The text between them is restored and encoded as plain text.

One character stands for one character, so positions agree in the shielded and the true rendering,
and the true rendering is compared with the restored one: a template that reads what was shielded is
refused, not misread. Knows nothing of sampling or answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwick.errors import ParameterError, TemplateError, UnsupportedError, UsageError
from qwick.text.messages import check_json, check_messages, check_tools, map_strings, strings_of
from qwick.text.template import ChatTemplate
from qwick.text.tokenizer import Tokenizer
from qwick.values import check_switch

__all__ = ["Prompt", "encode_chat"]

_RENDERINGS = 3  # a template may read the clock, and it may tick between two renderings


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation: its text, exactly the template's, and its token ids."""

    text: str
    ids: list[int]


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    **kwargs: Any,
) -> Prompt:
    """Render and encode a conversation; see `check_messages` for what a message is.

    `kwargs` are the template's own variables (`enable_thinking`, ...). Without control literals in
    the caller's strings the ids are those of transformers' `apply_chat_template`; with them, the
    text is still the template's, and the literals are encoded as text. Tags that templates read
    (`<think>`, `<tool_call>`) are left to the template.

    Raises UsageError when the checkpoint has no template, ParameterError for a message, tool or
    variable that is malformed or not read by the template, TemplateError when the template refuses.
    """
    if template is None:
        raise UsageError(
            "the checkpoint has no chat template: it is a base model, or its template is missing",
            hint="use complete(prompt) for plain continuation, or an instruct checkpoint; one whose"
            " name says its family, as published, is given that family's template",
        )
    check_switch("add_generation_prompt", add_generation_prompt)
    checked, definitions = check_messages(messages), check_tools(tools)
    _check_reads(template, checked, definitions, kwargs)
    own = _named_tokens(tokenizer, template, kwargs)
    given = (checked, definitions, kwargs)

    def render(messages: Any, tools: Any, variables: Any) -> str:
        return template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            **own,
            **variables,
        )

    shield = _Shield.over(tokenizer.control_literals, strings_of(given), template.source)
    if shield is None:
        text = render(*given)
        return Prompt(text, tokenizer.encode(text, parse_special=True))
    for _ in range(_RENDERINGS):
        text, shielded = render(*given), render(*shield.put_on(given))
        if shield.take_off(shielded) == text:
            return Prompt(text, _encode_shielded(tokenizer, text, shielded))
    raise TemplateError(
        "the chat template reads the characters of control tokens inside the messages, so they"
        f" cannot be kept as text: {', '.join(sorted(shield.exchanged))}",
        hint="remove these characters from the messages, or use another template",
    )


def _check_reads(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    kwargs: Mapping[str, Any],
) -> None:
    """Refuse what the template would drop in silence."""
    for name, value in kwargs.items():
        if name not in template.options:
            known = ", ".join(sorted(template.options)) or "none"
            raise ParameterError(
                f"{name} is not a variable of this checkpoint's chat template; it reads: {known}"
            )
        check_json(value, name)
    if tools and "tools" not in template.variables:
        raise UnsupportedError(
            "this checkpoint's chat template has no place for tools",
            hint="describe them in the system message, or use a checkpoint with tool calling",
        )
    calls = next((i for i, message in enumerate(messages) if message.get("tool_calls")), None)
    if calls is not None and "tool_calls" not in template.source:
        raise UnsupportedError(
            f"messages[{calls}].tool_calls: this checkpoint's chat template has no place for them",
            hint="write the call into the content",
        )


def _named_tokens(
    tokenizer: Tokenizer, template: ChatTemplate, kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """Return the checkpoint's own tokens that the template asks for by name."""
    ids = {"eos_token": tokenizer.eos_id, "bos_token": tokenizer.bos_id}
    ids["pad_token"] = tokenizer.pad_id
    return {
        name: tokenizer.literal_of(id) or ""
        for name, id in ids.items()
        if id is not None and name in template.variables and name not in kwargs
    }


def _encode_shielded(tokenizer: Tokenizer, text: str, shielded: str) -> list[int]:
    """Return the ids of `text`, with added tokens only where `shielded` has them too."""
    ids: list[int] = []
    pending: list[int] = []  # ids of the shielded piece since the last added token
    begin = 0

    def close(end: int) -> None:
        if shielded[begin:end] == text[begin:end]:
            ids.extend(pending)
        else:
            ids.extend(tokenizer.encode(text[begin:end], parse_special=False))
        pending.clear()

    for id, start, end in tokenizer.encode_with_spans(shielded):
        if id in tokenizer.added_ids:
            close(start)
            ids.append(id)
            begin = end
        else:
            pending.append(id)
    close(len(text))
    return ids


@dataclass(frozen=True, slots=True)
class _Shield:
    """Characters that stand, one for one, for those by which text could form a control literal.

    For `<|...|>` that is every "|", so that not even pieces pasted together make one. A control
    literal of another form (no Qwen tokenizer has one) loses its first character where it is whole.
    """

    exchanged: Mapping[str, str]  # character -> its private-use stand-in
    everywhere: frozenset[str]  # characters exchanged wherever they occur
    whole: re.Pattern[str] | None  # literals whose first character is exchanged

    @classmethod
    def over(cls, literals: Iterable[str], texts: Iterable[str], source: str) -> _Shield | None:
        """Return a shield for caller `texts`, or None if nothing in them needs one."""
        found, everywhere, others = list(texts), set[str](), list[str]()
        for literal in literals:
            if literal.startswith("<|") and literal.endswith("|>"):
                everywhere.add("|")
            elif any(literal in text for text in found):
                others.append(literal)
        needed = {character for character in everywhere if any(character in t for t in found)}
        needed.update(literal[0] for literal in others)
        if not needed:
            return None
        stand_ins = _unused(len(needed), [*found, source])
        # Longest first: a literal that begins another one must not hide it.
        others.sort(key=len, reverse=True)
        whole = re.compile("|".join(map(re.escape, others))) if others else None
        exchanged = dict(zip(sorted(needed), stand_ins, strict=True))
        return cls(exchanged, frozenset(everywhere & needed), whole)

    def put_on(self, value: Any) -> Any:
        """Return a copy of a checked value with all its strings shielded, keys included."""
        table = {ord(character): self.exchanged[character] for character in self.everywhere}
        whole = self.whole

        def text(string: str) -> str:
            if whole is not None:
                string = whole.sub(lambda m: self.exchanged[m[0][0]] + m[0][1:], string)
            return string.translate(table)

        return map_strings(value, text)

    def take_off(self, text: str) -> str:
        """Return a shielded text with the true characters back."""
        return text.translate({ord(new): old for old, new in self.exchanged.items()})


def _unused(count: int, texts: Sequence[str]) -> list[str]:
    """Return `count` private-use characters that occur in none of `texts`.

    Private-use characters have no case, no whitespace and no decomposition, so neither a template's
    trimming nor Unicode normalisation touches them.
    """
    taken = set[str]().union(*texts)
    found: list[str] = []
    for plane in (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)):
        for code in plane:
            if len(found) == count:
                return found
            if chr(code) not in taken:
                found.append(chr(code))
    raise ParameterError(
        "the messages use every private-use character of Unicode; allowed: some that are left"
    )
