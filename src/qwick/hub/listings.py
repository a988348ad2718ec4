"""What a hub lists, read as what anybody may have written: types, patterns and paths checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from qwick.hub.entries import PinnedFile
from qwick.hub.sources import SourceError
from qwick.values import check_kind

__all__ = ["OWNER", "REPOSITORY", "files_of", "is_plain_path", "is_revision", "text_of"]

MOST_FILES = 100_000
OWNER = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"  # or the name of a repository of theirs
REPOSITORY = f"{OWNER}/{OWNER}"
MOST_REVISION = 100
MOST_SIZE = 1 << 44  # bytes of one file; the largest hub allows 50 GB


def text_of(value: object, pattern: str) -> str | None:
    """Return a value that is a text of that pattern, else None."""
    return value if isinstance(value, str) and re.fullmatch(pattern, value) else None


def files_of(
    items: object, read: Callable[[dict[str, Any]], PinnedFile | None]
) -> tuple[PinnedFile, ...]:
    """Return the files of a list of objects, without those that could not be stored or checked.

    A file that is listed twice counts once. Raises SourceError for what is no list, or one
    that is too long or says two things of one file.
    """
    if not isinstance(items, list):
        raise SourceError("it sends no list of files")
    if len(items) > MOST_FILES:
        raise SourceError(f"it lists more than {MOST_FILES:,} files")
    found: dict[str, PinnedFile] = {}
    for file in (read(item) for item in items if isinstance(item, dict)):
        if file is None or not is_plain_path(file.path) or not 0 < file.size <= MOST_SIZE:
            continue
        if found.setdefault(file.path, file) != file:
            raise SourceError(f"it lists {file.path} twice, with two sizes or digests")
    return tuple(found.values())


def is_revision(text: str) -> bool:
    """Whether a text can be the name of a branch or tag, or a commit.

    What git allows (git-check-ref-format), without spaces and most of the signs.
    """
    check_kind("text", text, str, "a str")
    return (
        len(text) <= MOST_REVISION
        and re.fullmatch(r"\w[\w.+=,/-]*", text, re.ASCII) is not None
        and ".." not in text
        and not text.endswith(".")
        and all(
            part and not part.startswith(".") and not part.endswith(".lock")
            for part in text.split("/")
        )
    )


def is_plain_path(path: str) -> bool:
    """Whether a path stays below a folder, and no part of it is hidden or a temporary one's."""
    parts = path.split("/")
    return (
        len(path) <= 200
        and re.fullmatch(r"[\w.+@=,() \[\]/-]+", path, re.ASCII) is not None
        and all(part and not part.startswith(".") for part in parts)
        and parts[0] != "incoming"
    )
