"""Where a chat's texts come from: the file of history, completion, plain lines."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from qwick.cli import chat_input
from qwick.cli.chat_input import MOST_HISTORY, PlainReader
from qwick.errors import UsageError

_completer, _file_history = chat_input._completer, chat_input._file_history


def texts(path: Path) -> list[str]:
    """What another chat finds in the file, the newest first."""
    return list(_file_history(path).load_history_strings())


def test_history_is_kept_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history"
    history = _file_history(path)
    for text in ("one", "two\nlines", "日本 \udcff"):
        history.store_string(text)
    history.store_string("x" * 100_000)
    assert texts(path) == ["日本 ?", "two\nlines", "one"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert len(texts(path)) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_long_history_keeps_its_newer_half(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = _file_history(path)
    entries = [f"{i} " + "a" * 40_000 for i in range(30)]
    for text in entries:
        history.store_string(text)
    assert path.stat().st_size > MOST_HISTORY
    found = texts(path)
    assert path.stat().st_size <= MOST_HISTORY // 2
    assert 10 <= len(found) <= 15
    assert found == entries[: -len(found) - 1 : -1], "whole entries, and the newest ones"
    assert os.listdir(tmp_path) == ["history"]


def test_what_cannot_hold_a_history(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "file" / "x", Path("/dev/full")):
        with pytest.raises(OSError):
            _file_history(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/re", {"retry"}),
        ("/set temp", {"temperature"}),
        ("/think ", {"on", "off", "default"}),
        ("/show h", {"history"}),
        ("/load /dev/nul", {"l"}),
        ("/save --force /dev/nul", {"l"}),
        ("re", set()),
        ("/re\n", set()),
    ],
)
def test_completion(text: str, expected: set[str]) -> None:
    found = _completer().get_completions(Document(text), CompleteEvent())
    assert {completion.text for completion in found} == expected


def read(data: bytes, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
    reader, found = PlainReader(""), []
    try:
        while True:
            found.append(reader.read())
    except EOFError:
        return found


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(b"", monkeypatch) == []
    assert read(b"one\n\ntwo", monkeypatch) == ["one", "", "two"]
    block = '"""\na\n\nb\n"""'
    assert read(f"x\n{block}\ny\n".encode(), monkeypatch) == ["x", block, "y"]
    for bad, said in ((b'"""a\n', "ended within a text"), (b"caf\xe9\n", "not valid UTF-8")):
        with pytest.raises(UsageError, match=said):
            read(bad, monkeypatch)
    with pytest.raises(UsageError, match="no context holds so much"):
        read(b"x" * (17 << 20), monkeypatch)


def test_a_file_that_is_no_history_is_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n" * 250_000)
    notes.chmod(0o644)
    before = notes.read_bytes()
    with pytest.raises(OSError, match="no history"):
        _file_history(notes)
    assert notes.read_bytes() == before
    assert stat.S_IMODE(notes.stat().st_mode) == 0o644


def test_a_link_to_a_history_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    history = _file_history(link)
    for i in range(30):
        history.store_string(f"{i} " + "a" * 40_000)
    assert texts(link)[0].startswith("29 ")
    assert link.is_symlink()
    assert real.stat().st_size <= MOST_HISTORY // 2


def test_a_block_of_many_lines_is_read_in_one_go_and_not_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = '"""\n' + "a line of some length that is no end\n" * 100_000 + '"""'
    assert read(block.encode(), monkeypatch) == [block]  # minutes, if all were looked at each time
    monkeypatch.setattr("qwick.cli.stdin.MOST_INPUT", 1000)
    with pytest.raises(UsageError, match="more than 1,000 bytes"):
        read(block.encode(), monkeypatch)
