"""What acts on sampling while an answer grows: stop strings, a budget for thinking, a grammar.

A `Guide` travels with a request as plain data; `SteerFactory` makes a steer of it where the engine
runs. Knows ids and text; no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwick.engine.steer import Force, Steer, SteerSpec, Verdict
from qwick.errors import ParameterError, shown
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
    sampling (they have no log probabilities then). one_call: format and tools of the one call with
    whose end the answer is complete.
    """

    prompt_end: str | None = None
    thinking_budget: int | None = None
    grammar: Grammar | None = None
    jump: bool = True
    one_call: tuple[ToolFormat, tuple[Mapping[str, Any], ...]] | None = None

    @property
    def acts(self) -> bool:
        """Whether it holds the answer at all."""
        return any(one is not None for one in (self.thinking_budget, self.grammar, self.one_call))


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
        grammar, matcher = spec.guide.grammar, None
        if grammar is not None:
            matcher = self.vocabulary.matcher(grammar, spec.stop_ids)
        return GuidedSteer(self._tokenizer, spec, spec.guide, matcher)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer as grammars see it."""
        if self._vocabulary is None:
            from qwick.text.grammar import Vocabulary

            self._vocabulary = Vocabulary(self._tokenizer)
        return self._vocabulary


class StopSteer:
    """Ends an answer in the engine with the token that completes a stop string.

    Text of the first min_tokens tokens belongs to none, nor does text that is only read.
    """

    def __init__(self, tokenizer: Tokenizer, strings: tuple[str, ...], min_tokens: int = 0) -> None:
        self._stream = tokenizer.stream()
        self._matcher = StopMatcher(strings)
        self._early = min_tokens
        self.text = ""  # what the last token completed

    @property
    def between_characters(self) -> bool:
        """Whether the tokens so far end with a whole character."""
        return not self._stream.pending

    def mask(self) -> None:
        """Allow every id."""

    def accept(self, token: int) -> Verdict:
        """Stop when the text so far holds a stop string."""
        return self.match(self.read(token))

    def read(self, token: int) -> str:
        """Return the text that a token completes."""
        self.text = self._stream.push(token)
        self._early -= 1
        return self.text

    def match(self, text: str) -> Verdict:
        """Stop when this text of the last token, or what came before it, holds a stop string."""
        if self._early >= 0:
            return Verdict.GO
        _, hit = self._matcher.push(text)
        return Verdict.STOP if hit else Verdict.GO


class GuidedSteer:
    """A steer for all that a Guide asks: first the thinking within its budget, then the grammar."""

    def __init__(
        self, tokenizer: Tokenizer, spec: SteerSpec, guide: Guide, matcher: Matcher | None
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = StopSteer(tokenizer, spec.stop, spec.min_tokens)
        self._ends = spec.stop_ids
        self._guide = guide
        self._matcher = matcher
        self._reader: ToolReader | None = None
        if guide.one_call is not None:
            from qwick.text.tools import ToolReader

            self._reader = ToolReader(*guide.one_call, held=matcher is not None)
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
        answer = self._answer(token)
        if self._stops.match(answer) is Verdict.STOP:
            return Verdict.STOP
        if self._matcher is not None:
            self._matcher.accept(token)
        return self._go_on(answer)

    def _answer(self, token: int) -> str:
        """Return what a token adds to the answer proper."""
        text = self._stops.read(token)
        if self._thought is None:
            return text
        return "".join(piece for thinking, piece in self._thought.push(text) if not thinking)

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
            if self._stops.match(answer) is Verdict.STOP:
                return Verdict.STOP
            if self._matcher is None:
                return self._go_on(answer)
            if not was_open:  # no block came, where none could be asked for
                self._matcher.accept(token)
                return self._go_on(answer)
            if answer:  # a tag that was spelled out, with the beginning of the answer in its token
                for id in self._tokenizer.encode(answer, parse_special=False):
                    self._matcher.accept(id)
                return self._go_on(answer)
            # The line ends that templates put there: a grammar need not know of them.
            return self._force("\n\n")
        spent = budget is not None and self._thought_tokens >= budget
        if spent and thought.thinking and self._stops.between_characters:
            return self._force(EARLY_END)
        return Verdict.GO

    def _force(self, text: str) -> Force:
        """Append a text that belongs to the thinking or to the border behind it."""
        ids = tuple(self._tokenizer.encode(text, parse_special=True))
        for id in ids:
            self._answer(id)
        return Force(ids)

    def _go_on(self, text: str) -> Verdict | Force:
        """Say what follows a token of the answer proper."""
        matcher = self._matcher
        if self._ends_call(text) or (matcher is not None and matcher.finished):
            return Verdict.STOP
        if matcher is None or not self._guide.jump:
            return Verdict.GO
        forced = matcher.forced()
        if not forced:
            return Verdict.GO
        for id in forced:
            answer = self._answer(id)
            self._stops.match(answer)
            self._ends_call(answer)
        return Force(tuple(forced), stop=matcher.finished)

    def _ends_call(self, text: str) -> bool:
        if self._reader is None:
            return False
        self._reader.push(text)
        return self._reader.ended
