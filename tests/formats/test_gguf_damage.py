"""Damaged, hostile and foreign files given as GGUF: only our errors, no crash, little memory."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from formats.samples import (
    ARRAY,
    BOOL,
    STRING,
    U8,
    U32,
    gguf,
    pair,
    tensor,
    text,
)
from qwick.errors import (
    FormatError,
    ModelNotFoundError,
    QwickError,
    UnsupportedError,
)
from qwick.formats.gguf import read_gguf
from qwick.formats.open import open_checkpoint
from qwick.quant.decode import decode
from qwick.quant.types import StoredType

BIG = 2**63
ONE = tensor("a", [8])  # 32 bytes at offset 0
DEEP = struct.pack("<IQ", ARRAY, 1) * 50 + struct.pack("<IQ", U8, 0)
WIDE = struct.pack("<IQ", ARRAY, 1 << 20) + struct.pack("<IQ", U8, 0) * (1 << 20)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "tensor count": (
        gguf(n_tensors=BIG),
        r"number of tensors at byte 8 is 9223372036854775808; the l",
    ),
    "tensor count that cannot fit": (gguf(n_tensors=60_000), r"60000 tensors need at least"),
    "key count": (gguf(n_pairs=BIG), r"number of metadata keys at byte 16 is 9223372036854775808"),
    "key length": (
        gguf([struct.pack("<Q", BIG) + bytes(8)]),
        r"metadata key 0 at byte 24 is 92233\d+ bytes long",
    ),
    "key beyond the end": (
        gguf([struct.pack("<QI", 99, 0) + b"x"]),
        r"needs 99 bytes, but the file",
    ),
    "text length": (gguf([pair("k", STRING, struct.pack("<Q", BIG))]), r"'k' at byte 37 is 922337"),
    "array count": (
        gguf([pair("k", ARRAY, struct.pack("<IQ", U32, BIG))]),
        r"is 9223372036854775808",
    ),
    "array beyond the end": (
        gguf([pair("k", ARRAY, struct.pack("<IQ", U32, 9))]),
        r"9 values of 'k'",
    ),
    "string count": (
        gguf([pair("k", ARRAY, struct.pack("<IQ", STRING, BIG))]),
        r"strings of 'k' at",
    ),
    "strings beyond": (
        gguf([pair("k", ARRAY, struct.pack("<IQQ", STRING, 1, BIG))]),
        r"a string of 'k' leaves the file",
    ),
    "depth": (gguf([pair("k", ARRAY, DEEP)]), r"'k' nests arrays deeper than 4"),
    "many nested": (
        gguf([pair("k", ARRAY, WIDE)]),
        r"number of arrays of 'k' .* the limit is 4096",
    ),
    "value type": (gguf([pair("k", 13, b"")]), r"'k' has the unknown value type 13"),
    "item type": (gguf([pair("k", ARRAY, struct.pack("<IQ", 99, 0))]), r"unknown item type 99"),
    "truth": (gguf([pair("k", BOOL, b"\2")]), r"'k' holds a truth value of 2"),
    "key twice": (gguf([pair("k", U8, b"\0")] * 2), r"metadata key 'k' occurs twice"),
    "key no UTF-8": (gguf([pair(b"\xff", U8, b"\0")]), r"metadata key 0 at byte 24 is not UTF-8"),
    "text no UTF-8": (gguf([pair("k", STRING, text(b"\xff"))]), r"value of 'k' .* not UTF-8"),
    "tensor twice": (gguf([], [ONE, ONE], bytes(64)), r"tensor 'a' occurs twice"),
    "overlap": (
        gguf([], [tensor("a", [16]), tensor("b", [8], offset=32)], bytes(64)),
        r"tensors 'a' and 'b' overlap at byte",
    ),
    "offset": (gguf([], [tensor("a", [8], offset=BIG)], bytes(64)), r"'a' needs the bytes 9223"),
    "shape product": (gguf([], [tensor("a", [2**62] * 4)], bytes(64)), r"'a' needs the bytes"),
    "unaligned": (
        gguf([], [tensor("a", [8], offset=8)], bytes(64)),
        r"offset 8, no multiple of.* 32",
    ),
    "no dimensions": (
        gguf([], [tensor("a", [])], bytes(64)),
        r"'a' has 0 dimensions; 1 to 4 allowed",
    ),
    "dimensions": (gguf([], [tensor("a", [1] * 5)], bytes(64)), r"'a' has 5 dimensions"),
    "dimension count": (
        gguf([], [text("a") + struct.pack("<I", 2**32 - 1) + bytes(40)], bytes(64)),
        r"'a' has 4294967295 dimensions",
    ),
    "zero dimension": (
        gguf([], [tensor("a", [8, 0])], bytes(64)),
        r"shape \[8, 0\]; no dimension may",
    ),
    "blocks": (
        gguf([], [tensor("a", [48], StoredType.Q8_0)], bytes(64)),
        r"rows of 48, no multiple of Q8_0's block of 32",
    ),
    "short data": (gguf([], [tensor("a", [17])], bytes(64)), r"but the file ends at byte"),
    "alignment 0": (
        gguf([pair("general.alignment", U32, bytes(4))], [ONE], bytes(32)),
        r"general.alignment is 0; a power of two",
    ),
    "alignment 48": (
        gguf([pair("general.alignment", U32, struct.pack("<I", 48))], [ONE], bytes(32)),
        r"general.alignment is 48",
    ),
    "alignment text": (
        gguf([pair("general.alignment", STRING, text("32"))], [ONE], bytes(32)),
        r"general.alignment is '32'",
    ),
    "empty": (b"", r"is empty \(0 bytes\)"),
    "three bytes": (b"GGU", r"ends after 3 bytes"),
    "html": (b"<!DOCTYPE html><html><body>404", r"not a GGUF file but an HTML page \(the download"),
    "html after blanks": (b"\n\n  <HTML>", r"an HTML page"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\n",
        r"Git LFS pointer \(run `git lfs pull`",
    ),
    "pickle": (b"PK\x03\x04archive/data.pkl", r"zip or pickle archive"),
    "json": (b'{"error": "not found"}', r"a JSON text"),
    "zeros": (bytes(100), r"not a GGUF file but zeros"),
    "other": (b"RIFFxxxxWAVE", r"unknown kind \(it starts with b'RIFFxxxx'\)"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path: Path, case: str) -> None:
    raw, message = HOSTILE[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as caught:
            open_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint
    assert peak < 4_000_000


UNSUPPORTED: dict[str, tuple[bytes, str]] = {
    "version 1": (gguf(version=1), r"GGUF version 1; supported: 2, 3"),
    "version 4": (gguf(version=4), r"GGUF version 4; supported: 2, 3"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), r"big-endian .* little endian"),
    "type": (
        gguf([], [tensor("blk.0.x", [256], 17)], bytes(128)),
        r"'blk.0.x' is stored as IQ2_XS; supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0",
    ),
    "type number": (gguf([], [tensor("a", [32], 77)], bytes(64)), r"stored as number 77"),
    "architecture": (
        gguf([pair("general.architecture", STRING, text("llama"))]),
        r"architecture 'llama' is not supported; known: qwen, qwen2, qwen2moe",
    ),
    "moe": (
        gguf([pair("general.architecture", STRING, text("qwen35moe"))]),
        r"architecture 'qwen35moe' is not supported",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_files(tmp_path: Path, case: str) -> None:
    raw, message = UNSUPPORTED[case]
    (tmp_path / "no.gguf").write_bytes(raw)
    with pytest.raises(UnsupportedError, match=message):
        open_checkpoint(tmp_path / "no.gguf")


def test_truncated_at_every_byte(honest: Path, tmp_path: Path) -> None:
    whole = honest.read_bytes()
    ends = [t.start + t.size for t in read_gguf(honest).tensors.values()]
    path = tmp_path / "cut.gguf"
    data_start = min(t.start for t in read_gguf(honest).tensors.values())
    for length in [*range(data_start + 8), *range(data_start + 8, max(ends), 97), max(ends) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError) as caught:
            open_checkpoint(path)
        assert str(path) in caught.value.message, length
    path.write_bytes(whole[: max(ends)])
    open_checkpoint(path)


def test_flipped_bytes_give_only_our_errors(honest: Path, tmp_path: Path) -> None:
    whole = honest.read_bytes()
    header = min(t.start for t in read_gguf(honest).tensors.values())
    rng = np.random.default_rng(1)
    path = tmp_path / "flip.gguf"
    refused: list[str] = []
    for _ in range(2500):
        raw = bytearray(whole)
        for at in rng.integers(0, header, rng.integers(1, 4)):
            raw[at] = rng.choice([0, 1, 127, 128, 255, raw[at] ^ (1 << rng.integers(0, 8))])
        path.write_bytes(raw)
        try:
            with open_checkpoint(path) as checkpoint:
                assert checkpoint.tokenizer
                for found in checkpoint.tensors.values():
                    decode(found.type, found.data.reshape(1, -1))
        except (FormatError, UnsupportedError) as error:
            refused.append(error.message)
    assert len(refused) > 1000
    assert all(message.startswith(f"{path}: ") for message in refused)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        open_checkpoint(tmp_path / "none.gguf")
    with pytest.raises(QwickError):
        open_checkpoint(Path("a\0b"))
    with pytest.raises(FormatError, match="not a regular file"):
        open_checkpoint(Path("/dev/null"))
