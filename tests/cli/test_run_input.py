"""`qwick run`: what is a model, what is a prompt, and what is refused before any model loads."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Run, environment
from qwick.cli.run import split_words
from qwick.errors import ModelNotFoundError, QwickError
from qwick.hub import DEFAULT


def test_a_prompt_alone() -> None:
    for prompt in ("Hi", "Write a haiku.", "a/b", "x" * 10_000, "nul\0", "."):
        assert split_words((prompt,)) == (None, prompt)


def test_a_model_and_a_prompt(tmp_path: Path) -> None:
    for model in (DEFAULT, "unknown", "a.gguf", str(tmp_path)):
        assert split_words((model, "Hi")) == (model, "Hi")


@pytest.mark.parametrize("word", ["qwen2.5-coder-0.5b-instrct", "qwen2.5-coder-0.5b-instruct-q4"])
def test_a_misspelt_model_alone_is_not_a_prompt(word: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        split_words((word,))
    assert caught.value.hint == f"did you mean {DEFAULT}?"
    assert split_words((f"what is {word}",)) == (None, f"what is {word}")


def test_a_model_alone_takes_its_prompt_from_the_pipe(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    script = (
        "import sys; from qwick.cli.run import split_words\n"
        "print(ascii(split_words(tuple(sys.argv[1:]))))"
    )
    cases: list[tuple[list[str], bytes, tuple[str | None, str]]] = [
        ([], b"Hi\n", (None, "Hi")),
        (["-"], "\u4f60\u597d\n\n".encode(), (None, "\u4f60\u597d\n")),
        ([DEFAULT], b" two\nlines", (DEFAULT, " two\nlines")),
        ([DEFAULT, "-"], b"Hi", (DEFAULT, "Hi")),
        (["a.GGUF"], b"Hi", ("a.GGUF", "Hi")),
        ([str(tmp_path)], b"Hi", (str(tmp_path), "Hi")),
        (["Hi"], b"left alone", (None, "Hi")),
    ]
    for arguments, data, expected in cases:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            input=data,
            capture_output=True,
            env=environment(),
            check=True,
        )
        assert done.stdout.decode().strip() == ascii(expected)


@pytest.mark.parametrize(
    ("arguments", "data", "code", "said"),
    [
        ([""], b"", 2, "the prompt is empty"),
        ([" \n"], b"", 2, "the prompt is empty"),
        (["-"], b"", 2, "the prompt is empty"),
        ([], b"\n", 2, "the prompt is empty"),
        ([DEFAULT], b"", 2, "the prompt is empty"),
        (["-"], b"caf\xe9", 2, "not valid UTF-8 (at character 3)"),
        (["--system", "x\udce9", "Hi"], b"", 2, "--system is not valid UTF-8"),
        (["write", "a", "haiku"], b"", 2, "in quotes"),
        (["--temperature", "-1", "Hi"], b"", 2, "temperature is -1.0"),
        (["--temperature", "nan", "Hi"], b"", 2, "temperature is nan"),
        (["--temperature", "hot", "Hi"], b"", 2, "'hot' is not a valid float"),
        (["--max-tokens", "0", "Hi"], b"", 2, "max_tokens is 0"),
        (["--seed", "-1", "Hi"], b"", 2, "seed is -1"),
        (["--threads", "0", "Hi"], b"", 2, "--threads"),
        (["--ctx", "0", "Hi"], b"", 2, "--ctx"),
        (["no-such-model", "Hi"], b"", 3, "no model called 'no-such-model'"),
        (["./none.gguf", "Hi"], b"", 3, "no file or folder './none.gguf'"),
        (["none.gguf"], b"Hi", 3, "no file or folder 'none.gguf'"),
    ],
)
def test_bad_input(qwick: Run, arguments: list[str], data: bytes, code: int, said: str) -> None:
    done = qwick("run", *arguments, stdin=data)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "there is no prompt"), ([DEFAULT], "is a model, and there is no")]
)
def test_a_terminal_is_not_waited_for(arguments: list[str], said: str) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "qwick", "run", *arguments],
            stdin=theirs,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert said in done.stderr
    assert QwickError.__name__ not in done.stderr
