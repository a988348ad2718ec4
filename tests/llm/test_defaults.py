"""Who decides when the caller says nothing: the checkpoint, then the family; never in silence."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from qwick.engine.request import Sampling
from qwick.errors import ConfigError, ContextLengthError
from qwick.family import FAMILIES
from qwick.llm.defaults import INERT, NEUTRAL, READ, Defaults, stop_ids_of

CODER = FAMILIES["qwen2.5-coder"]


def sampling(
    generation: dict[str, Any],
    said: dict[str, Any] | None = None,
    family: str = "qwen2.5-coder",
    **more: Any,
) -> Sampling:
    defaults = Defaults(FAMILIES[family], generation, (7, 8))
    return defaults.sampling(said or {}, **{"thinking": False, "prompt": 20, "room": 100, **more})


def test_the_family_when_the_checkpoint_is_silent() -> None:
    s = sampling({})
    expected = CODER.sampling
    assert (s.temperature, s.top_p, s.top_k) == (0.7, 0.8, 20)
    assert s.repetition_penalty == expected.repetition_penalty
    assert (s.stop_ids, s.max_tokens, s.seed) == ((7, 8), None, None)


def test_the_checkpoint_wins_over_the_family_key_by_key() -> None:
    s = sampling({"temperature": 0.2, "top_k": 5, "do_sample": True})
    assert (s.temperature, s.top_k, s.top_p) == (0.2, 5, 0.8)


def test_the_caller_wins_over_both() -> None:
    s = sampling({"temperature": 0.2, "top_k": 5}, {"temperature": 0, "top_k": 0, "stop_ids": ()})
    assert (s.temperature, s.top_k, s.top_p, s.stop_ids) == (0.0, 0, 0.8, ())


def test_none_is_not_said() -> None:
    assert sampling({}, {"temperature": None, "max_tokens": None}).temperature == 0.7


def test_do_sample_false_is_greedy_unless_the_caller_says_otherwise() -> None:
    assert sampling({"do_sample": False, "temperature": 0.7}).greedy
    assert not sampling({"do_sample": False}, {"temperature": 0.5}).greedy


def test_thinking_has_its_own_row() -> None:
    assert sampling({}, family="qwen3", thinking=True).temperature == 0.6
    assert sampling({}, family="qwen3", thinking=False).temperature == 0.7


def test_the_checkpoints_own_length_is_cut_to_the_context_and_the_callers_is_not() -> None:
    assert sampling({"max_new_tokens": 2048}).max_tokens == 100
    assert sampling({"max_new_tokens": 50}).max_tokens == 50
    assert sampling({"max_new_tokens": 50}, {"max_tokens": 2048}).max_tokens == 2048


def test_the_checkpoints_length_with_the_prompt_as_in_transformers() -> None:
    assert sampling({"max_length": 50}).max_tokens == 30
    assert sampling({"max_length": 500}).max_tokens == 100, "cut to the context"
    assert sampling({"max_length": 50, "max_new_tokens": 7}).max_tokens == 7
    assert sampling({"max_length": 50}, {"max_tokens": 90}).max_tokens == 90
    assert sampling({"max_length": 21}).max_tokens == 1
    assert sampling({"max_length": 20}, {"max_tokens": 1}).max_tokens == 1
    for whole in (1, 19, 20):
        with pytest.raises(ContextLengthError, match=f"20 tokens; .* max_length={whole}"):
            sampling({"max_length": whole})


def test_the_checkpoints_stop_strings() -> None:
    assert sampling({}).stop == ()
    assert sampling({"stop_strings": "END"}).stop == ("END",)
    assert sampling({"stop_strings": ["a", "b"]}).stop == ("a", "b")
    assert sampling({"stop_strings": ["a"]}, {"stop": "c"}).stop == ("c",)
    assert sampling({"stop_strings": ["a"]}, {"stop": []}).stop == ()
    assert sampling({"stop_strings": ["a"]}, {"stop": None}).stop == ("a",)


def test_the_checkpoints_penalties() -> None:
    found = sampling({"presence_penalty": 1.5, "frequency_penalty": None})
    assert (found.presence_penalty, found.frequency_penalty) == (1.5, 0.0)
    assert sampling({"presence_penalty": 1.5}, {"presence_penalty": 0.0}).presence_penalty == 0.0
    with pytest.raises(ConfigError, match="presence_penalty is 3"):
        sampling({"presence_penalty": 3})


def test_ignoring_the_checkpoints_ends_leaves_the_callers() -> None:
    assert sampling({}, {"ignore_eos": True}, extra_stop_ids=(9,)).stop_ids == ()
    assert sampling({}, {"ignore_eos": True, "stop_ids": [5]}).stop_ids == (5,)
    assert sampling({}, {"ignore_eos": False}).stop_ids == (7, 8)


def test_every_key_of_transformers_generation_config_is_known() -> None:
    keys = set(vars(transformers.GenerationConfig()))
    assert keys - READ - set(NEUTRAL) - INERT == set()
    assert not READ & set(NEUTRAL)
    assert not READ & INERT
    assert not INERT & set(NEUTRAL)


def test_transformers_own_defaults_are_neutral() -> None:
    """What another tool wrote out in full, without asking for anything."""
    plain = transformers.GenerationConfig()
    whole = {**vars(plain), **plain._get_default_generation_params(), "temperature": 0.3}
    assert sampling({**whole, "max_length": None}).temperature == 0.0, "do_sample is false"


def test_extra_stop_ids_are_added_to_the_defaults_only() -> None:
    assert sampling({}, extra_stop_ids=(9, 7)).stop_ids == (7, 8, 9)
    assert sampling({}, {"stop_ids": [1]}, extra_stop_ids=(9,)).stop_ids == (1,)


@pytest.mark.parametrize(
    ("generation", "part"),
    [
        ({"typical_p": 0.9}, "typical_p=0.9"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size=3"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": "x"}, "top_p is 'x'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": "many"}, "max_new_tokens='many'"),
        ({"max_length": 0}, "max_length=0; allowed: 1 or more"),
        ({"max_length": True}, "max_length=True"),
        ({"max_length": 2.5}, "max_length=2.5"),
        ({"stop_strings": 5}, "stop_strings=5; allowed: a string or a list"),
        ({"stop_strings": ["x", None]}, "stop_strings="),
        ({"stop_strings": {"x": "y"}}, "stop_strings="),
        ({"stop_strings": ""}, "stop"),
        ({"stop_strings": ["x" * 300]}, "300 characters"),
        ({"token_healing": True}, "token_healing=True"),
        ({"max_time": 3.0}, "max_time=3.0"),
        ({"num_return_sequences": 2}, "num_return_sequences=2"),
    ],
)
def test_a_generation_config_that_cannot_be_followed_is_refused(
    generation: dict[str, Any], part: str
) -> None:
    with pytest.raises(ConfigError, match=part):
        Defaults(CODER, generation, ())


def test_a_neutral_one_is_not() -> None:
    Defaults(CODER, {"num_beams": 1, "typical_p": 1.0, "bos_token_id": 3, "top_k": None}, ())


def test_stop_ids_of() -> None:
    assert stop_ids_of({}) == ()
    assert stop_ids_of({"eos_token_id": 5}) == (5,)
    assert stop_ids_of({"eos_token_id": [5, 6]}) == (5, 6)
    for bad in ("x", [1, "x"], -1, True):
        with pytest.raises(ConfigError, match="eos_token_id"):
            stop_ids_of({"eos_token_id": bad})
