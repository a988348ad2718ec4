"""What a reader of tool calls gives, in the order of the text. Plain data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

CUT = "a call was cut off"


@dataclass(frozen=True, slots=True)
class Content:
    """Text that belongs to no call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins; calls are counted from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a call as the model wrote it, in words; nothing of it is lost."""

    message: str


_TEXTS = (Content, CallArguments)
Piece = Content | CallStart | CallArguments | Trouble


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces with neighbours of the same kind made one: what does not depend on cuts."""
    found: list[Piece] = []
    for kind, same in itertools.groupby(pieces, _kind):
        if kind is None:
            found += same
        else:
            text = "".join(piece.text for piece in same if isinstance(piece, _TEXTS))
            found.append(Content(text) if kind < 0 else CallArguments(kind, text))
    return found


def _kind(piece: Piece) -> int | None:
    """Return the same number for what may be joined; None: nothing may."""
    if isinstance(piece, CallArguments):
        return piece.index
    return -1 if isinstance(piece, Content) else None
