"""Every value out of range is refused with its name, itself and the range."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from qwick.engine.request import Request, Sampling
from qwick.errors import ParameterError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("temperature", v) for v in (-1, -1e-9, NAN, INF, 101, True, "1", None, 1j)],
        *[("top_k", v) for v in (-1, 1.0, True, "3", None, NAN, 2**31)],
        *[("top_p", v) for v in (0, 0.0, -0.5, 1.0001, NAN, INF, False, "0.5", None)],
        *[("min_p", v) for v in (-0.1, 1.1, NAN, True, "0", None)],
        *[("repetition_penalty", v) for v in (0, -1, NAN, INF, True, 1000, None)],
        *[("presence_penalty", v) for v in (-2.01, 2.5, NAN, INF, True, "0", None)],
        *[("frequency_penalty", v) for v in (-3, 2.01, NAN, -INF, False, "0", None)],
        *[("min_tokens", v) for v in (-1, 1.0, True, "5", NAN, None)],
        *[("ignore_eos", v) for v in (0, 1, "yes", None)],
        *[("loop_detection", v) for v in (0, 1, "yes", None)],
        *[("seed", v) for v in (-1, 2**64, 1.5, True, "7")],
        *[("max_tokens", v) for v in (0, -1, 1.0, True, "5", NAN)],
        *[("logprobs", v) for v in (-1, 21, True, 2.0, "1")],
    ],
)
def test_a_bad_value_is_named_with_its_range(field: str, value: Any) -> None:
    with pytest.raises(ParameterError) as caught:
        Sampling(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{field} is ")
    assert "; allowed: " in message
    assert str(value) in message


HUGE: dict[str, Any] = {
    "whole": 10**5000,
    "negative": -(10**5000),
    "fraction": Fraction(10**400),
    "in a list": [10**5000],
    "text": "x" * 10**6,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Sampling)])
@pytest.mark.parametrize("name", HUGE)
def test_a_value_of_any_size_is_refused_in_one_short_line(field: str, name: str) -> None:
    value = HUGE[name]
    with pytest.raises(ParameterError) as caught:
        Sampling(**{field: value})
    assert field in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_limits_of_stops_are_allowed() -> None:
    Sampling(stop=["a" * 256] * 32, stop_ids=range(64))
    assert Sampling(stop={"a"}, stop_ids={3}) == Sampling(stop=("a",), stop_ids=(3,))


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("stop_ids", [-1], "-1"),
        ("stop_ids", [True], "True"),
        ("stop_ids", ["a"], "'a'"),
        ("stop_ids", "abc", "'abc'"),
        ("stop_ids", 5, "5"),
        ("stop_ids", range(65), "65 items; allowed: a list of at most 64"),
        ("stop_ids", range(2**40), "holds 1099511627776 items"),
        ("stop_ids", range(2**70), "items; allowed: a list of at most 64"),
        ("stop", [""], "''"),
        ("stop", [1], "1"),
        ("stop", 7, "7"),
        ("stop", b"ab", "b'ab'"),
        ("stop", {"a": 1}, "a"),
        ("stop", iter(["a"]), "list_iterator"),
        ("stop", ["a", "b\ud800"], "half a UTF-16 pair"),
        ("stop_ids", iter([1]), "list_iterator"),
        ("stop_ids", {1: 2}, "1: 2"),
        ("stop", ["x" * 257], "257 characters"),
        ("stop", ["x"] * 33, "33 items"),
    ],
)
def test_bad_stops(field: str, value: Any, part: str) -> None:
    with pytest.raises(ParameterError, match=f".*{part}") as caught:
        Sampling(**{field: value})
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({-1: 0}, "an id in logit_bias is -1"),
        ({True: 1}, "an id in logit_bias is True"),
        ({"7": 1}, "an id in logit_bias is '7'"),
        ({7: NAN}, "logit_bias of id 7 is nan; allowed: -100 to 100"),
        ({7: 100.5}, "logit_bias of id 7 is 100.5"),
        ({7: "1"}, "logit_bias of id 7 is '1'"),
        ([(7, 1), (7, 2)], "logit_bias has id 7 twice"),
        ([7], "an entry of logit_bias is 7"),
        ([(7,)], "an entry of logit_bias is"),
        (dict.fromkeys(range(1025), 1), "logit_bias holds 1025 items; allowed: .* at most 1024"),
        ("7=1", "logit_bias is '7=1'"),
        (5, "logit_bias is 5"),
        (None, "logit_bias is None"),
    ],
)
def test_bad_biases(value: Any, part: str) -> None:
    with pytest.raises(ParameterError, match=part):
        Sampling(logit_bias=value)


def test_good_biases_are_sorted_pairs() -> None:
    assert Sampling(logit_bias={9: 1, 7: -100}).logit_bias == ((7, -100.0), (9, 1.0))
    assert Sampling(logit_bias=[(9, 1)]) == Sampling(logit_bias={9: 1})
    hash(Sampling(logit_bias={9: 1}))


def test_min_tokens_beyond_max_tokens_are_refused() -> None:
    Sampling(min_tokens=5, max_tokens=5)
    with pytest.raises(ParameterError, match="min_tokens is 6 and max_tokens 5"):
        Sampling(min_tokens=6, max_tokens=5)


def test_good_values_become_plain_python() -> None:
    s = Sampling(
        temperature=np.float32(0.5),
        top_k=np.int64(3),
        top_p=1,
        stop_ids=np.array([4, 5]),
        stop="x",
        seed=2**64 - 1,
        max_tokens=1,
        logprobs=0,
    )
    assert s == Sampling(
        0.5, 3, 1.0, seed=2**64 - 1, max_tokens=1, stop_ids=(4, 5), stop=("x",), logprobs=0
    )
    assert [type(x) for x in (s.temperature, s.top_k, s.top_p, s.stop_ids[0])] == [
        float,
        int,
        float,
        int,
    ]
    assert Sampling(temperature=0).greedy
    assert not Sampling(temperature=1e-9).greedy


def test_requests() -> None:
    assert Request(np.array([1, 2], np.int32)).ids == (1, 2)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"ids": []}, "the prompt is empty"),
        ({"ids": [1], "kind": "score"}, "at least 2 tokens"),
        ({"ids": [1], "kind": "rank"}, "kind is 'rank'; allowed: 'generate' or 'score' or 'embed'"),
        ({"ids": [1], "kind": "embed", "guide": 1}, "kind 'embed' draws nothing"),
        ({"ids": [1], "kind": "classify"}, "labels holds 0 ids, and the kind is 'classify'"),
        ({"ids": [1], "kind": "embed", "labels": [1]}, "labels holds 1 ids, and the kind is 'emb"),
        ({"ids": [1], "kind": "classify", "labels": [-1]}, "an id in labels is -1"),
        ({"ids": [1.5]}, "1.5"),
        ({"ids": [True]}, "True"),
        ({"ids": [-3]}, "-3"),
        ({"ids": "hello"}, "'hello'"),
        ({"ids": 3}, "3"),
        ({"ids": [1], "sampling": {}}, "allowed: a Sampling"),
        ({"ids": [1], "namespace": None}, "namespace is None; allowed: a string of at most 256"),
        ({"ids": [1], "namespace": "x" * 257}, "namespace is 'x+.*allowed: a string of at most"),
        ({"ids": [1], "namespace": "\ud800"}, "namespace is .*half a UTF-16 pair"),
        (
            {"ids": [1], "prompt_logprobs": 21},
            "prompt_logprobs is 21; allowed: .* 0 to 20, or none",
        ),
        ({"ids": [1], "prompt_logprobs": True}, "prompt_logprobs is True"),
        ({"ids": [1, 2], "kind": "score", "prompt_logprobs": 1}, "the kind is 'score'"),
    ]
    for arguments, part in bad:
        with pytest.raises(ParameterError, match=part):
            Request(**arguments)
