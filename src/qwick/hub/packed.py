"""Files of packed experts: made once of a checkpoint, and again when they are not as they were.

    <home>/experts/<name>-<digest>.tiles        header, then the experts (model/expert_file.py)
    <home>/experts/<name>-<digest>.<pid>.part   the same, being written
    <home>/locks/experts-<name>-<digest>.lock   held while it is

The header says what the file was made of: the checkpoint's files, each with size and time of
change, and what else its bytes depend on. A file is used if its header is, byte for byte, the one
expected, its length is right, and nobody has written to it since: its own time of change is one
that follows from the header, and no clock. Whoever wants to may delete any of them at any time.
Knows nothing of what experts are.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from qwick import settings
from qwick.errors import ResourceError
from qwick.hub.disk import make_folder, sync_folder
from qwick.hub.locks import NoLocksError, locked
from qwick.hub.store import Store

__all__ = ["FOLDER", "PackedFile", "is_stale", "lock_of", "open_packed"]

FOLDER, SUFFIX, PART = "experts", ".tiles", ".part"
MAGIC = b"qwick experts 1\n"
PAGE = 1 << 16  # bytes: the experts begin at a multiple of it
MAX_HEADER = 1 << 20  # bytes of a header that `is_stale` reads
SYNC = 512 << 20  # bytes that are written between two waits for the disk

Waited = Callable[[int, int], None]
Write = Callable[[Callable[[Any], object]], None]  # hands on the bytes of the file, piece by piece


@dataclass(frozen=True)
class PackedFile:
    """An open file: its descriptor, which is the caller's to close, and where its bytes begin."""

    descriptor: int
    start: int


def open_packed(
    store: Store,
    files: Sequence[Path],
    facts: Mapping[str, Any],
    size: int,
    write: Write,
    *,
    notice: Callable[[str], None],
    waited: Waited,
) -> PackedFile:
    """Return the file made of these checkpoint files, written first where there is no good one.

    facts: what else its bytes depend on, plain values; with "made" among them, the config.json
    beside a folder's files counts as one of them, for it says how quantised weights are decoded.
    size: bytes that `write` hands on. waited: hears how much is there while another process writes
    it.

    Raises ResourceError when the disk has no room, or the store cannot be written. What is broken
    off, in whatever way, leaves no file of that name.
    """
    header = _header(_deciding(files, facts), facts, size)
    path = _path(store, files)
    found = _fitting(path, header, size)
    if found is not None:
        return PackedFile(found, len(header))
    with store.writing(), contextlib.ExitStack() as stack:
        make_folder(path.parent)
        lock = lock_of(store, path)
        make_folder(lock.parent)
        alone = False
        with contextlib.suppress(NoLocksError):  # then two may write it, each a whole one
            stack.enter_context(locked(lock, _Waiting(path, len(header) + size, notice, waited)))
            alone = True
        found = _fitting(path, header, size)  # written by another process meanwhile
        if found is None:
            if alone:
                for old in (path, *_parts(path)):  # what does not fit, what a killed process left
                    old.unlink(missing_ok=True)
            _make(path, header, size, write, notice)
            found = _fitting(path, header, size)
    if found is None:
        raise ResourceError(
            f"{path} is not what was written there a moment ago",
            hint=f"set {settings.HOME.name} to a folder on a local disk",
        )
    return PackedFile(found, len(header))


class _Waiting:
    def __init__(
        self, path: Path, total: int, notice: Callable[[str], None], waited: Waited
    ) -> None:
        self.path, self.total, self.notice, self.waited = path, total, notice, waited
        self.told = False

    def __call__(self) -> None:
        if not self.told:
            self.notice("another process packs these experts; waiting for it")
            self.told = True
        sizes = [0]
        for part in _parts(self.path):
            with contextlib.suppress(OSError):  # it is done
                sizes.append(part.stat().st_size)
        self.waited(max(sizes), self.total)


def _make(
    path: Path, header: bytes, size: int, write: Write, notice: Callable[[str], None]
) -> None:
    """Write the file, and put it into its place when it is whole."""
    needed = len(header) + size
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise _no_room(path, needed, f"{free:,} are free")
    notice(f"packing the experts, once: {needed / 1e9:.2f} GB in {path}")
    part = path.with_name(f"{path.name.removesuffix(SUFFIX)}.{os.getpid()}{PART}")
    try:
        with part.open("wb") as file:
            file.write(header)
            write(_Synced(file).put)
            file.flush()
            os.fsync(file.fileno())
        times = (_changed(header), _changed(header))
        os.utime(part, ns=times)
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_room(path, needed, str(error.strerror)) from None
        raise
    finally:
        part.unlink(missing_ok=True)


class _Synced:
    """A file whose bytes go to the disk as they come, so that few wait in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._since = file, 0

    def put(self, data: Any) -> None:
        rest = memoryview(data)
        for at in range(0, len(rest), PAGE):  # Linux maps together what was written together
            self._file.write(rest[at : at + PAGE])
        self._since += len(rest)
        if self._since >= SYNC:
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._since = 0


def is_stale(path: Path) -> bool:
    """Whether nobody will use a file: its checkpoint has changed or gone, or it is damaged.

    A file that cannot be read is left alone: not stale.
    """
    try:
        with path.open("rb") as file:
            begun = file.read(len(MAGIC) + 8)
            length = int.from_bytes(begun[len(MAGIC) :], "little")
            if not begun.startswith(MAGIC) or not len(begun) <= length <= MAX_HEADER:
                return True
            file.seek(0)
            header = file.read(length)
        told = json.loads(header[len(MAGIC) + 8 + 32 :].rstrip(b"\0"))
        files = [Path(name) for name, *_ in told["files"]]
        size = int(told["size"])
        expected = _header(files, told["facts"], size)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return True
    status = path.stat()
    return header != expected or not _is_whole(status, header, size)


def lock_of(store: Store, path: Path) -> Path:
    """Return the lock file of a packed file, or of a part of one."""
    name = path.name.removesuffix(SUFFIX)
    if path.name.endswith(PART):
        name = path.name.removesuffix(PART).rpartition(".")[0]
    return store.lock_path(f"{FOLDER}-{name}")


def _path(store: Store, files: Sequence[Path]) -> Path:
    """Return where the file of a checkpoint is: one for each place that a checkpoint has."""
    first = files[0].resolve()
    names = "\n".join(os.fspath(file.resolve()) for file in files)
    digest = hashlib.sha256(os.fsencode(names)).hexdigest()[:16]
    name = first.stem[:80] if first.suffix == ".gguf" else first.parent.name[:80]
    return store.home / FOLDER / f"{name}-{digest}{SUFFIX}"


def _deciding(files: Sequence[Path], facts: Mapping[str, Any]) -> list[Path]:
    """Return the files that decide what the bytes are."""
    config = files[0].parent / "config.json"
    says = "made" in facts and files[0].suffix != ".gguf" and config.exists()
    return [*files, config] if says else list(files)


def _parts(path: Path) -> Iterator[Path]:
    """Yield what is being written of a file, or was when a process was killed."""
    begin = path.name.removesuffix(SUFFIX) + "."
    for other in path.parent.iterdir():
        if other.name.startswith(begin) and other.name.endswith(PART):
            yield other


def _header(files: Sequence[Path], facts: Mapping[str, Any], size: int) -> bytes:
    """Return the first bytes of the file: a line, their number, a digest, a JSON text, zeros."""
    rows = []
    for file in files:
        status = file.stat()
        rows.append([os.fspath(file.resolve()), status.st_size, status.st_mtime_ns])
    told = {"files": rows, "facts": dict(facts), "size": size}
    text = json.dumps(told, sort_keys=True).encode("ascii")
    length = -(-(len(MAGIC) + 8 + 32 + len(text)) // PAGE) * PAGE
    digest = hashlib.sha256(text).digest()
    return (MAGIC + length.to_bytes(8, "little") + digest + text).ljust(length, b"\0")


def _fitting(path: Path, header: bytes, size: int) -> int | None:
    """Return a descriptor of the file if it is the one with that header."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        whole = _is_whole(os.fstat(descriptor), header, size)
        if whole and os.pread(descriptor, len(header), 0) == header:
            found, descriptor = descriptor, -1
            return found
    except OSError:
        pass
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def _is_whole(status: os.stat_result, header: bytes, size: int) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_size == len(header) + size
        and status.st_mtime_ns == _changed(header)
    )


def _changed(header: bytes) -> int:
    """Return the time of change that a file with this header is given: ns, of even seconds."""
    part = int.from_bytes(hashlib.sha256(header).digest()[:3], "little")
    return (1_500_000_000 + 2 * part) * 10**9


def _no_room(path: Path, needed: int, detail: str) -> ResourceError:
    return ResourceError(
        f"the packed experts need {needed:,} bytes in {path.parent}: {detail}",
        hint="free some space (`qwick models prune` deletes what nobody needs), or set "
        f"{settings.HOME.name} to a folder on a larger disk",
    )
