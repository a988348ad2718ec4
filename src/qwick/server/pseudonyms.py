"""Names for logs: the same for the same user or key, and of no use to whoever reads the log.

A pseudonym is HMAC-SHA256 under a secret of this installation. A plain hash would not do: user
names and key ids are few enough to try them all. Knows nothing of logs, users or keys.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Literal, get_args

from qwick.errors import FormatError, ParameterError
from qwick.server.state import alone, explained, read_private, state_folder, write_whole
from qwick.values import check_kind, refused

__all__ = ["Kind", "Pseudonyms", "check_pseudonym"]

Kind = Literal["user", "key", "address"]

SECRET_BYTES = 32
# Of 64. Among a million users two share a pseudonym with a chance below 1 in 10^7 (n^2 / 2^65).
SHOWN = 16
_PSEUDONYM = re.compile(f"[0-9a-f]{{{SHOWN}}}")


class Pseudonyms:
    """Makes pseudonyms with the secret of one installation, which the first to need it makes."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Read the secret in the server's folder, or make it.

        Raises FormatError for a secret that is damaged, ResourceError when it cannot be read or
        written.
        """
        self._secret = _secret(state_folder(folder))

    def of(self, kind: Kind, text: str) -> str:
        """Return the pseudonym of `text`: 16 hexadecimal characters.

        The same text of another kind has another one. Raises ParameterError for another kind, and
        for what is no text.
        """
        if kind not in get_args(Kind):
            raise refused("kind", kind, ", ".join(get_args(Kind)))
        check_kind("text", text, str, "a str")
        # JSON may hold half of a UTF-16 pair, which a client can so send as its user.
        content = kind.encode() + b"\0" + text.encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()[:SHOWN]


def check_pseudonym(name: str, value: object) -> None:
    """Raise ParameterError for what is no pseudonym: a clear id must never get into a log."""
    if not (isinstance(value, str) and _PSEUDONYM.fullmatch(value)):
        # What it is instead may be somebody's name, so it is not quoted.
        raise ParameterError(
            f"{name} is no pseudonym; allowed: {SHOWN} hexadecimal characters, of Pseudonyms.of"
        )


def _secret(folder: Path) -> bytes:
    path = folder / "secret"
    found = _stored(path)
    if found is None:
        with alone(path):
            found = _stored(path)  # another process may have been first
            if found is None:
                found = secrets.token_bytes(SECRET_BYTES)
                with explained(path, "written"):
                    write_whole(path, found)
    return found


def _stored(path: Path) -> bytes | None:
    way_out = "delete it for a new one; names in older lines of the logs then fit no newer ones"
    read = read_private(path, SECRET_BYTES, way_out)
    if read is None:
        return None
    if len(read[0]) != SECRET_BYTES:
        raise FormatError(
            f"{path} has {len(read[0])} bytes; a secret has {SECRET_BYTES}", hint=way_out
        )
    return read[0]
