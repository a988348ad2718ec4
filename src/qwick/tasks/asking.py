"""Tasks of one prompt: reasoning, mathematics, code, translation, tutoring, support, extraction.

And several languages at once, which is one prompt each. What each says to the model is from Qwen's
cards where they say anything: named at the task. Knows no document that is longer than a context.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwick.errors import ParameterError
from qwick.family import Family
from qwick.llm import Reply
from qwick.tasks.boxed import boxed
from qwick.tasks.fences import split_fences
from qwick.tasks.task import (
    Model,
    Plan,
    Prompt,
    Result,
    Task,
    chats,
    cut_off,
    one,
    some_text,
    talks,
    texts_of,
    user,
)
from qwick.text.grammar import Grammar
from qwick.text.messages import check_messages
from qwick.text.tokenizer import check_text
from qwick.values import check_kind

# README of QwenLM/Qwen2.5-Math (its system prompt), cards of Qwen3 and QwQ (in the user's message).
BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
MOST_LANGUAGES = 256  # Qwen3 knows 119
HANDOVER = "HANDOVER"

_STEP = re.compile(r"^\s*(?:\*\*|#+\s*)?(?:step\s+)?(\d{1,3})[.):]\s*(?:\*\*)?\s*(.*)", re.I)
_ANSWER = re.compile(r"^\W*(?:the\s+)?(?:final\s+)?answer\W*?(?::|\bis\b)\s*(.*)$", re.I)
_HANDOVER = re.compile(rf"^\W*{HANDOVER}\W*$", re.M)
_QUESTION = re.compile(r"[^.!?。！？\n]*[?？]")


@dataclass(frozen=True, slots=True)
class Steps:
    """Step-by-step reasoning; answer: None where no line gives one."""

    steps: tuple[str, ...]
    answer: str | None


@dataclass(frozen=True, slots=True)
class Solution:
    """A solution; answer: what its last box holds, as LaTeX; None: there is no box."""

    answer: str | None
    solution: str


@dataclass(frozen=True, slots=True)
class Code:
    """Code of an answer; explanation: what stands around it. code: None where there is none."""

    code: str | None
    language: str
    explanation: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a tutor says; question: the one it ends with, None where it asks nothing."""

    text: str
    question: str | None


@dataclass(frozen=True, slots=True)
class Support:
    """What a customer is told; handover: whether a person should take over."""

    text: str
    handover: bool


def steps(question: str) -> Task[Steps]:
    """Reason step by step, and tell the steps from the answer."""
    asked = (
        f"{some_text('question', question)}\n\nThink step by step. Number the steps (1., 2., ...). "
        'Then give the answer on a last line of its own that begins with "Answer:".'
    )

    def parse(reply: Reply) -> Result[Steps]:
        found = _read_steps(reply.text)
        return found, [] if found.answer else ["no line of the reply gives an answer"]

    return one("steps", lambda m: _ask(m, user(asked), thinking=True), parse, talks)


def math(problem: str) -> Task[Solution]:
    r"""Solve a problem; the answer is what the last \boxed{} holds.

    Checkpoints of Qwen-Math get the instruction as their system prompt, as they were trained with;
    all others in the question.
    """
    some_text("problem", problem)

    def prompt(model: Model) -> Prompt:
        special = "-math" in model.texts.defaults.family.name
        messages = user(problem, BOXED) if special else user(f"{problem}\n\n{BOXED}")
        return _ask(model, messages, thinking=True)

    def parse(reply: Reply) -> Result[Solution]:
        answer = boxed(reply.text)
        told = [] if answer is not None else [r"the reply has no answer in \boxed{}"]
        return Solution(answer, reply.text), told

    return one("math", prompt, parse, talks)


def code(request: str, *, language: str = "python", constraints: Sequence[str] = ()) -> Task[Code]:
    """Write code in a language, within constraints, and tell it from what is said about it."""
    language = some_text("language", language)
    lines = [some_text("request", request), "", f"Write it in {language}."]
    lines += [f"- {text}" for text in texts_of("constraints", constraints)]
    lines.append(f"Answer with one fenced block that holds all of the code, marked {language}.")

    def parse(reply: Reply) -> Result[Code]:
        return _read_code(reply.text, language)

    asked = user("\n".join(lines))
    return one("code", lambda m: _ask(m, asked, thinking=True), parse, chats)


def translate(text: str, to: str, *, source: str | None = None) -> Task[str]:
    """Translate a text into the language `to`; source: that of the text, if it is known."""
    origin = "" if source is None else f" from {some_text('source', source)}"
    system = (
        f"You are a translator{origin} into {some_text('to', to)}. Answer with the translation of "
        "the user's text and nothing else. Keep its layout. Do not answer questions in it."
    )
    asked = user(some_text("text", text), system)
    return one("translate", lambda m: _ask(m, asked), _plain, chats)


def languages(question: str, languages: Sequence[str]) -> Task[dict[str, str]]:
    """Answer a question in several languages at once; the result is by language, in their order."""
    some_text("question", question)
    named = texts_of("languages", languages)
    if not 1 <= len(named) <= MOST_LANGUAGES or len(set(named)) < len(named):
        raise ParameterError(
            f"languages has {len(named)} items, {len(set(named))} of them different; allowed: 1 to "
            f"{MOST_LANGUAGES}, each once"
        )

    def plan(model: Model) -> Plan[dict[str, str]]:
        prompts = [
            _ask(model, user(f"{question}\n\nAnswer in {name}.", f"You answer in {name} only."))
            for name in named
        ]
        replies = yield prompts
        pairs = list(zip(named, replies, strict=True))
        told = [t for name, reply in pairs for t in cut_off(reply, f"the answer in {name}")]
        return {name: reply.text for name, reply in pairs}, told

    return Task("languages", plan, chats, single=False)


def tutor(
    question: str,
    *,
    subject: str | None = None,
    level: str | None = None,
    history: Sequence[Mapping[str, Any]] = (),
) -> Task[Lesson]:
    """Help a student to find an answer; history: the earlier turns, as messages."""
    about = "" if subject is None else f" of {some_text('subject', subject)}"
    whom = "a student" if level is None else f"a student at this level: {some_text('level', level)}"
    system = (
        f"You are a patient tutor{about} for {whom}. Do not give the solution away. Explain the "
        "idea that is needed in a few sentences, give one hint, and end with one question that "
        "leads the student on."
    )
    messages = _conversation(question, "question", history, system)

    def parse(reply: Reply) -> Result[Lesson]:
        asked = _QUESTION.findall(reply.text)
        return Lesson(reply.text, asked[-1].strip(" \t*_>-") if asked else None), []

    return one("tutor", lambda m: _ask(m, messages, exact=False), parse, chats)


def support(
    message: str,
    *,
    company: str | None = None,
    knowledge: str | None = None,
    history: Sequence[Mapping[str, Any]] = (),
) -> Task[Support]:
    """Answer a customer from what is known, or hand over; history: the earlier turns."""
    of = "" if company is None else f" of {some_text('company', company)}"
    lines = [f"You are in the customer support{of}. Be friendly, brief and exact."]
    if knowledge is not None:
        lines.append("Use nothing but what you know of the product, which follows.")
    lines.append(
        "If that does not answer the customer, or the customer asks for a person or is angry, say "
        f"so kindly and end with a line that holds the one word {HANDOVER}."
    )
    if knowledge is not None:
        lines += ["", some_text("knowledge", knowledge)]
    messages = _conversation(message, "message", history, "\n".join(lines))

    def parse(reply: Reply) -> Result[Support]:
        handover = _HANDOVER.search(reply.text) is not None
        return Support(_HANDOVER.sub("", reply.text).strip(), handover), []

    return one("support", lambda m: _ask(m, messages, exact=False), parse, chats)


def extract(text: str, schema: Mapping[str, Any], *, instructions: str | None = None) -> Task[Any]:
    """Return what a text says as JSON by a schema, which holds the answer as it is written.

    The result is the value, or None if the answer was cut off. Raises what `Grammar.json_schema`
    does for a schema that cannot be held to.
    """
    check_kind("schema", schema, Mapping, "a JSON schema")
    grammar = Grammar.json_schema(schema)
    lines = ["Extract what the user's text says as JSON by this schema:", grammar.text]
    lines.append("Copy values from the text. Do not make anything up.")
    if instructions is not None:
        lines.append(some_text("instructions", instructions))
    asked = user(some_text("text", text), "\n".join(lines))

    def prompt(model: Model) -> Prompt:
        return _ask(model, asked, plain_copy=True, grammar=grammar)

    def parse(reply: Reply) -> Result[Any]:
        return read_json(reply)

    return one("extract", prompt, parse, chats, fixed=("grammar",))


def fill(before: str, after: str) -> Task[str]:
    """Write what is missing between two pieces of code: the result is that.

    With the marks that the checkpoint's tokenizer has; greedily and at most 512 tokens, as in the
    examples of QwenLM/Qwen2.5-Coder (examples/Qwen2.5-Coder-fim.py).
    """
    for name, text in (("before", before), ("after", after)):
        check_text(text, name)
    if not (before or after):
        raise ParameterError("before and after are empty; allowed: a text in one of them")

    def barred(family: Family) -> str | None:
        if family.fim:
            return None
        return f"is of the family {family.name}, which has not learned to fill in between texts"

    def prompt(model: Model) -> Prompt:
        raw = model.texts.fill_in(before, after, untrained=True)
        sampling = {"temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 512}
        return Prompt(raw=raw, keywords=sampling)

    return one("fill", prompt, _plain, barred)


def read_json(reply: Reply) -> Result[Any]:
    """Return the JSON of a reply, None where it was cut off."""
    try:
        return json.loads(reply.text), []
    except (ValueError, RecursionError):
        return None, ["the reply is no whole JSON"]


def _ask(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    *,
    thinking: bool = False,
    exact: bool = True,
    plain_copy: bool = False,
    **keywords: Any,
) -> Prompt:
    """Return a prompt; plain_copy: whether an answer must repeat, which a penalty would hinder."""
    found = model.keywords(thinking=thinking, exact=exact)
    if plain_copy:
        found["repetition_penalty"] = 1.0
    return Prompt(tuple(messages), keywords={**found, **keywords})


def _plain(reply: Reply) -> Result[str]:
    return reply.text, []


def _conversation(
    text: str, name: str, history: Sequence[Mapping[str, Any]], system: str
) -> list[Mapping[str, Any]]:
    some_text(name, text)
    check_kind("history", history, (list, tuple), "a list of messages")
    earlier = check_messages(history) if history else []
    if any(message["role"] == "system" for message in earlier):
        raise ParameterError(
            "history has a system message; allowed: turns of user, assistant and tool"
        )
    return [{"role": "system", "content": system}, *earlier, {"role": "user", "content": text}]


def _read_steps(text: str) -> Steps:
    found: list[list[str]] = []
    answer: str | None = None
    for line in text.splitlines():
        if told := _ANSWER.match(line):
            answer = told[1].strip(" *_") or answer
        elif step := _STEP.match(line):
            found.append([step[2].rstrip(" *")])
        elif found and line.strip():
            found[-1].append(line.strip())
    return Steps(tuple("\n".join(lines).strip() for lines in found), answer or boxed(text))


def _read_code(text: str, language: str) -> Result[Code]:
    blocks, around = split_fences(text)
    wanted = language.lower()
    if not blocks:
        return Code(None, language, around), ["the reply has no fenced block of code"]
    marked = [block for block in blocks if block.language == wanted]
    block = max(marked or blocks, key=lambda b: len(b.code))
    told = [] if block.closed else ["the block of code has no end"]
    if not marked and block.language:
        told.append(f"the block of code is marked {block.language}, not {wanted}")
    return Code(block.code, block.language or wanted, around), told
