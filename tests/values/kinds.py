"""Kinds of arguments: sound values, and what else may be taken; and how one call is judged.

A value that its argument's kind does not take must be refused with one of our errors: success would
mean that it was ignored.
"""

from __future__ import annotations

import numbers
import os
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from qwick.errors import ParameterError, QwickError, shown

SECONDS = 60.0  # that a call may take; what is slower hangs


@dataclass(frozen=True)
class Kind:
    """Sound values, the first for the calls that try another argument; and what may be taken."""

    sound: tuple[Any, ...]
    takes: Callable[[Any], bool]

    @property
    def is_code(self) -> bool:
        """Whether it is a function of the caller's, whose errors are the caller's too."""
        return callable(self.sound[0])


def is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def is_text(value: object) -> bool:
    return isinstance(value, str)


def or_none(kind: Kind) -> Kind:
    return Kind((*kind.sound, None), lambda v: v is None or kind.takes(v))


def instance(*sound: Any) -> Kind:
    return Kind(sound, lambda v: isinstance(v, type(sound[0])))


def whole(*sound: int) -> Kind:
    return Kind(sound, is_whole)


def real(*sound: float) -> Kind:
    return Kind(sound, is_real)


def text(*sound: str) -> Kind:
    return Kind(sound, is_text)


def items(*sound: Any) -> Kind:
    return Kind(sound, lambda v: is_list(v) or isinstance(v, (np.ndarray, AbstractSet)))


def mapping(*sound: Any) -> Kind:
    return Kind(sound, lambda v: isinstance(v, Mapping))


def path(*sound: Any) -> Kind:
    return Kind(sound, lambda v: isinstance(v, (str, os.PathLike)) or v is None)


CALLABLE = Kind((lambda *_: None,), callable)  # the caller's own, whose errors are too
SWITCH = Kind((True, False), lambda v: isinstance(v, bool))
CONVERSATION = Kind(([{"role": "user", "content": "x"}],), is_list)
MESSAGES = Kind(("x", *CONVERSATION.sound), lambda v: is_text(v) or is_list(v))
TOOLS = or_none(Kind(([],), is_list))
JSON = Kind(
    ("x", 1, None, [1], {"a": [1.5]}),
    lambda v: v is None or isinstance(v, (bool, int, float, str, list, tuple, Mapping)),
)


@dataclass(frozen=True)
class Case:
    """A public callable: what to call (made of the world), its arguments, how to come to an end."""

    make: Callable[[Any], Callable[..., Any]]
    arguments: dict[str, Kind] = field(default_factory=dict)
    end: Callable[[Any], Any] = lambda found: found

    def call(self, world: Any, /, **changes: Any) -> Any:
        """Call it with sound values but for `changes`; return what comes, or our error."""
        given = {name: kind.sound[0] for name, kind in self.arguments.items()} | changes
        function = self.make(world)
        return patient(lambda: self.end(function(**given)))


class Hangs(AssertionError):
    """A call that did not end."""


def patient(ask: Callable[[], Any]) -> Any:
    """Return what `ask` does, or our error; a minute without either is a failure."""
    results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            results.put((ask(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()  # a hung one may not keep the process
    try:
        value, error = results.get(timeout=SECONDS)
    except Empty:
        raise Hangs(f"no end within {SECONDS:g} seconds") from None
    if error is not None and not isinstance(error, QwickError):
        raise error
    return error or value


def judge(case: Case, world: Any, name: str, value: Any, /, **others: Any) -> str | None:
    """Return what is wrong with how `case` takes `value` as its argument `name`, or None."""
    kind = case.arguments[name]
    if kind.is_code and callable(value):
        return None
    try:
        found = case.call(world, **{**others, name: value})
    except Hangs as error:
        return str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {shown(error)}"
    if isinstance(found, QwickError):
        return complaint(found)
    return (
        None
        if case.arguments[name].takes(value)
        else f"taken, though it is a {type(value).__name__}"
    )


WAYS_OUT = ("allowed:", "must be", "known:", "it reads:", "at most", "needs")


def complaint(error: QwickError) -> str | None:
    """Return what is wrong with one of our errors, or None."""
    again = pickle.loads(pickle.dumps(error))
    if (type(again), again.message, again.hint) != (type(error), error.message, error.hint):
        return "another error once it was pickled"
    if not error.message or len(str(error)) > 2000:
        return f"a message that nobody can read: {len(str(error))} characters"
    told = error.hint or any(words in error.message for words in WAYS_OUT)
    return None if told or not isinstance(error, ParameterError) else f"no way out: {error}"
