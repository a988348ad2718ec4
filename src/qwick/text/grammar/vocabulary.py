"""A tokenizer as llguidance sees it, and grammars compiled against it.

Control tokens and gaps have no bytes here, so no grammar can reach them; what a grammar's end means
in tokens is decided per answer. Tags such as `<tool_call>` are text, which their one token spells.
Knows nothing of sampling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

from qwick.errors import ParameterError
from qwick.text.grammar.grammar import Grammar, Kind
from qwick.text.grammar.matcher import Matcher, reason_of
from qwick.values import check_kind, whole

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, TokenizerWrapper

    from qwick.text.tokenizer import Tokenizer

__all__ = ["Vocabulary"]

# What a grammar may cost. 50,000 of the initial fuel take a millisecond, 14,000 of a step's.
_INITIAL_FUEL, _STEP_FUEL, _SYMBOLS = 500_000, 100_000, 200_000
# Items in a row, items for one mask, states of the automaton. Schemas make grammars with many
# alternatives that are hardly ambiguous, and long strings. What a caller writes may be as ambiguous
# as it likes, and then time grows with the square of a row.
_OF_SCHEMAS = (2000, 20_000, 100_000)
_OF_CALLERS = (600, 5000, 30_000)
_PROBED = 3  # tokens that `check` takes, because some limits are met behind the first only


class Vocabulary:
    """What grammars need of one tokenizer, built once (0.9 s, 70 MB for 150,000 tokens).

    Threads may share one. A thread of its own computes masks ahead; it ends with the vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build from a tokenizer."""
        import numpy as np
        from llguidance import LLTokenizer

        self.n_tokens = tokenizer.n_tokens
        tokens = [tokenizer.token_bytes(id) for id in range(self.n_tokens)]
        for id in tokenizer.control_ids:
            tokens[id] = b""
        usable = np.array([bool(data) for data in tokens])
        self._usable = np.packbits(usable, bitorder="little")
        encoder = _Encoder(tokenizer, tokens)
        self._tokenizer_of_grammars = LLTokenizer(cast("TokenizerWrapper", encoder))
        encoder.tokens = []  # copied by now
        self._limits_of_schemas = _limits(*_OF_SCHEMAS)
        self._limits_of_callers = _limits(*_OF_CALLERS)
        self._thread = ThreadPoolExecutor(1, "qwick-grammar")

    def matcher(self, grammar: Grammar, end_ids: Collection[int]) -> Matcher:
        """Return the state of an answer that has not begun.

        end_ids: ids that may end the answer once it is complete, and only then. Raises
        ParameterError for a grammar that cannot be compiled.
        """
        import numpy as np

        check_kind("grammar", grammar, Grammar, "a Grammar")
        check_kind("end_ids", end_ids, (list, tuple, set, frozenset), "a list of token ids")
        ends = np.zeros_like(self._usable)
        for id in end_ids:
            id = whole("end_ids", id, 0, self.n_tokens - 1)
            ends[id // 8] |= 1 << (id % 8)
        return Matcher(
            self._compile(grammar), grammar.name, self._usable & ~ends, ends, self._thread
        )

    def check(self, grammar: Grammar) -> None:
        """Raise ParameterError, with the reason, for a grammar that cannot be compiled or begun."""
        matcher = self.matcher(grammar, ())
        for _ in range(_PROBED):
            if matcher.finished:
                return
            bits = matcher.mask()
            if not bits.any():  # nothing but the end
                return
            byte = int(bits.argmax())
            matcher.accept(8 * byte + (int(bits[byte]) & -int(bits[byte])).bit_length() - 1)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        from llguidance import LLMatcher

        limits = self._limits_of_schemas if grammar.generated else self._limits_of_callers
        text = _source_of(grammar)
        matcher = LLMatcher(self._tokenizer_of_grammars, text, log_level=0, limits=limits)
        reason = matcher.get_error() or "; ".join(matcher.get_grammar_warnings())
        if reason.startswith("oneOf constraints are not supported"):
            reason = "the options of a oneOf may fit the same values; write it as anyOf"
        if reason:
            raise ParameterError(
                f"{grammar.name} cannot be compiled: {reason_of(reason)}; allowed: a simpler one"
            )
        return matcher


def _source_of(grammar: Grammar) -> str:
    """Return a grammar as llguidance reads it: a list of grammars, of which the first holds."""
    from llguidance import regex_to_lark

    if grammar.kind is Kind.JSON_SCHEMA:
        answer = f'"json_schema": {grammar.text}'
    else:
        lark = grammar.text
        if grammar.kind is Kind.REGEX:
            lark = f"start: /{regex_to_lark(lark, 'd')}/"
        answer = f'"lark_grammar": {json.dumps(lark)}'
    if not grammar.calls:
        return f'{{"grammars": [{{{answer}}}]}}'
    parts = [
        '{"lark_grammar": "start: @calls | @answer"}',
        f'{{"name": "calls", "lark_grammar": {json.dumps(grammar.calls)}}}',
        f'{{"name": "answer", {answer}}}',
    ]
    return f'{{"grammars": [{", ".join(parts)}]}}'


def _limits(items_in_row: int, items: int, states: int) -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=items_in_row,
        initial_lexer_fuel=_INITIAL_FUEL,
        step_lexer_fuel=_STEP_FUEL,
        step_max_items=items,
        max_lexer_states=states,
        max_grammar_size=_SYMBOLS,
        verbose_errors=False,  # or a message holds the answer and the grammar
    )


class _Encoder:
    """What llguidance asks of a tokenizer: the bytes of each id, and the ids of a forced text."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, tokens: list[bytes]) -> None:
        self._tokenizer = tokenizer
        # An id of our own stands for the end. Its name holds a space, which no grammar can write.
        self.eos_token_id = len(tokens)
        self.special_token_ids = [self.eos_token_id]
        self.tokens = [*tokens, b"<the end>"]
        tags = tokenizer.added_ids - tokenizer.control_ids
        self._tags = {tokenizer.literal_of(id) or "": id for id in tags}
        self._cut = re.compile(f"({'|'.join(map(re.escape, self._tags))})") if tags else None

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text: tags are one token each, control tokens stay text."""
        ids = []
        for part in self._cut.split(text) if self._cut else [text]:
            if part in self._tags:
                ids.append(self._tags[part])
            else:
                ids += self._tokenizer.encode(part, parse_special=False)
        return ids
