"""Who asks: a key or nobody in particular, and what is kept apart for them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from qwick.server.keys import Key
from qwick.server.limits import Limits

ANYBODY = "-"  # the tenant of all who need no key


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request, let in.

    key: None where no key is needed. request_id: the name of this request in logs and answers.
    """

    key: Key | None
    request_id: str
    admin: bool = False  # may look at the whole server

    @property
    def tenant(self) -> str:
        """Whose turn it is in queues: one per key."""
        return ANYBODY if self.key is None else self.key.id

    @property
    def limits(self) -> Limits:
        """What this key may use."""
        return Limits() if self.key is None else self.key.limits

    def namespace(self, salt: str | None, *, share: bool = True) -> str:
        """Return what prefixes may be shared within: this key, and this salt of its requests.

        Not sharing at all is a name of its own for each request.
        """
        if not share:
            return f"once/{secrets.token_hex(16)}"
        return f"{self.tenant}/{salt or ''}"
