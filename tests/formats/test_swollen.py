"""Files whose Python objects would take many times their bytes: at most twice the file, and 64 MiB.

The allowance is that of checks/fuzz_readers.py.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path

import pytest

from formats.samples import ARRAY, CONFIG, STRING, U8, arrays, gguf, pair, tensor, text
from qwick.errors import FormatError, QwickError
from qwick.formats.jsonfile import MAX_DEPTH, MAX_PARSED
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_folder

ALLOWANCE = 64 << 20


def refused_within_memory(path: Path, size: int) -> QwickError:
    """Open, and return the error; memory is that of Python and NumPy, beside the mapped file."""
    tracemalloc.start()
    try:
        with pytest.raises(QwickError) as caught:
            open_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * size + ALLOWANCE, f"{peak:,} bytes for {size:,}"
    return caught.value


def test_texts_that_one_character_makes_four_times_as_large(tmp_path: Path) -> None:
    wide = "x" * (10 << 20) + "\U0001f600"
    raw = gguf([pair(f"k{i}", STRING, text(wide)) for i in range(6)])
    (tmp_path / "m.gguf").write_bytes(raw)
    error = refused_within_memory(tmp_path / "m.gguf", len(raw))
    assert "the value of 'k1': the header's texts are longer than 16777216" in error.message


def test_many_tensors_with_long_names(tmp_path: Path) -> None:
    names = [f"{i:06}" + "y" * 1000 + "\U0001f600" for i in range(20_000)]
    raw = gguf([], [tensor(name, [8], offset=32 * i) for i, name in enumerate(names)])
    (tmp_path / "m.gguf").write_bytes(raw)
    error = refused_within_memory(tmp_path / "m.gguf", len(raw))
    assert "the header's texts are longer than" in error.message


def test_arrays_in_arrays_in_many_keys(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", ARRAY, 4000) + struct.pack("<IQ", U8, 0) * 4000
    raw = gguf([pair(f"k{i}", ARRAY, nested) for i in range(100)])
    (tmp_path / "m.gguf").write_bytes(raw)
    error = refused_within_memory(tmp_path / "m.gguf", len(raw))
    assert "with the arrays of 'k1' the arrays in arrays exceed 4096" in error.message


def safetensors(path: Path, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize("size", [MAX_PARSED, 12 << 20], ids=["longest", "too-long"])
def test_a_header_of_empty_lists(tmp_path: Path, size: int) -> None:
    write_folder(tmp_path, CONFIG, arrays())
    header = b'{"a":[' + b"[]," * ((size - 12) // 3) + b"[]]}"
    safetensors(tmp_path / "model.safetensors", header)
    error = refused_within_memory(tmp_path, len(header))
    assert isinstance(error, FormatError)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_config_of_empty_lists(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, CONFIG, arrays())
    (tmp_path / name).write_text('{"a":[' + "[]," * (4 << 20) + "[]]}")
    error = refused_within_memory(tmp_path, 12 << 20)
    assert f"{name}: " in error.message
    assert "the limit for this file is 2097152" in error.message


@pytest.mark.parametrize("depth", [MAX_DEPTH, 500, 980, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
def test_deep_json(tmp_path: Path, depth: int, brackets: tuple[str, str]) -> None:
    """Also below Python's own limit: what is read must not be too deep to be quoted."""
    write_folder(tmp_path, CONFIG, arrays())
    nested = brackets[0] * depth + "1" + brackets[1] * depth
    whole = json.dumps(CONFIG)
    (tmp_path / "config.json").write_text(whole[:-1] + f', "rope_scaling": {nested}}}')
    with pytest.raises(FormatError, match=r"config\.json: the file nests"):
        open_checkpoint(tmp_path)


def test_json_as_deep_as_is_allowed(tmp_path: Path) -> None:
    write_folder(tmp_path, CONFIG, arrays())
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG)[:-1] + f', "notes": {deep}}}')
    open_checkpoint(tmp_path).close()
