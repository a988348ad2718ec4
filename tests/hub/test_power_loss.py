"""A loss of power at any moment: what was not synced is gone, and must not be trusted.

While a real pull runs, each call of fsync and rename is a moment to lose power. The worst disk that
the system may leave is built for it: every name is where it is now, but a file has only the bytes
it had when it was last synced, or zeros in their place, or nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.support import CONTENT, HubServer, Recorder
from qwick.hub import Store

Filler = Callable[[bytes, int], bytes]


def cut(synced: bytes, length: int) -> bytes:
    return synced[:length]


def zeroed(synced: bytes, length: int) -> bytes:
    return synced[:length] + bytes(max(0, length - len(synced)))


class Disk:
    """Watches the syncs below `home`, and says what a loss of power would leave."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.synced: dict[int, bytes] = {}  # inode: bytes that are on the disk
        self.folders: set[Path] = set()  # those synced since the last rename into them
        self.moments: list[dict[Path, tuple[bytes, int, int]]] = []
        fsync, replace = os.fsync, os.replace

        def watched_fsync(descriptor: int) -> None:
            self.moment()
            fsync(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path.is_file():
                self.synced[os.fstat(descriptor).st_ino] = path.read_bytes()
            else:
                self.folders.add(path)
            self.moment()

        def watched_replace(old: Path, new: Path) -> None:
            self.moment()
            replace(old, new)
            self.folders.discard(Path(new).parent)
            self.moment()

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "replace", watched_replace)

    def moment(self) -> None:
        """Remember each file: bytes on the disk, length and time as they seem to be."""
        files = {}
        for path in self.home.rglob("*"):
            if path.is_file():
                status = path.stat()
                on_disk = self.synced.get(status.st_ino, b"")
                files[path.relative_to(self.home)] = on_disk, status.st_size, status.st_mtime_ns
        self.moments.append(files)


def test_no_moment_leaves_half_a_file_trusted(
    store: Store, server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        disk = Disk(store.home, patch)
        store.pull("tiny", Recorder())
        assert store.path(store.entry("tiny")).parent in disk.folders
    states = set()
    moments = {repr(sorted((p, len(b), n) for p, (b, n, _) in m.items())): m for m in disk.moments}
    assert len(moments) > 6
    for fill in (cut, zeroed):
        for files in moments.values():
            home = tmp_path / "after"
            for path, (synced, length, mtime) in files.items():
                (home / path).parent.mkdir(parents=True, exist_ok=True)
                (home / path).write_bytes(fill(synced, length))
                os.utime(home / path, ns=(mtime, mtime))  # the worst: the marker fits
            after = Store(home, catalog=store.catalog, sources=store.sources)
            state = after.show("tiny").state
            states.add(state)
            path = after.path(after.entry("tiny"))
            if path.exists():
                assert path.read_bytes() == CONTENT
            assert after.pull("tiny", Recorder()).read_bytes() == CONTENT
            assert after.show("tiny").state == "stored"
            shutil.rmtree(home)
    assert states == {"missing", "unverified", "stored"}
