"""A conversation as plain values, and as a file of JSON that can be read again.

A session never changes: each command makes another one, so what fails has changed nothing. Knows no
model and no terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwick.cli.sampling import checked
from qwick.errors import (
    FormatError,
    ModelNotFoundError,
    ParameterError,
    QwickError,
    ResourceError,
    UsageError,
    shown,
)

__all__ = ["Session", "Turn", "path_of", "read_session", "write_session"]

FORMAT, VERSION = "qwick chat", 1
# Of a file; a context of a million tokens is about 4 MB of text. Parsed, a hostile one takes 28
# times its size.
MOST_BYTES = 1 << 24
_KEYS = ("format", "version", "model", "system", "think", "settings", "messages")
_USER, _ASSISTANT = ("role", "content"), ("role", "content", "reasoning_content", "interrupted")


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user said and what was answered; of an interrupted answer, its beginning."""

    user: str
    answer: str
    thinking: str = ""
    interrupted: bool = False

    def messages(self) -> list[dict[str, Any]]:
        """Return the turn as the two messages that templates want."""
        answer = {"role": "assistant", "content": self.answer}
        if self.thinking:
            answer["reasoning_content"] = self.thinking
        return [{"role": "user", "content": self.user}, answer]


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation and what it is held with; `settings` are fields of Sampling, checked.

    system None: the template's own, if it has one. think None: the checkpoint's own way.
    """

    model: str
    system: str | None = None
    think: bool | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()

    def messages(self, user: str | None = None) -> list[dict[str, Any]]:
        """Return the messages as templates want them, with `user` as one more at the end."""
        found: list[dict[str, Any]] = []
        if self.system is not None:
            found.append({"role": "system", "content": self.system})
        for turn in self.turns:
            found += turn.messages()
        if user is not None:
            found.append({"role": "user", "content": user})
        return found


def path_of(text: str) -> Path:
    """Return the path that was typed, ~ resolved; UsageError for one that cannot be."""
    try:
        if "\0" in text:
            raise RuntimeError("it holds a NUL character")
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{shown(text)} is no path: {error}", hint="give another one") from None


# -- writing -----------------------------------------------------------------------------------


def write_session(session: Session, path: Path, *, overwrite: bool = False) -> bool:
    """Write a session, whole or not at all, and say whether it took the place of another file.

    Only its owner may read it. Raises UsageError where something stands already (unless
    `overwrite`, and it is a plain file), ResourceError when the system cannot write there.
    """
    path = Path(os.path.realpath(path))  # a link stays one, and its file is replaced
    part = path.parent / f".qwick-chat.{os.getpid()}.part"
    reserved = False
    try:
        was_there = _is_file(path)
        if was_there and not overwrite:
            raise _taken(path)
        with contextlib.suppress(FileNotFoundError):
            part.unlink()  # of a process of that number which was killed
        with open(part, "x", opener=_private, encoding="utf-8") as file:
            json.dump(_as_json(session), file, ensure_ascii=False, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        if not overwrite:
            os.close(_private(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            reserved = True
        os.replace(part, path)
        reserved = False
        return was_there
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise ResourceError(
            f"{path}: it cannot be written: {error.strerror or error}",
            hint="give a path in a folder that is there and may be written",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
            if reserved:
                path.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _is_file(path: Path) -> bool:
    """Whether a plain file is there; UsageError for anything else that is, OSError."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is there and is no plain file", hint="give another path")
    return True


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path} is there already", hint="/save --force FILE overwrites it")


def _as_json(session: Session) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for turn in session.turns:
        messages += turn.messages()
        if turn.interrupted:
            messages[-1]["interrupted"] = True
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": session.model,
        "system": session.system,
        "think": session.think,
        "settings": dict(session.settings),
        "messages": messages,
    }


# -- reading -----------------------------------------------------------------------------------


def read_session(path: Path) -> Session:
    """Return the session in a file.

    Raises FormatError for what `write_session` would not have written, of another version too,
    UsageError where there is no file or none that may be read, ResourceError where reading fails.
    """
    from qwick.formats.jsonfile import read_object

    try:
        return _session(read_object(path, MOST_BYTES), path)
    except ModelNotFoundError as error:  # the reader's own words are for models
        raise UsageError(error.message, hint="check the path; /save FILE writes one") from None
    except FormatError as error:
        raise _no_chat(error.message) from None
    except MemoryError:
        raise ResourceError(
            f"{path}: there is not enough memory to read it", hint="give a smaller file"
        ) from None


def _no_chat(text: str) -> FormatError:
    return FormatError(text, hint="give a file that /save has written")


def _session(value: dict[str, Any], path: Path) -> Session:
    if value.get("format") != FORMAT:
        raise _no_chat(f"{path}: this is no chat of qwick (format {shown(value.get('format'))})")
    if type(value.get("version")) is not int or value["version"] != VERSION:
        raise _no_chat(
            f"{path}: its version is {shown(value.get('version'))}; this qwick reads {VERSION}"
        )
    _check_keys(value, _KEYS, _KEYS, str(path))
    if not (value["think"] is None or isinstance(value["think"], bool)):
        raise _no_chat(f"{path}: think is {shown(value['think'])}; allowed: true, false or null")
    if not isinstance(value["settings"], dict):
        raise _no_chat(f"{path}: settings is no object")
    try:
        settings = checked(value["settings"])
    except QwickError as error:
        raise _no_chat(f"{path}: settings: {error.message}") from None
    return Session(
        model=_text(value["model"], f"{path}: model"),
        system=None if value["system"] is None else _text(value["system"], f"{path}: system"),
        think=value["think"],
        settings=settings,
        turns=_turns(value["messages"], str(path)),
    )


def _turns(messages: object, path: str) -> tuple[Turn, ...]:
    if not isinstance(messages, list) or len(messages) % 2:
        raise _no_chat(f"{path}: messages is no list of pairs, user and assistant in turn")
    turns = []
    for i in range(0, len(messages), 2):
        user = _message(messages[i], "user", _USER, f"{path}: messages[{i}]")
        answer = _message(messages[i + 1], "assistant", _ASSISTANT, f"{path}: messages[{i + 1}]")
        interrupted = answer.get("interrupted", False)
        if not isinstance(interrupted, bool):
            raise _no_chat(f"{path}: messages[{i + 1}].interrupted is {shown(interrupted)}")
        thinking = answer.get("reasoning_content", "")
        where = f"{path}: messages[{i + 1}].reasoning_content"
        turns.append(Turn(user["content"], answer["content"], _text(thinking, where), interrupted))
    return tuple(turns)


def _message(value: object, role: str, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("role") != role:
        raise _no_chat(f"{where} is no message of the role {role!r}")
    _check_keys(value, ("role", "content"), keys, where)
    _text(value["content"], f"{where}.content")
    return value


def _check_keys(
    value: Mapping[str, Any], wanted: tuple[str, ...], known: tuple[str, ...], where: str
) -> None:
    for key in wanted:
        if key not in value:
            raise _no_chat(f"{where}: {key} is missing")
    for key in value:
        if key not in known:
            raise _no_chat(f"{where}: unknown key {shown(key)}; known: {', '.join(known)}")


def _text(value: object, where: str) -> str:
    from qwick.text.tokenizer import check_text

    try:
        return check_text(value, where)
    except ParameterError as error:
        raise _no_chat(error.message) from None
