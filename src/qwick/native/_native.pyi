"""What csrc/bind.cpp exports; `ops.py` and `mapping.py` document shapes and meaning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Packed:
    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def segments(self) -> list[tuple[str, int]]: ...
    def set_next(self, next: Packed, pairs: bool) -> None: ...

class Experts:
    def __init__(self, parts: Sequence[tuple[Packed, Packed]], shared: bool) -> None: ...
    @property
    def uses(self) -> list[int]: ...
    @property
    def calls(self) -> int: ...
    @property
    def taken(self) -> int: ...
    def chosen(self, top: int, logits: NDArray[np.float32]) -> list[int]: ...

class Mapping:
    def __init__(self, file: int, bytes: int) -> None: ...
    def ask(self, begin: int, bytes: int) -> None: ...
    def give_back(self, begin: int, bytes: int) -> None: ...

PACKING: int

def experts(
    set: Experts,
    top: int,
    renormalize: bool,
    x: NDArray[np.float32],
    logits: NDArray[np.float32],
    out: NDArray[np.float32],
    prompt: bool,
) -> None: ...

class Bpe:
    def __init__(
        self,
        tokens: NDArray[np.uint8],
        token_starts: NDArray[np.int64],
        merges: NDArray[np.uint8],
        merge_starts: NDArray[np.int64],
    ) -> None: ...
    def __len__(self) -> int: ...
    def token(self, id: int) -> str: ...
    def encode(self, words: str) -> list[int]: ...

def pack(
    matrices: list[list[tuple[str, NDArray[np.uint8], int, int]]], mapped: bool
) -> list[Packed]: ...
def pack_to(
    matrices: list[list[tuple[str, NDArray[np.uint8], int, int]]],
    offsets: list[int],
    out: NDArray[np.uint8],
    mapped: bool,
) -> None: ...
def packed_at(
    matrices: list[list[tuple[str, int, int]]], offsets: list[int], mapping: Mapping
) -> list[Packed]: ...
def packed_bytes(shapes: list[tuple[str, int, int]]) -> int: ...
def unpack(w: Packed, out: NDArray[np.float32]) -> None: ...
def matmul(
    w: Packed,
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    prompt: bool,
) -> None: ...
def matmul_argmax(
    w: Packed, x: NDArray[np.float32], columns: int, out: NDArray[np.int32]
) -> None: ...
def gather_rows(
    type: str,
    data: NDArray[np.uint8],
    n: int,
    ids: NDArray[np.int32],
    out: NDArray[np.float32],
) -> None: ...
def add_rms_norm(
    x: NDArray[np.float32],
    delta: NDArray[np.float32] | None,
    weight: NDArray[np.float32],
    eps: float,
    out: NDArray[np.float32],
) -> None: ...
def mlp(
    gate_up: Packed,
    down: Packed,
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    prompt: bool,
) -> None: ...
def rope_store(
    qkv: NDArray[np.float32],
    heads: int,
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    positions: NDArray[np.int32],
    slots: NDArray[np.int32],
    q_norm: NDArray[np.float32] | None,
    k_norm: NDArray[np.float32] | None,
    eps: float,
    keys: NDArray[Any],
    values: NDArray[Any],
) -> None: ...
def attention(
    qkv: NDArray[np.float32],
    heads: int,
    keys: NDArray[Any],
    values: NDArray[Any],
    pages: NDArray[np.int32],
    starts: NDArray[np.int32],
    positions: NDArray[np.int32],
    out: NDArray[np.float32],
    sums: NDArray[np.float32] | None,
) -> None: ...
def rotate(
    qkv: NDArray[np.float32],
    heads: int,
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    positions: NDArray[np.int32],
    norm: NDArray[np.float32] | None,
    eps: float,
) -> None: ...
def isa() -> str: ...
def available() -> Sequence[tuple[str, str, bool]]: ...
def force(name: str) -> None: ...
def threads() -> int: ...
def set_threads(n: int) -> None: ...
def read_bandwidth(bytes: int) -> float: ...
def peak_rate() -> float: ...
def profile(on: bool) -> None: ...
def profiled() -> list[tuple[str, int, float, float, float]]: ...
