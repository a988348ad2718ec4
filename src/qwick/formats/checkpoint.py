"""What a checkpoint is to the rest of qwick, whatever its file format: config, tensors, texts.

Names and config keys are those of a Hugging Face folder. Knows nothing of file layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwick.errors import UnsupportedError, UsageError
from qwick.family import MODEL_TYPES
from qwick.formats.mapped import TensorInfo
from qwick.quant.types import StoredType


@dataclass(frozen=True)
class Tensor:
    """One stored tensor: U8[bytes], a read-only view of the mapped file, or what makes the bytes.

    What makes them is called with a and b and gives rows a to b - 1, in memory of their own.
    `shape` is row-major ([n, k] for a matrix of n outputs); a row of the last axis is
    `type.row_bytes(shape[-1])` bytes. The view need not be aligned to more than a byte.
    mapped: it is a file's own pages, which may be given back to the system and come again.
    """

    name: str
    type: StoredType
    shape: tuple[int, ...]
    source: NDArray[np.uint8] | Callable[[int, int], NDArray[np.uint8]]
    mapped: bool = False

    @property
    def data(self) -> NDArray[np.uint8]:
        """U8[bytes]. Where they are made, they are made anew each time: keep what you use twice."""
        if callable(self.source):
            return self.source(0, math.prod(self.shape[:-1]))
        return self.source

    def rows(self, a: int, b: int) -> NDArray[np.uint8]:
        """U8[bytes] of rows a to b - 1 of the last axis, of which no other is made."""
        if callable(self.source):
            return self.source(a, b)
        size = self.type.row_bytes(self.shape[-1])
        return self.source[a * size : b * size]

    def cut(self, name: str, index: int, count: int, shape: tuple[int, ...]) -> Tensor:
        """Return part `index` of `count` of the same size that lie one after the other.

        Where the bytes are made, a part is whole rows, and makes only those.
        """
        source = self.source
        if callable(source):
            make, first = source, index * (math.prod(self.shape[:-1]) // count)
            part = replace(self, source=lambda a, b: make(first + a, first + b))
        else:
            size = self.nbytes // count
            part = replace(self, source=source[index * size : (index + 1) * size])
        return replace(part, name=name, shape=shape)

    @property
    def made(self) -> bool:
        """Whether the bytes are made when they are asked for, and lie nowhere before."""
        return callable(self.source)

    @property
    def nbytes(self) -> int:
        """Bytes of `data`, told without making them."""
        return math.prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])

    @classmethod
    def at(cls, info: TensorInfo, file: NDArray[np.uint8], name: str) -> Tensor:
        """Return the tensor that lies in a mapped `file`: U8[bytes], under its name here."""
        data = file[info.start : info.start + info.size]
        return cls(name, info.type, info.shape, data, mapped=True)


@dataclass(frozen=True)
class TokenizerData:
    """What a checkpoint says of its tokenizer: `json` from a folder, or GGUF's three arrays.

    The strings of a GGUF file are decoded where they are looked at: FormatError if one is no UTF-8.
    """

    json: str | None = None  # text of tokenizer.json
    tokens: Sequence[str] | None = None  # GGUF: [n] in the byte-to-unicode alphabet of GPT-2
    token_types: Sequence[int] | None = None  # GGUF: [n] 1 normal, 3 control, 4 user-defined, ...
    merges: Sequence[str] | None = None  # GGUF: [m] "left right", best first
    pre: str | None = None  # GGUF: name of the pre-tokenizer, "qwen2"
    added_tokens: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    eos_id: int | None = None
    bos_id: int | None = None
    pad_id: int | None = None
    add_bos: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, opened. `close()`, or leaving a `with` block, gives the mapping back.

    `tokenizer` is read when first asked for, and raises FormatError when the checkpoint's tokenizer
    is missing or damaged.
    """

    path: Path
    format: str  # "gguf" | "safetensors"
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    chat_template: str | None
    generation: Mapping[str, Any]
    name: str | None
    author: str | None
    license: str | None
    size_bytes: int  # of all its files of tensors
    read_tokenizer: Callable[[], TokenizerData] = field(repr=False)
    release: Callable[[], None] = field(repr=False)
    files: tuple[Path, ...] = ()  # that hold its tensors, in order

    @cached_property
    def tokenizer(self) -> TokenizerData:
        """Read on first use, for not every use of a checkpoint needs it."""
        return self.read_tokenizer()

    def close(self) -> None:
        """Forget the tensors; the files are unmapped once no array taken from them is left.

        Arrays in use stay valid, and are read from the file again. Closing twice is fine.
        """
        self.__dict__.pop("tokenizer", None)  # its strings lie in the file
        self.release()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_known(path: Path, what: str, value: object, known: Collection[str] | None = None) -> str:
    """Return `value` if it is known (default: a model type), else raise UnsupportedError."""
    known = MODEL_TYPES if known is None else known
    if isinstance(value, str) and value in known:
        return value
    raise UnsupportedError(
        f"{path}: the {what} {value!r:.100} is not supported; known: {', '.join(known)}"
    )


def closed(path: Path) -> UsageError:
    """Return the error for reading from a checkpoint after `close()`."""
    return UsageError(f"{path}: the checkpoint is closed", hint="open it again")
