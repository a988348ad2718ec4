"""A checkpoint's byte-level BPE: text to ids, ids to text, the bytes behind each id.

Runs on the `tokenizers` library; built from a tokenizer.json, or from the arrays of a GGUF file.
The ids equal those of transformers. Two recognisers share one vocabulary: one that reads the
literals of added tokens (`<|im_end|>`, `<tool_call>`) as those tokens, one to which they are text.

Decoding is ours: each id stands for fixed bytes, so a text is the bytes of its ids, joined and read
as UTF-8 with U+FFFD for what is not. Knows nothing of templates, messages or sampling.
"""

from __future__ import annotations

import codecs
import functools
import gc
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from qwick.errors import FormatError, ParameterError, UnsupportedError, shown

if TYPE_CHECKING:
    import tokenizers

    from qwick.formats.checkpoint import TokenizerData

__all__ = ["TEMPLATE_TAGS", "Detokenizer", "Tokenizer"]

# Token types of GGUF (gguf.TokenType).
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5

# How text is cut into words before BPE, by GGUF's `tokenizer.ggml.pre`. From transformers
# models/qwen2/tokenization_qwen2.py and models/qwen3_5/tokenization_qwen3_5.py.
_SPLITS: Mapping[str, str] = {
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen35": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}

# Tags that chat templates read in messages and models write in answers: never control tokens, even
# where a tokenizer lists them as special.
TEMPLATE_TAGS = frozenset(
    {"<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"}
)
_CONTROL_LITERAL = re.compile(r"<\|.*\|>", re.DOTALL)


class Tokenizer:
    """Text and ids of one checkpoint; threads may share one.

    n_tokens      ids run from 0 to n_tokens - 1; a model's logits may be wider (padding)
    control_ids   tokens that steer a conversation: special ones and every `<|...|>`
    added_ids     control_ids and the tags that are one token, such as `<tool_call>`
    eos_id, bos_id, pad_id   as the checkpoint names them, or None
    """

    def __init__(
        self,
        parsing: tokenizers.Tokenizer,
        n_tokens: int,
        holes: frozenset[int],
        data: TokenizerData,
    ) -> None:
        """Wrap a built tokenizer (use `from_data`); `holes`: ids below n_tokens without token."""
        from tokenizers import Tokenizer as Backend

        added = parsing.get_added_tokens_decoder()
        self._parsing = parsing
        self._plain = Backend(parsing.model)  # shares the vocabulary, knows no added token
        self._plain.normalizer = parsing.normalizer
        self._plain.pre_tokenizer = parsing.pre_tokenizer
        self._holes = holes
        self.n_tokens = n_tokens
        self._literals = {id: token.content for id, token in added.items()}
        self.added_ids = frozenset(self._literals)
        self.control_ids = frozenset(
            id
            for id, token in added.items()
            if token.content not in TEMPLATE_TAGS
            and (token.special or _CONTROL_LITERAL.fullmatch(token.content))
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
        if data.json is not None:
            parsing = _from_json(data.json)
            _add_missing(parsing, data.added_tokens)
            used = set(parsing.get_vocab().values())
            n_tokens = max(used, default=-1) + 1
            holes = frozenset(range(n_tokens)) - used
        elif data.tokens is not None and data.merges is not None:
            parsing, n_tokens, holes = _from_arrays(data)
        else:
            raise FormatError("the checkpoint carries no tokenizer")
        tokenizer = cls(parsing, n_tokens, holes, data)
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
        backend = self._parsing if parse_special else self._plain
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_with_spans(self, text: str) -> list[tuple[int, int, int]]:
        """Return (id, start, end) for the ids of `encode(text, parse_special=True)`.

        start and end count characters of `text`. They are exact for added tokens; of other tokens
        only that they lie in order between the added ones may be relied upon.
        """
        check_text(text, "the text")
        encoding = self._parsing.encode(text, add_special_tokens=False)
        return [
            (id, start, end)
            for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    # Ids to text

    def decode(self, ids: Iterable[int], *, skip_control: bool = False) -> str:
        """Return the text of `ids`, U+FFFD for bytes that are no UTF-8, like transformers' decode.

        `skip_control` leaves the control tokens out. Raises ParameterError for an unknown id.
        """
        parts = ((id, self.token_bytes(id)) for id in ids)
        shown = [data for id, data in parts if not (skip_control and id in self.control_ids)]
        return b"".join(shown).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that an id stands for; raises ParameterError for an unknown id."""
        self._check_id(id)
        literal = self._literals.get(id)
        if literal is not None:
            return literal.encode("utf-8")
        return _unmap(self._parsing.id_to_token(id) or "")

    def stream(self, *, skip_control: bool = True) -> Detokenizer:
        """Return a fresh decoder for ids that arrive one by one."""
        return Detokenizer(self, skip_control=skip_control)

    # Single tokens

    def id_of(self, literal: str) -> int | None:
        """Return the id of an added token's literal (`<|im_end|>`), or None."""
        return self._ids_by_literal.get(literal)

    def literal_of(self, id: int) -> str | None:
        """Return the literal of an added token, or None for any other id."""
        return self._literals.get(id)

    def stop_ids(self, literals: Iterable[str]) -> tuple[int, ...]:
        """Return the ids of those stop literals that this vocabulary has, and the eos id, in order.

        Literals come from a family's table, and not every vocabulary of a family has them all.
        """
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

    def _check_id(self, id: int) -> None:
        """Raise ParameterError for anything but a whole number that is a token's id."""
        if isinstance(id, bool) or not hasattr(id, "__index__"):  # NumPy's integers have it too
            raise ParameterError(f"the token id {shown(id)} is not a whole number")
        if not 0 <= id < self.n_tokens:
            raise ParameterError(f"the token id {shown(id)} is outside 0 to {self.n_tokens - 1}")
        if id in self._holes:
            raise ParameterError(f"the token id {id} is not in the vocabulary")


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


def _from_arrays(data: TokenizerData) -> tuple[tokenizers.Tokenizer, int, frozenset[int]]:
    """Build from GGUF's arrays: (tokenizer, n_tokens, ids below it that have no token).

    Ids at the end without a token (padding) do not count.

    The default checkpoint (151,665 tokens, 151,387 merges), one thread of a 2-core Xeon, tokenizers
    0.23, best of three: handing the arrays to the model class takes 0.23 s (the library's own maps
    0.2 s of it) and 60 MB; JSON for Tokenizer.from_str 0.33 s (0.50 s and 120 MB with paired
    merges); vocabulary and merges as files in memory 0.33 s. The garbage collector is paused
    because it would walk the fresh tuples again and again (0.02 s).
    """
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    tokens, merges, pre = data.tokens or (), data.merges or (), data.pre or "qwen2"
    types = data.token_types or [1] * len(tokens)
    if pre not in _SPLITS:
        raise UnsupportedError(
            f"the tokenizer's pre-tokenizer is {pre!r}", hint=f"known: {', '.join(_SPLITS)}"
        )
    if len(types) != len(tokens):
        raise FormatError(f"the tokenizer has {len(tokens)} tokens and {len(types)} token types")
    size = len(tokens)
    while size and types[size - 1] == _UNUSED:
        size -= 1
    vocabulary = dict(zip(tokens[:size], range(size), strict=True))
    for id, token in enumerate(tokens[:size]) if len(vocabulary) < size else ():
        if vocabulary[token] != id:
            raise FormatError(f"the tokenizer lists the token {token[:40]!r} twice")
    paused = gc.isenabled()
    gc.disable()
    try:
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
        model = models.BPE(vocab=vocabulary, merges=pairs)
    except Exception as error:  # the library's errors have no common class
        raise FormatError(f"the tokenizer's merges do not fit its tokens: {error}") from error
    finally:
        if paused:
            gc.enable()
    backend = Backend(model)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    for kind in (_CONTROL, _USER_DEFINED):
        backend.add_tokens(
            [
                AddedToken(tokens[id], normalized=False, special=kind == _CONTROL)
                for id in range(size)
                if types[id] == kind
            ]
        )
    return backend, size, frozenset(id for id in range(size) if types[id] == _UNUSED)


def _from_json(text: str) -> tokenizers.Tokenizer:
    """Build from the text of a tokenizer.json; its truncation and padding are switched off."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    try:
        backend = Backend.from_str(text)
    except Exception as error:  # the library's errors have no common class
        raise FormatError(f"tokenizer.json cannot be read: {error}") from error
    model = backend.model
    if not isinstance(model, models.BPE) or not isinstance(backend.decoder, decoders.ByteLevel):
        raise UnsupportedError(
            f"tokenizer.json holds a {type(model).__name__} model with the decoder"
            f" {type(backend.decoder).__name__}; only byte-level BPE is supported"
        )
    model.dropout = None
    backend.no_truncation()
    backend.no_padding()
    return backend


def _add_missing(
    backend: tokenizers.Tokenizer, added_tokens: Mapping[int, Mapping[str, Any]]
) -> None:
    """Add the tokens that only tokenizer_config.json names, and check that both files agree."""
    from tokenizers import AddedToken

    known = backend.get_added_tokens_decoder()
    for id, entry in sorted(added_tokens.items()):
        literal = entry.get("content")
        if not isinstance(literal, str) or not literal:
            raise FormatError(f"tokenizer_config.json: the added token {id} has no content")
        if id in known and known[id].content == literal:
            continue
        flags = {
            key: bool(entry.get(key, False))
            for key in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        backend.add_tokens([AddedToken(literal, **flags)])
        if backend.token_to_id(literal) != id:
            raise FormatError(
                f"tokenizer_config.json gives {literal!r} the id {id}, tokenizer.json the id"
                f" {backend.token_to_id(literal)}"
            )
