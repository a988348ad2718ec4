"""Runs a program that nobody has read, in a child process with little in reach.

Its own process space, no network, read-only files, an empty scratch folder that is the working
directory, no environment, nothing to read on stdin, its output thrown away, limits on time, memory,
file size and processes. Where the kernel does not permit one of these, the outcome says so
(`Outcome.open`): containers often forbid namespaces. It contains accidents and mischief, not an
attacker with an exploit for the kernel; and as the program shares an interpreter with the code that
watches for its end, one written to cheat can claim to have passed.

Knows nothing about what the programs are for. `sandbox_child.py` is the inner side.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from qwick.errors import EngineError
from qwick.values import check_kind, real, whole

Status = Literal["passed", "failed", "timeout", "died"]

GUARDS = {
    "network": "no network",
    "writing": "files read-only",
    "homes": "home folders hidden",
    "leftovers": "own process space",
    "processes": "number of processes limited",
}
MOST = 1 << 62  # of any limit that the system is told
_CHILD = Path(__file__).with_name("sandbox_child.py")
_GRACE = 15.0  # seconds that the supervisor may take on top for its own work


@dataclass(frozen=True)
class Limits:
    """What a program may use. Each process has the memory and the file size to itself."""

    seconds: float = 10.0  # on the clock
    cpu_seconds: int = 10
    memory: int = 512 << 20  # bytes of address space
    file_bytes: int = 1 << 20  # longest file that it may write
    processes: int = 8  # and threads, besides the first

    def __post_init__(self) -> None:
        """Raise ParameterError for what the system could not be told."""
        real("seconds", self.seconds, 0.001, 1e6)
        for name in ("cpu_seconds", "memory", "file_bytes", "processes"):
            whole(name, getattr(self, name), 0, MOST)


@dataclass(frozen=True)
class Outcome:
    """How a program ended. `passed`: its last line was reached; `open`: guards not in force."""

    status: Status
    detail: str
    seconds: float
    open: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "passed"


def run_program(program: str, limits: Limits | None = None) -> Outcome:
    """Run Python source text to its end, with the standard library alone.

    An exception, a call of exit or a signal before the end is no pass. Raises EngineError when the
    sandbox itself cannot be set up.
    """
    check_kind("program", program, str, "the text of a program")
    check_kind("limits", limits, (Limits, type(None)), "a Limits, or none")
    limits = limits or Limits()
    work = tempfile.mkdtemp(prefix="qwick-sandbox-")
    try:
        job = {**asdict(limits), "program": program, "token": secrets.token_hex(16), "work": work}
        begun = time.monotonic()
        report = _run_child(json.dumps(job), work, limits.seconds + _GRACE)
        return Outcome(
            status=report["status"],
            detail=report["detail"],
            seconds=time.monotonic() - begun,
            open=tuple(text for guard, text in GUARDS.items() if guard not in report["isolation"]),
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run_child(job: str, work: str, seconds: float) -> dict[str, Status]:
    # The base interpreter, not the virtual environment's: programs get no installed packages, and
    # it is usually where an unprivileged user may read it.
    python = getattr(sys, "_base_executable", None) or sys.executable
    child = subprocess.Popen(
        [python, "-I", "-S", "-B", "-X", "utf8", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=work,
        env={},
        start_new_session=True,
    )
    try:
        out, errors = child.communicate(job.encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        raise EngineError(f"the sandbox did not end within {seconds:g} s") from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    try:
        report: dict[str, Status] = json.loads(out)
    except ValueError:
        lines = errors.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise EngineError(f"the sandbox cannot be set up: {lines[-1]}") from None
    return report
