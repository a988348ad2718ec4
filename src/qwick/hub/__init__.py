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
from qwick.hub.entries import CATALOG, DEFAULT, Entry, PinnedFile, Place, find, near, shortened
from qwick.hub.languages import language_code
from qwick.hub.listener import LOADING, Listener, SilentListener, StderrListener, check_listener
from qwick.hub.names import at_revision, parse
from qwick.hub.ollama import check_blob, ollama_models, ollama_path
from qwick.hub.series import Series, series_of, uses_of
from qwick.hub.shape import Shape, arch_config, shape_of
from qwick.hub.store import Store, Stored, attribution
from qwick.hub.upkeep import Checked, CheckedFile, Pruned, Usage, prune, usage, verify
from qwick.values import a_path, check_kind, check_switch

__all__ = [
    "CATALOG",
    "DEFAULT",
    "LOADING",
    "Catalog",
    "Checked",
    "CheckedFile",
    "Context",
    "Entry",
    "Format",
    "Languages",
    "License",
    "Listener",
    "Model",
    "Parameters",
    "PinnedFile",
    "Place",
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
    "at_revision",
    "attribution",
    "check_listener",
    "existing_path",
    "find",
    "language_code",
    "looks_like_path",
    "names_model",
    "near",
    "near_names",
    "ollama_models",
    "ollama_path",
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
    if model.startswith((".", "~", os.sep)):
        return True
    reference = parse(model)
    if reference is not None and (reference.hub == "ollama" or reference.pick is not None):
        return False
    return model.lower().endswith((".gguf", ".safetensors"))


def resolve(
    model: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
    *,
    store: Store | None = None,
) -> Path:
    """Return the path of a checkpoint: a .gguf file or a folder.

    `model` is a reference (see names.py; fetched and verified when the store lacks it), a folder, a
    file, or None for the default checkpoint. What the store knows by name wins over a folder of
    the same name (write `./name` for the folder), and a folder over what would be fetched. Raises
    ModelNotFoundError, and what Store.pull, ollama_path and check_blob raise.
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
    reference = None if is_path else parse(text)
    if reference is not None and reference.hub == "ollama":
        blob = ollama_path(reference.name)
        check_blob(blob, store, StderrListener() if listener is None else listener)
        return blob
    if not is_path and store.find(text) is not None:
        return store.pull(text, listener)
    path = existing_path(text)
    if path is not None:
        return path
    if is_path:
        raise _no_such_path(text)
    return store.pull(text, listener)  # raises ModelNotFoundError with likely names


def names_model(text: str, *, surely: bool = True) -> bool:
    """Whether a text is a model's name: of the store or the catalog, or one that says its hub.

    surely=False: also any owner/name, of which only the hub can tell whether there is one.
    """
    check_switch("surely", surely)
    reference = parse(text)
    if reference is None:
        return False
    if reference.hub is not None or ("/" in reference.name and reference.pick is not None):
        return True
    if Store().find(text) is not None or read_catalog().find(reference.name) is not None:
        return True
    return "/" in reference.name and not surely


def near_names(text: str, *, cutoff: float = 0.5) -> list[str]:
    """Return up to three names that look like `text`: what the store knows, then the catalog's."""
    found = near(text, Store().known(), cutoff=cutoff)
    return list(dict.fromkeys((*found, *read_catalog().near(text, cutoff=cutoff))))[:3]


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
