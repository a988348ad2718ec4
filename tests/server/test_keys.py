"""Keys: who is let in, what a running server sees, and processes that are killed."""

from __future__ import annotations

import os
import random
import signal
import stat
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from qwick import settings
from qwick.errors import (
    ParameterError,
    PermissionDeniedError,
    ResourceError,
)
from qwick.server import audit, keys
from qwick.server.keys import Key, KeyRing, Refusal, parse_expiry
from qwick.server.limits import Limits, Rate
from qwick.server.pseudonyms import Pseudonyms
from server.processes import fork, wait

SERVER = str(Path(keys.__file__).parent)
HUB = str(Path(keys.__file__).parents[1] / "hub")


def reason(found: Key | Refusal) -> str:
    return found.reason if isinstance(found, Refusal) else "good"


# -- who is let in ---------------------------------------------------------------------------------


def test_a_key_lets_in_and_its_secret_is_nowhere(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "s")
    limits = Limits(requests=Rate(5, "minute"), models=("a", "b"))
    key, text = ring.create("ci", limits=limits, admin=True)
    assert keys._KEY.fullmatch(text)
    assert text.split("-")[1] == key.id
    assert ring.find(text) == key == KeyRing(tmp_path / "s").find(text)
    assert key.limits == limits
    secret = text.split("-", 2)[2]
    for path in (tmp_path / "s").iterdir():
        assert secret.encode() not in path.read_bytes()


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        KeyRing(tmp_path / "a" / "s").create("x")
    finally:
        os.umask(before)
    folder = tmp_path / "a" / "s"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("keys.json", "secret", "audit.jsonl"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_each_refusal_has_its_reason_and_tells_no_more_than_it_should(tmp_path: Path) -> None:
    now = [1000.0]
    ring = KeyRing(tmp_path, clock=lambda: now[0])
    good, text = ring.create("good")
    other, revoked = ring.create("revoked")
    _, expiring = ring.create("expiring", expires=2000)
    ring.revoke(other.id)
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    wrong_of_revoked = revoked[:-1] + ("A" if revoked[-1] != "A" else "B")
    assert ring.find(expiring) == ring.all()[2]
    now[0] = 1999.9
    assert reason(ring.find(expiring)) == "good"
    now[0] = 2000.0
    found = {
        name: ring.find(bearer)
        for name, bearer in {
            "good": text,
            "revoked": revoked,
            "expired": expiring,
            "missing": None,
            "unknown": wrong,
        }.items()
    }
    assert {name: reason(one) for name, one in found.items()} == {n: n for n in found}
    for bearer in (
        *(wrong_of_revoked, text + "A", text[:-1], f" {text}", text + "\n", text.upper(), "x"),
        *("qk-", f"qk-{good.id}-", "qk-" + "é" * 8 + "-" + "x" * 43, "\ud800", "x" * 100_000),
        text.replace(good.id, other.id),
    ):
        assert ring.find(bearer) == Refusal("unknown"), bearer[:80]
    assert reason(ring.find("")) == "missing"
    told = {name: str(one.error) for name, one in found.items() if isinstance(one, Refusal)}
    assert told["unknown"] == told["revoked"]
    assert "expired" in told["expired"]
    assert "Bearer" in told["missing"]
    assert not any(good.id in one or other.id in one for one in told.values())
    error = Refusal("unknown").error
    assert (error.status, error.exit_code, error.code) == (401, 10, "invalid_api_key")


def test_only_an_admin_key_is_one(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ring.create("admin", admin=True)[0].check_admin()
    with pytest.raises(PermissionDeniedError, match="admin key") as caught:
        ring.create("other")[0].check_admin()
    assert (caught.value.status, caught.value.code) == (403, "permission_denied")


def test_the_last_key_to_go_opens_no_door(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    assert not ring.required()
    key, text = ring.create("one")
    assert ring.required()
    ring.revoke("one")
    assert KeyRing(tmp_path).required()
    assert [one.id for one in ring.prune()] == [key.id]
    assert KeyRing(tmp_path).required()
    assert KeyRing(tmp_path).all() == ()
    ring.path.unlink()
    assert ring.required()  # a server that has seen keys does not forget that there were any
    assert reason(ring.find(text)) == "unknown"


def test_keys_by_name(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    first, _ = ring.create("ci")
    with pytest.raises(ParameterError, match="one that no other key has"):
        ring.create("ci")
    with pytest.raises(ParameterError, match="one that no other key has"):
        ring.create(first.id)
    ring.revoke("ci")
    second, text = ring.create("ci")
    assert ring.revoke(first.id).revoked is not None  # by id: the old one, which stays as it is
    assert reason(ring.find(text)) == "good"
    assert ring.revoke("ci").id == second.id
    for which in ("nobody", "", second.digest):
        with pytest.raises(ParameterError, match="qwick keys list"):
            ring.revoke(which)


@pytest.mark.parametrize("name", ["", " x", "x ", "x" * 65, "a\nb", "a\x1b[31m", "\ud800", 5, None])
def test_bad_names(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"name is .*; allowed: 1 to 64 printable"):
        KeyRing(tmp_path).create(name)
    assert not (tmp_path / "keys.json").exists()


def test_prune_deletes_what_lets_nobody_in(tmp_path: Path) -> None:
    now = [1000.0]
    ring = KeyRing(tmp_path, clock=lambda: now[0])
    kept, _ = ring.create("kept")
    ring.create("expires", expires=1500)
    ring.create("revoked")
    assert ring.prune() == ()
    ring.revoke("revoked")
    now[0] = 1500.0
    assert [key.name for key in ring.prune()] == ["expires", "revoked"]
    assert KeyRing(tmp_path).all() == (kept,)


def test_there_is_a_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(tmp_path)
    ring.create("a")
    monkeypatch.setattr(keys, "MOST_KEYS", 1)
    with pytest.raises(ResourceError, match="has 1 keys") as caught:
        ring.create("b")
    assert "prune" in str(caught.value)
    monkeypatch.setattr(keys, "MOST_KEYS", 2)
    monkeypatch.setattr(keys, "MOST_BYTES", ring.path.stat().st_size + 10)
    with pytest.raises(ResourceError, match="the limit is"):
        ring.create("b")
    assert [key.name for key in ring.all()] == ["a"]


@pytest.mark.parametrize(
    ("text", "at"),
    [("30d", 30 * 86400), ("12h", 43200), ("2w", 14 * 86400), ("1970-02-01", 31 * 86400)],
)
def test_expiry(text: str, at: int) -> None:
    now = 1000
    assert parse_expiry(text, now) == (at if "-" in text else at + now)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0d", "-1d", "1", "d", "1.5d", "1m", "1970-01-01", "2026-13-01", "2026-02-30"),
        *("soon", "٣d", "999999w", "10000-01-01", "1d ", "2026-1-1x"),
    ],
)
def test_bad_expiry(text: str) -> None:
    with pytest.raises(ParameterError, match=r"expires is .*; allowed: such as 12h"):
        parse_expiry(text, 1000)


@pytest.mark.parametrize("expires", [0, 999, 1000, 10**15, 5e9, "30d", True])
def test_a_key_expires_in_time_to_come(expires: Any, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="a time to come"):
        KeyRing(tmp_path, clock=lambda: 1000.0).create("x", expires=expires)


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state/of/test")
    monkeypatch.delenv("QWICK_STATE", raising=False)
    assert KeyRing().path == Path("/state/of/test/qwick/server/keys.json")
    monkeypatch.setenv("QWICK_STATE", "/elsewhere")
    assert settings.STATE.get() == Path("/elsewhere")
    assert KeyRing().path == Path("/elsewhere/server/keys.json")


# -- a running server ------------------------------------------------------------------------------


def test_a_running_server_sees_what_another_process_does(tmp_path: Path) -> None:
    server = KeyRing(tmp_path)
    assert reason(server.find("qk-" + "a" * 8 + "-" + "x" * 43)) == "unknown"
    handed = tmp_path / "handed"

    def make() -> None:
        handed.write_text(KeyRing(tmp_path).create("made elsewhere")[1])

    assert wait(fork(make)) == 0
    text = handed.read_text()
    assert reason(server.find(text)) == "good"
    assert wait(fork(lambda: KeyRing(tmp_path).revoke("made elsewhere"))) == 0
    assert reason(server.find(text)) == "revoked"
    assert wait(fork(lambda: KeyRing(tmp_path).prune())) == 0
    assert reason(server.find(text)) == "unknown"


OPENED: list[str] | None = None


def note_opens(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None:
        OPENED.append(str(arguments[0]))


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    global OPENED
    ring = KeyRing(tmp_path)
    _, text = ring.create("x")
    ring.find(text)
    sys.addaudithook(note_opens)
    OPENED = []
    try:
        for _ in range(1000):
            assert reason(ring.find(text)) == "good"
        assert OPENED == []
        os.utime(ring.path)
        ring.find(text)
        assert OPENED[0] == str(ring.path)
    finally:
        OPENED = None


def test_processes_that_make_keys_at_once_lose_none(tmp_path: Path) -> None:
    def make(name: str) -> None:
        for i in range(8):
            KeyRing(tmp_path).create(f"{name} {i}")

    children = [fork(lambda n=n: make(str(n))) for n in range(4)]
    assert [wait(child) for child in children] == [0] * 4
    made = KeyRing(tmp_path).all()
    assert {key.name for key in made} == {f"{n} {i}" for n in range(4) for i in range(8)}
    noted = [event["key"] for event in audit.read(tmp_path / "audit.jsonl").events]
    pseudonyms = Pseudonyms(tmp_path)
    assert sorted(noted) == sorted(pseudonyms.of("key", key.id) for key in made)


# -- kills -----------------------------------------------------------------------------------------


def make_keys(folder: Path, name: str, pipe: int, line: int) -> None:
    """Make and revoke keys until killed, and tell what is done; killed here at a line of ours."""
    seen = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename.startswith((SERVER, HUB)):
            if event == "line":
                seen += 1
                if seen == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace
        return None

    ring = KeyRing(folder)
    if line:
        sys.settrace(trace)
    for _ in range(1000):
        key, text = ring.create(name)
        os.write(pipe, f"made {text}\n".encode())
        ring.revoke(key.id)
        os.write(pipe, f"gone {text}\n".encode())
    sys.settrace(None)


@pytest.mark.alone
def test_kills_at_any_moment_lose_no_key_and_leave_no_half_file(tmp_path: Path) -> None:
    chance = random.Random(20)
    ring = KeyRing(tmp_path)
    ring.create("first")
    made: dict[str, str] = {}
    for number in range(100):
        reading, writing = os.pipe()
        line = chance.randint(1, 6000) if number % 2 else 0
        child = fork(lambda n=number, w=writing, at=line: make_keys(tmp_path, str(n), w, at))
        os.close(writing)
        if line == 0:
            time.sleep(chance.uniform(0, 0.06))
            os.kill(child, signal.SIGKILL)
        assert wait(child) == -signal.SIGKILL
        with open(reading, encoding="utf-8") as told:
            for row in told:
                state, text = row.split()
                made[text] = "good" if state == "made" else "revoked"
        # A child was killed between two things that it told of: the last may be half done.
        for text, state in made.items():
            found = reason(ring.find(text))
            assert found == state or (state == "good" and found == "revoked")
            made[text] = found
        assert reason(KeyRing(tmp_path).find("qk-x")) == "unknown"
    assert sum(state == "revoked" for state in made.values()) > 20
    assert sum(state == "good" for state in made.values()) > 5
    last, text = ring.create("last")  # nothing is locked, nothing in the way
    assert ring.find(text) == last
    assert [path.name for path in tmp_path.glob("*.part")] == []
    noted = audit.read(tmp_path / "audit.jsonl").events
    told = {event["key"] for event in noted if event["event"] == "key_created"}
    pseudonyms = Pseudonyms(tmp_path)
    assert {pseudonyms.of("key", key.id) for key in ring.all()} <= told
