"""The safetensors container: where each tensor lies in the mapped file.

Source: the safetensors format (an 8-byte header length, a JSON header, the data without holes).
Every length, offset and shape is checked against the file before it is used. Knows nothing of
models or of which tensors there should be.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwick.errors import UnsupportedError, shown
from qwick.formats.jsonfile import MAX_PARSED, parse_object
from qwick.formats.mapped import MAX_NAME, Cursor, TensorInfo, damaged, describe, map_file
from qwick.quant.types import StoredType

MAX_DIMS = 8

_TYPES = {"F32": StoredType.F32, "F16": StoredType.F16, "BF16": StoredType.BF16}
# What quantised folders hold besides, with bytes of an element: never weights as they are.
_PARTS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E8M0": 1}
# A dtype's name as the format writes it: what does not look like one is damage, not a wish.
_DTYPE = re.compile(r"[A-Z][A-Z0-9_]{0,15}")


@dataclass(frozen=True)
class PartInfo:
    """Where a tensor lies that is part of a quantised one: its dtype, row-major shape, bytes."""

    name: str
    dtype: str  # as the format writes it
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class SafetensorsFile:
    """A parsed header over the mapped file."""

    path: Path
    tensors: Mapping[str, TensorInfo | PartInfo]
    data: mmap.mmap


def read_safetensors(path: Path, *, parts: bool = False) -> SafetensorsFile:
    """Map and parse a safetensors file.

    parts: take the dtypes of quantised tensors' parts too. Raises ModelNotFoundError (no file),
    FormatError (damaged, truncated, hostile) and UnsupportedError (a dtype other than bf16, f16,
    f32 and, with `parts`, those).
    """
    cursor = Cursor(path, map_file(path))
    head = cursor.data[:32]
    length = cursor.u64("the header's length")
    if length > MAX_PARSED or head[8:9] not in (b"{", b""):
        what, hint = describe(head)
        raise damaged(path, f"not a safetensors file but {what}", hint)
    start = cursor.take(length, "the header")
    try:
        text = cursor.data[start : start + length].decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, f"the header is not UTF-8: {error.reason}") from None
    header = parse_object(path, text, "the header")
    _check_metadata(path, header.pop("__metadata__", {}))
    tensors = {name: _info(cursor, name, entry, parts) for name, entry in header.items()}
    _check_layout(cursor, tensors)
    return SafetensorsFile(path, tensors, cursor.data)


def _check_metadata(path: Path, value: Any) -> None:
    texts = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    if not texts:
        raise damaged(path, "the header's __metadata__ is no object of texts")


def _info(cursor: Cursor, name: str, entry: Any, parts: bool) -> TensorInfo | PartInfo:
    path = cursor.path
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME:
        raise damaged(path, f"a tensor's name is longer than {MAX_NAME} bytes: {shown(name)}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"the entry of {name!r} must hold dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise damaged(path, f"the dtype of {name!r} is {dtype!r:.40}")
    part = parts and dtype in _PARTS
    if dtype not in _TYPES and not part:
        known = (*_TYPES, *_PARTS) if parts else tuple(_TYPES)
        raise UnsupportedError(
            f"{path}: the tensor {name!r} is stored as {dtype}; supported: {', '.join(known)}",
            hint="take the unquantized checkpoint or a GGUF file of this model",
        )
    least = 0 if part else 1  # a part may be a single number
    if not _counts(shape) or not least <= len(shape) <= MAX_DIMS or 0 in shape:
        raise damaged(
            path, f"the shape of {name!r} is {shape!r:.80}; {least} to {MAX_DIMS} sizes wanted"
        )
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise damaged(path, f"the data_offsets of {name!r} are {offsets!r:.80}")
    size = math.prod(shape) * (_PARTS[dtype] if part else _TYPES[dtype].bytes)
    if offsets[1] - offsets[0] != size:
        raise damaged(
            path,
            f"{name!r} of shape {shape} and dtype {dtype} needs {size} bytes; "
            f"its offsets give {offsets[1] - offsets[0]}",
        )
    start = cursor.at + offsets[0]
    if part:
        return PartInfo(name, dtype, tuple(shape), start, size)
    return TensorInfo(name, _TYPES[dtype], tuple(shape), start, size)


def _counts(value: Any) -> bool:
    """True for a list of whole numbers from 0 to 2^63 (true and false are none)."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _check_layout(cursor: Cursor, tensors: Mapping[str, TensorInfo | PartInfo]) -> None:
    """The format allows neither overlaps nor holes nor bytes left over."""
    at, before = cursor.at, "the header"
    for info in sorted(tensors.values(), key=lambda info: info.start):
        if info.start != at:
            kind = "overlaps" if info.start < at else "leaves a hole after"
            raise damaged(
                cursor.path,
                f"{info.name!r} starts at byte {info.start} and {kind} {before}, "
                f"which ends at byte {at}",
            )
        at, before = info.start + info.size, repr(info.name)
    if at != cursor.size:
        raise damaged(
            cursor.path, f"the tensors end at byte {at}, but the file at byte {cursor.size}"
        )
