"""What the store trusts: verified files only, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.support import CONTENT, FILE, HubServer, Recorder, entry_of
from qwick.errors import DigestError, DownloadError, ModelNotFoundError, ResourceError
from qwick.hub import SilentListener, Store
from qwick.hub.huggingface import HubSource
from qwick.hub.locks import locked
from qwick.hub.manifest import NAME, write_manifest


def leftovers(store: Store) -> list[str]:
    """Everything below the store but locks and attributions."""
    keep = ("locks", "attributions")
    files = (p.relative_to(store.home) for p in store.home.rglob("*") if p.is_file())
    return sorted(str(p) for p in files if p.parts[0] not in keep)


def test_pull_fetches_verifies_and_marks(store: Store, recorder: Recorder) -> None:
    assert store.show("tiny").state == "missing"
    path = store.pull("tiny", recorder)
    assert path.read_bytes() == CONTENT
    assert store.show("some/Tiny").state == "stored"
    assert leftovers(store) == ["checkpoints/tiny/tiny.gguf", "checkpoints/tiny/tiny.gguf.json"]
    assert not (path.parent / "incoming").exists()
    done = [step[1] for step in recorder.steps]
    assert done == sorted(done)
    assert recorder.steps[-1] == ("fetching tiny", len(CONTENT), len(CONTENT))


def test_a_second_pull_neither_fetches_nor_hashes(
    store: Store, server: HubServer, recorder: Recorder
) -> None:
    store.pull("tiny", Recorder())
    store.pull("tiny", recorder)
    assert len(server.requests) == 1
    assert recorder.steps == []


def test_the_attribution_is_shown_once(store: Store) -> None:
    first, second = Recorder(), Recorder()
    store.pull("tiny", first)
    store.remove("tiny")
    store.pull("tiny", second)
    (line,) = first.notices
    for part in ("Tiny", "Somebody", "Apache-2.0", "/some/tiny"):
        assert part in line
    assert second.notices == []


def test_the_attribution_comes_before_the_bytes_and_not_before_a_refusal(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    class Both(Recorder):
        def progress(self, what: str, done: int, total: int) -> None:
            heard.append("bytes")

        def notice(self, text: str) -> None:
            heard.append(text)

    monkeypatch.setenv("QWICK_OFFLINE", "1")
    with pytest.raises(DownloadError):
        store.pull("tiny", Both())
    assert heard == []
    monkeypatch.delenv("QWICK_OFFLINE")
    store.pull("tiny", Both())
    assert "Somebody" in heard[0]
    assert set(heard[1:]) == {"bytes"}


def test_the_attribution_of_a_file_that_was_put_there(store: Store, recorder: Recorder) -> None:
    path = store.path(store.entry("tiny"))
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    store.pull("tiny", recorder)
    (line,) = recorder.notices
    assert "Somebody" in line


def test_an_attribution_that_nobody_saw_is_shown_later(store: Store) -> None:
    class Half(SilentListener):
        """Hears of progress; notices still reach nobody."""

        def progress(self, what: str, done: int, total: int) -> None:
            assert what

    store.pull("tiny", SilentListener())
    store.pull("tiny", Half())
    seen, again = Recorder(), Recorder()
    store.pull("tiny", seen)
    store.pull("tiny", again)
    (line,) = seen.notices
    assert "Somebody" in line
    assert again.notices == []


def test_the_attribution_waits_for_success(store: Store, server: HubServer) -> None:
    server.status = 503
    with pytest.raises(DownloadError):
        store.pull("tiny", Recorder())
    server.status = 200
    later = Recorder()
    store.pull("tiny", later)
    assert any("Somebody" in text for text in later.notices)


def test_a_file_put_in_by_hand_is_hashed_once(make_store: Callable[..., Store]) -> None:
    store = make_store()
    path = store.path(entry_of())
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert store.show("tiny").state == "unverified"
    first, second = Recorder(), Recorder()
    assert store.pull("tiny", first) == path
    assert first.steps[-1] == ("verifying tiny", len(CONTENT), len(CONTENT))
    store.pull("tiny", second)
    assert second.steps == []


def test_a_touched_file_is_hashed_again(store: Store, server: HubServer) -> None:
    path = store.pull("tiny", Recorder())
    os.utime(path, ns=(1, 1))
    assert store.show("tiny").state == "unverified"
    again = Recorder()
    store.pull("tiny", again)
    assert again.steps[0][0] == "verifying tiny"
    assert len(server.requests) == 1
    assert store.show("tiny").state == "stored"


@pytest.mark.parametrize("keep", [len(CONTENT), len(CONTENT) - 1, 0])
def test_a_damaged_file_is_fetched_anew(
    store: Store, server: HubServer, recorder: Recorder, keep: int
) -> None:
    path = store.pull("tiny", Recorder())
    damaged = bytearray(CONTENT[:keep])
    if damaged:
        damaged[keep // 2] ^= 1
    path.write_bytes(damaged)
    assert store.pull("tiny", recorder).read_bytes() == CONTENT
    assert len(server.requests) == 2
    assert any("damaged" in text for text in recorder.notices)


def test_a_damaged_file_is_not_trusted_when_no_source_delivers(
    store: Store, server: HubServer
) -> None:
    path = store.pull("tiny", Recorder())
    path.write_bytes(b"x" * len(CONTENT))
    server.status = 500
    for _ in range(2):
        with pytest.raises(DownloadError, match="500"):
            store.pull("tiny", Recorder())
    assert store.show("tiny").state == "unverified"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"sha256": 1}'])
def test_a_damaged_marker_is_not_trusted(store: Store, text: str) -> None:
    path = store.pull("tiny", Recorder())
    path.with_name("tiny.gguf.json").write_text(text)
    assert store.show("tiny").state == "unverified"
    store.pull("tiny", Recorder())
    assert json.loads(path.with_name("tiny.gguf.json").read_text())["size"] == len(CONTENT)


def test_a_marker_of_another_digest_is_not_trusted(
    store: Store, make_store: Callable[..., Store], server: HubServer
) -> None:
    store.pull("tiny", Recorder())
    other = make_store(HubSource(server.endpoint), entry=entry_of(sha256="0" * 64))
    assert other.show("tiny").state == "unverified"
    with pytest.raises(DigestError):
        other.pull("tiny", Recorder())


def test_a_wrong_digest_names_both_and_leaves_nothing(store: Store, server: HubServer) -> None:
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DigestError) as caught:
        store.pull("tiny", Recorder())
    assert entry_of(server.content).files[0].digest in caught.value.message
    assert FILE.digest in caught.value.message
    assert "tiny.gguf" in caught.value.message
    assert caught.value.exit_code == 4
    assert leftovers(store) == []
    assert store.show("tiny").state == "missing"


def test_after_a_wrong_digest_the_next_source_is_asked(
    server: HubServer, make_store: Callable[..., Store], recorder: Recorder
) -> None:
    liar = HubServer(CONTENT)
    try:
        liar.content = bytes(len(CONTENT))
        store = make_store(HubSource(liar.endpoint), HubSource(server.endpoint))
        assert store.pull("tiny", recorder).read_bytes() == CONTENT
    finally:
        liar.close()
    assert any("wrong digest; trying the next source" in text for text in recorder.notices)


def test_offline_says_so_and_fetches_nothing(
    store: Store, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWICK_OFFLINE", "1")
    with pytest.raises(DownloadError, match="QWICK_OFFLINE") as caught:
        store.pull("tiny", Recorder())
    assert caught.value.hint is not None
    assert server.requests == []


def test_offline_uses_what_is_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pull("tiny", Recorder())
    monkeypatch.setenv("QWICK_OFFLINE", "1")
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT


def test_a_disk_that_is_too_small_is_noticed_before_fetching(
    server: HubServer, make_store: Callable[..., Store]
) -> None:
    store = make_store(HubSource(server.endpoint), entry=entry_of(size=1 << 62))
    with pytest.raises(
        ResourceError, match=r"387,904 bytes, .* are free: .* are missing"
    ) as caught:
        store.pull("tiny", Recorder())
    assert "QWICK_HOME" in str(caught.value.hint)
    assert server.requests == []


def test_a_home_that_cannot_be_written(
    server: HubServer, make_store: Callable[..., Store], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    store = make_store(HubSource(server.endpoint), home=tmp_path / "file" / "home")
    with pytest.raises(ResourceError, match="cannot be written") as caught:
        store.pull("tiny", Recorder())
    assert str(tmp_path / "file" / "home") in caught.value.message


def test_a_store_that_cannot_be_locked_still_serves_a_sound_file(
    make_store: Callable[..., Store],
) -> None:
    store = make_store()
    path = store.path(entry_of())
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    (store.home / "locks").write_text("a file where the folder should be")
    assert store.pull("tiny", Recorder()) == path
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(ResourceError):
        store.pull("tiny", Recorder())


def test_remove_frees_and_forgets(store: Store) -> None:
    path = store.pull("tiny", Recorder())
    assert store.remove("tiny") >= len(CONTENT)
    assert not path.parent.exists()
    with pytest.raises(ModelNotFoundError, match="not in the store"):
        store.remove("tiny")


class Waits(Recorder):
    """Says when it was told to wait for the lock."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def notice(self, text: str) -> None:
        super().notice(text)
        if "waiting for it" in text:
            self.told.set()


def test_a_pull_that_waited_for_a_remove_fetches_anew(store: Store) -> None:
    path = store.pull("tiny", Recorder())
    os.utime(path, ns=(1, 1))  # so that the second pull asks for the lock
    lock, waits = store.home / "locks" / "tiny.lock", Waits()
    found: list[bytes] = []
    second = threading.Thread(
        target=lambda: found.append(store.pull("tiny", waits).read_bytes()), daemon=True
    )
    with locked(lock, lambda: None):  # the first half of a remove in another process
        second.start()
        assert waits.told.wait(20)
        shutil.rmtree(path.parent)
    second.join(20)
    assert found == [CONTENT]
    assert store.show("tiny").state == "stored"


def test_a_remove_that_waited_for_a_remove_says_that_nothing_is_there(
    store: Store,
) -> None:
    path, waits = store.pull("tiny", Recorder()), Waits()
    raised: list[BaseException] = []

    def remove() -> None:
        try:
            store.remove("tiny", waits)
        except Exception as error:
            raised.append(error)

    second = threading.Thread(target=remove, daemon=True)
    with locked(store.home / "locks" / "tiny.lock", lambda: None):
        second.start()
        assert waits.told.wait(20)
        shutil.rmtree(path.parent)
    second.join(20)
    assert [type(error) for error in raised] == [ModelNotFoundError]


def test_a_folder_that_is_a_link_is_used_and_only_the_link_removed(
    store: Store, tmp_path: Path, recorder: Recorder
) -> None:
    path = store.pull("tiny", Recorder())
    elsewhere = path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to(elsewhere)
    (elsewhere / "mine.txt").write_text("mine")
    before = {p.name: p.read_bytes() for p in elsewhere.iterdir()}
    assert store.show("tiny").state == "stored"
    assert store.remove("tiny", recorder) == 0
    assert str(elsewhere) in recorder.notices[0]
    assert not path.parent.is_symlink()
    assert {p.name: p.read_bytes() for p in elsewhere.iterdir()} == before
    assert store.show("tiny").state == "missing"


def test_a_folder_in_place_of_the_file_is_told_of_before_fetching(
    store: Store, server: HubServer
) -> None:
    path = store.path(entry_of())
    (path / "inside").mkdir(parents=True)
    with pytest.raises(ResourceError, match="is a folder, where a file of tiny belongs") as caught:
        store.pull("tiny", Recorder())
    assert caught.value.hint == "move it elsewhere, and pull again"
    assert server.requests == []
    assert (path / "inside").exists()


def test_remove_leaves_the_lock_file(store: Store) -> None:
    store.pull("tiny", Recorder())
    lock = store.home / "locks" / "tiny.lock"
    before = lock.stat().st_ino
    store.remove("tiny")
    assert lock.stat().st_ino == before


def test_a_listener_can_stop_a_fetch(store: Store) -> None:
    class Stop(Recorder):
        def progress(self, what: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull("tiny", Stop())
    assert store.show("tiny").state == "missing"
    digest = FILE.digest
    kept = [f"checkpoints/tiny/incoming/{digest}.{suffix}" for suffix in ("json", "part")]
    assert leftovers(store) == kept
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT


def test_list_shows_every_entry(store: Store) -> None:
    assert [(s.entry.name, s.state) for s in store.list()] == [("tiny", "missing")]


def test_a_store_of_an_earlier_version_stays_good(server: HubServer, tmp_path: Path) -> None:
    entry = entry_of()
    store = Store(tmp_path, catalog={"tiny": entry}, sources=[HubSource(server.endpoint)])
    path = store.pull("tiny", Recorder())
    marker = json.loads((tmp_path / "checkpoints/tiny/tiny.gguf.json").read_text())
    assert path == tmp_path / "checkpoints/tiny/tiny.gguf"
    assert sorted(marker) == ["mtime_ns", "sha256", "size"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.gguf", "tiny.gguf.json"]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("some/tiny@a/b", "some/tiny@a--b"),
        ("some/tiny@a:b.gguf", "some/tiny@a/b.gguf"),
        ("ms:some/tiny", "ms/some:tiny"),
    ],
)
def test_two_names_of_one_folder_do_not_share_it(
    server: HubServer, tmp_path: Path, owner: str, name: str
) -> None:
    first, second = entry_of(name=owner), entry_of(name=name, path="other.gguf")
    sources = [HubSource(server.endpoint)]
    path = Store(tmp_path, catalog={owner: first}, sources=sources).pull(owner, Recorder())
    write_manifest(path.parent / NAME, first)  # as if pulled by a reference
    before, store = sorted(path.parent.iterdir()), Store(tmp_path, catalog={}, sources=sources)
    assert store.pull(owner, Recorder()) == path
    other = Store(tmp_path, catalog={name: second}, sources=sources)
    with pytest.raises(ResourceError, match=f"its folder .* is that of {owner}") as caught:
        other.pull(name, Recorder())
    assert f"qwick models rm {owner}" in str(caught.value.hint)
    assert sorted(path.parent.iterdir()) == before
    store.remove(owner)
    assert other.pull(name, Recorder()).name == "other.gguf"
