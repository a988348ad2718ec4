"""What has arrived of a checkpoint: a file that grows, across processes, and is hashed as it does.

    <folder>/<digest>.part   the first bytes of the file with that digest, as many as have come
    <folder>/<digest>.json   where they came from (`origin`): a hint for the source, never trusted

Bytes that an earlier process left are read and hashed again before more are added, so the digest
is always one of the bytes on this disk. Nothing here is trusted before `finish` has compared it.
Knows nothing about sources or about where the finished file goes. One writer at a time: the
caller holds a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from qwick.hub.disk import CHUNK, Hasher
from qwick.hub.entries import PinnedFile
from qwick.hub.listener import Listener
from qwick.hub.sources import SourceError

__all__ = ["Partial", "WrongBytesError", "part_path", "state_path"]

MOST_STATE = 4096  # characters of an origin; a longer one is no hint worth keeping


class WrongBytesError(Exception):
    """The bytes from `start` to `end` were not the published ones, and are dropped."""

    def __init__(self, start: int, end: int, found: str, published: str) -> None:
        super().__init__(f"bytes {start} to {end} have the digest {found}, not {published}")
        self.start, self.end = start, end
        self.found, self.published = found, published


def part_path(folder: Path, file: PinnedFile) -> Path:
    """Return where the bytes of `file` that have arrived are, or would be."""
    return folder / f"{file.digest}.part"


def state_path(folder: Path, file: PinnedFile) -> Path:
    """Return where the origin of those bytes is noted, or would be."""
    return folder / f"{file.digest}.json"


class Partial:
    """The bytes of `file` so far, in `folder`. A Sink; a context manager that closes the file.

    `name` is the checkpoint's, for what the listener is told.

    Where the digests of single pieces are published, each is compared as soon as it is complete,
    so that damage costs a piece and not the file.
    """

    def __init__(self, folder: Path, file: PinnedFile, name: str, listener: Listener) -> None:
        self.path = part_path(folder, file)
        self.count = 0
        self.origin = ""
        self._state = state_path(folder, file)
        self._pinned = file
        self._name = name
        self._listener = listener
        self._start = 0  # of the piece under way
        self._before = file.hasher()  # of all pieces before it
        self._whole = file.hasher()
        self._piece = self._new_piece()
        self._file = self.path.open("ab", buffering=0)  # what is counted has left this process
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self.count == 0:
            self.path.unlink(missing_ok=True)
            self._state.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises SourceError when there are more than the file has, WrongBytesError when they complete
        a piece that is not the published one; OSError when the disk fails.
        """
        if self.count + len(data) > self._pinned.size:
            raise SourceError(f"it sent more than the file's {self._pinned.size} bytes")
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._add(data)

    def restart(self, origin: str = "") -> None:
        """Drop all bytes; those that follow come from `origin`, a string that the source chose."""
        self._start, self._before = 0, self._pinned.hasher()
        self._drop_piece()
        self.origin = origin
        if origin:
            self._state.write_text(json.dumps({"origin": origin}), "utf-8")
        else:
            self._state.unlink(missing_ok=True)

    def finish(self) -> None:
        """Compare the whole with the published digest and bring it to the disk.

        Raises SourceError when bytes are missing, WrongBytesError after dropping all of them.
        """
        file = self._pinned
        if self.count != file.size:
            raise SourceError(f"it sent {self.count} bytes instead of {file.size}")
        found = self._whole.hexdigest()
        if found != file.digest:
            self.restart()
            raise WrongBytesError(0, file.size, found, file.digest)
        os.fsync(self._file.fileno())

    def _take_up(self) -> None:
        """Count and hash what an earlier process left; drop what is damaged."""
        there, size = os.fstat(self._file.fileno()).st_size, self._pinned.size
        if there > size:
            self.restart()
            return
        self.origin = self._read_origin() if there else ""
        what = f"verifying what is kept of {self._name}"
        with self.path.open("rb") as file:
            while self.count < there and (chunk := file.read(min(CHUNK, there - self.count))):
                try:
                    self._add(chunk)
                except WrongBytesError as error:
                    self._listener.notice(
                        f"what was kept of {self._name} is damaged between the bytes "
                        f"{error.start:,} and {error.end:,}; fetching it again from there on"
                    )
                    return
                self._listener.progress(what, self.count, there)

    def _read_origin(self) -> str:
        """Return the noted origin; "" for a note that is missing, damaged or of another kind."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with self._state.open(encoding="utf-8") as file:
                state = json.loads(file.read(2 * MOST_STATE))
            origin = state.get("origin") if isinstance(state, dict) else None
            if isinstance(origin, str) and len(origin) <= MOST_STATE:
                return origin
        return ""

    def _add(self, data: bytes) -> None:
        """Hash the next bytes of the file and compare each piece that they complete."""
        rest = memoryview(data)
        while rest:
            end, published = self._pinned.piece_at(self.count)
            taken = rest[: end - self.count]
            rest = rest[len(taken) :]
            self._whole.update(taken)
            self._piece.update(taken)
            self.count += len(taken)
            if self.count == end:
                start, found = self._start, self._piece.hexdigest()
                if found != published:
                    self._drop_piece()
                    raise WrongBytesError(start, end, found, published)
                self._start, self._before = end, self._whole.copy()
                self._piece = self._new_piece()

    def _new_piece(self) -> Hasher:
        """Return what hashes a piece: a part of wheels, or the whole file."""
        return hashlib.sha256() if self._pinned.wheels else self._pinned.hasher()

    def _drop_piece(self) -> None:
        """Go back to the beginning of the piece under way."""
        if os.fstat(self._file.fileno()).st_size > self._start:
            self._file.truncate(self._start)
        self.count = self._start
        self._whole = self._before.copy()
        self._piece = self._new_piece()
