"""Documents longer than a context: summaries, and answers that say where they are from.

A document is cut into chunks, all chunks are asked at once, and what comes of them is put together
in as many rounds as it takes. What was cut off or could not be read is told, never left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwick.errors import ContextLengthError
from qwick.tasks.asking import read_json
from qwick.tasks.chunks import (
    LEAST_CHUNK,
    MOST_CHUNK,
    Passage,
    Places,
    Source,
    counter,
    grouped,
    merged,
    passages_of,
)
from qwick.tasks.task import Model, Plan, Prompt, Task, chats, cut_off, some_text, user
from qwick.tasks.words import Words
from qwick.text.grammar import Grammar
from qwick.values import whole

CHUNK = 2048  # tokens, where the context has room: small models lose sight of more
OVERLAP = 64  # tokens of a chunk that are of the one before
PASSAGE = 64  # tokens of what an answer can point at
MARK = 8  # tokens of a passage's number and the lines around it
SPARE = 32  # tokens that a prompt may have beside what was counted
MOST_STATEMENTS, MOST_CHARACTERS = 6, 400  # of one chunk, and of each
BORNE_OUT = 0.75  # the share of a statement's words, by weight, that its sources must have
LEAST_TOKENS, MOST_TOKENS = 16, 8192  # of a summary or an answer


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a document, and the summary of it."""

    text: str
    source: Source


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary; parts: what it was made of, in order, together the whole document."""

    text: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """Something that the document says, and the places that say it.

    checked: whether its words, rare ones above all, are in these places; that does not make it
    true. In another language than the document's they are not.
    """

    text: str
    sources: tuple[Source, ...]
    checked: bool


@dataclass(frozen=True, slots=True)
class Found:
    """An answer from a document; found: whether there is one, in as many statements."""

    found: bool
    text: str
    statements: tuple[Statement, ...]


def summarise(
    document: str, *, about: str | None = None, tokens: int = 256, chunk: int | None = None
) -> Task[Summary]:
    """Summarise a document of any length, in at most `tokens` tokens (16 to 8192).

    about: what matters. chunk: most tokens that are read at once, at least two summaries; default:
    2048, or what the context holds. Raises ContextLengthError when it is run where the context
    holds too little.
    """
    some_text("document", document)
    most, size = _sizes(tokens, chunk)
    wish = "" if about is None else f" Tell what matters about this: {some_text('about', about)}."

    def prompt(model: Model, text: str, what: str) -> Prompt:
        asked = f"{text}\n\nSummarise {what} in a few sentences.{wish} Write only the summary."
        return _prompt(model, user(asked, "You summarise texts. You add nothing to them."), most)

    def plan(model: Model) -> Plan[Summary]:
        room = _room(model, prompt(model, "", "this part of a document"), most, size, "summarise")
        places = Places(document)
        overlap = OVERLAP if room > 4 * OVERLAP else 0
        passages = passages_of(document, model.texts.tokenizer, (room - overlap) // 2)
        count = counter(document, passages, model.texts.tokenizer)
        chunks = list(grouped(passages, room, overlap, count=count))
        sources = [places.source(passages[i].start, passages[j - 1].end) for i, j in chunks]
        what = "this text" if len(sources) == 1 else "this part of a document"
        replies = yield [prompt(model, source.text, what) for source in sources]
        told = [
            trouble
            for source, reply in zip(sources, replies, strict=True)
            for trouble in cut_off(reply, f"the summary of {_place(source)}")
        ]
        parts = [Part(r.text.strip(), s) for s, r in zip(sources, replies, strict=True)]
        texts = [part.text for part in parts]
        while len(texts) > 1:
            what = "these summaries of the parts of a document, as one text,"
            replies = yield [prompt(model, t, what) for t in _joined(model, texts, room)]
            told += [t for reply in replies for t in cut_off(reply, "a summary of summaries")]
            texts = [reply.text.strip() for reply in replies]
        return Summary(texts[0], tuple(parts)), told

    return Task("summarise", plan, chats, fixed=("max_tokens",), single=False)


def ask(
    document: str, question: str, *, tokens: int = 512, chunk: int | None = None
) -> Task[Found]:
    """Answer a question from a document of any length: statements, and where each is from.

    tokens: most tokens (16 to 8192) that are written about each chunk. chunk: as in `summarise`. A
    statement's sources are passages of the document of 64 tokens or one sentence; a grammar sees to
    it that only those are named that the model was shown, and the words of both are compared.
    """
    some_text("document", document)
    some_text("question", question)
    most, size = _sizes(tokens, chunk)

    def plan(model: Model) -> Plan[Found]:
        room = _room(model, _asked(model, [""], question, most), most, size, "ask")
        places = Places(document)
        sentences = passages_of(document, model.texts.tokenizer, min(PASSAGE, room // 4))
        passages = merged(sentences, PASSAGE)
        overlap = OVERLAP if room > 4 * OVERLAP else 0
        groups = [passages[i:j] for i, j in grouped(passages, room, overlap, MARK)]
        chunks = [[places.source(p.start, p.end) for p in group] for group in groups]
        replies = yield [
            _asked(model, [source.text.strip() for source in chunk], question, most)
            for chunk in chunks
        ]
        words = Words([document[p.start : p.end] for p in passages])
        told: list[str] = []
        found: list[Statement] = []
        for chunk, reply in zip(chunks, replies, strict=True):
            value, troubles = read_json(reply)
            place = _place(places.source(chunk[0].start, chunk[-1].end))
            told += [f"what is said about {place} is lost: {t}" for t in cut_off(reply) or troubles]
            found += _statements(value, chunk, words)
        return _answer(found, told)

    return Task("ask", plan, chats, fixed=("max_tokens", "grammar"), single=False)


_SYSTEM = (
    "You answer questions from numbered passages of a document, and from nothing else. Reply in "
    'JSON. "statements" is a list of short sentences that answer the question, each as "text", '
    'with the numbers of the passages that say so as "sources". If the passages do not answer the '
    "question, the list is empty."
)


def _asked(model: Model, texts: Sequence[str], question: str, tokens: int) -> Prompt:
    numbered = "\n".join(f"[{i}] {text}" for i, text in enumerate(texts, 1))
    schema = {
        "type": "object",
        "properties": {
            "statements": {
                "type": "array",
                "maxItems": MOST_STATEMENTS,
                "items": {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS},
                        "sources": {
                            "type": "array",
                            "items": {"type": "integer", "minimum": 1, "maximum": len(texts)},
                            "minItems": 1,
                            "maxItems": 4,
                        },
                    },
                    "required": ["text", "sources"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["statements"],
        "additionalProperties": False,
    }
    asked = user(f"{numbered}\n\nQuestion: {question}", _SYSTEM)
    prompt = _prompt(model, asked, tokens)
    keywords = {"grammar": Grammar.json_schema(schema), "repetition_penalty": 1.0}
    return Prompt(prompt.messages, keywords={**prompt.keywords, **keywords})


def _statements(value: Any, chunk: Sequence[Source], words: Words) -> list[Statement]:
    """Return what a reply states, with the sources that it names where these bear it out.

    Else with the one of its chunk that does: small models know what, and not where.
    """
    found: list[Statement] = []
    for item in value["statements"] if isinstance(value, dict) else ():
        text = item["text"].strip()
        sources = [chunk[n - 1] for n in dict.fromkeys(item["sources"])]
        share = words.share(text, [source.text for source in sources])
        if share < BORNE_OUT:
            best = max(chunk, key=lambda source: words.share(text, [source.text]))
            if (other := words.share(text, [best.text])) >= BORNE_OUT:
                sources, share = [best], other
        if text:
            found.append(Statement(text, tuple(sources), share >= BORNE_OUT))
    return found


def _answer(found: Sequence[Statement], told: Sequence[str]) -> tuple[Found, list[str]]:
    """Keep the statements that are borne out; all, where none is. Each once, in their order."""
    good = [statement for statement in found if statement.checked]
    kept = list({statement.text: statement for statement in good or found}.values())
    troubles = list(told)
    if good and len(good) < len(found):
        left = [statement.text for statement in found if not statement.checked]
        troubles.append(f"left out, as its passages do not bear it out: {'; '.join(left)}")
    elif found and not good:
        troubles.append("no passage bears out what is said, as far as its words tell")
    text = " ".join(statement.text for statement in kept)
    return Found(bool(kept), text, tuple(kept)), troubles


def _prompt(model: Model, messages: tuple[Mapping[str, Any], ...], tokens: int) -> Prompt:
    return Prompt(messages, keywords={**model.keywords(), "max_tokens": model.most(tokens)})


def _sizes(tokens: int, chunk: int | None) -> tuple[int, int | None]:
    most = whole("tokens", tokens, LEAST_TOKENS, MOST_TOKENS)
    if chunk is not None:
        chunk = whole("chunk", chunk, _least(most), MOST_CHUNK)
    return most, chunk


def _least(tokens: int) -> int:
    """Return the smallest chunk: one that holds two answers, or they could not be put together."""
    return max(2 * (tokens + MARK), 2 * LEAST_CHUNK)


def _room(model: Model, empty: Prompt, tokens: int, chunk: int | None, name: str) -> int:
    """Return the tokens of a document that go into a prompt; `empty` is one without any."""
    text = json.dumps([message["content"] for message in empty.messages])
    around = model.count(text) + 4 * MARK + SPARE
    room = model.context - around - model.most(tokens)
    least = _least(tokens)
    if room < least:
        raise ContextLengthError(
            f"the context holds {model.context} tokens; the task {name} needs "
            f"{model.context - room + least} for parts and answers of {tokens} tokens",
            hint="lower tokens, or load with a larger context (ctx)",
            context=model.context,
        )
    return max(min(room, CHUNK if chunk is None else chunk), least)


def _joined(model: Model, texts: Sequence[str], room: int) -> list[str]:
    """Return texts put together while they fit: fewer than before, for two always fit."""
    sizes = [Passage(0, 0, model.count(text) + MARK, False) for text in texts]
    return ["\n\n".join(texts[i:j]) for i, j in grouped(sizes, room)]


def _place(source: Source) -> str:
    return f"the characters {source.start} to {source.end}"
