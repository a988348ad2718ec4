"""Qwen1's vocabulary file: its merges found again, and damage told.

The real one has the very tokens of the later generations, by the same ranks, so the default
checkpoint's vocabulary is what it is checked with.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.small import byte_alphabet
from model.test_qwen1 import PUBLISHED, TENSORS, own_names
from qwick.errors import FormatError
from qwick.formats import tiktoken
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_folder
from qwick.llm import Qwen
from qwick.text.tokenizer import Tokenizer

BYTE_OF = {letter: byte for byte, letter in enumerate(byte_alphabet())}
TEXTS = (
    "Hello, world! It's 2024; Wie geht's?\n\n  naïve café 你好，世界 🙂\r\n\tdef f(x): return x**2",
    "<|im_start|>user\n<|extra_7|><|im_end|>",
    "e\u0301 \u1e9b\u0323",  # composed before anything else
    " " * 100 + "\n" * 7 + "1234567",
)


def lines(tokens: list[bytes]) -> str:
    return "".join(f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(tokens))


SMALL = [bytes([b]) for b in range(256)] + [b"he", b"ll", b"hell", b"hello"]


def small_file(folder: Path, text: str) -> Path:
    path = folder / "qwen.tiktoken"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.model
def test_the_merges_of_the_real_vocabulary_are_found_again(
    default_checkpoint: Path, tmp_path: Path
) -> None:
    with open_checkpoint(default_checkpoint) as checkpoint:
        data = checkpoint.tokenizer
        assert data.tokens is not None
        assert data.merges is not None
        tokens, merges = list(data.tokens), list(data.merges)
        theirs = Tokenizer.from_data(data)
    ordinary = [bytes(BYTE_OF[c] for c in token) for token in tokens[:151643]]
    folder = tmp_path / "Qwen-1_8B"
    config = {**PUBLISHED, "vocab_size": 151936}
    write_folder(folder, config, own_names(TENSORS), files={"qwen.tiktoken": lines(ordinary)})
    with open_checkpoint(folder) as checkpoint:
        found = checkpoint.tokenizer
    assert found.merges == merges
    assert found.tokens is not None
    assert list(found.tokens[:151643]) == tokens[:151643]
    assert list(found.tokens[151643:151646]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert (len(found.tokens), found.tokens[-1], found.eos_id) == (151851, "<|extra_204|>", 151643)
    ours = Tokenizer.from_data(found)
    for text in TEXTS:
        plain = text.replace("<|extra_7|>", "")  # which the later generations do not have
        assert ours.encode(plain, parse_special=True) == theirs.encode(plain, parse_special=True)
        assert ours.encode(text, parse_special=False) == theirs.encode(text, parse_special=False)
    assert ours.encode("<|extra_7|>", parse_special=True) == [151653]


def test_a_folder_of_qwen1_answers(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen-1_8B-Chat"
    config = {**PUBLISHED, "vocab_size": 503}
    generation = '{"chat_format": "chatml", "eos_token_id": 260, "top_k": 0, "top_p": 0.8}'
    files = {"qwen.tiktoken": lines(SMALL), "generation_config.json": generation}
    write_folder(folder, config, own_names(TENSORS), files=files)
    with Qwen.load(folder) as qwen:
        reply = qwen.complete("hello", max_tokens=5, temperature=0)
        assert reply.usage.prompt_tokens == 1
        assert qwen.context == 64


def test_merges_come_in_the_order_of_ranks(tmp_path: Path) -> None:
    tokens, merges = tiktoken.read_vocabulary(small_file(tmp_path, lines(SMALL)))
    assert merges == ["h e", "l l", "he ll", "hell o"]
    assert tokens[32] == "Ġ"
    assert tokens[-1] == "hello"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "AA== 0\n", "no token for the byte 1"),
        (lambda text: "", "the file is empty"),
        (lambda text: text.replace("aGU= 256", "aGU= 257"), "line 257 is 'aGU= 257'; a token"),
        (lambda text: text.replace("aGU= 256", "aGU 256"), "line 257 is"),
        (lambda text: text.replace("aGU= 256", "a\u00e9U= 256"), "line 257 is"),
        (lambda text: text.replace("aGU= 256", "aGU="), "line 257 is"),
        (lambda text: text.replace("aGU= 256", " 256"), "line 257 is"),
        (lambda text: text.replace("aGU= 256", "YQ== 256"), "line 257 has the token of line 98"),
        (lambda text: text.replace("bGw= 257", "b29v 257"), "rank 257 is not made of two others"),
        (lambda text: text[:100], "line"),
        (lambda text: text + "\n", "line 261 is ''"),
        (lambda text: text + f"{base64.b64encode(b'h' * 9000).decode()} 260\n", "too long"),
    ],
)
def test_damage_is_told(tmp_path: Path, damage: Callable[[str], str], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        tiktoken.read_vocabulary(small_file(tmp_path, damage(lines(SMALL))))


def test_a_hostile_vocabulary_costs_little(tmp_path: Path) -> None:
    """Each token twice as long as the one before, up to the limit."""
    tokens, token = [bytes([b]) for b in range(256)], b"a"
    while len(token) < 2048:
        token += token
        tokens.append(token)
    begun = time.monotonic()
    _, merges = tiktoken.read_vocabulary(small_file(tmp_path, lines(tokens)))
    assert len(merges) == 11
    assert time.monotonic() - begun < 5


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    files = {"qwen.tiktoken": lines(SMALL)}
    write_folder(folder, {**PUBLISHED, "vocab_size": 400}, own_names(TENSORS), files=files)
    with (
        open_checkpoint(folder) as checkpoint,
        pytest.raises(FormatError, match="468 tokens with the control tokens; the model has 400"),
    ):
        _ = checkpoint.tokenizer
