"""Files and folders that outlive a power loss, and the digests of files.

What may be renamed before its bytes are on the disk may be empty after a power loss, so whatever is
moved here is synced first, and its folder afterwards. Knows nothing about checkpoints.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

__all__ = [
    "CHUNK",
    "Hasher",
    "bytes_below",
    "delete",
    "digest_of",
    "make_folder",
    "move",
    "sync_folder",
    "write_atomically",
]


class Hasher(Protocol):
    """What hashlib returns."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""

    def copy(self) -> Hasher:
        """Return another with the same bytes."""


CHUNK = 1 << 20  # bytes read, hashed or handed on at once


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents where they are missing, each synced into the one above."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders
            raise
    finally:
        os.close(descriptor)


def move(synced: Path, path: Path) -> None:
    """Give the file `synced`, whose bytes are on the disk, the name `path` in one step."""
    os.replace(synced, path)
    sync_folder(path.parent)


def write_atomically(path: Path, text: str) -> None:
    """Make `text` the content of `path`: whoever looks finds the old or the new one, whole."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        move(part, path)
    finally:
        part.unlink(missing_ok=True)


def digest_of(path: Path, digest: Hasher, heard: Callable[[int], None]) -> str:
    """Return the digest of a file's bytes in hexadecimal; `heard` is told how many are read."""
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            heard(done)
    return digest.hexdigest()


def bytes_below(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; others may be changing it.

    A symbolic link counts with what it points to, and is not followed into a folder.
    """
    total = 0
    with contextlib.suppress(OSError):
        if path.is_file():
            return path.stat().st_size
        if path.is_symlink():
            return 0
        for child in path.iterdir():
            total += bytes_below(child)
    return total


def delete(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
