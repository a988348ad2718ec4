"""Finds the public callables of the package, and the arguments that each takes."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any


def key_of(thing: Any) -> str:
    """Return a callable's own name: its module below qwick, and its qualified name."""
    home = "hub" if thing.__module__ == "qwick.hub" else thing.__module__.removeprefix("qwick.")
    return f"{home}.{thing.__qualname__}"


def public_names(module: str) -> Iterator[Any]:
    """Yield what a module makes public: `__all__`, or what it defines without an underscore."""
    loaded = import_module(module)
    names = getattr(loaded, "__all__", None)
    for name in names or [n for n in vars(loaded) if not n.startswith("_")]:
        thing = getattr(loaded, name)
        if callable(thing) and (names or getattr(thing, "__module__", "") == module):
            yield thing


def callables(modules: tuple[str, ...]) -> dict[str, Callable[..., Any]]:
    """Return every public function, class and method of the modules by its key."""
    found: dict[str, Callable[..., Any]] = {}
    for module in modules:
        for thing in public_names(module):
            if not inspect.isclass(thing):
                if inspect.isfunction(thing):
                    found[key_of(thing)] = thing
                continue
            if issubclass(thing, BaseException) or getattr(thing, "_is_protocol", False):
                continue
            if not issubclass(thing, enum.Enum):
                found[key_of(thing)] = thing
            for name, member in vars(thing).items():
                function = getattr(member, "__func__", member)
                if not name.startswith("_") and inspect.isfunction(function):
                    found[key_of(function)] = function
    return found


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that it names itself."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind not in kinds and p.name not in ("self", "cls")]
