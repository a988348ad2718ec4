"""One step's tokens as index arrays: what the engine hands to a model.

Knows nothing of requests, text, sampling or weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]


class Run(NamedTuple):
    """Rows begin .. end - 1, all of prompts or all of answers."""

    begin: int
    end: int
    prompt: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step, sequences side by side; every array int32 and C-contiguous.

    With n rows (tokens) of s sequences, of which r rows want logits:
    """

    ids: I32  # [n] token ids
    positions: I32  # [n] position of each token in its own sequence
    slots: I32  # [n] where its key and value go: page * PAGE_SIZE + offset in the page
    starts: I32  # [s + 1] sequence i owns the rows starts[i] .. starts[i + 1] - 1
    lengths: I32  # [s] tokens of sequence i in the cache once this step is done
    pages: I32  # [s, p] page table of sequence i, in order; padded with 0
    logit_rows: I32  # [r] ascending rows whose logits are wanted
    rotations: tuple[int, ...] = ()  # of each sequence; empty: the first of all
    runs: tuple[Run, ...] = ()  # every row in turn; empty: all are of answers
