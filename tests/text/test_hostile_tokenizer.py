"""Tokenizers of strangers: what makes the `tokenizers` library panic, or would take all memory.

Inputs that once failed, found by checks/fuzz_readers.py and by reading. A panic is no Exception, so
it would pass every `except` of a caller.
"""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from llm.small import CONTROL, TOKENIZER_DATA, byte_alphabet
from qwick.errors import FormatError
from qwick.formats.checkpoint import TokenizerData
from qwick.text.recognise import _library
from qwick.text.tokenizer import Tokenizer


def whole(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json of the byte alphabet, changed."""
    vocabulary = {token: id for id, token in enumerate([*byte_alphabet(), "he"])}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["h", "e"]]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    out: dict[str, Any] = {
        "added_tokens": [],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {**model, **changes.pop("model", {})},
    }
    return {**out, **changes}


def load(**changes: Any) -> Tokenizer:
    return Tokenizer.from_data(TokenizerData(json=json.dumps(whole(**changes))))


def test_the_sound_one() -> None:
    assert load().encode("he", parse_special=False) == [256]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"continuing_subword_prefix": "#####"}},
        {"model": {"merges": [["h", "é"]]}},
        {"model": {"vocab": {"a": 2**40}}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(" * 5000}}},
        {"model": {"vocab": {}}, "added_tokens": [[[[]]]]},
    ],
    ids=["prefix", "merge", "id", "charsmap", "regex", "added"],
)
def test_what_the_library_cannot_read(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"^tokenizer\.json cannot be read: "):
        load(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "(a+)+$"},
                "behavior": "Isolated",
                "invert": False,
            }
        },
    ],
    ids=["normalizer", "length", "regex"],
)
def test_what_the_library_cannot_apply(changes: dict[str, Any]) -> None:
    tokenizer = load(**changes)
    text = "a" * 40 + "b"
    for parse_special in (False, True):
        with pytest.raises(FormatError, match="cannot be applied to this text"):
            tokenizer.encode(text, parse_special=parse_special)
    with pytest.raises(FormatError, match="cannot be applied to this text"):
        tokenizer.encode_with_spans(text)


@pytest.mark.parametrize("id", [2**20, 2**32 - 1])
def test_a_stray_id_costs_no_memory(id: int) -> None:
    vocabulary = whole()["model"]["vocab"]
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=rf"258 tokens, and ids up to {id}; at most 65536"):
            load(model={"vocab": {**vocabulary, "stray": id}})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_some_ids_without_a_token() -> None:
    vocabulary = whole()["model"]["vocab"]
    assert load(model={"vocab": {**vocabulary, "stray": 1000}}).n_tokens == 1001


def test_too_many_literals_in_a_gguf_file() -> None:
    tokens = [*byte_alphabet(), *CONTROL, *(f"<{i}>" for i in range(20_000))]
    types = [1] * 256 + [3] * (len(tokens) - 256)
    data = TokenizerData(tokens=tokens, token_types=types, merges=[], pre="qwen2")
    with pytest.raises(FormatError, match="20005 control and user-defined tokens; the limit is"):
        Tokenizer.from_data(data)
    assert Tokenizer.from_data(TOKENIZER_DATA).added_ids


def test_what_is_no_error_of_the_library_passes() -> None:
    with pytest.raises(KeyboardInterrupt), _library("never said"):
        raise KeyboardInterrupt
