"""Wrong arrays to every kernel: a TypeError, ValueError or IndexError, and a process that lives.

Sound calls with one argument exchanged for each of many others. They run in a process of their own,
whose end is looked at: a crash there is a failure here. Outputs lie between guards, which no call
may touch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qwick.settings import child_environment

TESTS = Path(__file__).parents[1]
CHILD = "from native.wrong_arrays import main; main()"


def test_the_process_lives() -> None:
    import qwick

    folders = f"{Path(qwick.__file__).parents[1]}:{TESTS}:{TESTS.parent}"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", CHILD],
        capture_output=True,
        text=True,
        timeout=300,
        env=child_environment(PYTHONPATH=folders, QWICK_THREADS="2"),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) > 1000, done.stdout
