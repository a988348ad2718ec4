"""A local server with a small checkpoint, and stores that fetch it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub.support import CONTENT, HubServer, Recorder, entry_of
from qwick.hub import Entry, Store
from qwick.hub.huggingface import HubSource
from qwick.hub.sources import Source


@pytest.fixture
def server() -> Iterator[HubServer]:
    hub = HubServer(CONTENT)
    yield hub
    hub.close()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWICK_OFFLINE", raising=False)
    monkeypatch.setattr("qwick.hub.transfer.BACKOFF_SECONDS", 0.01)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """Return a function that makes a store of one entry in a folder of this test."""

    def make(*sources: Source, entry: Entry | None = None, home: Path | None = None) -> Store:
        chosen = entry or entry_of()
        return Store(home or tmp_path / "home", catalog={chosen.name: chosen}, sources=sources)

    return make


@pytest.fixture
def store(server: HubServer, make_store: Callable[..., Store]) -> Store:
    """A store that fetches from the local server only."""
    return make_store(HubSource(server.endpoint))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, and a pip that is configured to look there and nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Return a list that every process which is started is added to."""
    found: list[subprocess.Popen[bytes]] = []

    class Watched(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            found.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    return found
