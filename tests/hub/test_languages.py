"""Codes of languages, as people write them."""

from __future__ import annotations

import pytest

from qwick.errors import ParameterError
from qwick.hub import language_code, read_catalog


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *(("hu", "hu"), (" HU ", "hu"), ("hu-HU", "hu"), ("zh-Hant-TW", "zh"), ("es-419", "es")),
        *(("hu_HU", "hu"), ("zh_TW", "zh"), ("zh_Hant_TW", "zh")),  # as locales spell them
        *(("eng", "en"), ("hun", "hu"), ("deu", "de"), ("ger", "de"), ("fra", "fr"), ("fre", "fr")),
        *(("zho", "zh"), ("chi", "zh"), ("ces", "cs"), ("cze", "cs"), ("eus", "eu"), ("baq", "eu")),
        *(("la", "la"), ("yue", "yue"), ("ceb", "ceb")),  # of no checkpoint; of ISO 639-3 alone
        *(("cmn", "zh"), ("fil", "tl"), ("iw", "he"), ("no", "no"), ("sh", "sh")),
    ],
)
def test_known_codes(text: str, code: str) -> None:
    assert language_code(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "hungarian",
        "xx",
        "zzz",
        "tlh",
        "",
        "h",
        "hu-",
        "hu-hungary",
        "-hu",
        "hu,cs",
        "hu_",
        "_HU",
        "hu__HU",
        "ｈｕ",
    ],
)
def test_what_is_no_code(text: str) -> None:
    with pytest.raises(
        ParameterError, match=r"^language is .*; allowed: codes of ISO 639-1"
    ) as told:
        language_code(text)
    assert "look the code up" in (told.value.hint or "")


def test_the_catalog_writes_what_comes_out() -> None:
    models = read_catalog().models.values()
    codes = {code for model in models if model.languages for code in model.languages.codes}
    assert len(codes) > 100
    assert {language_code(code) for code in codes} == codes
