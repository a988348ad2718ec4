"""Fenced blocks of code, as models write them."""

from __future__ import annotations

import pytest

from qwick.tasks.fences import split_fences


@pytest.mark.parametrize(
    ("text", "blocks", "rest"),
    [
        ("```python\na = 1\n```", [("a = 1\n", "python", True)], ""),
        ("Here:\n```Python\na\n```\nDone.", [("a\n", "python", True)], "Here:\nDone."),
        ("```\na\n```", [("a\n", "", True)], ""),
        ("~~~js\na\n~~~", [("a\n", "js", True)], ""),
        ("```py title=x\na\n```", [("a\n", "py", True)], ""),
        ("````md\n```\ninner\n```\n````", [("```\ninner\n```\n", "md", True)], ""),
        ("```\na\n~~~\n```", [("a\n~~~\n", "", True)], ""),
        ("```a\n1\n```\n\n```b\n2\n```", [("1\n", "a", True), ("2\n", "b", True)], ""),
        ("```python\na = 1", [("a = 1", "python", False)], ""),
        ("  ```\n  a\n  ```", [("  a\n", "", True)], ""),
        ("```\na\n    ```\n```", [("a\n    ```\n", "", True)], ""),
        ("```\r\na\r\n```\r\n", [("a\r\n", "", True)], ""),
        ("use `x` or ```y``` inline", [], "use `x` or ```y``` inline"),
        ("", [], ""),
    ],
)
def test_blocks(text: str, blocks: list[tuple[str, str, bool]], rest: str) -> None:
    found, around = split_fences(text)
    assert [(b.code, b.language, b.closed) for b in found] == blocks
    assert around == rest
