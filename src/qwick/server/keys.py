"""API keys: who may come in. One file holds them, a command changes it, a running server sees it.

A key is `qk-<id>-<secret>`: an id of 8 characters, by which it is listed and revoked, and a secret
of 32 random bytes, of which the file has only the SHA-256. A slow hash protects passwords, which
can be guessed; 2^256 secrets cannot, and a slow hash would cost time with every request.

The file is replaced whole, so a reader finds the old or the new one; a damaged one lets nobody in
(keyfile.py). Revoked keys stay in it, so that a file without good keys is no missing file. Knows
nothing of HTTP, and not what has been used.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Literal

from qwick.errors import AuthenticationError, FormatError, QwickError, ResourceError
from qwick.server.audit import AuditLog, KeyEvent
from qwick.server.keyfile import LATEST, WAY_OUT, Key, check_name, parsed, text_of
from qwick.server.limits import Limits
from qwick.server.pseudonyms import Pseudonyms
from qwick.server.state import alone, explained, read_private, state_folder, write_whole
from qwick.values import check_kind, refused, whole

__all__ = ["Key", "KeyRing", "Refusal", "parse_expiry"]

Reason = Literal["missing", "unknown", "revoked", "expired"]

MOST_KEYS = 10_000
MOST_BYTES = 16 << 20  # of the file
PRUNE = "`qwick keys prune` deletes the keys that are revoked or expired"

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_KEY = re.compile(r"qk-([a-z0-9]{8})-[A-Za-z0-9_-]{43}")
_SPAN = re.compile(r"([0-9]{1,6})([hdw])")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a bearer is not let in. The log may know `reason` and `id`, the client hears `error`."""

    reason: Reason
    id: str | None = None  # of a key that the bearer does hold: revoked or expired

    @property
    def error(self) -> AuthenticationError:
        """What to tell: the same words for unknown and revoked, as neither is anyone's business."""
        if self.reason == "missing":
            return AuthenticationError(
                "there is no API key", hint='send the header "Authorization: Bearer qk-..."'
            )
        if self.reason == "expired":
            return AuthenticationError("the API key has expired")
        return AuthenticationError("the API key is not valid")


class KeyRing:
    """The keys of one server's folder. Processes may share it; one object is for one thread."""

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use the server's folder; `clock` gives seconds since 1970. Reads and writes nothing."""
        self.path = state_folder(folder) / "keys.json"
        self._clock = clock
        self._audit = AuditLog(self.path.parent, clock=clock)
        self._seen: tuple[int, ...] | None = None  # the identity of the file that was read last
        self._keys: dict[str, Key] = {}
        self._error: FormatError | None = None
        self._required = False

    # -- the server's side -------------------------------------------------------------------------

    def find(self, bearer: str | None) -> Key | Refusal:
        """Return the key that `bearer` (the header's text after "Bearer ") is, or why it is none.

        Looks whether the file has changed, and reads it again only then. Raises FormatError for a
        damaged file and ResourceError for one that cannot be read: let nobody in, and answer 503.
        """
        keys = self._current()
        if bearer is None or bearer == "":
            return Refusal("missing")
        check_kind("bearer", bearer, str, "a str, or none")
        found = _KEY.fullmatch(bearer)
        if found is None:
            return Refusal("unknown")
        key = keys.get(found[1])
        # Compared in constant time, and with something even when there is no such id.
        right = hmac.compare_digest(_digest(bearer), key.digest if key is not None else "0" * 64)
        if key is None or not right:
            return Refusal("unknown")
        state = key.state(self._clock())
        return key if state == "good" else Refusal(state, key.id)

    def required(self) -> bool:
        """Whether a key is demanded: there is a file of keys, or has been since this object is.

        True too when all keys are revoked or expired, so that the last one to go opens no door.
        Raises as `find`.
        """
        self._current()
        return self._required

    def all(self) -> tuple[Key, ...]:
        """Return all keys, the oldest first; raises as `find`."""
        return tuple(self._current().values())

    # -- the command's side ------------------------------------------------------------------------

    def create(
        self,
        name: str,
        *,
        expires: int | None = None,
        limits: Limits | None = None,
        admin: bool = False,
    ) -> tuple[Key, str]:
        """Make a key and return it with its text, which is nowhere else and cannot be had again.

        expires: whole seconds since 1970. On the disk when this returns. Raises ParameterError (a
        name that another key has, a time that is past), FormatError and ResourceError.
        """
        check_name(name)
        now = int(self._clock())
        if expires is not None:
            whole("expires", expires, now + 1, LATEST, "a time to come, up to the year 9999")
        with self._writing() as keys:
            self._check_new(name, keys)
            key_id = _new_id({*keys, *(key.name for key in keys.values())})
            text = f"qk-{key_id}-{secrets.token_urlsafe(32)}"
            key = Key(key_id, name, _digest(text), now, expires, None, admin, limits or Limits())
            # First the log: there is no key that it has not told of. (One that it has told of may
            # be missing, if this process is killed here.)
            self._note("key_created", key)
            self._write({**keys, key_id: key})
        return key, text

    def revoke(self, which: str) -> Key:
        """Let a key, given by id or name, in no more; return it. A revoked one stays as it is.

        On the disk when this returns. Raises ParameterError when there is no such key, FormatError
        and ResourceError; where only the log could not be written the message says so.
        """
        check_kind("key", which, str, "an id or a name")
        with self._writing() as keys:
            key = _chosen(which, keys)
            if key.revoked is not None:
                return key
            key = replace(key, revoked=max(int(self._clock()), key.created))
            # First the file: a log that cannot be written must not keep a key alive.
            self._write({**keys, key.id: key})
            try:
                self._note("key_revoked", key)
            except QwickError as error:
                raise ResourceError(
                    f"the key {key.id} is revoked, but the log does not tell: {error.message}",
                    hint=error.hint,
                ) from error
        return key

    def prune(self) -> tuple[Key, ...]:
        """Delete the keys that are revoked or expired, and return them; raises as `create`."""
        with self._writing() as keys:
            now = self._clock()
            gone = [key for key in keys.values() if key.state(now) != "good"]
            if gone:
                self._note("key_deleted", *gone)
                self._write({i: key for i, key in keys.items() if key.state(now) == "good"})
        return tuple(gone)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[dict[str, Key]]:
        """Yield the keys as they are on the disk, while nobody else can change them."""
        with alone(self.path):
            self._seen = None
            yield dict(self._current())

    def _check_new(self, name: str, keys: dict[str, Key]) -> None:
        if len(keys) >= MOST_KEYS:
            raise ResourceError(
                f"{self.path} has {len(keys)} keys, which is as many as it may",
                hint=PRUNE,
            )
        for key in keys.values():
            if name == key.id or (name == key.name and key.revoked is None):
                raise refused(
                    "name", name, f"one that no other key has (revoke {key.id} first, to reuse it)"
                )

    def _note(self, event: KeyEvent, *keys: Key) -> None:
        pseudonyms = Pseudonyms(self.path.parent)
        self._audit.key_event(event, *(pseudonyms.of("key", key.id) for key in keys))

    # -- the file ----------------------------------------------------------------------------------

    def _current(self) -> dict[str, Key]:
        """Return the keys by id as the file has them now, reading it only when it has changed."""
        with explained(self.path, "read"):
            try:
                seen = _identity(os.stat(self.path))
            except FileNotFoundError:
                seen = None
        if seen is None or seen != self._seen:
            self._load()
        if self._error is not None:  # a new one each time: a traceback grows with every raise
            raise FormatError(self._error.message, hint=self._error.hint)
        return self._keys

    def _load(self) -> None:
        self._keys, self._error, self._seen = {}, None, None
        try:
            read = read_private(self.path, MOST_BYTES, WAY_OUT)
            if read is None:
                return
            self._required = True
            self._seen = _identity(read[1])
            self._keys = parsed(self.path, read[0])
        except FormatError as error:
            self._required = True
            self._error = error

    def _write(self, keys: dict[str, Key]) -> None:
        data = text_of(keys)
        if len(data) > MOST_BYTES:  # it could not be read again
            raise ResourceError(
                f"{self.path} would have {len(data)} bytes; the limit is {MOST_BYTES}",
                hint=PRUNE,
            )
        with explained(self.path, "written"):
            write_whole(self.path, data)


def parse_expiry(text: str, now: float) -> int:
    """Return the time, in seconds since 1970, that `30d`, `12h`, `2w` or `2026-12-31` stands for.

    A span is counted from `now`; a date means its beginning in UTC. Raises ParameterError.
    """
    check_kind("expires", text, str, "a str")
    found = _SPAN.fullmatch(text)
    if found is not None:
        moment = int(now) + int(found[1]) * _SECONDS[found[2]]
    else:
        try:
            day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc)
            moment = int(day.timestamp())
        except ValueError:
            moment = -1
    if not now < moment <= LATEST:
        raise refused("expires", text, "such as 12h, 30d or 2w from now, or a date to come")
    return moment


def _chosen(which: str, keys: dict[str, Key]) -> Key:
    """Return the key of that id or name; of several of that name the one that is not revoked."""
    if which in keys:
        return keys[which]
    named = [key for key in keys.values() if key.name == which]
    alive = [key for key in named if key.revoked is None]
    if not named:
        raise refused("key", which, "an id or name that `qwick keys list` shows")
    return (alive or named)[-1]


def _new_id(taken: set[str]) -> str:
    while True:
        found = "".join(secrets.choice(_ID_LETTERS) for _ in range(8))
        if found not in taken:
            return found


def _digest(bearer: str) -> str:
    return hashlib.sha256(bearer.encode()).hexdigest()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Return what no two files in the same place share: a new one has another inode or time."""
    place, times = (status.st_dev, status.st_ino), (status.st_mtime_ns, status.st_ctime_ns)
    return (*place, *times, status.st_size)
