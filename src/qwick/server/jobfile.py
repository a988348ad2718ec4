"""The two files of a batch: requests read line by line, answers appended so that a kill loses none.

Neither is ever in memory as a whole: of each line eight bytes are kept, a digest of its custom_id.
Knows how lines are told apart, not what they ask.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from qwick.errors import QwickError, ResourceError, UsageError
from qwick.server.options import Bounds
from qwick.server.reading import check_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_LINE = Bounds().body_bytes + (1 << 16)  # bytes of a request: a body, and what is around it
MOST_ANSWER = 1 << 30  # bytes of a line that was written here
START = b'{"id":"batch_req_'  # of each line that is written
SHOWN = 5  # duplicates that an error names


@dataclass(frozen=True, slots=True)
class Line:
    """One request: its number in the file from 1, its bytes, its custom_id if it has one.

    too_long: there are more than MOST_LINE bytes, and these are only its first.
    """

    number: int
    data: bytes
    custom_id: str | None
    too_long: bool = False

    @property
    def digest(self) -> int:
        """What tells this line from the others: by its custom_id, else by its number."""
        return digest_of(self.custom_id, self.number)


def digest_of(custom_id: Any, number: Any) -> int:
    """Return 64 bits of a custom_id; where there is none, of the line's number."""
    text = f"id {custom_id}" if isinstance(custom_id, str) else f"line {number}"
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


class Requests:
    """A file of requests, looked through once: `count` of them, blank lines left out.

    Raises UsageError for a file that cannot be read, and for a custom_id that two lines have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = _size_of(path)
        self._digests = array("Q", (line.digest for line in self._read()))
        self._check_unique()

    @property
    def count(self) -> int:
        """Lines that ask something, or try to."""
        return len(self._digests)

    def left(self, done: Done) -> int:
        """Return how many lines have no answer yet."""
        return self.count - done.count_in(self._digests)

    def lines(self, done: Done) -> Iterator[Line]:
        """Yield the lines that have no answer yet; UsageError where the file has changed."""
        read = 0
        for line in self._read():
            if read == self.count or self._digests[read] != line.digest:
                raise self._changed()
            read += 1
            if line.digest not in done:
                yield line
        if read < self.count:
            raise self._changed()

    def _changed(self) -> UsageError:
        return UsageError(
            f"{self.path} was changed while it was read",
            hint="run it again; what is answered stays answered",
        )

    def _read(self) -> Iterator[Line]:
        """Yield all lines but blank ones, as far as the file reached when it was opened first."""
        with _opened(self.path) as file:
            number, left = 0, self._size
            while left > 0 and (data := file.readline(min(left, MOST_LINE + 1))):
                number += 1
                left -= len(data)
                too_long = len(data) > MOST_LINE and not data.endswith(b"\n")
                while too_long and left > 0 and (rest := file.readline(min(left, 1 << 16))):
                    left -= len(rest)
                    if rest.endswith(b"\n"):
                        break
                if data.strip():
                    custom_id = None if too_long else _custom_id(data)
                    yield Line(number, data, custom_id, too_long)

    def _check_unique(self) -> None:
        import numpy as np

        found, counts = np.unique(np.asarray(self._digests, np.uint64), return_counts=True)
        twice = set(found[counts > 1].tolist())
        if not twice:
            return
        lines: dict[str, list[int]] = {}
        for line in self._read():
            if line.digest in twice and line.custom_id is not None and len(lines) <= SHOWN:
                lines.setdefault(line.custom_id, []).append(line.number)
        told = [
            f"{custom_id!r:.60} on the lines {', '.join(map(str, numbers[:SHOWN]))}"
            for custom_id, numbers in lines.items()
            if len(numbers) > 1
        ]
        raise UsageError(
            f"{self.path} has {len(twice)} custom_id more than once: {'; '.join(told[:SHOWN])}",
            hint="give each line a custom_id of its own",
        )


class Done:
    """The digests of lines that have an answer."""

    def __init__(self, digests: array[int]) -> None:
        import numpy as np

        self._sorted: NDArray[np.uint64] = np.unique(np.asarray(digests, np.uint64))

    def __contains__(self, digest: int) -> bool:
        import numpy as np

        at = int(np.searchsorted(self._sorted, np.uint64(digest)))
        return at < len(self._sorted) and int(self._sorted[at]) == digest

    def count_in(self, digests: array[int]) -> int:
        """Return how many of these are done."""
        import numpy as np

        return int(np.isin(np.asarray(digests, np.uint64), self._sorted).sum())


class Answers:
    """A file of answers: what it holds of an earlier run stays, a torn last line is taken off.

    digests: of the lines that are answered in it; failed: how many of these are errors. Raises
    UsageError for a file that is none of answers, ResourceError while another process writes it.
    A context manager.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digests = array("Q")
        self.failed = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with _named(path, "written"):
            self._descriptor = os.open(path, flags, 0o666)
        try:
            self._lock()
            self._scan()
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, line: bytes) -> None:
        """Append a line, which ends with a line end; OSError where there is no room."""
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _lock(self) -> None:
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise UsageError(
                f"{self.path} is no plain file", hint="a run that was cut off is taken up from it"
            )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(
                f"{self.path} is being written by another process", hint="wait until that has ended"
            ) from None
        except OSError:  # a file system without locks
            pass

    def _scan(self) -> None:
        """Take up what is there, and cut off a last line that was not written to its end."""
        good = number = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            while data := file.readline(MOST_ANSWER):
                number += 1
                if not data.endswith(b"\n"):
                    torn = data.rstrip(b"\0")
                    if not (torn.startswith(START) or START.startswith(torn)):
                        raise self._foreign(number)
                    os.ftruncate(self._descriptor, good)
                    return
                self._take_up(data, number)
                good += len(data)

    def _take_up(self, data: bytes, number: int) -> None:
        try:
            found = json.loads(data)
            response, error = found["response"], found["error"]
            if not data.startswith(START):
                raise self._foreign(number)
            line = None if error is None else error.get("line")
            self.digests.append(digest_of(found["custom_id"], line))
            self.failed += response is None or response["status_code"] != 200
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            raise self._foreign(number) from None

    def _foreign(self, number: int) -> UsageError:
        return UsageError(
            f"line {number} of {self.path} is no answer of a batch, and is left as it is",
            hint="give another file, or move this one away",
        )


def check_apart(paths: list[Path]) -> None:
    """Raise UsageError if two of the files are the same."""
    for i, one in enumerate(paths):
        for other in paths[:i]:
            if one.absolute() == other.absolute() or _file_of(one) == _file_of(other):
                raise UsageError(
                    f"{one} and {other} are the same file", hint="give each a path of its own"
                )


def _file_of(path: Path) -> tuple[int, int] | Path:
    """Return which file a path leads to, if there is one; else the path."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return path.absolute()
    return status.st_dev, status.st_ino


def _custom_id(data: bytes) -> str | None:
    try:
        check_shape(data)
        found = json.loads(data)
    except (ValueError, RecursionError, QwickError):
        return None
    custom_id = found.get("custom_id") if isinstance(found, dict) else None
    return custom_id if isinstance(custom_id, str) and custom_id else None


def _size_of(path: Path) -> int:
    with _opened(path) as file:
        status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is no plain file", hint="it is read twice: save it as one")
    return status.st_size


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; one that is a pipe must not be waited for."""
    with _named(path, "read"):
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    with file:
        yield file


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Turn what the system says about a path into our error."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be {what}: {reason}", hint="give another path") from None
