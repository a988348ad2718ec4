"""The ids of one request and where their keys and values lie.

What the scheduler moves around. Knows no request, no model and no arrays.

    ids      [ prompt .................. | generated ... ]
             0            cached          len(ids)    limit
             [ in the cache | pending    )
    draft                                [ guessed, computed, not believed yet )
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
    `draft` are ids that may follow `ids`. It is filled before a step and empty after it; in between
    its keys and values are computed into the positions from len(ids) on. Those that turn out wrong
    stay there, beyond `cached`, until what is right is written over them.
    """

    number: int  # order of arrival: the only priority there is
    ids: list[int]
    wanted_from: int
    prompt: int = field(init=False)  # how many of the ids came with the request
    cached: int = 0
    pages: list[int] = field(default_factory=list)
    preemptions: int = 0
    root: bytes = b""
    rotation: int = 0  # which of the model's its keys turn by
    keys: list[bytes] = field(default_factory=list)
    indexed: int = 0
    draft: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """All ids that it begins with are the prompt."""
        self.prompt = len(self.ids)

    @property
    def pending(self) -> int:
        """Ids that are known but not yet in the cache."""
        return len(self.ids) - self.cached

    def append(self, token: int) -> bool:
        """Add a generated id; return whether the draft said so: then it is in the cache already.

        The logits wanted next are those after it.
        """
        self.ids.append(token)
        self.wanted_from = len(self.ids) - 1
        if not self.draft:
            return False
        if self.draft[0] != token:
            self.draft.clear()
            return False
        del self.draft[0]
        self.cached += 1
        return True
