"""A document cut into passages and chunks: at paragraphs and sentences, counted in real tokens.

Every character that is no blank is in some chunk, and neighbours may overlap. Places
are characters of the document, so a source can be looked up in it. Knows no model and no prompt.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from qwick.text.tokenizer import Tokenizer, check_text
from qwick.values import check_kind, whole

LEAST_CHUNK, MOST_CHUNK = 32, 1 << 20  # tokens
# The end of a sentence, a paragraph or a page, with the blanks behind it. A run of marks is looked
# at from its beginning alone: from each of its marks, a long one would take the square of its time.
_END = re.compile(
    r"""(?:(?<![.!?…])[.!?…]+["'”’»)\]]*(?=\s) | [。！？]+["”’」』）】]*)\s*
    | \n[ \t]*\n\s* | \f\s*""",
    re.VERBOSE,
)
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n|\f")


@dataclass(frozen=True, slots=True)
class Source:
    """A place in a document: `text` is document[start:end].

    first_line, last_line: counted from 1; the blanks at its end do not count. page: where the
    document has form feeds between its pages, as pdftotext writes them; else None.
    """

    start: int
    end: int
    first_line: int
    last_line: int
    page: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters start to end, so many tokens; ends: whether a paragraph or page ends there."""

    start: int
    end: int
    tokens: int
    ends: bool


class Places:
    """Tells where in a document characters are."""

    def __init__(self, document: str) -> None:
        self._document = document
        self._lines = [match.start() for match in re.finditer("\n", document)]
        self._pages = [match.start() for match in re.finditer("\f", document)]

    def source(self, start: int, end: int) -> Source:
        """Return the place of document[start:end]."""
        text = self._document[start:end]
        first = start + len(text) - len(text.lstrip())
        last = max(end - (len(text) - len(text.rstrip())), first)
        return Source(
            start,
            end,
            bisect.bisect_left(self._lines, first) + 1,
            bisect.bisect_left(self._lines, last) + 1,
            bisect.bisect_left(self._pages, first) + 1 if self._pages else None,
            text,
        )


def split_document(
    document: str, tokenizer: Tokenizer, *, size: int = 1024, overlap: int = 64
) -> list[Source]:
    """Return the chunks of a document, each of at most `size` tokens (32 to 2^20).

    They end at paragraphs where there are some, else at sentences, lines or words; only a word
    longer than a chunk is cut. A chunk begins with at most `overlap` tokens (less than half of
    `size`) of the one before, in whole sentences. Blank chunks are left out.
    """
    check_text(document, "document")
    check_kind("tokenizer", tokenizer, Tokenizer, "a Tokenizer")
    size = whole("size", size, LEAST_CHUNK, MOST_CHUNK)
    overlap = whole("overlap", overlap, 0, (size - 1) // 2)
    places = Places(document)
    passages = passages_of(document, tokenizer, (size - overlap) // 2)
    count = counter(document, passages, tokenizer)
    return [
        places.source(passages[i].start, passages[j - 1].end)
        for i, j in grouped(passages, size, overlap, count=count)
    ]


def passages_of(document: str, tokenizer: Tokenizer, most: int) -> list[Passage]:
    """Return the sentences of a document that are not blank, in pieces of at most `most` tokens."""
    found: list[Passage] = []
    for start, end in _sentences(document):
        for begin, finish in _fitting(document, start, end, tokenizer, most):
            text = document[begin:finish]
            if text.strip():
                count = _count(tokenizer, text)
                found.append(Passage(begin, finish, count, bool(_PARAGRAPH.search(text))))
    return found


def merged(passages: Sequence[Passage], most: int) -> list[Passage]:
    """Return passages joined while they have no more than `most` tokens, within paragraphs."""
    found: list[Passage] = []
    for passage in passages:
        last = found[-1] if found else None
        if last is None or last.ends or last.tokens + passage.tokens > most:
            found.append(passage)
        else:
            tokens = last.tokens + passage.tokens
            found[-1] = Passage(last.start, passage.end, tokens, passage.ends)
    return found


def counter(
    document: str, passages: Sequence[Passage], tokenizer: Tokenizer
) -> Callable[[int, int], int]:
    """Return what counts the tokens of a range of passages as one text.

    They may be a few more than those of the passages, as blanks between words go to either side.
    """
    return lambda i, j: _count(tokenizer, document[passages[i].start : passages[j - 1].end])


def grouped(
    passages: Sequence[Passage],
    size: int,
    overlap: int = 0,
    each: int = 0,
    count: Callable[[int, int], int] | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield chunks as ranges of passages (from, to): at most `size` tokens, `each` more a passage.

    One that would have to end within a paragraph ends before it, if that leaves two thirds. count:
    what counts exactly; None: the sum will do.
    """
    costs = [passage.tokens + each for passage in passages]
    start = before = 0  # before: where the last chunk ended
    while start < len(costs):
        end, total = start, 0
        while end < len(costs) and (total + costs[end] <= size or end == start):
            total += costs[end]
            end += 1
        if end < len(costs):
            least = max(start + 2 * (end - start) // 3, before, start)
            borders = (i for i in range(end, least, -1) if passages[i - 1].ends)
            end = next(borders, end)
        while count is not None and end - start > 1 and count(start, end) > size:
            if end - 1 > before:
                end -= 1
            else:
                start += 1
        yield start, end
        before = end
        if end == len(costs):
            return
        next_start, shared = end, 0
        while next_start - 1 > start and shared + costs[next_start - 1] <= overlap:
            next_start -= 1
            shared += costs[next_start]
        start = next_start


def _sentences(document: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in _END.finditer(document):
        if match.end() > start:
            yield start, match.end()
            start = match.end()
    if start < len(document):
        yield start, len(document)


def _fitting(
    document: str, start: int, end: int, tokenizer: Tokenizer, most: int
) -> Iterator[tuple[int, int]]:
    """Yield a sentence in pieces of at most `most` tokens, halved where a line or a word ends."""
    todo = [(start, end)]
    while todo:
        start, end = todo.pop()
        if end - start <= 1 or _count(tokenizer, document[start:end]) <= most:
            yield start, end
            continue
        middle = _border(document, start, end)
        todo += [(middle, end), (start, middle)]


def _border(document: str, start: int, end: int) -> int:
    """Return where to cut: behind the line end nearest the middle, else a blank, else anywhere."""
    middle = (start + end) // 2
    for sign in ("\n", " ", "\t"):
        left = document.rfind(sign, start, middle) + 1
        right = document.find(sign, middle, end - 1) + 1
        cuts = [cut for cut in (left, right) if start < cut < end]
        if cuts:
            return min(cuts, key=lambda cut: abs(cut - middle))
    cut = middle
    while cut < end - 1 and unicodedata.combining(document[cut]):
        cut += 1
    return cut


def _count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, parse_special=False))
