"""`qwick chat` as users meet it: the real program in a real terminal, and in a pipe."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import Run, environment
from cli.terminal import SHELL, Terminal
from llm.small import write_small
from qwick.cli.chat_session import read_session

CHAT = f"{sys.executable} -m qwick chat --temperature 0 --ctx 2048"
READY = r"/help lists the commands\s+>>> ?$"
DONE = r"tok/s · [^>]*context [\d,]+ of 2,048[^>]*\n>>> ?$"
AGAIN = r"\n>>> ?$"
LONG = "Write a long story about a ship."


@pytest.fixture
def terminal(tmp_path: Path, default_checkpoint: Path) -> Iterator[Terminal]:
    with Terminal(environment(QWICK_HISTORY=str(tmp_path / "history"))) as terminal:
        yield terminal


def modes(terminal: Terminal) -> tuple[str, str]:
    """The state of the terminal as the shell has it: the driver's modes, and tmux's own."""
    return terminal.enter("stty -g", SHELL).split("\n")[0], terminal.state()


@pytest.mark.model
def test_a_conversation(terminal: Terminal, tmp_path: Path) -> None:
    file, other = tmp_path / "chat.json", tmp_path / "other.json"
    other.write_text("mine")
    before = modes(terminal)
    terminal.enter(CHAT, READY)

    assert "5" in terminal.enter("What is 2 + 3? Only the number.", DONE)

    terminal.type(LONG)
    terminal.press("Enter")
    terminal.wait_for(r"\n\w+ \w+ \w+ ", after=LONG)
    terminal.press("C-c")
    shown = terminal.wait_for(AGAIN, after=LONG)
    assert "interrupted · context" in shown
    assert "what was said so far is kept" in shown

    assert re.search(DONE, terminal.enter("Say only: fine.", DONE))

    assert "never thinks" in terminal.enter("/think on", AGAIN)
    assert "max_tokens is 5" in terminal.enter("/set max_tokens 5", AGAIN)
    shown = terminal.enter("/show", AGAIN)
    assert re.search(r"context +[\d,]+ of 2,048 tokens used", shown)
    assert "max_tokens=5" in shown
    assert "3 turns" in shown

    terminal.type("Write a long story")
    terminal.press("M-Enter")
    assert "ended by length" in terminal.enter("about a ship.", DONE)
    terminal.type('"""')
    terminal.press("Enter")
    terminal.type("/help is")
    terminal.press("Enter")
    terminal.enter('no command here"""', DONE)
    terminal.paste("a = 1\n\nb = 2")
    terminal.wait_for("b = 2$")
    terminal.press("Enter")
    terminal.wait_for(DONE, after="b = 2")

    terminal.type("given up")
    terminal.press("C-c")
    terminal.wait_for(r"the line is given up.*\s+>>> ?$")

    assert "is there already" in terminal.enter(f"/save {other}", AGAIN)
    assert other.read_text() == "mine"
    assert "saved to" in terminal.enter(f"/save {file}", AGAIN)
    session = read_session(file)
    assert [turn.user for turn in session.turns] == [
        "What is 2 + 3? Only the number.",
        LONG,
        "Say only: fine.",
        "Write a long story\nabout a ship.",
        "/help is\nno command here",
        "a = 1\n\nb = 2",
    ]
    assert [turn.interrupted for turn in session.turns] == [i == 1 for i in range(6)]
    assert session.turns[1].answer

    assert "0 turns left" in terminal.enter("/clear", AGAIN)
    assert "no such file" in terminal.enter("/load nowhere.json", AGAIN)
    assert "is no chat of qwick" in terminal.enter(f"/load {damaged(tmp_path)}", AGAIN)
    assert "loaded 6 turns" in terminal.enter(f"/load {file}", AGAIN)

    terminal.enter("/exit", SHELL)
    terminal.enter("echo left with $?", "left with 0")
    assert modes(terminal) == before


def damaged(folder: Path) -> Path:
    path = folder / "damaged.json"
    path.write_text('{"format": "other"}')
    return path


@pytest.mark.model
def test_what_was_typed_comes_back_in_the_next_chat_and_a_full_context_is_told(
    terminal: Terminal, tmp_path: Path
) -> None:
    before = modes(terminal)
    small = f"{CHAT} --ctx 64 --max-tokens 4"
    terminal.enter(small, READY)
    terminal.enter("The first line.", "context 3. of 64")
    terminal.enter("The second line.", "context 5. of 64")
    shown = terminal.enter("The third one.", r"arrow up brings it back\)\n>>> ?$")
    assert re.search(r"error: the prompt has \d+ tokens.*the context holds 64", shown)
    assert "hint: /drop 1 forgets the oldest 1 of 2 turns" in shown
    terminal.enter("/drop 1", "1 turn left")
    terminal.press("Up", "Up")
    terminal.wait_for("The third one.$", after=">>> ")
    terminal.press("Enter")
    terminal.wait_for("context 5. of 64", after="1 turn left")
    terminal.press("C-d")
    terminal.wait_for(SHELL, after="1 turn left")
    assert (tmp_path / "history").stat().st_mode & 0o077 == 0

    terminal.enter(f"{small}", READY)
    terminal.press("Up")
    terminal.wait_for("The third one.$", after=">>> ")
    terminal.press("Up", "Up")
    terminal.wait_for("The third one.$", after=">>> ")
    terminal.press("Up")
    terminal.wait_for("The second line.$", after=">>> ")
    terminal.press("C-c", "C-d")
    terminal.wait_for(SHELL, after="given up")

    terminal.enter(f"QWICK_HISTORY=none {small}", READY)
    terminal.press("Up")
    terminal.enter("/set min_tokens 2", AGAIN)
    assert ">>> /set min_tokens 2\n" in terminal.seen(), "the arrow brought nothing"
    assert "min_tokens" not in (tmp_path / "history").read_text()
    terminal.enter("/exit", SHELL)
    assert modes(terminal) == before


@pytest.mark.model
def test_a_terminated_chat_leaves_the_terminal_in_order(terminal: Terminal) -> None:
    before = modes(terminal)
    for asked in (True, False):
        terminal.enter(f"echo $$; exec_me() {{ {CHAT}; }}; exec_me", READY)
        shell = int(re.findall(r"\n(\d+)\n", terminal.seen())[-1])
        if asked:
            terminal.type(LONG)
            terminal.press("Enter")
            terminal.wait_for(r"\n\w+ \w+ \w+ ", after=LONG)
        (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        terminal.wait_for(SHELL, after="/help lists")
        terminal.enter("echo left with $?", "left with 143")
        assert modes(terminal) == before


@pytest.mark.model
def test_lines_from_a_pipe(qwick: Run, default_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    asked = f'Say only: yes.\n"""\nSay only:\nno.\n"""\n/save {file}\n'
    done = qwick("chat", "--temperature", "0", "--ctx", "512", stdin=asked)
    assert done.returncode == 0
    turns = read_session(file).turns
    assert [turn.user for turn in turns] == ["Say only: yes.", "Say only:\nno."]
    assert done.stdout == "".join(f"{turn.answer}\n" for turn in turns) + f"saved to {file}\n"
    assert done.stderr.count("tok/s") == 2
    assert "context" in done.stderr
    assert not set(done.stdout + done.stderr) & set("\x1b\r")


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        ("/think on\nHi\n", 2, "error: Small Random never thinks"),
        ('"""Hi\n', 2, 'error: the input ended within a text that begins with """'),
        (b"caf\xe9\n", 2, "error: a line of standard input is not valid UTF-8"),
        ("/load /nowhere/x.json\nHi", 2, "error: /nowhere/x.json: no such file"),
        ("again " * 300, 2, "the context holds 128"),
    ],
)
def test_the_first_error_ends_a_pipe(
    qwick: Run, tmp_path: Path, lines: str, code: int, said: str
) -> None:
    small = write_small(tmp_path / "small.gguf")
    done = qwick("chat", str(small), "--ctx", "128", stdin=lines)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""
