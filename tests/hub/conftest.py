"""A local server with a small checkpoint, and stores that fetch it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub.support import HubServer, Recorder, entry_of
from qwick.hub import Entry, Store
from qwick.hub.sources import HubSource, Source


@pytest.fixture
def server() -> Iterator[HubServer]:
    hub = HubServer()
    yield hub
    hub.close()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWICK_OFFLINE", raising=False)


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
