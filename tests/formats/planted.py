"""Readers with a fault each, for the test of checks/fuzz_readers.py: what it must catch."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def another_error(path: Path) -> str:
    raise ValueError("not ours")


def no_exception(path: Path) -> str:
    raise BaseException("as a panic is")


def crash(path: Path) -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return "never"


def endless(path: Path) -> str:
    while True:
        pass


def much_memory(path: Path) -> str:
    return f"{len(b'x' * (200 << 20))} bytes were taken"
