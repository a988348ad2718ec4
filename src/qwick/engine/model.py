"""What the engine sees of a model: steps over pages, and what the rows of a step lead to.

`qwick.model.decoder` is one; tests have another, without weights.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwick.model.batch import Batch
from qwick.model.expert_use import ExpertUse
from qwick.model.positions import Rotations

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


class Model(Protocol):
    """What the engine sees of a model."""

    @property
    def context(self) -> int:
        """Most positions of one sequence."""
        ...

    @property
    def rotations(self) -> Rotations:
        """Which rotation a request gets; the last serves `context` positions."""
        ...

    @property
    def page_size(self) -> int:
        """Positions in a page of the cache."""
        ...

    @property
    def exact_rows(self) -> int:
        """Most rows of a step whose results are, bit for bit, those of a step with one row."""
        ...

    @property
    def hidden(self) -> int:
        """Numbers of a final state."""
        ...

    @property
    def has_head(self) -> bool:
        """Whether states lead to logits; of a model without, `logits` and `best` are not called."""
        ...

    @property
    def expert_use(self) -> ExpertUse | None:
        """How experts were used so far; None for a model without. Asked from any thread."""
        ...

    def new_cache(self, pages: int) -> Any:
        """Return an opaque cache; its memory should cost nothing until it is touched."""
        ...

    def forward(self, batch: Batch, cache: Any) -> F32:
        """Return F32[r, hidden]: final states of batch.logit_rows, valid until the next call."""
        ...

    def logits(self, hidden: F32) -> F32:
        """Return F32[r, width], valid (and the engine's to write) until the next."""
        ...

    def best(self, hidden: F32, n_vocab: int) -> I32:
        """Return the lowest id of each row's largest logit, I32[r]; -1 where one is not finite."""
        ...
