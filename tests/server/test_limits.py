"""Limits as data, and the gate against a plain definition of sliding windows."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qwick.errors import ParameterError, PermissionDeniedError, RateLimitError
from qwick.server.admission import MOST_ENTRIES, SLOTS, Admission, Gate, Window, duration_text
from qwick.server.limits import PRESETS, UNITS, Limits, Rate

# -- as data ---------------------------------------------------------------------------------------


def test_the_preset_and_what_is_said_beside_it() -> None:
    assert PRESETS["modest"] == Limits(Rate(100, "hour"), max_characters=8192, max_tokens=1024)
    assert Limits.parse() == Limits()
    assert Limits.parse(preset="modest") == PRESETS["modest"]
    assert Limits.parse(
        preset="modest",
        requests="none",
        tokens="20000/day",
        concurrent="4",
        max_tokens="2048",
        models=("a",),
    ) == Limits(None, Rate(20000, "day"), 4, 2048, 8192, ("a",))
    assert Rate.parse("tokens", "7/minute").seconds == 60
    shown = str(Limits(Rate(5, "second"), concurrent=2, models=("a", "b")))
    assert shown == "requests 5/second; concurrent 2; models a, b"
    assert str(Limits()) == "none"


@pytest.mark.parametrize("name", ["requests", "tokens"])
@pytest.mark.parametrize(
    "text",
    [
        *("", "100", "100/", "/hour", "0/hour", "-1/hour", "1.5/hour", "1e3/hour", "100/hours"),
        *("100/5hour", "100/week", " 1/hour", "1/hour\n", "1/hour;2/day", "٣/hour", "unlimited"),
        *("9" * 13 + "/hour", "9" * 5000 + "/hour"),
    ],
)
def test_bad_rates(name: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{name} is .*; allowed: such as 100/hour"):
        Limits.parse(**{name: text})


@pytest.mark.parametrize("name", ["concurrent", "max_tokens", "max_characters"])
@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "four", "٣", "9" * 13, "9" * 5000, "NONE"])
def test_bad_counts(name: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{name} is .*; allowed: whole numbers from 1"):
        Limits.parse(**{name: text})


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests": "100/hour"},
        {"tokens": 5},
        {"concurrent": True},
        {"max_tokens": 1.0},
        {"models": ()},
        {"models": "abc"},
        {"models": ("a\n",)},
        {"models": ("",)},
        {"models": ("x",) * 101},
    ],
    ids=str,
)
def test_what_is_no_limit(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="allowed:"):
        Limits(**wrong)


def test_an_unknown_preset() -> None:
    with pytest.raises(ParameterError, match="preset is 'huge'; allowed: modest"):
        Limits.parse(preset="huge")


counts = st.one_of(st.none(), st.integers(1, 10**12))
rates = st.one_of(st.none(), st.builds(Rate, st.integers(1, 10**12), st.sampled_from([*UNITS])))
names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=9)
models = st.one_of(st.none(), st.lists(names, min_size=1, max_size=4).map(tuple))


@given(st.builds(Limits, rates, rates, counts, counts, counts, models))
@hypothesis_settings(deadline=None)
def test_limits_are_read_as_they_were_written(limits: Limits) -> None:
    assert Limits.from_json(limits.to_json()) == limits


def test_one_request_by_itself() -> None:
    limits = Limits(max_tokens=10, max_characters=20, models=("a", "b"))
    asked: dict[str, Any] = {"model": "a", "characters": 20, "max_tokens": 10}
    assert limits.check(**asked) == 10
    assert limits.check(**{**asked, "max_tokens": None}) == 10
    assert limits.check(**{**asked, "max_tokens": 3}) == 3
    assert Limits().check(model="any", characters=10**9, max_tokens=None) is None
    with pytest.raises(PermissionDeniedError, match="model is 'c'; allowed with this key: a, b"):
        limits.check(**{**asked, "model": "c"})
    with pytest.raises(ParameterError, match=r"has 21 characters; allowed .* at most 20"):
        limits.check(**{**asked, "characters": 21})
    with pytest.raises(ParameterError, match=r"max_tokens is 11; allowed .* at most 10"):
        limits.check(**{**asked, "max_tokens": 11})
    with pytest.raises(ParameterError, match=r"allowed with this user: at most 10"):
        limits.check(**{**asked, "max_tokens": 11}, whose="user")


# -- the gate --------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admit(gate: Gate, limits: Limits, key: str = "k", **changes: Any) -> Admission:
    asked: dict[str, Any] = {"prompt_tokens": 1, **changes}
    return gate.admit(key, limits, **asked)


@dataclass(eq=False)  # two requests may look the same
class Past:
    """One admitted request, as the plain definition remembers it."""

    start: float
    prompt: int
    end: float | None = None
    answer: int = 0


@dataclass
class Plain:
    """The definition: everything that ever happened, looked at anew for each question."""

    limits: Limits
    past: list[Past] = field(default_factory=list)

    def tokens(self, now: float, seconds: float) -> int:
        total = 0
        for one in self.past:
            if one.end is None or now - one.start < seconds:
                total += one.prompt
            if one.end is not None and now - one.end < seconds:
                total += one.answer
        return total

    def fits(self, now: float, prompt: int) -> bool:
        requests, tokens = self.limits.requests, self.limits.tokens
        if self.limits.concurrent is not None:
            running = sum(one.end is None for one in self.past)
            if running >= self.limits.concurrent:
                return False
        if requests is not None:
            started = sum(now - one.start < requests.seconds for one in self.past)
            if started >= requests.amount:
                return False
        return tokens is None or self.tokens(now, tokens.seconds) + prompt <= tokens.amount


small_rates = st.one_of(
    st.none(), st.builds(Rate, st.integers(5, 12), st.sampled_from(["second", "minute"]))
)
small_limits = st.builds(Limits, small_rates, small_rates, st.one_of(st.none(), st.integers(1, 3)))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([1, 2, 8, 32, 640, 1920])),  # 32nds of a second
        st.tuples(st.just("ask"), st.integers(1, 5)),
        st.tuples(st.just("finish"), st.integers(0, 6)),
        st.tuples(st.just("withdraw"), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(small_limits, steps)
@hypothesis_settings(max_examples=600, deadline=None)
def test_the_gate_is_the_definition(limits: Limits, todo: list[tuple[str, int]]) -> None:
    clock = Clock()
    gate, plain = Gate(clock=clock), Plain(limits)
    under_way: list[tuple[Admission, Past]] = []
    for what, number in todo:
        if what == "wait":
            clock.now += number / 32
        elif what == "ask":
            if not plain.fits(clock.now, number):
                with pytest.raises(RateLimitError) as caught:
                    admit(gate, limits, prompt_tokens=number)
                check_when_to_come_back(plain, caught.value, clock.now, number)
                continue
            admission, past = admit(gate, limits, prompt_tokens=number), Past(clock.now, number)
            plain.past.append(past)
            under_way.append((admission, past))
            check_headers(plain, admission.headers, clock.now)
        elif under_way and what == "finish":
            admission, past = under_way.pop(number % len(under_way))
            past.end, past.answer = clock.now, number
            admission.finish(number)
        elif under_way:
            admission, past = under_way.pop(number % len(under_way))
            plain.past.remove(past)
            admission.withdraw()


def check_when_to_come_back(plain: Plain, refusal: RateLimitError, now: float, prompt: int) -> None:
    """With nothing under way, it is the first moment at which the request fits."""
    assert refusal.retry_after > 0
    assert int(refusal.headers["retry-after"]) >= refusal.retry_after
    if any(one.end is None for one in plain.past):
        return
    assert refusal.limit in ("requests", "tokens")
    only = Plain(Limits(**{refusal.limit: getattr(plain.limits, refusal.limit)}), plain.past)
    assert only.fits(now + refusal.retry_after, prompt)
    assert not only.fits(now + refusal.retry_after - 0.002, prompt)


def check_headers(plain: Plain, headers: dict[str, str], now: float) -> None:
    expected = {}
    requests, tokens = plain.limits.requests, plain.limits.tokens
    if requests is not None:
        used = sum(now - one.start < requests.seconds for one in plain.past)
        expected["x-ratelimit-limit-requests"] = str(requests.amount)
        expected["x-ratelimit-remaining-requests"] = str(requests.amount - used)
        expected["x-ratelimit-reset-requests"] = duration_text(requests.seconds)
    if tokens is not None:
        left = tokens.amount - plain.tokens(now, tokens.seconds)
        expected["x-ratelimit-limit-tokens"] = str(tokens.amount)
        expected["x-ratelimit-remaining-tokens"] = str(left)
        expected["x-ratelimit-reset-tokens"] = duration_text(tokens.seconds)
    assert headers == expected


def test_an_answer_that_outlasts_the_window_still_counts() -> None:
    clock = Clock()
    gate, limits = Gate(clock=clock), Limits(tokens=Rate(100, "minute"))
    long = admit(gate, limits, prompt_tokens=80)
    clock.now += 600
    with pytest.raises(RateLimitError) as caught:
        admit(gate, limits, prompt_tokens=30)
    assert (caught.value.limit, caught.value.retry_after) == ("tokens", 1.0)
    long.finish(500)  # beyond the limit: it must be told, and waited for
    with pytest.raises(
        RateLimitError, match="tokens is at the limit of this key, 100/minute; come"
    ):
        admit(gate, limits)
    clock.now += 59.5
    with pytest.raises(RateLimitError, match="come back in 500ms"):
        admit(gate, limits)
    clock.now += 0.5
    admit(gate, limits, prompt_tokens=100)


def test_what_is_refused_is_not_charged() -> None:
    clock = Clock()
    gate = Gate(clock=clock, user_limits=Limits(requests=Rate(1, "hour")))
    limits = Limits(Rate(2, "hour"), Rate(10, "hour"), 1)
    for wrong in (
        *({"prompt_tokens": 11}, {"prompt_tokens": -1}, {"prompt_tokens": True}),
        *({"user": ""}, {"user": "x" * 65}),
    ):
        with pytest.raises(ParameterError):
            admit(gate, limits, **wrong)
    with admit(gate, limits, user="u") as first:
        for _ in range(5):
            with pytest.raises(RateLimitError, match="concurrent"):
                admit(gate, limits)
    assert first.headers["x-ratelimit-remaining-requests"] == "0"  # the user has one, the key two
    for _ in range(5):
        with pytest.raises(RateLimitError, match="requests is at the limit of this user, 1/hour"):
            admit(gate, limits, user="u")
    left = admit(gate, limits, user="v", prompt_tokens=9)
    left.withdraw()
    left.finish(5)  # not heard: it has ended
    left = admit(gate, limits, user="v", prompt_tokens=9)
    assert left.headers["x-ratelimit-remaining-tokens"] == "0"


def test_a_block_that_fails_ends_its_answer() -> None:
    clock = Clock()
    gate, limits = Gate(clock=clock), Limits(tokens=Rate(10, "minute"), concurrent=1)
    with pytest.raises(KeyError), admit(gate, limits, prompt_tokens=4):
        raise KeyError
    with admit(gate, limits, prompt_tokens=4) as second:
        second.finish(2)
    with pytest.raises(RateLimitError) as caught:
        admit(gate, limits)
    assert caught.value.headers["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(ParameterError, match="tokens is -1"):
        second.finish(-1)


def test_keys_and_users_do_not_use_up_each_others_limits() -> None:
    gate = Gate(clock=Clock(), user_limits=Limits(requests=Rate(1, "hour")))
    limits = Limits(requests=Rate(2, "hour"))
    for key in ("a", "b"):
        for user in ("u", "v"):
            admit(gate, limits, key, user=user)
        with pytest.raises(RateLimitError, match="this key"):
            admit(gate, limits, key, user="w")
    admit(gate, Limits(), "c", user="u")
    with pytest.raises(RateLimitError, match="this user"):
        admit(gate, Limits(), "c", user="u")
    for _ in range(5):  # a request without a user has the key's limits alone
        admit(gate, Limits(), "c")


def test_the_refusal_is_what_http_needs() -> None:
    clock = Clock()
    gate, limits = Gate(clock=clock), Limits(requests=Rate(1, "hour"), tokens=Rate(50, "day"))
    admit(gate, limits, prompt_tokens=20).finish(10)
    clock.now += 60.25
    with pytest.raises(RateLimitError) as caught:
        admit(gate, limits)
    error = caught.value
    assert (error.status, error.exit_code, error.code) == (429, 9, "rate_limit_exceeded")
    assert error.limit == "requests"
    assert error.retry_after == 3539.75
    expected = "requests is at the limit of this key, 1/hour; come back in 58m59.75s"
    assert error.message == expected
    assert error.headers == {
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "58m59.75s",
        "x-ratelimit-limit-tokens": "50",
        "x-ratelimit-remaining-tokens": "20",
        "x-ratelimit-reset-tokens": "23h58m59.75s",
        "retry-after": "3540",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0ms"), (0.02, "20ms"), (0.0201, "21ms"), (1, "1s"), (8.64, "8.64s")),
        *((59.9999, "1m0s"), (60, "1m0s"), (360, "6m0s"), (3600, "1h0m0s"), (86400, "24h0m0s")),
        *((0.9999, "1s"), (90.5, "1m30.5s"), (-1, "0ms")),
    ],
)
def test_spans_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# -- memory ----------------------------------------------------------------------------------------


def test_a_full_window_joins_what_is_old_and_never_lets_more_through() -> None:
    chance = random.Random(3)
    window = Window(Rate(10**9, "hour"))
    exact: list[tuple[float, int]] = []
    now, longest = 0.0, 0
    for step in range(20_000):
        now += chance.expovariate(1.0) if chance.random() < 0.99 else chance.uniform(0, 900)
        amount = chance.randint(1, 50)
        window.expire(now)
        window.add(now, amount)
        exact.append((now, amount))
        if step % 50:
            continue
        longest = max(longest, len(list(window.entries())))
        slot = window.rate.seconds / SLOTS
        least = sum(n for moment, n in exact if now - moment < window.rate.seconds)
        most = sum(n for moment, n in exact if now - moment < window.rate.seconds + slot)
        assert least <= window.used <= most
        exact = [one for one in exact if now - one[0] < 2 * window.rate.seconds]
    assert 300 < longest <= MOST_ENTRIES


def test_what_was_joined_can_be_taken_back() -> None:
    clock = Clock()
    gate, limits = Gate(clock=clock), Limits(requests=Rate(2000, "hour"))
    admitted = []
    for _ in range(2000):
        clock.now += 0.5
        admitted.append(admit(gate, limits))
    with pytest.raises(RateLimitError):
        admit(gate, limits)
    for one in admitted:
        one.withdraw()
    assert admit(gate, limits).headers["x-ratelimit-remaining-requests"] == "1999"


def test_strange_users_do_not_fill_the_memory() -> None:
    clock = Clock()
    gate = Gate(clock=clock, user_limits=PRESETS["modest"], most_users=1000)
    limits = Limits(requests=Rate(10**9, "hour"), tokens=Rate(10**9, "hour"))
    busy = admit(gate, limits, user="busy", prompt_tokens=7)
    sizes = []
    tracemalloc.start()
    try:
        for number in range(20_000):
            clock.now += 0.001
            admit(gate, limits, user=f"{number:016x}").finish(1)
            if number % 4000 == 3999:
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert gate.forgotten == 20_001 - 1000
    assert max(sizes) < 1.1 * sizes[0] < 4e6
    busy.finish(3)  # whoever has an answer under way is not forgotten
    for _ in range(99):
        admit(gate, limits, user="busy").finish(1)
    with pytest.raises(RateLimitError, match="this user"):
        admit(gate, limits, user="busy")


def test_who_is_idle_is_forgotten() -> None:
    clock = Clock()
    gate = Gate(clock=clock, user_limits=Limits(requests=Rate(5, "minute")))
    for number in range(200):
        admit(gate, Limits(requests=Rate(5, "minute")), f"k{number}", user="u").finish(1)
    clock.now += 60
    for _ in range(100):
        admit(gate, Limits(), "other").finish(0)
    assert len(gate._users) == 0
    assert len(gate._keys) <= 1
    assert gate.forgotten == 0


@pytest.mark.parametrize(
    "wrong",
    [{"user_limits": "modest"}, {"most_users": 0}, {"most_users": None}],
    ids=str,
)
def test_a_gate_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="allowed:"):
        Gate(**wrong)
    with pytest.raises(ParameterError, match="key is"):
        admit(Gate(), Limits(), "x" * 65)
    with pytest.raises(ParameterError, match="limits is"):
        admit(Gate(), None)  # type: ignore[arg-type]
