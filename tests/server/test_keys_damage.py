"""The file of keys: damaged, hostile, in the wrong place, on a full disk."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qwick.errors import (
    FormatError,
    QwickError,
    ResourceError,
)
from qwick.server import audit, keys
from qwick.server.keyfile import text_of
from qwick.server.keys import Key, KeyRing, Refusal
from qwick.server.limits import PRESETS, Limits
from server.processes import fork, limited, wait


def reason(found: Key | Refusal) -> str:
    return found.reason if isinstance(found, Refusal) else "good"


WRITTEN = [
    Key("aaaaaaaa", "ci", "0" * 64, 1000),
    Key("bbbbbbbb", "naïve ☃", "1" * 64, 1000, 2000, 1500, True, PRESETS["modest"]),
    Key("cccccccc", "c", "ab" * 32, 1, None, 5, False, Limits(concurrent=1, models=("m",))),
]
TEXT = text_of({key.id: key for key in WRITTEN})


def test_a_file_reads_as_what_was_written(tmp_path: Path) -> None:
    put(tmp_path, TEXT)
    assert KeyRing(tmp_path).all() == tuple(WRITTEN)


def put(folder: Path, data: bytes) -> Path:
    path = folder / "keys.json"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@st.composite
def damage(draw: st.DrawFn) -> bytes:
    data = TEXT
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + draw(st.sampled_from([1, 8, 400])))))
        kind = draw(st.sampled_from(["cut", "drop", "change", "zero", "twice", "insert"]))
        if kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:at] + data[end:]
        elif kind == "change":
            data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[end:]
        elif kind == "zero":
            data = data[:at] + bytes(end - at) + data[end:]
        elif kind == "twice":
            data = data[:end] + data[at:end] + data[end:]
        else:
            piece = draw(st.sampled_from([b" ", b"\n", b",", b"}", b'"', b"1", b"{}", b"[]", b"x"]))
            data = data[:at] + piece + data[at:]
    return data


@given(damage())
@hypothesis_settings(max_examples=1500, deadline=None)
def test_random_damage_is_refused_or_reads_as_what_was_written(data: bytes) -> None:
    from qwick.server.keyfile import parsed

    try:
        found = list(parsed(Path("keys.json"), data).values())
    except FormatError:
        return
    assert found == WRITTEN


ROWS = json.loads(TEXT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}",
        b"[]",
        b"null",
        b"<!doctype html>",
        bytes(len(TEXT)),
        b"\xff" * 100,
        b"[" * 200_000,
        b'{"format": ' + b"9" * 100_000 + b"}",
        b'{"format": NaN, "sha256": "", "keys": []}',
        json.dumps({**ROWS, "keys": []}).encode(),
        json.dumps({**ROWS, "keys": ROWS["keys"][:2]}).encode(),
        json.dumps({**ROWS, "keys": ROWS["keys"][::-1]}).encode(),
        json.dumps({**ROWS, "keys": {}}).encode(),
        json.dumps({**ROWS, "sha256": None}).encode(),
        json.dumps({**ROWS, "format": "qwick keys 2"}).encode(),
        json.dumps({**ROWS, "more": 1}).encode(),
        TEXT.replace(b'"admin": false', b'"admin": true'),
        TEXT.replace(b'"revoked": 5', b'"revoked": null'),
        TEXT.replace(b'"created": 1000,', b'"created": 1000.0,'),
        TEXT.replace(b'"keys"', b'"keys": [], "keys"'),
        TEXT * 2,
        TEXT[: len(TEXT) // 2],
        b" " * ((16 << 20) + 1),
    ],
    ids=lambda data: repr(data[:30]),
)
def test_a_damaged_file_lets_nobody_in_and_names_itself(data: bytes, tmp_path: Path) -> None:
    path = put(tmp_path, data)
    ring = KeyRing(tmp_path)
    for ask in (ring.all, ring.required, lambda: ring.find(None), lambda: ring.create("x")):
        with pytest.raises(FormatError) as caught:
            ask()
        assert str(path) in caught.value.message
        assert caught.value.hint == keys.WAY_OUT
    assert path.read_bytes() == data


def rows_with_digest(*rows: dict[str, Any]) -> bytes:
    import hashlib

    text = json.dumps(list(rows), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"format": "qwick keys 1", "sha256": digest, "keys": rows}).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "short"},
        {"id": "../../x"},
        {"name": "a\nb"},
        {"name": 5},
        {"digest": "0" * 63},
        {"created": "now"},
        {"created": True},
        {"expires": -1},
        {"expires": 10**40},
        {"revoked": 1.5},
        {"admin": "yes"},
        {"limits": None},
        {"limits": {"requests": "many"}},
        {"limits": {"speed": 5}},
        {"limits": {"models": []}},
        {"secret": "x"},
    ],
    ids=str,
)
def test_a_hostile_file_with_a_right_digest_is_refused_too(
    change: dict[str, Any], tmp_path: Path
) -> None:
    row = ROWS["keys"][0]
    put(tmp_path, rows_with_digest(row))
    assert KeyRing(tmp_path).all() == (WRITTEN[0],)
    put(tmp_path, rows_with_digest({**row, **change}))
    with pytest.raises(FormatError, match="what is no key"):
        KeyRing(tmp_path).all()
    put(tmp_path, rows_with_digest(row, row))
    with pytest.raises(FormatError, match="same id"):
        KeyRing(tmp_path).all()


def test_a_running_server_refuses_while_the_file_is_damaged(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    _, text = ring.create("x")
    whole = ring.path.read_bytes()
    put(tmp_path, whole[:-40])
    for _ in range(2):
        with pytest.raises(FormatError):
            ring.find(text)
    put(tmp_path, whole)
    assert reason(ring.find(text)) == "good"


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = KeyRing(tmp_path)
    path.mkdir()
    with pytest.raises(FormatError, match="no regular file"):
        ring.all()
    path.rmdir()
    os.mkfifo(path, 0o600)
    start = time.monotonic()
    with pytest.raises(FormatError, match="no regular file"):
        ring.all()
    assert time.monotonic() - start < 5
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ResourceError, match="cannot be read"):
        ring.all()
    path.unlink()
    put(tmp_path, TEXT).chmod(0o620)
    with pytest.raises(FormatError, match="written by others") as caught:
        ring.all()
    assert "chmod 600" in str(caught.value)
    path.chmod(0o640)  # that others may read hashes lets nobody in
    assert len(ring.all()) == 3
    tmp_path.chmod(0o770)
    for ask in (KeyRing(tmp_path).all, lambda: ring.create("x")):
        with pytest.raises(FormatError, match="chmod 700"):
            ask()


def test_what_may_not_be_read_or_written_is_told_of() -> None:
    # Not below pytest's own folder, into which another user may not look.
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "s"
        _, text = KeyRing(folder).create("x")

        def look() -> None:
            Path(place).chmod(0o755)
            folder.chmod(0o555)
            (folder / "keys.json").chmod(0o400 if os.getuid() == 0 else 0)
            if os.getuid() == 0:  # who may read everything
                os.setuid(65534)
            with pytest.raises(
                ResourceError, match=r"keys\.json cannot be read: Permission denied"
            ):
                KeyRing(folder).find(text)
            with pytest.raises(ResourceError, match="cannot be used: Permission denied"):
                KeyRing(folder / "inner").create("x")

        assert wait(fork(look)) == 0
        folder.chmod(0o700)


# -- disks that are full ---------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 16, 90, 200])
def test_where_nothing_can_be_written_nothing_is_lost(most: int, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    key, text = ring.create("x")
    before = ring.path.read_bytes()

    def make() -> None:
        with pytest.raises(ResourceError, match="cannot be written") as caught:
            ring.create("y")
        cause = caught.value.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == errno.EFBIG

    assert limited(most, make) == 0
    assert ring.path.read_bytes() == before
    assert ring.find(text) == key
    assert list(tmp_path.glob("*.part")) == []
    ring.create("y")
    assert audit.read(tmp_path / "audit.jsonl").unreadable == 0


def test_a_log_that_cannot_be_written_keeps_no_key_alive(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    _, text = ring.create("x")
    log = tmp_path / "audit.jsonl"
    log.write_bytes(log.read_bytes() * 100)
    size = log.stat().st_size

    def revoke() -> None:
        with pytest.raises(ResourceError, match="is revoked, but the log does not tell"):
            ring.revoke("x")

    assert limited(size, revoke) == 0
    assert reason(ring.find(text)) == "revoked"
    assert log.stat().st_size == size


def test_a_locked_file_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwick.server import state

    monkeypatch.setattr(state, "PATIENCE", 0.3)
    with state.alone(tmp_path / "keys.json"):
        with pytest.raises(QwickError, match="locked by another process") as caught:
            KeyRing(tmp_path).create("x")
        assert caught.value.exit_code == 6
        assert KeyRing(tmp_path).all() == ()  # readers do not wait
