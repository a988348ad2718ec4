"""The machine's limits, measured: how fast memory is read and how fast the kernels can multiply.

The roofline model (Williams, Waterman and Patterson, 2009): work that reads b bytes and does f
operations takes at least max(b / bandwidth, f / peak). Knows nothing about models.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwick.errors import ResourceError
from qwick.machine.cpu import Memory, read_memory
from qwick.values import check_kind, real, whole

__all__ = ["LEAST_MEGABYTES", "Limits", "Products", "measure", "measure_products"]

LEAST_MEGABYTES = 64
ROWS, HEIGHT, WIDTH = (
    512,
    4096,
    2048,
)  # of a product: a chunk of a prompt, a matrix of a small model
MOST_MEGABYTES = 1 << 43  # as many bytes as 63 bits count


@dataclass(frozen=True, slots=True)
class Limits:
    """Measured with the threads and the instruction set in force."""

    bandwidth: float  # bytes read per second, working set larger than the caches
    peak: float  # operations per second of the matrix kernels, on registers alone

    def seconds(self, *, bytes_read: float, operations: float) -> float:
        """Return the least time that the work can take, in seconds."""
        bytes_read = real("bytes_read", bytes_read, 0, 1e300)
        operations = real("operations", operations, 0, 1e300)
        return max(bytes_read / self.bandwidth, operations / self.peak)


@dataclass(frozen=True, slots=True)
class Products:
    """Operations per second of a prompt's matrix product, with all that it takes beside them.

    Registers alone (`Limits.peak`) say little of that: on two Zen 4 cores the kernels reach three
    quarters, on two Sapphire Rapids cores under half.
    """

    small: float  # weights in 4 bits with scales (Q4_K)
    wide: float  # weights in bf16


def measure_products() -> Products:
    """Return what the kernels reach with the threads and the instruction set in force.

    Takes a tenth of a second or two, the best of five each. Raises NativeBuildError without usable
    kernels.
    """
    import time

    import numpy as np

    from qwick.native import ops

    def rate(stored: str, pattern: int, row_bytes: int) -> float:
        data = np.full(HEIGHT * row_bytes, pattern, np.uint8)  # small numbers, none of them zero
        weights = ops.pack([(stored, data, HEIGHT, WIDTH)])
        x, out = np.ones((ROWS, WIDTH), np.float32), np.empty((ROWS, HEIGHT), np.float32)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            ops.matmul(x, weights, out, prompt=True)
            best = min(best, time.perf_counter() - start)
        return 2 * ROWS * HEIGHT * WIDTH / best

    return Products(rate("q4_k", 0x11, WIDTH // 256 * 144), rate("bf16", 0x3C, 2 * WIDTH))


def measure(megabytes: int = 512, memory: Memory | None = None) -> Limits:
    """Return the limits, the bandwidth being that of reads over `megabytes` (2**20 bytes each).

    Over fewer where memory (default: this machine's) is short, for a quarter of what is available
    is left alone; never over fewer than LEAST_MEGABYTES, which caches could hold. Takes about a
    second. Raises ParameterError (less than that asked for), ResourceError (not even that fits),
    and NativeBuildError without usable kernels.
    """
    megabytes = whole(
        "megabytes", megabytes, LEAST_MEGABYTES, MOST_MEGABYTES, f"{LEAST_MEGABYTES} or more"
    )
    if memory is None:
        memory = read_memory()
    check_kind("memory", memory, Memory, "a Memory, or none")
    size = min(megabytes, (memory.available >> 20) * 3 // 4)
    if size < LEAST_MEGABYTES:
        raise _too_little(f"{memory.available >> 20} MB are available")
    from qwick.native import ops

    try:
        return Limits(bandwidth=ops.read_bandwidth(size << 20), peak=ops.peak_rate())
    except MemoryError:  # a limit of its own: ulimit -v
        raise _too_little(f"the system refused {size} MB") from None


def _too_little(what_is: str) -> ResourceError:
    return ResourceError(
        f"measuring this machine's memory takes {LEAST_MEGABYTES} MB and some to spare; {what_is}",
        hint="end other programs, or raise the memory limit of this one",
    )
