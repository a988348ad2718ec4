"""Embeddings and judgements: texts made into requests, and the engine's answers into numbers.

Knows no engine and no threads. Sources: the cards of Qwen3-Embedding and Qwen3-Reranker, and their
examples (QwenLM/Qwen3-Embedding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from qwick.engine.request import Finished, Request, check_namespace
from qwick.errors import ContextLengthError, ParameterError, UnsupportedError
from qwick.family import END_OF_TEXT
from qwick.text.recognise import surely_longer
from qwick.text.tokenizer import check_text
from qwick.values import check_switch, refused, whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qwick.engine.capacity import Capacity
    from qwick.llm.texts import Texts

T = TypeVar("T")
F32: TypeAlias = "NDArray[np.float32]"

MAX_TEXTS = 1 << 20  # in one call
LEAST_DIMENSIONS = 32  # that Qwen3-Embedding was trained for (its card)
_QUERY = "Instruct: {instruction}\nQuery:"  # and the query, without a space
RERANK_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_JUDGE_HEAD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
_JUDGE_BODY = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: "
_JUDGE_TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
NO, YES = "no", "yes"


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and how likely it is that it meets the query: 0 .. 1. index: among those given."""

    index: int
    score: float
    document: str


@dataclass(frozen=True, slots=True)
class Pooled(Generic[T]):
    """What a call asks of the engine, and how the last events become what it returns."""

    requests: list[Request]
    read: Callable[[Sequence[Finished]], T]


@dataclass(frozen=True, slots=True)
class _Reading:
    """How the texts of a call are read.

    truncate: the most tokens of a prompt; None: those of the context, and more is an error. names:
    what messages call the texts, `{i}` being the number of one. most_tokens: of all prompts
    together; None: any.
    """

    texts: Texts
    context: int
    truncate: int | None
    namespace: str
    names: str
    most_tokens: int | None

    def __post_init__(self) -> None:
        """Raise ParameterError for what cannot be."""
        check_namespace(self.namespace)
        if self.truncate is not None:
            allowed = f"whole numbers from 1 to {self.context}, or none"
            whole("truncate", self.truncate, 1, self.context, allowed)

    def check_before(self, before: str, around: int, field: str) -> None:
        """Refuse a `before` that with `around` others leaves no room for a text, or too little.

        Once, as it is read again with each of the texts. field: what most of it comes from.
        """
        tokens, told = self.context + 1, f"more than {self.context}"
        if not surely_longer([before], self.context):
            tokens = around + len(self.texts.tokenizer.encode(before, parse_special=False))
            told = str(tokens)
        if tokens > self.context:
            error = ContextLengthError(
                f"what goes around each text, the {field} with it, has {told} tokens; the context "
                f"holds {self.context}",
                hint="shorten the query or the instruction",
                prompt_tokens=tokens,
                context=self.context,
            )
            error.field = field
            raise error
        if self.truncate is not None and tokens >= self.truncate:
            raise ParameterError(
                f"truncate is {self.truncate}; allowed: more than {tokens}, the tokens around a "
                "text"
            )

    def check_total(self, tokens: int) -> None:
        """Refuse so many tokens of the prompts until now."""
        if self.most_tokens is not None and tokens > self.most_tokens:
            name = self.names.partition("[")[0]
            raise ParameterError(
                f"{name} holds more than {self.most_tokens} tokens, with what goes around each "
                f"text; allowed: up to {self.most_tokens} in one request",
                hint="send fewer texts at a time",
            )

    def encode(self, text: object, i: int, before: str = "") -> list[int]:
        """Return the ids of `before` and a text; refuse what is far too long before it is read."""
        check_text(text, self.names.format(i=i))
        assert isinstance(text, str)
        if self.truncate is None and surely_longer([before, text], self.context):
            raise self._too_long(i, self.context + 1, f"more than {self.context}")
        return self.texts.tokenizer.encode(before + text, parse_special=False)

    def fit(self, ids: Sequence[int], around: int, i: int) -> Sequence[int]:
        """Return ids, or their beginning, that fit with `around` others; ContextLengthError.

        `check_before` has seen that truncate leaves room for some.
        """
        most = self.context if self.truncate is None else self.truncate
        tokens = len(ids) + around
        if tokens > most and self.truncate is None:
            raise self._too_long(i, tokens, str(tokens))
        return ids[: most - around]

    def _too_long(self, i: int, tokens: int, told: str) -> ContextLengthError:
        return ContextLengthError(
            f"{self.names.format(i=i)} has {told} tokens, with what goes around it; the context "
            f"holds {self.context}",
            hint="shorten it, send it in parts, or have its end left out (truncate; in requests "
            "truncate_prompt_tokens)",
            prompt_tokens=tokens,
            context=self.context,
        )


# -- embeddings ------------------------------------------------------------------------------------


def embedding(
    texts: Texts,
    capacity: Capacity,
    inputs: object,
    *,
    instruction: str | None = None,
    dimensions: int | None = None,
    normalize: bool = True,
    truncate: int | None = None,
    namespace: str = "",
    names: str = "texts[{i}]",
    most_tokens: int | None = None,
) -> Pooled[F32]:
    """Prepare `Qwen.embed`: a request for each text, whose last token is `<|endoftext|>`.

    Control tokens written in texts stay text. most_tokens: of all requests; None: any. Raises
    ParameterError, ContextLengthError, UnsupportedError.
    """
    check_switch("normalize", normalize)
    size = _check_dimensions(dimensions, capacity.hidden)
    if instruction is not None and not check_text(instruction, "the instruction"):
        raise ParameterError("the instruction is empty; allowed: 1 character or more, or none")
    end = texts.tokenizer.id_of(END_OF_TEXT)
    if end is None:
        raise UnsupportedError(
            f"the vocabulary of {texts.name} has no {END_OF_TEXT}, which ends an embedded text",
            hint="load a checkpoint of Qwen1.5 or later",
        )
    reading = _Reading(texts, capacity.context, truncate, namespace, names, most_tokens)
    before = "" if instruction is None else _QUERY.format(instruction=instruction)
    reading.check_before(before, 1, "instruction")
    requests, total = [], 0
    for i, one in enumerate([inputs] if isinstance(inputs, str) else _listed("texts", inputs)):
        ids = [*reading.fit(_embedded(reading, one, i, end, before), 1, i), end]
        reading.check_total(total := total + len(ids))
        requests.append(Request(ids, kind="embed", namespace=namespace))

    def read(events: Sequence[Finished]) -> F32:
        import numpy as np

        return np.stack([_vector(event, size, normalize=normalize) for event in events])

    return Pooled(requests, read)


def _embedded(reading: _Reading, one: Any, i: int, end: int, before: str) -> Sequence[int]:
    """Return a text's ids before the last; before: the instruction, in its words, or nothing."""
    name = reading.names.format(i=i)
    if isinstance(one, str):
        if not one:
            raise ParameterError(f"{name} is empty; allowed: 1 character or more")
        return reading.encode(one, i, before)
    if not isinstance(one, (list, tuple)) and getattr(one, "ndim", 0) != 1:
        raise refused(name, one, "a text, or a list of token ids")
    if before:
        raise ParameterError(f"{name} is a list of ids, beside an instruction; allowed: texts")
    ids = Request(one).ids  # which refuses what is no list of ids
    return ids[:-1] if ids[-1] == end else ids


def _check_dimensions(dimensions: object, hidden: int) -> int:
    least = min(LEAST_DIMENSIONS, hidden)
    allowed = f"whole numbers from {least} to {hidden}, or none"
    return hidden if dimensions is None else whole("dimensions", dimensions, least, hidden, allowed)


def _vector(event: Finished, dimensions: int, *, normalize: bool) -> F32:
    """Return F32[dimensions]: the first numbers of the state, of length 1 where normalised.

    That a vector may be cut is what Matryoshka training is for (arXiv 2205.13147).
    """
    import numpy as np

    assert event.state is not None
    vector = event.state[:dimensions]
    if normalize:
        length = float(np.linalg.norm(vector.astype(np.float64)))
        vector = (vector / max(length, 1e-12)).astype(np.float32)
    return vector


# -- judgements ------------------------------------------------------------------------------------


def reranking(
    texts: Texts,
    capacity: Capacity,
    query: str,
    documents: Sequence[str],
    *,
    instruction: str | None = None,
    top_n: int | None = None,
    truncate: int | None = None,
    namespace: str = "",
    most_tokens: int | None = None,
) -> Pooled[list[Ranked]]:
    """Prepare `Qwen.rerank`: a request for each document, whether it meets the query: "no", "yes".

    Control tokens written in texts stay text. most_tokens and errors as `embedding`.
    """
    texts.check_answers()
    most = None if top_n is None else whole("top_n", top_n, 1, MAX_TEXTS, "1 or more, or none")
    wanted = RERANK_INSTRUCTION if instruction is None else instruction
    for name, text in (("query", query), ("instruction", wanted)):
        if not check_text(text, f"the {name}"):
            raise ParameterError(f"the {name} is empty; allowed: 1 character or more")
    labels = [_token_of(texts, word) for word in (NO, YES)]
    names = "documents[{i}]"
    reading = _Reading(texts, capacity.context, truncate, namespace, names, most_tokens)
    head = texts.tokenizer.encode(_JUDGE_HEAD, parse_special=True)
    tail = texts.tokenizer.encode(_JUDGE_TAIL, parse_special=True)
    before = _JUDGE_BODY.format(instruction=wanted, query=query)
    around, longest = len(head) + len(tail), max(query, wanted, key=len)
    reading.check_before(before, around, "query" if longest is query else "instruction")
    requests, total = [], 0
    for i, document in enumerate(_listed("documents", documents)):
        body = reading.encode(document, i, before)
        ids = [*head, *reading.fit(body, around, i), *tail]
        reading.check_total(total := total + len(ids))
        requests.append(Request(ids, kind="classify", namespace=namespace, labels=labels))

    def read(events: Sequence[Finished]) -> list[Ranked]:
        return _ranked(documents, [_probability(event) for event in events], most)

    return Pooled(requests, read)


def _token_of(texts: Texts, word: str) -> int:
    ids = texts.tokenizer.encode(word, parse_special=False)
    if len(ids) != 1:
        raise UnsupportedError(
            f"{texts.name} has no token of its own for {word!r}, and cannot judge",
            hint="load a Qwen3-Reranker checkpoint",
        )
    return ids[0]


def _probability(event: Finished) -> float:
    """Return the probability of "yes", of "no" and "yes": the softmax of their logits."""
    assert event.label_logits is not None
    no, yes = event.label_logits.tolist()
    return 1.0 / (1.0 + math.exp(min(no - yes, 700.0)))


def _ranked(documents: Sequence[str], scores: Sequence[float], top_n: int | None) -> list[Ranked]:
    """Return the documents, the best first (of equals the earlier), at most `top_n`."""
    rows = [Ranked(i, s, d) for i, (s, d) in enumerate(zip(scores, documents, strict=True))]
    return sorted(rows, key=lambda row: (-row.score, row.index))[:top_n]


def _listed(name: str, values: Any) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence) or isinstance(values, bytes):
        raise refused(name, values, "a list of texts")
    if not 1 <= len(values) <= MAX_TEXTS:
        raise ParameterError(f"{name} holds {len(values)} texts; allowed: 1 to {MAX_TEXTS}")
    return values
