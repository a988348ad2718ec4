"""The comparison that the models must pass and the mutants must fail.

The oracle rule: in float32 the largest error is at most 2e-4 of the standard deviation of the
logits; in bfloat16 we may be no further from the float32 oracle than 1.5 times the oracle's own
bfloat16 run. Errors are in units of that deviation throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from model.stepping import Schedule, prefill, run, steps, stepwise
from model.wild import Oracle
from qwick.model.decoder import Decoder

F32_LIMIT = 2e-4
SLACK = 1.5

Logits = list[np.ndarray | None]


@dataclass(frozen=True)
class Distance:
    """How far logits lie from the oracle's, in standard deviations of those."""

    worst: float
    rms: float


def distance(found: Logits, oracle: Oracle) -> Distance:
    """Compare what was computed (None: not at all) with the oracle; NaN stays NaN."""
    parts = [
        (a.astype(np.float64) - b).ravel()
        for a, b in zip(found, oracle.logits, strict=True)
        if a is not None
    ]
    errors = np.concatenate(parts) / oracle.std
    return Distance(float(np.abs(errors).max()), float(np.sqrt((errors**2).mean())))


def require_f32(
    model: Decoder,
    oracle: Oracle,
    schedule: Schedule,
    rotations: Sequence[int] | None = None,
    limit: float = F32_LIMIT,
) -> None:
    """AssertionError at the first step that differs by more than float32's rounding, or `limit`.

    At the first, since most mutants show at once, and to run them all to the end takes long.
    """
    for i, begin, rows in steps(model, oracle.ids, schedule, rotations):
        errors = rows.astype(np.float64) - oracle.logits[i][begin : begin + len(rows)]
        worst = float(np.abs(errors).max()) / oracle.std
        assert worst <= limit, f"{worst:.3g} of the logits' deviation"


def require_shown(
    model: Decoder,
    oracle: Oracle,
    rotations: Sequence[int] | None = None,
    schedules: Sequence[Schedule] = (prefill, stepwise),
) -> None:
    """Fails unless each schedule shows, by ten times what is allowed, that the model is wrong."""
    for schedule in schedules:
        with pytest.raises(AssertionError, match="of the logits' deviation"):
            require_f32(model, oracle, schedule, rotations, 10 * F32_LIMIT)


def require_no_further(
    model: Decoder,
    oracle: Oracle,
    schedule: Schedule,
    yardstick: Logits,
    rms_slack: float = SLACK,
) -> Distance:
    """AssertionError if the model lies over 1.5 times as far from the oracle as `yardstick`."""
    logits = run(model, oracle.ids, schedule)
    fed = [None if ours is None else theirs for ours, theirs in zip(logits, yardstick, strict=True)]
    found, allowed = distance(logits, oracle), distance(fed, oracle)
    assert found.worst <= SLACK * allowed.worst, f"{found}; the yardstick: {allowed}"
    assert found.rms <= rms_slack * allowed.rms, f"{found}; the yardstick: {allowed}"
    return found
