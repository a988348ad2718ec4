"""The reference page of architectures says what the tests do, but for measured errors."""

from __future__ import annotations

import re

from checks.architectures import PAGE, TOLD, page, without_errors
from model.parity import F32_LIMIT
from qwick.family import MODEL_TYPES


def test_the_page_is_that_of_the_tests() -> None:
    told = PAGE.read_text("utf-8")
    assert without_errors(told) == without_errors(page({})), "run python -m checks.architectures"
    errors = [float(found) for found in re.findall(r"\| (\d\.\de[+-]\d\d) \|", told)]
    assert errors
    assert max(errors) <= F32_LIMIT
    assert min(errors) > 0


def test_every_model_type_is_told_of() -> None:
    assert list(TOLD) == list(MODEL_TYPES)
