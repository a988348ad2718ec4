"""The matrix kernels against their NumPy definition, on every instruction set of this CPU."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from quant.halves import HALVES
from qwick.formats.mapped import map_file
from qwick.native import ops, reference
from qwick.quant.decode import decode
from qwick.quant.encode import encode
from qwick.quant.types import StoredType

EPS = 2.0**-24

MINIMUMS = ("i2k", "i4k", "i4m", "i4z", "i5k", "i5m")
INTEGERS = [kind for kind in StoredType if reference.is_integer(kind.packed)]


def stored(kind: StoredType, n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """A wild matrix, as bytes: row scales over four orders of magnitude."""
    w = rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-3, 1, (n, 1))
    return encode(kind, w.astype(np.float32)).reshape(n, -1)


def wild_rows(m: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Activations with outliers, and a group of zeros in the first row."""
    x = rng.standard_normal((m, k)).astype(np.float32)
    x[rng.random((m, k)) < 0.01] *= 100
    x[0, :32] = 0
    return x


def check(x: np.ndarray, kinds: list[StoredType], ns: list[int], bias: bool, name: str) -> None:
    k, m = x.shape[1], len(x)
    rng = np.random.default_rng(k * 1000 + m)
    raws = [stored(kind, n, k, rng) for kind, n in zip(kinds, ns, strict=True)]
    packed = ops.pack(
        [
            (kind.name.lower(), raw.reshape(-1), n, k)
            for kind, raw, n in zip(kinds, raws, ns, strict=True)
        ]
    )
    b = rng.standard_normal(sum(ns)).astype(np.float32) if bias else None
    out = np.full((m, sum(ns)), np.nan, np.float32)
    ops.matmul(x, packed, out, b)
    at = 0
    for kind, raw, n in zip(kinds, raws, ns, strict=True):
        w = decode(kind, raw)
        form = reference.form_of(name, kind.packed, m)
        expected = np.empty((m, n))
        reference.matmul(x, w, expected, None if b is None else b[at : at + n], kind.packed, form)
        # Products are exact or rounded once, and summed in float32 over k (integers: k / 16) steps.
        seen = np.abs(reference.seen_by(x, kind.packed, form))
        bound = seen @ np.abs(w.astype(np.float64)).T
        if kind.packed in MINIMUMS:  # w = s q - o is summed as two series, each larger than w
            bound += seen @ np.repeat(np.abs(w).reshape(n, -1, 32).max(2), 32, 1).T * 4
        steps = k if form != "i8" else k / 16
        tolerance = (4 + np.sqrt(steps)) * 2 * EPS * bound + 1e-30
        if (
            form == "bf16"
        ):  # decoded weights may round to the other neighbour where float32 orders differ
            tolerance = tolerance + 2.0**-8 * bound * 4 / np.sqrt(k)
        if b is not None:
            tolerance = tolerance + 4 * EPS * np.abs(b[at : at + n])
        worst = (np.abs(out[:, at : at + n] - expected) / tolerance).max()
        assert worst <= 1, f"{kind.name} {name} m={m} n={n} k={k}: {worst:.3g} of the tolerance"
        at += n


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 7, 16, 17, 33, 50])
@pytest.mark.parametrize("kind", list(StoredType), ids=lambda k: k.name)
def test_every_class_and_row_count(isa: str, kind: StoredType, m: int) -> None:
    rng = np.random.default_rng(m)
    check(wild_rows(m, 512, rng), [kind], [48], False, isa)


@pytest.mark.parametrize("kind", list(StoredType), ids=lambda k: k.name)
@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 33, 100])
def test_odd_widths(isa: str, kind: StoredType, n: int) -> None:
    rng = np.random.default_rng(n)
    for m in (1, 6):
        check(wild_rows(m, 256, rng), [kind], [n], True, isa)


@pytest.mark.parametrize(
    "kind", [StoredType.F32, StoredType.F16, StoredType.BF16], ids=lambda k: k.name
)
@pytest.mark.parametrize("k", [1, 3, 17, 33, 95])
def test_odd_depths_of_float_weights(isa: str, kind: StoredType, k: int) -> None:
    rng = np.random.default_rng(k)
    for m in (1, 3, 20):
        x = rng.standard_normal((m, k)).astype(np.float32)
        check(x, [kind], [20], True, isa)


def test_matrices_of_different_types_side_by_side(isa: str) -> None:
    rng = np.random.default_rng(0)
    kinds = [StoredType.Q5_0, StoredType.Q5_0, StoredType.Q8_0, StoredType.Q6_K, StoredType.F32]
    for m in (1, 9, 40):
        check(wild_rows(m, 256, rng), kinds, [40, 8, 24, 1, 17], True, isa)


@pytest.mark.parametrize("kind", list(StoredType), ids=lambda k: k.name)
def test_packing_is_lossless(kind: StoredType) -> None:
    rng = np.random.default_rng(7)
    raw = stored(kind, 37, 768, rng)
    if kind in INTEGERS:  # any bits at all in the quants and small scales, not only the encoder's
        kept = raw.reshape(-1, kind.bytes).copy()
        noise = rng.integers(0, 256, kept.shape, dtype=np.uint8)
        for at in HALVES[kind]:
            noise[:, at : at + 2] = kept[:, at : at + 2]
        raw = noise.reshape(37, -1)
    packed = ops.pack([(kind.name.lower(), raw.reshape(-1), 37, 768)])
    assert packed.segments == [(kind.packed, 37)]
    expected = decode(kind, raw)
    assert np.array_equal(ops.unpack(packed).view(np.uint32), expected.view(np.uint32))
    ids = np.array([36, 0, 5, 5], np.int32)
    rows = np.empty((4, 768), np.float32)
    ops.gather_rows(kind.name.lower(), raw.reshape(-1), 37, ids, rows)
    assert np.array_equal(rows.view(np.uint32), expected[ids].view(np.uint32))


def test_many_matrices_out_of_a_mapped_file(tmp_path: Path) -> None:
    """More than is packed at a time, at odd addresses; the same once the file's pages are gone."""
    rng = np.random.default_rng(1)
    shapes = [(2051, 4096), (37, 4096), (2500, 4096), (1, 4096), (16, 4096)]
    # With NaN, but on ARM: NumPy sets the quiet bit of a signalling f16 there.
    end = 1 << 15 if platform.machine() == "x86_64" else 0x7C01
    values = [rng.integers(0, end, shape, np.uint16) for shape in shapes]
    (tmp_path / "file").write_bytes(b"odd" + b"".join(v.tobytes() for v in values))
    file = np.frombuffer(map_file(tmp_path / "file"), np.uint8)
    parts, at = [], 3
    for v in values:
        parts.append(("f16" if len(v) == 37 else "bf16", file[at : at + v.nbytes], *v.shape))
        at += v.nbytes
    for mapped in (True, False, True):
        together, *alone = ops.pack_all([parts[:2], *([p] for p in parts[2:])], mapped=mapped)
        found = [*np.split(ops.unpack(together), [2051]), *map(ops.unpack, alone)]
        for v, w in zip(values, found, strict=True):
            kind = StoredType.F16 if len(v) == 37 else StoredType.BF16
            wanted = decode(kind, v.view(np.uint8))
            np.testing.assert_array_equal(w.view(np.uint32), wanted.view(np.uint32))
    del together
    np.testing.assert_array_equal(ops.unpack(alone[0]), found[2])  # they share one memory


def test_nothing_to_pack() -> None:
    assert ops.pack_all([]) == []
    with pytest.raises(ValueError, match="nothing to pack"):
        ops.pack([])


def test_threads_do_not_change_the_result(isa: str) -> None:
    rng = np.random.default_rng(3)
    raw = stored(StoredType.Q5_0, 400, 256, rng)
    packed = ops.pack([("q5_0", raw.reshape(-1), 400, 256)])
    before = ops.threads()
    results = []
    try:
        for count in (1, 2, 3, 5):
            ops.set_threads(count)
            for m in (1, 30):
                x = wild_rows(m, 256, np.random.default_rng(m))
                out = np.empty((m, 400), np.float32)
                ops.matmul(x, packed, out)
                results.append((m, out))
    finally:
        ops.set_threads(before)
    for m, out in results[2:]:
        assert np.array_equal(out, results[0 if m == 1 else 1][1])


def test_defects_of_the_caller_are_refused() -> None:
    packed = ops.pack([("f32", np.zeros(64, np.uint8), 4, 4)])
    x, out = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(TypeError):
        ops.matmul(x.astype(np.float64), packed, out)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ops.matmul(np.zeros((4, 2), np.float32).T, packed, out)
    with pytest.raises(TypeError):  # not aligned
        ops.matmul(np.zeros(33, np.uint8)[1:].view(np.float32).reshape(2, 4), packed, out)
    with pytest.raises(ValueError, match=r"x.shape\[1\] is 5, expected 4"):
        ops.matmul(np.zeros((2, 5), np.float32), packed, out)
    with pytest.raises(ValueError, match="expected 2"):
        ops.matmul(x, packed, np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="do not match the shape"):
        ops.pack([("f32", np.zeros(63, np.uint8), 4, 4)])
    with pytest.raises(ValueError, match="multiple of the block"):
        ops.pack([("q5_0", np.zeros(22, np.uint8), 1, 33)])
    with pytest.raises(ValueError, match="unknown stored type"):
        ops.pack([("q9", np.zeros(22, np.uint8), 1, 32)])
    with pytest.raises(IndexError, match="holds 4"):
        ops.gather_rows("f32", np.zeros(64, np.uint8), 4, np.array([4], np.int32), out[:1])


@pytest.mark.parametrize("prompt", [False, True], ids=["answer", "prompt"])
@pytest.mark.parametrize(
    "kinds",
    [
        ("Q5_0", "Q5_0", "Q6_K"),
        ("Q4_K", "Q6_K", "Q4_K"),
        ("F32", "BF16", "F32"),
        ("Q8_0", "F16", "BF16"),
    ],
    ids="-".join,
)
@pytest.mark.parametrize(("m", "n"), [(1, 256), (3, 512), (12, 256), (40, 768), (70, 256)])
def test_mlp(isa: str, kinds: tuple[str, str, str], m: int, n: int, prompt: bool) -> None:
    """Two products with SwiGLU between them, bit for bit what the parts give."""
    rng = np.random.default_rng(n)
    shapes = [(n, 512), (n, 512), (100, n)]
    raws = [
        encode(StoredType[kind], rng.standard_normal(shape).astype(np.float32))
        for kind, shape in zip(kinds, shapes, strict=True)
    ]
    parts = [
        (k.lower(), r.reshape(-1), *shape) for k, r, shape in zip(kinds, raws, shapes, strict=True)
    ]
    gate_up, down = ops.pack(parts[:2]), ops.pack(parts[2:])
    x = wild_rows(m, 512, rng)  # large enough for e^-gate to overflow float32: silu must still be 0
    both = np.empty((m, 2 * n), np.float32)
    ops.matmul(x, gate_up, both, prompt=prompt)
    assert np.abs(both).max() > 100
    inner, expected = np.empty((m, n), np.float32), np.empty((m, 100), np.float32)
    reference.swiglu(both, inner)
    ops.matmul(inner, down, expected, prompt=prompt)
    out = np.full((m, 100), np.nan, np.float32)
    ops.mlp(x, gate_up, down, out, prompt=prompt)
    # The kernels' e^x is 2 ulp from NumPy's: where values are rounded again a few fall elsewhere.
    exact = reference.form_of(isa, StoredType[kinds[2]].packed, m, prompt=prompt) == "f32"
    weights = np.abs(decode(StoredType[kinds[2]], raws[2]).astype(np.float64))
    bound = np.abs(inner) @ weights.T
    assert (
        np.abs(out - expected) <= (1e-5 if exact else 2.0**-5 / np.sqrt(n)) * bound + 1e-30
    ).all()


@pytest.mark.parametrize("m", [1, 3, 8, 17, 40, 100])
@pytest.mark.parametrize("k", [256, 896, 1024, 2048])
@pytest.mark.parametrize("kind", INTEGERS, ids=lambda k: k.name)
def test_rows_of_prompts(isa: str, kind: StoredType, k: int, m: int) -> None:
    """Where weights are rounded, they are off by one rounding to 8 bits; else not at all."""
    k = k // kind.block * kind.block
    rng = np.random.default_rng(k + m)
    raw, x = stored(kind, 50, k, rng), wild_rows(m, k, rng)
    packed = ops.pack([(kind.name.lower(), raw.reshape(-1), 50, k)])
    bias = rng.standard_normal(50).astype(np.float32)
    out = np.empty((m, 50), np.float32)
    ops.matmul(x, packed, out, bias, prompt=True)
    form = reference.form_of(isa, kind.packed, m, prompt=True)
    if form != "rounded":  # what answers get, where they are computed in the same form
        if form == reference.form_of(isa, kind.packed, m):
            plain = np.empty_like(out)
            ops.matmul(x, packed, plain, bias)
            assert np.array_equal(plain.view(np.uint32), out.view(np.uint32))
        return
    w = decode(kind, raw)
    expected = np.empty((m, 50))
    reference.matmul(x, w, expected, bias, kind.packed, "rounded")
    # Both round to the same grid, but where w lies near the middle of two of its points the one
    # may go up and the other down: by a step, for one weight in a hundred at most.
    parts = np.split(np.abs(w), range(reference.PANEL, k, reference.PANEL), axis=1)
    step = np.concatenate(
        [np.repeat(p.max(1, keepdims=True) / 127, p.shape[1], 1) for p in parts], 1
    )
    seen = reference.seen_by(x, kind.packed, "rounded")
    flips = 6 * np.sqrt(0.01 * (seen**2 @ (step.astype(np.float64) ** 2).T))
    largest = np.abs(seen).max(1, keepdims=True) * step.max(1)
    sums = 1e-5 * (np.abs(seen) @ np.abs(w).T + np.abs(bias))
    worst = (np.abs(out - expected) / (flips + largest + sums)).max()
    assert worst <= 1, f"{worst:.3g} of the tolerance"
    exact = np.empty((m, 50))
    reference.matmul(x, w, exact, bias, kind.packed, "i8")
    assert np.abs(out - exact).max() > np.abs(out - expected).max(), "weights were rounded"
    for row, alone in zip(x, out, strict=True):  # whatever stands beside it
        again = np.empty((1, 50), np.float32)
        ops.matmul(row[None], packed, again, bias, prompt=True)
        assert np.array_equal(again[0].view(np.uint32), alone.view(np.uint32))


def test_bad_weights_reach_the_rows_of_prompts(isa: str) -> None:
    raw = encode(StoredType.Q5_0, np.ones((20, 256), np.float32)).reshape(-1, 22).copy()
    raw[9, :2] = np.array([np.nan], np.float16).view(np.uint8)  # one scale of row 1
    raw[17, :2] = np.array([np.inf], np.float16).view(np.uint8)  # of row 2
    packed = ops.pack([("q5_0", raw.reshape(-1), 20, 256)])
    for m in (1, 9, 40):
        out = np.empty((m, 20), np.float32)
        ops.matmul(np.ones((m, 256), np.float32), packed, out, prompt=True)
        assert np.isnan(out[:, 1]).all()
        assert not np.isfinite(out[:, 2]).any()
        assert np.isfinite(np.delete(out, [1, 2], axis=1)).all()


@pytest.mark.parametrize("kind", list(StoredType), ids=lambda k: k.name)
def test_rows_have_the_results_that_each_has_alone(isa: str, kind: StoredType) -> None:
    """Bit for bit: what several rows at once compute is what one would; AMX: up to `exact_rows`."""
    rng = np.random.default_rng(3)
    raw = stored(kind, 100, 768, rng)
    packed = ops.pack([(kind.name.lower(), raw.reshape(-1), 100, 768)])
    bias = rng.standard_normal(100).astype(np.float32)
    x = wild_rows(40, 768, rng)
    alone = np.empty((40, 100), np.float32)
    for row, out in zip(x, alone, strict=True):
        ops.matmul(row[None], packed, out[None], bias)
    most = ops.exact_rows(packed)
    assert most > 1 or kind not in INTEGERS, "drafts need a few rows"
    if not isa.startswith("amx"):
        most = 40
    for m in range(1, min(40, most) + 1):
        together = np.empty((m, 100), np.float32)
        ops.matmul(x[:m].copy(), packed, together, bias)
        assert np.array_equal(together.view(np.uint32), alone[:m].view(np.uint32)), m


@pytest.mark.parametrize("kind", [StoredType.Q5_0, StoredType.Q8_0, StoredType.Q4_K])
def test_rows_at_the_ends_of_float32(isa: str, kind: StoredType) -> None:
    """What is too small for an inverse counts as 0, what is not finite is told; in any company."""
    rng = np.random.default_rng(4)
    raw = stored(kind, 100, 768, rng)
    packed = ops.pack([(kind.name.lower(), raw.reshape(-1), 100, 768)])
    signs = rng.choice(np.array([-1, 0, 1], np.float32), 768)
    tiny = [signs * np.float32(size) for size in (1e-45, 1e-39, 2e-37, 1e-35, 1e-20)]
    x = np.stack([*tiny, *np.ones((4, 768), np.float32)])
    x[5, 40], x[6, 700], x[7, 3] = np.inf, np.nan, -np.inf
    alone, together = np.empty((2, len(x), 100), np.float32)
    for row, out in zip(x, alone, strict=True):
        ops.matmul(row[None], packed, out[None])
    for m in (8, 9):
        ops.matmul(x[-m:].copy(), packed, together[-m:])
        assert np.array_equal(together[-m:].view(np.uint32), alone[-m:].view(np.uint32)), m
    for row, size in zip(alone[:4], (1e-45, 1e-39, 2e-37, 1e-35), strict=True):
        assert np.abs(row).max() <= 768 * size * np.abs(decode(kind, raw)).max()
    ops.matmul(tiny[4][None] * np.float32(1e20), packed, together[:1])
    np.testing.assert_allclose(alone[4] * np.float32(1e20), together[0], rtol=1e-4, atol=1e-4)
    assert not np.isfinite(alone[5:8]).any()
    assert np.isfinite(alone[8]).all()


@pytest.mark.parametrize("m", [1, 3, 8, 17, 40, 70])
@pytest.mark.parametrize("kind", list(StoredType), ids=lambda k: k.name)
def test_where_the_largest_output_is(isa: str, kind: StoredType, m: int) -> None:
    """Of the values that `matmul` gives; the first among equals, wherever chunks begin."""
    rng = np.random.default_rng(m)
    n = 1000
    raw = encode(kind, rng.standard_normal((n, 256)).astype(np.float32)).reshape(n, -1)
    raw[[130, 700, 999]] = raw[129]  # in the same tile, in another chunk, in the last column
    packed = ops.pack([(kind.name.lower(), raw.reshape(-1), n, 256)])
    x = wild_rows(m, 256, rng)
    x[0] = 0  # all outputs are equal
    x[-1] = decode(kind, raw)[129] * (m > 1)  # the largest four times
    y = np.empty((m, n), np.float32)
    ops.matmul(x, packed, y)
    assert m == 1 or y[-1].argmax() == 129
    found, expected = np.empty(m, np.int32), np.empty(m, np.int32)
    before = ops.threads()
    try:
        for threads in (1, 2, 5):
            ops.set_threads(threads)
            for columns in (n, 999, 500, 129, 33, 16, 1):
                ops.matmul_argmax(x, packed, columns, found)
                reference.argmax(y, columns, expected)
                assert found.tolist() == expected.tolist(), (threads, columns)
    finally:
        ops.set_threads(before)


def test_no_largest_output_where_one_is_not_finite(isa: str) -> None:
    raw = encode(StoredType.Q8_0, np.ones((300, 256), np.float32)).reshape(-1, 34).copy()
    packed = ops.pack([("q8_0", raw.reshape(-1), 300, 256)])
    raw[8 * 250, :2] = np.array([-np.inf], np.float16).view(np.uint8)
    damaged = ops.pack([("q8_0", raw.reshape(-1), 300, 256)])
    for m in (1, 9, 40):
        x, found = np.ones((m, 256), np.float32), np.empty(m, np.int32)
        ops.matmul_argmax(x, damaged, 300, found)
        assert (found == -1).all()
        ops.matmul_argmax(x, damaged, 250, found)  # what is wrong lies beyond
        assert (found == 0).all()
        x[0, 40] = np.nan
        ops.matmul_argmax(x, packed, 300, found)
        assert found[0] == -1
        assert (found[1:] == 0).all()


def test_argmax_refuses_defects_of_the_caller() -> None:
    packed = ops.pack([("f32", np.zeros(64, np.uint8), 4, 4)])
    x, out = np.zeros((2, 4), np.float32), np.zeros(2, np.int32)
    for columns in (0, 5):
        with pytest.raises(ValueError, match="from 1 to the height"):
            ops.matmul_argmax(x, packed, columns, out)
    with pytest.raises(ValueError, match="expected 2"):
        ops.matmul_argmax(x, packed, 4, np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="one matrix"):
        ops.matmul_argmax(x, ops.pack([("f32", np.zeros(64, np.uint8), 4, 4)] * 2), 4, out)
