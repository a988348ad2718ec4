"""A checkpoint's texts: what makes requests of questions, and readers of their answers.

Needs no weights and no engine: a server has these in one process and the engine in another.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qwick.engine.request import SEED_BITS, Request, Sampling
from qwick.errors import ParameterError, TemplateError, UnsupportedError
from qwick.family import FAMILIES, Thinking, ToolFormat
from qwick.llm.reply import Assembler
from qwick.llm.steers import Guide
from qwick.llm.wishes import ToolChoice, Wishes, read_wishes
from qwick.text.chat import Prompt, encode_chat
from qwick.text.messages import check_messages, check_tools
from qwick.text.router import Router
from qwick.text.stops import StopMatcher
from qwick.text.thinking import CLOSE, EARLY_END, OPEN, ThinkingSplitter, soft_switch
from qwick.values import check_kind

if TYPE_CHECKING:
    from qwick.llm.defaults import Defaults
    from qwick.text.grammar import Grammar
    from qwick.text.template import ChatTemplate
    from qwick.text.tokenizer import Tokenizer

Messages = str | Sequence[Mapping[str, Any]]
RawPrompt = str | Sequence[int]
Tools = Sequence[Mapping[str, Any]]

SWITCH = "enable_thinking"  # the variable by which templates of hybrid checkpoints are told
EMPTY_BLOCK = f"{OPEN}\n\n{CLOSE}\n\n"  # as those templates write it where thinking is off
THINKING_SHARE = 0.75  # of max_tokens may be thinking, unless the caller sets a budget
LEAST_ANSWER = 16  # tokens that are left behind a thinking which is ended early


@dataclass(frozen=True, slots=True)
class Asked:
    """A question ready to be sent, and how the events of its answer are read."""

    request: Request
    texts: Texts
    prompt: str | None  # text of a conversation that may begin with thinking; None: it cannot
    called: _Called
    held: bool = False  # whether a grammar holds the answer

    def assembler(self) -> Assembler:
        """Return what reads one answer's events."""
        splitter = None if self.prompt is None else ThinkingSplitter(self.prompt)
        ends = self.called.stops
        stops = StopMatcher([stop for stop in self.request.sampling.stop if stop not in ends])
        router = Router(splitter, self.called.reader(held=self.held), stops, StopMatcher(ends))
        return Assembler(
            self.texts.tokenizer,
            self.request.sampling,
            self.texts.name,
            router,
            self.request.ids,
        )

    def choice(self, number: int) -> Asked:
        """Return the same question for one of several answers: with a seed, each has its own.

        Of the prompt the first one tells alone.
        """
        if number == 0:
            return self
        sampling = self.request.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=(sampling.seed + number) % 2**SEED_BITS)
        request = replace(self.request, sampling=sampling, prompt_logprobs=None)
        return replace(self, request=request)


@dataclass(frozen=True, slots=True)
class Texts:
    """Tokenizer, template and defaults of one checkpoint, and what its replies call it."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: Defaults
    name: str

    # -- questions -----------------------------------------------------------------------------

    def check_answers(self) -> None:
        """Raise UnsupportedError for a checkpoint that was trained for its states alone."""
        if not self.defaults.family.answers:
            raise UnsupportedError(
                f"{self.name} makes embeddings only: it neither answers nor judges",
                hint="use Qwen.embed or /v1/embeddings; or load a checkpoint that answers",
            )

    def chat(
        self,
        messages: Messages,
        tools: Tools | None,
        keywords: Mapping[str, Any],
        *,
        context: int,
    ) -> Asked:
        """Make a request of a conversation; context: the tokens that a sequence may have."""
        self.check_answers()
        wishes = read_wishes(keywords, self._options)
        called = _Called.of(self.defaults.family.tools, self.template, tools, wishes)
        messages = _listed(messages)
        begins, thinks = self._thinks(messages, wishes)
        prompt = self._prompt(messages, called, wishes)
        text, ids = prompt.text, prompt.ids
        if begins and wishes.thinking_budget == 0:  # of a checkpoint that cannot be told not to
            end = EARLY_END if text.rstrip().endswith(OPEN) else EMPTY_BLOCK
            text, thinks = text + end, False
            ids = ids + self.tokenizer.encode(end, parse_special=True)
        sampling = self._sampling(wishes, ids, context, thinks=thinks, stops=called.stops)
        grammar = _grammar(wishes, called)
        strict = called.strict if grammar is None else {}
        stops = bool(called.tools) and sampling.stop != called.stops  # the caller's own
        guide = Guide(
            prompt_end=text[-64:] if begins else None,
            thinking_budget=self._budget(wishes, sampling, context - len(ids)) if begins else None,
            grammar=grammar,
            jump=sampling.logprobs is None,
            calls=(called.format, called.tools) if called.one or strict or stops else None,
            ends=called.stops,
            one_call=called.one,
            strict=strict,
        )
        request = Request(
            ids,
            sampling=sampling,
            namespace=wishes.namespace,
            guide=guide if guide.acts or (begins and sampling.stop) else None,
            progress=wishes.progress,
            prompt_logprobs=wishes.prompt_logprobs,
        )
        held = grammar is not None
        return Asked(request, self, text if begins or self._knows_blocks else None, called, held)

    def raw(self, prompt: RawPrompt, keywords: Mapping[str, Any], *, context: int) -> Asked:
        """Make a request of a raw prompt, text or ids; control tokens written in it are such."""
        self.check_answers()
        wishes = read_wishes(keywords, (), chat=False)
        check_kind("prompt", prompt, (str, list, tuple), "a text, or a list of token ids")
        if isinstance(prompt, str):
            ids: Sequence[int] = self.tokenizer.encode(prompt, parse_special=True)
        else:
            ids = Request(prompt).ids  # which refuses what is no list of ids
        extra: tuple[int, ...] = ()
        family = self.defaults.family
        if any(self.tokenizer.id_of(mark) in ids for mark in family.fim[-1:]):
            extra = self.tokenizer.stop_ids(family.fim_stops)
        sampling = self._sampling(wishes, ids, context, thinks=False, fim_stop_ids=extra)
        guide = None
        if wishes.grammar is not None:
            guide = Guide(grammar=wishes.grammar, jump=sampling.logprobs is None)
        request = Request(
            ids,
            sampling=sampling,
            namespace=wishes.namespace,
            guide=guide,
            progress=wishes.progress,
            prompt_logprobs=wishes.prompt_logprobs,
        )
        return Asked(request, self, None, _NO_TOOLS)

    def fill_in(self, prefix: str, suffix: str, *, untrained: bool = False) -> list[int]:
        """Return the raw prompt that asks for what is between two texts, which stay text.

        UnsupportedError for a checkpoint that has not learned it; untrained: only for one whose
        tokenizer has no marks for it, another family's included. The order is that of
        QwenLM/Qwen2.5-Coder and CodeQwen1.5, README.
        """
        families = [self.defaults.family, *(FAMILIES.values() if untrained else ())]
        known = ([self.tokenizer.id_of(mark) for mark in one.fim] for one in families if one.fim)
        marks = next((marks for marks in known if None not in marks), None)
        if marks is None:
            raise UnsupportedError(
                f"{self.name} cannot fill in between two texts (suffix)",
                hint="leave the suffix out, or take a Coder checkpoint",
            )
        before, behind, between = (id for id in marks if id is not None)
        encode = self.tokenizer.encode
        return [
            *(before, *encode(prefix, parse_special=False)),
            *(behind, *encode(suffix, parse_special=False)),
            between,
        ]

    def render(
        self,
        messages: Messages,
        tools: Tools | None,
        given: Mapping[str, Any],
        *,
        add_generation_prompt: bool = True,
    ) -> Prompt:
        """Return a conversation as the model sees it."""
        wishes = read_wishes(given, self._options)
        called = _Called.of(self.defaults.family.tools, self.template, tools, wishes)
        messages = _listed(messages)
        self._thinks(messages, wishes)  # which refuses what cannot be
        return self._prompt(messages, called, wishes, add_generation_prompt)

    # -- thinking ------------------------------------------------------------------------------

    @property
    def thinking(self) -> Thinking:
        """Whether this checkpoint thinks: by its template where that says so, else its family."""
        kind = self.defaults.family.thinking
        if self.template is None:
            return kind
        if SWITCH in self._options:
            return Thinking.HYBRID if kind is Thinking.NONE else kind
        end = _prompt_end(self.template)
        if end.endswith((OPEN, CLOSE)):  # a block that every answer goes on with, or that is over
            return Thinking.ALWAYS if end.endswith(OPEN) else Thinking.NONE
        return kind

    @property
    def switchable(self) -> bool:
        """Whether the template can be told not to let it think."""
        return SWITCH in self._options

    @property
    def _knows_blocks(self) -> bool:
        return self.template is not None and OPEN in self.template.source

    def _thinks(self, messages: Sequence[Mapping[str, Any]], wishes: Wishes) -> tuple[bool, bool]:
        """Return whether the answer may begin with thinking, and whether it is sampled so.

        Refuses what cannot be switched. Behind `/no_think` a block comes all the same, though an
        empty one (QwenLM/Qwen3, quickstart).
        """
        wanted, can = wishes.enable_thinking, self.thinking
        if wanted is True and can is Thinking.NONE:
            raise UnsupportedError(
                f"{SWITCH} is True; {self.name} has no thinking", hint="leave it out, or False"
            )
        if wanted is False and can is Thinking.ALWAYS:
            raise UnsupportedError(
                f"{SWITCH} is False; {self.name} always thinks",
                hint="leave it out, and set thinking_budget to keep it short",
            )
        if wishes.thinking_budget and (can is Thinking.NONE or wanted is False):
            raise UnsupportedError(
                f"thinking_budget is {wishes.thinking_budget}; this answer has no thinking",
                hint="leave it out",
            )
        if can is not Thinking.HYBRID:
            always = can is Thinking.ALWAYS
            return always, always
        switched = SWITCH in self._options
        if wanted is not None and not switched:
            raise UnsupportedError(
                f"{SWITCH} is {wanted}; the chat template of {self.name} has no such switch",
                hint="write /think or /no_think into the message",
            )
        if wanted is False or (wishes.thinking_budget == 0 and switched):
            return False, False
        softly = self.defaults.family.soft_switch and soft_switch(check_messages(messages)) is False
        return True, not softly

    def _budget(self, wishes: Wishes, sampling: Sampling, room: int) -> int | None:
        """Return the tokens that thinking may take, so that there are some left to answer.

        room: tokens that the context has left for thinking and answer. None: as many as there are,
        because ending it early would leave nothing to answer with.
        """
        if wishes.thinking_budget is not None:
            return wishes.thinking_budget
        most = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        early = len(self.tokenizer.encode(EARLY_END, parse_special=True))
        share = min(int(most * THINKING_SHARE), most - early - LEAST_ANSWER)
        if share < 1:
            return None
        return share if wishes.thinking_aim is None else min(wishes.thinking_aim, share)

    # -- parts ---------------------------------------------------------------------------------

    @property
    def _options(self) -> frozenset[str]:
        return frozenset() if self.template is None else self.template.options

    def _prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        called: _Called,
        wishes: Wishes,
        add_generation_prompt: bool = True,
    ) -> Prompt:
        variables = dict(wishes.variables)
        if SWITCH in self._options:
            if wishes.enable_thinking is False or wishes.thinking_budget == 0:
                variables[SWITCH] = False
            elif wishes.enable_thinking:
                variables[SWITCH] = True
        return encode_chat(
            self.tokenizer,
            self.template,
            called.messages(messages),
            tools=called.for_template,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )

    def _sampling(
        self,
        wishes: Wishes,
        ids: Sequence[int],
        context: int,
        *,
        thinks: bool,
        stops: tuple[str, ...] = (),
        fim_stop_ids: tuple[int, ...] = (),
    ) -> Sampling:
        sampling = self.defaults.sampling(
            wishes.sampling,
            thinking=thinks,
            prompt=len(ids),
            room=context - len(ids),
            extra_stop_ids=fim_stop_ids,
        )
        further = wishes.extra_stop_ids
        if not (stops or further):
            return sampling
        stop_ids = tuple(dict.fromkeys((*sampling.stop_ids, *further)))
        return replace(sampling, stop=(*sampling.stop, *stops), stop_ids=stop_ids)


@dataclass(frozen=True, slots=True)
class _Called:
    """The tools of one question: how they are described to this checkpoint, and read back."""

    format: ToolFormat
    tools: tuple[Mapping[str, Any], ...]  # empty: none may be called
    choice: ToolChoice
    in_template: bool
    one: bool = False  # whether no more than one call is wanted

    @classmethod
    def of(
        cls,
        format: ToolFormat,
        template: ChatTemplate | None,
        tools: Tools | None,
        wishes: Wishes,
    ) -> _Called:
        choice = wishes.tool_choice
        in_template = template is None or "tools" in template.variables
        if not check_tools(tools) or choice.mode == "none":
            if choice.mode == "required":
                raise ParameterError(
                    "tool_choice asks for a call, and there are no tools; allowed: auto or none"
                )
            return cls(format, (), choice, in_template)
        from qwick.text.tools import check_tool_definitions

        checked = tuple(check_tool_definitions(tools))
        names = [tool["function"]["name"] for tool in checked]
        if choice.name is not None and choice.name not in names:
            raise ParameterError(
                f"tool_choice names {choice.name!r:.100}; allowed: {', '.join(names)}"
            )
        if in_template and format is ToolFormat.NONE:
            format = ToolFormat.HERMES  # what templates of the family describe
        return cls(format, checked, choice, in_template, not wishes.parallel_tool_calls)

    @property
    def for_template(self) -> Tools | None:
        return self.tools if self.tools and self.in_template else None

    @property
    def stops(self) -> tuple[str, ...]:
        from qwick.text.tools import stop_strings

        return tuple(stop_strings(self.format)) if self.tools else ()

    @property
    def strict(self) -> dict[str, Grammar]:
        """What the arguments of strict tools must match, by name."""
        from qwick.text.grammar import Grammar

        return {
            tool["function"]["name"]: Grammar.tool_arguments(self.format, tool, f"tools[{i}]")
            for i, tool in enumerate(self.tools)
            if tool["function"].get("strict")
        }

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        if self.in_template or not (self.tools or _has_calls(messages)):
            return messages
        from qwick.text.tools import with_tools

        return with_tools(self.format, messages, self.tools)

    def reader(self, *, held: bool) -> Any:
        if not self.tools:
            return None
        from qwick.text.tools import ToolReader

        demanded = self.choice.mode == "required"
        return ToolReader(self.format, self.tools, held=held, demanded=demanded, one=self.one)


def _listed(messages: Messages) -> Sequence[Mapping[str, Any]]:
    if not isinstance(messages, str):
        return messages
    if not messages:
        raise ParameterError("the prompt is empty; allowed: 1 character or more")
    return [{"role": "user", "content": messages}]


@functools.lru_cache(maxsize=64)
def _prompt_end(template: ChatTemplate) -> str:
    """Return the end of what a template makes of a question, without line ends."""
    try:
        return template.render([{"role": "user", "content": "?"}]).rstrip()[-len(CLOSE) :]
    except TemplateError:  # it wants to be told more
        return ""


_NO_TOOLS = _Called(ToolFormat.NONE, (), ToolChoice(), True)


def _has_calls(messages: Sequence[Mapping[str, Any]]) -> bool:
    return any(m["role"] == "tool" or m.get("tool_calls") for m in check_messages(messages))


def _grammar(wishes: Wishes, called: _Called) -> Grammar | None:
    """Return what holds the answer. A grammar that a caller wishes for holds content, not calls."""
    parallel = wishes.parallel_tool_calls
    if called.tools and called.choice.mode == "required":
        from qwick.text.grammar import Grammar

        names = None if called.choice.name is None else [called.choice.name]
        return Grammar.tool_calls(called.format, called.tools, names=names, parallel=parallel)
    if called.tools and wishes.grammar is not None:
        return wishes.grammar.or_tool_calls(called.format, called.tools, parallel=parallel)
    return wishes.grammar
