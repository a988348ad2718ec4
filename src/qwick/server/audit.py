"""The audit log: who was let in or refused, and what happened to keys. JSON, one line an event.

    audit.jsonl      what happened to keys: few lines, each on the disk before the call returns,
                     never dropped
    server.jsonl     starts, stops and refusals; server.jsonl.1 is the one before

Refusals come in floods, which must cost little and cannot be let fill the disk. The first of each
kind (reason, key, user) is handed to the system at once, for MOST_AT_ONCE kinds between two
flushes, so a process that is killed loses none of those. The others are counted in memory, equal
ones together, and `flush` writes them: at most MOST_PENDING lines at a time, in files of
MOST_BYTES, of which two are kept. A process that is killed loses what it counted since its last
flush, and leaves at most a cut last line, after which the next writer starts a new one.

No content and no secret gets in: a line holds words of this program, numbers and pseudonyms.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from qwick.errors import FormatError, QwickError, ResourceError
from qwick.hub.disk import sync_folder
from qwick.hub.locks import NoLocksError, locked
from qwick.server.pseudonyms import check_pseudonym
from qwick.server.state import alone, explained, state_folder
from qwick.values import a_path, refused, whole

__all__ = ["AuditLog", "Event", "KeyEvent", "Read", "ServerEvent", "read", "read_all", "utc_text"]

KeyEvent = Literal["key_created", "key_revoked", "key_deleted"]
ServerEvent = Literal["server_started", "server_stopped"]
Event = dict[str, Any]  # a line: time, event, and what else is known of it

MOST_PENDING = 1000  # different refusals between two flushes; what more there are is counted as one
MOST_AT_ONCE = 20  # kinds of refusals written as they come, each some 50 microseconds
MOST_BYTES = 4 << 20  # of server.jsonl, some 30,000 lines, before a new one is begun
MOST_LINE = 4096  # bytes; lines of this file have some 150
MOST_READ = 1_000_000  # events

_WORD = re.compile(r"[a-z][a-z0-9_]{0,31}")
_STRANGERS = stat.S_IWGRP | stat.S_IWOTH  # nothing is written where these may (state.py)
_Kind = tuple[str, str | None, str | None]  # reason, key, user
_OTHERS: _Kind = ("others", None, None)


@dataclass(frozen=True, slots=True)
class Read:
    """What a log holds: its events, oldest first, and how many lines are no events."""

    events: list[Event]
    unreadable: int  # cut by a killed process or a full disk


class AuditLog:
    """Writes the logs in the server's folder. Several processes and threads may, at the same time.

    A server calls `flush` once a second, in a thread, for it waits for the disk; `refused` does
    not.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use the server's folder; `clock` gives seconds since 1970. Writes nothing yet."""
        self.folder = state_folder(folder)
        self._clock = clock
        self._pending: dict[_Kind, _Count] = {}
        self._told: set[_Kind] = set()  # written as they came, since the last flush
        self._lock = threading.Lock()  # of both
        self._flushing = threading.Lock()
        self._failure: QwickError | None = None

    # -- at once -----------------------------------------------------------------------------------

    def key_event(self, event: KeyEvent, *keys: str) -> None:
        """Note what happened to keys, given by their pseudonyms; on the disk when this returns.

        Raises ResourceError when it cannot be written, and ParameterError.
        """
        if event not in get_args(KeyEvent):
            raise refused("event", event, ", ".join(get_args(KeyEvent)))
        now = utc_text(self._clock(), 3)
        for key in keys:
            check_pseudonym("key", key)
        lines = [_line({"time": now, "event": event, "key": key}) for key in keys]
        self._append(self.folder / "audit.jsonl", lines)

    def server_event(self, event: ServerEvent) -> None:
        """Note that the server has started or stops; on the disk when this returns.

        Raises ResourceError when it cannot be written, and ParameterError.
        """
        if event not in get_args(ServerEvent):
            raise refused("event", event, ", ".join(get_args(ServerEvent)))
        facts = {"time": utc_text(self._clock(), 3), "event": event, "process": os.getpid()}
        self._append(self.folder / "server.jsonl", [_line(facts)], MOST_BYTES)

    # -- counted -----------------------------------------------------------------------------------

    def refused(self, reason: str, *, key: str | None = None, user: str | None = None) -> None:
        """Note a refusal: the first of its kind in the file when this returns, if it is free.

        Repeats are counted for the next flush. Never waits for the disk, or for another process.
        reason: one word, such as `unknown`, `expired` or `requests`. key, user: pseudonyms, where
        they are known. Raises ParameterError for what is no word or no pseudonym.
        """
        if not (isinstance(reason, str) and _WORD.fullmatch(reason)):
            raise refused("reason", reason, "a word of a to z, 0 to 9 and _")
        for name, value in (("key", key), ("user", user)):
            if value is not None:
                check_pseudonym(name, value)
        what, now = (reason, key, user), self._clock()
        once = _Count(1, now, now)
        with self._lock:
            first = what not in self._told and len(self._told) < MOST_AT_ONCE
            if first:
                self._told.add(what)
        if first and self._tell(_refusal(*what, once)):
            return
        with self._lock:
            self._add(what, once)

    @property
    def unwritten(self) -> int:
        """Refusals that could not be written yet, since the last flush failed; else 0."""
        with self._lock:
            return sum(count.times for count in self._pending.values()) if self._failure else 0

    @property
    def failure(self) -> QwickError | None:
        """Why the last flush failed; None if it went well."""
        return self._failure

    def flush(self) -> bool:
        """Write the refusals that were counted, and say whether that went well.

        Where the disk is full, or the folder gone, they stay counted for the next time, so a server
        goes on refusing.
        """
        with self._flushing:
            with self._lock:
                pending, self._pending = self._pending, {}
                self._told.clear()
            if not pending:
                return self._failure is None
            try:
                lines = [_refusal(*what, count) for what, count in pending.items()]
                self._append(self.folder / "server.jsonl", lines, MOST_BYTES)
            except (ResourceError, FormatError) as error:
                with self._lock:
                    self._failure = error
                    newer, self._pending = self._pending, pending
                    for what, count in newer.items():
                        self._add(what, count)
                return False
            with self._lock:
                self._failure = None
            return True

    def _add(self, what: _Kind, more: _Count) -> None:
        if what not in self._pending and len(self._pending) >= MOST_PENDING:
            what = _OTHERS
        count = self._pending.setdefault(what, _Count(0, more.first, more.last))
        count.times += more.times
        count.last = more.last

    # -- the disk ----------------------------------------------------------------------------------

    def _append(self, path: Path, lines: list[bytes], most: int | None = None) -> None:
        """Append whole lines in one write, and bring them to the disk; `most` bytes a file."""
        data = b"".join(lines)
        with explained(path, "written"):
            with alone(path):
                if most is not None and _size(path) + len(data) > most and _size(path):
                    os.replace(path, path.with_name(f"{path.name}.1"))
                descriptor, size = _append_to(path, data, os.O_CREAT)
            # After the lock was given back: who writes at once must not wait for the disk.
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if not size:
                sync_folder(self.folder)

    def _tell(self, line: bytes) -> bool:
        """Append a line to the file of refusals as it is, and say whether that could be at once."""
        path = self.folder / "server.jsonl"
        try:
            with locked(path.with_suffix(".lock"), _busy):
                if (
                    os.stat(self.folder).st_mode & _STRANGERS
                    or _size(path) + len(line) > MOST_BYTES
                ):
                    return False
                os.close(_append_to(path, line, 0)[0])
        except (OSError, NoLocksError, ResourceError):
            return False  # the flush tries it again, and knows what to say
        return True


def _busy() -> None:
    raise ResourceError("the audit log is held by another process", hint="it is tried again")


def _append_to(path: Path, data: bytes, flags: int) -> tuple[int, int]:
    """Append whole lines in one write; return the descriptor and the size before. Lock is held."""
    flags |= os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data  # somebody was killed within a line
        _write(descriptor, data, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, size


@dataclass(slots=True)
class _Count:
    """How often something was refused, and from when to when, in seconds since 1970."""

    times: int
    first: float
    last: float


def _refusal(reason: str, key: str | None, user: str | None, count: _Count) -> bytes:
    facts: Event = {"time": utc_text(count.last, 3), "event": "refused", "reason": reason}
    facts |= {name: value for name, value in (("key", key), ("user", user)) if value is not None}
    if count.times > 1:
        facts |= {"count": count.times, "since": utc_text(count.first, 3)}
    return _line(facts)


def _line(facts: Event) -> bytes:
    return json.dumps(facts).encode() + b"\n"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _write(descriptor: int, data: bytes, size: int) -> None:
    """Write `data` in one call at the end of a file of `size` bytes, or leave it as it was."""
    try:
        done = os.write(descriptor, data)
        if done < len(data):  # the disk took a part: asked for the rest, it says why
            os.write(descriptor, data[done:])
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def utc_text(seconds: float, digits: int = 0) -> str:
    """Return seconds since 1970 as 2026-01-31T12:00:00Z, or with 3 digits more for milliseconds.

    Raises ParameterError for a time before the year 1 or after 9999, and for other digits.
    """
    if digits not in (0, 3):
        raise refused("digits", digits, "0 or 3")
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError, TypeError):
        raise refused("seconds", seconds, "seconds since 1970, up to the year 9999") from None
    text = moment.isoformat(timespec="milliseconds" if digits else "seconds")
    return text.replace("+00:00", "Z")


def read(path: str | os.PathLike[str], last: int = MOST_READ) -> Read:
    """Return the `last` events of a log file, oldest first; none when there is no such file.

    Lines that are no events (cut by a killed process) are counted. Raises ResourceError when the
    file cannot be read, and ParameterError.
    """
    path = a_path("path", path)
    last = whole("last", last, 0, MOST_READ)
    events: deque[Event] = deque(maxlen=last)
    unreadable = 0
    try:
        with explained(path, "read"), path.open("rb") as file:
            while line := file.readline(MOST_LINE):
                event = _event(line)
                if event is None:
                    unreadable += 1
                else:
                    events.append(event)
    except ResourceError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    return Read(list(events), unreadable)


def read_all(folder: str | os.PathLike[str] | None = None, last: int = MOST_READ) -> Read:
    """Return the `last` events of all logs in the server's folder, oldest first; as `read`."""
    place = state_folder(folder)
    parts = [read(place / name, last) for name in ("audit.jsonl", "server.jsonl.1", "server.jsonl")]
    events = sorted((e for part in parts for e in part.events), key=lambda event: event["time"])
    return Read(events[max(len(events) - last, 0) :], sum(part.unreadable for part in parts))


def _event(line: bytes) -> Event | None:
    """Return what a line says, or None for one that is not whole."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    whole_line = isinstance(found, dict) and all(
        isinstance(found.get(name), str) for name in ("time", "event")
    )
    return found if whole_line else None
