"""The one interface through which grammar, stop strings, tool choice and budgets act on sampling.

A wish travels as data (`SteerSpec`) with its request and becomes a `Steer` where the engine runs,
through a factory given to the engine: a stop string needs a tokenizer; the engine knows no text.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Verdict(enum.Enum):
    """What happens after a token."""

    GO = "go"  # sample on
    STOP = "stop"  # the answer ends with this token


@dataclass(frozen=True, slots=True)
class Force:
    """Append these ids without sampling (at most up to max_tokens), then sample on, or stop."""

    ids: tuple[int, ...]
    stop: bool = False


class Steer(Protocol):
    """State of one request between its tokens; called from the engine's thread only."""

    def mask(self) -> NDArray[np.uint8] | None:
        """Return the allowed ids as bits, id i at bit i % 8 of byte i // 8; None: all."""
        ...

    def accept(self, token: int) -> Verdict | Force:
        """Note a sampled id (never a forced one, never a stop id) and say what follows."""
        ...


@dataclass(frozen=True, slots=True)
class SteerSpec:
    """What a steer is built from.

    stop: strings that end the answer, where all of one comes after the first min_tokens tokens.
    guide: the request's, which the factory understands. stop_ids: those of the request, by which an
    answer that a guide holds may end.
    """

    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    guide: object = None
    stop_ids: tuple[int, ...] = ()


SteerFactory = Callable[[SteerSpec], Steer]
