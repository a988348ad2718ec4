"""What a task is: prompts with their sampling, a parser of the answers, families that can do it.

A task is a plan: it yields the prompts that may be answered together, is sent their replies, and
ends with its result. So one plan serves a thread and asyncio, and one prompt or a thousand. Knows
nothing of any one task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Generic, TypeVar

from qwick.errors import ParameterError, UnsupportedError
from qwick.family import FAMILIES, Family, Thinking
from qwick.llm import Chunk, Qwen, Reply, Stream
from qwick.llm.texts import Texts
from qwick.text.tokenizer import check_text
from qwick.values import check_kind, check_switch

__all__ = ["Answer", "Prompt", "Task", "TaskStream"]

T = TypeVar("T")

MOST_AT_ONCE = 64  # prompts of one round that are under way together


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request of a task: a conversation, or a raw prompt; and keywords as `Qwen.chat` has."""

    messages: tuple[Mapping[str, Any], ...] = ()
    raw: str | Sequence[int] | None = None
    keywords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What came of a task.

    value: the parsed result. troubles: what is wrong with it, in words: an answer that was cut off,
    a part that could not be read. replies: of all prompts, in their order.
    """

    value: T
    troubles: tuple[str, ...]
    replies: tuple[Reply, ...]

    @property
    def text(self) -> str:
        """The last reply's text."""
        return self.replies[-1].text if self.replies else ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        value: Any = self.value
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        return {
            "value": value,
            "troubles": list(self.troubles),
            "replies": [reply.to_dict() for reply in self.replies],
        }


@dataclass(frozen=True, slots=True)
class Model:
    """What a plan knows of the model: its texts, and the tokens that a sequence may have."""

    texts: Texts
    context: int

    def keywords(self, *, thinking: bool = False, exact: bool = True) -> dict[str, Any]:
        """Return how an answer is sampled.

        thinking: whether the checkpoint may think, if that is its habit. exact: whether there is
        one right answer, which is then taken greedily, unless it is thought about: Qwen's cards
        forbid greedy thinking.
        """
        found: dict[str, Any] = {"loop_detection": True}
        thinks = self.texts.thinking
        if thinks is Thinking.HYBRID and not thinking and self.texts.switchable:
            found["enable_thinking"] = False
            thinks = Thinking.NONE
        if exact and thinks is Thinking.NONE:
            found["temperature"] = 0.0
        return found

    def most(self, tokens: int) -> int:
        """Return the max_tokens for an answer of so many: four times as many, if it is thought."""
        return 4 * tokens if self.texts.thinking is Thinking.ALWAYS else tokens

    def count(self, text: str) -> int:
        """Return the tokens of a text."""
        return len(self.texts.tokenizer.encode(text, parse_special=False))


Result = tuple[T, Sequence[str]]  # a value and its troubles
Plan = Generator[list[Prompt], list[Reply], Result[T]]


class Task(Generic[T]):
    """Something that a model is asked to do. Made by the functions of `qwick.tasks`.

    name: what `qwick run --task` calls it. fixed: keywords that are its own, which `run` refuses.
    """

    def __init__(
        self,
        name: str,
        plan: Callable[[Model], Plan[T]],
        barred: Callable[[Family], str | None],
        *,
        fixed: Sequence[str] = (),
        single: bool = True,
    ) -> None:
        self.name = name
        self.fixed = tuple(fixed)
        self._plan, self._barred, self._single = plan, barred, single

    def suits(self, family: Family) -> str | None:
        """Return why checkpoints of a family cannot do this, None where they can."""
        check_kind("family", family, Family, "a Family")
        return self._barred(family)

    @property
    def families(self) -> tuple[str, ...]:
        """The families of `qwick.family` that can do this."""
        return tuple(name for name, family in FAMILIES.items() if self._barred(family) is None)

    @property
    def streams(self) -> bool:
        """Whether it is one prompt, whose answer can be read piece by piece."""
        return self._single

    def prompts(self, qwen: Qwen, *, anyway: bool = False) -> list[Prompt]:
        """Return what it asks a model first: messages, and how they are sampled."""
        return next(self._begin(qwen, anyway, {}))

    def parse(self, qwen: Qwen, reply: Reply) -> Answer[T]:
        """Return what a reply to its one prompt says, however it was had."""
        check_kind("reply", reply, Reply, "a Reply")
        self._check_single()
        plan = self._begin(qwen, True, {})
        next(plan)
        return self._ended(_sent(plan, [reply])[1], [reply])

    def run(self, qwen: Qwen, *, anyway: bool = False, **keywords: Any) -> Answer[T]:
        """Do it and return the parsed answer; all prompts of a round are computed together.

        keywords: of `Qwen.chat` (or `Qwen.complete`, for fill-in-the-middle), which win over the
        task's. anyway: also with a checkpoint that is not made for it. Raises UnsupportedError for
        such a one, ParameterError for a keyword that is the task's own, and what `Qwen.chat` does.
        """
        plan = self._begin(qwen, anyway, keywords)
        prompts, result = _sent(plan, None)
        replies: list[Reply] = []
        while prompts is not None:
            found = _read(_opener(qwen, prompt, keywords) for prompt in prompts)
            replies += found
            prompts, result = _sent(plan, found)
        return self._ended(result, replies)

    async def arun(self, qwen: Qwen, *, anyway: bool = False, **keywords: Any) -> Answer[T]:
        """Do it from asyncio, as `run` does; cancelling the task cancels all of it."""
        plan = await asyncio.to_thread(self._begin, qwen, anyway, keywords)
        prompts, result = await asyncio.to_thread(_sent, plan, None)
        replies: list[Reply] = []
        while prompts is not None:
            found = await _aread(qwen, prompts, keywords)
            replies += found
            prompts, result = await asyncio.to_thread(_sent, plan, found)
        return self._ended(result, replies)

    def stream(self, qwen: Qwen, *, anyway: bool = False, **keywords: Any) -> TaskStream[T]:
        """Do it piece by piece; UnsupportedError for a task of several prompts (see `streams`)."""
        self._check_single()
        plan = self._begin(qwen, anyway, keywords)
        (prompt,) = next(plan)
        stream = _opener(qwen, prompt, keywords)()
        return TaskStream(stream, lambda r: self._ended(_sent(plan, [r])[1], [r]))

    def _begin(self, qwen: Qwen, anyway: bool, keywords: Mapping[str, Any]) -> Plan[T]:
        """Return the plan for a model; raise what prevents it."""
        check_kind("qwen", qwen, Qwen, "a Qwen")
        check_switch("anyway", anyway)
        family = qwen.defaults.family
        reason = self._barred(family)
        if reason is not None and not anyway:
            raise UnsupportedError(
                f"{qwen.name} {reason}; the task {self.name} is not for it",
                hint=f"families that can: {', '.join(self.families)}; anyway=True tries it",
            )
        for name in keywords:
            if name in self.fixed:
                raise ParameterError(f"{name} is set by the task {self.name}; allowed: without")
        return self._plan(Model(qwen.texts, qwen.context))

    def _check_single(self) -> None:
        if not self._single:
            raise UnsupportedError(
                f"the task {self.name} may ask several times, so there is no stream of it",
                hint="use run or arun",
            )

    def _ended(self, result: Result[T] | None, replies: Sequence[Reply]) -> Answer[T]:
        assert result is not None
        value, troubles = result
        return Answer(value, tuple(troubles), tuple(replies))


class TaskStream(Generic[T]):
    """Iterator over the chunks of a task's one reply; `answer` comes with the end."""

    def __init__(self, stream: Stream, parse: Callable[[Reply], Answer[T]]) -> None:
        self._stream, self._parse = stream, parse
        self._answer: Answer[T] | None = None

    def __iter__(self) -> Iterator[Chunk]:
        return self._stream

    @property
    def answer(self) -> Answer[T]:
        """The parsed answer, once the stream has been read to its end; UsageError before."""
        if self._answer is None:
            self._answer = self._parse(self._stream.reply)
        return self._answer

    def read(self) -> Answer[T]:
        """Read to the end and return the answer."""
        self._stream.read()
        return self.answer

    def close(self) -> None:
        """Cancel the request unless it has ended."""
        self._stream.close()

    def __enter__(self) -> TaskStream[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def one(
    name: str,
    prompt: Callable[[Model], Prompt],
    parse: Callable[[Reply], Result[T]],
    barred: Callable[[Family], str | None],
    *,
    fixed: Sequence[str] = (),
) -> Task[T]:
    """Return a task of one prompt."""

    def plan(model: Model) -> Plan[T]:
        (reply,) = yield [prompt(model)]
        value, troubles = parse(reply)
        return value, [*cut_off(reply), *troubles]

    return Task(name, plan, barred, fixed=fixed)


def cut_off(reply: Reply, what: str = "the answer") -> list[str]:
    """Return what is wrong with how a reply ended."""
    tokens = reply.usage.completion_tokens
    if reply.finish_reason == "length":
        return [f"{what} was cut off after {tokens} tokens"]
    if reply.finish_reason == "repetition":
        return [f"{what} was ended after {tokens} tokens: it only repeated itself"]
    return list(reply.troubles)


def user(text: str, system: str | None = None) -> tuple[Mapping[str, Any], ...]:
    """Return a conversation of one question."""
    asked = {"role": "user", "content": text}
    return (asked,) if system is None else ({"role": "system", "content": system}, asked)


def some_text(name: str, value: object) -> str:
    """Return a text that is not blank; ParameterError for anything else."""
    text = check_text(value, name)
    if not text.strip():
        raise ParameterError(f"{name} is empty; allowed: a text")
    return text


def texts_of(name: str, value: object) -> tuple[str, ...]:
    """Return a list of texts that are not blank; ParameterError for anything else."""
    check_kind(name, value, (list, tuple), "a list of texts")
    assert isinstance(value, list | tuple)
    return tuple(some_text(f"{name}[{i}]", text) for i, text in enumerate(value))


def chats(family: Family) -> str | None:
    """Return why a family answers no questions in plain language."""
    if "-math" in family.name and not family.base:
        return f"is of the family {family.name}, which its authors recommend for mathematics only"
    return talks(family)


def talks(family: Family) -> str | None:
    """Return why a family answers no questions at all."""
    if family.base:
        return "is a base model, which continues texts and answers no questions"
    if any(kind in family.name for kind in ("guard", "embedding", "reranker")):
        return f"is of the family {family.name}, which rates texts and answers no questions"
    return None


def _sent(plan: Plan[T], replies: list[Reply] | None) -> tuple[list[Prompt] | None, Any]:
    """Go on with a plan; return its next prompts, or None and its result."""
    try:
        return (next(plan) if replies is None else plan.send(replies)), None
    except StopIteration as end:
        return None, end.value


def _merged(prompt: Prompt, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prompt's keywords with the caller's, which win."""
    own = dict(prompt.keywords)
    if keywords.get("enable_thinking") is True:
        own.pop("temperature", None)  # greedy thinking is what the cards forbid
    return {**own, **keywords}


def _opener(qwen: Qwen, prompt: Prompt, keywords: Mapping[str, Any]) -> Callable[[], Stream]:
    merged = _merged(prompt, keywords)
    if prompt.raw is not None:
        raw = prompt.raw
        return lambda: qwen.stream_complete(raw, **merged)
    return lambda: qwen.stream(prompt.messages, **merged)


def _read(openers: Iterable[Callable[[], Stream]]) -> list[Reply]:
    """Ask all, MOST_AT_ONCE together; whatever goes wrong, nothing is left running."""
    streams: deque[Stream] = deque()
    replies: list[Reply] = []
    try:
        for opener in openers:
            if len(streams) == MOST_AT_ONCE:
                replies.append(streams[0].read())
                streams.popleft()
            streams.append(opener())
        while streams:
            replies.append(streams[0].read())
            streams.popleft()
        return replies
    finally:
        for stream in streams:
            stream.close()


async def _aread(qwen: Qwen, prompts: Sequence[Prompt], keywords: Mapping[str, Any]) -> list[Reply]:
    places = asyncio.Semaphore(MOST_AT_ONCE)

    async def ask(prompt: Prompt) -> Reply:
        merged = _merged(prompt, keywords)
        async with places:
            if prompt.raw is not None:
                return await qwen.acomplete(prompt.raw, **merged)
            return await qwen.achat(prompt.messages, **merged)

    asked = [asyncio.create_task(ask(prompt)) for prompt in prompts]
    try:
        return list(await asyncio.gather(*asked))
    finally:
        for task in asked:
            task.cancel()
