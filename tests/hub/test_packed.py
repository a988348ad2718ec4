"""Files of packed experts: written once and whole, recognised, made again, thrown away."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.support import Spawn, children
from qwick.errors import ResourceError
from qwick.hub import Store, prune, usage
from qwick.hub.packed import PAGE, PackedFile, is_stale, open_packed

CONTENT = bytes(range(256)) * 1024  # 256 KiB
FACTS = {"packing": 1, "tensors": "abc"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home", sources=())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    file = tmp_path / "some model.gguf"
    file.write_bytes(b"weights")
    return file


class Use:
    """Asks for the file, and remembers what was said and whether it was written."""

    def __init__(self, store: Store, *files: Path, **facts: Any) -> None:
        self.notices: list[str] = []
        self.written = 0
        found = open_packed(
            store,
            files,
            {**FACTS, **facts},
            len(CONTENT),
            self._write,
            notice=self.notices.append,
            waited=lambda *_: None,
        )
        self.content = read(found)

    def _write(self, put: Any) -> None:
        self.written += 1
        for at in range(0, len(CONTENT), 100_000):
            put(memoryview(CONTENT)[at : at + 100_000])


def read(found: PackedFile) -> bytes:
    try:
        return os.pread(found.descriptor, 1 << 30, found.start)
    finally:
        os.close(found.descriptor)


def files_of(store: Store) -> list[Path]:
    folder = store.home / "experts"
    return sorted(folder.iterdir()) if folder.exists() else []


def the_file(store: Store) -> Path:
    (file,) = files_of(store)
    return file


def test_it_is_written_once(store: Store, checkpoint: Path) -> None:
    first, second = Use(store, checkpoint), Use(store, checkpoint)
    assert (first.written, second.written) == (1, 0)
    assert first.content == second.content == CONTENT
    assert "packing the experts, once" in first.notices[0]
    assert not second.notices
    assert the_file(store).name.startswith("some model-")
    assert the_file(store).stat().st_size % PAGE == 0


def test_what_it_was_made_of_matters(store: Store, checkpoint: Path, tmp_path: Path) -> None:
    Use(store, checkpoint)
    assert Use(store, checkpoint, packing=2).written == 1
    assert Use(store, checkpoint, packing=2).written == 0
    status = checkpoint.stat()
    os.utime(checkpoint, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert Use(store, checkpoint, packing=2).written == 1
    checkpoint.write_bytes(b"weights!")
    assert Use(store, checkpoint, packing=2).written == 1
    the_file(store)  # still one
    link = tmp_path / "link.gguf"
    link.symlink_to(checkpoint)
    assert Use(store, link, packing=2).written == 0, "the same file under another name"
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(b"weights!")
    assert Use(store, copy, packing=2).written == 1
    assert Use(store, checkpoint, copy, packing=2).written == 1, "in two parts"
    assert len(files_of(store)) == 3


def test_what_is_made_depends_on_the_config(store: Store, tmp_path: Path) -> None:
    """It says how quantised weights are decoded: the size of groups, zero points less one."""
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(b"weights")
    config.write_text('{"group_size": 64}', "utf-8")
    assert [Use(store, weights, made=1).written for _ in range(2)] == [1, 0]
    assert not is_stale(the_file(store))
    config.write_text('{"group_size": 128}', "utf-8")
    assert is_stale(the_file(store))
    assert [Use(store, weights, made=1).written for _ in range(2)] == [1, 0]
    assert [Use(store, weights).written for _ in range(2)] == [1, 0]
    config.write_text('{"group_size": 32}', "utf-8")
    assert Use(store, weights).written == 0, "stored as they are"


HEADER = [0, 15, 16, 20, 23, 24, 40, 55, 56, 57, 100, 200]  # in each of its parts


@pytest.mark.parametrize("keep_time", [True, False])
@pytest.mark.parametrize("at", [*HEADER, PAGE - 1, PAGE, PAGE + len(CONTENT) - 1])
def test_a_byte_that_changed(store: Store, checkpoint: Path, at: int, keep_time: bool) -> None:
    Use(store, checkpoint)
    file = the_file(store)
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte[0] ^ 1]))
    if keep_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    noticed = at < PAGE or not keep_time  # what nobody has written to is not read through
    assert is_stale(file) == noticed
    again = Use(store, checkpoint)
    assert (again.written, again.content == CONTENT) == (int(noticed), noticed)


@pytest.mark.parametrize("size", [0, 10, 30, 100, PAGE, PAGE + 1, PAGE + len(CONTENT) - 1])
def test_a_file_that_was_cut_off(store: Store, checkpoint: Path, size: int) -> None:
    Use(store, checkpoint)
    file = the_file(store)
    before = file.stat()
    os.truncate(file, size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert is_stale(file)
    assert Use(store, checkpoint).content == CONTENT


def test_a_file_that_has_grown_and_what_is_no_file(store: Store, checkpoint: Path) -> None:
    Use(store, checkpoint)
    file = the_file(store)
    before = file.stat()
    with file.open("ab") as opened:
        opened.write(b"x")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Use(store, checkpoint).content == CONTENT
    file.unlink()
    file.mkdir()
    with pytest.raises(ResourceError, match="cannot be written"):
        Use(store, checkpoint)
    file.rmdir()
    file.symlink_to("/nowhere/at all")
    assert Use(store, checkpoint).content == CONTENT


LENGTHS = [b"\xff" * 8, bytes(8), (1 << 20).to_bytes(8, "little"), b"\x10" + bytes(7)]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_hostile_header_is_stale_and_no_more(
    store: Store, checkpoint: Path, length: bytes
) -> None:
    Use(store, checkpoint)
    file = the_file(store)
    texts = (b"", b"{}", b"[" * 50_000, b'{"files": [[]], "size": "x"}', b'{"files": 1e999}')
    for text in texts:
        file.write_bytes(b"qwick experts 1\n" + length + bytes(32) + text)
        assert is_stale(file)
    assert Use(store, checkpoint).content == CONTENT


# ---- room ----------------------------------------------------------------------------------------


def test_a_disk_without_room(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwick.hub import packed

    free = len(CONTENT) + PAGE - 1
    monkeypatch.setattr(
        packed.shutil, "disk_usage", lambda _: packed.shutil._ntuple_diskusage(0, 0, free)
    )
    with pytest.raises(ResourceError) as caught:
        Use(store, checkpoint)
    assert f"{len(CONTENT) + PAGE:,} bytes" in caught.value.message
    assert f"{free:,} are free" in caught.value.message
    assert files_of(store) == []


def test_a_disk_that_fills_up(store: Store, checkpoint: Path) -> None:
    """As a limit on the size of files, which a process can have for real."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE + 150_000, before[1]))
    try:
        with pytest.raises(ResourceError, match=r"need 327,680 bytes in .*: File too large"):
            Use(store, checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files_of(store) == []
    assert Use(store, checkpoint).content == CONTENT


@pytest.mark.skipif(
    os.getuid() != 0,
    reason="fills a file system of its own, which only root can mount; without root a limit on the "
    "size of files stands for it (test_a_disk_that_fills_up)",
)
def test_a_full_file_system(store: Store, checkpoint: Path) -> None:
    store.home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(store.home)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(
            "fills a file system of its own, which this system does not let even root mount "
            f"({mounted.stderr.strip()}); a limit on the size of files stands for it "
            "(test_a_disk_that_fills_up)"
        )
    try:
        with pytest.raises(ResourceError, match=r"need 327,680 bytes in .*: 131,072 are free"):
            Use(store, checkpoint)
        assert files_of(store) == []
    finally:
        subprocess.run(["umount", str(store.home)], check=True)


def test_what_fails_while_it_is_written_leaves_nothing(store: Store, checkpoint: Path) -> None:
    def write(put: Any) -> None:
        put(CONTENT[:1000])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_packed(
            store, [checkpoint], FACTS, len(CONTENT), write,
            notice=lambda _: None, waited=lambda *_: None,
        )  # fmt: skip
    assert files_of(store) == []


def test_a_store_that_may_not_be_written(store: Store, checkpoint: Path) -> None:
    store.home.write_bytes(b"a file")
    with pytest.raises(ResourceError, match="cannot be written"):
        Use(store, checkpoint)


def test_without_locks_nobody_takes_anothers_file_away(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two write it then; the second begins, and ends, while the first is at it."""
    from qwick.hub import locks, packed

    def no_locks(*_: Any) -> bool:
        raise locks.NoLocksError("none here")

    monkeypatch.setattr(locks, "_taken", no_locks)
    second: list[Use] = []

    def write(put: Any) -> None:
        put(CONTENT[:1000])
        with monkeypatch.context() as patch:
            patch.setattr(packed.os, "getpid", lambda: 1)
            second.append(Use(store, checkpoint))
        put(CONTENT[1000:])

    first = open_packed(
        store, [checkpoint], FACTS, len(CONTENT), write,
        notice=lambda _: None, waited=lambda *_: None,
    )  # fmt: skip
    assert read(first) == second[0].content == CONTENT
    the_file(store)  # and no part beside it
    assert Use(store, checkpoint).written == 0


# ---- processes -----------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from qwick.hub import Store
from qwick.hub.packed import open_packed

def write(put):
    put(b"x" * 1000)
    print("writing", flush=True)
    sys.stdin.readline()
    put(b"x" * 9000)

open_packed(Store(Path(sys.argv[1]), sources=()), [Path(sys.argv[2])], {}, 10_000, write,
            notice=lambda text: print(text, flush=True),
            waited=lambda done, total: print("waited", done, total, flush=True))
print("done", flush=True)
"""


@pytest.fixture
def writer(store: Store, checkpoint: Path) -> Iterator[Spawn]:
    with children() as start:
        yield lambda: start("-c", WRITER, str(store.home), str(checkpoint))


def until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while word not in lines[-1]:
        assert lines[-1], f"it never said {word!r}"
        assert len(lines) < 100, lines
        lines.append(process.stdout.readline())


def test_one_writes_and_the_other_waits(writer: Any, store: Store, checkpoint: Path) -> None:
    first = writer()
    until(first, "writing")
    second = writer()
    until(second, "waiting for it")
    until(second, f"waited {PAGE} {PAGE + 10_000}")  # the 1,000 bytes are in the writer's buffer
    assert prune(store).deleted == (), "nothing of what is being written"
    first.stdin.write("\n")
    first.stdin.flush()
    until(first, "done")
    until(second, "done")
    the_file(store)


def test_a_writer_that_was_killed(writer: Any, store: Store, checkpoint: Path) -> None:
    first = writer()
    until(first, "writing")
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    (part,) = files_of(store)
    assert part.suffix == ".part"
    assert Use(store, checkpoint).content == CONTENT
    assert the_file(store).suffix == ".tiles"
    second = writer()
    until(second, "writing")  # other facts: the file is replaced
    second.kill()
    second.wait(10)
    kinds = {item.path.suffix: item.kind for item in prune(store, dry_run=True).deleted}
    assert kinds[".part"] == "stale cache"
    prune(store)
    assert files_of(store) == []


# ---- keeping house -------------------------------------------------------------------------------


def test_the_store_counts_and_prunes_them(store: Store, checkpoint: Path) -> None:
    Use(store, checkpoint)
    file = the_file(store)
    assert dict(usage(store).caches)["experts"] == file.stat().st_size
    assert [item.kind for item in prune(store).deleted] == ["stale lock"]
    assert file.exists(), "its checkpoint is there"
    checkpoint.unlink()
    (item,) = prune(store, dry_run=True).deleted
    assert (item.path, item.kind, item.size) == (file, "stale cache", PAGE + len(CONTENT))
    assert file.exists()
    assert [item.path for item in prune(store).deleted] == [file]
    assert files_of(store) == []
    assert list((store.home / "locks").iterdir()) == []


def test_its_own_time_follows_from_its_header(store: Store, checkpoint: Path) -> None:
    """Not from a clock: a file that is written anew is byte for byte the same, times too."""
    Use(store, checkpoint)
    file = the_file(store)
    before = file.stat().st_mtime_ns
    assert before < time.time_ns() - 10**15
    file.unlink()
    Use(store, checkpoint)
    assert file.stat().st_mtime_ns == before
