"""One life of an engine's process: started, written to, listened to, its heartbeat, its end.

What a life's end means for requests, and whether another one follows, is `process.py`'s to decide.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from queue import SimpleQueue

from qwick.engine.wire import Command, Ping, Report
from qwick.errors import ResourceError

PING_SECONDS = 1.0
COMPUTING = 0.1  # cores that a process uses, at least, while it computes a long step
PATIENCE = 20  # times the seconds after which it is stuck: computing or not, nothing takes so long

# Not -m: that would look for modules in the current folder first.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from qwick.engine.child import main; sys.exit(main(int(sys.argv[1])))"
)


class Life:
    """One process: its socket, a thread that writes to it, and its heartbeat."""

    def __init__(self, build: bytes) -> None:
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", _START, str(theirs.fileno()), *sys.path],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # the keyboard's signals are the parent's to interpret
                )
        except OSError as error:
            raise ResourceError(f"the engine's process cannot be started: {error}") from None
        self._connection = Connection(ours.detach())
        self._outgoing: SimpleQueue[Command | None] = SimpleQueue()
        self._writer = threading.Thread(
            target=self._write, args=(build,), name="qwick-engine-writer", daemon=True
        )
        self.ready = False
        self._pinged = 0.0
        self.beat()
        self._writer.start()

    def send(self, command: Command) -> None:
        """Queue a command: writing could block while the engine computes a long step."""
        self._outgoing.put(command)

    def _write(self, build: bytes) -> None:
        with contextlib.suppress(OSError):
            self._connection.send_bytes(build)
            while (command := self._outgoing.get()) is not None:
                self._connection.send(command)

    def receive(self, timeout: float) -> Report | None:
        """Return the next report, None if none comes in time; EOFError or OSError at the end."""
        now = time.monotonic()
        if self.ready and now - self._pinged >= PING_SECONDS:
            self._pinged = now
            self.send(Ping())
        if not self._connection.poll(timeout):
            return None
        report: Report = self._connection.recv()
        return report

    def beat(self) -> None:
        """Note that it lives, and how much it has computed so far."""
        self._beaten = time.monotonic()
        self._computed = cpu_seconds(self.process.pid)

    def silence(self) -> tuple[float, float]:
        """Return the seconds since it last lived, and those of CPU time that it used since."""
        computed = cpu_seconds(self.process.pid)
        return time.monotonic() - self._beaten, max(0.0, computed - self._computed)

    def stuck(self, seconds: float) -> bool:
        """Whether it is silent for so long, and not because it computes."""
        silent, busy = self.silence()
        return silent > seconds and (busy < COMPUTING * silent or silent > PATIENCE * seconds)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def end(self) -> int:
        """Close the socket, which ends the process, and return its exit code."""
        self._outgoing.put(None)
        try:
            code = self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        self._connection.close()
        return code


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its threads have used; 0 if that cannot be told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5)
    except (OSError, ValueError, IndexError):
        return 0.0
