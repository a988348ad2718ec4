"""Where a chat's input comes from: prompt_toolkit's line editor, or plain lines from elsewhere.

prompt_toolkit is what there is in pure Python with bracketed paste, lines that wrap, wide
characters and resizing; the standard library's readline has neither several lines nor paste.
Pipes, and terminals that know no escape sequences, give plain lines. Knows what a command is, no
model and no session.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import termios
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qwick.cli.chat_commands import COMMANDS, is_open, words_after
from qwick.cli.stdin import check_size, read_line
from qwick.errors import UsageError

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

__all__ = ["PlainReader", "PromptReader", "Reader", "quiet_keys"]

PROMPT = ">>> "
MOST_HISTORY = 1 << 20  # bytes of the file; where it is longer, its newer half stays
MOST_ENTRY = 1 << 16  # characters; a longer text can be had again in this chat only
_BEGINNING = b"\n# "  # of each entry, as FileHistory writes it
PASTE_ON, PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"


class Reader(Protocol):
    """Gives one text at a time. EOFError: no more; KeyboardInterrupt: the text was given up."""

    recalls: bool  # whether what was typed can be had again (arrow up)

    def read(self) -> str:
        """Wait for a text, which may have several lines."""


class PlainReader:
    """Lines of standard input, as a pipe has them or as the terminal itself edits them."""

    recalls = False

    def __init__(self, prompt: str) -> None:
        """Show `prompt` before each text, on standard error; "" for a pipe."""
        self._prompt = prompt

    def read(self) -> str:
        r'''Wait for a line; one that begins with """ goes on until the next """.

        UsageError for bad bytes, and for a text that has no such end.
        '''
        sys.stderr.write(self._prompt)
        sys.stderr.flush()
        lines = [read_line()]
        unfinished, size = is_open(lines[0]), len(lines[0])
        while unfinished:
            try:
                lines.append(read_line())
            except EOFError:
                raise UsageError(
                    'the input ended within a text that begins with """',
                    hint='end it with """',
                ) from None
            unfinished, size = '"""' not in lines[-1], size + len(lines[-1])
            check_size('a text that begins with """', size)
        return "\n".join(lines)


class PromptReader:
    """A line editor with history, completion and texts of several lines."""

    recalls = True

    def __init__(self, history: Path | None) -> None:
        """Keep what is typed in the file `history` too; OSError where that is not possible."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.shortcuts import CompleteStyle

        kept: History = InMemoryHistory() if history is None else _file_history(history)
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,  # the bindings below decide when a text is complete
            prompt_continuation="",  # so that what is copied from the screen is what was typed
            key_bindings=_bindings(),
            completer=_completer(),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,  # no rows kept free for a menu
            history=kept,
            enable_suspend=True,
        )

    def read(self) -> str:
        """Wait for a text."""
        return self._session.prompt()


@contextlib.contextmanager
def quiet_keys(*, paste: bool) -> Iterator[None]:
    """Keep what is typed meanwhile from the screen, and for the next prompt; Ctrl-C goes through.

    paste: also let the terminal mark what is pasted, so that its lines stay one text.
    """
    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):  # no terminal
        yield
        return
    changed = termios.tcgetattr(descriptor)
    changed[3] &= ~(termios.ECHO | termios.ICANON)  # a line of the terminal's own is cut at 4,096
    changed[3] |= termios.NOFLSH  # or Ctrl-C would throw away what was typed
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, changed)
        if paste:
            _tell(PASTE_ON)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        if paste:
            _tell(PASTE_OFF)


def _tell(sequence: str) -> None:
    sys.stdout.write(sequence)
    sys.stdout.flush()


def _bindings() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")  # Alt-Enter
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


def _completer() -> Completer:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    paths = PathCompleter(expanduser=True)

    class CommandCompleter(Completer):
        """Commands, and what may follow them; nothing in a message."""

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            before = document.text_before_cursor
            if not before.startswith("/") or "\n" in document.text:
                return
            *done, current = before[1:].split(" ")
            if done and done[0] in ("save", "load"):
                path = before.split(" ", 1)[1].removeprefix("--force ")
                yield from paths.get_completions(Document(path), event)
                return
            found = words_after(done[0], done[1:]) if done else COMMANDS
            for word in found:
                if word.startswith(current):
                    yield Completion(word, start_position=-len(current))

    return CommandCompleter()


# -- the file of history -----------------------------------------------------------------------


def _file_history(path: Path) -> History:
    """Return the history in a file that only its owner may read; OSError if it cannot be kept."""
    from prompt_toolkit.history import FileHistory

    class PrivateHistory(FileHistory):
        def store_string(self, string: str) -> None:
            if len(string) > MOST_ENTRY:
                return
            lines = "".join(f"+{line}\n" for line in string.split("\n"))  # as FileHistory reads it
            # A full disk is no reason to end a conversation.
            with contextlib.suppress(OSError), open(path, "ab", opener=_private) as file:
                file.write(f"\n# {datetime.now()}\n{lines}".encode(errors="replace"))

    path = Path(os.path.realpath(path))  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "r+b", buffering=0, opener=_private) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise OSError(0, "it is no plain file")
        if os.pread(file.fileno(), len(_BEGINNING), 0) not in (b"", _BEGINNING):
            raise OSError(0, "it is there and is no history of a chat")
        if state.st_mode & 0o077:
            os.fchmod(file.fileno(), 0o600)
        if state.st_size > MOST_HISTORY:
            _shorten(path, file.fileno(), state.st_size)
    return PrivateHistory(path)


def _private(path: str, flags: int) -> int:
    """Open a file that may be there already; not blocked by a pipe, not readable by others."""
    return os.open(path, flags | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)


def _shorten(path: Path, descriptor: int, size: int) -> None:
    """Keep the newer half of the entries, whole ones; another chat may be open meanwhile."""
    rest = os.pread(descriptor, MOST_HISTORY // 2, size - MOST_HISTORY // 2)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "xb", opener=_private) as file:
            _, mark, entries = rest.partition(b"\n" + _BEGINNING)
            file.write(mark + entries)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
