"""Models that Ollama keeps on this machine, read in place: nothing is copied or changed.

    <models>/manifests/<host>/<namespace>/<model>/<tag>   a JSON list of layers
    <models>/blobs/sha256-<digest>                        what a layer holds

The layer of the media type application/vnd.ollama.image.model is a GGUF file; template, parameters
and licence are layers beside it, which the GGUF file's own stand for here. Source: Ollama's
`manifest/manifest.go`, `manifest/paths.go`, `types/model/name.go` and `server/images.go`, as of
August 2026. Manifests are read as what anybody may have written. A blob is hashed before it is
opened for the first time, and that it was sound is noted in the store:

    <home>/ollama/sha256-<digest>.json    path, size and time of change of the blob when hashed
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwick import settings
from qwick.errors import (
    DigestError,
    FormatError,
    ModelNotFoundError,
    ResourceError,
    UnsupportedError,
)
from qwick.formats.jsonfile import read_object
from qwick.hub.disk import digest_of, make_folder, write_atomically
from qwick.hub.entries import shortened
from qwick.hub.home import Home
from qwick.hub.listener import Listener
from qwick.hub.listings import text_of
from qwick.values import check_kind

__all__ = ["check_blob", "ollama_models", "ollama_path"]

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"  # meant where none is named
KIND = "application/vnd.ollama.image."
MOST_MANIFEST = 1 << 16  # bytes; those of the library have a thousand
MOST_LISTED = 1000

_PART = re.compile(r"\w[\w.-]{0,79}", re.ASCII)
_HOST = re.compile(r"\w[\w.:-]{0,349}", re.ASCII)  # may have a port


def ollama_path(name: str) -> Path:
    """Return the GGUF file of a model of Ollama's, by [[HOST/]NAMESPACE/]MODEL[:TAG].

    Raises ModelNotFoundError (not there; with what is), UnsupportedError (made of more than one
    GGUF file), FormatError (a manifest or blob that cannot be right), ResourceError (a folder that
    may not be read), and as `read_object`. The blob is not hashed: see `check_blob`.
    """
    check_kind("name", name, str, "a str")
    models = settings.OLLAMA.get()
    with _reading(models):
        manifest = _manifest_path(models, name)
        known = ollama_models() if manifest is None else []
    if manifest is None:
        raise ModelNotFoundError(
            f"Ollama has no model {shortened(name)!r} in {models}",
            hint=f"it has: {', '.join(known[:20])}" if known else "set OLLAMA_MODELS to its folder",
        )
    layers = read_object(manifest, MOST_MANIFEST).get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise FormatError(
            f"{manifest}: there is no list of layers",
            hint="run `ollama pull` for it again, or see `ollama list`",
        )
    kinds = [str(layer.get("mediaType")).removeprefix(KIND) for layer in layers]
    for kind in ("projector", "adapter"):
        if kind in kinds:
            raise UnsupportedError(
                f"{name} of Ollama has a layer {kind!r} beside its model; qwick reads none",
                hint="take a model without pictures and adapters, or `qwick models pull` one",
            )
    if kinds.count("model") != 1:
        raise UnsupportedError(
            f"{name} of Ollama has {kinds.count('model')} layers of a model; qwick reads one",
            hint="take one that is a single GGUF file",
        )
    with _reading(models):
        return _blob(models, manifest, layers[kinds.index("model")])


def check_blob(blob: Path, home: Home, listener: Listener) -> None:
    """Hash a blob unless that was done: its name is the SHA-256 of its bytes.

    Raises DigestError if they are others, and ResourceError where it cannot be read. Where `home`
    cannot be written it is hashed each time.
    """
    note = home.home / "ollama" / f"{blob.name}.json"
    with _reading(blob):
        status = blob.stat()
        sound = {"path": str(blob), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        with contextlib.suppress(OSError, ValueError):
            if json.loads(note.read_text("utf-8")) == sound:
                return
        what = "verifying Ollama's model"
        found = digest_of(
            blob, hashlib.sha256(), lambda done: listener.progress(what, done, status.st_size)
        )
    if blob.name != f"sha256-{found}":
        raise DigestError(
            f"{blob} has the SHA-256 {found}, which is not the one that it is named by",
            hint="remove it with `ollama rm`, and `ollama pull` it again",
        )
    with contextlib.suppress(OSError):
        make_folder(note.parent)
        write_atomically(note, json.dumps(sound, indent=1) + "\n")


def ollama_models() -> list[str]:
    """Return the names of the models that Ollama has here, as `ollama list` writes them.

    Raises ResourceError where its folder may not be read.
    """
    root = settings.OLLAMA.get() / "manifests"
    with _reading(root.parent):
        paths = _manifests(root)
    found = []
    for path in paths:
        host, namespace, model, tag = path.relative_to(root).parts
        name = f"{model}:{tag}"
        if (host, namespace) != (HOST, NAMESPACE):
            name = f"{namespace}/{name}" if host == HOST else f"{host}/{namespace}/{name}"
        found.append(name)
    return found


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what may not be read into a ResourceError; what is not there is the caller's."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{path} of Ollama cannot be read: {error.strerror or error}",
            hint="give this user the right to read it, or set OLLAMA_MODELS to another folder",
        ) from error


def _manifests(root: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        next(root.iterdir(), None)  # `glob` is silent about what it may not read
    return [path for path in sorted(root.glob("*/*/*/*"))[:MOST_LISTED] if path.is_file()]


def _manifest_path(models: Path, name: str) -> Path | None:
    """Return the manifest of a name, whose letters' case Ollama does not mind; None: not there."""
    *owners, last = name.split("/")
    model, _, tag = last.partition(":")
    if len(owners) > 2:
        return None
    defaults = (HOST, NAMESPACE)[: 2 - len(owners)]
    parts: list[str] = [*defaults, *owners, model, tag or TAG]
    if not _HOST.fullmatch(parts[0]) or not all(_PART.fullmatch(part) for part in parts[1:]):
        return None
    root = models / "manifests"
    path = root.joinpath(*parts)
    if path.is_file():
        return path
    same = str(path).lower()
    return next((one for one in _manifests(root) if str(one).lower() == same), None)


def _blob(models: Path, manifest: Path, layer: dict[str, Any]) -> Path:
    digest, size = text_of(layer.get("digest"), "sha256[:-][0-9a-f]{64}"), layer.get("size")
    if digest is None or type(size) is not int:
        raise FormatError(
            f"{manifest}: the layer of the model has no digest and size",
            hint="run `ollama pull` for it again, or see `ollama list`",
        )
    blob = models / "blobs" / digest.replace(":", "-")
    there = blob.stat().st_size if blob.is_file() else None
    if there != size:
        raise FormatError(
            f"{blob} has {there or 0:,} bytes instead of {size:,}, which {manifest} names",
            hint="run `ollama pull` for it again, or see `ollama list`",
        )
    return blob
