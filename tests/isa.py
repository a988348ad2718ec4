"""Every instruction set that this CPU can run, as a pytest parameter, restored after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qwick.native import ops

USABLE = [i.name for i in ops.available() if i.usable]


@pytest.fixture(params=USABLE)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = ops.isa()
    ops.force(request.param)
    yield request.param
    ops.force(before)
