"""How far one answer is in its grammar: which tokens may follow, and what follows of itself.

The mask of the next token is computed on another thread while the model computes that token's
logits; llguidance lets go of the GIL meanwhile. Knows neither how the grammar was written nor how
tokens are chosen.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

from qwick.errors import ParameterError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher
    from numpy.typing import NDArray

    U8 = NDArray[np.uint8]

__all__ = ["Matcher", "reason_of"]


class Matcher:
    """The state of one answer; for one thread at a time. Made by `Vocabulary.matcher`."""

    def __init__(
        self, compiled: LLMatcher, name: str, usable: U8, ends: U8, executor: Executor
    ) -> None:
        """Start at the beginning of a compiled grammar.

        usable, ends: bits of the ids that may ever be text of the answer, and of those that may end
        it; ceil(n_tokens / 8) bytes each, without an id in both. executor: computes masks ahead.
        """
        import numpy as np

        self._compiled = compiled
        self._name = name
        self._usable = usable
        self._ends = ends
        self._executor = executor
        # llguidance fills whole words; it knows one id more, the end.
        words = -(-(8 * len(usable) + 1) // 32)
        self._words = np.zeros(words, np.uint32)
        self._bits = self._words.view(np.uint8)[: len(usable)]
        self._ahead: Future[None] | None = None
        self._filled = False
        self._forced: list[int] = []
        self._tokens = 0
        self._finished = self._accepting = False
        self._advance()

    def mask(self) -> U8:
        """Return the ids that may follow as bits, id i at bit i % 8 of byte i // 8.

        ceil(n_tokens / 8) bytes, good until the next `accept` or `forced`. Where the grammar leaves
        no choice, only the first of the forced ids is in it. Raises as `accept`.
        """
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            ahead.result()
        elif not self._filled:
            self._fill()
        return self._bits

    def accept(self, id: int) -> None:
        """Note an id that was chosen from the mask.

        Raises ParameterError for one that does not fit, UnsupportedError where the grammar turns
        out to cost more than is spent on one token.
        """
        self._wait()
        if not (0 <= id < 8 * len(self._usable) and self._usable[id // 8] >> (id % 8) & 1):
            raise ParameterError(
                f"token {id} does not fit the {self._name} here; allowed: one of the mask"
            )
        self._take([id])

    def forced(self) -> list[int]:
        """Return ids that must follow now, which are noted as accepted; none: there is a choice.

        They are the tokenizer's own for the text that is left. Raises as `accept`.
        """
        ids = self._forced
        if ids:
            self._wait()
            self._take(ids)
        return ids

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing but its end may follow."""
        return self._finished

    @property
    def accepting(self) -> bool:
        """Whether the answer is complete; more may follow."""
        return self._accepting

    def _take(self, ids: list[int]) -> None:
        self._tokens += len(ids)
        if not self._compiled.consume_tokens(ids):
            raise self._error()
        self._advance()

    def _advance(self) -> None:
        """Find what is forced; if nothing is, let the next mask be computed."""
        compiled = self._compiled
        self._filled = False
        self._forced = [] if compiled.is_stopped() else compiled.compute_ff_tokens()
        self._accepting = compiled.is_accepting()
        if compiled.is_error():
            raise self._error()
        self._finished = compiled.is_stopped()
        if not self._forced and not self._finished:
            self._ahead = self._executor.submit(self._fill)

    def _wait(self) -> None:
        """Let the other thread finish: two cannot use llguidance's state at once."""
        if self._ahead is not None:
            self.mask()

    def _fill(self) -> None:
        """Compute the mask."""
        import numpy as np

        self._compiled.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if self._compiled.is_error():
            raise self._error()
        np.bitwise_and(self._bits, self._usable, out=self._bits)
        if self._accepting:
            np.bitwise_or(self._bits, self._ends, out=self._bits)
        elif not self._bits.any():
            raise self._hopeless()
        self._filled = True

    def _hopeless(self) -> ParameterError:
        return ParameterError(
            f"nothing that a model can write matches the {self._name} here; allowed: one that"
            " some text matches"
        )

    def _error(self) -> ParameterError | UnsupportedError:
        reason = reason_of(self._compiled.get_error())
        if reason.startswith("NoExtension"):
            return self._hopeless()
        if "doesn't satisfy the grammar" in reason:
            return ParameterError(
                f"the tokens do not fit the {self._name} here; allowed: those of its masks"
            )
        return UnsupportedError(
            f"the {self._name} costs too much after {self._tokens} tokens of the answer: {reason}",
            hint="take a simpler one: fewer alternatives, no repetition within repetition",
        )


def reason_of(message: str) -> str:
    """Return the gist of what llguidance says, on one line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or ["no reason given"])[0][:300]
