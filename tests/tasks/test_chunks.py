"""Documents cut with the real tokenizer: nothing lost or too long, borders where they belong."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from llm.small import TOKENIZER
from qwick.errors import ParameterError
from qwick.llm.texts import Texts
from qwick.tasks import Source, split_document
from qwick.tasks.chunks import Places, _sentences

WORDS = [
    "the",
    "a",
    "lighthouse",
    "Ellis",
    "über",
    "Größe",
    "灯台",
    "1874",
    "(1)",
    "e.g.",
    "é",
    "🙂",
]


def document(chance: random.Random, sentences: int) -> str:
    """Prose with paragraphs, pages, lines, scripts without blanks and a word without end."""
    parts = []
    for i in range(sentences):
        words = " ".join(chance.choice(WORDS) for _ in range(chance.randint(1, 25)))
        ends = [". ", "! ", "?\n", ".\n\n", ".\n \n", "。", "\n", ", ", ".\f", "”. "]
        parts.append(words.capitalize() + chance.choice(ends))
        if i == sentences // 2:
            parts.append("x1" * 300 + " " + "灯台守" * 120)
    return "".join(parts)


def check(text: str, chunks: list[Source], texts: Texts, size: int) -> None:
    covered = 0
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert len(texts.tokenizer.encode(chunk.text, parse_special=False)) <= size
        assert not text[covered : chunk.start].strip(), "characters are lost"
        assert chunk.end > covered, "a chunk adds nothing"
        covered = chunk.end
    assert not text[covered:].strip()


@pytest.mark.model
@pytest.mark.parametrize("size", [32, 100, 700])
def test_nothing_is_lost_and_nothing_too_long(texts: Texts, size: int) -> None:
    for seed in range(3):
        text = document(random.Random(seed), 60)
        for overlap in (0, size // 3):
            chunks = split_document(text, texts.tokenizer, size=size, overlap=overlap)
            check(text, chunks, texts, size)
            for before, after in itertools.pairwise(chunks):
                shared = text[after.start : before.end]
                most = 0 if not overlap else overlap + 2
                assert len(texts.tokenizer.encode(shared, parse_special=False)) <= most


@pytest.mark.model
def test_chunks_end_where_paragraphs_or_sentences_do(texts: Texts) -> None:
    paragraphs = [f"This is paragraph {i}. It has two sentences." for i in range(40)]
    chunks = split_document("\n\n".join(paragraphs), texts.tokenizer, size=64, overlap=0)
    assert len(chunks) > 5
    assert {chunk.text.strip()[-10:] for chunk in chunks} == {" sentences"[-9:] + "."}
    long = " ".join(f"Sentence number {i} is here." for i in range(60))
    for chunk in split_document(long, texts.tokenizer, size=64, overlap=16):
        assert chunk.text.strip().startswith("Sentence")
        assert chunk.text.strip().endswith("here.")
    words = " ".join(f"word{i}" for i in range(300))
    for chunk in split_document(words, texts.tokenizer, size=64, overlap=0):
        assert set(chunk.text.split()) <= set(words.split()), "a word is cut"


@pytest.mark.model
def test_neighbours_share_whole_sentences(texts: Texts) -> None:
    text = " ".join(f"Sentence number {i} is here." for i in range(60))
    chunks = split_document(text, texts.tokenizer, size=64, overlap=20)
    shared = [text[b.start : a.end] for a, b in itertools.pairwise(chunks)]
    assert all(part.startswith("Sentence") and part.strip().endswith("here.") for part in shared)


def test_places_are_lines_and_pages() -> None:
    places = Places("one\ntwo\n\n\fthree\nfour\n\ffive")
    text = "one\ntwo\n\n\fthree\nfour\n\ffive"
    for word, line, page in (("one", 1, 1), ("two", 2, 1), ("three", 4, 2), ("five", 6, 3)):
        start = text.index(word)
        source = places.source(start, start + len(word))
        assert (source.first_line, source.last_line, source.page) == (line, line, page), word
    # blanks around it do not count
    source = places.source(3, text.index("four"))
    assert (source.first_line, source.last_line, source.page) == (2, 4, 1)
    assert Places("one\ntwo").source(0, 7).page is None
    assert Places("one\ntwo").source(0, 7).last_line == 2


@pytest.mark.parametrize("text", ["", " ", "\n\n\f\n", "\u3000"])
def test_of_nothing_there_is_nothing(text: str) -> None:
    assert split_document(text, TOKENIZER) == []


def test_what_cannot_be_is_refused() -> None:
    for changes in ({"size": 31}, {"size": 64, "overlap": 32}, {"overlap": -1}):
        with pytest.raises(ParameterError, match="allowed"):
            split_document("x", TOKENIZER, **changes)  # type: ignore[arg-type]


def test_a_long_run_of_marks_takes_no_more_than_its_length() -> None:
    begun = time.process_time()
    for run in ("." * 100_000, "?!" * 50_000, "…" * 100_000 + ")" * 100_000):
        assert list(_sentences(run + "x")) == [(0, len(run) + 1)]
        end = len(run) + 2
        assert list(_sentences(f"a{run} b")) == [(0, end), (end, end + 1)]
    assert time.process_time() - begun < 5  # of which the square of their lengths takes minutes
