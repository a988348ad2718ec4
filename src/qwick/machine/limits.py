"""The machine's limits, measured: how fast memory is read and how fast the kernels can multiply.

The roofline model (Williams, Waterman and Patterson, 2009): work that reads b bytes and does f
operations takes at least max(b / bandwidth, f / peak). Knows nothing about models.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwick.errors import ParameterError
from qwick.machine.cpu import read_memory

__all__ = ["Limits", "measure"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Measured with the threads and the instruction set in force."""

    bandwidth: float  # bytes read per second, working set larger than the caches
    peak: float  # operations per second of the matrix kernels, on registers alone

    def seconds(self, *, bytes_read: float, operations: float) -> float:
        """Return the least time that the work can take, in seconds."""
        return max(bytes_read / self.bandwidth, operations / self.peak)


def measure(megabytes: int = 512) -> Limits:
    """Return the limits, the bandwidth being that of reads over `megabytes` (2**20 bytes each).

    Takes about a second. Raises ParameterError (less than 1, or more than fits in memory), and
    NativeBuildError without usable kernels.
    """
    fits = read_memory().available >> 20
    if not 1 <= megabytes <= fits:
        raise ParameterError(f"megabytes is {megabytes}; allowed: 1 to {fits} (available memory)")
    from qwick.native import ops

    return Limits(bandwidth=ops.read_bandwidth(megabytes << 20), peak=ops.peak_rate())
