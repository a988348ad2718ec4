"""How probable texts are under a model, and how far two computations of one model agree.

Teacher-forced: each token's log probability after the true tokens before it, and the id that the
model would have chosen itself. Each text stands on its own, without a token in front of it, so a
text of n tokens has n - 1 positions. Runs through the engine like any other request (chunks, pages
and mixed steps included). Knows nothing about which texts are worth scoring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwick.errors import ParameterError

if TYPE_CHECKING:
    from qwick.llm import Qwen

Progress = Callable[[int, int], None]  # positions done, positions in all
Texts = Sequence[Sequence[int]]  # token ids of each text

AT_ONCE = 8  # texts in flight: their steps mix, and none waits long for the others


@dataclass(frozen=True)
class Scored:
    """What a model thinks of some texts, all positions in a row, text after text."""

    lengths: NDArray[np.int64]  # [texts] positions of each: its tokens - 1
    logprobs: NDArray[np.float64]  # [positions] natural log probability of the true next token
    best: NDArray[np.int32]  # [positions] the most probable next token

    @classmethod
    def of(cls, parts: Sequence[tuple[NDArray[np.float64], NDArray[np.int32]]]) -> Scored:
        """Join the (logprobs, best) of texts."""
        return cls(
            lengths=np.array([len(logprobs) for logprobs, _ in parts], np.int64),
            logprobs=np.concatenate([logprobs for logprobs, _ in parts]).astype(np.float64),
            best=np.concatenate([best for _, best in parts]).astype(np.int32),
        )

    @property
    def positions(self) -> int:
        """Scored positions of all texts."""
        return len(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log probability."""
        return math.exp(-float(self.logprobs.mean()))

    def first(self, positions: int) -> Scored:
        """Return the part about the first `positions` positions."""
        ends = np.minimum(self.lengths.cumsum(), positions)
        lengths = np.diff(ends, prepend=0)
        return Scored(lengths[lengths > 0], self.logprobs[:positions], self.best[:positions])

    def save(self, path: Path) -> None:
        """Write all of it as one .npz file, atomically."""
        part = path.with_name(f"{path.stem}.part.npz")
        np.savez(part, lengths=self.lengths, logprobs=self.logprobs, best=self.best)
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Scored:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return cls(data["lengths"], data["logprobs"], data["best"])


@dataclass(frozen=True)
class Comparison:
    """One computation of a model beside another, over the same positions."""

    positions: int
    perplexity: float
    reference: float  # the other's perplexity
    agreement: float  # share of positions at which both would choose the same token

    @property
    def ratio(self) -> float:
        """Perplexity over the reference's."""
        return self.perplexity / self.reference

    def holds(self, *, deviation: float, agreement: float) -> bool:
        """Whether the ratio is within `deviation` of 1 and at least `agreement` agree."""
        return abs(self.ratio - 1.0) <= deviation and self.agreement >= agreement


def score_texts(model: Qwen, texts: Texts, progress: Progress | None = None) -> Scored:
    """Score texts through the engine, several at once; each has at least 2 tokens.

    Raises ParameterError, ContextLengthError for a text longer than the context, EngineError.
    """
    total = positions_of(texts)
    parts: list[tuple[NDArray[np.float64], NDArray[np.int32]] | None] = [None] * len(texts)
    done = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {pool.submit(model.score, text): place for place, text in enumerate(texts)}
        try:
            for future in as_completed(waiting):
                scores = future.result()
                parts[waiting[future]] = scores.logprobs, scores.best
                done += len(scores.logprobs)
                if progress is not None:
                    progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Scored.of([part for part in parts if part is not None])


def compare(ours: Scored, reference: Scored) -> Comparison:
    """Compare two scorings; `ours` may cover only the first positions of the reference's."""
    other = reference.first(ours.positions)
    if not np.array_equal(other.lengths, ours.lengths):
        raise ParameterError(
            f"the two scorings are of different texts: {ours.positions:,} positions in "
            f"{len(ours.lengths):,} texts, and {reference.positions:,} in "
            f"{len(reference.lengths):,}"
        )
    return Comparison(
        positions=ours.positions,
        perplexity=ours.perplexity,
        reference=other.perplexity,
        agreement=float((ours.best == other.best).mean()),
    )


def positions_of(texts: Texts) -> int:
    """Return how many positions the texts have."""
    return sum(len(text) - 1 for text in texts)


def first_positions(texts: Texts, positions: int) -> list[Sequence[int]]:
    """Return texts, the last one cut, that have `positions` positions (fewer if there are none)."""
    found: list[Sequence[int]] = []
    for text in texts:
        if positions < 1:
            break
        found.append(text[: positions + 1])
        positions -= len(found[-1]) - 1
    return found
