"""The machine's limits, measured: how fast memory is read and how fast the kernels can multiply.

The roofline model (Williams, Waterman and Patterson, 2009): work that reads b bytes and does f
operations takes at least max(b / bandwidth, f / peak). Knows nothing about models.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwick.errors import ParameterError

__all__ = ["Limits", "measure"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Measured with the threads and the instruction set in force."""

    bandwidth: float  # bytes read per second, working set larger than the caches
    peak: float  # operations per second (a multiplication and an addition are two)

    def seconds(self, *, bytes_read: float, operations: float) -> float:
        """Return the least time that the work can take, in seconds."""
        return max(bytes_read / self.bandwidth, operations / self.peak)


def measure(megabytes: int = 256, repeats: int = 3) -> Limits:
    """Return the best of `repeats` measurements, reading `megabytes` in each.

    Takes about a second. Raises ParameterError, and NativeBuildError without usable kernels.
    """
    if megabytes < 1 or repeats < 1:
        raise ParameterError(
            f"megabytes is {megabytes} and repeats {repeats}; both must be at least 1"
        )
    from qwick.native import ops

    return Limits(
        bandwidth=max(ops.read_bandwidth(megabytes) for _ in range(repeats)),
        peak=max(ops.peak_flops() for _ in range(repeats)),
    )
