"""From a row of logits to the next id, and to log probabilities.

Knows one row at a time: no requests, no sequences, no batch. That is the point: what a row yields
depends on nothing beside it. Rows are 152k columns wide, so one NumPy call per row costs far more
than the Python around it, and a second dimension would buy nothing; what pays is to touch a row
seldom. The order, which is the one of Hugging Face's `generate` (`_get_logits_processor`), where
the `generation_config.json` of each checkpoint has its meaning:

1. what the request's history does (`history.py`): bias, penalties, min_tokens
2. the steer's mask: what it forbids gets -inf
3. temperature 0: the largest logit, the lowest id among equals. The rest is for temperature > 0.
4. p = softmax(l / temperature)
5. top_k: what is at least as large as the k-th largest (so ties at the edge stay)
6. top_p: of what is left, renormalised, the most probable (ties by id) until they reach top_p
7. min_p: of what is left, what is at least min_p times the most probable
8. one uniform number of the request's own stream picks among the rest in an order of the ids that
   is fixed, so logits that differ by rounding give another answer only beside a border, where an
   order by probability would change with every near tie.

Log probabilities that are reported are those of the model itself: log_softmax(l) before 1.

Finding the k-th largest exactly, quickly: cut the columns into groups of 128. The k largest group
maxima are k entries of the row, so the k-th largest value of the row is no smaller than the
smallest of them, and only groups with a maximum of at least that can hold a candidate: some
k * 128 columns instead of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from qwick.engine.history import History
from qwick.engine.request import Sampling, TokenLogprob

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

GROUP = 128  # columns per group
FIRST_TOP = 64  # candidates that top_p alone looks at first; then 8 times as many each time
MIN_TEMPERATURE = 1e-30  # what is colder is taken for this, which float32 can divide by


class BadLogitsError(ArithmeticError):
    """A row that cannot be sampled: NaN or infinite logits, or every id forbidden by the mask."""


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) that belongs to the generated token `index` (from 0) of `seed`.

    Philox 4x64-10 (Salmon et al. 2011) with the seed as key and the index as counter; 53 bits. A
    function of its arguments alone: preemption, batch and order of computation cannot matter.
    """
    raw = int(Philox(key=seed, counter=index).random_raw())
    return (raw >> 11) * 2.0**-53


class Sampler:
    """Reads rows of logits; holds the scratch memory for it. One per thread.

    n_vocab: real ids. Columns from there on are padding, are cut off first and so never sampled.
    """

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self._scratch: F32 = np.empty(n_vocab, np.float32)

    def pick(
        self,
        logits: F32,
        sampling: Sampling,
        *,
        seed: int,
        index: int,
        history: History | None = None,
        mask: U8 | None = None,
    ) -> tuple[int, TokenLogprob | None]:
        """Return the id that `logits: F32[width]` yields, and its log probability if wanted.

        index: how many tokens the request has generated so far. history: of it, where it has one.
        mask: U8[ceil(n_vocab / 8)], bit i % 8 of byte i // 8 set where id i is allowed. May write
        into `logits`. Raises BadLogitsError.
        """
        with np.errstate(over="ignore"):  # to infinity below the best: probability 0, as it should
            return self._pick(logits[: self.n_vocab], sampling, seed, index, history, mask)

    def _pick(
        self,
        row: F32,
        sampling: Sampling,
        seed: int,
        index: int,
        history: History | None,
        mask: U8 | None,
    ) -> tuple[int, TokenLogprob | None]:
        if sampling.top_k and not sampling.greedy and mask is None and sampling.logprobs is None:
            return self._pick_top_k(row, sampling, uniform(seed, index), history), None
        best = self._checked_argmax(row)
        report = None
        if sampling.logprobs is not None:
            report = (self._log_sum_exp(row, float(row[best])), _top(row, sampling.logprobs), row)
        if history is not None or mask is not None:
            row = _changed(row, history, mask, keep=report is not None)
            best = int(row.argmax())
            if row[best] == -np.inf:
                raise _nothing_left(mask)
        token = best
        if not sampling.greedy:
            token = self._draw(row, float(row[best]), sampling, uniform(seed, index))
        if report is None:
            return token, None
        total, top, raw = report
        return token, _told(raw, token, total, top)

    def _pick_top_k(self, row: F32, sampling: Sampling, u: float, history: History | None) -> int:
        """What most checkpoints ask for, in two passes over the row instead of four."""
        if not np.isfinite(row.min()):  # NaN or -inf; top_ids could not bear the first
            raise _bad(row)
        if history is not None:
            if row.max() == np.inf:  # which the history may cover up
                raise _bad(row)
            row = _changed(row, history, None, keep=False)
        ids = top_ids(row, sampling.top_k)
        if ids.size == 0:
            raise _nothing_left(None)
        best = float(row[ids].max())
        if not np.isfinite(best):
            raise _bad(row)
        return self._choose(row, ids, best, sampling, u)

    def score(self, logits: F32, target: int) -> tuple[float, int]:
        """Return log_softmax(logits)[target] and the argmax (the lowest id among equals)."""
        row = logits[: self.n_vocab]
        best = self._checked_argmax(row)
        with np.errstate(over="ignore"):
            total = self._log_sum_exp(row, float(row[best]))
        return float(row[target]) - total, best

    def tell(self, logits: F32, target: int, most: int) -> TokenLogprob:
        """Return the log probability of `target`, and those of the `most` most probable ids."""
        row = logits[: self.n_vocab]
        best = self._checked_argmax(row)
        with np.errstate(over="ignore"):
            total = self._log_sum_exp(row, float(row[best]))
        return _told(row, target, total, _top(row, most))

    def _checked_argmax(self, row: F32) -> int:
        # argmax stops at a NaN and max at +inf, so two quick passes see every bad value.
        best = int(row.argmax())
        if not (np.isfinite(row[best]) and np.isfinite(row.min())):
            raise _bad(row)
        return best

    def _log_sum_exp(self, row: F32, best: float) -> float:
        return best + float(np.log(self._exp(row, best, 1.0).sum(dtype=np.float64)))

    def _exp(self, row: F32, best: float, temperature: float) -> F32:
        """Return exp((row - best) / temperature), in the scratch row: float32, some 1e-6 exact."""
        out = self._scratch
        np.subtract(row, np.float32(best), out=out)
        if temperature != 1.0:
            np.divide(out, np.float32(temperature), out=out)
        return np.exp(out, out=out)

    def _draw(self, row: F32, best: float, sampling: Sampling, u: float) -> int:
        """Rules 4 to 8 above."""
        temperature = max(sampling.temperature, MIN_TEMPERATURE)
        if sampling.top_k:
            ids = top_ids(row, sampling.top_k)
        elif sampling.top_p < 1.0:
            ids = self._top_p_alone(row, best, temperature, sampling.top_p)
        elif sampling.min_p > 0.0:
            # a superset by a margin over rounding; the exact test follows
            edge = best + temperature * float(np.log(sampling.min_p))
            ids = _where(row >= np.float32(edge - 1e-4 * abs(edge) - 1e-4))
        else:
            return self._draw_from_all(row, best, temperature, u)
        return self._choose(row, ids, best, sampling, u)

    def _choose(self, row: F32, ids: I64, best: float, sampling: Sampling, u: float) -> int:
        """Rules 6 to 8 on the ids that are left; without top_k, top_p has been applied already."""
        p = _weights(row, ids, best, max(sampling.temperature, MIN_TEMPERATURE))
        if sampling.top_p < 1.0 and sampling.top_k:
            ids, p = _cut_top_p(ids, p, sampling.top_p * float(p.sum()))
        if sampling.min_p > 0.0:
            keep = p >= sampling.min_p * float(p.max())
            ids, p = ids[keep], p[keep]
        order = np.argsort(ids)
        return int(ids[order][_inverse(p[order], u)])

    def _top_p_alone(self, row: F32, best: float, temperature: float, top_p: float) -> I64:
        """Return the ids that top_p keeps of the whole row, sorting no more of it than it takes."""
        wanted = top_p * float(self._exp(row, best, temperature).sum(dtype=np.float64))
        count = FIRST_TOP
        while True:
            ids = top_ids(row, count)
            p = _weights(row, ids, best, temperature)
            if float(p.sum()) >= wanted or count >= row.size:
                return _cut_top_p(ids, p, wanted)[0]
            count *= 8

    def _draw_from_all(self, row: F32, best: float, temperature: float, u: float) -> int:
        """Draw from the whole row: first a group of columns, then one of the group."""
        e = self._exp(row, best, temperature)
        groups = -(-row.size // GROUP)
        cut = (row.size // groups) * groups
        table = e[:cut].reshape(-1, groups)  # column g holds the ids g, g + groups, ...
        sums = table.sum(axis=0, dtype=np.float64)
        sums[: row.size - cut] += e[cut:]
        group = _inverse(sums, u)
        members = e[group::groups].astype(np.float64)
        before = float(sums[:group].sum())
        inner = (u * float(sums.sum()) - before) / float(sums[group])
        return group + groups * _inverse(members, min(max(inner, 0.0), 1.0))


def top_ids(row: F32, count: int) -> I64:
    """Return, ascending, the ids of all values that are at least the count-th largest; no -inf.

    Exact; see the head of this file for why the groups may be trusted.
    """
    size = row.size
    groups = size // GROUP
    if count >= size:
        return _where(row > -np.inf)
    if count * 4 > groups:
        edge = np.partition(row, size - count)[size - count]
        return _where((row >= edge) & (row > -np.inf))
    table = row[: groups * GROUP].reshape(GROUP, groups)  # column g holds the ids g, g + groups...
    maxima = table.max(axis=0)
    bound = np.partition(maxima, groups - count)[groups - count]
    columns = np.flatnonzero(maxima >= bound)
    tail = groups * GROUP
    values = np.concatenate((table[:, columns].ravel(), row[tail:]))
    edge = np.partition(values, values.size - count)[values.size - count]
    at = _where((values >= edge) & (values > -np.inf))
    line, column = np.divmod(at, columns.size)
    beyond = at - GROUP * columns.size  # from 0 on in the tail
    ids: I64 = np.where(beyond < 0, line * groups + columns[column], tail + beyond)
    ids.sort()
    return ids


def _where(chosen: NDArray[np.bool_]) -> I64:
    return np.flatnonzero(chosen).astype(np.int64, copy=False)


def _told(row: F32, id: int, total: float, top: I64) -> TokenLogprob:
    """Return an id and the `top` ones with their log probabilities; total: log_sum_exp of row."""
    ranked = tuple((int(i), float(row[i]) - total) for i in top)
    return TokenLogprob(id, float(row[id]) - total, ranked)


def _top(row: F32, count: int) -> I64:
    """Return exactly `count` ids (or all), the largest first, equals by ascending id."""
    if count == 0:
        return np.empty(0, np.int64)
    ids = top_ids(row, count)
    order = np.argsort(-row[ids], kind="stable")
    return ids[order][:count]


def _weights(row: F32, ids: I64, best: float, temperature: float) -> F64:
    """Return exp((l - best) / temperature) of some ids in float64; best: no smaller than any l."""
    shifted = (row[ids].astype(np.float64) - best) / temperature
    weights: F64 = np.exp(shifted)
    return weights


def _cut_top_p(ids: I64, p: F64, wanted: float) -> tuple[I64, F64]:
    """Keep the fewest most probable whose weights reach `wanted`; ids ascending come in."""
    order = np.argsort(-p, kind="stable")
    reached = int(np.searchsorted(np.cumsum(p[order]), wanted, side="left"))
    kept = order[: reached + 1]
    return ids[kept], p[kept]


def _inverse(weights: F64, u: float) -> int:
    """Return the index where the running sum passes u times the total; never one of weight 0."""
    sums = np.cumsum(weights)
    index = int(np.searchsorted(sums, u * sums[-1], side="right"))
    last = int(np.searchsorted(sums, sums[-1], side="left"))  # rounding may step past the end
    return min(index, last)


def logits_of(row: F32, ids: Sequence[int]) -> F32:
    """Return a row's logits of `ids`, a copy; raises BadLogitsError where one is not finite."""
    found: F32 = row[list(ids)]
    if not np.isfinite(found).all():
        raise _bad(found)
    return found


def _bad(row: F32) -> BadLogitsError:
    count = int(np.count_nonzero(~np.isfinite(row)))
    return BadLogitsError(f"{count} of {row.size} logits are NaN or infinite")


def _changed(row: F32, history: History | None, mask: U8 | None, *, keep: bool) -> F32:
    """Return the row after rules 1 and 2; itself changed, unless it must be kept as it is."""
    if history is not None:
        if keep or not row.flags.writeable:
            row = row.copy()
        history.apply(row)
    if mask is not None:
        allowed = np.unpackbits(mask, count=row.size, bitorder="little").view(np.bool_)
        row = np.where(allowed, row, np.float32(-np.inf))
    return row


def _nothing_left(mask: U8 | None) -> BadLogitsError:
    if mask is not None:
        return BadLogitsError("the steer's mask allows no id at all")
    return BadLogitsError("every id would end the answer, which min_tokens forbids")
