"""What was typed in a chat: message, command or nothing; no character of a message is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwick.cli.chat_commands import (
    ALIASES,
    COMMANDS,
    Command,
    Message,
    is_open,
    read_text,
    unblocked,
    words_after,
)
from qwick.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (" \n\t", None),
        ("Hi", Message("Hi")),
        ("  Hi \n", Message("  Hi \n")),
        ("/help", Command("help", "")),
        ("/help \n", Command("help", "")),
        ("/bye", Command("exit", "")),
        ("/set stop  a b ", Command("set", "stop  a b")),
        ('/set system """a\nb"""', Command("set", 'system """a\nb"""')),
        (" /help", Message(" /help")),
        ("//help me", Message("/help me")),
        ("//etc/passwd", Message("/etc/passwd")),
        ("// a comment", Message("// a comment")),
        ("//", Message("//")),
        ("// a comment\nint x;", Message("// a comment\nint x;")),
        ("//x\nint x;", Message("//x\nint x;")),
        ("/* a comment */\nint x;", Message("/* a comment */\nint x;")),
        ("/usr/bin/x: no\nsuch file", Message("/usr/bin/x: no\nsuch file")),
        ('"""a\nb"""', Message("a\nb")),
        ('"""\n a\n\n"""  ', Message(" a\n")),
        ('"""/help"""', Message("/help")),
        ('""""""', None),
        ('"""Doc."""\nimport os', Message('"""Doc."""\nimport os')),
        ('"""a""" b """c"""', Message('"""a""" b """c"""')),
    ],
)
def test_what_it_is(text: str, expected: Message | Command | None) -> None:
    assert read_text(text) == expected


@pytest.mark.parametrize(
    ("text", "likely"),
    [("/hepl", "did you mean /help?"), ("/", "/help lists them"), ("/usr/bin", "//usr/bin ...")],
)
def test_an_unknown_command_is_told_the_nearest(text: str, likely: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_text(text)
    assert f"there is no command {text!r}" in caught.value.message
    assert likely in str(caught.value.hint)


@given(st.text().filter(lambda text: not text.startswith(("/", '"""')) and text.strip()))
def test_a_message_is_what_was_typed(text: str) -> None:
    assert read_text(text) == Message(text)


@given(st.text().filter(lambda text: '"' not in text and text.strip()))
def test_a_block_keeps_whatever_is_in_it(text: str) -> None:
    assert read_text(f'"""\n{text}\n"""') == Message(text)
    assert unblocked(f'"""\n{text}\n"""') == text


@given(st.lists(st.sampled_from(['"', '""', '"""', "/", "/set system ", "a", "\n", " "])))
def test_every_text_is_something(pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        found = read_text(text)
    except UsageError:
        assert text.startswith("/")
        return
    if isinstance(found, Message):
        assert found.text.strip() in text
    if unblocked(text) is not None:
        assert not is_open(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"""', True),
        ('"""a\nb', True),
        ('  """a', True),
        ('"""a"""', False),
        ('"""a"""b', False),
        ('a """', False),
        ('/set system """You are', True),
        ('/set system """You are."""', False),
        ('/set stop """', False),
        ("", False),
    ],
)
def test_an_open_block_goes_on(text: str, expected: bool) -> None:
    assert is_open(text) is expected


def test_every_alias_leads_to_a_command() -> None:
    assert set(ALIASES.values()) <= set(COMMANDS)


def test_words_for_completion() -> None:
    assert {"system", "think", "temperature", "presence_penalty"} <= set(words_after("set", []))
    assert "logprobs" not in words_after("set", [])
    assert set(words_after("set", ["think"])) == {"on", "off", "default"}
    assert words_after("think", []) == words_after("set", ["think"])
    assert "history" in words_after("show", [])
    assert list(words_after("help", [])) == []
