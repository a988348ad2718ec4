"""What every test of the in-process API needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwick.native import ops


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    """Loading sets the threads of the whole process: back to what they were."""
    before = ops.threads()
    yield
    ops.set_threads(before)
