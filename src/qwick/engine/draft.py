"""Drafts by looking up: what followed the same ids before may follow them again.

Answers quote. When the last ids of a sequence occurred in it before, those that followed there are
a draft of what comes next, and the model can compute all of it in one step (Saxena 2023, "prompt
lookup decoding"; Yang et al. 2023, "Inference with Reference"). Whether a draft was right is
decided elsewhere, by drawing each token as ever, so that nothing here can change an answer: only
how many steps it takes.

Knows the ids of one sequence, and what steps cost. No model, no pages, no sampling.

A draft pays when the tokens that it saves outweigh what its rows add to the step. `Drafter` keeps
how often drafts were right, apart for long matches and short ones, and `share_rows` gives rows
away while tokens per time grow. So text without repeats soon gets no drafts; as what was learned
fades, one is tried now and then.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from itertools import pairwise

GRAM = 2  # ids that must agree; of one alone there would be too many places to look at
MOST_MATCHED = 16  # ids compared backwards; what agrees for so long is a quotation
CANDIDATES = 8  # earlier places looked at, the latest first
INDEX_AT_ONCE = 4096  # ids of a prompt read per step: some 3 ms, in which other streams wait

# The time of a step with so many rows, in steps with one row; linear in between. Measured with the
# default checkpoint on two cores (AVX-512 VNNI). Up to 12 rows share the pass over the weights that
# bounds a step of one row; more go another way, which costs in advance and then by the row. The
# more memory bounds a machine, the less rows cost there: too high a figure here only leaves some
# gain unused, too low a figure would make drafts a loss.
STEP_COSTS = ((1, 1.0), (4, 1.25), (8, 1.4), (12, 1.75), (16, 2.25))
MOST_ROWS = STEP_COSTS[-1][0]  # of a step with drafts
MOST_DECODES = 8  # sequences that decode together; beyond, the rows are shared well enough
LEAST_GAIN = 1.03  # tokens per time, against a step with fewer rows: costs are not known so exactly

MATCH_CLASSES = (5, 9, MOST_MATCHED)  # where longer matches begin to be judged apart
PRIOR = (0.3, 0.6, 0.8, 0.9)  # how often an id is right before anything is known, per class
PRIOR_WEIGHT = 1.0  # in ids
MEMORY = 16.0  # ids that an estimate remembers
FADING = 128.0  # tokens after which half of what was learned is forgotten


class Lookup:
    """Where each GRAM of a growing list of ids occurred.

    Two dictionary accesses and some 130 bytes per id.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[int, ...], int] = {}  # gram -> where what followed it stands
        self._before: list[int] = [0] * GRAM  # of each position, the one after the same gram before

    def read(self, ids: Ids[int], most: int = INDEX_AT_ONCE) -> None:
        """Index up to `most` further ids; earlier ones must not have changed."""
        latest, before = self._latest, self._before
        for end in range(len(before), min(len(ids), len(before) + most)):
            gram = tuple(ids[end - GRAM : end])
            before.append(latest.get(gram, 0))
            latest[gram] = end

    def find(self, ids: Ids[int]) -> tuple[int, int]:
        """Return where that stands which followed the longest match, and the match's length.

        The match is of the end of `ids`, GRAM to MOST_MATCHED ids long; (0, 0) if there is none.
        Among equals the latest wins: what was said last is most likely to be said again.
        """
        size = len(ids)
        if size <= GRAM:
            return 0, 0
        best, longest = 0, 0
        at = self._latest.get(tuple(ids[size - GRAM :]), 0)
        for _ in range(CANDIDATES):
            if not at or longest >= MOST_MATCHED:
                break
            length = GRAM
            while (
                length < MOST_MATCHED and length < at and ids[at - 1 - length] == ids[-1 - length]
            ):
                length += 1
            if length > longest:
                best, longest = at, length
            at = self._before[at]
        return best, longest


@dataclass(slots=True)
class _Estimate:
    """How often an id of a draft is right, given that those before it were."""

    prior: float
    right: float = 0.0
    seen: float = 0.0

    @property
    def share(self) -> float:
        return (self.right + PRIOR_WEIGHT * self.prior) / (self.seen + PRIOR_WEIGHT)

    def note(self, right: int, wrong: int) -> None:
        self.right += right
        self.seen += right + wrong
        self.scale(min(1.0, MEMORY / self.seen))

    def scale(self, factor: float) -> None:
        self.right *= factor
        self.seen *= factor


class Drafter:
    """Proposes drafts for one sequence and learns from what became of them."""

    def __init__(self) -> None:
        self._lookup = Lookup()
        self._estimates = [_Estimate(prior) for prior in PRIOR]
        self._class = 0  # of the match behind the last proposal
        self._faded_at = 0  # how long the sequence was when the estimates last faded

    def propose(self, ids: Ids[int], most: int) -> list[int]:
        """Return up to `most` ids that may follow `ids`; none if nothing like their end was found.

        `ids` must begin with what was given before. What is found is continued round and round
        where it runs into the end of `ids`, as in a text that repeats itself.
        """
        self._lookup.read(ids)
        if most < 1:
            return []
        at, matched = self._lookup.find(ids)
        if not at:
            return []
        self._fade(len(ids))
        self._class = sum(matched >= least for least in MATCH_CLASSES)
        draft = list(ids[at : at + most])
        while len(draft) < most:
            draft += draft[: most - len(draft)]
        return draft

    @property
    def confidence(self) -> float:
        """The probability that an id of the last proposal is right if those before it are."""
        return self._estimates[self._class].share

    def learn(self, drafted: int, accepted: int) -> None:
        """Note that of the last proposal `drafted` ids were computed and `accepted` were right."""
        self._estimates[self._class].note(accepted, int(accepted < drafted))

    def _fade(self, length: int) -> None:
        fading = 0.5 ** ((length - self._faded_at) / FADING)
        self._faded_at = length
        for estimate in self._estimates:
            estimate.scale(fading)


def step_cost(rows: int) -> float:
    """Return the time of a step with so many rows (1 .. MOST_ROWS), in steps with one row."""
    for (low, cost), (high, more) in pairwise(STEP_COSTS):
        if rows <= high:
            return cost + (more - cost) * (rows - low) / (high - low)
    raise ValueError(f"{rows} rows; the table ends at {MOST_ROWS}")


def share_rows(confidences: Ids[float], decodes: int, most_rows: int) -> list[int]:
    """Return how many rows each draft should get in a step in which `decodes` sequences decode.

    confidences: of each draft, the oldest sequence first. most_rows: of the step, at most
    MOST_ROWS. Each draft in turn gets the count with the most tokens per time, if that is
    LEAST_GAIN times what the step yields without it.
    """
    if decodes > MOST_DECODES:
        return [0] * len(confidences)
    rows, tokens = decodes, float(decodes)
    counts = []
    for p in confidences:
        best, best_yield, best_tokens = 0, LEAST_GAIN * tokens / step_cost(rows), tokens
        expected, chance = tokens, 1.0
        for count in range(1, most_rows - rows + 1):
            chance *= p
            expected += chance
            if expected / step_cost(rows + count) > best_yield:
                best, best_yield = count, expected / step_cost(rows + count)
                best_tokens = expected
        rows, tokens = rows + best, best_tokens
        counts.append(best)
    return counts
