"""Packed weights in a file: the bytes that `pack_all` makes, mapped, read, given back."""

from __future__ import annotations

import hashlib
import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from native.test_experts import KINDS, WIDTH, drawn, made, pair
from qwick.native import ops, reference
from qwick.native.mapping import PACKING, Mapping, pack_to, packed_bytes
from qwick.quant.types import StoredType

N, K = 20, 512  # two tiles, the second one padded
PAGE, AROUND = mmap.PAGESIZE, 1 << 16
Part = tuple[str, np.ndarray, int, int]
# Types that were packed when the digest below was taken.
PINNED = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K"]
PINNED += ["Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


def room(size: int) -> np.ndarray:
    """Bytes that begin at a page."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def parts(stored: StoredType, seed: int = 0) -> list[Part]:
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, N * stored.row_bytes(K), np.uint8)
    return [(stored.name.lower(), raw, N, K)]


def written(path: Path, matrices: list[list[Part]], start: int) -> list[int]:
    """Write matrices into a file, `start` bytes after its beginning; return their offsets."""
    sizes = [packed_bytes([(t, n, k) for t, _, n, k in m]) for m in matrices]
    ends = np.cumsum([-(-size // PAGE) * PAGE for size in sizes])
    offsets = [0, *ends[:-1].tolist()]
    out = room(int(ends[-1]))
    out[:] = 255  # what is between must become 0
    pack_to(matrices, offsets, out)
    path.write_bytes(b"\1" * start + out.tobytes())
    return [start + offset for offset in offsets]


def test_the_bytes_of_the_packing_are_those_of_its_version() -> None:
    """Files of them are kept: whoever changes a layout counts PACKING up, and pins it anew."""
    digest = hashlib.sha256()
    for stored in map(StoredType.__getitem__, PINNED):
        out = room(packed_bytes([(stored.name.lower(), N, K)]))
        pack_to([parts(stored)], [0], out)
        digest.update(out)
    assert (PACKING, digest.hexdigest()[:16]) == (1, "c4d92252ffef08af")


def test_what_is_mapped_is_what_was_packed(tmp_path: Path) -> None:
    file = tmp_path / "tiles"
    types = [StoredType.Q4_K, StoredType.Q6_K, StoredType.BF16, StoredType.F32]
    matrices = [parts(t, i) for i, t in enumerate(types)]
    matrices.append(parts(StoredType.Q4_K, 7) + parts(StoredType.Q6_K, 8))
    offsets = written(file, matrices, PAGE)
    with file.open("rb") as opened:
        mapping = Mapping(opened.fileno(), file.stat().st_size)
    shapes = [[(t, n, k) for t, _, n, k in m] for m in matrices]
    found = mapping.packed(shapes, offsets)
    file.unlink()  # the mapping stays
    for _ in range(2):
        for packed, expected in zip(found, ops.pack_all(matrices), strict=True):
            assert packed.segments == expected.segments
            theirs, ours = ops.unpack(expected), ops.unpack(packed)
            assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
        mapping.give_back(0, offsets[-1])  # and comes again
        mapping.ask(0, offsets[-1])


@pytest.mark.parametrize("kinds", [KINDS[0], KINDS[3]], ids="-".join)
def test_experts_of_a_file_answer_as_those_in_memory(
    isa: str, tmp_path: Path, kinds: tuple[str, str, str]
) -> None:
    of, shapes, raws = made(4, shared=False, kinds=kinds), [], []
    for i in range(4):
        for packed, given in zip(of.parts[i], sources(kinds, i), strict=True):
            assert packed.bytes == packed_bytes([(t, n, k) for t, _, n, k in given])
            raws.append(given)
            shapes.append([(t, n, k) for t, _, n, k in given])
    offsets = written(tmp_path / "tiles", raws, 0)
    with (tmp_path / "tiles").open("rb") as opened:
        mapping = Mapping(opened.fileno(), (tmp_path / "tiles").stat().st_size)
    found = mapping.packed(shapes, offsets)
    mapped = ops.Experts(list(zip(found[::2], found[1::2], strict=True)))
    for m in (1, 30):
        x, logits = drawn(m, 4)
        ours, theirs = np.empty((2, m, WIDTH), np.float32)
        ops.experts(x, logits, of, 2, theirs, renormalize=True, prompt=m > 1)
        ops.experts(x, logits, mapped, 2, ours, renormalize=True, prompt=m > 1)
        assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def sources(kinds: tuple[str, str, str], seed: int) -> list[list[Part]]:
    """What `pair` packs."""
    kept: list[list[Part]] = []
    original = ops.pack
    try:
        ops.pack = lambda given: kept.append(list(given)) or original(given)  # type: ignore[func-returns-value]
        pair(kinds, WIDTH, seed)
    finally:
        ops.pack = original
    return kept


@pytest.mark.parametrize("shared", [False, True])
def test_what_will_be_chosen(shared: bool) -> None:
    of = made(7, shared=shared)
    for m in (1, 5):
        x, logits = drawn(m, 7 + shared, m)
        chosen, _ = reference.route(logits, 2, renormalize=True, shared=shared)
        expected = sorted(set(chosen[:, :2].ravel().tolist()))
        assert of.chosen(2, logits) == expected
        calls, taken = of.calls, of.taken
        ops.experts(x, logits, of, 2, np.empty_like(x), renormalize=True)
        assert (of.calls, of.taken) == (calls + 1, taken + len(expected) + shared)
    logits[0, 3] = np.nan
    assert set(of.chosen(2, logits[:1])) == {0, 1}, "as `experts` takes them, whose result is NaN"


def test_wrong_arguments(tmp_path: Path) -> None:
    file = tmp_path / "tiles"
    matrix = parts(StoredType.Q8_0)
    size = packed_bytes([("q8_0", N, K)])
    out = room(2 * size)
    for offsets, message in (([], "offset"), ([32], "multiples of 64"), ([2 * size], "within")):
        with pytest.raises(ValueError, match=message):
            pack_to([matrix], offsets, out)
    with pytest.raises(ValueError, match="one after the other"):
        pack_to([matrix, matrix], [0, size - 64], out)
    with pytest.raises(ValueError, match="multiple of 64"):
        pack_to([matrix], [0], out[1:])
    for shape in (("q8_0", 0, K), ("q8_0", N, -1), ("q8_0", N, 33), ("made up", N, K)):
        with pytest.raises(ValueError, match=r".+"):
            packed_bytes([shape])
    file.write_bytes(bytes(size))
    with file.open("rb") as opened:
        for bad in (0, size + 1):
            with pytest.raises(ValueError, match="the file must hold"):
                Mapping(opened.fileno(), bad)
        mapping = Mapping(opened.fileno(), size)
    with pytest.raises(ValueError, match="the file must hold"):
        Mapping(opened_and_closed(file), size)
    with pytest.raises(ValueError, match="within"):
        mapping.packed([[("q8_0", N, K)]], [64])
    for begin, length in ((size + 1, 0), (0, size + 1), (1, size)):
        for act in (mapping.ask, mapping.give_back):
            with pytest.raises(ValueError, match="within the mapping"):
                act(begin, length)
    of = made(3, shared=True)
    for top, columns in ((0, 4), (4, 4), (2, 3)):
        with pytest.raises(ValueError, match=r"top must|logits\.shape"):
            of.chosen(top, np.zeros((1, columns), np.float32))
    with pytest.raises(TypeError):
        of.chosen(1, np.zeros((1, 4), np.float64))


def opened_and_closed(file: Path) -> int:
    with file.open("rb") as opened:
        return opened.fileno()


def test_a_file_in_memory_is_counted_and_goes(tmp_path: Path) -> None:
    """What is read of a mapping is this process's memory until it is given back."""
    file = tmp_path / "tiles"
    matrices = [parts(StoredType.F32, i) for i in range(40)]
    offsets = written(file, matrices, 0)
    with file.open("rb") as opened:
        mapping = Mapping(opened.fileno(), file.stat().st_size)
    found = mapping.packed([[("f32", N, K)] for _ in matrices], offsets)
    assert resident(file) == 0
    for packed in found:
        ops.unpack(packed)
    assert resident(file) >= 40 * N * K * 4
    mapping.give_back(0, file.stat().st_size)
    assert resident(file) == 0
    for i in (0, 7):  # what is around a page is what lies in the same 64 KiB of the file
        ops.unpack(found[i])
    around = {at // AROUND for i in (0, 7) for at in (offsets[i], offsets[i] + N * K * 4)}
    assert resident(file) <= len(around) * AROUND


def resident(file: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
