"""The memory of a process, as the system tells it."""

from __future__ import annotations


def resident_bytes(pid: int | None = None) -> int | None:
    """Return the bytes of memory that a process (None: this one) has; None where nobody tells.

    Its resident set, of which pages of mapped files are a part (proc(5), VmRSS).
    """
    try:
        with open(f"/proc/{'self' if pid is None else pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmRSS:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None
