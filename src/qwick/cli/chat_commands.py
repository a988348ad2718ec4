"""What was typed in a chat, told apart and, where it is a command, obeyed.

Each command changes the session as a whole or not at all. The table at the end is the list, for
help and completion too.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwick.cli import sampling
from qwick.cli.chat_session import path_of, read_session, write_session
from qwick.cli.sampling import DEFAULT, shown_value
from qwick.cli.show import counted
from qwick.errors import ParameterError, UsageError, shown

if TYPE_CHECKING:
    from qwick.cli.chat import Chat
    from qwick.cli.chat_session import Session

__all__ = [
    "ALIASES",
    "COMMANDS",
    "Command",
    "Message",
    "is_open",
    "obey",
    "read_text",
    "unblocked",
    "words_after",
]

_TOPICS = ("settings", "system", "history")
_SWITCH = {"on": True, "off": False, DEFAULT: None}
_OWN = ("system", "think")  # set beside the fields of Sampling


# -- what it is --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """What the user says to the model, exactly."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command by its name in COMMANDS, and what follows it; "" for nothing."""

    name: str
    argument: str


def read_text(text: str) -> Message | Command | None:
    '''Return what `text` is; None for nothing. UsageError for a command that does not exist.

    A text between two """ is a message, whatever is in it, without the marks and the line end next
    to each. A single line that begins with "/" is a command; a text of several lines is one only
    where its first word is the name of one (pasted code may well begin with "/*"). "//word" on a
    line of its own is the message "/word".
    '''
    if not text.strip():
        return None
    inner = unblocked(text)
    if inner is not None:
        return Message(inner) if inner.strip() else None
    match = re.match(r"/(\S*)\s*(.*)", text, re.DOTALL)
    if match is None:
        return Message(text)
    word, argument = match[1], match[2].strip()
    name = ALIASES.get(word, word)
    if name in COMMANDS:
        return Command(name, argument)
    if "\n" in text:
        return Message(text)
    if word.startswith("/"):
        return Message(text[1:] if len(word) > 1 else text)
    close = difflib.get_close_matches(word, [*COMMANDS, *ALIASES], n=1)
    likely = f"did you mean /{close[0]}?" if close else "/help lists them."
    raise UsageError(
        f"there is no command {shown(f'/{word}')}",
        hint=f"{likely} A message may begin with / if that is doubled: //{word[:40]} ...",
    )


def is_open(text: str) -> bool:
    '''Whether a text begins with """ (as a message, or after /set system) and has no second.'''
    return re.match(r'(/set\s+system\s+)?"""(?!.*""")', text.lstrip(), re.DOTALL) is not None


def unblocked(text: str) -> str | None:
    '''Return what stands between two """ that begin and end a text; None if they do not.'''
    match = re.fullmatch(r'"""\n?((?:(?!""").)*?)\n?"""', text.strip(), re.DOTALL)
    return None if match is None else match[1]


# -- obeyed ------------------------------------------------------------------------------------


def obey(chat: Chat, command: Command) -> None:
    """Carry a command out. Raises QwickError, with nothing changed, where that cannot be."""
    entry = COMMANDS[command.name]
    if command.argument and not entry.arguments:
        raise UsageError(
            f"/{command.name} takes nothing more, and there is {shown(command.argument, 40)}",
            hint=f"/{command.name} alone",
        )
    entry.obey(chat, command.argument)


def words_after(command: str, before: list[str]) -> Iterable[str]:
    """Return the words that may come next, for completion."""
    if command == "set" and not before:
        return [*_OWN, *sampling.names()]
    if [command, *before] in (["think"], ["set", "think"]):
        return list(_SWITCH)
    if command == "show" and not before:
        return _TOPICS
    return ()


def _help(chat: Chat, _: str) -> None:
    _table(chat, [(f"/{name} {e.arguments}".rstrip(), e.what) for name, e in COMMANDS.items()])
    chat.screen.say(
        f"/set alone lists the names it knows; the value {DEFAULT} takes a change back.\n"
        'Enter sends, Alt-Enter begins a line; a text between two """ may have any lines.\n'
        "Ctrl-C stops a reply or gives up a line. //word is the message /word."
    )


def _exit(chat: Chat, _: str) -> None:
    chat.leaving = True


# -- settings ----------------------------------------------------------------------------------


def _set(chat: Chat, argument: str) -> None:
    name, *rest = argument.split(None, 1) or [""]
    value = "".join(rest).strip()
    session = chat.session
    if not name:
        _show_settings(chat)
        return
    if name == "system" and value:
        inner = unblocked(value)
        text = None if value == DEFAULT else value if inner is None else inner
        chat.session = chat.possible(dataclasses.replace(session, system=text))
    elif name == "think" and value:
        if value not in _SWITCH:
            raise ParameterError(f"think is {shown(value)}; allowed: {', '.join(_SWITCH)}")
        changed = chat.possible(dataclasses.replace(session, think=_SWITCH[value]))
        if _can_switch(chat):  # else it is what this model does anyway, and another one might not
            chat.session = changed
    elif value:
        fields = sampling.changed(session.settings, name, value)
        chat.session = chat.possible(dataclasses.replace(session, settings=fields))
    chat.screen.say(f"{name} is {_value_of(chat, name)}")


def _think(chat: Chat, argument: str) -> None:
    _set(chat, f"think {argument}")


def _value_of(chat: Chat, name: str) -> str:
    session = chat.session
    if name == "system":
        if session.system is None:
            return "the template's own, if it has one"
        return shown(session.system, 60)
    if name == "think":
        return _thinking(chat)
    sampling.check_name(name)
    value = getattr(chat.in_force(session), name)
    where = "" if name in session.settings else " (the default)"
    return f"{_shown_field(name, value)}{where}"


def _shown_field(name: str, value: Any) -> str:
    if value is None:
        return {"max_tokens": "what the context holds", "seed": "drawn anew"}.get(name, "not set")
    return shown_value(value)


def _can_switch(chat: Chat) -> bool:
    from qwick.family import Thinking

    return chat.qwen.texts.thinking is Thinking.HYBRID


def _thinking(chat: Chat) -> str:
    from qwick.family import Thinking

    if not _can_switch(chat):
        always = chat.qwen.texts.thinking is Thinking.ALWAYS
        return f"{'always' if always else 'never'} (this model)"
    return {True: "on", False: "off", None: "on (the default)"}[chat.session.think]


def _show_settings(chat: Chat) -> None:
    rows = [("system", _value_of(chat, "system")), ("think", _thinking(chat))]
    rows += [(name, _value_of(chat, name)) for name in sampling.names()]
    _table(chat, rows)


def _table(chat: Chat, rows: Iterable[tuple[str, str]]) -> None:
    found = list(rows)
    width = max(len(name) for name, _ in found)
    for name, text in found:
        chat.screen.say(f"{name.ljust(width)}  {text}")


# -- showing -----------------------------------------------------------------------------------


def _show(chat: Chat, topic: str) -> None:
    if topic == "settings":
        _show_settings(chat)
    elif topic == "system":
        chat.screen.say(chat.session.system or _value_of(chat, "system"))
    elif topic == "history":
        _show_history(chat)
    elif topic:
        raise UsageError(f"/show has no {shown(topic, 40)}", hint=f"known: {', '.join(_TOPICS)}")
    else:
        _show_all(chat)


def _show_history(chat: Chat) -> None:
    if not chat.session.turns:
        chat.screen.say("(nothing was said yet)")
    for turn in chat.session.turns:
        chat.screen.say(f">>> {turn.user}")
        if turn.thinking:
            chat.screen.dim(turn.thinking)
        chat.screen.say(turn.answer + ("\n(interrupted)" if turn.interrupted else ""))


def _show_all(chat: Chat) -> None:
    used, context = chat.used(), chat.qwen.context
    changes = [
        f"{name}={_shown_field(name, value)}" for name, value in chat.session.settings.items()
    ]
    rows = [
        ("model", chat.qwen.name),
        ("context", f"{used:,} of {context:,} tokens used, {max(0, context - used):,} left"),
        ("think", _thinking(chat)),
        ("system", _value_of(chat, "system")),
        ("settings", f"{', '.join(changes) or 'the defaults'} (/set lists them)"),
        ("history", f"{counted(len(chat.session.turns), 'turn')} (/show history)"),
        ("file", str(chat.file or "not saved")),
    ]
    _table(chat, rows)


# -- files -------------------------------------------------------------------------------------


def _save(chat: Chat, argument: str) -> None:
    first, *rest = argument.split(None, 1) or [""]
    force = first == "--force"
    name = "".join(rest) if force else argument
    if not name and chat.file is None:
        raise UsageError("/save needs a file the first time", hint="/save FILE")
    path = path_of(name) if name else chat.file
    assert path is not None
    # This conversation's own file is replaced without --force.
    was_there = write_session(chat.session, path, overwrite=force or path == chat.file)
    chat.file = path
    chat.screen.say(f"saved to {path}{' (overwritten)' if was_there else ''}")


def _load(chat: Chat, argument: str) -> None:
    if not argument:
        raise UsageError("/load needs a file", hint="/load FILE")
    path = path_of(argument)
    chat.take_over(read_session(path), path)
    turns = counted(len(chat.session.turns), "turn")
    chat.screen.say(f"loaded {turns}: {chat.used():,} of {chat.qwen.context:,} tokens")


# -- the conversation --------------------------------------------------------------------------


def _changed_turns(chat: Chat, kept: slice) -> None:
    session = dataclasses.replace(chat.session, turns=chat.session.turns[kept])
    used, context = chat.used(session), chat.qwen.context
    chat.session = session
    left = counted(len(chat.session.turns), "turn")
    chat.screen.say(f"{left} left: {used:,} of {context:,} tokens")


def _clear(chat: Chat, _: str) -> None:
    _changed_turns(chat, slice(0, 0))
    chat.file = None  # another conversation begins, which must not replace this one


def _undo(chat: Chat, _: str) -> None:
    _check_turns(chat.session, 1)
    _changed_turns(chat, slice(None, -1))


def _drop(chat: Chat, argument: str) -> None:
    count = 1
    if argument:
        if not argument.isdecimal() or not 0 < len(argument) < 10 or int(argument) < 1:
            raise ParameterError(f"N is {shown(argument, 40)}; allowed: whole numbers from 1")
        count = int(argument)
    _check_turns(chat.session, count)
    _changed_turns(chat, slice(count, None))


def _retry(chat: Chat, _: str) -> None:
    _check_turns(chat.session, 1)
    chat.retry()


def _check_turns(session: Session, count: int) -> None:
    if count > len(session.turns):
        raise UsageError(
            f"the conversation has {counted(len(session.turns), 'turn')}",
            hint="/show lists what there is",
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    arguments: str
    what: str
    obey: Callable[[Chat, str], None]


COMMANDS: dict[str, _Entry] = {
    "help": _Entry("", "show this list", _help),
    "set": _Entry("[NAME [VALUE]]", "show the settings, show one, or change it", _set),
    "think": _Entry("[on|off|default]", "whether the model thinks first, where it can", _think),
    "show": _Entry("[settings|system|history]", "show what the chat is about, or one thing", _show),
    "save": _Entry("[--force] [FILE]", "write the conversation to FILE (again: the same)", _save),
    "load": _Entry("FILE", "go on with a conversation that /save wrote", _load),
    "retry": _Entry("", "answer the last message anew", _retry),
    "undo": _Entry("", "forget the last message and its answer", _undo),
    "drop": _Entry("[N]", "forget the N oldest messages and their answers (1)", _drop),
    "clear": _Entry("", "begin anew; system message and settings stay", _clear),
    "exit": _Entry("", "leave (also Ctrl-D)", _exit),
}
ALIASES = {"quit": "exit", "bye": "exit", "?": "help"}
