"""Matrices re-encoded to a small class while a checkpoint is loaded: `quantize=`.

What is computed with is another model then, if a near one: weights are rounded to the nearest step,
without a look at what they do. Knows which tensors there are, not how a class is computed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwick.errors import FormatError, ParameterError
from qwick.formats.checkpoint import Tensor
from qwick.model.arch import read_arch
from qwick.native import ops
from qwick.quant.decode import decode
from qwick.quant.encode import encode
from qwick.quant.types import StoredType
from qwick.values import refused

if TYPE_CHECKING:
    from qwick.formats.checkpoint import Checkpoint

KINDS = {"int8": StoredType.Q8_0, "int4": StoredType.Q4_0, "nf4": StoredType.NF4}
HEAD = StoredType.Q8_0
"""What the head becomes: each of its rows is a token, and 4 bits would cost most there."""

_PIECE = 1 << 18  # weights that a thread encodes at a time: its temporaries stay in the cache
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


def requantised(checkpoint: Checkpoint, quantize: str | None) -> Checkpoint:
    """Return the checkpoint with its matrices in a small class; None: as it is; ParameterError.

    quantize: "int8" (blocks as Q8_0), "int4" (Q4_0) or "nf4" (NF4): of attention, of feed-forward
    parts and of experts. The head becomes 8 bits in all three, a copy of the embedding if they are
    tied; a checkpoint without a head gets none. Embedding, routers, norms and biases stay as they
    are, and so does a matrix whose quants have no more bits already, however many its scales take,
    or whose rows are no multiple of 32 long. Each is made when it is asked for.
    """
    if quantize is None:
        return checkpoint
    if not isinstance(quantize, str) or quantize not in KINDS:
        raise refused("quantize", quantize, f"{', '.join(KINDS)}, or none")
    tensors, config = dict(checkpoint.tensors), checkpoint.config
    arch = read_arch(config)
    own = tensors.get(_EMBEDDING if arch.tied else _HEAD) if arch.head else None
    if own is not None and (head := _encoded(own, HEAD)) is not own:
        tensors[_HEAD] = replace(head, name=_HEAD)
        config = MappingProxyType({**config, "tie_word_embeddings": False})
    for name, tensor in checkpoint.tensors.items():
        if name.endswith("_proj.weight"):
            tensors[name] = _encoded(tensor, KINDS[quantize])
    return replace(checkpoint, config=config, tensors=MappingProxyType(tensors))


def _encoded(tensor: Tensor, stored: StoredType) -> Tensor:
    """Return a matrix in another type if its quants have more bits than that has."""
    if len(tensor.shape) != 2 or tensor.shape[1] % stored.block:
        return tensor
    if _bits(tensor.type) <= _bits(stored):
        return tensor
    return Tensor(tensor.name, stored, tensor.shape, lambda a, b: _encode(tensor, stored, a, b))


def _bits(stored: StoredType) -> int:
    """Return the bits of a quant, or of a float, without scales: what its packed class is named."""
    return int("".join(filter(str.isdigit, stored.packed)))


def _encode(tensor: Tensor, stored: StoredType, a: int, b: int) -> NDArray[np.uint8]:
    """Return rows a to b - 1 in another type; what they are encoded from is made in pieces too."""
    k = tensor.shape[1]
    out = np.empty((b - a, stored.row_bytes(k)), np.uint8)
    step = max(8, _PIECE // k // 8 * 8)  # quantised folders make eight rows at a time

    def piece(begin: int) -> None:
        end = min(begin + step, b)
        raw = tensor.rows(begin, end).reshape(end - begin, -1)
        out[begin - a : end - a] = encode(stored, decode(tensor.type, raw))

    try:
        with ThreadPoolExecutor(ops.threads()) as threads:
            for _ in threads.map(piece, range(a, b, step)):
                pass
    except ParameterError as error:
        raise FormatError(
            f"{tensor.name} cannot be quantised: {error.message}", hint="load it without quantize"
        ) from None
    return out.reshape(-1)
