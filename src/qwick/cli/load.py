"""A model for a verb: the options that say how it is loaded, and the loading with its progress."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from qwick.cli.fit import check_fits_here
from qwick.cli.progress import listening
from qwick.settings import MAX_THREADS

if TYPE_CHECKING:
    from qwick.llm import Qwen

__all__ = ["load", "load_options"]

F = TypeVar("F", bound=Callable[..., Any])


def load_options(command: F) -> F:
    """Add the options of loading to a click command, which gets them as `loading`.

    That is a dict of keywords of `Qwen.load`.
    """

    @functools.wraps(command)
    def told(**given: Any) -> Any:
        loading = {name: given.pop(name) for name in _NAMES}
        return command(loading=loading, **given)

    for option in reversed(_OPTIONS):
        told = option(told)
    return cast(F, told)


_NAMES = ("threads", "ctx", "yarn", "quantize", "weights_ram")
_OPTIONS = (
    click.option(
        "--threads",
        type=click.IntRange(1, MAX_THREADS),
        help="Kernel threads; default: the cores that may be used.",
    ),
    click.option(
        "--ctx",
        type=click.IntRange(1),
        help="Context in tokens; default: what model and memory allow.",
    ),
    click.option(
        "--yarn",
        type=float,
        metavar="FACTOR",
        help="Stretch positions so many times, for requests beyond the native context.",
    ),
    click.option(
        "--quantize",
        type=click.Choice(["int8", "int4", "nf4"]),
        help="Round the weights to 8 or 4 bits while they are loaded; default: as they are stored.",
    ),
    click.option(
        "--weights-ram",
        metavar="SIZE",
        help="Most memory for weights, such as 2GB: experts beyond it stay in a file.",
    ),
)


def load(model: str | None, loading: dict[str, Any], *, drafts: bool) -> Qwen:
    """Return the loaded model, fetched when the store lacks it; progress is shown for both."""
    from qwick import hub
    from qwick.values import size_in_bytes

    if loading["weights_ram"] is not None:  # refuse it before a checkpoint is fetched
        size_in_bytes("--weights-ram", loading["weights_ram"])
    check_fits_here(model, loading)
    with listening() as listener:
        path = hub.resolve(model, listener)
        from qwick.llm import Qwen  # after the model's name is known to be right

        return Qwen.load(path, **loading, drafts=drafts, listener=listener)
