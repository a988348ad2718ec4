"""A file or a JSON text over HTTP, with a limit of seconds on each wait.

The transfer is a plain stream of ours, so that the digest is computed while the bytes arrive, and a
broken transfer resumes where it stopped, in another process too. It goes on only with the file that
it began with, as far as the server tells two files apart (RFC 9110, 13.1.5 and 14): If-Range with
the entity tag where that is a strong one, and a range or tag that does not fit starts over, as does
an answer without a range. Knows nothing about hubs: they say what their refusals mean.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from qwick.hub.listener import Listener
from qwick.hub.sources import DRIP_BYTES, DRIP_SECONDS, Sink, SourceError

if TYPE_CHECKING:
    import httpx

__all__ = ["Explain", "Transfer", "without_login"]

CONNECT_SECONDS = 5.0  # to reach a host
ANSWER_SECONDS = 15.0  # name look-up, redirects and the first answer together
STALL_SECONDS = 20.0  # without a byte, once bytes flow
RECONNECTS = 3  # times that a transfer is taken up, or a busy server asked, again in vain
SHARE = 20  # of a file's bytes, one in so many is a gain, whatever breaks after it; or DRIP_BYTES
BACKOFF_SECONDS = 0.5  # before a busy server is asked again; doubled each time
MOST_WAIT = 30.0  # seconds that a server's Retry-After may ask for
# Bytes of a list of files: one of 10,000 files has 3 MB; brackets take 30 times as much memory.
MOST_JSON = 1 << 23

# What httpx lets through beside its own errors; UnicodeError is a ValueError.
_BESIDES = (ImportError, OSError, ValueError)

T = TypeVar("T")
Explain = Callable[["httpx.Response"], SourceError]  # what a refusal means


class _BusyError(Exception):
    """The server cannot answer now (429, 5xx); it may say after how many seconds it can."""

    def __init__(self, text: str, seconds: float | None) -> None:
        super().__init__(text)
        self.seconds = seconds


def without_login(address: str) -> str:
    """Return an address without user and password, as it may be shown and noted."""
    scheme, _, rest = _parts(address)
    return scheme + rest


class Transfer:
    """Requests to one hub, named `who` in notices. A context manager that closes connections.

    User and password of an address are sent and never told. They and an `Authorization` among
    `headers` go to the address's own host, never to one that it redirects to.
    """

    def __init__(
        self, who: str, explain: Explain, listener: Listener, headers: Mapping[str, str] = {}
    ) -> None:
        import httpx

        self._who, self._explain, self._listener = who, explain, listener
        timeout = httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
        try:
            # httpx drops Authorization on the way to another origin.
            self._client = httpx.Client(
                timeout=timeout,
                follow_redirects=True,
                headers={"Accept-Encoding": "identity", **headers},
            )
        except (httpx.InvalidURL, *_BESIDES) as error:
            # What is said of an address that is none may quote the password in it.
            why = "an address is none" if isinstance(error, httpx.InvalidURL) else _reason(error)
            raise SourceError(
                f"the environment's proxies or certificates cannot be used: {why}",
                "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR",
            ) from None

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def file(self, url: str, size: int, sink: Sink, what: str) -> None:
        """Push the bytes of a file of `size` from `sink.count` on; `what` names the stage."""
        import httpx

        def go(pace: _Pace) -> None:
            self._stream(url, size, sink, what, pace)
            if sink.count < size:  # a cut, where no length was announced
                raise httpx.RemoteProtocolError(f"it sent {sink.count} bytes instead of {size}")

        self._persist(go, lambda: sink.count, min(DRIP_BYTES, -(-size // SHARE)))

    def json(self, url: str) -> Any:
        """Return the JSON value at an address; SourceError for what is none, or too long."""
        found: list[bytes] = []

        def go(pace: _Pace) -> None:
            found.clear()
            length = 0
            with contextlib.closing(self._ask(url, {})) as response:
                if response.status_code != 200:
                    raise self._refusal(response)
                for chunk in pace.timed(response.iter_raw()):
                    found.append(chunk)
                    length += len(chunk)
                    if length > MOST_JSON:
                        raise SourceError(f"it answers with more than {MOST_JSON:,} bytes")
                    pace.check()

        self._persist(go)
        try:
            return json.loads(b"".join(found))
        except (ValueError, RecursionError):
            raise SourceError(f"what it answers to {without_login(url)} is no JSON") from None

    def _persist(
        self,
        go: Callable[[_Pace], None],
        reached: Callable[[], int] = lambda: 0,
        gain: int = 1,
    ) -> None:
        """Do `go`, again where a connection breaks or the server is busy; SourceError at last.

        Failures count anew once `reached()` is `gain` bytes further than ever, so that a source
        which always starts over is given up all the same.
        """
        import httpx

        failed, furthest = 0, reached()
        while True:
            pace = _Pace()
            try:
                go(pace)
                return
            except (_BusyError, httpx.HTTPError, httpx.InvalidURL) as error:
                failed += 1
                if reached() - furthest >= gain:
                    failed, furthest = 1, reached()
                last = failed > RECONNECTS
                if isinstance(error, _BusyError):
                    self._wait(error, failed, last=last)
                elif last or not pace.received:
                    raise SourceError(_reason(error)) from error
                else:
                    self._listener.notice(
                        f"the transfer broke ({_reason(error)}); taking it up again"
                    )

    def _wait(self, busy: _BusyError, failed: int, *, last: bool) -> None:
        """Wait before a server is asked again that was busy for the `failed`th time."""
        wait = BACKOFF_SECONDS * 2 ** (failed - 1) if busy.seconds is None else busy.seconds
        if wait > MOST_WAIT:
            raise SourceError(f"{busy}, and to ask again in {wait:,.0f} s") from None
        if last:
            raise SourceError(f"{busy}, {failed} times") from None
        self._listener.notice(f"{self._who}: {busy}; asking again in {wait:.1f} s")
        time.sleep(wait)

    def _ask(self, url: str, headers: dict[str, str]) -> httpx.Response:
        # Apart from the address, which errors, notices and httpx's log show.
        login, client = _login(url), self._client
        try:
            request = client.build_request("GET", without_login(url), headers=headers)
            return _within(ANSWER_SECONDS, lambda: client.send(request, stream=True, auth=login))
        except _BESIDES as error:  # for a host name that is none, also where it redirects to
            raise SourceError(f"it cannot be asked: {_reason(error)}") from error

    def _stream(self, url: str, size: int, sink: Sink, what: str, pace: _Pace) -> None:
        """Push the bytes from `sink.count` on; httpx.HTTPError when the connection fails."""
        start, etag = sink.count, _noted_etag(sink.origin, without_login(url))
        asked = {"Range": f"bytes={start}-"} if start else {}
        if start and etag:
            asked["If-Range"] = etag
        with contextlib.closing(self._ask(url, asked)) as response:
            _check_form(response)  # before a byte is dropped for it
            doubt = _doubt(response, start, etag, size) if start else ""
            if doubt:
                self._listener.notice(f"{self._who} {doubt}; starting over")
            if not doubt or response.status_code == 200:
                self._receive(response, url, size, sink, what, pace)
                return
        sink.restart()
        self._stream(url, size, sink, what, pace)  # without a range this time

    def _receive(
        self, response: httpx.Response, url: str, size: int, sink: Sink, what: str, pace: _Pace
    ) -> None:
        """Push what an answer carries: the whole file, or what follows the bytes in `sink`."""
        whole = response.status_code == 200
        if not whole and (response.status_code != 206 or sink.count == 0):
            raise self._refusal(response)
        expected = size if whole else size - sink.count
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != expected:
            raise SourceError(f"it offers {length} bytes instead of {expected}")
        if whole:
            sink.restart(f"{without_login(url)} {_strong_etag(response)}")
        for chunk in pace.timed(response.iter_raw()):  # as it comes: a break loses nothing
            sink.write(chunk)
            pace.check()
            self._listener.progress(what, sink.count, size)

    def _refusal(self, response: httpx.Response) -> Exception:
        """Return what an answer that carries nothing means."""
        status = response.status_code
        if status == 429 or status >= 500:
            said = f"it answered {status} {response.reason_phrase}".rstrip()
            return _BusyError(said, _retry_after(response.headers.get("Retry-After", "")))
        host = response.url.netloc.decode("ascii")
        if response.history and response.url.netloc != response.history[0].url.netloc:
            # Not the hub's own words: its refusals mean something else.
            return SourceError(f"{host}, where it keeps the file, answered {status}")
        return self._explain(response)


def _parts(address: str) -> tuple[str, str | None, str]:
    """Return an address as scheme with its slashes, user and password if any, and the rest."""
    start = address.find("://") + 3 if "://" in address else 0
    rest = address[start:]
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    end = host.rfind("@")
    if end < 0 and not re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", host):
        end = rest.rfind("@")  # no host and port: a password with what ought to be escaped
    return address[:start], rest[:end] if end >= 0 else None, rest[end + 1 :]


def _login(url: str) -> tuple[str, str] | None:
    """Return user and password of an address, unescaped; None if it has none."""
    login = _parts(url)[1]
    if login is None:
        return None
    user, _, password = login.partition(":")
    return unquote(user), unquote(password)


def _retry_after(text: str) -> float | None:
    """Return the seconds of a Retry-After (RFC 9110, 10.2.3), or None where there are none."""
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    from email.utils import parsedate_to_datetime

    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _check_form(response: httpx.Response) -> None:
    """Raise SourceError for an answer that cannot be the file, such as a captive portal's page."""
    if response.status_code not in (200, 206):
        return
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise SourceError(f"it sends the file encoded as {coding[:40]!r}, though asked not to")
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "text/html":  # no file of that kind is ever part of a checkpoint
        raise SourceError("it sends a page (text/html) instead of the file; is there a log-in?")


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
