"""Tests by name, and their ids."""

from __future__ import annotations

import pytest

from bench import plan
from bench.plan import DEFAULT, GROUPS, ids, parse, parse_all, positions


def test_default_names_are_those_of_their_tests() -> None:
    tests = parse_all(DEFAULT)
    assert ",".join(test.name for test in tests) == DEFAULT
    assert {test.group for test in tests} == set(GROUPS)


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("pp512", plan.Test("pp512", "pp", 512)),
        ("pp512@8192", plan.Test("pp512@8192", "pp", 512, 8192)),
        ("tg128@0", plan.Test("tg128", "tg", 128)),
        ("streams8", plan.Test("streams8", "streams", streams=8)),
        ("turn8192+32", plan.Test("turn8192+32", "turn", 32, 8192)),
        ("memory2048", plan.Test("memory2048", "memory", 2048)),
        ("cold", plan.Test("cold", "cold")),
    ],
)
def test_parse(name: str, test: plan.Test) -> None:
    assert parse(name) == test
    assert parse(test.name) == test


@pytest.mark.parametrize("name", ["", "pp", "pp0", "tg128@", "xx5", "cold1", "pp512 ", "turn5"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is no test"):
        parse(name)


def test_each_test_once() -> None:
    assert [test.name for test in parse_all("pp8, tg8,pp8,")] == ["pp8", "tg8"]


def test_ids_are_the_same_everywhere_and_never_twice() -> None:
    assert ids("pp512", 0, 3) == ids("pp512", 0, 3)
    assert ids("pp512", 0, 3) == [29980, 1737, 66114]  # as any interpreter draws them
    drawn = {tuple(ids(name, n, 8, s)) for name in ("a", "b") for n in (0, 1) for s in (0, 1)}
    assert len(drawn) == 8


@pytest.mark.parametrize("name", ["pp512@8192", "tg128@8192", "turn8192+32", "memory8192"])
def test_a_sequence_has_room(name: str) -> None:
    test = parse(name)
    assert positions([test], 64) > test.depth + test.count + 1
