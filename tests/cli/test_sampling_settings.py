"""The settings of a chat: every field of Sampling, read from text, refused with its own words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwick.cli.sampling import DEFAULT, changed, checked, names, shown_value
from qwick.engine.request import Sampling
from qwick.errors import ParameterError

FIELDS = [field.name for field in dataclasses.fields(Sampling)]

# A field, a text, and the value that it means.
GOOD: list[tuple[str, str, Any]] = [
    ("temperature", "0.5", 0.5),
    ("temperature", "0", 0.0),
    ("top_k", "40", 40),
    ("top_p", "0.9", 0.9),
    ("min_p", "1e-2", 0.01),
    ("repetition_penalty", "1.1", 1.1),
    ("presence_penalty", "-0.5", -0.5),
    ("frequency_penalty", "2", 2.0),
    ("logit_bias", "7=-100 3=1.5", ((3, 1.5), (7, -100.0))),
    ("logit_bias", "[]", ()),
    ("seed", str(2**64 - 1), 2**64 - 1),
    ("max_tokens", "100", 100),
    ("min_tokens", "3", 3),
    ("stop_ids", "5, 6 7", (5, 6, 7)),
    ("stop_ids", "[]", ()),
    ("ignore_eos", "on", True),
    ("loop_detection", "No", False),
    ("stop", "END OF", ("END OF",)),
    ("stop", '"\\n"', ("\n",)),
    ("stop", '["a", "\\n\\n"]', ("a", "\n\n")),
]
BAD = [
    *(("temperature", text) for text in ("warm", "-1", "101", "nan", "", "1,5")),
    *(("top_k", text) for text in ("2.5", "-1", "9" * 5000)),
    ("top_p", "0"),
    ("logit_bias", "7"),
    ("logit_bias", "7=200"),
    ("logit_bias", "7=1 7=2"),
    ("max_tokens", "0"),
    ("stop_ids", "a"),
    ("stop_ids", "-1"),
    ("ignore_eos", "perhaps"),
    ("stop", '["a'),
    ("stop", "[1]"),
    ("stop", "[" * 100_000),
    ("stop", "x" * 257),
]


def test_every_field_can_be_set_but_the_one_that_would_show_nothing() -> None:
    assert [name for name in FIELDS if name not in names()] == ["logprobs"]
    assert {name for name, _, _ in GOOD} == set(names())


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_value_is_read_and_shown_so_that_it_is_read_again(
    name: str, text: str, value: Any
) -> None:
    found = changed({}, name, text)
    assert found == {name: value}
    assert type(found[name]) is type(value)
    assert changed({}, name, shown_value(value)) == found


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_value_is_refused_and_nothing_changed(name: str, text: str) -> None:
    before = {"temperature": 0.3, "top_k": 5}
    with pytest.raises(ParameterError) as caught:
        changed(before, name, text)
    assert name in caught.value.message
    assert len(caught.value.message) < 500
    assert before == {"temperature": 0.3, "top_k": 5}


def test_names() -> None:
    with pytest.raises(ParameterError, match="temprature") as caught:
        changed({}, "temprature", "1")
    assert caught.value.hint == "did you mean temperature?"
    with pytest.raises(ParameterError, match="logprobs"):
        changed({}, "logprobs", "3")


def test_default_takes_a_change_back() -> None:
    before = {"temperature": 0.3, "top_k": 5}
    assert changed(before, "temperature", DEFAULT) == {"top_k": 5}
    assert changed({}, "temperature", DEFAULT) == {}


def test_settings_are_checked_together() -> None:
    with pytest.raises(ParameterError, match="min_tokens is 9 and max_tokens 8"):
        changed({"max_tokens": 8}, "min_tokens", "9")
    for bad in ({"nonsense": 1}, {"seed": None}, {"temperature": "1"}, {"stop": 3}):
        with pytest.raises(ParameterError):
            checked(bad)


@given(st.sampled_from(FIELDS), st.text())
def test_any_text_is_a_value_or_an_error_of_ours(name: str, text: str) -> None:
    try:
        found = changed({}, name, text)
    except ParameterError:
        return
    assert found == checked(found)
    assert found == {} or changed({}, name, shown_value(found[name])) == found


@given(st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100), max_size=5))
def test_any_bias_is_shown_so_that_it_is_read_again(bias: dict[int, float]) -> None:
    found = checked({"logit_bias": bias})
    assert changed({}, "logit_bias", shown_value(found["logit_bias"]) or "[]") == found


def test_every_field_is_an_option_of_run() -> None:
    from qwick.cli.run import run

    assert set(FIELDS) <= {parameter.name for parameter in run.params}
