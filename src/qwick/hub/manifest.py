"""What is written down of a checkpoint that was pulled by a reference: `qwick.json` in its folder.

With it the store knows the checkpoint without the network, and a fetch that was broken off goes on
with the same commit. It is read as what anybody may have written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwick.errors import QwickError
from qwick.formats.jsonfile import read_object
from qwick.hub.disk import write_atomically
from qwick.hub.entries import MOST_FILES, Entry, PinnedFile, Place, folder_of
from qwick.hub.listings import REPOSITORY, is_plain_path, is_revision, text_of
from qwick.hub.sources import SourceError

__all__ = ["NAME", "owner_of", "read_manifest", "write_manifest"]

NAME = "qwick.json"
SCHEMA = 1  # raised when the shape changes; another one is not read, and its folder left alone

_WORDS = r"[^\x00-\x1f\x7f]{1,300}"


def write_manifest(path: Path, entry: Entry) -> None:
    """Write down a checkpoint; OSError when the disk fails."""
    values = {
        "schema": SCHEMA,
        "name": entry.name,
        "title": entry.title,
        "author": entry.author,
        "license": entry.license,
        "places": [
            {"hub": place.hub, "repository": place.repository, "revision": place.revision}
            for place in entry.places
        ],
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256, "git_sha1": file.blob}
            for file in entry.files
        ],
    }
    write_atomically(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_manifest(path: Path) -> Entry | None:
    """Return the checkpoint that is written down in a file; None if there is none, or damaged."""
    entry = _read(path)
    return entry if entry is not None and folder_of(entry.name) == path.parent.name else None


def owner_of(path: Path) -> str | None:
    """Return the name of the checkpoint that a file says its folder is of, whatever its name.

    Two may have one folder: `/` and `:` are both written as `--`, and some file systems take upper
    and lower case for the same.
    """
    entry = _read(path)
    return None if entry is None else entry.name


def _read(path: Path) -> Entry | None:
    try:
        return _entry(read_object(path))
    except (QwickError, SourceError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _entry(values: dict[str, Any]) -> Entry | None:
    """Return the checkpoint of a manifest's values; any of many errors for another shape."""
    if values["schema"] != SCHEMA:
        return None
    texts = [text_of(values[key], _WORDS) for key in ("name", "title", "author", "license")]
    if len(values["files"]) > MOST_FILES:
        return None
    files = tuple(map(_file, values["files"]))
    places = tuple(
        Place(item["hub"], item["repository"], item["revision"])
        for item in values["places"]
        if item["hub"] in ("hf", "ms")
        and text_of(item["repository"], REPOSITORY)
        and is_revision(item["revision"])
    )
    name, title, author, license_ = texts
    if not (name and title and author and license_ and files and places):
        return None
    return Entry(name, title, author, license_, places, files)


def _file(item: dict[str, Any]) -> PinnedFile:
    path, size = item["path"], item["size"]
    sha256 = text_of(item["sha256"], "[0-9a-f]{64}")
    blob = text_of(item["git_sha1"], "[0-9a-f]{40}")
    if not is_plain_path(path) or type(size) is not int or size < 1 or not (sha256 or blob):
        raise ValueError(path)
    return PinnedFile(path, size, sha256, None if sha256 else blob)
