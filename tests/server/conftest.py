"""One server with the real default checkpoint for all tests that do not end or change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.live import Server


@pytest.fixture(scope="session")
def server(default_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("state")) as running:
        yield running.ready()
