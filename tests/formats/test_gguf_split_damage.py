"""Parts that are damaged or foreign; where their data begin; what closing gives back."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import gguf as reference
import numpy as np
import pytest

from formats.parts import cut
from formats.samples import ARRAY, U32, gguf, pair, tensor
from formats.test_gguf_split import SIZES, same
from qwick.errors import FormatError, QwickError, UnsupportedError, UsageError
from qwick.formats.gguf import read_gguf
from qwick.formats.open import open_checkpoint
from qwick.quant.decode import decode


@pytest.fixture
def parts(honest: Path, tmp_path: Path) -> list[Path]:
    return cut(honest, SIZES).write(tmp_path / "parts")


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [0, 2])
def test_each_part_truncated(parts: list[Path], opened: int) -> None:
    for path in parts:
        file = read_gguf(path)
        whole = path.read_bytes()
        end = max(t.start + t.size for t in file.tensors.values())
        header = file.header_bytes
        for length in [*range(0, header + 8, 3), *range(header + 8, end, 97), end - 1]:
            path.write_bytes(whole[:length])
            with pytest.raises(FormatError) as caught:
                open_checkpoint(parts[opened])
            assert caught.value.message.startswith(f"{path}: "), length
        path.write_bytes(whole[:end])
        open_checkpoint(parts[opened]).close()


def test_flipped_bytes_give_only_our_errors(honest: Path, parts: list[Path]) -> None:
    rng = np.random.default_rng(3)
    refused: list[str] = []
    for round_ in range(1500):
        path = parts[round_ % 3]
        whole = path.read_bytes()
        raw = bytearray(whole)
        header = read_gguf(path).header_bytes
        for at in rng.integers(0, header, rng.integers(1, 4)):
            raw[at] = rng.choice([0, 1, 127, 128, 255, raw[at] ^ (1 << rng.integers(0, 8))])
        path.write_bytes(raw)
        try:
            with open_checkpoint(parts[rng.integers(0, 3)]) as checkpoint:
                assert checkpoint.tokenizer
                for found in checkpoint.tensors.values():
                    decode(found.type, found.data.reshape(1, -1))
        except (FormatError, UnsupportedError) as error:
            refused.append(error.message)
        path.write_bytes(whole)
    assert len(refused) > 700
    assert all(message.startswith(f"{parts[0].parent}{os.sep}") for message in refused)
    same(parts[0], honest)


FOREIGN: dict[str, tuple[bytes, type[QwickError], str]] = {
    "empty": (b"", FormatError, r"is empty \(0 bytes\)"),
    "html": (b"<!DOCTYPE html><html>", FormatError, r"an HTML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", FormatError, r"Git LFS pointer"),
    "version 1": (gguf(version=1), UnsupportedError, r"GGUF version 1; supported: 2, 3"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), UnsupportedError, r"big-endian"),
    "no part": (gguf([], [tensor("a", [8])], bytes(32)), FormatError, r"lack split\.no"),
    "hostile": (
        gguf([pair("k", ARRAY, struct.pack("<IQ", U32, 2**63))]),
        FormatError,
        r"is 9223372036854775808",
    ),
    "a type not read": (
        gguf([], [tensor("token_embd.weight", [256], 17)], bytes(128)),
        UnsupportedError,
        r"stored as IQ2_XS",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_something_else_in_the_place_of_a_part(parts: list[Path], case: str) -> None:
    raw, kind, message = FOREIGN[case]
    parts[1].write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(kind, match=message) as caught:
            open_checkpoint(parts[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.message.startswith(f"{parts[1]}: ")
    assert peak < 4_000_000


@pytest.mark.parametrize("names", [("m.gguf.a", "m.gguf.b"), ("m.gguf-split-a", "m.gguf.part2of2")])
def test_pieces_cut_by_bytes(honest: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    raw = honest.read_bytes()
    for name, piece in zip(names, (raw[:-500], raw[-500:]), strict=True):
        (tmp_path / name).write_bytes(piece)
        with pytest.raises(FormatError, match=rf"{name}: .*join them in order: cat PIECE"):
            open_checkpoint(tmp_path / name)


def test_a_part_that_is_a_folder(parts: list[Path]) -> None:
    parts[2].unlink()
    parts[2].mkdir()
    with pytest.raises(FormatError, match=r"00003-of-00003\.gguf: a folder stands where a file"):
        open_checkpoint(parts[0])


# -- alignment -------------------------------------------------------------------------------------


def by_the_gguf_package(folder: Path, alignment: int, pad: int) -> list[Path]:
    """Two parts with an alignment that only the first one states; `pad` moves its data."""
    writer = reference.GGUFWriter(folder / "a.gguf", "qwen3", split_max_tensors=1)
    writer.add_custom_alignment(alignment)
    for key, value in {"block_count": 1, "context_length": 8, "embedding_length": 32}.items():
        writer.add_uint32(f"qwen3.{key}", value)
    for key in ("feed_forward_length", "attention.head_count"):
        writer.add_uint32(f"qwen3.{key}", 32)
    writer.add_float32("qwen3.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_tensor("token_embd.weight", np.ones((8, 32), np.float32))
    # The length of a name decides where the second part's header ends.
    writer.add_tensor(f"blk.{10**pad}.attn_norm.weight", np.arange(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("a-*.gguf"))


@pytest.mark.parametrize("alignment", [8, 16, 32, 64, 128, 1024])
def test_other_alignments_are_read_right_or_refused(tmp_path: Path, alignment: int) -> None:
    """Never read from the wrong place: 5 names of other lengths, so that padding differs."""
    wanted = np.arange(32, dtype=np.float32)
    seen = set()
    for pad in range(5):
        folder = tmp_path / str(pad)
        folder.mkdir()
        first, second = by_the_gguf_package(folder, alignment, pad)
        raw = second.read_bytes()
        name = f"blk.{10**pad}.attn_norm.weight".encode()
        header = raw.index(name) + len(name) + 4 + 8 + 4 + 8  # one dimension, type, offset
        clear = raw.index(wanted.tobytes()) == -(-header // 32) * 32
        seen.add(clear)
        if not clear:
            with pytest.raises(FormatError, match=r"general\.alignment|the file ends"):
                open_checkpoint(first)
            continue
        with open_checkpoint(first) as checkpoint:
            found = checkpoint.tensors[f"model.layers.{10**pad}.input_layernorm.weight"]
            np.testing.assert_array_equal(found.data.view("<f4"), wanted)
    assert seen == {64: {True, False}, 32: {True}}.get(alignment, seen)


def test_an_alignment_that_each_part_states(honest: Path, tmp_path: Path) -> None:
    stated = pair("general.alignment", U32, struct.pack("<I", 256))
    made = cut(honest, SIZES)
    for part in made.parts:
        part.pairs.append(stated)
        part.alignment = 256
    same(made.write(tmp_path)[1], honest)


def test_an_alignment_that_only_the_first_part_has(honest: Path, tmp_path: Path) -> None:
    """As gguf-split writes it: parts without the key are aligned to 32 and end where data end."""
    made = cut(honest, SIZES)
    made.parts[0].pairs.append(pair("general.alignment", U32, struct.pack("<I", 4096)))
    made.parts[0].alignment = 4096
    same(made.write(tmp_path)[1], honest)


# -- closing ---------------------------------------------------------------------------------------


def mapped_below(folder: Path) -> list[str]:
    maps = Path("/proc/self/maps").read_text()
    return [line for line in maps.splitlines() if f"{folder}{os.sep}" in line]


def test_close_unmaps_every_part(parts: list[Path]) -> None:
    checkpoint = open_checkpoint(parts[1])
    assert len(mapped_below(parts[0].parent)) == 3
    assert checkpoint.tokenizer
    kept = checkpoint.tensors["model.norm.weight"].data
    before = kept.tobytes()
    checkpoint.close()
    checkpoint.close()
    assert kept.tobytes() == before
    assert len(mapped_below(parts[0].parent)) == 1, "the one that an array in use lies in"
    del kept
    assert not mapped_below(parts[0].parent)
    with pytest.raises(UsageError, match="closed"):
        _ = checkpoint.tokenizer
