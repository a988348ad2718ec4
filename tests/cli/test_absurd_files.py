"""`qwick run` with files that read well and make no sense: absurd sizes, infinite weights.

Each ends in an error that says so. What single config values may be is tested in
model/test_arch.py, and how NaN and infinity travel through the kernels in model/test_nan.py.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from checks.damage import Parts
from formats.samples import F32, STRING, U32, strings
from llm.small import write_small
from qwick.cli.main import main

pytestmark = pytest.mark.usefixtures("same_threads")

Change = Callable[[Parts], None]
Ask = Callable[[Change], tuple[int, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Return a function that changes a sound file, and runs it: exit code, and the error."""
    sound = write_small(tmp_path / "sound.gguf").read_bytes()

    def run(change: Change) -> tuple[int, str]:
        parts = Parts.of(sound)
        change(parts)
        path = tmp_path / "m.gguf"
        path.write_bytes(parts.bytes(None))
        code = main(["run", "--max-tokens", "1", str(path), "Hi"])
        told = capsys.readouterr()
        assert code == 0 or told.out == ""
        return code, told.err

    return run


def setting(key: str, kind: int, payload: bytes) -> Change:
    """Return a change of one key of the metadata, or an addition."""

    def change(parts: Parts) -> None:
        rest = [pair for pair in parts.pairs if pair[0] != key.encode()]
        parts.pairs = [*rest, (key.encode(), kind, payload)]

    return change


def number(key: str, value: int) -> Change:
    return setting(f"qwen2.{key}", U32, struct.pack("<I", value))


def real(key: str, value: float) -> Change:
    return setting(f"qwen2.{key}", F32, struct.pack("<f", value))


ABSURD: dict[str, tuple[Change, str]] = {
    "width": (number("embedding_length", 2**31), "hidden_size=2147483648; allowed"),
    "another width": (number("embedding_length", 64), "the tensors do not fit the config"),
    "no heads": (number("attention.head_count", 0), "num_attention_heads=0; allowed"),
    "no key heads": (number("attention.head_count_kv", 0), "num_key_value_heads=0; allowed"),
    "odd heads": (number("attention.key_length", 15), "head_dim=15; implemented: multiples of 16"),
    "other heads": (number("attention.key_length", 32), "the tensors do not fit the config"),
    "no layers": (number("block_count", 0), "num_hidden_layers=0; allowed"),
    "more layers": (number("block_count", 1000), "missing: model.layers.2."),
    "2^31 layers": (number("block_count", 2**31), "num_hidden_layers=2147483648; allowed"),
    "fewer layers": (number("block_count", 1), "unexpected: 'model.layers.1."),
    "no context": (number("context_length", 0), "max_position_embeddings=0; allowed"),
    "context": (number("context_length", 2**32 - 1), "max_position_embeddings=4294967295; allowed"),
    "eps": (real("attention.layer_norm_rms_epsilon", -1e-6), "rms_norm_eps=-1e-06; allowed"),
    "eps NaN": (real("attention.layer_norm_rms_epsilon", math.nan), "rms_norm_eps=nan; allowed"),
    "theta NaN": (real("rope.freq_base", math.nan), "rope_theta=nan; allowed"),
    "theta inf": (real("rope.freq_base", math.inf), "rope_theta=inf; allowed"),
    "theta 0": (real("rope.freq_base", 0.0), "rope_theta=0.0; allowed"),
    "vocabulary": (number("vocab_size", 300), "qwen2.vocab_size is 300; only 264 is supported"),
    "stop id": (
        setting("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", 2**32 - 1)),
        "eos_token_id is 4294967295; there are 262 tokens",
    ),
    "more tokens": (
        setting("tokenizer.ggml.tokens", 9, strings([str(i) for i in range(300)])),
        "there are 300 tokens for 264 rows of embeddings",
    ),
    "fewer tokens": (
        setting("tokenizer.ggml.tokens", 9, strings(["a"])),
        "there are 262 token types for 1 tokens",
    ),
    "template": (
        setting("tokenizer.chat_template", STRING, struct.pack("<Q", 6) + b"{% for"),
        "the chat template does not compile",
    ),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_metadata(ask: Ask, case: str) -> None:
    change, said = ABSURD[case]
    code, err = ask(change)
    assert said in err
    assert code == 4


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "blk.1.attn_k.bias"])
def test_weights_that_are_no_numbers(ask: Ask, name: str, value: float) -> None:
    """The file is what it is: it loads, and the first answer says what is wrong."""

    def change(parts: Parts) -> None:
        (offset,) = [offset for found, _, _, offset in parts.tensors if found.decode() == name]
        data = bytearray(parts.data)
        row = 32 * 4 * 40 if name == "token_embd.weight" else 0  # of a token that may be chosen
        struct.pack_into("<f", data, offset + row, value)
        parts.data = bytes(data)

    code, err = ask(change)
    assert "logits are NaN or infinite" in err
    assert code == 7


def test_a_matrix_that_is_not_there(ask: Ask) -> None:
    """A size that is allowed and stored nowhere: a few bytes cannot ask for memory."""

    def change(parts: Parts) -> None:
        name, _, kind, offset = parts.tensors[0]
        parts.tensors[0] = (name, (1 << 16, 1 << 20), kind, offset)

    code, err = ask(change)
    assert "but the file ends at byte" in err
    assert code == 4
