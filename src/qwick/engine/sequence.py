"""The ids of one request and where their keys and values lie.

What the scheduler moves around. Knows no request, no model and no arrays.

    ids      [ prompt .................. | generated ... ]
             0            cached          len(ids)    limit
             [ in the cache | pending    )
    pages    page j holds the positions j * page_size .. (j + 1) * page_size - 1
             [ indexed: others may hold them too | its own )
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Sequence:
    """Token state; compared by identity.

    `wanted_from` is the first position whose logits are still wanted: len(ids) - 1 while generating
    (so it moves with every token), the number of positions already read while scoring.

    `keys` are those of the first pages of `ids`, from `root` on (`prefix.py`); the first `indexed`
    of `pages` can be found under them, and are full: nothing is written into them any more.
    """

    number: int  # order of arrival: the only priority there is
    ids: list[int]
    wanted_from: int
    cached: int = 0
    pages: list[int] = field(default_factory=list)
    preemptions: int = 0
    root: bytes = b""
    keys: list[bytes] = field(default_factory=list)
    indexed: int = 0

    @property
    def pending(self) -> int:
        """Ids that are known but not yet in the cache."""
        return len(self.ids) - self.cached

    def append(self, token: int) -> None:
        """Add a generated id; the logits wanted next are those after it."""
        self.ids.append(token)
        self.wanted_from = len(self.ids) - 1
