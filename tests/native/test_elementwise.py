"""Norm, RoPE with the cache, and attention against their NumPy definitions.

On every instruction set of this CPU.
"""

from __future__ import annotations

import numpy as np
import pytest

from qwick.native import ops, reference

PAGE = ops.PAGE_SIZE


@pytest.mark.parametrize(("m", "n"), [(1, 896), (3, 17), (40, 1000), (5, 1), (200, 128)])
@pytest.mark.parametrize("residual", [False, True])
def test_add_rms_norm(isa: str, m: int, n: int, residual: bool) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((m, n)).astype(np.float32) * 3
    delta = rng.standard_normal((m, n)).astype(np.float32) if residual else None
    weight = (1 + 0.3 * rng.standard_normal(n)).astype(np.float32)
    ours, theirs, out, expected = x.copy(), x.copy(), np.empty_like(x), np.empty(x.shape)
    ops.add_rms_norm(ours, delta, weight, 1e-6, out)
    reference.add_rms_norm(theirs, delta, weight, 1e-6, expected)
    assert np.array_equal(ours, theirs)
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=1e-7)


class Case:
    """A mixed batch over scattered pages: some sequences prefill, some decode, one is mid-page."""

    def __init__(self, heads: int, kv_heads: int, head_dim: int, kv: type, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        before, new = [0, 95, 7, 33, 64], [70, 1, 20, 1, 3]
        total = [b + n for b, n in zip(before, new, strict=True)]
        width = max(-(-t // PAGE) for t in total)
        order = rng.permutation(len(new) * width + 3).astype(np.int32)
        self.pages = order[: len(new) * width].reshape(len(new), width).copy()
        self.starts = np.concatenate([[0], np.cumsum(new)]).astype(np.int32)
        self.positions = np.concatenate(
            [np.arange(b, t) for b, t in zip(before, total, strict=True)]
        ).astype(np.int32)
        owner = np.repeat(np.arange(len(new)), new)
        self.slots = (
            self.pages[owner, self.positions // PAGE] * PAGE + self.positions % PAGE
        ).astype(np.int32)
        shape = (len(order), kv_heads, head_dim, PAGE)
        # Garbage in every slot that nobody wrote, NaN included: it must reach no result.
        self.keys = rng.standard_normal(shape).astype(np.float32)
        self.values = rng.standard_normal(shape).astype(np.float32).transpose(0, 1, 3, 2).copy()
        if kv is np.uint8:
            self.to_bytes()
        else:
            for page, used in self.unused():
                self.keys[page, :, :, used:] = np.nan
                self.values[page, :, used:] = np.nan
        if kv is np.uint16:
            self.to_pairs()
        self.qkv = rng.standard_normal((len(self.slots), (heads + 2 * kv_heads) * head_dim))
        self.qkv = (self.qkv * 2).astype(np.float32)
        angles = np.arange(200)[:, None] * 10000.0 ** -(np.arange(head_dim // 2) / (head_dim / 2))
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.norms = tuple((1 + 0.3 * rng.standard_normal((2, head_dim))).astype(np.float32))

    def to_bytes(self) -> None:
        """Turn the pages into 8-bit ones, with NaN for the scales of what nobody wrote."""
        pages, kv_heads, d = len(self.keys), self.kv_heads, self.head_dim
        keys = np.full((pages, kv_heads, PAGE, d + d // 8), 255, np.uint8)  # f32 of all ones: NaN
        values = np.full((pages, kv_heads, PAGE, d + 8), 255, np.uint8)
        for page, used in self.unused():
            for offset in range(used):
                reference.write_slot(keys, page, offset, self.keys[page, ..., offset], key=True)
                reference.write_slot(values, page, offset, self.values[page, :, offset], key=False)
        self.keys, self.values = keys, values

    def to_pairs(self) -> None:
        """Turn the pages into bf16 ones: components of keys in pairs, tokens of values."""
        pages, kv_heads, d = len(self.keys), self.kv_heads, self.head_dim
        keys = self.keys.reshape(pages, kv_heads, d // 2, 2, PAGE).transpose(0, 1, 2, 4, 3)
        values = self.values.reshape(pages, kv_heads, PAGE // 2, 2, d).transpose(0, 1, 2, 4, 3)
        self.keys = reference.to_bf16(keys.reshape(pages, kv_heads, d // 2, 2 * PAGE))
        self.values = reference.to_bf16(values.reshape(pages, kv_heads, PAGE // 2, 2 * d))

    def unused(self) -> list[tuple[int, int]]:
        ends = np.zeros(self.pages.shape, int)
        for s in range(len(self.pages)):
            end = int(self.positions[self.starts[s + 1] - 1]) + 1
            ends[s] = np.clip(end - np.arange(self.pages.shape[1]) * PAGE, 0, PAGE)
        return list(zip(self.pages.reshape(-1), ends.reshape(-1), strict=True))

    def run(self, module: object, norms: bool, **more: str) -> tuple[np.ndarray, ...]:
        qkv, keys, values = self.qkv.copy(), self.keys.copy(), self.values.copy()
        module.rope_store(  # type: ignore[attr-defined]
            qkv, self.heads, self.cos, self.sin, self.positions, self.slots,
            self.norms if norms else None, 1e-6, keys, values,
        )  # fmt: skip
        out = np.full((len(qkv), self.heads * self.head_dim), np.nan, np.float32)
        module.attention(  # type: ignore[attr-defined]
            qkv, self.heads, keys, values, self.pages, self.starts, self.positions, out, **more
        )
        return qkv, keys, values, out


def wide(cache: np.ndarray) -> np.ndarray:
    return reference.from_bf16(cache) if cache.dtype == np.uint16 else cache


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(14, 2, 64), (4, 4, 32), (16, 1, 128), (10, 5, 256)]
)
def test_pages_of_8_bits(isa: str, heads: int, kv_heads: int, head_dim: int, norms: bool) -> None:
    case = Case(heads, kv_heads, head_dim, np.uint8, heads * head_dim)
    qkv, keys, values, out = case.run(ops, norms)
    r_qkv, r_keys, r_values, r_out = case.run(reference, norms)
    np.testing.assert_allclose(qkv, r_qkv, rtol=4e-6, atol=4e-6)
    # A key on a rounding's edge may fall to the neighbour: one quant, and seldom.
    own = reference.read_pages(keys, np.arange(len(keys)), key=True)
    theirs = reference.read_pages(r_keys, np.arange(len(keys)), key=True)
    seen = ~np.isnan(theirs)
    assert np.array_equal(np.isnan(own), ~seen)
    differs = np.abs(own[seen] - theirs[seen])
    assert differs.max() <= np.abs(theirs[seen]).max() / 120
    assert (differs > 1e-4).mean() < 0.01
    quants = slice(PAGE * head_dim)
    flat = (len(values), kv_heads, -1)
    assert np.array_equal(values.reshape(flat)[..., quants], r_values.reshape(flat)[..., quants])
    # Each weight is rounded by at most half a 255th of its page's largest.
    errors = np.abs(out - r_out)
    assert errors.max() <= 0.04 * np.abs(r_out).max()
    assert np.sqrt((errors**2).mean()) <= 8e-3 * r_out.std()


@pytest.mark.parametrize("size", [1e-40, 1e-37, 1e-35, 1e-32, 1e-30, 1e-25])
def test_pages_of_8_bits_hold_what_is_nearly_nothing(isa: str, size: float) -> None:
    """A value of which no 8-bit quant remains neither vanishes from the weights nor makes NaN."""
    case = Case(4, 2, 64, np.uint8, 7)
    case.qkv[::2, 6 * 64 :] *= np.float32(size)  # every second value, of both heads
    case.qkv[1:32:2, 6 * 64 :] *= np.float32(size)  # and all of a page
    case.qkv[1::4, 4 * 64 : 6 * 64] *= np.float32(size)  # and some keys
    out, theirs = case.run(ops, norms=False)[3], case.run(reference, norms=False)[3]
    assert np.isfinite(out).all()
    assert np.abs(out - theirs).max() <= 0.01 * np.abs(theirs).max()


def test_long_sequences_cut_along_their_tokens_give_the_same_bits(isa: str) -> None:
    """One thread sums all segments; two share them: the results are joined in one order."""
    rng = np.random.default_rng(0)
    tokens, heads, d = 2000, 4, 64
    pages = np.arange(-(-tokens // PAGE), dtype=np.int32)[None]
    for kv in (np.float32, np.uint16, np.uint8):
        if kv is np.uint8:
            shapes = (1, PAGE, d + d // 8), (1, PAGE, d + 8)
        elif kv is np.uint16:
            shapes = (1, d // 2, 2 * PAGE), (1, PAGE // 2, 2 * d)
        else:
            shapes = (1, d, PAGE), (1, PAGE, d)
        keys, values = (np.zeros((pages.size, *shape), kv) for shape in shapes)
        ones = np.ones((tokens, d // 2), np.float32)
        every = np.arange(tokens, dtype=np.int32)
        rows = rng.standard_normal((tokens, (heads + 2) * d)).astype(np.float32)
        ops.rope_store(rows, heads, ones, 0 * ones, every, every, None, 1e-6, keys, values)
        results = []
        before = ops.threads()
        for threads in (1, 2, 3):
            ops.set_threads(threads)
            out = np.empty((1, heads * d), np.float32)
            last = np.array([tokens - 1], np.int32)
            ops.attention(
                rows[-1:], heads, keys, values, pages, np.array([0, 1], np.int32), last, out
            )
            results.append(out)
        ops.set_threads(before)
        assert np.array_equal(results[0], results[1])
        assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("kv", [np.float32, np.uint16], ids=["f32", "bf16"])
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(14, 2, 64), (4, 4, 32), (16, 1, 128), (3, 1, 16), (2, 1, 80), (40, 1, 48), (10, 5, 256)],
)
def test_rope_store_and_attention(
    isa: str,
    heads: int,
    kv_heads: int,
    head_dim: int,
    norms: bool,
    kv: type,
) -> None:
    case = Case(heads, kv_heads, head_dim, kv, heads * head_dim)
    qkv, keys, values, out = case.run(ops, norms)
    r_qkv, r_keys, r_values, r_out = case.run(reference, norms, isa=isa)
    # One ulp of bf16 where float32 rounding tips a tie; elsewhere a few float32 ulps.
    step = 2.0**-7 if kv is np.uint16 else 4e-6
    np.testing.assert_allclose(qkv, r_qkv, rtol=4e-6, atol=4e-6)
    np.testing.assert_allclose(wide(keys), wide(r_keys), rtol=step, atol=4e-6)
    np.testing.assert_array_equal(wide(values), wide(r_values))
    # A key one bf16 ulp off moves a score by up to 2^-8 of it; few are. A weight in bf16 errs by
    # up to 2^-9.
    tolerance = 2e-5 if kv is np.float32 else 6e-3
    if kv is np.uint16 and reference.multiplies_pairs(isa):
        tolerance += 2.0**-9 * float(np.abs(case.qkv).max()) / 2
    np.testing.assert_allclose(out, r_out, rtol=tolerance, atol=tolerance)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("kv", [np.float32, np.uint16], ids=["f32", "bf16"])
def test_one_row_sees_exactly_its_past(isa: str, kv: type) -> None:
    """Changing the key of any later position changes nothing; of any earlier one, something."""
    case = Case(2, 1, 16, kv, 5)
    qkv, keys, values, out = case.run(ops, False)
    row = 40  # of the first sequence, 70 rows from position 0
    for position, matters in (
        (40, True),
        (41, False),
        (0, True),
        (69, False),
        (31, True),
        (32, True),
    ):
        page, offset = case.pages[0, position // PAGE], position % PAGE
        changed = keys.copy()
        key = reference.read_pages(keys, page[None], key=True)[:, offset]
        reference.write_slot(changed, page, offset, key + 3, key=True)
        again = np.empty_like(out)
        ops.attention(qkv, 2, changed, values, case.pages, case.starts, case.positions, again)
        assert np.array_equal(again[row], out[row]) != matters, position


def test_defects_of_the_caller_are_refused() -> None:
    case = Case(2, 1, 16, np.float32, 5)
    out = np.empty((len(case.qkv), 32), np.float32)
    bad = case.pages.copy()
    bad[0, 0] = len(case.keys)
    with pytest.raises(IndexError, match="pages holds"):
        ops.attention(case.qkv, 2, case.keys, case.values, bad, case.starts, case.positions, out)
    beyond = case.positions.copy()
    beyond[0] = case.pages.shape[1] * PAGE
    with pytest.raises(IndexError, match="positions holds"):
        ops.attention(case.qkv, 2, case.keys, case.values, case.pages, case.starts, beyond, out)
    starts = case.starts.copy()
    starts[-1] -= 1
    with pytest.raises(ValueError, match="starts"):
        ops.attention(case.qkv, 2, case.keys, case.values, case.pages, starts, case.positions, out)


def test_machine_figures_are_plausible(isa: str) -> None:
    assert 1e8 < ops.read_bandwidth(64 << 20) < 1e13
    assert 1e8 < ops.peak_rate() < 1e15
    assert ops.isa() == isa
    with pytest.raises(ops.NativeBuildError, match="unknown instruction set 'mmx'; known: "):
        ops.force("mmx")
