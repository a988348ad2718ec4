"""Every kernel: its shapes, dtypes and aliasing. The only importer of the extension module.

Arrays are C-contiguous, aligned and on the CPU; a wrong dtype, layout or alignment is a TypeError,
a wrong shape a ValueError, an index out of range an IndexError: these are defects of the caller's
code, not of a user's input. Outputs are written in place and must not overlap inputs unless said.
Each call uses all threads of the pool and releases the GIL; concurrent calls take turns.
`reference.py` has the same functions in NumPy.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qwick import settings
from qwick.errors import NativeBuildError

if TYPE_CHECKING:
    F32 = NDArray[np.float32]
    I32 = NDArray[np.int32]
    U8 = NDArray[np.uint8]
    Array = NDArray[Any]

try:
    from qwick.native import _native as _ext
except ImportError as error:  # pragma: no cover - only in a broken installation
    raise NativeBuildError(
        f"the compiled kernels cannot be loaded: {error}",
        hint="raise the limit on this process's memory (ulimit -v)"
        if "failed to map" in str(error)
        else "install qwick with pip, which compiles them: it needs a C++17 compiler (g++)",
    ) from error

extension = _ext  # for `mapping.py`

PAGE_SIZE = 32
"""Tokens per page of the KV cache: the layout of keys depends on it (csrc/kernels.h, kPage)."""

AMX_SMALL_ROWS = 12
"""Rows up to which the matrix unit is not used (csrc/isa/amx.cpp)."""

ANY_ROWS = 1 << 30


@dataclass(frozen=True)
class InstructionSet:
    """A set of kernels in this build. `missing` is what the CPU lacks for it ('' if nothing)."""

    name: str
    missing: str
    selectable: bool  # False: an emulation for tests, used only when forced

    @property
    def usable(self) -> bool:
        """Whether this CPU can run it."""
        return not self.missing


class Packed:
    """Weights laid out for the kernels: one or several matrices `[n_i, k]` side by side.

    Immutable, and independent of the arrays it was made from. `n` is the sum of the n_i;
    `segments` lists (packed class, n_i); `bytes` is the memory it holds, or what of a file it maps.
    """

    __slots__ = ("bytes", "handle", "k", "n", "segments")

    def __init__(self, handle: _ext.Packed) -> None:
        self.handle = handle
        self.n = handle.n
        self.k = handle.k
        self.bytes = handle.bytes
        self.segments = handle.segments

    def set_next(self, following: Packed, *, pairs: bool = False) -> None:
        """Say which weights are read next (pairs: as gate and up, by `mlp`).

        Threads that are done with this one ask for the beginning of it, so that the memory has work
        between two calls. A hint: results do not change. Keeps the memory of `following` alive.
        """
        self.handle.set_next(_handle(following), pairs)


def _handle(w: Packed) -> _ext.Packed:
    """Return what the kernels know packed weights by; TypeError for anything else."""
    if not isinstance(w, Packed):
        raise TypeError(f"packed weights are of type {type(w).__name__}; allowed: a Packed")
    return w.handle


Part = tuple[str, "U8", int, int]  # stored type, bytes, n, k


def pack(parts: Sequence[Part]) -> Packed:
    """Pack matrices that share their input: each part is (stored type, bytes, n, k).

    Stored types: those of `quant.types.StoredType`, in lower case; bytes: U8[n * row bytes], rows
    of whole blocks as a GGUF file has them. Packing never rounds. Raises ValueError where sizes
    disagree.
    """
    return pack_all([parts])[0]


def pack_all(matrices: Sequence[Sequence[Part]], *, mapped: bool = False) -> list[Packed]:
    """Pack several, each as `pack` does, in one go: all threads work from the first byte on.

    They share one memory, which is given back with the last of them. mapped: every part is a view
    of a file mapped read-only; its pages are then read ahead, and given back to the system as they
    are packed (reading them again costs time only).
    """
    _choose_once()
    return [Packed(handle) for handle in _ext.pack([list(m) for m in matrices], mapped)]


def matmul(x: F32, w: Packed, out: F32, bias: F32 | None = None, *, prompt: bool = False) -> None:
    """out = x W^T + bias.  x: F32[m, k] · out: F32[m, n] · bias: F32[n].

    Integer weights meet x in 8 bits with a scale per 32 columns (or in bf16, on a matrix unit);
    float weights meet it in float32 (bf16 weights on a matrix unit: in bf16). prompt: the rows are
    a prompt's, which may take a quicker way (`prompts_differ`): integer weights rounded to 8 bits
    with a scale per output and 896 columns, or a matrix unit however few rows there are.
    `reference.matmul` states it exactly.
    """
    _ext.matmul(_handle(w), x, out, bias, prompt)


def matmul_argmax(x: F32, w: Packed, columns: int, out: I32) -> None:
    """out[i] = where the largest of the first `columns` values of row i of x W^T stands.

    x: F32[m, k] · w: one matrix · out: I32[m]. The values are those of `matmul`, but they never
    become an array; the lowest index among equals; -1 where one of them is NaN or infinite.
    """
    _ext.matmul_argmax(_handle(w), x, columns, out)


def mlp(x: F32, gate_up: Packed, down: Packed, out: F32, *, prompt: bool = False) -> None:
    """out = (silu(x G^T) * (x U^T)) D^T, gate_up: G above U, each [n, k]; down: D [m, n].

    x: F32[rows, k] · out: F32[rows, m]. As two products of `matmul` with `swiglu` between them, but
    what lies between never becomes an array.
    """
    _ext.mlp(_handle(gate_up), _handle(down), x, out, prompt)


class Experts:
    """The experts of a layer: of each, gate above up, and down, as `mlp` takes them.

    All are as wide as the others, but may be of any height. shared: the last one takes every row.
    """

    __slots__ = ("handle", "parts", "shared")

    def __init__(self, parts: Sequence[tuple[Packed, Packed]], *, shared: bool = False) -> None:
        self.parts = tuple(parts)  # which must live as long as this does
        self.shared = shared
        pairs = [(_handle(gate_up), _handle(down)) for gate_up, down in self.parts]
        self.handle = _ext.Experts(pairs, shared)

    @property
    def uses(self) -> list[int]:
        """How many rows each has taken so far."""
        return self.handle.uses

    @property
    def calls(self) -> int:
        """How often `experts` has been called."""
        return self.handle.calls

    @property
    def taken(self) -> int:
        """How many experts were in use in these calls, summed."""
        return self.handle.taken

    def chosen(self, top: int, logits: F32) -> list[int]:
        """Return which experts `experts` will use for F32[m, experts], but for a shared one."""
        return self.handle.chosen(top, logits)


def experts(
    x: F32,
    logits: F32,
    of: Experts,
    top: int,
    out: F32,
    *,
    renormalize: bool,
    prompt: bool = False,
) -> None:
    """out = sum over the experts that a row takes: weight * `mlp` of it.

    x: F32[m, k] · logits: F32[m, experts] · out: F32[m, n]. A row takes the `top` experts with the
    largest logits, the first among equals; their weights are the softmax of all (renormalize: of
    those taken). A shared expert, the last, takes every row beside them, by the sigmoid of its
    logit, which is in no softmax. Where a logit is NaN or infinite, the row's result is NaN.

    Rows are grouped by expert: the weights of each expert in use are read once.
    """
    if not isinstance(of, Experts):
        raise TypeError(f"experts are of type {type(of).__name__}; allowed: an Experts")
    _ext.experts(of.handle, top, renormalize, x, logits, out, prompt)


def prompts_differ() -> bool:
    """Whether the instruction set in use has another way for the rows of prompts."""
    return isa().startswith(("avx512", "amx"))


def exact_rows(w: Packed) -> int:
    """Return how many rows of answers a step may have so that drafts are exact and pay.

    Exact: bit for bit what each row has alone. All sums are made in the same order however many
    rows there are, except that AMX meets many rows in bf16. Float weights: 1, because what
    rows cost there is not measured (`engine/draft.py` has the costs for integers).
    """
    if not all(kind.startswith("i") for kind, _ in _handle(w).segments):
        return 1
    return AMX_SMALL_ROWS if isa().startswith("amx") else ANY_ROWS


def unpack(w: Packed) -> F32:
    """Return the values that packed weights stand for: F32[n, k], bit for bit the stored ones."""
    handle = _handle(w)
    out = np.empty((w.n, w.k), np.float32)
    _ext.unpack(handle, out)
    return out


def gather_rows(stored: str, data: U8, n: int, ids: I32, out: F32) -> None:
    """out[i] = row ids[i] of a stored (not packed) matrix [n, k], decoded.

    stored, data: as in `pack` · ids: I32[m], 0 <= id < n · out: F32[m, k].
    """
    _ext.gather_rows(stored, data, n, ids, out)


def add_rms_norm(x: F32, delta: F32 | None, weight: F32, eps: float, out: F32) -> None:
    """X += delta (when given); out = x / sqrt(mean(x^2) + eps) * weight.

    x, delta, out: F32[m, n], x updated in place · weight: F32[n]. Zhang and Sennrich 2019.
    """
    _ext.add_rms_norm(x, delta, weight, eps, out)


def rope_store(
    qkv: F32,
    heads: int,
    cos: F32,
    sin: F32,
    positions: I32,
    slots: I32,
    norms: tuple[F32, F32] | None,
    eps: float,
    keys: NDArray[Any],
    values: NDArray[Any],
) -> None:
    """Rotate queries and keys in place, and put keys and values into their cache slots.

    qkv: F32[m, (heads + 2 kv_heads) * head_dim], queries first · cos, sin: F32[positions,
    head_dim / 2] · positions: I32[m], rows of cos and sin · slots: I32[m] · norms: RMSNorm weights
    F32[head_dim] of queries and keys, applied per head before the rotation (Qwen3) · keys, values:
    [pages, kv_heads, two
    dimensions more], laid out as csrc/kernels.h says: float32, keys [head_dim, PAGE_SIZE], values
    [PAGE_SIZE, head_dim]; bf16 as uint16, keys [head_dim / 2, 2 PAGE_SIZE], values [PAGE_SIZE / 2,
    2 head_dim]; 8 bits with scales as uint8, keys [PAGE_SIZE, head_dim + head_dim / 8], values
    [PAGE_SIZE, head_dim + 8] (head_dim a multiple of 32). Component i turns with component i +
    head_dim / 2 (Su et al. 2021, in the GPT-NeoX pairing).
    """
    q_norm, k_norm = norms if norms is not None else (None, None)
    _ext.rope_store(qkv, heads, cos, sin, positions, slots, q_norm, k_norm, eps, keys, values)


def attention(
    qkv: F32,
    heads: int,
    keys: NDArray[Any],
    values: NDArray[Any],
    pages: I32,
    starts: I32,
    positions: I32,
    out: F32,
    sums: F32 | None = None,
) -> None:
    """Causal attention of each row over its own sequence's pages, scaled by 1/sqrt(head_dim).

    qkv: F32[m, (heads + 2 kv_heads) * head_dim], of which the queries are read · keys, values: as
    rope_store left them · pages: I32[s, p] · starts: I32[s + 1], rows of each sequence ·
    positions: I32[m]; a row sees the positions 0 to its own · out: F32[m, heads * head_dim].
    sums, if given: F32[m, heads], the logarithm of what the weights are divided by, so that results
    over several parts of a sequence can be joined.
    8-bit pages meet queries in 8 bits; bf16 pages in bf16 where the CPU multiplies pairs of it.
    """
    _ext.attention(qkv, heads, keys, values, pages, starts, positions, out, sums)


def rotate(
    qkv: F32, heads: int, cos: F32, sin: F32, positions: I32, norm: F32 | None, eps: float
) -> None:
    """Rotate queries in place as `rope_store` does, and nothing else.

    qkv: F32[m, heads * head_dim + any] · norm: RMSNorm weights F32[head_dim] or None.
    """
    _ext.rotate(qkv, heads, cos, sin, positions, norm, eps)


# ---- text ----------------------------------------------------------------------------------------

Bpe = _ext.Bpe
"""Byte pair encoding (csrc/bpe.h): `Bpe(tokens, token_starts, merges, merge_starts)`.

tokens, merges: U8[bytes], strings as GGUF stores them, each behind its length in 8 bytes ·
starts: I64[count], where each length stands. The id of a token is its number; merges are
"left right", best first. ValueError for what is no UTF-8, a token listed twice, a merge that is not
made of two tokens and one itself. `token(id)`: its string. `encode(words)`: list of the ids of
words with a blank between two; a character that is no token is left out. Threads may share one.
"""


# ---- the machine ---------------------------------------------------------------------------------

_choice = threading.Lock()
_choice_made = _forced = False


def _choose_once() -> None:
    """Obey QWICK_ISA and QWICK_THREADS at the first use; NativeBuildError, ParameterError."""
    global _choice_made
    with _choice:
        if _choice_made:
            return
        name = settings.ISA.get()
        if name is not None and not _forced:
            try:
                _force(name)
            except NativeBuildError as error:
                said = f"the environment variable {settings.ISA.name} asks for it"
                raise NativeBuildError(f"{error.message}; {said}", hint=error.hint) from None
        count = settings.THREADS.get()
        if count is not None:
            _ext.set_threads(count)
        _choice_made = True


@dataclass(frozen=True)
class KernelTime:
    """Calls of one kind of kernel, and the least that such calls must move and compute.

    seconds: wall time. bytes: each weight, activation, key and value counted once a call.
    """

    name: str
    calls: int
    seconds: float
    bytes: float
    operations: float


def profile(on: bool) -> None:
    """Count every kernel call from now on, or stop. Switching on forgets what was counted."""
    _ext.profile(on)


def profiled() -> list[KernelTime]:
    """Return what was counted since `profile(True)`, each kind in the order of its first call."""
    return [KernelTime(*entry) for entry in _ext.profiled()]


def available() -> list[InstructionSet]:
    """Every instruction set in this build, best first."""
    return [InstructionSet(*entry) for entry in _ext.available()]


def isa() -> str:
    """The instruction set in use."""
    _choose_once()
    return _ext.isa()


def force(name: str) -> None:
    """Use the named instruction set from now on; NativeBuildError if unknown or unsupported."""
    global _forced
    with _choice:
        _force(name)
        _forced = True


def _force(name: str) -> None:
    try:
        _ext.force(name)
    except ValueError as error:
        raise NativeBuildError(
            str(error), hint="`qwick doctor` lists what this CPU can run"
        ) from None


def threads() -> int:
    """Threads in the pool, the calling one included."""
    _choose_once()
    return _ext.threads()


def set_threads(count: int) -> None:
    """Resize the pool (1 to 1024); waits for a running kernel."""
    _choose_once()
    _ext.set_threads(count)


def read_bandwidth(size: int = 512 << 20) -> float:
    """Bytes per second that all threads together read from memory: best of five over `size`."""
    _choose_once()
    return _ext.read_bandwidth(size)


def peak_rate() -> float:
    """Operations per second of the matrix kernels' instruction on registers (an upper bound)."""
    _choose_once()
    return _ext.peak_rate()
