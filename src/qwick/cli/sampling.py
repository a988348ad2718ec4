"""How tokens are drawn and when an answer ends, as users say it: the fields of `qwick.Sampling`.

As options, for the verbs that generate; and as settings of a chat, read from what was typed and
shown so that it can be typed again. There the dataclass is the list: a field that it gains can be
set. Knows no model.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from qwick.errors import ParameterError, shown

__all__ = [
    "DEFAULT",
    "changed",
    "check_name",
    "checked",
    "names",
    "sampling_of",
    "sampling_options",
    "sampling_options_but",
    "shown_value",
]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT = "default"  # in place of a setting's value: what the checkpoint or its family says

_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--temperature", {"type": float, "help": "0 is greedy; default: the checkpoint's own."}),
    ("--top-k", {"type": int, "help": "Keep the k most probable tokens; 0: all."}),
    ("--top-p", {"type": float, "help": "Keep the most probable tokens up to this mass."}),
    ("--min-p", {"type": float, "help": "Keep tokens of this part of the best's probability."}),
    ("--repetition-penalty", {"type": float, "help": "Over prompt and answer; 1: none."}),
    ("--presence-penalty", {"type": float, "help": "Over the answer's tokens, -2 to 2."}),
    ("--frequency-penalty", {"type": float, "help": "The same, times how often each came."}),
    (
        "--logit-bias",
        {
            "multiple": True,
            "metavar": "ID=BIAS",
            "help": "Add BIAS (-100: never, to 100) to the logit of token ID; may be repeated.",
        },
    ),
    ("--max-tokens", {"type": int, "help": "Longest answer; default: what the context holds."}),
    ("--min-tokens", {"type": int, "help": "Shortest answer."}),
    ("--stop", {"multiple": True, "metavar": "TEXT", "help": "End at TEXT; may be repeated."}),
    (
        "--stop-ids",
        {
            "multiple": True,
            "type": int,
            "metavar": "ID",
            "help": "End at token ID, in place of the checkpoint's own; may be repeated.",
        },
    ),
    ("--ignore-eos", {"is_flag": True, "help": "Go on where the model would end."}),
    ("--loop-detection", {"is_flag": True, "help": "End an answer that only repeats itself."}),
    ("--logprobs", {"type": int, "help": "Report log probabilities, and the N best (--json)."}),
    ("--seed", {"type": int, "help": "The same seed gives the same answer."}),
)


def sampling_options_but(*left_out: str) -> Callable[[F], F]:
    """Return what adds the options, some left out, to a click command, for `sampling_of`."""

    def add(command: F) -> F:
        for name, settings in reversed(_OPTIONS):
            if name not in left_out:
                command = click.option(name, **settings)(command)
        return command

    return add


sampling_options = sampling_options_but()


def sampling_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of Sampling that were given; ParameterError for a bad value."""
    from qwick.engine.request import Sampling

    given = {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value != ()
    }
    if "logit_bias" in given:
        given["logit_bias"] = [_bias(text) for text in given["logit_bias"]]
    Sampling(**given)
    return given


def _bias(text: str) -> tuple[int, float]:
    id, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return int(id), float(value)
    except ValueError:
        raise ParameterError(
            f"--logit-bias is {shown(text)}; allowed: ID=BIAS, such as 151643=-100"
        ) from None


# -- as settings -------------------------------------------------------------------------------

# Fields that a chat would take and then show nothing of.
_WITHOUT_EFFECT = {"logprobs": "ask for them with `qwick run --logprobs 0 --json`"}
_SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def names() -> list[str]:
    """Return the fields that can be set, in the order of the dataclass."""
    return [name for name in _kinds() if name not in _WITHOUT_EFFECT]


def changed(settings: Mapping[str, Any], name: str, text: str) -> dict[str, Any]:
    """Return `settings` with the field `name` as `text` says; DEFAULT takes it out.

    Raises ParameterError for an unknown name and for a value that cannot be, alone or beside the
    others; nothing is changed.
    """
    check_name(name)
    rest = {key: value for key, value in settings.items() if key != name}
    if text == DEFAULT:
        return checked(rest)
    return checked({**rest, name: _parsed(name, text)})


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of Sampling in their plain form; ParameterError for a bad name or value."""
    from qwick.engine.request import Sampling

    for name, value in settings.items():
        check_name(name)
        if value is None:
            raise ParameterError(f"{name} is None; allowed: a value, or to leave it out")
    sampling = Sampling(**settings)
    return {name: getattr(sampling, name) for name in settings}


def shown_value(value: Any) -> str:
    """Return a value as `changed` would read it again."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return " ".join(f"{id}={repr(bias).removesuffix('.0')}" for id, bias in value)
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return " ".join(map(str, value))
    if isinstance(value, tuple):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _kinds() -> dict[str, Any]:
    """Return the fields of Sampling and their types; `X | None` counts as X."""
    from qwick.engine.request import Sampling

    found = {}
    for name, kind in typing.get_type_hints(Sampling).items():
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            (kind,) = (k for k in typing.get_args(kind) if k is not type(None))
        found[name] = kind
    return found


def check_name(name: str) -> None:
    """Raise ParameterError, with the likely name, unless a chat can set this field."""
    if name in _WITHOUT_EFFECT:
        raise ParameterError(f"a chat does not show {name}", hint=_WITHOUT_EFFECT[name])
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise ParameterError(f"there is no setting {shown(name)}", hint=hint)


def _parsed(name: str, text: str) -> Any:
    """Return the value that `text` is for a field, as its type asks for; ParameterError."""
    kind = _kinds()[name]
    inner = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None
    if inner is not None and text == "[]":
        return []
    if inner is str:
        return _strings(name, text)
    try:
        if kind in (int, float):
            return kind(text)
        if kind is bool:
            return _SWITCH[text.lower()]
        words = text.replace(",", " ").split()
        if inner is int:
            return [int(word) for word in words]
        return [(int(id), float(bias)) for id, _, bias in (word.partition("=") for word in words)]
    except (ValueError, KeyError):
        raise ParameterError(f"{name} is {shown(text)}; allowed: {_allowed(kind, inner)}") from None


def _allowed(kind: Any, inner: Any) -> str:
    if kind is bool:
        return "on or off"
    if kind is int:
        return "a whole number"
    if kind is float:
        return "a number"
    return "token ids" if inner is int else "ID=BIAS ..., such as 151643=-100"


def _strings(name: str, text: str) -> list[str]:
    """Return the strings of a JSON list or string, or `text` itself as the only one."""
    if not text.startswith(("[", '"')):
        return [text]
    value = _json(name, text)
    found = [value] if isinstance(value, str) else value
    if not (isinstance(found, list) and all(isinstance(item, str) for item in found)):
        raise ParameterError(f"{name} is {shown(text)}; allowed: text, or a JSON list of strings")
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParameterError(
            f"{name} is {shown(text)}, which is no JSON: {error}",
            hint='quotes are double: ["a", "b"]',
        ) from None
