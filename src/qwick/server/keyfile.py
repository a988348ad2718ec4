"""An API key as data, and the text of the file that holds them all. Knows nothing of disks.

The text is JSON with a digest of what it says. A damaged one is refused, never read as fewer keys,
which could open a door that was shut.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from qwick.errors import FormatError, ParameterError, PermissionDeniedError, shown
from qwick.server.limits import Limits
from qwick.values import check_kind, check_switch, refused, whole

__all__ = ["LATEST", "WAY_OUT", "Key", "State", "check_name", "parsed", "text_of"]

State = Literal["good", "revoked", "expired"]

FORMAT = "qwick keys 1"
MOST_NAME = 64  # characters
LATEST = 253_402_300_799  # the last second of the year 9999
WAY_OUT = "nobody is let in; restore the file from a backup, or move it away and make new keys"

_ID = re.compile("[a-z0-9]{8}")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret. Times are whole seconds since 1970."""

    id: str
    name: str
    digest: str  # SHA-256 of the whole key, in hexadecimal
    created: int
    expires: int | None = None
    revoked: int | None = None
    # An admin key may also read what concerns everybody: /v1/monitor and /metrics tell how much
    # is asked and when. It cannot make keys: that takes the right to write to this machine.
    admin: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raise ParameterError for what no key has."""
        for name, form in (("id", _ID), ("digest", _DIGEST)):
            value = getattr(self, name)
            if not (isinstance(value, str) and form.fullmatch(value)):
                raise refused(name, value, form.pattern)
        check_name(self.name)
        whole("created", self.created, 0, LATEST)
        for name in ("expires", "revoked"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 0, LATEST)
        check_switch("admin", self.admin)
        check_kind("limits", self.limits, Limits, "Limits")

    def state(self, now: float) -> State:
        """Return whether it lets in at the time `now`, in seconds since 1970."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "good"

    def check_admin(self) -> None:
        """Raise PermissionDeniedError unless this is an admin key."""
        if not self.admin:
            raise PermissionDeniedError("this needs an admin key")


def check_name(name: object) -> None:
    """Raise ParameterError for what cannot be the name of a key."""
    fits = isinstance(name, str) and 1 <= len(name) <= MOST_NAME and name.isprintable()
    if not (fits and name == str(name).strip()):
        raise refused(
            "name", name, f"1 to {MOST_NAME} printable characters, without spaces at the ends"
        )


def _canonical(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()


def text_of(keys: dict[str, Key]) -> bytes:
    """Return the text of a file that holds these keys, in this order."""
    names = ("id", "name", "digest", "created", "expires", "revoked", "admin")
    rows = [
        {**{name: getattr(key, name) for name in names}, "limits": key.limits.to_json()}
        for key in keys.values()
    ]
    digest = hashlib.sha256(_canonical(rows)).hexdigest()
    text = json.dumps({"format": FORMAT, "sha256": digest, "keys": rows}, indent=1)
    return text.encode() + b"\n"


def parsed(path: Path, data: bytes) -> dict[str, Key]:
    """Return the keys by id; FormatError unless the text is exactly what was written."""

    def broken(why: str) -> FormatError:
        return FormatError(f"{path} is damaged: {why}", hint=WAY_OUT)

    try:
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except (ValueError, RecursionError) as error:
        raise broken(f"it is not the JSON that was written ({error})") from None
    if not isinstance(found, dict) or set(found) != {"format", "sha256", "keys"}:
        raise broken("it does not have the three parts of a file of keys")
    if found["format"] != FORMAT:
        raise broken(f"its format is {shown(found['format'])}; this version reads {FORMAT!r}")
    rows = found["keys"]
    if not isinstance(rows, list) or found["sha256"] != _digest_of(rows):
        raise broken("its keys do not have the digest that was written with them")
    try:
        keys = [Key(**{**row, "limits": Limits.from_json(row["limits"])}) for row in rows]
    except (ParameterError, TypeError, KeyError) as error:
        raise broken(f"it holds what is no key ({error})") from None
    by_id = {key.id: key for key in keys}
    if len(by_id) < len(keys):
        raise broken("two keys have the same id")
    return by_id


def _digest_of(rows: list[Any]) -> str:
    try:
        return hashlib.sha256(_canonical(rows)).hexdigest()
    except (RecursionError, ValueError):
        return ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
