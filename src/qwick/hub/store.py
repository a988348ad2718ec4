"""The store: checkpoints on disk, each verified against its published digest before it is trusted.

    <home>/checkpoints/<name>/<file>        a file of it, moved here in one step once verified
    <home>/checkpoints/<name>/<file>.json   its marker: digest, size and mtime at verification
    <home>/checkpoints/<name>/qwick.json    what it is, where pulled by a reference (manifest.py)
    <home>/checkpoints/<name>/incoming/     what has arrived so far (see partial.py)
    <home>/locks/<name>.lock                held while anything above changes
    <home>/attributions/<name>.txt          the attribution, once a person has been shown it

A file is trusted while its marker fits it; otherwise it is hashed again. The order on the disk is:
bytes, name, marker, each synced before the next, so that a power loss at any moment leaves no file
under that name, or a whole one. Knows nothing about what is inside a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwick import settings
from qwick.errors import DownloadError, ModelNotFoundError, ResourceError
from qwick.hub import manifest
from qwick.hub.catalog import read_catalog
from qwick.hub.disk import bytes_below, delete, digest_of, make_folder, move, write_atomically
from qwick.hub.entries import (
    CATALOG,
    Entry,
    PinnedFile,
    check_catalog,
    find,
    near,
    shortened,
    spelling_of,
)
from qwick.hub.fetching import arrived, fetch
from qwick.hub.home import Home
from qwick.hub.listener import Listener, SilentListener, StderrListener, check_listener, shows
from qwick.hub.lookup import default_sources, look_up
from qwick.hub.names import Wanted, parse, want
from qwick.hub.partial import part_path, state_path
from qwick.hub.sources import Source
from qwick.hub.transfer import without_login
from qwick.values import check_kind, refused

__all__ = ["WHOLE", "State", "Store", "Stored"]

State = Literal["stored", "unverified", "incomplete", "missing"]
WHOLE = ("stored", "unverified")  # every file is there; what is not verified is hashed when used


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds of one catalogue entry."""

    entry: Entry
    path: Path  # where the file is, or would be
    state: State  # unverified: a marker is missing or does not fit its file; incomplete: a file is


class Store(Home):
    """The checkpoints of one machine, shared by all its processes."""

    def __init__(
        self,
        home: Path | None = None,
        *,
        catalog: Mapping[str, Entry] = CATALOG,
        sources: Sequence[Source] | None = None,
    ) -> None:
        super().__init__(home)
        check_catalog(catalog)
        if sources is not None:
            check_kind("sources", sources, (list, tuple), "a list of sources, or none")
            for source in sources:
                if not callable(getattr(source, "fetch", None)):
                    raise refused("a source", source, "an object with name and fetch")
        self.catalog = catalog
        self.sources = default_sources() if sources is None else tuple(sources)

    def path(self, entry: Entry) -> Path:
        """Return where `entry` is, or would be: its (first) GGUF file, or its folder."""
        check_kind("entry", entry, Entry, "an Entry of a catalogue")
        return self.home / "checkpoints" / entry.folder / entry.main

    def file_path(self, entry: Entry, file: PinnedFile) -> Path:
        """Return where a file of `entry` is, or would be."""
        check_kind("entry", entry, Entry, "an Entry of a catalogue")
        check_kind("file", file, PinnedFile, "a PinnedFile of the entry")
        return self.home / "checkpoints" / entry.folder / file.path

    def marker_path(self, entry: Entry, file: PinnedFile) -> Path:
        """Return where it is noted that a file of `entry` was verified."""
        path = self.file_path(entry, file)
        return path.with_name(path.name + ".json")

    def known(self) -> Mapping[str, Entry]:
        """Return what this store knows by name without the network: its catalogue, and what was
        pulled by a reference.
        """
        found, spellings = dict(self.catalog), set[str]()
        with self.reading():
            for path in sorted((self.home / "checkpoints").glob(f"*/{manifest.NAME}")):
                entry = self.in_folder(path.parent.name)
                if entry is not None and spelling_of(entry.name) not in spellings:
                    spellings.add(spelling_of(entry.name))
                    found[entry.name] = entry
        return found

    def in_folder(self, folder: str) -> Entry | None:
        """Return the entry whose folder has that name, without a look at the others."""
        check_kind("folder", folder, str, "a str")
        for entry in self.catalog.values():
            if entry.folder == folder:
                return entry
        pulled = manifest.read_manifest(self.home / "checkpoints" / folder / manifest.NAME)
        return pulled if pulled is not None and find(pulled.name, self.catalog) is None else None

    def find(self, name: str) -> Entry | None:
        """Return the entry that a name, alias or reference means, if this store knows it.

        None for what would have to be looked up, and for what no model is called.
        """
        entry = find(name, self.catalog)
        if entry is not None:
            return entry
        known = self.known()
        entry = find(name, known)
        reference = parse(name)
        if entry is None and reference is not None and reference.hub != "ollama":
            with contextlib.suppress(ModelNotFoundError):
                entry = find(want(name, read_catalog()).name, known)
        return entry

    def entry(self, name: str) -> Entry:
        """Return what `find` does; ModelNotFoundError with likely names if that is None."""
        entry = self.find(name)
        if entry is None:
            known = self.known()
            close = near(name, known)
            hint = f"did you mean {' or '.join(close)}?" if close else None
            raise ModelNotFoundError(
                f"there is no model called {shortened(name)!r}",
                hint=hint or f"known: {', '.join(known)}",
            )
        return entry

    def wanted(self, name: str) -> Wanted:
        """Return what a reference means; ModelNotFoundError with likely names if that is nothing.

        Raises UnsupportedError for a model of Ollama's, which is never pulled. Asks nobody: whether
        a repository is there, only its hub can tell.
        """
        try:
            return want(name, read_catalog())
        except ModelNotFoundError:
            close = near(name, self.known(), cutoff=0.8)
            if not close:
                raise  # the catalog has more that looks like it
            raise ModelNotFoundError(
                f"there is no model called {shortened(name)!r}",
                hint=f"did you mean {' or '.join(close)}?",
            ) from None

    def list(self) -> Sequence[Stored]:
        """Return every entry that this store knows with its state, in the catalogue's order."""
        return [self._stored(entry) for entry in self.known().values()]

    def show(self, name: str) -> Stored:
        """Return one entry with its state; ModelNotFoundError for an unknown name."""
        return self._stored(self.entry(name))

    def pull(self, name: str, listener: Listener | None = None) -> Path:
        """Return the path of a verified checkpoint, fetching it when it is not in the store.

        A fetch that was broken off goes on where it stopped, file by file. Raises
        ModelNotFoundError, DownloadError (no source delivers, or offline), DigestError (what came,
        twice, is not the published file, or a hub's word is not the catalog's) or ResourceError
        (disk full, not writable, not readable, without locks).
        """
        listener = StderrListener() if listener is None else listener
        check_listener(listener)
        entry = self.find(name)
        if entry is None:
            entry = self._look_up(name, listener)
        first, fetched = not self._attribution_path(entry).exists(), False
        path = self.path(entry)
        if not self._trusted(entry):
            try:
                with self.locked(entry, listener):
                    # Another process may have pinned a commit meanwhile: its, not a second one.
                    entry = self.known().get(entry.name, entry)
                    path = self.path(entry)
                    fetched = self._pull_locked(entry, listener, introduce=first)
            except ResourceError:
                # A store that cannot be written may still hold the files: good, if the digests are.
                if self._stored(entry).state != "unverified" or self._unsound(entry, listener):
                    raise
        if first:
            if not fetched:  # it was there already, put by hand
                listener.notice(attribution(entry))
            if shows(listener):
                self._record_attribution(entry)
        return path

    def remove(self, name: str, listener: Listener | None = None) -> int:
        """Delete the files of `name` and return the bytes freed; waits for a fetch under way.

        Of a folder that is a link, the link: what it points to stays. Raises ModelNotFoundError
        when the name is unknown or nothing of it is stored.
        """
        entry = self.entry(name)
        if listener is not None:
            check_listener(listener)
        folder = self.home / "checkpoints" / entry.folder
        missing = ModelNotFoundError(f"{entry.name} is not in the store {self.home}")
        if not folder.is_dir():
            raise missing
        listener = listener or SilentListener()
        with self.locked(entry, listener), self.writing():
            if not folder.is_dir():  # another process removed it during the wait
                raise missing
            freed = bytes_below(folder)
            if folder.is_symlink():
                listener.notice(f"{folder} is a link; {folder.readlink()} stays as it is")
            else:
                for file in entry.files:  # first: half-deleted is untrusted
                    self.marker_path(entry, file).unlink(missing_ok=True)
            delete(folder)
        return freed

    # -- what is trusted ---------------------------------------------------------------------------

    def _stored(self, entry: Entry) -> Stored:
        with self.reading():
            there = sum(self.file_path(entry, file).is_file() for file in entry.files)
        state: State = "missing" if there == 0 else "incomplete"
        if there == len(entry.files):
            state = "stored" if self._trusted(entry) else "unverified"
        return Stored(entry, self.path(entry), state)

    def _trusted(self, entry: Entry) -> bool:
        return all(self._marker_fits(entry, file) for file in entry.files)

    def _marker_fits(self, entry: Entry, file: PinnedFile) -> bool:
        """Whether the file is the one that was verified: same size, mtime and published digest."""
        try:
            status = self.file_path(entry, file).stat()
            marker = json.loads(self.marker_path(entry, file).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return bool(marker == _marker(file, status)) and status.st_size == file.size

    def trust(self, entry: Entry, file: PinnedFile, hashed: os.stat_result) -> None:
        """Note that a file of `entry`, as it was when it was hashed, is the published one."""
        text = json.dumps(_marker(file, hashed), indent=1)
        write_atomically(self.marker_path(entry, file), text + "\n")

    def digest(
        self, entry: Entry, file: PinnedFile, listener: Listener
    ) -> tuple[str, os.stat_result]:
        """Return the digest of a stored file, and its status before the first byte was read.

        Raises ResourceError when it cannot be read.
        """
        path, what = self.file_path(entry, file), f"verifying {entry.name}"
        try:
            status = path.stat()
            read = digest_of(
                path, file.hasher(), lambda done: listener.progress(what, done, status.st_size)
            )
            return read, status
        except OSError as error:
            raise ResourceError(
                f"the stored file {path} cannot be read: {error.strerror or error}",
                hint="check its permissions and the disk (the system's log tells of bad ones)",
            ) from error

    def _verified(
        self, entry: Entry, file: PinnedFile, listener: Listener
    ) -> os.stat_result | None:
        """Hash a stored file; its status if it is the published one."""
        if self.file_path(entry, file).stat().st_size != file.size:
            return None
        found, status = self.digest(entry, file, listener)
        return status if found == file.digest else None

    def _unsound(self, entry: Entry, listener: Listener) -> bool:
        """Whether a file is neither marked nor what was published when it is hashed."""
        return any(
            not self._marker_fits(entry, file) and self._verified(entry, file, listener) is None
            for file in entry.files
        )

    # -- fetching ----------------------------------------------------------------------------------

    def _look_up(self, name: str, listener: Listener) -> Entry:
        """Return what a reference means that this store does not know, from the hubs."""
        wanted = self.wanted(name)
        reference = parse(name)
        if offline() and reference is not None and reference.pick is None:
            for one in self.list():  # in whatever format
                if one.state == "stored" and one.entry.name.startswith(f"{wanted.base}:"):
                    listener.notice(f"offline: {one.entry.name}, which is stored, for {name}")
                    return one.entry
        self._check_online(wanted.name)
        return look_up(wanted, self.sources, listener)

    def _pull_locked(self, entry: Entry, listener: Listener, *, introduce: bool) -> bool:
        """Make the stored files the published ones, and say whether any was fetched.

        The lock is held. introduce: show the attribution once it is clear that bytes will be asked
        for.
        """
        self._check_folder(entry)
        lacking = [file for file in entry.files if not self._sound(entry, file, listener)]
        if not lacking:
            return False
        self._check_online(entry.name)
        incoming = self.incoming(entry.name)
        with self.writing():
            make_folder(incoming)  # under the lock: no remove() takes it
            self._check_places(entry, lacking)
            self._clear(entry)
            self._check_space(entry, lacking)
            if introduce:
                listener.notice(attribution(entry))
            if entry.name not in self.catalog:
                manifest.write_manifest(incoming.with_name(manifest.NAME), entry)
            done = entry.size - sum(file.size for file in lacking)
            for file in lacking:
                part = fetch(entry, file, incoming, self.sources, listener, done)
                status, path = part.stat(), self.file_path(entry, file)
                make_folder(path.parent)
                self.marker_path(entry, file).unlink(missing_ok=True)  # one of an earlier file
                move(part, path)
                self.trust(entry, file, status)
                done += file.size
            shutil.rmtree(incoming, ignore_errors=True)
        return True

    def _sound(self, entry: Entry, file: PinnedFile, listener: Listener) -> bool:
        """Whether a stored file is the published one; if it was not marked so, it is now."""
        if self._marker_fits(entry, file):  # another process may just have done it
            return True
        path = self.file_path(entry, file)
        if not path.is_file():
            return False
        status = self._verified(entry, file, listener)
        if status is None:
            listener.notice(f"the stored file {path} is damaged or has changed; fetching it anew")
            return False
        with self.writing():
            self.trust(entry, file, status)
        return True

    def _check_folder(self, entry: Entry) -> None:
        """Refuse a folder that another checkpoint has, by a name that is spelt the same there."""
        folder = self.home / "checkpoints" / entry.folder
        owner = manifest.owner_of(folder / manifest.NAME)
        if owner not in (None, entry.name):
            raise ResourceError(
                f"{entry.name} cannot be stored: its folder {folder} is that of {owner}",
                hint=f"`qwick models rm {owner}` first, or name a commit instead of its revision",
            )

    def _check_online(self, name: str) -> None:
        """Refuse to fetch where the network is switched off; DownloadError."""
        switch = offline()
        if switch:
            raise DownloadError(
                f"{name} is not in the store {self.home}, and {switch} forbids fetching it",
                hint=f"unset {switch.replace(' or ', ' or leave out ')} to fetch it, "
                "or name the path of a .gguf file you have",
            )

    def _clear(self, entry: Entry) -> None:
        """Delete what earlier fetches left, but for the bytes that this one goes on from."""
        incoming = self.incoming(entry.name)
        keep = {part_path(incoming, file) for file in entry.files}
        keep |= {state_path(incoming, file) for file in entry.files}
        for path in incoming.iterdir():
            if path not in keep:
                delete(path)

    def _check_places(self, entry: Entry, lacking: Sequence[PinnedFile]) -> None:
        """Refuse, before anything is fetched, to put a file where a folder is."""
        for file in lacking:
            path = self.file_path(entry, file)
            if path.is_dir():
                raise ResourceError(
                    f"{path} is a folder, where a file of {entry.name} belongs",
                    hint="move it elsewhere, and pull again",
                )

    def _check_space(self, entry: Entry, lacking: Sequence[PinnedFile]) -> None:
        incoming = self.incoming(entry.name)
        free = shutil.disk_usage(incoming).free
        needed = sum(file.size - arrived(incoming, file) for file in lacking)
        if free < needed:
            self.disk_full(
                f"{entry.name} needs {needed:,} bytes, {free:,} are free: "
                f"{needed - free:,} are missing"
            )

    # -- attribution -------------------------------------------------------------------------------

    def _attribution_path(self, entry: Entry) -> Path:
        return self.home / "attributions" / f"{entry.folder}.txt"

    def _record_attribution(self, entry: Entry) -> None:
        """Remember that it was shown; a store that cannot be written shows it again."""
        path = self._attribution_path(entry)
        with contextlib.suppress(OSError):
            make_folder(path.parent)
            write_atomically(path, attribution(entry) + "\n")


def attribution(entry: Entry) -> str:
    """Return the line that names the model, its author, its licence and where it comes from."""
    from huggingface_hub import constants

    check_kind("entry", entry, Entry, "an Entry of a catalogue")
    page = f"{without_login(constants.ENDPOINT)}/{entry.repository}"
    if entry.places[0].hub == "ms":
        page = f"{settings.MODELSCOPE.get()}/models/{entry.repository}"
    return f"{entry.title} · by {entry.author} · licence {entry.license} · {page}"


def offline() -> str:
    """Return the switch that forbids the network, or ""."""
    from huggingface_hub import constants

    if settings.OFFLINE.get():
        return f"{settings.OFFLINE.name} or --offline"
    # Whoever sets this one wants no download from elsewhere either.
    return "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""


def _marker(file: PinnedFile, status: os.stat_result) -> dict[str, object]:
    kind = "sha256" if file.sha256 else "git_sha1"
    return {kind: file.digest, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
