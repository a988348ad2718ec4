"""What this machine allows, measured by qwick: bandwidth and arithmetic with its own kernels."""

from __future__ import annotations

from bench.telling import give
from bench.workers.common import Asked


def main() -> None:
    """Measure, in the best of three rounds."""
    import os
    import sys

    asked = Asked.read(sys.argv[1])
    os.sched_setaffinity(0, asked.cores)
    from qwick.machine import limits
    from qwick.machine.cpu import use_threads
    from qwick.native import ops

    use_threads(asked.threads)
    found = [limits.measure() for _ in range(3)]
    give(
        {
            "isa": ops.isa(),
            "bandwidth": max(limit.bandwidth for limit in found),
            "peak": max(limit.peak for limit in found),
        }
    )


if __name__ == "__main__":
    main()
