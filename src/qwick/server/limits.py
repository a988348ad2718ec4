"""What a key, or a user, may have: requests, tokens, answers at once, sizes, models. Plain data.

Read from the text of a command line, and written to the file of keys and back. Knows nothing of
what has been used already: that is admission.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from qwick.errors import ParameterError, PermissionDeniedError, shown
from qwick.values import check_kind, refused, whole

__all__ = ["PRESETS", "Limits", "Rate"]

MOST = 10**12  # of anything that is counted
MOST_MODELS = 100
MOST_NAME = 200  # characters of a model's name
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}

_RATE = re.compile(rf"([0-9]{{1,13}})/({'|'.join(UNITS)})")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in any stretch of time of one unit's length: 100/hour."""

    amount: int
    unit: str

    def __post_init__(self) -> None:
        """Raise ParameterError for an amount or a unit that cannot be."""
        whole("amount", self.amount, 1, MOST)
        if self.unit not in UNITS:
            raise refused("unit", self.unit, ", ".join(UNITS))

    @property
    def seconds(self) -> int:
        """The length of the window."""
        return UNITS[self.unit]

    def __str__(self) -> str:
        return f"{self.amount}/{self.unit}"

    @classmethod
    def parse(cls, name: str, text: object) -> Rate:
        """Read `100/hour`; ParameterError, with the name of the limit, for anything else."""
        found = _RATE.fullmatch(text) if isinstance(text, str) else None
        if found is None or not 1 <= int(found[1]) <= MOST:
            units = ", ".join(UNITS)
            raise refused(
                name, text, f"such as 100/hour; a count from 1 to 10^12 and one of {units}"
            )
        return cls(int(found[1]), found[2])


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one key, or one user, may have; None: as much as there is."""

    requests: Rate | None = None
    tokens: Rate | None = None  # of prompts and answers
    concurrent: int | None = None  # answers under way at once
    max_tokens: int | None = None  # of one answer
    max_characters: int | None = None  # of one request
    models: tuple[str, ...] | None = None  # those it may use

    def __post_init__(self) -> None:
        """Raise ParameterError for what is no limit."""
        for name in ("requests", "tokens"):
            check_kind(name, getattr(self, name), (Rate, type(None)), "a Rate, or none")
        for name in ("concurrent", "max_tokens", "max_characters"):
            value = getattr(self, name)
            if value is not None:
                allowed = f"whole numbers from 1 to {MOST}, or none"
                object.__setattr__(self, name, whole(name, value, 1, MOST, allowed))
        if self.models is not None:
            object.__setattr__(self, "models", _models(self.models))

    @classmethod
    def parse(
        cls,
        *,
        preset: str | None = None,
        requests: str | None = None,
        tokens: str | None = None,
        concurrent: str | None = None,
        max_tokens: str | None = None,
        max_characters: str | None = None,
        models: tuple[str, ...] | None = None,
    ) -> Limits:
        """Read the texts of a command line. What is None comes from the preset; `none` lifts it.

        Raises ParameterError for a text that is no such limit, and for an unknown preset.
        """
        if preset is not None and preset not in PRESETS:
            raise refused("preset", preset, ", ".join(PRESETS))
        limits = cls() if preset is None else PRESETS[preset]
        said = {"requests": requests, "tokens": tokens, "concurrent": concurrent}
        said |= {"max_tokens": max_tokens, "max_characters": max_characters}
        changes: dict[str, Any] = {
            name: None if text == "none" else _limit(name, text)
            for name, text in said.items()
            if text is not None
        }
        if models:
            changes["models"] = models
        return replace(limits, **changes)

    def check(
        self, *, model: str, characters: int, max_tokens: int | None, whose: str = "key"
    ) -> int | None:
        """Check one request by itself, and return the most tokens that its answer may have.

        characters: of everything that the request says. max_tokens: what it asks for; None, where
        it leaves that open, takes what the limit allows. whose: key or user, for messages. Costs
        nothing, so a server may ask before it counts the prompt's tokens. Raises
        PermissionDeniedError for a model that is not among the allowed, and ParameterError for what
        is too much.
        """
        check_kind("model", model, str, "a str")
        whole("characters", characters, 0, MOST)
        if self.models is not None and model not in self.models:
            raise PermissionDeniedError(
                f"model is {shown(model)}; allowed with this {whose}: {', '.join(self.models)}"
            )
        if self.max_characters is not None and characters > self.max_characters:
            raise ParameterError(
                f"the request has {characters} characters; "
                f"allowed with this {whose}: at most {self.max_characters}"
            )
        if max_tokens is None:
            return self.max_tokens
        whole("max_tokens", max_tokens, 0, MOST)
        if self.max_tokens is not None and max_tokens > self.max_tokens:
            raise ParameterError(
                f"max_tokens is {max_tokens}; allowed with this {whose}: at most {self.max_tokens}"
            )
        return max_tokens

    def to_json(self) -> dict[str, Any]:
        """Return what is limited, as JSON values: {"requests": "100/hour", "concurrent": 4}."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        shapes = {Rate: str, tuple: list}
        return {n: shapes.get(type(v), int)(v) for n, v in values if v is not None}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Limits:
        """Read what `to_json` has given; ParameterError for anything else."""
        check_kind("limits", found, Mapping, "an object")
        names = [field.name for field in fields(cls)]
        for name in found:
            if name not in names:
                raise refused("a limit", name, ", ".join(names))
        values = dict(found)
        for name in ("requests", "tokens"):
            if name in values:
                values[name] = Rate.parse(name, values[name])
        return cls(**values)

    def __str__(self) -> str:
        parts = []
        for name, value in self.to_json().items():
            text = ", ".join(value) if isinstance(value, list) else str(value)
            parts.append(f"{name.replace('_', '-')} {text}")
        return "; ".join(parts) or "none"


# `modest`: what a stranger on the internet may have of one small machine.
PRESETS: dict[str, Limits] = {
    "modest": Limits(requests=Rate(100, "hour"), max_tokens=1024, max_characters=8192),
}


def _limit(name: str, text: str) -> Rate | int:
    if name in ("requests", "tokens"):
        return Rate.parse(name, text)
    if not (isinstance(text, str) and re.fullmatch("[0-9]{1,13}", text)):
        raise refused(name, text, f"whole numbers from 1 to {MOST}, or none")
    return int(text)


def _models(models: object) -> tuple[str, ...]:
    allowed = f"1 to {MOST_MODELS} names of printable characters, at most {MOST_NAME} each"
    if not isinstance(models, (tuple, list)) or not 1 <= len(models) <= MOST_MODELS:
        raise refused("models", models, allowed)
    for name in models:
        if not (isinstance(name, str) and 1 <= len(name) <= MOST_NAME and name.isprintable()):
            raise refused("models", models, allowed)
    return tuple(models)
