"""A model for a verb: the options that say how it is loaded, and the loading with its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qwick.cli.progress import listening
from qwick.settings import MAX_THREADS

if TYPE_CHECKING:
    from qwick.llm import Qwen

__all__ = ["load", "load_options"]

F = TypeVar("F", bound=Callable[..., Any])


def load_options(command: F) -> F:
    """Add --threads and --ctx to a click command; they arrive as keywords for `load`."""
    command = click.option(
        "--ctx",
        type=click.IntRange(1),
        help="Context in tokens; default: what model and memory allow.",
    )(command)
    return click.option(
        "--threads",
        type=click.IntRange(1, MAX_THREADS),
        help="Kernel threads; default: the cores that may be used.",
    )(command)


def load(model: str | None, threads: int | None, ctx: int | None, *, drafts: bool) -> Qwen:
    """Return the loaded model, fetched when the store lacks it; progress is shown for both."""
    from qwick import hub

    with listening() as listener:
        path = hub.resolve(model, listener)
        from qwick.llm import Qwen  # after the model's name is known to be right

        return Qwen.load(path, threads=threads, ctx=ctx, drafts=drafts, listener=listener)
