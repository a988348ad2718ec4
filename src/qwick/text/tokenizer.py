"""A checkpoint's byte-level BPE: text to ids, ids to text, the bytes behind each id.

The ids equal those of transformers; recognise.py finds them. The literals of added tokens
(`<|im_end|>`, `<tool_call>`) are read as those tokens, or as text like any other.

Decoding is ours: each id stands for fixed bytes, so a text is the bytes of its ids, joined and read
as UTF-8 with U+FFFD for what is not. Knows nothing of templates, messages or sampling.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Iterable, Sequence, Set
from typing import TYPE_CHECKING

from qwick.errors import FormatError, ParameterError, UnsupportedError
from qwick.text.recognise import Recogniser, recogniser_of
from qwick.values import check_kind, check_switch, refused, whole

if TYPE_CHECKING:
    from qwick.formats.checkpoint import TokenizerData

__all__ = ["TEMPLATE_TAGS", "Detokenizer", "Tokenizer"]

# Tags that chat templates read in messages and models write in answers: never control tokens, even
# where a tokenizer lists them as special.
TEMPLATE_TAGS = frozenset(
    {"<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"}
)
MAX_ID = 2**31 - 1
_CONTROL_LITERAL = re.compile(r"<\|.*\|>", re.DOTALL)


class Tokenizer:
    """Text and ids of one checkpoint; threads may share one.

    n_tokens      ids run from 0 to n_tokens - 1; a model's logits may be wider (padding)
    control_ids   tokens that steer a conversation: special ones and every `<|...|>`
    added_ids     control_ids and the tags that are one token, such as `<tool_call>`
    eos_id, bos_id, pad_id   as the checkpoint names them, or None
    """

    def __init__(self, recogniser: Recogniser, data: TokenizerData) -> None:
        """Wrap what recognises tokens; use `from_data`."""
        self._recogniser = recogniser
        self._holes = recogniser.holes
        self.n_tokens = recogniser.n_tokens
        self._literals = {id: token.literal for id, token in recogniser.added.items()}
        self.added_ids = frozenset(self._literals)
        self.control_ids = frozenset(
            id
            for id, token in recogniser.added.items()
            if token.literal not in TEMPLATE_TAGS
            and (token.special or _CONTROL_LITERAL.fullmatch(token.literal))
        )
        self.eos_id, self.bos_id, self.pad_id = data.eos_id, data.bos_id, data.pad_id

    @classmethod
    def from_data(cls, data: TokenizerData) -> Tokenizer:
        """Build from what a checkpoint says of its tokenizer.

        Raises UnsupportedError for a tokenizer of another kind than byte-level BPE, FormatError for
        one that is damaged.
        """
        if data.add_bos:
            raise UnsupportedError(
                "the checkpoint asks for a token before every text (add_bos_token), which no Qwen"
                " tokenizer does",
                hint="set add_bos_token to false in the checkpoint",
            )
        tokenizer = cls(recogniser_of(data), data)
        for name, id in (("eos", data.eos_id), ("bos", data.bos_id), ("pad", data.pad_id)):
            if id is not None and not 0 <= id < tokenizer.n_tokens:
                raise FormatError(
                    f"the tokenizer's {name} id is {id}; its ids end at {tokenizer.n_tokens - 1}"
                )
        return tokenizer

    # Text to ids

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the ids of `text`; nothing is put before or after it.

        With `parse_special` the literals of added tokens become those tokens, as transformers does;
        without, they are plain text like any other. Raises ParameterError for text that is not
        valid Unicode (a lone surrogate).
        """
        check_text(text, "the text")
        check_switch("parse_special", parse_special)
        return self._recogniser.encode(text, parse_special)

    def encode_with_spans(self, text: str) -> list[tuple[int, int, int]]:
        """Return (id, start, end) for the ids of `encode(text, parse_special=True)`.

        start and end count characters of `text`. They are exact for added tokens; of other tokens
        only that they lie in order between the added ones may be relied upon.
        """
        check_text(text, "the text")
        return self._recogniser.spans(text)

    # Ids to text

    def decode(self, ids: Iterable[int], *, skip_control: bool = False) -> str:
        """Return the text of `ids`, U+FFFD for bytes that are no UTF-8, like transformers' decode.

        `skip_control` leaves the control tokens out. Raises ParameterError for an unknown id.
        """
        check_switch("skip_control", skip_control)
        listed = isinstance(ids, (Sequence, Set)) or getattr(ids, "ndim", 0) == 1
        if not listed or isinstance(ids, (str, bytes)):
            raise refused("ids", ids, "a list of token ids")
        parts = ((id, self.token_bytes(id)) for id in ids)
        shown = [data for id, data in parts if not (skip_control and id in self.control_ids)]
        return b"".join(shown).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that an id stands for: none for a gap in the vocabulary.

        Raises ParameterError for an id beyond it. (A model may draw a gap; so may transformers'.)
        """
        if type(id) is not int or not 0 <= id < self.n_tokens:  # NumPy's integers are welcome
            whole("the token id", id, 0, self.n_tokens - 1)
        if id in self._holes:
            return b""
        literal = self._literals.get(id)
        if literal is not None:
            return literal.encode("utf-8")
        return _unmap(self._recogniser.token(id))

    def stream(self, *, skip_control: bool = True) -> Detokenizer:
        """Return a fresh decoder for ids that arrive one by one."""
        check_switch("skip_control", skip_control)
        return Detokenizer(self, skip_control=skip_control)

    # Single tokens

    def id_of(self, literal: str) -> int | None:
        """Return the id of an added token's literal (`<|im_end|>`), or None."""
        check_kind("literal", literal, str, "a str")
        return self._ids_by_literal.get(literal)

    def literal_of(self, id: int) -> str | None:
        """Return the literal of an added token, or None for any other id."""
        id = whole("id", id, -MAX_ID, MAX_ID)
        return self._literals.get(id)

    def stop_ids(self, literals: Iterable[str]) -> tuple[int, ...]:
        """Return the ids of those stop literals that this vocabulary has, and the eos id, in order.

        Literals come from a family's table, and not every vocabulary of a family has them all.
        """
        if not isinstance(literals, (list, tuple, set, frozenset)):
            raise refused("literals", literals, "a list of literals")
        found = [self.id_of(literal) for literal in literals]
        found.append(self.eos_id)
        return tuple(dict.fromkeys(id for id in found if id is not None))

    @functools.cached_property
    def control_literals(self) -> tuple[str, ...]:
        """The literals of control_ids, in the order of their ids."""
        return tuple(self._literals[id] for id in sorted(self.control_ids) if self._literals[id])

    @functools.cached_property
    def _ids_by_literal(self) -> dict[str, int]:
        return {literal: id for id, literal in self._literals.items()}


class Detokenizer:
    """Text of ids that arrive one by one: whole characters only, and no byte is ever lost.

    Whatever the ids, the pushes and the flush, joined, are `decode` of all of them.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_control: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.control_ids if skip_control else frozenset[int]()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """Return the characters that `id` completes; raises ParameterError for an unknown id."""
        data = self._tokenizer.token_bytes(id)
        return "" if id in self._skip else self._decoder.decode(data)

    @property
    def pending(self) -> bool:
        """Whether bytes wait for the rest of their character."""
        return bool(self._decoder.getstate()[0])

    def flush(self) -> str:
        """Return U+FFFD for bytes still waiting to become a character, and start afresh."""
        rest = self._decoder.decode(b"", True)
        self._decoder.reset()
        return rest


def check_text(text: object, what: str) -> str:
    """Return `text` if it is a str of valid Unicode, else raise ParameterError naming `what`.

    A lone surrogate (half of a UTF-16 pair; Python makes them from undecodable bytes) has no UTF-8
    form, so no token stands for it; replacing it in silence would change the caller's text.
    """
    if not isinstance(text, str):
        raise ParameterError(f"{what} is of type {type(text).__name__}; it must be a str")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ParameterError(
            f"{what} holds a lone surrogate, U+{ord(text[error.start]):04X}, at character"
            f" {error.start}, which no encoding of Unicode can carry",
            hint="decode the bytes it came from with errors='replace'",
        ) from None
    return text


# The alphabet of byte-level BPE (GPT-2's encoder.py, bytes_to_unicode): printable Latin-1 stands
# for itself, the other 68 bytes for the characters from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_OF = {**{byte: byte for byte in _PRINTABLE}, **{256 + i: b for i, b in enumerate(_OTHERS)}}


def _unmap(token: str) -> bytes:
    """Return the bytes behind a token of the byte alphabet; a token outside it is its own UTF-8."""
    try:
        return bytes(_BYTE_OF[ord(character)] for character in token)
    except KeyError:
        return token.encode("utf-8")
