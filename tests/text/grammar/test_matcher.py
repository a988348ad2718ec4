"""The state of one answer: ends, forced ids, errors, and masks that are computed ahead."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest

from qwick.errors import ParameterError, UnsupportedError
from qwick.text.grammar import Grammar, Vocabulary
from text.grammar.walks import ENDS, allows, ids_of

pytestmark = pytest.mark.model

AB = Grammar.regex("ab?")


def test_masks_are_bits_of_the_vocabulary(vocabulary, tokenizer) -> None:
    matcher = vocabulary.matcher(AB, ENDS)
    bits = matcher.mask()
    assert bits.dtype == np.uint8
    assert bits.shape == (-(-tokenizer.n_tokens // 8),)
    assert {tokenizer.token_bytes(int(id)) for id in ids_of(bits)} == {b"a", b"ab"}


def test_the_end_is_allowed_when_the_answer_is_complete(vocabulary, tokenizer) -> None:
    a, b = tokenizer.encode("a b".replace(" ", "\n"), parse_special=False)[::2]
    matcher = vocabulary.matcher(AB, ENDS)
    assert not matcher.accepting
    matcher.accept(a)
    assert matcher.accepting
    assert not matcher.finished
    assert set(ids_of(matcher.mask()).tolist()) == {b, *ENDS}
    matcher.accept(b)
    assert matcher.finished
    assert set(ids_of(matcher.mask()).tolist()) == set(ENDS)


def test_any_id_may_be_an_end_and_then_it_is_nothing_else(vocabulary, tokenizer) -> None:
    (a,) = tokenizer.encode("a", parse_special=False)
    matcher = vocabulary.matcher(Grammar.regex("b?a*"), [a])
    assert allows(matcher.mask(), a)  # the empty answer is complete
    matcher = vocabulary.matcher(Grammar.regex("[ac]+b"), [a])
    assert not allows(matcher.mask(), a)
    with pytest.raises(ParameterError, match=f"token {a} does not fit the regex"):
        matcher.accept(a)
    assert not vocabulary.matcher(AB, []).mask()[ENDS[0] // 8]


def test_what_must_follow_is_forced(vocabulary, tokenizer) -> None:
    text = '{"name": "value", "other": ['
    grammar = Grammar.lark(f"start: {Grammar.choice([text]).text.split('CHOICE: ')[1].strip()}")
    matcher = vocabulary.matcher(grammar, ENDS)
    (first,) = ids_of(matcher.mask())
    matcher.accept(int(first))
    ids = [int(first), *matcher.forced()]
    assert ids == tokenizer.encode(text, parse_special=False)
    assert matcher.finished
    assert matcher.forced() == []
    free = vocabulary.matcher(Grammar.regex("[ab]+"), ENDS)
    assert free.forced() == []
    assert len(ids_of(free.mask())) > 2


def test_masks_do_not_depend_on_whether_forced_ids_are_taken(vocabulary, tokenizer) -> None:
    schema = {
        "type": "object",
        "properties": {"first": {"enum": ["x", "y"]}},
        "required": ["first"],
        "additionalProperties": False,
    }
    one, other = (vocabulary.matcher(Grammar.json_schema(schema), ENDS) for _ in range(2))
    while not one.finished:
        forced = one.forced()
        for id in forced:
            assert ids_of(other.mask()).tolist() == [id]
            other.accept(id)
        assert (other.finished, other.accepting) == (one.finished, one.accepting)
        if not one.finished:
            np.testing.assert_array_equal(one.mask(), other.mask())
            id = int(ids_of(one.mask())[-1])
            if id in ENDS:
                break
            one.accept(id)
            other.accept(id)


@pytest.mark.parametrize("id", [-1, 151_644, 151_643, 10**9, 5])
def test_an_id_that_does_not_fit_is_an_error_and_stays_one(vocabulary, id: int) -> None:
    matcher = vocabulary.matcher(AB, ENDS)
    for _ in range(2):
        with pytest.raises(ParameterError, match=r"do(es)? not fit the regex"):
            matcher.accept(id)


def test_a_limit_in_the_middle_is_told(vocabulary) -> None:
    grammar = Grammar.lark('start: start start | "a" | "b" | ""')
    matcher = vocabulary.matcher(grammar, ENDS)

    def go_on() -> None:
        for _ in range(100):
            ids = ids_of(matcher.mask())
            matcher.accept(int(ids[len(ids) // 2]))

    with pytest.raises(UnsupportedError, match=r"the grammar costs too much after \d+ tok") as one:
        go_on()
    assert "Too many items" in str(one.value)
    with pytest.raises(UnsupportedError, match="costs too much"):
        matcher.mask()


def test_the_next_mask_is_computed_meanwhile(vocabulary, tokenizer) -> None:
    """On another thread, without being asked for. (Says nothing of the GIL.)"""
    matcher = vocabulary.matcher(Grammar.json_object(), ENDS)
    matcher.accept(tokenizer.encode("{", parse_special=False)[0])
    deadline = time.monotonic() + 10
    while not matcher._filled and time.monotonic() < deadline:
        time.sleep(0.001)
    assert matcher._filled
    assert any(thread.name.startswith("qwick-grammar") for thread in threading.enumerate())


def test_many_answers_share_a_vocabulary(vocabulary, tokenizer) -> None:
    """Two threads with many answers each come to what one answer alone comes to."""
    schema = {"type": "array", "items": {"type": ["integer", "string"]}, "maxItems": 4}
    grammar = Grammar.json_schema(schema)

    def ids(seed: int) -> list[int]:
        draw, matcher, found = np.random.default_rng(seed), vocabulary.matcher(grammar, ENDS), []
        while not matcher.finished and len(found) < 25:
            id = int(draw.choice(ids_of(matcher.mask())))
            if id in ENDS:
                break
            matcher.accept(id)
            found.append(id)
        return found

    alone = [ids(seed) for seed in range(8)]
    together: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda k=k: together.update({s: ids(s) for s in range(k, 8, 2)}))
        for k in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in range(8)] == alone


def test_the_thread_ends_with_its_vocabulary(tokenizer) -> None:
    before = set(threading.enumerate())
    vocabulary = Vocabulary(tokenizer)
    vocabulary.matcher(Grammar.json_object(), ENDS).mask()
    vocabulary.matcher(Grammar.regex("[a-z]+"), ENDS).mask()
    (own,) = set(threading.enumerate()) - before
    del vocabulary
    gc.collect()
    own.join(10)
    assert not own.is_alive()


@pytest.mark.parametrize("ends", [5, "ab", [-1], [151_665], [True], [1.5]])
def test_ends_that_are_none(vocabulary, ends) -> None:
    with pytest.raises(ParameterError, match="end_ids is"):
        vocabulary.matcher(AB, ends)


def test_what_is_no_grammar(vocabulary) -> None:
    with pytest.raises(ParameterError, match="grammar is 'a'; allowed: a Grammar"):
        vocabulary.matcher("a", ENDS)


def test_gaps_and_padding_of_a_vocabulary_are_never_allowed(tokenizer) -> None:
    """With a tokenizer of which some ids stand for nothing, whatever a grammar allows."""

    class Gaps:
        n_tokens = tokenizer.n_tokens + 3
        control_ids = tokenizer.control_ids
        added_ids = tokenizer.added_ids
        literal_of = staticmethod(tokenizer.literal_of)
        encode = staticmethod(tokenizer.encode)

        @staticmethod
        def token_bytes(id: int) -> bytes:
            return b"" if id in gaps or id >= tokenizer.n_tokens else tokenizer.token_bytes(id)

    gaps = {64, 1000}
    matcher = Vocabulary(Gaps()).matcher(Grammar.regex("(?s:.*)"), ENDS)
    bits = matcher.mask()
    assert len(bits) == -(-Gaps.n_tokens // 8)
    allowed = set(ids_of(bits).tolist())
    assert 65 in allowed
    assert not allowed & (gaps | set(range(tokenizer.n_tokens, 8 * len(bits))))
