"""Checkpoints by name: the catalogue, the sources they come from and the store they are kept in.

`resolve` is the door: a name, a folder or a file becomes a path that can be opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from qwick.errors import ModelNotFoundError
from qwick.hub.catalog import (
    Catalog,
    Context,
    Format,
    Languages,
    License,
    Model,
    Parameters,
    PublishedFile,
    Score,
    read_catalog,
)
from qwick.hub.entries import CATALOG, DEFAULT, Entry, find, near, shortened
from qwick.hub.listener import LOADING, Listener, SilentListener, StderrListener, check_listener
from qwick.hub.series import Series, series_of, uses_of
from qwick.hub.shape import Shape, arch_config, shape_of
from qwick.hub.store import Store, Stored, attribution
from qwick.hub.upkeep import Checked, Pruned, Usage, prune, usage, verify
from qwick.values import a_path, check_kind

__all__ = [
    "CATALOG",
    "DEFAULT",
    "LOADING",
    "Catalog",
    "Checked",
    "Context",
    "Entry",
    "Format",
    "Languages",
    "License",
    "Listener",
    "Model",
    "Parameters",
    "Pruned",
    "PublishedFile",
    "Score",
    "Series",
    "Shape",
    "SilentListener",
    "StderrListener",
    "Store",
    "Stored",
    "Usage",
    "arch_config",
    "attribution",
    "check_listener",
    "existing_path",
    "find",
    "looks_like_path",
    "near",
    "prune",
    "read_catalog",
    "resolve",
    "series_of",
    "shape_of",
    "shortened",
    "usage",
    "uses_of",
    "verify",
]


def looks_like_path(model: str) -> bool:
    """Whether `model` can only be meant as a file or folder, whatever names the catalogue has."""
    check_kind("model", model, str, "a str")
    return model.startswith((".", "~", os.sep)) or model.lower().endswith((".gguf", ".safetensors"))


def resolve(
    model: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
    *,
    store: Store | None = None,
) -> Path:
    """Return the path of a checkpoint: a .gguf file or a folder.

    `model` is a catalogue name (fetched and verified when the store lacks it), a folder, a file, or
    None for the default checkpoint. A catalogue name wins over a folder of the same name: write
    `./name` for the folder. Raises ModelNotFoundError, and what Store.pull raises.
    """
    if store is None:
        store = Store()
    check_kind("store", store, Store, "a Store, or none")
    if listener is not None:
        check_listener(listener)
    if model is None:
        return store.pull(DEFAULT, listener)
    named = isinstance(model, str)
    text = str(model if isinstance(model, str) else a_path("model", model, "a name or a path"))
    is_path = not named or looks_like_path(text)
    if not is_path and find(text, store.catalog) is not None:
        return store.pull(text, listener)
    path = existing_path(text)
    if path is not None:
        return path
    if is_path:
        raise _no_such_path(text)
    return store.pull(text, listener)  # raises ModelNotFoundError with likely names


def existing_path(text: str) -> Path | None:
    """Return the file or folder of that path if there is one.

    Raises ModelNotFoundError with the reason where the system cannot even tell: no access, a name
    that is too long, the ~ of nobody.
    """
    if not isinstance(text, str):
        text = str(a_path("text", text))
    try:
        path = Path(text).expanduser()
        return path if text and path.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a NUL
        raise _no_such_path(text, str(getattr(error, "strerror", None) or error)) from None


def _no_such_path(text: str, reason: str = "") -> ModelNotFoundError:
    return ModelNotFoundError(
        f"there is no file or folder {shortened(text)!r}" + (f": {reason}" if reason else ""),
        hint="check the path, or see `qwick models list`",
    )
