"""How probable texts are under a model, and how far two computations of one model agree.

Teacher-forced: each token's log probability after the true tokens before it, and the id that the
model would have chosen itself. Each text stands on its own, without a token in front of it, so a
text of n tokens has n - 1 positions. Runs through the engine like any other request (chunks, pages
and mixed steps included). Knows nothing about which texts are worth scoring.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from qwick.engine.request import perplexity_of
from qwick.errors import FormatError, ParameterError, ResourceError, shown
from qwick.values import a_path, check_kind, real, refused, whole

if TYPE_CHECKING:
    from qwick.llm import Qwen

Progress = Callable[[int, int], None]  # positions done, positions in all
Texts = Sequence[Sequence[int]]  # token ids of each text

MOST_POSITIONS = 1 << 40
# What NumPy's reader lets through from damaged files: one may ask for any amount of memory.
_UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, MemoryError),
    *(BadZipFile, zlib.error),
)
AT_ONCE = 8  # texts in flight: their steps mix, and none waits long for the others


@dataclass(frozen=True)
class Scored:
    """What a model thinks of some texts, all positions in a row, text after text."""

    lengths: NDArray[np.int64]  # [texts] positions of each: its tokens - 1
    logprobs: NDArray[np.float64]  # [positions] natural log probability of the true next token
    best: NDArray[np.int32]  # [positions] the most probable next token

    @classmethod
    def of(cls, parts: Sequence[tuple[NDArray[np.float64], NDArray[np.int32]]]) -> Scored:
        """Join the (logprobs, best) of texts, at least one."""
        check_kind("parts", parts, (list, tuple), "a list of (logprobs, best)")
        for part in parts:
            pair = isinstance(part, tuple) and len(part) == 2
            if not (pair and all(isinstance(a, np.ndarray) and a.ndim == 1 for a in part)):
                raise refused("a part", part, "(logprobs, best), two arrays of one dimension")
        if not parts:
            raise refused("parts", parts, "at least one")
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
        return perplexity_of(self.logprobs)

    def first(self, positions: int) -> Scored:
        """Return the part about the first `positions` positions."""
        positions = whole("positions", positions, 0, MOST_POSITIONS)
        ends = np.minimum(self.lengths.cumsum(), positions)
        lengths = np.diff(ends, prepend=0)
        return Scored(lengths[lengths > 0], self.logprobs[:positions], self.best[:positions])

    def save(self, path: Path) -> None:
        """Write all of it as one .npz file, atomically."""
        path = a_path("path", path)
        part = path.parent / f"{path.stem}.part.npz"
        try:
            np.savez(part, lengths=self.lengths, logprobs=self.logprobs, best=self.best)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise ResourceError(
                f"{shown(str(path))} cannot be written: {error.strerror or error}",
                hint="name a file in a folder that you may write to",
            ) from error

    @classmethod
    def read(cls, path: Path) -> Scored:
        """Read what `save` wrote."""
        path = a_path("path", path)
        try:
            with np.load(path, allow_pickle=False) as data:
                scored = cls(data["lengths"], data["logprobs"], data["best"])
        except _UNREADABLE as error:
            reason = getattr(error, "strerror", None) or error
            raise FormatError(
                f"{shown(str(path))} holds no scores: {reason}",
                hint="give a file that `save` has written",
            ) from error
        if not scored._fits():
            raise FormatError(
                f"{shown(str(path))} holds no scores: its arrays do not fit together",
                hint="give a file that `save` has written",
            )
        return scored

    def _fits(self) -> bool:
        """Whether the arrays are as the fields above say."""
        arrays = (self.lengths, self.logprobs, self.best)
        if [(a.dtype, a.ndim) for a in arrays] != [(np.dtype(t), 1) for t in ("i8", "f8", "i4")]:
            return False
        if (self.lengths < 0).any():
            return False
        return int(self.lengths.sum()) == len(self.logprobs) == len(self.best)


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
        deviation = real("deviation", deviation, 0.0, 1e300)
        agreement = real("agreement", agreement, 0.0, 1.0)
        return abs(self.ratio - 1.0) <= deviation and self.agreement >= agreement


def score_texts(model: Qwen, texts: Texts, progress: Progress | None = None) -> Scored:
    """Score texts through the engine, several at once; each has at least 2 tokens.

    Raises ParameterError, ContextLengthError for a text longer than the context, EngineError.
    """
    total = positions_of(texts)
    check_progress(progress)
    if not texts:
        raise refused("texts", texts, "at least one")
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
    check_kind("ours", ours, Scored, "a Scored")
    check_kind("reference", reference, Scored, "a Scored")
    other = reference.first(ours.positions)
    if not np.array_equal(other.lengths, ours.lengths):
        raise ParameterError(
            f"the two scorings are of different texts: {ours.positions:,} positions in "
            f"{len(ours.lengths):,} texts, and {reference.positions:,} in "
            f"{len(reference.lengths):,}; allowed: scorings of the same"
        )
    return Comparison(
        positions=ours.positions,
        perplexity=ours.perplexity,
        reference=other.perplexity,
        agreement=float((ours.best == other.best).mean()),
    )


def check_progress(progress: object) -> None:
    """Raise ParameterError unless `progress` can be called, or is None."""
    if progress is not None and not callable(progress):
        raise refused("progress", progress, "a function of (done, in all), or none")


def positions_of(texts: Texts) -> int:
    """Return how many positions the texts have."""
    listed = isinstance(texts, (list, tuple))
    for text in texts if listed else ():
        if not (isinstance(text, Sequence) or getattr(text, "ndim", 0) == 1) or len(text) < 1:
            raise refused("a text", text, "a list of token ids, at least one")
        if isinstance(text, (str, bytes)):
            raise refused("a text", text, "a list of token ids; encode it first")
    if not listed:
        raise refused("texts", texts, "a list of texts of token ids")
    return sum(len(text) - 1 for text in texts)


def first_positions(texts: Texts, positions: int) -> list[Sequence[int]]:
    """Return texts, the last one cut, that have `positions` positions (fewer if there are none)."""
    positions_of(texts)  # refuses what is no text
    positions = whole("positions", positions, 0, MOST_POSITIONS)
    found: list[Sequence[int]] = []
    for text in texts:
        if positions < 1:
            break
        found.append(text[: positions + 1])
        positions -= len(found[-1]) - 1
    return found
