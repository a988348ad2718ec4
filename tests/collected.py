"""What the family's publisher says of its checkpoints, as it was collected from its pages.

It lies beside this repository, not in it. Tests that compare with it are skipped where it is not,
but for continuous integration, where that is a failure.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["FACTS", "FOLDER", "TEMPLATES", "collected"]

FOLDER = Path(__file__).parents[1].parent / "shared" / "data"
FACTS = FOLDER / "qwen-family.json"  # of each checkpoint
TEMPLATES = FOLDER / "templates"  # NAME.jinja as published; NAME.cases.json: renderings of it


def collected(path: Path) -> Path:
    """Return a path of the collection if it is there; else skip or fail the test."""
    if path.exists():
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{path} is not there; continuous integration may not skip this test")
    pytest.skip(
        f"compares with the publisher's own files, which are not part of this repository: put them "
        f"at {path} to run it"
    )
