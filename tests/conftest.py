"""Fixtures that every area may use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def default_checkpoint() -> Path:
    """The default checkpoint's verified file: fetched once into the user's store, never skipped."""
    from qwick import hub

    return hub.resolve()
