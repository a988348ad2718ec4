"""Fixtures that every area may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from turns import take_turns


def pytest_configure(config: pytest.Config) -> None:
    take_turns(config)


@pytest.fixture(scope="session")
def default_checkpoint() -> Path:
    """The default checkpoint's verified file: fetched once into the user's store, never skipped."""
    from qwick import hub

    return hub.resolve()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that takes `isa` once on every instruction set that this CPU can run."""
    if "isa" in metafunc.fixturenames:
        from qwick.native import ops  # here: most tests need no compiled kernels

        usable = [i.name for i in ops.available() if i.usable]
        metafunc.parametrize("isa", usable, indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the instruction set in force; what was in force before returns afterwards."""
    from qwick.native import ops

    before = ops.isa()
    ops.force(request.param)
    yield request.param
    ops.force(before)
