"""`qwick run`: what is a model, what is a prompt, and what is refused before any model loads."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import environment
from qwick.cli.main import main
from qwick.cli.run import split_words
from qwick.errors import ModelNotFoundError, QwickError, UsageError
from qwick.hub import DEFAULT


@pytest.fixture
def nothing_piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield


@pytest.mark.usefixtures("nothing_piped")
def test_a_prompt_alone() -> None:
    for prompt in ("Hi", "Write a haiku.", "a/b", "x" * 10_000, "nul\0", ".", "What is a.gguf"):
        assert split_words((prompt,)) == (None, prompt)


@pytest.mark.usefixtures("nothing_piped")
def test_a_model_and_a_prompt(tmp_path: Path) -> None:
    for model in (DEFAULT, "a.gguf", "./none", str(tmp_path)):
        assert split_words((model, "Hi")) == (model, "Hi")


@pytest.mark.usefixtures("nothing_piped")
def test_a_folder_of_parts_alone_is_not_a_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert split_words(("mine",)) == (None, "mine")
    (tmp_path / "mine" / "m-00001-of-00002.gguf").touch()
    with pytest.raises(UsageError, match="mine is a model, and there is no prompt"):
        split_words(("mine",))


@pytest.mark.usefixtures("nothing_piped")
@pytest.mark.parametrize("word", ["qwen2.5-coder-0.5b-instrct", "qwen2.5-coder-0.5b-instruct-q4"])
def test_a_misspelt_model_alone_is_not_a_prompt(word: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        split_words((word,))
    assert caught.value.hint == f"did you mean {DEFAULT}?"
    assert split_words((f"what is {word}",)) == (None, f"what is {word}")


@pytest.mark.usefixtures("nothing_piped")
@pytest.mark.parametrize(
    "word", ["./none", "/none/at/all", "../none", "~/none at all", "none.gguf"]
)
def test_a_path_that_is_not_there_is_not_a_prompt(word: str) -> None:
    word = word.replace(" ", "-")
    with pytest.raises(ModelNotFoundError, match=f"no file or folder '{word}'") as caught:
        split_words((word,))
    assert caught.value.hint is not None
    assert "qwick run MODEL PROMPT" in caught.value.hint


def read_with(arguments: list[str], **stdin: Any) -> str:
    """Return what a process of its own makes of arguments and standard input, or its error."""
    script = (
        "import sys\n"
        "from qwick.cli.run import split_words\n"
        "from qwick.errors import QwickError\n"
        "try: print(ascii(split_words(tuple(sys.argv[1:]))))\n"
        "except QwickError as error: print(type(error).__name__)"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, env=environment(), timeout=60, check=True, **stdin
    )
    return str(done.stdout.decode().strip())


def test_what_is_piped_in_is_the_prompt_or_added_to_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "a model.gguf"
    file.write_bytes(b"")
    cases: list[tuple[list[str], bytes, tuple[str | None, str]]] = [
        ([], b"Hi\n", (None, "Hi")),
        (["-"], "\u4f60\u597d\n\n".encode(), (None, "\u4f60\u597d\n")),
        ([DEFAULT], b" two\nlines", (DEFAULT, " two\nlines")),
        ([DEFAULT, "-"], b"Hi", (DEFAULT, "Hi")),
        ([str(file)], b"Hi", (str(file), "Hi")),
        ([str(tmp_path)], b"Hi", (str(tmp_path), "Hi")),
        (["Summarise:"], b"a text\n", (None, "Summarise:\n\na text")),
        ([DEFAULT, "Summarise:"], b"a\ntext\n\n", (DEFAULT, "Summarise:\n\na\ntext\n")),
        (["TCP/IP is what?"], b"a text", (None, "TCP/IP is what?\n\na text")),
        (["and/or"], b"", (None, "and/or")),  # nothing comes: a word like others
        (["Hi"], b" \n", (None, "Hi")),
        ([DEFAULT, "Hi"], b"", (DEFAULT, "Hi")),
    ]
    for arguments, data, expected in cases:
        assert read_with(arguments, input=data) == ascii(expected)


def test_a_file_and_a_socket_are_read_like_a_pipe(tmp_path: Path) -> None:
    expected = ascii((None, "Summarise:\n\na text"))
    path = tmp_path / "text"
    path.write_text("a text\n")
    with path.open() as file:
        assert read_with(["Summarise:"], stdin=file) == expected
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"a text\n")
        ours.shutdown(socket.SHUT_WR)
        assert read_with(["Summarise:"], stdin=theirs) == expected


def test_dev_null_and_a_closed_input_are_nothing() -> None:
    assert read_with(["Hi"], stdin=subprocess.DEVNULL) == ascii((None, "Hi"))
    assert read_with([], stdin=subprocess.DEVNULL) == "UsageError"
    command = [sys.executable, "-m", "qwick", "run"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command],
        capture_output=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: there is no prompt")


@pytest.mark.parametrize(
    ("arguments", "data", "code", "said"),
    [
        ([""], b"", 2, "the prompt is empty"),
        ([" \n"], b"", 2, "the prompt is empty"),
        (["-"], b"", 2, "the prompt is empty"),
        ([], b"\n", 2, "the prompt is empty"),
        ([DEFAULT], b"", 2, "the prompt is empty"),
        ([""], b"a text", 2, "the prompt is empty"),
        (["-"], b"caf\xe9", 2, "standard input is not valid UTF-8 (at character 3)"),
        (["Hi"], bytes(range(256)), 2, "standard input is not valid UTF-8 (at character 128)"),
        (["Hi"], b"x" * ((16 << 20) + 1), 2, "standard input has more than 16,777,216 bytes"),
        (["caf\udce9"], b"", 2, "the prompt is not valid UTF-8 (at character 3)"),
        (["--system", "x\udce9", "Hi"], b"", 2, "--system is not valid UTF-8"),
        (["write", "a", "haiku"], b"", 2, "in quotes"),
        (["--temperature", "-1", "Hi"], b"", 2, "temperature is -1.0"),
        (["--temperature", "nan", "Hi"], b"", 2, "temperature is nan"),
        (["--temperature", "inf", "Hi"], b"", 2, "temperature is inf"),
        (["--temperature", "1e9", "Hi"], b"", 2, "temperature is 1000000000.0"),
        (["--temperature", "hot", "Hi"], b"", 2, "'hot' is not a valid float"),
        (["--max-tokens", "0", "Hi"], b"", 2, "max_tokens is 0"),
        (["--seed", "-1", "Hi"], b"", 2, "seed is -1"),
        (["--max-tokens", "9" * 30, "Hi"], b"", 2, "max_tokens is 999"),
        (["--seed", str(1 << 64), "Hi"], b"", 2, f"seed is {1 << 64}"),
        (["--threads", "0", "Hi"], b"", 2, "--threads"),
        (["--threads", "1025", "Hi"], b"", 2, "--threads"),
        (["--ctx", "0", "Hi"], b"", 2, "--ctx"),
        (["--ctx", "-5", "Hi"], b"", 2, "--ctx"),
        (["no-such-model", "Hi"], b"", 3, "no model called 'no-such-model'"),
        (["hello", "world"], b"", 3, 'quotes: qwick run "hello world"'),
        (["no/such", "Hi"], b"", 3, "check the path"),
        (["~no such user/x", "Hi"], b"", 3, "no file or folder '~no such user/x'"),
        (["x" * 5000, "Hi"], b"", 3, "no model called 'xxx"),
        (["x/" * 2500, "Hi"], b"", 3, "no model called 'x/x"),
        (["and/or"], b"Hi", 3, "no file or folder 'and/or'"),
        (["./none.gguf", "Hi"], b"", 3, "no file or folder './none.gguf'"),
        (["none.gguf"], b"Hi", 3, "no file or folder 'none.gguf'"),
    ],
)
def test_bad_input(
    arguments: list[str],
    data: bytes,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "stdin").write_bytes(data)
    with (tmp_path / "stdin").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["run", *arguments]) == code
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    assert max(map(len, lines)) < 250
    assert said in told.err


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
