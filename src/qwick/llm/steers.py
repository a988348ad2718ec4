"""What acts on sampling while an answer grows: stop strings, a budget for thinking, a grammar.

A `Guide` travels with a request as plain data; `SteerFactory` makes a steer of it where the engine
runs. Knows ids and text; no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwick.engine.steer import Force, Steer, SteerSpec, Verdict
from qwick.errors import ParameterError, shown
from qwick.text.router import Answer
from qwick.text.stops import StopMatcher
from qwick.text.thinking import EARLY_END, OPEN, ThinkingSplitter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qwick.family import ToolFormat
    from qwick.text.grammar import Grammar, Matcher, Vocabulary
    from qwick.text.tokenizer import Tokenizer
    from qwick.text.tools import ToolReader


@dataclass(frozen=True, slots=True)
class Guide:
    """What holds an answer, beside the stop strings.

    prompt_end: the end of the prompt's text, which tells how thinking begins; None: the answer
    comes without thinking. thinking_budget: most tokens of it. grammar: what the answer after it
    must match. jump: whether ids that the grammar leaves no choice about are appended without
    sampling (they have no log probabilities then). calls: format and tools by which calls are read,
    where something depends on them. ends: those of the stop strings that are the format's own.
    one_call: whether the answer is complete with the end of one. strict: what the arguments of a
    call must match in an answer that is free otherwise, by the tool's name.
    """

    prompt_end: str | None = None
    thinking_budget: int | None = None
    grammar: Grammar | None = None
    jump: bool = True
    calls: tuple[ToolFormat, tuple[Mapping[str, Any], ...]] | None = None
    ends: tuple[str, ...] = ()
    one_call: bool = False
    strict: Mapping[str, Grammar] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether it holds the answer at all."""
        return any(one is not None for one in (self.thinking_budget, self.grammar, self.calls))

    @property
    def grammars(self) -> list[Grammar]:
        """All that must be compiled for it."""
        return [*self.strict.values(), *(() if self.grammar is None else (self.grammar,))]


class SteerFactory:
    """Builds the steers of one tokenizer; what grammars need of it is made once, when needed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: Vocabulary | None = None

    def __call__(self, spec: SteerSpec) -> Steer:
        """Return the steer of a request; ParameterError for a grammar that cannot be."""
        if spec.guide is None:
            return StopSteer(self._tokenizer, spec.stop, spec.min_tokens)
        if not isinstance(spec.guide, Guide):
            raise ParameterError(f"guide is {shown(spec.guide)}; allowed: a Guide")
        vocabulary = self.vocabulary if spec.guide.grammars else None
        return GuidedSteer(self._tokenizer, spec, spec.guide, vocabulary)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer as grammars see it."""
        if self._vocabulary is None:
            from qwick.text.grammar import Vocabulary

            self._vocabulary = Vocabulary(self._tokenizer)
        return self._vocabulary


class _Reading:
    """Ids made text; text of the first min_tokens of them belongs to no stop string."""

    def __init__(self, tokenizer: Tokenizer, min_tokens: int) -> None:
        self._stream = tokenizer.stream()
        self._early = min_tokens

    @property
    def between_characters(self) -> bool:
        """Whether the tokens so far end with a whole character."""
        return not self._stream.pending

    @property
    def may_stop(self) -> bool:
        """Whether the text of the last token may belong to a stop string."""
        return self._early < 0

    def read(self, token: int) -> str:
        """Return the text that a token completes."""
        self._early -= 1
        return self._stream.push(token)


class StopSteer:
    """Ends an answer in the engine with the token that completes a stop string.

    Text of the first min_tokens tokens belongs to none.
    """

    def __init__(self, tokenizer: Tokenizer, strings: tuple[str, ...], min_tokens: int = 0) -> None:
        self._reading = _Reading(tokenizer, min_tokens)
        self._matcher = StopMatcher(strings)

    def mask(self) -> None:
        """Allow every id."""

    def accept(self, token: int) -> Verdict:
        """Stop when the text so far holds a stop string."""
        text = self._reading.read(token)
        if not self._reading.may_stop:
            return Verdict.GO
        _, hit = self._matcher.push(text)
        return Verdict.STOP if hit else Verdict.GO


class GuidedSteer:
    """A steer for all that a Guide asks: first the thinking within its budget, then the grammar."""

    def __init__(
        self, tokenizer: Tokenizer, spec: SteerSpec, guide: Guide, vocabulary: Vocabulary | None
    ) -> None:
        self._tokenizer = tokenizer
        self._reading = _Reading(tokenizer, spec.min_tokens)
        self._ends = spec.stop_ids
        self._guide = guide
        self._vocabulary = vocabulary
        self._matcher: Matcher | None = None  # of the whole answer, or of a call's arguments
        for grammar in guide.grammars:
            self._matcher = self._begun(grammar)  # all, so that what cannot be is told now
        if guide.grammar is None:
            self._matcher = None
        reader: ToolReader | None = None
        if guide.calls is not None:
            from qwick.text.tools import ToolReader

            reader = ToolReader(*guide.calls, held=guide.grammar is not None)
        stops = tuple(stop for stop in spec.stop if stop not in guide.ends)
        self._read = Answer(reader, StopMatcher(stops), StopMatcher(guide.ends))
        self._thought = None if guide.prompt_end is None else ThinkingSplitter(guide.prompt_end)
        self._thought_tokens = 0
        self._first = True
        self._open: NDArray[np.uint8] | None = None  # the mask of a thinking that cannot end a turn

    def mask(self) -> NDArray[np.uint8] | None:
        """Return what the grammar allows once it holds; before that, thinking is free.

        Where the model opens the block itself and a grammar waits, the block must come first, and
        the turn cannot end within it.
        """
        if self._matcher is None:
            return None
        if self._thinks:
            opening = self._opening() if self._first else None
            return self._anything_but_ends() if opening is None else opening
        return self._matcher.mask()

    def accept(self, token: int) -> Verdict | Force:
        """Note a sampled id."""
        self._first = False
        if self._thinks:
            return self._think(token)
        holding = self._matcher
        if self._meets_stop(self._answer(token)):
            return Verdict.STOP
        if holding is not None:
            holding.accept(token)
        return self._go_on()

    def _begun(self, grammar: Grammar) -> Matcher:
        assert self._vocabulary is not None
        return self._vocabulary.matcher(grammar, self._ends)

    def _answer(self, token: int) -> str:
        """Return what a token adds to the answer proper."""
        text = self._reading.read(token)
        if self._thought is None:
            return text
        return "".join(piece for thinking, piece in self._thought.push(text) if not thinking)

    def _meets_stop(self, text: str) -> bool:
        """Read this text of the answer; whether it, or what came before it, holds a stop string.

        Where the arguments of a strict call begin in it, they are held from there on.
        """
        may_stop, strict = self._reading.may_stop, self._guide.strict
        while text and strict and self._matcher is None:
            self._read.push(text[0], may_stop=may_stop)
            text = text[1:]
            name = None if self._read.reader is None else self._read.reader.awaits
            if name is not None and name in strict:
                self._matcher = self._holding(strict[name], text)
        self._read.push(text, may_stop=may_stop)
        return self._read.stop is not None

    def _holding(self, grammar: Grammar, begun: str) -> Matcher | None:
        """Return what holds a call's arguments, of which some have come; None: they were none."""
        matcher = self._begun(grammar)
        try:
            for id in self._tokenizer.encode(begun.lstrip(), parse_special=False):
                matcher.accept(id)
        except ParameterError:  # a key that only begins like that of the arguments
            return None
        return matcher

    @property
    def _thinks(self) -> bool:
        return self._thought is not None and not self._thought.answering

    def _opening(self) -> NDArray[np.uint8] | None:
        """Return a mask of nothing but `<think>`, None where the prompt has opened the block."""
        id = self._tokenizer.id_of(OPEN)
        if id is None or self._thought is None or self._thought.thinking:
            return None
        import numpy as np

        bits = np.zeros(-(-self._tokenizer.n_tokens // 8), np.uint8)
        bits[id // 8] = 1 << (id % 8)
        return bits

    def _anything_but_ends(self) -> NDArray[np.uint8]:
        import numpy as np

        if self._open is None:
            allowed = np.ones(self._tokenizer.n_tokens, np.bool_)
            allowed[[id for id in self._ends if id < len(allowed)]] = False
            self._open = np.packbits(allowed, bitorder="little")
        return self._open

    def _think(self, token: int) -> Verdict | Force:
        thought, budget = self._thought, self._guide.thinking_budget
        assert thought is not None
        was_open = thought.thinking
        answer = self._answer(token)
        self._thought_tokens += was_open or thought.thinking
        if thought.answering:
            if self._meets_stop(answer):
                return Verdict.STOP
            if self._guide.grammar is None or self._matcher is None:
                return self._go_on()
            if not was_open:  # no block came, where none could be asked for
                self._matcher.accept(token)
                return self._go_on()
            if answer:  # a tag that was spelled out, with the beginning of the answer in its token
                for id in self._tokenizer.encode(answer, parse_special=False):
                    self._matcher.accept(id)
                return self._go_on()
            # The line ends that templates put there: a grammar need not know of them.
            return self._force("\n\n")
        spent = budget is not None and self._thought_tokens >= budget
        if spent and thought.thinking and self._reading.between_characters:
            return self._force(EARLY_END)
        return Verdict.GO

    def _force(self, text: str) -> Force:
        """Append a text that belongs to the thinking or to the border behind it."""
        ids = tuple(self._tokenizer.encode(text, parse_special=True))
        for id in ids:
            self._answer(id)
        return Force(ids)

    def _go_on(self) -> Verdict | Force:
        """Say what follows a token of the answer proper."""
        if self._complete:
            return Verdict.STOP
        self._let_go()
        if self._matcher is None or not self._guide.jump:
            return Verdict.GO
        forced = self._matcher.forced()
        if not forced:
            return Verdict.GO
        stops = any(self._meets_stop(self._answer(id)) for id in forced)
        stops = stops or self._complete
        self._let_go()
        return Force(tuple(forced), stop=stops)

    @property
    def _complete(self) -> bool:
        """Whether the answer is, by its grammar or because it has its one call."""
        if self._guide.one_call and self._read.reader is not None and self._read.reader.ended:
            return True
        return self._guide.grammar is not None and bool(self._matcher and self._matcher.finished)

    def _let_go(self) -> None:
        """Hold no longer what only a call's arguments hold, when they are complete."""
        if self._guide.grammar is None and self._matcher is not None and self._matcher.accepting:
            self._matcher = None
