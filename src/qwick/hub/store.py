"""The store: checkpoints on disk, each verified against its published digest before it is trusted.

    <home>/checkpoints/<name>/<file>        the checkpoint, moved here in one step once verified
    <home>/checkpoints/<name>/<file>.json   its marker: digest, size and mtime at verification
    <home>/checkpoints/<name>/incoming/     what has arrived so far (see partial.py)
    <home>/locks/<name>.lock                held while anything above changes
    <home>/attributions/<name>.txt          the attribution, once a person has been shown it

A file is trusted while its marker fits it; otherwise it is hashed again. The order on the disk is:
bytes, name, marker, each synced before the next, so that a power loss at any moment leaves no file
under that name, or a whole one. Knows nothing about what is inside a checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from qwick import settings
from qwick.errors import DigestError, DownloadError, ModelNotFoundError, ResourceError
from qwick.hub.disk import delete, digest_of, make_folder, move, write_atomically
from qwick.hub.entries import CATALOG, Entry, check_catalog, find, near, shortened
from qwick.hub.listener import Listener, SilentListener, StderrListener, check_listener, shows
from qwick.hub.locks import NoLocksError, locked
from qwick.hub.partial import Partial, WrongBytesError, part_path, state_path
from qwick.hub.sources import Source, SourceError, default_sources
from qwick.values import a_path, check_kind, refused

__all__ = ["State", "Store", "Stored"]

State = Literal["stored", "unverified", "missing"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


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
        home = settings.HOME.get() if home is None else a_path("home", home, "a folder, or none")
        try:
            self.home = home.expanduser().absolute()
        except RuntimeError:  # the ~ of nobody
            raise refused("home", str(home), "a folder, without the ~ of nobody") from None
        check_catalog(catalog)
        if sources is not None:
            check_kind("sources", sources, (list, tuple), "a list of sources, or none")
            for source in sources:
                if not callable(getattr(source, "fetch", None)):
                    raise refused("a source", source, "an object with name and fetch")
        self.catalog = catalog
        self.sources = default_sources() if sources is None else tuple(sources)

    def path(self, entry: Entry) -> Path:
        """Return where the file of `entry` is, or would be."""
        check_kind("entry", entry, Entry, "an Entry of a catalogue")
        return self.home / "checkpoints" / entry.name / entry.file

    def marker_path(self, entry: Entry) -> Path:
        """Return where it is noted that the file of `entry` was verified."""
        path = self.path(entry)
        return path.with_name(path.name + ".json")

    def incoming(self, name: str) -> Path:
        """Return the folder of what has arrived so far of the checkpoint `name`."""
        return self.home / "checkpoints" / _plain(name) / "incoming"

    def lock_path(self, name: str) -> Path:
        """Return the lock file of the checkpoint `name`."""
        return self.home / "locks" / f"{_plain(name)}.lock"

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
        with self.reading():
            there = path.is_file()
        if not there:
            return Stored(entry, path, "missing")
        return Stored(entry, path, "stored" if self._marker_fits(entry) else "unverified")

    def pull(self, name: str, listener: Listener | None = None) -> Path:
        """Return the path of a verified checkpoint, fetching it when it is not in the store.

        A fetch that was broken off goes on where it stopped. Raises ModelNotFoundError,
        DownloadError (no source delivers, or offline), DigestError (what came, twice, is not the
        published file) or ResourceError (disk full, not writable, not readable, without locks).
        """
        entry = self.entry(name)
        listener = StderrListener() if listener is None else listener
        check_listener(listener)
        first, fetched = not self._attribution_path(entry).exists(), False
        path = self.path(entry)
        if not self._marker_fits(entry):
            try:
                with self.locked(entry, listener):
                    fetched = self._pull_locked(entry, listener, introduce=first)
            except ResourceError:
                # A store that cannot be written may still hold the file: good, if its digest is.
                if not path.is_file() or self._verified(entry, listener) is None:
                    raise
        if first:
            if not fetched:  # it was there already, put by hand
                listener.notice(attribution(entry))
            if shows(listener):
                self._record_attribution(entry)
        return path

    def remove(self, name: str, listener: Listener | None = None) -> int:
        """Delete the files of `name` and return the bytes freed; waits for a fetch under way.

        Raises ModelNotFoundError when the name is unknown or nothing of it is stored.
        """
        entry = self.entry(name)
        if listener is not None:
            check_listener(listener)
        folder = self.path(entry).parent
        missing = ModelNotFoundError(f"{entry.name} is not in the store {self.home}")
        if not folder.is_dir():
            raise missing
        with self.locked(entry, listener or SilentListener()), self.writing():
            if not folder.is_dir():  # another process removed it during the wait
                raise missing
            freed = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            self.marker_path(entry).unlink(missing_ok=True)  # first: half-deleted is untrusted
            shutil.rmtree(folder)
        return freed

    # -- what is trusted ---------------------------------------------------------------------------

    def _marker_fits(self, entry: Entry) -> bool:
        """Whether the file is the one that was verified: same size, mtime and published digest."""
        try:
            status = self.path(entry).stat()
            marker = json.loads(self.marker_path(entry).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return bool(marker == _marker(entry, status)) and status.st_size == entry.size

    def trust(self, entry: Entry, hashed: os.stat_result) -> None:
        """Note that the file of `entry`, as it was when it was hashed, is the published one."""
        text = json.dumps(_marker(entry, hashed), indent=1)
        write_atomically(self.marker_path(entry), text + "\n")

    def digest(self, entry: Entry, listener: Listener) -> tuple[str, os.stat_result]:
        """Return the SHA-256 of the stored file, and its status before the first byte was read.

        Raises ResourceError when it cannot be read.
        """
        path, what = self.path(entry), f"verifying {entry.name}"
        try:
            status = path.stat()
            read = digest_of(path, lambda done: listener.progress(what, done, status.st_size))
            return read, status
        except OSError as error:
            raise ResourceError(
                f"the stored file {path} cannot be read: {error.strerror or error}",
                hint="check its permissions and the disk (the system's log tells of bad ones)",
            ) from error

    def _verified(self, entry: Entry, listener: Listener) -> os.stat_result | None:
        """Hash the stored file; its status if it is the published one."""
        if self.path(entry).stat().st_size != entry.size:
            return None
        found, status = self.digest(entry, listener)
        return status if found == entry.sha256 else None

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
            status = self._verified(entry, listener)
            if status is not None:
                with self.writing():
                    self.trust(entry, status)
                return False
            listener.notice(f"the stored file {path} is damaged or has changed; fetching it anew")
        self._check_online(entry)
        incoming = self.incoming(entry.name)
        with self.writing():
            make_folder(incoming)  # under the lock: no remove() takes it
            self._clear(entry)
            self._check_space(entry)
            if introduce:
                listener.notice(attribution(entry))
            part = self._fetch(entry, listener)
            status = part.stat()
            self.marker_path(entry).unlink(missing_ok=True)  # one of an earlier file
            move(part, path)
            self.trust(entry, status)
            shutil.rmtree(incoming, ignore_errors=True)
        return True

    def _fetch(self, entry: Entry, listener: Listener) -> Path:
        """Return a verified file in the folder of what comes in, from the first to deliver it.

        A source whose bytes are wrong is asked once more; what has arrived right is kept.
        """
        incoming = self.incoming(entry.name)
        failures: list[str] = []
        wrong: DigestError | None = None
        for source in self.sources:
            for last in (False, True):
                work = Path(tempfile.mkdtemp(prefix="scratch-", dir=incoming))
                try:
                    with Partial(incoming, entry, listener) as partial:
                        if partial.count < entry.size:
                            source.fetch(entry, partial, work, listener)
                        partial.finish()
                    return partial.path
                except WrongBytesError as error:
                    wrong = _wrong_bytes(entry, source, error)
                    if not last:
                        listener.notice(f"{wrong.message}; fetching them once more")
                        continue
                    failures.append(f"{source.name}: wrong digest")
                except SourceError as error:
                    failures.append(f"{source.name}: {error}")
                except OSError as error:
                    if error.errno in _FULL | _UNWRITABLE:
                        raise
                    failures.append(f"{source.name}: {error}")
                finally:
                    shutil.rmtree(work, ignore_errors=True)
                more = source is not self.sources[-1]
                listener.notice(failures[-1] + ("; trying the next source" if more else ""))
                break
        if wrong is not None:
            raise wrong
        kept = self._arrived(entry)
        raise DownloadError(
            f"no source could deliver {entry.name}: {'; '.join(failures)}",
            hint=(f"try again, the {kept:,} bytes that arrived are kept; " if kept else "")
            + "check the network and pip's configuration, "
            "or name the path of a .gguf file you have",
        )

    def _check_online(self, entry: Entry) -> None:
        """Refuse to fetch where the network is switched off; DownloadError."""
        from huggingface_hub import constants

        if settings.OFFLINE.get():
            switch = f"{settings.OFFLINE.name} or --offline"
        elif constants.HF_HUB_OFFLINE:  # whoever sets it wants no download from elsewhere either
            switch = "HF_HUB_OFFLINE"
        else:
            return
        raise DownloadError(
            f"{entry.name} is not in the store {self.home}, and {switch} forbids fetching it",
            hint=f"unset {switch.replace(' or ', ' or leave out ')} to fetch it, "
            "or name the path of a .gguf file you have",
        )

    def _clear(self, entry: Entry) -> None:
        """Delete what earlier fetches left, but for the bytes that this one goes on from."""
        incoming = self.incoming(entry.name)
        keep = {part_path(incoming, entry), state_path(incoming, entry)}
        for path in incoming.iterdir():
            if path not in keep:
                delete(path)

    def _arrived(self, entry: Entry) -> int:
        """Return how many bytes of a fetch that was broken off are kept."""
        try:
            return part_path(self.incoming(entry.name), entry).stat().st_size
        except OSError:
            return 0

    def _check_space(self, entry: Entry) -> None:
        free = shutil.disk_usage(self.path(entry).parent).free
        needed = entry.size - self._arrived(entry)
        if free < needed:
            self._disk_full(
                f"{entry.name} needs {needed:,} bytes, {free:,} are free: "
                f"{needed - free:,} are missing"
            )

    # -- attribution -------------------------------------------------------------------------------

    def _attribution_path(self, entry: Entry) -> Path:
        return self.home / "attributions" / f"{entry.name}.txt"

    def _record_attribution(self, entry: Entry) -> None:
        """Remember that it was shown; a store that cannot be written shows it again."""
        path = self._attribution_path(entry)
        with contextlib.suppress(OSError):
            make_folder(path.parent)
            write_atomically(path, attribution(entry) + "\n")

    # -- locks and errors --------------------------------------------------------------------------

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
            if arrived := self._arrived(entry):
                listener.progress(f"waiting for {entry.name}", arrived, entry.size)

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
            if error.errno in _FULL:
                self._disk_full(str(error.strerror))
            raise ResourceError(
                f"the store {shortened(str(self.home), 400)} cannot be written: "
                f"{error.strerror or error}",
                hint=f"set {settings.HOME.name} to a folder that you may write to",
            ) from error

    def _disk_full(self, detail: str) -> NoReturn:
        raise ResourceError(
            f"the disk of the store {self.home} is full: {detail}",
            hint="free some space (`qwick models du` shows where it went; what has arrived is "
            f"kept), or set {settings.HOME.name} to a folder on a larger disk",
        )


def attribution(entry: Entry) -> str:
    """Return the line that names the model, its author, its licence and where it comes from."""
    from huggingface_hub import constants

    check_kind("entry", entry, Entry, "an Entry of a catalogue")
    return (
        f"{entry.title} · by {entry.author} · licence {entry.license} · "
        f"{constants.ENDPOINT}/{entry.repository}"
    )


def _marker(entry: Entry, status: os.stat_result) -> dict[str, object]:
    return {"sha256": entry.sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _wrong_bytes(entry: Entry, source: Source, error: WrongBytesError) -> DigestError:
    whole = (error.start, error.end) == (0, entry.size)
    what = entry.file if whole else f"bytes {error.start:,} to {error.end:,} of {entry.file}"
    return DigestError(
        f"what {source.name} sent as {what} has the SHA-256 {error.found}, "
        f"the published file has {error.published}; it was deleted",
        hint="try again; if it stays so, the source has been changed: do not use it",
    )


def _plain(name: str) -> str:
    """Return a checkpoint's name if it can be a folder's; ParameterError otherwise."""
    check_kind("name", name, str, "a str")
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise refused("name", name, "the name of a folder, without /")
    return name


def _names(catalog: Mapping[str, Entry]) -> str:
    return ", ".join(catalog)
