"""Checkpoints shared by this folder's tests."""

from __future__ import annotations

import pytest

from model.stored import Samples


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return Samples(tmp_path_factory)
