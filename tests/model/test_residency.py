"""Which experts are in memory: never more than allowed, and those that are used again."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qwick.model.residency import Residency

LAYERS, EXPERTS = 3, 8


class Pages:
    """Stands in for a mapping: what is in memory, by offset."""

    def __init__(self) -> None:
        self.there: dict[int, int] = {}

    def ask(self, begin: int, size: int) -> None:
        assert begin not in self.there, "asked for twice"
        self.there[begin] = size

    def give_back(self, begin: int, size: int) -> None:
        assert self.there.pop(begin, size) == size, "another range than was asked for"


def made(budget: int, sizes: np.ndarray | None = None) -> tuple[Residency, Pages]:
    if sizes is None:
        sizes = np.ones((LAYERS, EXPERTS), np.int64)
    pages = Pages()
    offsets = (sizes.cumsum() - sizes.ravel()).reshape(sizes.shape)
    return Residency(pages, offsets, sizes, budget), pages  # type: ignore[arg-type]


steps = st.lists(
    st.lists(st.sets(st.integers(0, EXPERTS - 1), min_size=1), min_size=LAYERS, max_size=LAYERS),
    max_size=12,
)


@settings(deadline=None)
@given(steps, st.integers(0, 60), st.integers(0, 100))
def test_never_more_than_allowed(found: list[list[set[int]]], budget: int, seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 4, (LAYERS, EXPERTS))
    residency, pages = made(budget, sizes)
    most = max(budget, int(sizes.sum(axis=1).max()))
    assert residency.budget == most
    hits = misses = read = 0
    for step in found:
        for layer, chosen in enumerate(step):
            before = dict(pages.there)
            residency.ready(layer, sorted(chosen))
            residency.settle()
            begins = (sizes.cumsum() - sizes.ravel()).reshape(sizes.shape)[layer]
            wanted = {int(begins[e]): int(sizes[layer, e]) for e in chosen}
            assert wanted.items() <= pages.there.items(), "what is wanted is not there"
            assert residency.held == sum(pages.there.values()) <= most
            missing = {b: s for b, s in wanted.items() if b not in before}
            hits, misses = hits + len(wanted) - len(missing), misses + len(missing)
            read += sum(missing.values())
    assert (residency.hits, residency.misses, residency.read) == (hits, misses, read)


def test_what_is_used_most_stays() -> None:
    """Two experts of each layer in every step, others now and then: the two are read once."""
    residency, _ = made(LAYERS * 2 + 4)
    rng = np.random.default_rng(0)
    for _ in range(50):
        for layer in range(LAYERS):
            residency.ready(layer, [0, 1, int(rng.integers(2, EXPERTS))])
    before = residency.misses
    for layer in range(LAYERS):
        residency.ready(layer, [0, 1])
    assert residency.misses == before


def test_what_was_used_of_late_outweighs_what_was_once() -> None:
    residency, _ = made(EXPERTS)
    for _ in range(300):
        residency.ready(0, [0, 1, 2, 3])
    for _ in range(400):
        residency.ready(0, [4, 5, 6, 7])
    residency.ready(1, [0, 1])  # something must go
    before = residency.misses
    residency.ready(0, [4, 5, 6, 7])
    assert residency.misses == before


def test_prompts_find_a_part_of_the_experts_again() -> None:
    """Steps that read all of all layers: those of two layers of three fit, and one is found."""
    residency, _ = made(2 * EXPERTS)
    for _ in range(5):
        before = residency.hits
        for layer in range(LAYERS):
            residency.ready(layer, range(EXPERTS))
    assert residency.hits - before == EXPERTS
    # And they drive out nothing that answers use.
    for _ in range(3):
        for layer in range(LAYERS):
            residency.ready(layer, [5, 6])
    for layer in range(LAYERS):
        residency.ready(layer, range(EXPERTS))
    before = residency.misses
    for layer in range(LAYERS):
        residency.ready(layer, [5, 6])
    assert residency.misses == before


def test_many_steps() -> None:
    """Uses count more and more, and are scaled down before they are infinite."""
    residency, _ = made(EXPERTS)
    for _ in range(20_000):
        residency.ready(0, [1])
    assert np.isfinite(residency._scores).all()
    assert residency._scores[0, 1] > 0
    assert residency.misses == 1
