"""The store: checkpoints on disk, each verified against its published digest before it is trusted.

    <home>/checkpoints/<name>/<file>        the checkpoint, moved here in one step once verified
    <home>/checkpoints/<name>/<file>.json   its marker: digest, size and mtime at verification
    <home>/checkpoints/<name>/incoming/     what is being fetched; emptied before each fetch
    <home>/locks/<name>.lock                held while anything above changes
    <home>/attributions/<name>.txt          the attribution, once a person has been shown it

A file is trusted while its marker fits it; otherwise it is hashed again. Knows nothing about what
is inside a checkpoint. An interrupted fetch starts anew: resuming across processes may come later.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from qwick import settings
from qwick.errors import DigestError, DownloadError, ModelNotFoundError, ResourceError
from qwick.hub.catalog import CATALOG, Entry, find, near, shortened
from qwick.hub.listener import Listener, SilentListener, StderrListener, shows
from qwick.hub.locks import locked
from qwick.hub.sources import CHUNK, Source, SourceError, default_sources

__all__ = ["State", "Store", "Stored"]

State = Literal["stored", "unverified", "missing"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOLCK}


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds of one catalogue entry."""

    entry: Entry
    path: Path  # where the file is, or would be
    state: State  # "unverified": a file is there whose marker is missing or does not fit it


class Store:
    """The checkpoints of one machine, shared by all its processes."""

    def __init__(
        self,
        home: Path | None = None,
        *,
        catalog: Mapping[str, Entry] = CATALOG,
        sources: Sequence[Source] | None = None,
    ) -> None:
        self.home = (home or settings.HOME.get()).expanduser().absolute()
        self.catalog = catalog
        self.sources = default_sources() if sources is None else tuple(sources)

    def path(self, entry: Entry) -> Path:
        """Return where the file of `entry` is, or would be."""
        return self.home / "checkpoints" / entry.name / entry.file

    def entry(self, name: str) -> Entry:
        """Return the entry of that name or alias; ModelNotFoundError with likely names."""
        entry = find(name, self.catalog)
        if entry is None:
            close = near(name, self.catalog)
            hint = f"did you mean {' or '.join(close)}?" if close else None
            raise ModelNotFoundError(
                f"there is no model called {shortened(name)!r}",
                hint=hint or f"known: {_names(self.catalog)}",
            )
        return entry

    def list(self) -> Sequence[Stored]:
        """Return every catalogue entry with its state, in the catalogue's order."""
        return [self.show(name) for name in self.catalog]

    def show(self, name: str) -> Stored:
        """Return one entry with its state; ModelNotFoundError for an unknown name."""
        entry = self.entry(name)
        path = self.path(entry)
        if not path.is_file():
            return Stored(entry, path, "missing")
        return Stored(entry, path, "stored" if self._marker_fits(entry) else "unverified")

    def pull(self, name: str, listener: Listener | None = None) -> Path:
        """Return the path of a verified checkpoint, fetching it when it is not in the store.

        Raises ModelNotFoundError, DownloadError (no source delivers), DigestError (what came is not
        the published file) or ResourceError (disk full or not writable).
        """
        entry = self.entry(name)
        listener = StderrListener() if listener is None else listener
        first, fetched = not self._attribution_path(entry).exists(), False
        path = self.path(entry)
        if not self._marker_fits(entry):
            try:
                with self._locked(entry, listener):
                    fetched = self._pull_locked(entry, listener, introduce=first)
            except ResourceError:
                # A store that cannot be written may still hold the file: good, if its digest is.
                if not path.is_file() or not self._digest_fits(entry, listener):
                    raise
        if first:
            if not fetched:  # it was there already, put by hand
                listener.notice(attribution(entry))
            if shows(listener):
                self._record_attribution(entry)
        return path

    def remove(self, name: str) -> int:
        """Delete the files of `name` and return the bytes freed.

        Raises ModelNotFoundError when the name is unknown or nothing of it is stored.
        """
        entry = self.entry(name)
        folder = self.path(entry).parent
        missing = ModelNotFoundError(f"{entry.name} is not in the store {self.home}")
        if not folder.is_dir():
            raise missing
        with self._locked(entry, SilentListener()), self._writing():
            if not folder.is_dir():  # another process removed it during the wait
                raise missing
            freed = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            self._marker_path(entry).unlink(missing_ok=True)  # first: half-deleted is untrusted
            shutil.rmtree(folder)
        return freed

    # -- what is trusted ---------------------------------------------------------------------------

    def _marker_path(self, entry: Entry) -> Path:
        path = self.path(entry)
        return path.with_name(path.name + ".json")

    def _marker_fits(self, entry: Entry) -> bool:
        """Whether the file is the one that was verified: same size, mtime and published digest."""
        try:
            status = self.path(entry).stat()
            marker = json.loads(self._marker_path(entry).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return bool(marker == _marker(entry, status)) and status.st_size == entry.size

    def _write_marker(self, entry: Entry) -> None:
        text = json.dumps(_marker(entry, self.path(entry).stat()), indent=1)
        _write_atomically(self._marker_path(entry), text + "\n")

    def _digest_fits(self, entry: Entry, listener: Listener) -> bool:
        """Hash the stored file; whether it is the published one."""
        path = self.path(entry)
        if path.stat().st_size != entry.size:
            return False
        digest, done = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                done += len(chunk)
                listener.progress(f"verifying {entry.name}", done, entry.size)
        return digest.hexdigest() == entry.sha256

    # -- fetching ----------------------------------------------------------------------------------

    def _pull_locked(self, entry: Entry, listener: Listener, *, introduce: bool) -> bool:
        """Make the stored file the published one, and say whether it was fetched.

        The lock is held. introduce: show the attribution once it is clear that bytes will be asked
        for.
        """
        path = self.path(entry)
        if self._marker_fits(entry):  # another process has just done it
            return False
        if path.is_file():
            if self._digest_fits(entry, listener):
                with self._writing():
                    self._write_marker(entry)
                return False
            listener.notice(f"the stored file {path} is damaged or has changed; fetching it anew")
        if settings.OFFLINE.get():
            raise DownloadError(
                f"{entry.name} is not in the store {self.home}, and {settings.OFFLINE.name} "
                "forbids fetching it",
                hint=f"unset {settings.OFFLINE.name}, or name the path of a .gguf file you have",
            )
        work = path.parent / "incoming"
        with self._writing():
            shutil.rmtree(work, ignore_errors=True)
            path.parent.mkdir(parents=True, exist_ok=True)  # under the lock: no remove() takes it
            self._check_space(entry)
            if introduce:
                listener.notice(attribution(entry))
            try:
                part = self._fetch(entry, work, listener)
                os.replace(part, path)
                _sync_folder(path.parent)
                self._write_marker(entry)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return True

    def _fetch(self, entry: Entry, work: Path, listener: Listener) -> Path:
        """Return a verified file inside `work`, from the first source that delivers it."""
        failures: list[str] = []
        wrong: DigestError | None = None
        for source in self.sources:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            part = work / (entry.file + ".part")
            try:
                with _Receiver(part, entry) as receiver:
                    source.fetch(entry, receiver, work, listener)
                    receiver.finish(source.name)
                return part
            except SourceError as error:
                failures.append(f"{source.name}: {error}")
            except DigestError as error:
                failures.append(f"{source.name}: wrong digest")
                wrong = wrong or error
            except OSError as error:
                if error.errno in _FULL | _UNWRITABLE:
                    raise
                failures.append(f"{source.name}: {error}")
            more = source is not self.sources[-1]
            listener.notice(failures[-1] + ("; trying the next source" if more else ""))
        if wrong is not None:
            raise wrong
        raise DownloadError(
            f"no source could deliver {entry.name}: {'; '.join(failures)}",
            hint="check the network and pip's configuration, "
            "or name the path of a .gguf file you have",
        )

    def _check_space(self, entry: Entry) -> None:
        free = shutil.disk_usage(self.path(entry).parent).free
        if free < entry.size:
            self._disk_full(f"{entry.name} needs {entry.size:,} bytes, {free:,} are free")

    # -- attribution -------------------------------------------------------------------------------

    def _attribution_path(self, entry: Entry) -> Path:
        return self.home / "attributions" / f"{entry.name}.txt"

    def _record_attribution(self, entry: Entry) -> None:
        """Remember that it was shown; a store that cannot be written shows it again."""
        path = self._attribution_path(entry)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(path, attribution(entry) + "\n")

    # -- locks and errors --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, entry: Entry, listener: Listener) -> Iterator[None]:
        path = self.home / "locks" / f"{entry.name}.lock"

        def waiting() -> None:
            listener.notice(f"another process is busy with {entry.name}; waiting for it")

        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            with self._writing():
                stack.enter_context(locked(path, waiting))
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a full or unwritable disk into a ResourceError that names the store."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                self._disk_full(str(error.strerror))
            raise ResourceError(
                f"the store {self.home} cannot be written: {error.strerror or error}",
                hint=f"set {settings.HOME.name} to a folder that you may write to",
            ) from error

    def _disk_full(self, detail: str) -> NoReturn:
        raise ResourceError(
            f"the disk of the store {self.home} is full: {detail}",
            hint=f"free some space, or set {settings.HOME.name} to a folder on a larger disk",
        )


class _Receiver:
    """Writes what a source sends, hashing it on the way; the part file goes unless finished."""

    def __init__(self, path: Path, entry: Entry) -> None:
        self.count = 0
        self._entry = entry
        self._path = path
        self._digest = hashlib.sha256()
        self._file = path.open("xb")
        self._finished = False

    def __enter__(self) -> _Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._finished:
            self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Take the next bytes; SourceError when there are more than the file has."""
        if self.count + len(data) > self._entry.size:
            raise SourceError(f"it sent more than the file's {self._entry.size} bytes")
        self._file.write(data)
        self._digest.update(data)
        self.count += len(data)

    def finish(self, source: str) -> None:
        """Check size and digest and bring the bytes to the disk; SourceError or DigestError."""
        entry = self._entry
        if self.count != entry.size:
            raise SourceError(f"it sent {self.count} bytes instead of {entry.size}")
        found = self._digest.hexdigest()
        if found != entry.sha256:
            raise DigestError(
                f"what {source} sent as {entry.file} has the SHA-256 {found}, "
                f"the published file has {entry.sha256}; it was deleted",
                hint="try again; if it stays so, the source has been changed: do not use it",
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._finished = True


def attribution(entry: Entry) -> str:
    """Return the line that names the model, its author, its licence and where it comes from."""
    from huggingface_hub import constants

    return (
        f"{entry.title} · by {entry.author} · licence {entry.license} · "
        f"{constants.ENDPOINT}/{entry.repository}"
    )


def _marker(entry: Entry, status: os.stat_result) -> dict[str, object]:
    return {"sha256": entry.sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _write_atomically(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(catalog: Mapping[str, Entry]) -> str:
    return ", ".join(catalog)
