"""Looking after a store: hash, count, clear up, and leave alone what is in use."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.support import CONTENT, FILE, HubServer, Recorder, entry_of
from qwick import hub
from qwick.errors import ModelNotFoundError
from qwick.hub import Entry, Store, manifest
from qwick.hub.disk import Hasher
from qwick.hub.huggingface import HubSource
from qwick.hub.locks import is_held, locked
from qwick.hub.manifest import NAME, write_manifest
from qwick.hub.partial import part_path


def left(store: Store) -> set[str]:
    """Every file below the store's home."""
    return {str(p.relative_to(store.home)) for p in store.home.rglob("*") if not p.is_dir()}


# -- verify ----------------------------------------------------------------------------------------


def test_a_sound_file_is_hashed_and_trusted(store: Store, recorder: Recorder) -> None:
    path = store.pull("tiny", Recorder())
    store.marker_path(entry_of(), FILE).unlink()
    checked = hub.verify(store, "TINY", recorder)
    assert (checked.verdict, checked.files[0].found) == ("ok", FILE.digest)
    assert checked.path == path
    assert recorder.steps[-1] == ("verifying tiny", len(CONTENT), len(CONTENT))
    assert store.show("tiny").state == "stored"


@pytest.mark.parametrize(
    "damaged", [bytes(len(CONTENT)), CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])], ids=["zeros", "bit"]
)
def test_a_damaged_file_whose_marker_fits_is_found(store: Store, damaged: bytes) -> None:
    path = store.pull("tiny", Recorder())
    status = path.stat()
    path.write_bytes(damaged)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk that rots
    assert store.show("tiny").state == "stored"
    checked = hub.verify(store, "tiny", Recorder())
    assert checked.verdict == "damaged"
    assert checked.files[0].found not in (None, FILE.digest)
    assert store.show("tiny").state == "unverified"
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT


def test_what_is_not_there(store: Store) -> None:
    checked = hub.verify(store, "tiny", Recorder())
    assert (checked.verdict, checked.files[0].found) == ("missing", None)
    with pytest.raises(ModelNotFoundError):
        hub.verify(store, "nobody", Recorder())


def test_verify_waits_for_a_pull(store: Store) -> None:
    store.pull("tiny", Recorder())
    heard, found = Recorder(), []
    thread = threading.Thread(target=lambda: found.append(hub.verify(store, "tiny", heard)))
    with locked(store.lock_path("tiny"), lambda: None):
        thread.start()
        while not heard.notices:
            assert thread.is_alive()
        assert found == []
    thread.join(20)
    assert [one.verdict for one in found] == ["ok"]


# -- du --------------------------------------------------------------------------------------------


def test_the_bytes_of_an_empty_store(store: Store) -> None:
    usage = hub.usage(store)
    assert (usage.checkpoints, usage.caches, usage.total) == ((), (), 0)
    assert usage.free > 0
    assert not store.home.exists()


def test_every_byte_is_counted_once(store: Store) -> None:
    store.pull("tiny", Recorder())
    part = part_path(store.incoming("tiny"), FILE)
    part.parent.mkdir()
    part.write_bytes(bytes(1234))
    unknown = store.home / "checkpoints" / "gone" / "file"
    unknown.parent.mkdir()
    unknown.write_bytes(bytes(55))
    (store.home / "peers" / "deep").mkdir(parents=True)
    (store.home / "peers" / "deep" / "file").write_bytes(bytes(77))
    (store.home / "peers" / "round").symlink_to(store.home)  # is not followed
    usage = hub.usage(store)
    tiny, gone = usage.checkpoints
    marker = store.marker_path(entry_of(), FILE).stat().st_size
    assert (tiny.name, tiny.state) == ("tiny", "stored")
    assert (tiny.file, tiny.partial, tiny.other) == (len(CONTENT), 1234, marker)
    assert (gone.name, gone.state, gone.file, gone.other) == ("gone", "unknown", 0, 55)
    caches = dict(usage.caches)
    assert caches["peers"] == 77
    assert usage.total == sum(
        p.stat().st_size for p in store.home.rglob("*") if p.is_file() and "round" not in p.parts
    )


# -- prune -----------------------------------------------------------------------------------------


@pytest.fixture
def cluttered(store: Store) -> Store:
    """A store with a sound checkpoint, and everything that killed processes may leave."""
    store.pull("tiny", Recorder())
    store.incoming("tiny").mkdir()
    part_path(store.incoming("tiny"), FILE).write_bytes(bytes(1000))
    (store.incoming("tiny") / "scratch-1").mkdir()
    (store.incoming("tiny") / "scratch-1" / "wheel").write_bytes(bytes(200))
    (store.path(entry_of()).parent / "tiny.gguf.json.77.part").write_bytes(bytes(30))
    (store.home / "attributions" / "tiny.txt.77.part").write_bytes(bytes(4))
    (store.home / "checkpoints" / "gone").mkdir()
    (store.home / "checkpoints" / "gone" / "gone.gguf").write_bytes(bytes(500))
    (store.home / "locks" / "ghost.lock").write_bytes(b"")
    (store.home / "evaluations").mkdir()
    (store.home / "evaluations" / "kept").write_bytes(bytes(9))
    return store


KEPT = {
    "attributions/tiny.txt",
    "checkpoints/tiny/tiny.gguf",
    "checkpoints/tiny/tiny.gguf.json",
    "evaluations/kept",
}


def test_what_nobody_needs_goes_and_the_rest_stays(cluttered: Store) -> None:
    before = left(cluttered)
    planned = hub.prune(cluttered, dry_run=True)
    assert left(cluttered) == before
    done = hub.prune(cluttered)
    assert sorted(map(str, done.deleted)) == sorted(map(str, planned.deleted))
    assert (done.freed, done.busy) == (1000 + 200 + 30 + 4 + 500, ())
    assert {item.kind for item in done.deleted} == {"partial download", "unused file", "stale lock"}
    assert left(cluttered) == KEPT
    assert not (cluttered.home / "checkpoints" / "gone").exists()
    assert cluttered.show("tiny").state == "stored"
    assert hub.prune(cluttered) == hub.Pruned((), ())


def test_a_marker_without_its_file_goes(store: Store) -> None:
    store.pull("tiny", Recorder()).unlink()
    hub.prune(store)
    assert left(store) == {"attributions/tiny.txt"}


def test_an_unverified_checkpoint_stays(store: Store) -> None:
    path = store.pull("tiny", Recorder())
    store.marker_path(entry_of(), FILE).unlink()
    hub.prune(store)
    assert path.exists()


def test_an_empty_store_is_not_made(store: Store) -> None:
    assert hub.prune(store) == hub.Pruned((), ())
    assert not store.home.exists()


def test_what_a_running_pull_works_on_stays(store: Store, server: HubServer) -> None:
    server.gate = threading.Event()
    found: list[Path] = []
    pull = threading.Thread(target=lambda: found.append(store.pull("tiny", Recorder())))
    pull.start()
    part, until = part_path(store.incoming("tiny"), FILE), time.monotonic() + 20
    while not part.exists() or part.stat().st_size < len(CONTENT) // 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    before = left(store)
    for dry_run in (True, False):
        done = hub.prune(store, dry_run=dry_run)
        assert (done.deleted, done.busy) == ((), ("tiny",))
    assert left(store) == before
    server.gate.set()
    pull.join(20)
    assert found[0].read_bytes() == CONTENT


def test_a_link_goes_and_not_what_it_points_to(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    folder = store.path(entry_of()).parent
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(mine)
    hub.prune(store)
    assert not (folder / "link").exists()
    assert (mine / "file").read_text() == "mine"


@pytest.mark.parametrize("known", [True, False])
def test_below_a_folder_that_is_a_link_nothing_of_others_goes(
    store: Store, tmp_path: Path, known: bool
) -> None:
    path = store.pull("tiny", Recorder())
    elsewhere = path.parent.rename(tmp_path / "elsewhere")
    link = path.parent if known else path.parent.with_name("unknown")
    link.symlink_to(elsewhere)
    (elsewhere / "mine.txt").write_text("mine")
    kept = {p.name for p in elsewhere.iterdir()}
    if known:
        store.incoming("tiny").mkdir()
        part_path(store.incoming("tiny"), FILE).write_bytes(bytes(1000))
        (row,) = hub.usage(store).checkpoints
        marker = store.marker_path(entry_of(), FILE).stat().st_size
        assert (row.file, row.partial, row.other) == (len(CONTENT), 1000, marker + len("mine"))
    planned = hub.prune(store, dry_run=True)
    done = hub.prune(store)
    assert sorted(map(str, done.deleted)) == sorted(map(str, planned.deleted))
    assert done.freed == (1000 if known else 0)
    assert {p.name for p in elsewhere.iterdir()} == kept
    assert link.is_symlink() == known
    assert store.show("tiny").state == ("stored" if known else "missing")


def test_below_a_link_inside_of_a_checkpoint_nothing_goes(
    make_store: Callable[..., Store], server: HubServer, tmp_path: Path
) -> None:
    store = make_store(HubSource(server.endpoint), entry=entry_of(path="sub/tiny.gguf"))
    path = store.pull("tiny", Recorder())
    elsewhere = path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to(elsewhere)
    (elsewhere / "mine.txt").write_text("mine")
    hub.prune(store)
    assert (elsewhere / "mine.txt").exists()
    assert store.show("tiny").state == "stored"


def test_each_manifest_is_read_a_few_times_however_many_there_are(
    make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 30
    for number in range(count):
        entry = entry_of(name=f"some/thing{number}", aliases=())
        folder = make_store().home / "checkpoints" / entry.folder
        folder.mkdir(parents=True)
        write_manifest(folder / NAME, entry)
        (folder / "tiny.gguf").write_bytes(b"x")
        (folder / "garbage").write_bytes(b"xx")
    read: list[Path] = []
    real = manifest.read_manifest

    def counted(path: Path) -> Entry | None:
        read.append(path)
        return real(path)

    monkeypatch.setattr(manifest, "read_manifest", counted)
    assert len(hub.usage(make_store()).checkpoints) == count
    assert len(read) <= 2 * count
    read.clear()
    assert hub.prune(make_store()).freed == 2 * count
    assert len(read) <= 4 * count


# -- locks -----------------------------------------------------------------------------------------


def test_who_waits_for_a_lock_file_that_is_pruned_waits_for_the_next_one(
    make_store: Callable[..., Store],
) -> None:
    lock = make_store().lock_path("tiny")
    lock.parent.mkdir(parents=True)
    first, second = threading.Event(), threading.Event()  # waits, and what follows
    entered: list[bool] = []

    def wait() -> None:
        (second if released.is_set() else first).set()

    def hold() -> None:
        with locked(lock, wait):
            entered.append(True)
            second.set()

    released = threading.Event()
    waiter = threading.Thread(target=hold)
    with contextlib.ExitStack() as newcomer:
        with locked(lock, lambda: None):
            waiter.start()
            assert first.wait(20)
            assert is_held(lock)
            lock.unlink()  # as prune does
            newcomer.enter_context(locked(lock, lambda: None))  # of a new file
        released.set()
        assert second.wait(20)
        assert entered == []
    waiter.join(20)
    assert entered == [True]
    assert not is_held(lock)


def test_a_file_that_changes_while_it_is_hashed_is_not_trusted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.pull("tiny", Recorder())
    store.marker_path(entry_of(), FILE).unlink()
    real = hub.store.digest_of

    def slow(path: Path, digest: Hasher, heard: Callable[[int], None]) -> str:
        found = real(path, digest, heard)
        path.write_bytes(b"x" * len(CONTENT))
        return found

    monkeypatch.setattr(hub.store, "digest_of", slow)
    store.pull("tiny", Recorder())
    assert store.show("tiny").state == "unverified"
    monkeypatch.undo()
    hub.verify(store, "tiny", Recorder())
    assert path.read_bytes() != CONTENT
    store.pull("tiny", Recorder())
    assert path.read_bytes() == CONTENT
