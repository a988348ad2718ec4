"""A model file as read-only mapped memory, and a cursor over it that checks before it reads.

Says clearly what a file is when it is not what was expected (an HTML page, a Git LFS pointer, a
pickle), and why it cannot be read. Knows nothing of what the formats mean.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from qwick.errors import FormatError, ModelNotFoundError, QwickError, ResourceError, UsageError
from qwick.quant.types import StoredType

MAX_NAME = 1 << 10  # bytes of a tensor's name or a key, in every kind of file
MOST_SHOWN = 400  # characters of a path that is not there
FETCH_AGAIN = "the file is damaged or incomplete; fetch it again"

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")  # by the ends of their names

# No file of that name: nothing there, a file in the place of a folder, a link to itself, too long.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_FORBIDDEN = {errno.EACCES, errno.EPERM}

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

# What is often found in place of a model file: first bytes, what it is, the way out.
_IMPOSTORS = (
    (b"<!doctype", "an HTML page", "the download saved an error page; fetch it again"),
    (b"<html", "an HTML page", "the download saved an error page; fetch it again"),
    (b"<?xml", "an XML page", "the download saved an error page; fetch it again"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` to get the real file"),
    (b"pk\x03\x04", "a zip or pickle archive", "use a GGUF file or a safetensors folder"),
    (b"\x80\x02", "a pickle", "use a GGUF file or a safetensors folder"),
    (b"ggjt", "a model of ggml's older format", "use a GGUF file"),
    (b"ggml", "a model of ggml's older format", "use a GGUF file"),
    (b"ggla", "a model of ggml's older format", "use a GGUF file"),
    (b"gguf", "a GGUF file", "give its path by itself: a GGUF file is no part of a folder"),
)


def damaged(path: Path, text: str, hint: str = FETCH_AGAIN) -> FormatError:
    """Return the FormatError that says what is wrong with `path`."""
    return FormatError(f"{path}: {text}", hint=hint)


def describe(head: bytes) -> tuple[str, str]:
    """Return what a file that starts with `head` looks like, and the way out."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what, hint in _IMPOSTORS:
        if start.startswith(magic):
            return what, hint
    if start.startswith((b"{", b"[")):
        return "a JSON text", "the download saved an error message, or this is the wrong file"
    if not head.strip(b"\0"):
        return "zeros", FETCH_AGAIN
    return f"of an unknown kind (it starts with {head[:8]!r})", "give a .gguf file or a folder"


def unreadable(path: Path, error: OSError | ValueError) -> QwickError:
    """Return what the system's refusal to read `path` means.

    ModelNotFoundError: nothing there. UsageError: forbidden. FormatError: a folder. ResourceError:
    whatever else the system lacks or fails at (memory, open files, the disk).
    """
    if isinstance(error, ValueError):  # a NUL in the name
        return _absent(path, f": {error}")
    if error.errno in _ABSENT:
        return _absent(path, "" if error.errno == errno.ENOENT else f": {error.strerror}")
    if error.errno in _FORBIDDEN:
        return UsageError(
            f"{path}: it may not be read: {error.strerror}",
            hint="give this user the right to read it and to enter the folders above it",
        )
    if error.errno == errno.EISDIR:
        return damaged(path, "a folder stands where a file should be", "remove it")
    return ResourceError(
        f"{path}: the system cannot read it: {error.strerror or error}",
        hint=_WAYS_OUT.get(error.errno or 0, "check the disk, or copy the file elsewhere"),
    )


def _absent(path: Path, detail: str) -> ModelNotFoundError:
    name = str(path)
    if len(name) > MOST_SHOWN:
        name = f"{name[: MOST_SHOWN // 2]} ... {name[-MOST_SHOWN // 2 :]}"
    return ModelNotFoundError(f"{name}: no such file or folder{detail}", hint="check the path")


_WAYS_OUT = {
    errno.ENOMEM: "free memory or address space (ulimit -v)",
    errno.EMFILE: "close files, or allow more (ulimit -n)",
    errno.ENFILE: "close files: the whole system has too many open",
}


def status(path: Path) -> os.stat_result:
    """Return what the system says of a path; raises as `unreadable` tells."""
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def exists(path: Path) -> bool:
    """Whether something of that name is there; raises where the system does not say."""
    try:
        status(path)
    except ModelNotFoundError:
        return False
    return True


def check_regular(path: Path) -> int:
    """Return the size in bytes of a regular file.

    Raises as `unreadable` tells, and FormatError when it is something else or empty.
    """
    info = status(path)
    if stat.S_ISDIR(info.st_mode):
        raise unreadable(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if not stat.S_ISREG(info.st_mode):
        raise damaged(path, "not a regular file", "give a .gguf file or a folder")
    if info.st_size == 0:
        raise damaged(path, "the file is empty (0 bytes)")
    return info.st_size


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file. Raises as `check_regular` does."""
    check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file read-only. Raises as `check_regular` does."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # it shrank to nothing meanwhile
        raise damaged(path, str(error)) from None
    except OSError as error:
        raise unreadable(path, error) from None


def give_back(data: mmap.mmap) -> None:
    """Let the pages of a mapped file leave this process's memory; they come again when read."""
    data.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: row-major shape, first byte in the file, bytes."""

    name: str
    type: StoredType
    shape: tuple[int, ...]
    start: int
    size: int


class Cursor:
    """A position in mapped bytes; each read is checked against the end first."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0
        self.size = len(data)

    @property
    def left(self) -> int:
        """Bytes between the position and the end of the file."""
        return self.size - self.at

    def take(self, count: int, what: str) -> int:
        """Step over `count` bytes and return where they start."""
        if count > self.size - self.at:
            raise damaged(
                self.path,
                f"{what} at byte {self.at} needs {count} bytes, "
                f"but the file ends at byte {self.size}",
            )
        start = self.at
        self.at = start + count
        return start

    def u32(self, what: str) -> int:
        """Read one unsigned 32-bit number."""
        value: int = _U32.unpack_from(self.data, self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        """Read one unsigned 64-bit number."""
        value: int = _U64.unpack_from(self.data, self.take(8, what))[0]
        return value

    def count(self, what: str, *, each: int, limit: int) -> int:
        """Read a count of items of at least `each` bytes; at most `limit`, and they must fit."""
        at = self.at
        value = self.u64(f"the number of {what}")
        if value > limit:
            raise damaged(
                self.path, f"the number of {what} at byte {at} is {value}; the limit is {limit}"
            )
        if value * each > self.left:
            raise damaged(
                self.path,
                f"{value} {what} need at least {value * each} bytes, "
                f"but only {self.left} follow byte {self.at}",
            )
        return value

    def text(self, what: str, limit: int) -> str:
        """Read a length and that many bytes of UTF-8."""
        at = self.at
        length = self.u64(f"the length of {what}")
        if length > limit:
            raise damaged(
                self.path, f"{what} at byte {at} is {length} bytes long; the limit is {limit}"
            )
        start = self.take(length, what)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(self.path, f"{what} at byte {at} is not UTF-8: {error.reason}") from None
