"""The package's front: its exact public names, each of which can be had."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import qwick
from qwick import errors

NAMES = sorted([*errors.__all__, "Qwen", "Reply", "Sampling", "__version__"])


def test_the_names_are_exact_and_sorted() -> None:
    assert qwick.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_had(name: str) -> None:
    assert getattr(qwick, name) is getattr(qwick, name)
    assert name in dir(qwick)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(qwick.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {"__version__"}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            seen |= {alias.name for alias in node.names}
    assert sorted(seen) == NAMES


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = qwick.nonsense


def test_every_error_says_how_it_is_shown() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert 400 <= kind.status < 600
        assert 1 <= kind.exit_code < 256
