"""The server's folder on disk: who may read it, one writer at a time, and files that stay whole.

    <state>/server/keys.json       the API keys (keys.py)
    <state>/server/secret          what pseudonyms are made with (pseudonyms.py)
    <state>/server/audit.jsonl     what happened to keys, kept; server.jsonl: the rest (audit.py)
    <state>/server/*.lock          each held while one of them changes

Folder and files are made for their owner alone (0700, 0600). Where others may write, nothing is
read or written: they could have let themselves in. Knows nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from qwick import settings
from qwick.errors import FormatError, ResourceError
from qwick.hub.disk import make_folder, move, sync_folder
from qwick.hub.locks import NoLocksError, locked
from qwick.values import a_path

__all__ = [
    "alone",
    "explained",
    "read_private",
    "state_folder",
    "write_all",
    "write_whole",
]

PATIENCE = 30.0  # seconds to wait for the lock; it is held for milliseconds


def state_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the absolute path of the server's folder: `folder`, or the one below QWICK_STATE.

    Makes nothing. Raises ParameterError for what is no path.
    """
    if folder is None:
        return (settings.STATE.get() / "server").absolute()
    return a_path("folder", folder, "a folder, or none").absolute()


@contextlib.contextmanager
def explained(path: Path, verb: str) -> Iterator[None]:
    """Turn an OSError within a `with` block into a ResourceError: `path` cannot be `verb`."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{path} cannot be {verb}: {error.strerror or error}",
            hint=f"check the disk and the permissions, or set {settings.STATE.name} to a folder",
        ) from error


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`; the server's folder is made where it is missing.

    Not to be taken twice by one thread. Raises ResourceError when the folder cannot be made, has no
    locks, or when another process holds the lock for longer than it ever should; FormatError when
    others may write to the folder.
    """
    folder, lock = path.parent, path.with_suffix(".lock")
    deadline = time.monotonic() + PATIENCE

    def waiting() -> None:
        if time.monotonic() > deadline:
            raise ResourceError(
                f"{path} has been locked by another process for {PATIENCE:.0f} s",
                hint=f"end that process: `fuser {lock}` names it",
            )

    with contextlib.ExitStack() as stack:
        with explained(folder, "used"):
            _make_private(folder)
            try:
                stack.enter_context(locked(lock, waiting))
            except NoLocksError as error:
                raise ResourceError(
                    f"the file system of {folder} has no file locks: {error}",
                    hint=f"set {settings.STATE.name} to a folder on a local disk",
                ) from error
        yield


def _make_private(folder: Path) -> None:
    """Make the folder, for its owner alone; FormatError if others may write to the one there."""
    if not folder.is_dir():
        make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):  # another process has just made it
            folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
    _check_private(folder, folder.stat(), "700")


def _check_private(path: Path, status: os.stat_result, mode: str) -> None:
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FormatError(
            f"{path} may be written by others than its owner",
            hint=f"make sure that nobody has, then: chmod {mode} {path}",
        )


def read_private(path: Path, most: int, way_out: str) -> tuple[bytes, os.stat_result] | None:
    """Return the bytes of a file and its status as it was then; None where no file is.

    Raises FormatError (with the hint `way_out`) for what is no regular file, is longer than `most`
    bytes, or may be written (or replaced) by others; ResourceError when it cannot be read.
    """
    with explained(path, "read"):
        try:
            # Without O_NONBLOCK a named pipe in the file's place would hold us for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            if path.is_symlink():
                raise
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"{path} is no regular file", hint=way_out)
            _check_private(path, status, "600")
            _check_private(path.parent, path.parent.stat(), "700")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(most + 1)
        finally:
            os.close(descriptor)
    if len(data) > most:
        raise FormatError(f"{path} has more than {most} bytes", hint=way_out)
    return data, status


def write_whole(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`: whoever looks finds the old or the new one, whole.

    On the disk when this returns. The lock is held. OSError when it cannot be written; then the old
    content is there.
    """
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed: nobody else holds the lock
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(part, flags, 0o600)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        move(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`: a disk that is nearly full takes the first part and refuses the rest."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
