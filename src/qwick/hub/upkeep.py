"""Looking after a store: hash what it holds, count its bytes, delete what nobody needs.

Knows nothing about where bytes come from; fetching is the store's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwick.errors import ResourceError
from qwick.hub import manifest, packed
from qwick.hub.disk import bytes_below, delete
from qwick.hub.entries import Entry, PinnedFile
from qwick.hub.listener import Listener, Overall, check_listener
from qwick.hub.locks import NoLocksError, is_held, locked
from qwick.hub.store import State, Store
from qwick.values import check_kind, check_switch

__all__ = [
    "Checked",
    "CheckedFile",
    "Garbage",
    "Held",
    "Pruned",
    "Usage",
    "prune",
    "usage",
    "verify",
]

Verdict = Literal["ok", "damaged", "missing"]
Kind = Literal["partial download", "unused file", "stale lock", "stale cache"]


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What hashing a stored file has shown."""

    file: PinnedFile
    path: Path
    verdict: Verdict
    found: str | None  # its digest; None when the file is missing


@dataclass(frozen=True, slots=True)
class Checked:
    """What hashing a stored checkpoint has shown."""

    entry: Entry
    path: Path
    files: tuple[CheckedFile, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of its files'."""
        found = {file.verdict for file in self.files}
        return "damaged" if "damaged" in found else "missing" if "missing" in found else "ok"


@dataclass(frozen=True, slots=True)
class Held:
    """The bytes that a store holds of one checkpoint."""

    name: str
    state: State | Literal["unknown"]  # unknown: a folder that the catalogue has no name for
    file: int
    partial: int  # of a fetch that was broken off, or is under way
    other: int  # markers, and files that nobody needs


@dataclass(frozen=True, slots=True)
class Usage:
    """The bytes of a store."""

    home: Path
    checkpoints: tuple[Held, ...]
    caches: tuple[tuple[str, int], ...]  # what else lies in the home: name and bytes
    free: int  # of the disk, for this user

    @property
    def total(self) -> int:
        """All bytes below the store's home."""
        held = sum(row.file + row.partial + row.other for row in self.checkpoints)
        return held + sum(count for _, count in self.caches)


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file or folder that nobody needs."""

    path: Path
    kind: Kind
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, or would be, and whose files were left alone because they are in use."""

    deleted: tuple[Garbage, ...]
    busy: tuple[str, ...]

    @property
    def freed(self) -> int:
        """The bytes of what was deleted."""
        return sum(item.size for item in self.deleted)


# -- verify ----------------------------------------------------------------------------------------


def verify(store: Store, name: str, listener: Listener) -> Checked:
    """Hash the stored files of `name`, whatever their markers say, and let those say what is so.

    The files are read from the disk as far as the system allows, not from its cache. Raises
    ModelNotFoundError for an unknown name, ResourceError for a file that cannot be read.
    """
    check_kind("store", store, Store, "a Store")
    check_listener(listener)
    entry = store.entry(name)
    checked: list[CheckedFile] = []
    with contextlib.ExitStack() as stack:
        # Where nothing is, no lock is made; and a store that cannot be written can be read.
        if store.show(entry.name).state != "missing":
            with contextlib.suppress(ResourceError):
                stack.enter_context(store.locked(entry, listener))
        done = 0
        for file in entry.files:
            told = Overall(listener, done, entry.size)
            checked.append(_verify_file(store, entry, file, told))
            done += file.size
    return Checked(entry, store.path(entry), tuple(checked))


def _verify_file(store: Store, entry: Entry, file: PinnedFile, listener: Overall) -> CheckedFile:
    path = store.file_path(entry, file)
    if not path.is_file():
        return CheckedFile(file, path, "missing", None)
    _forget_cached(path)
    found, status = store.digest(entry, file, listener)
    sound = found == file.digest
    with contextlib.suppress(ResourceError), store.writing():
        if sound:
            store.trust(entry, file, status)
        else:
            store.marker_path(entry, file).unlink(missing_ok=True)
    return CheckedFile(file, path, "ok" if sound else "damaged", found)


def _forget_cached(path: Path) -> None:
    """Ask the system to drop its copy of the file, so that the disk is read."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


# -- du --------------------------------------------------------------------------------------------


def usage(store: Store) -> Usage:
    """Count the bytes of a store: each file's length, whatever the file system makes of it."""
    check_kind("store", store, Store, "a Store")
    with store.reading():
        return _usage(store)


def _usage(store: Store) -> Usage:
    rows = []
    known = {stored.entry.folder: stored for stored in store.list()}
    for folder in _folders(store, list(known)):
        at = store.home / "checkpoints" / folder
        stored = known.get(folder)
        total = bytes_below(at if stored is None else at.resolve())  # a folder may be a link
        partial = bytes_below(store.incoming(folder))
        if stored is None:
            rows.append(Held(folder, "unknown", 0, partial, total - partial))
            continue
        entry, state = stored.entry, stored.state
        if total or state != "missing":
            held = sum(bytes_below(store.file_path(entry, file)) for file in entry.files)
            rows.append(Held(entry.name, state, held, partial, total - partial - held))
    caches = [
        (path.name, bytes_below(path))
        for path in sorted(_below(store.home))
        if path.name != "checkpoints"
    ]
    existing = store.home
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return Usage(store.home, tuple(rows), tuple(caches), shutil.disk_usage(existing).free)


# -- prune -----------------------------------------------------------------------------------------


class _BusyError(Exception):
    """Another process works on this checkpoint."""


def prune(store: Store, *, dry_run: bool = False) -> Pruned:
    """Delete partial downloads, lock files that nobody holds and files that nobody refers to.

    Packed experts go where their checkpoint has gone or changed.

    Checkpoints of the catalogue stay, damaged ones too, and so does all that a running pull or
    remove works on. With dry_run nothing changes. Raises ResourceError at the first thing that
    cannot be deleted; what has been deleted by then stays so.
    """
    check_kind("store", store, Store, "a Store")
    check_switch("dry_run", dry_run)
    deleted: list[Garbage] = []
    busy: list[str] = []
    with store.reading():
        names = _folders(store, [entry.folder for entry in store.known().values()])
    for name in names:
        lock = store.lock_path(name)
        if not lock.exists() and not any(_garbage(store, name)):
            continue
        with store.writing():
            try:
                if dry_run:
                    if is_held(lock):
                        raise _BusyError
                    deleted.extend(_garbage(store, name))
                    deleted.extend(_lock_file(lock))
                else:
                    deleted.extend(_prune_locked(store, name))
            except _BusyError:
                busy.append(name)
            except NoLocksError as error:
                raise ResourceError(
                    f"the file system of the store {store.home} has no file locks ({error}), so "
                    "nobody can tell what a running pull needs",
                    hint=f"when none runs, delete {store.home / 'checkpoints'}/*/incoming by hand",
                ) from error
    with store.writing():
        for path in sorted(_below(store.home / packed.FOLDER)):
            with contextlib.suppress(_BusyError, NoLocksError):
                deleted.extend(_prune_packed(store, path, dry_run=dry_run))
    for path in sorted(_below(store.home / "attributions")):
        if path.suffix == ".part":  # of a process that was killed as it wrote
            deleted.append(Garbage(path, "unused file", bytes_below(path)))
            if not dry_run:
                with store.writing():
                    delete(path)
    return Pruned(tuple(deleted), tuple(busy))


def _prune_locked(store: Store, name: str) -> Iterator[Garbage]:
    """Delete the garbage of one name and yield it; _BusyError if somebody works on it."""

    def waiting() -> None:
        raise _BusyError

    lock = store.lock_path(name)
    found = list(_lock_file(lock))
    lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock, waiting):
        for item in _garbage(store, name):
            delete(item.path)
            yield item
        folder = store.home / "checkpoints" / name
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()
        lock.unlink()  # by its holder: whoever waits for it finds out and makes a new one
    yield from found


def _prune_packed(store: Store, path: Path, *, dry_run: bool) -> Iterator[Garbage]:
    """Delete a file of packed experts that nobody needs; _BusyError while it is being written."""

    def waiting() -> None:
        raise _BusyError

    lock = packed.lock_of(store, path)
    if dry_run:
        if is_held(lock):
            raise _BusyError
        if packed.is_stale(path):
            yield Garbage(path, "stale cache", bytes_below(path))
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock, waiting):
        if packed.is_stale(path):
            yield Garbage(path, "stale cache", bytes_below(path))
            delete(path)
        lock.unlink()


def _garbage(store: Store, name: str) -> list[Garbage]:
    """Return what nobody needs of one name: all but its files and their markers.

    What a link points to is somebody else's. Of a known checkpoint whose folder is one only the
    partial download is ours; of an unknown one the link.
    """
    folder = store.home / "checkpoints" / name
    entry = store.in_folder(name)
    written = folder / manifest.NAME
    if entry is None and written.exists():  # damaged, or of another version of qwick
        return []
    if folder.is_symlink():
        if entry is None:
            return [Garbage(folder, "unused file", 0)]
        incoming = store.incoming(name)
        there = incoming.exists()
        return [Garbage(incoming, "partial download", bytes_below(incoming))] if there else []
    keep = {written} if entry is not None and written.exists() else set()
    if entry is not None:
        for file in entry.files:
            keep.add(store.file_path(entry, file))
            if store.file_path(entry, file).exists():
                keep.add(store.marker_path(entry, file))
    if not any(path.exists() for path in keep - {written}):
        keep = set()  # nothing has come of it
    kept_folders = {parent for path in keep for parent in path.parents}
    found: list[Garbage] = []
    below = sorted(_below(folder))
    while below:
        path = below.pop(0)
        if path in kept_folders and not path.is_symlink():
            below.extend(sorted(_below(path)))
        elif path not in keep and path not in kept_folders:
            kind: Kind = "partial download" if path == store.incoming(name) else "unused file"
            found.append(Garbage(path, kind, bytes_below(path)))
    return found


def _lock_file(lock: Path) -> Iterator[Garbage]:
    if lock.exists():
        yield Garbage(lock, "stale lock", 0)


def _folders(store: Store, known: list[str]) -> list[str]:
    """Return the folders of what is known, then those that are there, or locked, beside them."""
    found = {path.name for path in _below(store.home / "checkpoints") if path.is_dir()}
    found |= {path.stem for path in _below(store.home / "locks") if path.suffix == ".lock"}
    return [*known, *sorted(found - set(known))]


def _below(folder: Path) -> list[Path]:
    """Return what lies in a folder; nothing where there is none."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
