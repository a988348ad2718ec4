"""Conversations as files: what is written can be read, and nothing else can."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwick.cli.chat_session import Session, Turn, path_of, read_session, write_session
from qwick.errors import (
    FormatError,
    QwickError,
    ResourceError,
    UsageError,
)
from qwick.text.messages import check_messages

SESSION = Session(
    model="small",
    system="Be brief.",
    think=False,
    settings={"temperature": 0.5, "stop": ("\n",), "logit_bias": ((3, -1.0),)},
    turns=(
        Turn("Hi\n", "Hello 🙂", thinking="Well."),
        Turn("日本", " a\t", interrupted=True),
    ),
)
TEXT = st.text(st.characters(codec="utf-8"))
SESSIONS = st.builds(
    Session,
    model=TEXT,
    system=st.none() | TEXT,
    think=st.none() | st.booleans(),
    settings=st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0, 100),
            "seed": st.integers(0, 2**64 - 1),
            "stop": st.lists(TEXT.filter(bool), max_size=3).map(tuple),
            "ignore_eos": st.booleans(),
        },
    ),
    turns=st.lists(st.builds(Turn, TEXT, TEXT, TEXT, st.booleans()), max_size=4).map(tuple),
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    write_session(SESSION, tmp_path / "chat.json")
    return tmp_path / "chat.json"


@given(SESSIONS)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, session: Session
) -> None:
    path = tmp_path_factory.mktemp("chats") / "chat.json"
    write_session(session, path)
    assert read_session(path) == session
    assert os.listdir(path.parent) == ["chat.json"]


def test_the_messages_are_those_that_templates_want() -> None:
    messages = SESSION.messages("Next?")
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert messages[2] == {
        "role": "assistant",
        "content": "Hello 🙂",
        "reasoning_content": "Well.",
    }
    assert check_messages(messages) == messages
    assert Session("small").messages() == []


def test_only_the_owner_may_read_it(saved: Path) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


def test_nothing_is_overwritten_unless_so_said(saved: Path) -> None:
    other = Session("other")
    with pytest.raises(UsageError, match="is there already") as caught:
        write_session(other, saved)
    assert "--force" in str(caught.value.hint)
    assert read_session(saved) == SESSION
    write_session(other, saved, overwrite=True)
    assert read_session(saved) == other
    assert os.listdir(saved.parent) == [saved.name]


def test_a_link_stays_a_link(saved: Path) -> None:
    link = saved.with_name("link.json")
    link.symlink_to(saved)
    write_session(Session("other"), link, overwrite=True)
    assert link.is_symlink()
    assert read_session(saved) == Session("other")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_cannot_be_written(tmp_path: Path, overwrite: bool) -> None:
    for path in (tmp_path / "none" / "chat.json", Path("/proc/none.json"), tmp_path / ("x" * 300)):
        with pytest.raises(ResourceError, match="cannot be written"):
            write_session(SESSION, path, overwrite=overwrite)
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match="is no plain file"):
            write_session(SESSION, path, overwrite=overwrite)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_session(Session("other"), saved, overwrite=True)
    assert read_session(saved) == SESSION
    fresh = saved.with_name("fresh.json")
    with pytest.raises(ResourceError, match="No space left"):
        write_session(SESSION, fresh)
    assert os.listdir(saved.parent) == [saved.name]


def change(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def made(found: Any) -> None:
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return made


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (change("format", value="other"), "no chat of qwick"),
        (change("version", value=2), "its version is 2; this qwick reads 1"),
        (change("version", value=True), "its version is True"),
        (change("version", value="1"), "its version is '1'"),
        (change("more", value=1), "unknown key 'more'"),
        (lambda found: found.pop("think"), "think is missing"),
        (change("model", value=None), "model is of type NoneType"),
        (change("system", value=["a"]), "system is of type list"),
        (change("system", value="\ud800"), "lone surrogate"),
        (change("think", value=1), "think is 1"),
        (change("settings", value=[]), "settings is no object"),
        (change("settings", value={"temperature": -1}), "settings: temperature is -1"),
        (change("settings", value={"temperature": None}), "settings: temperature is None"),
        (change("settings", value={"nonsense": 1}), "settings: there is no setting 'nonsense'"),
        (change("settings", value={"logprobs": 1}), "settings: a chat does not show logprobs"),
        (change("messages", value={}), "no list of pairs"),
        (lambda found: found["messages"].pop(), "no list of pairs"),
        (lambda found: found["messages"].reverse(), "messages[0] is no message of the role"),
        (change("messages", 0, value="Hi"), "messages[0] is no message"),
        (change("messages", 0, "content", value=None), "messages[0].content is of type NoneType"),
        (change("messages", 1, "content", value=3), "messages[1].content is of type int"),
        (change("messages", 1, "interrupted", value=0), "messages[1].interrupted is 0"),
        (change("messages", 1, "reasoning_content", value=0), "messages[1].reasoning_content"),
        (change("messages", 1, "tool_calls", value=[]), "messages[1]: unknown key 'tool_calls'"),
        (change("messages", 0, "interrupted", value=True), "messages[0]: unknown key"),
    ],
)
def test_anything_else_is_refused_by_name(
    saved: Path, edit: Callable[[dict[str, Any]], None], said: str
) -> None:
    value = json.loads(saved.read_text())
    edit(value)
    saved.write_text(json.dumps(value))
    with pytest.raises(FormatError) as caught:
        read_session(saved)
    assert said in caught.value.message
    assert str(saved) in caught.value.message
    assert caught.value.hint == "give a file that /save has written"


def test_every_truncation_and_damage_is_an_error_of_ours(saved: Path) -> None:
    data = saved.read_bytes()
    for end in range(len(data) - 2):
        saved.write_bytes(data[:end])
        with pytest.raises(FormatError):
            read_session(saved)
    for i in range(len(data)):
        saved.write_bytes(data[:i] + bytes([data[i] ^ 0x80]) + data[i + 1 :])
        with pytest.raises(FormatError):  # no UTF-8 any more
            read_session(saved)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["format", "version", "messages", "role", "content", "x"]), inner
            )
        ),
    )
)
def test_any_json_is_a_session_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    path = tmp_path_factory.mktemp("chats") / "chat.json"
    path.write_text(json.dumps(value))
    with pytest.raises(FormatError):
        read_session(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1, "a": 2}', '{"a": NaN}', "", "\0" * 9])
def test_hostile_files(saved: Path, text: str) -> None:
    saved.write_text(text)
    with pytest.raises(FormatError):
        read_session(saved)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_session(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(QwickError):
            read_session(path)
    large = tmp_path / "large"
    with open(large, "wb") as file:
        file.truncate(1 << 27)
    with pytest.raises(FormatError, match="the limit"):
        read_session(large)


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/test")
    assert path_of("~/a b.json") == Path("/home/of/test/a b.json")
    for bad in ("~no such user/x", "a\0b"):
        with pytest.raises(UsageError, match="is no path"):
            path_of(bad)


def test_a_file_that_takes_too_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("qwick.formats.jsonfile.read_object", fail)
    with pytest.raises(ResourceError, match="not enough memory to read it"):
        read_session(tmp_path / "chat.json")
