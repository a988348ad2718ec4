"""The comparison that the models must pass and the mutants must fail.

The oracle rule: in float32 the largest error is at most 2e-4 of the standard deviation of the
logits; in bfloat16 we may be no further from the float32 oracle than 1.5 times the oracle's own
bfloat16 run. Errors are in units of that deviation throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.stepping import Schedule, run
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


def require_f32(model: Decoder, oracle: Oracle, schedule: Schedule) -> Distance:
    """AssertionError unless the model equals the oracle but for float32's rounding."""
    found = distance(run(model, oracle.ids, schedule), oracle)
    assert found.worst <= F32_LIMIT, f"{found.worst:.3g} of the logits' deviation"
    return found


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
