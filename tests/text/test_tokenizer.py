"""Ids equal to transformers', text back byte for byte, errors for what is no text and no id."""

from __future__ import annotations

import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwick.errors import FormatError, ParameterError, UnsupportedError
from qwick.formats.checkpoint import TokenizerData
from qwick.text import recognise
from qwick.text.tokenizer import Detokenizer, Tokenizer

pytestmark = pytest.mark.model

COUNT = 151_665  # real ids of the Qwen2.5 vocabulary; the file pads it to 151,936
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
]
TEXTS = [
    "",
    " ",
    "\n",
    "Hello, world!",
    "def f(x):\n\treturn  x ** 2  # comment\r\n\r\n\n    if not x:\n        pass\n",
    "#include <vector>\nint main() { std::vector<int> v{1,2,3}; return v[0] << 2 || !v.empty(); }",
    "SELECT * FROM t WHERE a<>'b' AND c|>d; -- <| not a token |>",
    "我们今天去北京。价格是３．１４元，「引用」——……",
    "日本語のテキスト、ひらがなとカタカナ。 한국어 텍스트",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈👍🏽 🇩🇪 ❤️",
    "e\u0301 e\u0301\u0323 a\u0308ffin \ufb01 Å \u212b \u1e9b\u0323 q\u0307\u0323",
    "\u0338=\u0338 \u0301\u0301\u0301",
    "हिन्दी में, ภาษาไทย, العربية، עברית, Ελληνικά, кириллица",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x85\xa0\u200b\u200d\ufeff\u2028\u2029",
    "I'm you're WE'LL it'S don't 'tis ''' 12345 1,234.56e-7",
    "   leading and trailing   ",
    "\t\t\n \n  \r\n\r \u3000\u00a0x",
    "\ue000\uf8ff\U000f0000\U0010fffd\ufffd\uffff",
    "a" * 3000,
    "x\n" * 500 + " " * 700,
    "[PAD151665] [UNK] <s> </s> <think> </think>",
    "<|im_end|",
    "|im_end|>",
    "<|im_end|>|>",
    "<<|im_end|>>",
    "<|IM_END|>",
    "<|im_end|>\u0338",
]
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60)
IDS = st.lists(st.integers(0, COUNT - 1), max_size=40)


def test_facts(tokenizer: Tokenizer) -> None:
    assert tokenizer.n_tokens == COUNT
    assert [tokenizer.id_of(literal) for literal in SPECIAL] == list(range(151_643, COUNT))
    assert tokenizer.added_ids == set(range(151_643, COUNT))
    assert tokenizer.added_ids - tokenizer.control_ids == {151_657, 151_658}
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (151_645, 151_643, 151_643)
    assert tokenizer.stop_ids(["<|im_end|>", "<|none|>", "<|endoftext|>"]) == (151_645, 151_643)
    assert tokenizer.id_of("the") is None
    assert tokenizer.literal_of(151_657) == "<tool_call>"
    assert tokenizer.literal_of(0) is None


@pytest.mark.parametrize("text", TEXTS + SPECIAL + [f"a{s}b {s}\n{s}" for s in SPECIAL], ids=ascii)
def test_ids_equal_transformers(tokenizer: Tokenizer, reference, text: str) -> None:
    assert tokenizer.encode(text, parse_special=True) == reference.encode(text)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(SPECIAL) | WORDS | st.sampled_from(TEXTS), max_size=6).map("".join))
def test_ids_equal_transformers_for_anything(tokenizer: Tokenizer, reference, text: str) -> None:
    assert tokenizer.encode(text, parse_special=True) == reference.encode(text)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=80))
def test_random_bytes(tokenizer: Tokenizer, reference, data: bytes) -> None:
    """Bytes that are no UTF-8 reach a tokenizer as U+FFFD, or are refused as lone surrogates."""
    text = data.decode("utf-8", "replace")
    assert tokenizer.encode(text, parse_special=True) == reference.encode(text)
    escaped = data.decode("utf-8", "surrogateescape")
    if escaped != text:
        with pytest.raises(ParameterError, match="lone surrogate"):
            tokenizer.encode(escaped, parse_special=True)


@pytest.mark.parametrize("literal", SPECIAL)
def test_plain_text_has_no_added_token(tokenizer: Tokenizer, literal: str) -> None:
    ids = tokenizer.encode(f"a{literal}b", parse_special=False)
    assert not tokenizer.added_ids.intersection(ids)
    assert tokenizer.decode(ids) == f"a{literal}b"


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from(SPECIAL) | WORDS | st.sampled_from(TEXTS), max_size=6).map("".join))
def test_blocks_of_a_long_text_change_nothing(tokenizer: Tokenizer, text: str) -> None:
    whole = tokenizer.encode(text, parse_special=True)
    with mock.patch.object(recognise, "BLOCK", 3):
        assert tokenizer.encode(text, parse_special=True) == whole


@settings(deadline=None, max_examples=200)
@given(WORDS | st.sampled_from(TEXTS))
def test_plain_equals_parsed_without_literals(tokenizer: Tokenizer, text: str) -> None:
    parsed = tokenizer.encode(text, parse_special=True)
    if not tokenizer.added_ids.intersection(parsed):
        assert tokenizer.encode(text, parse_special=False) == parsed


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(SPECIAL) | WORDS, max_size=5).map("".join), st.booleans())
def test_text_comes_back(tokenizer: Tokenizer, text: str, parse: bool) -> None:
    back = tokenizer.decode(tokenizer.encode(text, parse_special=parse))
    assert unicodedata.normalize("NFC", back) == unicodedata.normalize("NFC", text)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(SPECIAL) | WORDS, max_size=5).map("".join))
def test_spans(tokenizer: Tokenizer, text: str) -> None:
    spans = tokenizer.encode_with_spans(text)
    assert [id for id, _, _ in spans] == tokenizer.encode(text, parse_special=True)
    added = [text[start:end] for id, start, end in spans if id in tokenizer.added_ids]
    literals = [tokenizer.literal_of(id) for id, _, _ in spans if id in tokenizer.added_ids]
    assert added == literals


@settings(deadline=None, max_examples=300)
@given(IDS)
def test_decode_equals_transformers(tokenizer: Tokenizer, reference, ids: list[int]) -> None:
    assert tokenizer.decode(ids) == reference.decode(ids)


@settings(deadline=None, max_examples=300)
@given(IDS, st.booleans())
def test_stream_equals_whole(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    stream = tokenizer.stream(skip_control=skip)
    pieces = [stream.push(id) for id in ids]
    pieces.append(stream.flush())
    assert "".join(pieces) == tokenizer.decode(ids, skip_control=skip)
    assert stream.flush() == ""


@settings(deadline=None, max_examples=100)
@given(WORDS)
def test_stream_never_splits_a_character(tokenizer: Tokenizer, text: str) -> None:
    """Byte by byte: no piece holds U+FFFD unless the text does."""
    single = {tokenizer.token_bytes(id): id for id in range(256)}
    stream = Detokenizer(tokenizer, skip_control=True)
    pieces = [stream.push(single[bytes([byte])]) for byte in text.encode()]
    assert "".join(pieces) == text
    assert stream.flush() == ""


def test_ids_of_numpy(tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode("é<|im_end|>中", parse_special=True), np.int32)
    assert tokenizer.decode(ids) == "é<|im_end|>中"
    assert tokenizer.decode(ids, skip_control=True) == "é中"


def test_skip_control(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<tool_call>x<|im_end|>", parse_special=True)
    assert tokenizer.decode(ids) == "<tool_call>x<|im_end|>"
    assert tokenizer.decode(ids, skip_control=True) == "<tool_call>x"


def test_every_id_has_bytes(tokenizer: Tokenizer) -> None:
    table = [tokenizer.token_bytes(id) for id in range(COUNT)]
    assert all(table)
    assert sorted(table[:256]) == [bytes([byte]) for byte in range(256)]
    assert table[151_645] == b"<|im_end|>"


@pytest.mark.parametrize(
    "id", [-1, COUNT, COUNT + 100, 151_935, 2**40, True, 1.5, 151_645.0, "1", None, []]
)
def test_unknown_id(tokenizer: Tokenizer, id: object) -> None:
    for decode in (lambda: tokenizer.decode([id]), lambda: tokenizer.stream().push(id)):
        with pytest.raises(ParameterError, match="token id"):
            decode()


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", b"bytes", None, 3])
@pytest.mark.parametrize("parse", [True, False])
def test_no_text(tokenizer: Tokenizer, text: object, parse: bool) -> None:
    with pytest.raises(ParameterError, match="the text"):
        tokenizer.encode(text, parse_special=parse)


def test_threads_may_share_one(tokenizer: Tokenizer) -> None:
    """Half of them parse control tokens and half do not, at the same time."""
    texts = [text + literal for text in TEXTS for literal in SPECIAL[:4]]
    jobs = [(text, parse) for text in texts for parse in (True, False)]

    def encode(job: tuple[str, bool]) -> list[int]:
        return tokenizer.encode(job[0], parse_special=job[1])

    expected = [encode(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(encode, jobs)) == expected


def test_folder_equals_gguf(tokenizer: Tokenizer, reference, tmp_path: Path) -> None:
    """The tokenizer.json that transformers writes, with a truncation that must not be obeyed."""
    reference.save_pretrained(tmp_path)
    json = (tmp_path / "tokenizer.json").read_text("utf-8")
    cut = '"truncation": {"direction":"Right","max_length":4,"strategy":"LongestFirst","stride":0}'
    assert json.count('"truncation": null') == 1
    json = json.replace('"truncation": null', cut)
    extra = {COUNT: {"content": "<|mine|>", "special": True}}
    folder = Tokenizer.from_data(TokenizerData(json=json, added_tokens=extra, eos_id=151_645))
    assert folder.id_of("<|mine|>") == COUNT
    assert folder.n_tokens == COUNT + 1
    for text in TEXTS:
        for parse in (True, False):
            ours = tokenizer.encode(text, parse_special=parse)
            assert folder.encode(text, parse_special=parse) == ours
            assert folder.decode(ours) == tokenizer.decode(ours)


def _arrays(**changes: object) -> TokenizerData:
    """Return a vocabulary of 256 bytes, one merge, a control token, a hole, a tag and padding."""
    alphabet = [chr(i) for i in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    alphabet += [chr(0x100 + i) for i in range(68)]
    extra = ["ab", "<|end|>", "[HOLE]", "<think>", "[PAD]", "[PAD2]"]
    fields = {
        "tokens": alphabet + extra,
        "token_types": [1] * 257 + [3, 5, 4, 5, 5],
        "merges": ["a b"],
        "pre": "qwen2",
        "eos_id": 257,
    }
    return TokenizerData(**{**fields, **changes})


def test_small_arrays() -> None:
    tokenizer = Tokenizer.from_data(_arrays())
    assert tokenizer.n_tokens == 260
    assert tokenizer.encode("ab<|end|><think>", parse_special=True) == [256, 257, 259]
    assert tokenizer.control_ids == {257}
    found = [tokenizer.token_bytes(id) for id in (256, 257, 259)]
    assert found == [b"ab", b"<|end|>", b"<think>"]
    assert tokenizer.decode([97 - 33, 258, 98 - 33]) == "ab", "a gap is no text, as in transformers"
    assert tokenizer.stream().push(258) == ""
    with pytest.raises(ParameterError, match="token id"):
        tokenizer.decode([260])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"pre": "llama-bpe"}, UnsupportedError),
        ({"add_bos": True}, UnsupportedError),
        ({"merges": ["a b", "a nothing"]}, FormatError),
        ({"merges": ["ab"]}, FormatError),
        ({"tokens": ["a", "b"]}, FormatError),
        ({"tokens": ["a"] * 262}, FormatError),
        ({"eos_id": 260}, FormatError),
        ({"bos_id": -1}, FormatError),
        ({"tokens": None}, FormatError),
        ({"json": "{"}, FormatError),
        ({"json": '{"model": {"type": "Unknown"}}'}, FormatError),
    ],
)
def test_damaged(changes: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        Tokenizer.from_data(_arrays(**changes))


def test_other_kinds_of_tokenizer_are_refused() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    json = Backend(models.WordLevel({"a": 0}, unk_token="a")).to_str()
    with pytest.raises(UnsupportedError, match="byte-level BPE"):
        Tokenizer.from_data(TokenizerData(json=json))


def test_added_tokens_of_both_files_must_agree(reference) -> None:
    json = reference.backend_tokenizer.to_str()
    for added in ({5: {"content": "<|mine|>"}}, {COUNT: {"content": ""}}, {COUNT: {}}):
        with pytest.raises(FormatError, match="tokenizer_config"):
            Tokenizer.from_data(TokenizerData(json=json, added_tokens=added))
