"""Which tokens a text is made of: one recogniser for GGUF's arrays, one for a tokenizer.json.

Arrays: the literals of added tokens are cut out, the rest is normalised and cut into words by the
`tokenizers` library, and the words become ids in csrc/bpe.cpp. A tokenizer.json may ask for more
than that, so the library obeys it as a whole. Knows nothing of control tokens or of ids to text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from qwick.errors import FormatError, QwickError, UnsupportedError
from qwick.formats.strings import table_of

if TYPE_CHECKING:
    import tokenizers

    from qwick.formats.checkpoint import TokenizerData
    from qwick.native import ops

__all__ = ["Added", "Recogniser", "recogniser_of", "surely_longer"]

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

# Where words of either kind surely end: behind a letter or a digit, before what is neither and
# ASCII or a full-width mark; between digits, each of which is a word; before what begins a line.
# Nothing is composed across it.
_BORDER = re.compile(
    r"(?<=[^\W_])(?=[\x00-/:-@\[-`{-~\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])"
    r"|(?<=[0-9])(?=[0-9A-Za-z])|(?<=\n)(?=\S)"
)
BLOCK = 1 << 14  # characters, at least, that are cut into words with the interpreter held

MAX_HOLES = 1 << 16  # a stray id shall not cost memory; Qwen's vocabularies have none
MAX_ADDED = 1 << 14  # their literals become one regular expression; Qwen has a few dozen

Span = tuple[int, int, int]  # id, first character, character after the last


class Added(NamedTuple):
    """An added token: what text becomes it, and whether the checkpoint calls it special."""

    literal: str
    special: bool


class Recogniser(Protocol):
    """Text to ids for one vocabulary; threads may share one.

    n_tokens: ids run from 0 to n_tokens - 1; `holes` are those among them without a token.
    """

    n_tokens: int
    holes: frozenset[int]
    added: Mapping[int, Added]

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Return the ids of valid Unicode; with `parse_special` literals are added tokens."""

    def spans(self, text: str) -> list[Span]:
        """Return the ids with `parse_special`; exact for added tokens, the others in order."""

    def token(self, id: int) -> str:
        """Return a token in the byte alphabet; "" for an id that has none."""


def surely_longer(texts: Iterable[str], most: int) -> bool:
    """Whether texts have more than `most` tokens, told without finding them; False: who knows.

    A literal of an added token holds up to four borders, and is one token.
    """
    enough = 4 * most + 1
    borders = itertools.chain.from_iterable(map(_BORDER.finditer, texts))
    return sum(1 for _ in itertools.islice(borders, enough)) == enough


def recogniser_of(data: TokenizerData) -> Recogniser:
    """Build from what a checkpoint says; raises UnsupportedError and FormatError."""
    if data.json is not None:
        return _Whole(data.json, data.added_tokens)
    if data.tokens is None or data.merges is None:
        raise FormatError("the checkpoint carries no tokenizer")
    return _Arrays(data.tokens, data.token_types, data.merges, data.pre or "qwen2")


class _Arrays:
    """From GGUF's arrays. Ids at the end without a token (padding) do not count.

    The default checkpoint (151,665 tokens, 151,387 merges), one thread of a 2-core Xeon: decoding
    the strings and handing them to the library's own model takes 0.35 s of CPU time and 87 MB, with
    the interpreter held; this takes 0.07 s and 10 MB, 0.05 s of it with the interpreter free.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        types: Sequence[int] | None,
        merges: Sequence[str],
        pre: str,
    ) -> None:
        from tokenizers import Regex, normalizers, pre_tokenizers

        if pre not in _SPLITS:
            raise UnsupportedError(
                f"the tokenizer's pre-tokenizer is {pre!r}", hint=f"known: {', '.join(_SPLITS)}"
            )
        types = types or [1] * len(tokens)
        if len(types) != len(tokens):
            raise FormatError(
                f"the tokenizer has {len(tokens)} tokens and {len(types)} token types"
            )
        size = len(tokens)
        while size and types[size - 1] == _UNUSED:
            size -= 1
        self._bpe = _bpe(tokens, size, merges)
        self._normalise = normalizers.NFC().normalize_str
        self._cut = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ).pre_tokenize_str
        kinds = {id: kind for id, kind in enumerate(types[:size]) if kind != 1}
        self.n_tokens = size
        self.holes = frozenset(id for id, kind in kinds.items() if kind == _UNUSED)
        self.added: Mapping[int, Added] = {
            id: Added(tokens[id], kind == _CONTROL)
            for id, kind in kinds.items()
            if kind in (_CONTROL, _USER_DEFINED) and tokens[id]
        }
        if len(self.added) > MAX_ADDED:
            raise FormatError(
                f"the tokenizer has {len(self.added)} control and user-defined tokens; the limit is"
                f" {MAX_ADDED}"
            )
        self._ids = {added.literal: id for id, added in self.added.items()}
        # Of literals that begin alike the longest counts.
        longest = sorted(self._ids, key=len, reverse=True)
        self._literals = re.compile("|".join(map(re.escape, longest)) or r"(?!)")

    def encode(self, text: str, parse_special: bool) -> list[int]:
        if not parse_special:
            return self._plain(text)
        return [id for id, _, _ in self.spans(text)]

    def spans(self, text: str) -> list[Span]:
        spans: list[Span] = []
        at = 0
        for match in self._literals.finditer(text):
            start, end = match.span()
            spans += [(id, at, start) for id in self._plain(text[at:start])]
            spans.append((self._ids[match[0]], start, end))
            at = end
        return spans + [(id, at, len(text)) for id in self._plain(text[at:])]

    def token(self, id: int) -> str:
        return self._bpe.token(id)

    def _plain(self, text: str) -> list[int]:
        """Return the ids of text in which nothing is an added token.

        A long text goes block by block, so that other threads have their turn between two.
        """
        if len(text) <= BLOCK:
            return self._block(text)
        ids: list[int] = []
        start = 0
        while start < len(text):
            border = _BORDER.search(text, start + BLOCK)
            end = len(text) if border is None else border.start()
            ids += self._block(text[start:end])
            start = end
        return ids

    def _block(self, text: str) -> list[int]:
        if not text.isascii():
            text = self._normalise(text)
        # In the byte alphabet no word holds a blank.
        return self._bpe.encode(" ".join([word for word, _ in self._cut(text)]))


def _bpe(tokens: Sequence[str], size: int, merges: Sequence[str]) -> ops.Bpe:
    from qwick.native import ops

    try:
        return ops.Bpe(*table_of(tokens, size), *table_of(merges))
    except ValueError as error:
        for strings in (tokens, merges):
            list(strings)  # says where in the file a string is no UTF-8
        raise FormatError(f"the tokenizer is damaged: {error}") from None


class _Whole:
    """From the text of a tokenizer.json, and what tokenizer_config.json adds to it."""

    def __init__(self, text: str, added_tokens: Mapping[int, Mapping[str, Any]]) -> None:
        from tokenizers import Tokenizer as Backend

        with _library("tokenizer.json cannot be read"):
            parsing = _from_json(text)
            _add_missing(parsing, added_tokens)
            used = set(parsing.get_vocab().values())
            self._parsing = parsing
            self._plain = Backend(parsing.model)  # shares the vocabulary, knows no added token
            self._plain.normalizer = parsing.normalizer
            self._plain.pre_tokenizer = parsing.pre_tokenizer
        self.n_tokens = max(used, default=-1) + 1
        if self.n_tokens - len(used) > MAX_HOLES:
            raise FormatError(
                f"tokenizer.json has {len(used)} tokens, and ids up to {self.n_tokens - 1}; at most"
                f" {MAX_HOLES} ids may be without a token"
            )
        self.holes = frozenset(range(self.n_tokens)) - used
        added = parsing.get_added_tokens_decoder()
        self.added: Mapping[int, Added] = {
            id: Added(token.content, token.special) for id, token in added.items()
        }

    def encode(self, text: str, parse_special: bool) -> list[int]:
        backend = self._parsing if parse_special else self._plain
        with _library("tokenizer.json cannot be applied to this text"):
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    def spans(self, text: str) -> list[Span]:
        with _library("tokenizer.json cannot be applied to this text"):
            encoding = self._parsing.encode(text, add_special_tokens=False)
            return [
                (id, start, end)
                for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            ]

    def token(self, id: int) -> str:
        return self._parsing.id_to_token(id) or ""


@contextmanager
def _library(what: str) -> Iterator[None]:
    """Turn what the `tokenizers` library raises into FormatError.

    Its errors have no common class, and its panics (an id or a prefix that it did not expect) are
    no Exception and cannot be imported: pyo3 calls them PanicException.
    """
    try:
        yield
    except (QwickError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FormatError(f"{what}: {str(error)[:300]}") from error


def _from_json(text: str) -> tokenizers.Tokenizer:
    """Build from the text of a tokenizer.json; its truncation and padding are switched off."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    backend = Backend.from_str(text)
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
