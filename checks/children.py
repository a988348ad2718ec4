"""Each part of a check in a process of its own, with a progress bar while it works.

A child prints JSON lines on stdout (`telling.py`): {"progress": [done, total]} now and then, and
{"result": ...} last. Its stderr is shown only when it fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from qwick import settings


class ChildError(Exception):
    """A part that ended without a result; the message is the end of its stderr."""


def run_child(
    arguments: Sequence[str],
    label: str,
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Run `python arguments...` to its end and return its result; raises ChildError."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        child = subprocess.Popen(
            [python, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=settings.child_environment(**(environment or {})),
        )
        try:
            result = _listen(child, label)
        finally:
            if child.poll() is None:
                child.terminate()
            code = child.wait()
        if code == 0 and result:
            return result[0]
        errors.seek(0)
        lines = errors.read().strip().splitlines()[-8:] or ["it said nothing"]
    how = f"ended with {code}" if code else "gave no result"
    raise ChildError(f"{label} {how}:\n  " + "\n  ".join(lines))


def _listen(child: subprocess.Popen[str], label: str) -> list[Any]:
    """Draw the child's progress; return its results, at most one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Elapsed(),
        Remaining(),
    )
    result: list[Any] = []
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        assert child.stdout is not None
        for line in child.stdout:
            told = _read(line)
            if "progress" in told:
                done, total = told["progress"]
                bar.update(task, completed=done, total=total)
            elif "result" in told:
                result = [told["result"]]
        if not result:
            bar.remove_task(task)
    return result


def _read(line: str) -> dict[str, Any]:
    """Return the object in a line; libraries print other things too."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
