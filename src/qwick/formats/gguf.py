"""The GGUF container, versions 2 and 3, little endian: metadata and where each tensor lies.

Source: the GGUF specification (ggml, `docs/gguf.md`). Every count, length, offset and shape is
checked against the file before it is used. Knows nothing of models, names or tokenizers.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwick.errors import UnsupportedError
from qwick.formats.mapped import MAX_NAME, Cursor, TensorInfo, damaged, describe, map_file
from qwick.formats.strings import scan
from qwick.quant.types import GGUF_TYPES, from_ggml, ggml_name

MAGIC = b"GGUF"
VERSIONS = (2, 3)

# Far above any real file (1,200 tensors, 250,000 tokens): a hostile one shall not cost much.
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_TEXT = 1 << 24
MAX_STRINGS = 1 << 22
MAX_NESTED = 1 << 12
MAX_DEPTH = 4
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 16

_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}

Value = object  # int | float | bool | str | StringArray | NDArray | list of these (nested arrays)


@dataclass(frozen=True)
class GgufFile:
    """A parsed header over the mapped file; the tensors' data follow it, `padded`."""

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    data: mmap.mmap
    header_bytes: int
    alignment: int  # general.alignment, or what holds without it


class _Header(Cursor):
    """A cursor over a header.

    Texts and nested arrays become Python objects of up to 25 times their bytes, so they are bounded
    for the file as a whole. (Arrays of numbers and of strings are views of it.)
    """

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        super().__init__(path, data)
        self.texts = 0  # characters
        self.arrays = 0

    def text(self, what: str, limit: int) -> str:
        value = super().text(what, limit)
        self.texts += len(value)
        if self.texts > MAX_TEXT:
            raise damaged(self.path, f"{what}: the header's texts are longer than {MAX_TEXT}")
        return value

    def nested(self, what: str) -> int:
        """Read the number of arrays in an array."""
        count = self.count(what, each=12, limit=MAX_NESTED)
        self.arrays += count
        if self.arrays > MAX_NESTED:
            raise damaged(self.path, f"with the {what} the arrays in arrays exceed {MAX_NESTED}")
        return count


def padded(size: int, alignment: int) -> int:
    """Return the first multiple of `alignment` from `size` on."""
    return -(-size // alignment) * alignment


def read_gguf(path: Path) -> GgufFile:
    """Map and parse a GGUF file.

    Raises ModelNotFoundError (no file), FormatError (not GGUF, damaged, truncated, hostile) and
    UnsupportedError (big endian, version 1, a tensor type that qwick does not read).
    """
    cursor = _Header(path, map_file(path))
    version = _read_version(cursor)
    n_tensors = cursor.count("tensors", each=24, limit=MAX_TENSORS)
    n_keys = cursor.count("metadata keys", each=13, limit=MAX_KEYS)
    metadata = _read_metadata(cursor, n_keys)
    alignment = _alignment(path, metadata)
    tensors = _read_tensors(cursor, n_tensors, alignment)
    return GgufFile(path, version, metadata, tensors, cursor.data, cursor.at, alignment)


def _read_version(cursor: _Header) -> int:
    head = cursor.data[:32]
    if head[:4] != MAGIC:
        if MAGIC.startswith(head):
            raise damaged(cursor.path, f"the file ends after {len(head)} bytes")
        what, hint = describe(head)
        raise damaged(cursor.path, f"not a GGUF file but {what}", hint)
    cursor.take(4, "the magic")
    version = cursor.u32("the version")
    if version in VERSIONS:
        return version
    if version.to_bytes(4, "big") in {v.to_bytes(4, "little") for v in (1, *VERSIONS)}:
        raise UnsupportedError(
            f"{cursor.path}: a big-endian GGUF file; little endian is supported",
            hint="get the little-endian file, or convert it with gguf-convert-endian",
        )
    raise UnsupportedError(
        f"{cursor.path}: GGUF version {version}; supported: {', '.join(map(str, VERSIONS))}",
        hint="fetch a newer conversion of the model",
    )


def _read_metadata(cursor: _Header, n_keys: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for index in range(n_keys):
        key = cursor.text(f"metadata key {index}", MAX_NAME)
        if key in metadata:
            raise damaged(cursor.path, f"the metadata key {key!r} occurs twice")
        kind = cursor.u32(f"the type of {key!r}")
        metadata[key] = _read_value(cursor, kind, key, 0)
    return metadata


def _read_value(cursor: _Header, kind: int, key: str, depth: int) -> Value:
    if kind == _STRING:
        return cursor.text(f"the value of {key!r}", MAX_TEXT)
    if kind == _ARRAY:
        return _read_array(cursor, key, depth)
    numbers = _read_numbers(cursor, kind, 1, key)
    value: bool | int | float = numbers[0].item()
    return bool(value) if kind == _BOOL else value


def _read_numbers(cursor: _Header, kind: int, count: int, key: str) -> NDArray[np.generic]:
    """Return a view of `count` numbers of GGUF type `kind`; no copy, so no memory is spent."""
    if kind not in _NUMBERS:
        raise damaged(cursor.path, f"{key!r} has the unknown value type {kind}; known: 0 to 12")
    dtype = np.dtype(_NUMBERS[kind])
    start = cursor.take(count * dtype.itemsize, f"{key!r} ({count} values)")
    values = np.frombuffer(cursor.data, dtype, count, start)
    if kind == _BOOL and count and values.max() > 1:
        raise damaged(cursor.path, f"{key!r} holds a truth value of {values.max()}; 0 or 1 allowed")
    return values


def _read_array(cursor: _Header, key: str, depth: int) -> Value:
    if depth == MAX_DEPTH:
        raise damaged(cursor.path, f"{key!r} nests arrays deeper than {MAX_DEPTH}")
    kind = cursor.u32(f"the item type of {key!r}")
    if kind == _STRING:
        limit = max(1, MAX_STRINGS >> (8 * depth))
        return scan(cursor, cursor.count(f"strings of {key!r}", each=8, limit=limit), repr(key))
    if kind == _ARRAY:
        count = cursor.nested(f"arrays of {key!r}")
        return [_read_array(cursor, key, depth + 1) for _ in range(count)]
    if kind not in _NUMBERS:
        raise damaged(cursor.path, f"{key!r} has the unknown item type {kind}; known: 0 to 12")
    each = np.dtype(_NUMBERS[kind]).itemsize
    count = cursor.count(f"values of {key!r}", each=each, limit=cursor.size)
    return _read_numbers(cursor, kind, count, key)


def _alignment(path: Path, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise damaged(
            path, f"general.alignment is {value!r}; a power of two up to {MAX_ALIGNMENT} allowed"
        )
    return value


@dataclass(frozen=True)
class _Entry:
    """A line of the tensor table as stored: dimensions fastest first, offset in the data part."""

    name: str
    dims: tuple[int, ...]
    kind: int
    offset: int


def _read_tensors(cursor: _Header, count: int, alignment: int) -> dict[str, TensorInfo]:
    entries = [_read_entry(cursor, index) for index in range(count)]
    base = padded(cursor.at, alignment)
    tensors: dict[str, TensorInfo] = {}
    for entry in entries:
        if entry.name in tensors:
            raise damaged(cursor.path, f"the tensor {entry.name!r} occurs twice")
        tensors[entry.name] = _place(cursor, entry, base, alignment)
    previous: TensorInfo | None = None
    for info in sorted(tensors.values(), key=lambda info: info.start):
        if previous and info.start < previous.start + previous.size:
            raise damaged(
                cursor.path,
                f"the tensors {previous.name!r} and {info.name!r} overlap at byte {info.start}",
            )
        previous = info
    return tensors


def _read_entry(cursor: _Header, index: int) -> _Entry:
    name = cursor.text(f"the name of tensor {index}", MAX_NAME)
    n_dims = cursor.u32(f"the number of dimensions of {name!r}")
    if not 1 <= n_dims <= MAX_DIMS:
        raise damaged(cursor.path, f"{name!r} has {n_dims} dimensions; 1 to {MAX_DIMS} allowed")
    start = cursor.take(8 * n_dims, f"the shape of {name!r}")
    dims = struct.unpack_from(f"<{n_dims}Q", cursor.data, start)
    if 0 in dims:
        raise damaged(cursor.path, f"{name!r} has the shape {list(dims)}; no dimension may be 0")
    kind = cursor.u32(f"the type of {name!r}")
    return _Entry(name, dims, kind, cursor.u64(f"the offset of {name!r}"))


def _place(cursor: _Header, entry: _Entry, base: int, alignment: int) -> TensorInfo:
    stored = from_ggml(entry.kind)
    if stored is None:
        raise UnsupportedError(
            f"{cursor.path}: the tensor {entry.name!r} is stored as {ggml_name(entry.kind)}; "
            f"supported: {', '.join(t.name for t in GGUF_TYPES)}",
            hint="take another file of this model, such as Q4_K_M or Q8_0",
        )
    if entry.dims[0] % stored.block:
        raise damaged(
            cursor.path,
            f"{entry.name!r} has rows of {entry.dims[0]}, no multiple of {stored.name}'s block "
            f"of {stored.block}",
        )
    if entry.offset % alignment:
        raise damaged(
            cursor.path,
            f"{entry.name!r} lies at offset {entry.offset}, no multiple of the alignment "
            f"{alignment}",
        )
    size = math.prod(entry.dims) // stored.block * stored.bytes
    start = base + entry.offset
    if start + size > cursor.size:
        raise damaged(
            cursor.path,
            f"{entry.name!r} needs the bytes {start} to {start + size}, "
            f"but the file ends at byte {cursor.size}",
        )
    return TensorInfo(entry.name, stored, entry.dims[::-1], start, size)
