"""The tensors of a quantised folder, taken one by one and checked, and its quantization_config.

Knows no scheme: which parts make a matrix, and what they mean, is said in the file of each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwick.errors import ConfigError, FormatError, UnsupportedError, shown
from qwick.formats.checkpoint import Tensor
from qwick.formats.mapped import FETCH_AGAIN, TensorInfo, damaged
from qwick.formats.safetensors import SafetensorsFile
from qwick.quant.types import StoredType

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

FLOATS = ("F16", "BF16", "F32")
PIECE = 1 << 21  # weights that are converted at a time: what that needs besides is some 30 MB

_NUMPY = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
}
DTYPES = {"bfloat16": StoredType.BF16, "float16": StoredType.F16, "float32": StoredType.F32}


@dataclass(frozen=True)
class Part:
    """A tensor as the folder stores it; `data` is U8[bytes]."""

    name: str
    dtype: str  # as safetensors writes it
    shape: tuple[int, ...]
    data: U8

    def numbers(self) -> NDArray[Any]:
        """Return a view in the dtype's own numbers; of bf16 and floats of 8 bits: their bits."""
        return self.data.view(_NUMPY.get(self.dtype, "u1")).reshape(self.shape)

    def floats(self) -> F32:
        """Return F16, BF16, F32 or e8m0 numbers as float32."""
        return floats_of(self.numbers(), self.dtype)


def floats_of(numbers: NDArray[Any], dtype: str) -> F32:
    """Return numbers of a dtype, or some of them, as float32; e8m0 is 2^(e - 127), 255 is NaN."""
    if dtype == "F8_E8M0":
        powers: F32 = np.ldexp(np.float32(1), numbers.astype(np.int32) - 127)
        powers[numbers == 255] = np.nan
        return powers
    if dtype == "BF16":
        numbers = (numbers.astype(np.uint32) << np.uint32(16)).view(np.float32)
    out: F32 = numbers.astype(np.float32)
    return out


def rounded(values: F32, stored: StoredType) -> U8:
    """Return F32[r, k] as U8[r, bytes] of F32, F16 or BF16: to the nearest, ties to even."""
    values = np.ascontiguousarray(values)
    if stored is StoredType.F32:
        return values.astype("<f4").view(np.uint8)
    if stored is StoredType.F16:
        with np.errstate(over="ignore"):  # to infinity, as everybody rounds it
            return values.astype("<f2").view(np.uint8)
    bits = values.view(np.uint32)
    up = (bits >> np.uint32(16)) & np.uint32(1)
    near = (bits + np.uint32(0x7FFF) + up) >> np.uint32(16)
    near = np.where(np.isnan(values), bits >> np.uint32(16) | np.uint32(0x40), near)
    out: U8 = near.astype("<u2").view(np.uint8)
    return out


def in_pieces(
    stored: StoredType, shape: tuple[int, int], make: Callable[[int, int], U8]
) -> Callable[[int, int], U8]:
    """Return what makes the U8[bytes] of any rows of a matrix from make(a, b): its rows a to b - 1.

    Pieces begin and end at multiples of 8 rows, or at the end of the matrix; what of them is not
    asked for is left out.
    """
    n, k = shape

    def rows(a: int, b: int) -> U8:
        out = np.empty((b - a, stored.row_bytes(k)), np.uint8)
        step = max(8, PIECE // k // 8 * 8)
        for begin in range(a // 8 * 8, b, step):
            end = min(begin + step, -(-b // 8) * 8, n)
            first, last = max(a, begin), min(b, end)
            out[first - a : last - a] = make(begin, end)[first - begin : last - begin]
        return out.reshape(-1)

    return rows


class Parts:
    """Every tensor of a folder; what is taken is gone, and the rest are ordinary ones."""

    def __init__(self, path: Path, files: Sequence[SafetensorsFile]) -> None:
        self.path = path
        self._left: dict[str, Part] = {}
        for file in files:
            raw = np.frombuffer(file.data, np.uint8)
            for info in file.tensors.values():
                dtype = info.type.name if isinstance(info, TensorInfo) else info.dtype
                data = raw[info.start : info.start + info.size]
                self._left[info.name] = Part(info.name, dtype, info.shape, data)

    def __contains__(self, name: str) -> bool:
        """Whether a tensor is there that was not taken."""
        return name in self._left

    def ending(self, end: str) -> list[str]:
        """Return the names that end so, without that end."""
        return [name[: -len(end)] for name in self._left if name.endswith(end)]

    def take(
        self,
        name: str,
        dtypes: Collection[str] | None = None,
        shape: Sequence[int | None] | None = None,
    ) -> Part:
        """Return a tensor of one of these dtypes and of this shape (None: any); FormatError."""
        part = self._left.pop(name, None)
        if part is None:
            raise damaged(self.path, f"the tensor {shown(name)} is missing")
        if dtypes is not None and part.dtype not in dtypes:
            raise damaged(
                self.path, f"{shown(name)} is {part.dtype}; allowed: {', '.join(sorted(dtypes))}"
            )
        if shape is not None and (
            len(shape) != len(part.shape)
            or any(w not in (None, s) for w, s in zip(shape, part.shape, strict=True))
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise damaged(
                self.path, f"{shown(name)} has the shape {list(part.shape)}, expected [{wanted}]"
            )
        return part

    def rest(self) -> dict[str, Tensor]:
        """Return what is left as ordinary tensors; FormatError if one of them is none."""
        for part in self._left.values():
            if part.dtype not in FLOATS:
                raise damaged(
                    self.path, f"{shown(part.name)} ({part.dtype}) belongs to no quantised matrix"
                )
        return {
            name: Tensor(name, StoredType[part.dtype], part.shape, part.data, mapped=True)
            for name, part in self._left.items()
        }


def fault(parts: Parts, name: str, text: str, hint: str = FETCH_AGAIN) -> FormatError:
    """Return the error that says what is wrong with a tensor."""
    return damaged(parts.path, f"{shown(name)} {text}", hint)


@dataclass
class Settings:
    """A quantization_config, read key by key; a key that nobody reads or knows is refused."""

    path: Path
    method: str
    values: Mapping[str, Any]
    dtype: StoredType  # the checkpoint's own
    _read: set[str] = field(default_factory=lambda: {"quant_method"})

    def one_of(self, key: str, default: Any, *allowed: Any) -> Any:
        """Return a value that is one of those allowed, or absent."""
        self._read.add(key)
        value = self.values.get(key)
        if value is None:
            return default
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise unsupported(self, key, value, ", ".join(shown(one) for one in allowed))
        return value

    def group_size(self, default: int) -> int:
        """Return the columns of a group, -1 for all of them."""
        self._read.add("group_size")
        value = self.values.get("group_size", default)
        if type(value) is not int or not (value == -1 or 1 <= value < 1 << 31):
            raise ConfigError(
                f"{self.path}: the group_size of {self.method} is {shown(value)}; allowed: -1 (a "
                "whole row) and whole numbers from 1"
            )
        return value

    def take(self, key: str) -> Any:
        """Return a value that the caller checks."""
        self._read.add(key)
        return self.values.get(key)

    def finish(self, *idle: str) -> None:
        """Refuse keys that say something and are neither read nor idle: may change no numbers."""
        for key, value in self.values.items():
            if key not in self._read and key not in idle and value is not None:
                raise UnsupportedError(
                    f"{self.path}: quantization_config has {shown(key)}, which is not known of "
                    f"{self.method} and may change its numbers; known: "
                    f"{', '.join(sorted(self._read.union(idle)))}"
                )


def unsupported(settings: Settings, key: str, value: object, allowed: str) -> UnsupportedError:
    """Return the error for a value that is not implemented."""
    return UnsupportedError(
        f"{settings.path}: {settings.method} with {key} {shown(value)} is not supported; "
        f"allowed: {allowed}"
    )


def dtype_of(path: Path, config: Mapping[str, Any]) -> StoredType:
    """Return the dtype that a checkpoint's weights had, and have when they are decoded."""
    value = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    if not isinstance(value, str) or value not in DTYPES:
        raise ConfigError(
            f"{path}: torch_dtype in config.json is {shown(value)}; allowed: {', '.join(DTYPES)}"
        )
    return DTYPES[value]
