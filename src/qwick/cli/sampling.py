"""The options that say how tokens are drawn and when an answer ends: those of `qwick.Sampling`.

Shared by the verbs that generate; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from qwick.errors import ParameterError, shown

F = TypeVar("F", bound=Callable[..., Any])

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
    ("--ignore-eos", {"is_flag": True, "help": "Go on where the model would end."}),
    ("--loop-detection", {"is_flag": True, "help": "End an answer that only repeats itself."}),
    ("--logprobs", {"type": int, "help": "Report log probabilities, and the N best (--json)."}),
    ("--seed", {"type": int, "help": "The same seed gives the same answer."}),
)


def sampling_options(command: F) -> F:
    """Add the options to a click command; they arrive as keywords for `sampling_of`."""
    for name, settings in reversed(_OPTIONS):
        command = click.option(name, **settings)(command)
    return command


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
