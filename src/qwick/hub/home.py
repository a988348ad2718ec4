"""The folder that a store lives in: its places, its locks, and what is said when it fails.

Knows nothing about checkpoints but their names and files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from qwick import settings
from qwick.errors import ResourceError
from qwick.hub.disk import make_folder
from qwick.hub.entries import Entry, folder_of, shortened
from qwick.hub.fetching import FULL, arrived
from qwick.hub.listener import Listener
from qwick.hub.locks import NoLocksError, locked
from qwick.values import a_path, refused

__all__ = ["Home"]


class Home:
    """A folder of checkpoints, shared by all processes of a machine."""

    def __init__(self, home: Path | None) -> None:
        home = settings.HOME.get() if home is None else a_path("home", home, "a folder, or none")
        try:
            self.home = home.expanduser().absolute()
        except RuntimeError:  # the ~ of nobody
            raise refused("home", str(home), "a folder, without the ~ of nobody") from None

    def incoming(self, name: str) -> Path:
        """Return the folder of what has arrived so far of the checkpoint `name`."""
        return self.home / "checkpoints" / folder_of(name) / "incoming"

    def lock_path(self, name: str) -> Path:
        """Return the lock file of the checkpoint `name`."""
        return self.home / "locks" / f"{folder_of(name)}.lock"

    @contextlib.contextmanager
    def locked(self, entry: Entry, listener: Listener) -> Iterator[None]:
        """Hold the lock of `entry`; while another process does, tell of it and of its progress.

        Raises ResourceError where the lock file cannot be made or the file system has no locks.
        """
        path, told = self.lock_path(entry.name), False

        def waiting() -> None:
            nonlocal told
            if not told:
                listener.notice(f"another process is busy with {entry.name}; waiting for it")
                told = True
            incoming = self.incoming(entry.name)
            there = sum(
                file.size if (incoming.parent / file.path).exists() else arrived(incoming, file)
                for file in entry.files
            )
            if there:
                listener.progress(f"waiting for {entry.name}", there, entry.size)

        with self.writing():
            make_folder(path.parent)
        with contextlib.ExitStack() as stack:
            try:
                with self.writing():
                    stack.enter_context(locked(path, waiting))
            except NoLocksError as error:
                raise ResourceError(
                    f"the file system of the store {self.home} has no file locks: {error}",
                    hint=f"set {settings.HOME.name} to a folder on a local disk",
                ) from error
            yield

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turn a folder that cannot be looked at into a ResourceError that names the store."""
        try:
            yield
        except OSError as error:
            raise ResourceError(
                f"the store {shortened(str(self.home), 400)} cannot be read: "
                f"{error.strerror or error}",
                hint=f"set {settings.HOME.name} to a folder of your own",
            ) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a full or unwritable disk into a ResourceError that names the store."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                self.disk_full(str(error.strerror))
            raise ResourceError(
                f"the store {shortened(str(self.home), 400)} cannot be written: "
                f"{error.strerror or error}",
                hint=f"set {settings.HOME.name} to a folder that you may write to",
            ) from error

    def disk_full(self, detail: str) -> NoReturn:
        """Raise the ResourceError of a disk without room."""
        raise ResourceError(
            f"the disk of the store {self.home} is full: {detail}",
            hint="free some space (`qwick models du` shows where it went; what has arrived is "
            f"kept), or set {settings.HOME.name} to a folder on a larger disk",
        )
