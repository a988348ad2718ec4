"""Each part of a measurement in a process of its own, watched while it works.

A child prints JSON lines on stdout (`telling.py`), {"result": ...} last; whatever else it and its
libraries print is kept for the case that it fails. A child that says nothing for too long is
killed, with every process that it started. Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from qwick import settings

ROOT = Path(__file__).parents[1]
LINES = 8  # of a failed child's last words
LEAVE = 60.0  # seconds for a child to end once it has told its result

Heard = Callable[[dict[str, Any]], None]


class ChildError(Exception):
    """A part that ended without a result; the message holds its last words."""


def run_child(
    arguments: Sequence[str],
    label: str,
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    silence: float | None = None,
    heard: Heard | None = None,
    begin: Callable[[], None] | None = None,
) -> Any:
    """Run `python arguments...` at the checkout's root and return its result; raises ChildError.

    silence: seconds without a line of JSON after which the child is killed. heard: gets every
    object that the child tells; without it a progress bar is drawn. begin: runs in the new process
    before the program does.
    """
    if heard is None:
        with _Bar(label) as bar:
            return _run(arguments, label, python, environment, silence, bar, begin)
    return _run(arguments, label, python, environment, silence, heard, begin)


def _run(
    arguments: Sequence[str],
    label: str,
    python: str,
    environment: Mapping[str, str] | None,
    silence: float | None,
    heard: Heard,
    begin: Callable[[], None] | None,
) -> Any:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        child = subprocess.Popen(
            [python, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            env=settings.child_environment(**(environment or {})),
            start_new_session=True,  # a group of its own, to be ended as one
            preexec_fn=begin,
        )
        said: deque[str] = deque(maxlen=LINES)
        results: list[Any] = []
        patience = 0.0
        try:
            how = _listen(child, silence, heard, said, results)
            patience = 0.0 if how else LEAVE
        finally:
            _end(child, patience=patience)
        code = child.wait()
        if how is None and code == 0 and results:
            return results[0]
        errors.seek(0)
        lines = errors.read().strip().splitlines()[-LINES:] or list(said) or ["it said nothing"]
    how = how or (f"ended with {_name_of(code)}" if code else "gave no result")
    raise ChildError(f"{label} {how}:\n  " + "\n  ".join(lines))


def _listen(
    child: subprocess.Popen[str],
    silence: float | None,
    heard: Heard,
    said: deque[str],
    results: list[Any],
) -> str | None:
    """Pass on what the child tells until it stops; return how, if it had to be stopped."""
    assert child.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=silence)
        except queue.Empty:
            return f"said nothing for {silence:g} s and was killed"
        if line is None:
            return None
        told = _read(line)
        if not told:
            said.append(line.rstrip())
        elif "result" in told:
            results[:] = [told["result"]]
            return None  # processes of its own may hold the pipe open for longer
        else:
            heard(told)


def _read_lines(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end(child: subprocess.Popen[str], *, patience: float) -> None:
    """Wait a while for the child's end, then end it and whatever of its group is left."""
    for stop in (None, child.terminate, child.kill):
        if stop is not None:
            stop()
        try:
            child.wait(timeout=patience)
            break
        except subprocess.TimeoutExpired:
            patience = 2
    with suppress(ProcessLookupError, PermissionError):  # nothing is left of it
        os.killpg(child.pid, signal.SIGKILL)


def _name_of(code: int) -> str:
    """Return an exit status in words: 3, or -11 (SIGSEGV)."""
    try:
        return f"{code} ({signal.Signals(-code).name})" if code < 0 else str(code)
    except ValueError:
        return str(code)


def _read(line: str) -> dict[str, Any]:
    """Return the object in a line; libraries print other things too."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


class _Bar:
    """The child's progress, drawn."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed
        from rich.progress import TimeRemainingColumn as Remaining

        words = TextColumn("{task.description}")
        columns = (words, BarColumn(), MofNCompleteColumn(), Elapsed(), Remaining())
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task(label, total=None)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is not None:
            self._bar.remove_task(self._task)
        self._bar.stop()

    def __call__(self, told: dict[str, Any]) -> None:
        if "progress" in told:
            done, total = told["progress"]
            self._bar.update(self._task, completed=done, total=total)
