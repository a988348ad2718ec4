"""The experts of a layer against `mlp` of each, on every instruction set of this CPU."""

from __future__ import annotations

import numpy as np
import pytest

from model.numpy_ops import mlp_of
from qwick.native import ops, reference
from qwick.quant.encode import encode
from qwick.quant.types import StoredType

F32 = np.ndarray
WIDTH = 256


def pair(kinds: tuple[str, str, str], n: int, seed: int) -> tuple[ops.Packed, ops.Packed]:
    """Gate above up [n, WIDTH], and down [WIDTH, n]."""
    rng = np.random.default_rng(seed)
    shapes = [(n, WIDTH), (n, WIDTH), (WIDTH, n)]
    parts = [
        (kind.lower(), encode(StoredType[kind], _weights(rng, shape)).reshape(-1), *shape)
        for kind, shape in zip(kinds, shapes, strict=True)
    ]
    return ops.pack(parts[:2]), ops.pack(parts[2:])


def _weights(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    return (rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)


def made(
    count: int, *, shared: bool, kinds: tuple[str, str, str] = ("Q4_K", "Q4_K", "Q6_K")
) -> ops.Experts:
    sizes = [256] * count + [512] * shared
    return ops.Experts([pair(kinds, n, i) for i, n in enumerate(sizes)], shared=shared)


def drawn(m: int, columns: int, seed: int = 0) -> tuple[F32, F32]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, WIDTH)).astype(np.float32)
    return x, 2 * rng.standard_normal((m, columns)).astype(np.float32)


def by_hand(
    x: F32, logits: F32, of: ops.Experts, top: int, *, renormalize: bool, prompt: bool
) -> F32:
    out = np.empty((len(x), WIDTH))
    one = mlp_of(ops.mlp, x, of, prompt)
    reference.experts(logits, top, one, out, renormalize=renormalize, shared=of.shared)
    return out


KINDS = [
    ("Q4_K", "Q4_K", "Q6_K"),
    ("Q5_0", "Q8_0", "Q4_K"),
    ("F32", "F32", "F32"),
    ("BF16", "BF16", "BF16"),
    ("Q8_0", "Q8_0", "F16"),
]


@pytest.mark.parametrize("prompt", [False, True], ids=["answer", "prompt"])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("m", [1, 2, 9, 40, 200])
def test_experts(isa: str, kinds: tuple[str, str, str], m: int, prompt: bool) -> None:
    """What each expert gives alone, weighted; with and without a shared one and a sum of 1."""
    for shared, renormalize, top in ((False, True, 3), (True, False, 2), (True, True, 1)):
        of = made(7, shared=shared, kinds=kinds)
        x, logits = drawn(m, 7 + shared, m)
        out = np.full((m, WIDTH), np.nan, np.float32)
        ops.experts(x, logits, of, top, out, renormalize=renormalize, prompt=prompt)
        expected = by_hand(x, logits, of, top, renormalize=renormalize, prompt=prompt)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        chosen, _ = reference.route(logits, top, renormalize=renormalize, shared=shared)
        assert of.uses == np.bincount(chosen.ravel(), minlength=7 + shared).tolist()


def test_odd_heights(isa: str) -> None:
    of = ops.Experts([pair(("F32", "F32", "F32"), n, n) for n in (75, 1, 33, 17)], shared=True)
    x, logits = drawn(20, 4)
    out = np.empty_like(x)
    ops.experts(x, logits, of, 2, out, renormalize=True)
    expected = by_hand(x, logits, of, 2, renormalize=True, prompt=False)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_company_changes_nothing(isa: str) -> None:
    of = made(5, shared=True)
    x, logits = drawn(30, 6)
    alone = np.empty((30, WIDTH), np.float32)
    for i in range(30):
        ops.experts(x[i : i + 1], logits[i : i + 1], of, 2, alone[i : i + 1], renormalize=False)
    before = ops.threads()
    try:
        for threads in (1, 2, 3):
            ops.set_threads(threads)
            for m in (2, 7, 12) if isa.startswith("amx") else (2, 7, 30):
                out = np.empty((m, WIDTH), np.float32)
                rows, some = np.ascontiguousarray(x[:m]), np.ascontiguousarray(logits[:m])
                ops.experts(rows, some, of, 2, out, renormalize=False)
                assert np.array_equal(out.view(np.uint32), alone[:m].view(np.uint32)), (threads, m)
    finally:
        ops.set_threads(before)


@pytest.mark.parametrize("kinds", [KINDS[0], KINDS[3]], ids="-".join)
def test_chunks_of_prompts_change_nothing(isa: str, kinds: tuple[str, str, str]) -> None:
    of = made(5, shared=True, kinds=kinds)
    x, logits = drawn(50, 6)
    whole, parts = np.empty((2, 50, WIDTH), np.float32)
    ops.experts(x, logits, of, 2, whole, renormalize=True, prompt=True)
    for first, end in ((0, 1), (1, 6), (6, 30), (30, 50)):
        rows = slice(first, end)
        ops.experts(x[rows], logits[rows], of, 2, parts[rows], renormalize=True, prompt=True)
    assert np.array_equal(parts.view(np.uint32), whole.view(np.uint32))


def test_the_first_of_equals_is_taken() -> None:
    of = made(6, shared=False)
    x, logits = drawn(1, 6)
    logits[:] = [0, 1, 1, 1, 0, 1]
    ops.experts(x, logits, of, 2, np.empty_like(x), renormalize=True)
    assert of.uses == [0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_one_rows_own(isa: str, bad: float) -> None:
    of = made(6, shared=True)
    x, logits = drawn(4, 7)
    good = np.empty_like(x)
    ops.experts(x, logits, of, 2, good, renormalize=True)
    logits[1, 3], logits[2, 6] = bad, bad
    out = np.empty_like(x)
    ops.experts(x, logits, of, 2, out, renormalize=True)
    assert np.isnan(out[1:3]).all()
    assert np.array_equal(out[[0, 3]], good[[0, 3]])


def test_what_does_not_fit_is_refused() -> None:
    a, b = pair(KINDS[0], 256, 0), pair(KINDS[0], 512, 1)
    with pytest.raises(ValueError, match="there must be an expert"):
        ops.Experts([])
    with pytest.raises(ValueError, match="beside a shared one"):
        ops.Experts([a], shared=True)
    with pytest.raises(ValueError, match="down must be as wide"):
        ops.Experts([(a[0], b[1])])
    with pytest.raises(ValueError, match="two matrices of the same height"):
        ops.Experts([(a[1], a[1])])
    of = ops.Experts([a, b])
    x, logits = drawn(2, 2)
    for top in (0, 3, -1):
        with pytest.raises(ValueError, match="top must be from 1"):
            ops.experts(x, logits, of, top, np.empty_like(x), renormalize=True)
    with pytest.raises(ValueError, match=r"logits.shape\[1\] is 3, expected 2"):
        ops.experts(x, np.zeros((2, 3), np.float32), of, 1, np.empty_like(x), renormalize=True)
