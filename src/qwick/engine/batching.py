"""A step's chunks as the index arrays of a Batch, and whose logits each wanted row is.

Knows pages and positions; no model, no requests.
"""

from __future__ import annotations

import numpy as np

from qwick.engine.scheduler import Chunk
from qwick.engine.sequence import Sequence
from qwick.model.batch import Batch, Run

Wanted = tuple[Sequence, int]  # the sequence and the position of a row whose logits are wanted


def build(chunks: tuple[Chunk, ...], page_size: int) -> tuple[Batch, list[Wanted]]:
    """Return the batch of one step and, for each of its logit rows in order, whose it is.

    The pages of every chunk must have been handed out already (`State.apply`).
    """
    rows = sum(chunk.count for chunk in chunks)
    ids = np.empty(rows, np.int32)
    positions = np.empty(rows, np.int32)
    slots = np.empty(rows, np.int32)
    starts = np.zeros(len(chunks) + 1, np.int32)
    lengths = np.empty(len(chunks), np.int32)
    used = [-(-(chunk.start + chunk.count) // page_size) for chunk in chunks]
    pages = np.zeros((len(chunks), max(used)), np.int32)
    logit_rows: list[int] = []
    wanted: list[Wanted] = []
    row = 0
    runs: list[Run] = []
    for i, chunk in enumerate(chunks):
        sequence, start, end = chunk.sequence, chunk.start, chunk.start + chunk.count
        pages[i, : used[i]] = sequence.pages[: used[i]]
        here = slice(row, row + chunk.count)
        if chunk.count == 1:  # a decode: plain ints beat four small arrays
            ids[row] = sequence.ids[start]
            positions[row] = start
            slots[row] = sequence.pages[start // page_size] * page_size + start % page_size
        else:
            at = np.arange(start, end, dtype=np.int32)
            known = sequence.ids[start:end]
            ids[here] = known + sequence.draft if chunk.drafted else known
            positions[here] = at
            slots[here] = pages[i][at // page_size] * page_size + at % page_size
        for position in range(max(start, sequence.wanted_from), end):
            logit_rows.append(row + position - start)
            wanted.append((sequence, position))
        of_prompt = min(max(sequence.prompt - start, 0), chunk.count)
        _add_run(runs, row, row + of_prompt, prompt=True)
        _add_run(runs, row + of_prompt, row + chunk.count, prompt=False)
        row += chunk.count
        starts[i + 1] = row
        lengths[i] = end
    rotations = tuple(chunk.sequence.rotation for chunk in chunks)
    batch = Batch(
        ids=ids,
        positions=positions,
        slots=slots,
        starts=starts,
        lengths=lengths,
        pages=pages,
        logit_rows=np.asarray(logit_rows, np.int32),
        rotations=rotations if any(rotations) else (),
        runs=tuple(runs) if runs[0].prompt or len(runs) > 1 else (),
    )
    return batch, wanted


def _add_run(runs: list[Run], begin: int, end: int, *, prompt: bool) -> None:
    """Add rows, to the last run if they are of its kind."""
    if begin == end:
        return
    if runs and runs[-1].prompt == prompt:
        begin = runs.pop().begin
    runs.append(Run(begin, end, prompt))
