"""The default checkpoint's tokenizer as grammars see it, built once."""

from __future__ import annotations

import pytest

from qwick.text.grammar import Vocabulary


@pytest.fixture(scope="session")
def vocabulary(tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer)
