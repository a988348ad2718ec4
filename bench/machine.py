"""What machine and checkout figures come from."""

from __future__ import annotations

import platform
import subprocess
import time
from typing import Any

from bench.children import ROOT


def facts() -> dict[str, Any]:
    """Return CPU, memory, kernel, date and commit."""
    from qwick.machine.cpu import read_cpu, read_memory

    return {
        "cpu": read_cpu().model,
        "memory": read_memory().total,
        "kernel": platform.release(),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
    }


def commit() -> str:
    """Return the commit of the checkout, marked when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
