"""The door of a server with keys and short patience: what takes too long or too much, or no end."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwick.server.audit import read_all
from qwick.server.guard import SECURITY_HEADERS
from qwick.server.keys import KeyRing
from qwick.server.limits import Limits, Rate
from qwick.server.options import ServeOptions
from server.live import MODEL, Server, chat_body, until
from server.test_attacks import CHAT, JSON, code_of, raw, status_of

pytestmark = pytest.mark.model

PAGE = "https://good.example"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing(tmp_path_factory.mktemp("door") / "server")


@pytest.fixture(scope="module")
def good(keys: KeyRing) -> str:
    return keys.create("good")[1]


@pytest.fixture(scope="module")
def admin(keys: KeyRing) -> str:
    return keys.create("watcher", admin=True)[1]


@pytest.fixture(scope="module")
def door(default_checkpoint: Path, keys: KeyRing, good: str) -> Iterator[Server]:
    options = ["--header-seconds", "2", "--body-seconds", "1", "--write-seconds", "1"]
    options += ["--cors-origin", PAGE, "--places", "1", "--waiting", "1"]
    with Server(keys.path.parent.parent, options) as running:
        yield running.ready()


@pytest.fixture(autouse=True)
def the_next_request_is_served(door: Server, good: str) -> Iterator[None]:
    yield
    with door.client(good) as client:
        until(lambda: client.post(CHAT, json=chat_body(max_tokens=1)).status_code == 200, 20)


def head(path: str, key: str | None = None, *lines: str, method: str = "POST") -> bytes:
    """Return the head of a request, to which a body can be sent by hand."""
    said = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    said += [f"authorization: Bearer {key}"] if key else []
    return "\r\n".join([*said, *lines, "", ""]).encode()


@contextlib.contextmanager
def connected(server: Server, data: bytes, seconds: float = 10.0) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(data)
        yield connection


def answered(connection: socket.socket, seconds: float = 0.0) -> bool:
    return bool(select.select([connection], [], [], seconds)[0])


def rest(connection: socket.socket) -> bytes:
    """Return what still comes until the connection ends."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            found += piece
    return found


def refusals(server: Server, admin: str) -> dict[str, int]:
    """Return how often the server has refused, by reason, as its metrics say."""
    with server.client(admin) as client:
        lines = client.get("/metrics").text.splitlines()
    begin = 'qwick:refusals_total{reason="'
    found = [line.removeprefix(begin).split('"} ') for line in lines if line.startswith(begin)]
    return {reason: int(float(count)) for reason, count in found}


# -- what never ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000])
@pytest.mark.parametrize("public", [True, False])
def test_endless_trailers(door: Server, good: str, line: bytes, public: bool) -> None:
    """Also as one line that never ends."""
    to, key = ("/health", None) if public else (CHAT, good)
    begin = head(to, key, "transfer-encoding: chunked") + b"1\r\n{\r\n0\r\nx: "
    sent = 0
    with connected(door, begin) as connection:
        with contextlib.suppress(ConnectionError):
            while sent < 64 << 20 and not answered(connection):
                sent += connection.send(line * 1000)
        assert sent < 32 << 20
        answer = rest(connection)
        assert not answer or (status_of(answer) == 431 and b'"headers_too_large"' in answer)


def test_trailers_are_no_headers(door: Server, good: str) -> None:
    body = json.dumps(chat_body()).encode()
    chunk = b"%x\r\n%s\r\n0\r\nauthorization: Bearer %s\r\n\r\n" % (len(body), body, good.encode())
    for key, status in ((None, 401), (good, 200)):
        lines = ("transfer-encoding: chunked", "connection: close")
        assert status_of(raw(door, head(CHAT, key, *lines) + chunk, 20)) == status


def test_a_slow_sender(door: Server, good: str) -> None:
    begun = time.monotonic()
    answer = raw(door, b"GET /health HTTP/1.1\r\nhost: 127.0")
    assert status_of(answer) == 408
    assert status_of(raw(door, head(CHAT, good, "content-length: 100") + b"{")) == 408
    assert raw(door, b"") == b""  # a connection that says nothing is closed
    assert time.monotonic() - begun < 10


def test_a_sender_that_trickles(door: Server, good: str) -> None:
    """A piece now and then is no progress; nor are line ends between requests."""
    with connected(door, head(CHAT, good, "content-length: 100000")) as connection:
        begun = time.monotonic()
        while not answered(connection, 0.2):
            connection.sendall(b" ")
            assert time.monotonic() - begun < 5
        answer = rest(connection)
    assert status_of(answer) == 408
    assert b"bytes a second beyond" in answer
    with connected(door, head("/health", method="GET")) as connection:
        assert status_of(connection.recv(65536)) == 200
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while not answered(connection, 0.3):
                connection.sendall(b"\r\n")
                assert time.monotonic() - begun < 8


def test_a_slow_reader_is_let_go(door: Server, good: str, admin: str) -> None:
    """Its answers do not pile up here, and its place is given back."""
    large = {"logprobs": True, "top_logprobs": 20, "n": 16, "ignore_eos": True, "temperature": 1}
    body = json.dumps(chat_body("Go on.", max_tokens=3000, stream=True, **large)).encode()

    def running() -> int:
        with door.client(admin) as client:
            (model,) = client.get("/v1/monitor").json()["models"]
        found: int = model["running"]
        return found

    with unread(door, head(CHAT, good, f"content-length: {len(body)}") + body):
        until(lambda: running() == 1, 20)
        until(lambda: running() == 0, 50)


@contextlib.contextmanager
def unread(server: Server, data: bytes) -> Iterator[socket.socket]:
    """Send a request, and read nothing of its answer."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Small segments: else the kernel alone keeps megabytes for it.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(data)
        yield connection


@pytest.mark.alone
def test_a_slow_reader_of_any_answer_is_cut(door: Server, good: str) -> None:
    """Its connection is no more, though it is still there; who reads slowly gets everything."""
    with door.client(good) as client:
        (id,) = client.post("/tokenize", json={"prompt": " configuration"}).json()["tokens"]
    body = json.dumps({"tokens": [id] * 300_000}).encode()
    request = head("/detokenize", good, f"content-length: {len(body)}", "connection: close") + body
    with unread(door, request) as connection:
        port = connection.getsockname()[1]
        assert held(door, port)
        until(lambda: not held(door, port), 15)
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as connection:
        connection.sendall(request)
        size = 0
        while piece := connection.recv(1 << 20):
            size += len(piece)
            time.sleep(len(piece) / (4 << 20))
    assert size > 8_000_000


def held(server: Server, port: int) -> bool:
    """Whether the server still holds its end of a connection."""
    ours, theirs = (f"0100007F:{number:04X}" for number in (server.port, port))
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(line.split()[1:4] == [ours, theirs, "01"] for line in lines)


# -- what takes the room of others -----------------------------------------------------------------


def test_no_body_where_none_is_read(door: Server, good: str) -> None:
    """A stranger's, or of a GET, would be held for nothing."""
    length = f"content-length: {16 << 20}"
    for data in (head("/health", None, length), head("/v1/models", good, length, method="GET")):
        answer = raw(door, data + b" " * 100_000, 3)
        assert status_of(answer) == 413
        assert b"nothing reads it" in answer
    chunks = (b"3e8\r\n" + b" " * 1000 + b"\r\n") * 6
    assert status_of(raw(door, head("/ready", None, "transfer-encoding: chunked") + chunks)) == 413
    with door.client() as client:
        assert client.request("GET", "/health", content=b" " * 1000).status_code == 200


def test_bodies_of_one_key_leave_room_for_others(door: Server, keys: KeyRing, good: str) -> None:
    _, greedy = keys.create("greedy")
    data = head(CHAT, greedy, f"content-length: {16 << 20}")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connected(door, data)) for _ in range(5)]
        for _ in range(15):
            for connection in sockets:
                if not answered(connection):
                    connection.sendall(b" " * (1 << 20))
        (refused,) = [connection for connection in sockets if answered(connection, 0.2)]
        answer = rest(refused)  # cut short, where what was not read resets the connection
        assert not answer or status_of(answer) == 503
        with door.client(good) as client:
            assert client.post(CHAT, json=chat_body("hi " * 300, max_tokens=1)).status_code == 200


def test_one_address_leaves_connections_for_others(door: Server, good: str) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(512):
            connection = socket.create_connection(
                ("127.0.0.1", door.port), timeout=10, source_address=("127.0.0.2", 0)
            )
            stack.enter_context(connection)
        last = socket.create_connection(
            ("127.0.0.1", door.port), timeout=10, source_address=("127.0.0.2", 0)
        )
        answer = rest(stack.enter_context(last))
        assert status_of(answer) == 503
        for part in (b"this address has 512", b"retry-after: 5", b"x-request-id: req_"):
            assert part in answer
        with door.client(good) as client:
            assert client.get("/v1/models").status_code == 200


HOSTILE: dict[str, Callable[[], bytes]] = {
    "unknown fields": lambda: b"{" + b",".join(b'"f%d":1' % i for i in range(900_000)) + b"}",
    "fewer unknown fields": lambda: b"{" + b",".join(b'"%d":1' % i for i in range(32_000)) + b"}",
    "parts": lambda: of_messages(b'{"role":"user","content":[%s]}' % many(b'{"text":1}', 300_000)),
    "messages": lambda: of_messages(many(b"{}", 5_000_000)),
    "a long name": lambda: b'{"%s":1}' % (b"x" * (8 << 20)),
}


def many(part: bytes, count: int) -> bytes:
    return b",".join([part] * count)


def of_messages(messages: bytes) -> bytes:
    return b'{"model":"%s","messages":[%s]}' % (MODEL.encode(), messages)


@pytest.mark.alone
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bodies_do_not_stop_others(door: Server, good: str, what: str) -> None:
    body = HOSTILE[what]()
    longest, done = [0.0], threading.Event()

    def watch() -> None:
        with door.client() as client:
            while not done.is_set():
                begun = time.monotonic()
                assert client.get("/health").status_code == 200
                longest[0] = max(longest[0], time.monotonic() - begun)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with door.client(good) as client:
            response = client.post(CHAT, content=body, headers=JSON)
    finally:
        done.set()
        watcher.join()
    assert (response.status_code, code_of(response)) == (400, "invalid_value")
    assert longest[0] < 1  # 0.2 on a machine that does nothing else


def test_depth_and_number_have_limits(door: Server, good: str) -> None:
    def status(depth: int) -> httpx.Response:
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        body = json.dumps(chat_body(prediction=0)).encode().replace(b": 0}", b": %s}" % deep)
        return client.post(CHAT, content=body, headers=JSON)

    with door.client(good) as client:
        assert status(63).status_code == 200
        assert "65 levels; allowed: 64" in status(64).json()["error"]["message"]
        text = chat_body('[[[[{{{{"\\' * 5000, max_tokens=1)  # in a text, they are none
        assert client.post("/tokenize", json={"messages": text["messages"]}).status_code == 200


# -- what is told ----------------------------------------------------------------------------------


def test_pages_of_other_origins_with_keys(door: Server, good: str) -> None:
    """As a browser asks, for the official JavaScript client."""
    wanted = "authorization,content-type,openai-organization,x-stainless-lang,x-stainless-os"
    preflight = {"origin": PAGE, "access-control-request-method": "POST"}
    preflight["access-control-request-headers"] = wanted
    with door.client() as client:
        answer = client.options(CHAT, headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert set(wanted.split(",")) <= set(
            answer.headers["access-control-allow-headers"].replace(" ", "").split(",")
        )
        evil = client.options(CHAT, headers=preflight | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in evil.headers
        refused = client.post(CHAT, json=chat_body(), headers={"origin": PAGE})
        assert refused.status_code == 401
    with door.client(good) as client:
        large = client.post(CHAT, content=b" " * (17 << 20), headers={"origin": PAGE, **JSON})
        served = client.post(CHAT, json=chat_body(), headers={"origin": PAGE})
    assert (large.status_code, served.status_code) == (413, 200)
    for answer in (refused, large, served):
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        for name in ("x-request-id", "x-qwick-inert", "retry-after"):
            assert name in exposed
        assert "x-ratelimit-remaining-tokens" in exposed


def test_every_refusal_is_counted_and_noted(
    door: Server, keys: KeyRing, good: str, admin: str
) -> None:
    before = refusals(door, admin)
    limits = Limits(models=("another",)), Limits(requests=Rate(1, "hour"))
    elsewhere, once = (keys.create(f"with {limit}"[:60], limits=limit)[1] for limit in limits)
    with door.client(elsewhere) as client:
        assert client.post(CHAT, json=chat_body()).status_code == 403
    with door.client(once) as client:
        statuses = [client.post(CHAT, json=chat_body()).status_code for _ in range(2)]
        assert statuses == [200, 429]
    with door.client(good) as client:
        assert client.get("/metrics").status_code == 403
        assert client.post(CHAT, content=b" " * (17 << 20), headers=JSON).status_code == 413
        assert client.post(CHAT, json=chat_body(nothing=1)).status_code == 400
        body = chat_body("Go on.", max_tokens=300, stream=True, ignore_eos=True)
        with contextlib.ExitStack() as stack:
            statuses = []
            for _ in range(3):
                threading.Thread(target=asked, args=(door, good, body, statuses)).start()
            until(lambda: 503 in statuses, 20)
            stack.callback(until, lambda: len(statuses) == 3, 60)
    assert raw(door, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400")
    after = refusals(door, admin)
    grown = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    assert grown["permission_denied"] == 2
    for reason in ("rate_limit_exceeded", "body_too_large", "invalid_value", "overloaded"):
        assert grown[reason] >= 1
    assert grown["bad_http"] == 1
    wanted = {"permission_denied", "body_too_large", "overloaded", "requests"}

    def noted() -> set[str]:
        events = read_all(keys.path.parent).events
        return {e["reason"] for e in events if e["event"] == "refused" and "key" in e}

    until(lambda: wanted <= noted(), 5)
    assert "invalid_value" not in noted()


def asked(server: Server, key: str, body: dict[str, Any], statuses: list[int]) -> None:
    with server.client(key) as client, client.stream("POST", CHAT, json=body) as stream:
        statuses.append(stream.status_code)


def test_what_is_turned_away_has_the_headers_of_all(door: Server) -> None:
    for data in (b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000):
        answer = raw(door, data).lower()
        for name, value in ((b"x-request-id", b"req_"), *SECURITY_HEADERS):
            assert name + b": " + value.lower() in answer


def test_answers_have_the_headers_too(door: Server, good: str) -> None:
    with door.client(good) as client:
        for path in ("/health", "/v1/models", "/v1/nothing", "/openapi.json"):
            answer = client.get(path)
            for name, value in SECURITY_HEADERS:
                assert answer.headers[name.decode()] == value.decode(), path


def test_no_redirect_to_the_host_of_a_request(door: Server, admin: str) -> None:
    with door.client(admin) as client:
        answer = client.get("/v1/monitor/", headers={"host": "evil.example"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_heads_of_balancers(door: Server) -> None:
    with door.client() as client:
        for path in ("/health", "/ready", "/health"):  # on one connection
            answer = client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")
        assert client.head(CHAT).status_code == 401


def test_no_other_coding_than_chunked(door: Server, good: str) -> None:
    for coding in ("gzip, chunked", "gzip,chunked"):
        answer = raw(door, head(CHAT, good, f"transfer-encoding: {coding}") + b"0\r\n\r\n")
        assert status_of(answer) == 400
        assert b'"wrong_transfer_encoding"' in answer
    body = json.dumps(chat_body()).encode()
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    lines = ("transfer-encoding: Chunked", "connection: close")
    assert status_of(raw(door, head(CHAT, good, *lines) + chunk, 20)) == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("127.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("0.0.0.0", False),
        ("::", False),
    ],
)
def test_what_is_this_machine(host: str, loopback: bool) -> None:
    assert ServeOptions(host=host).loopback is loopback
