"""What every worker does: read what is asked, pin itself, repeat each test, tell the rows.

A worker is `python -m bench.workers.NAME JSON`, in its engine's interpreter. It tells {"begin":
test}, {"row": {...}} or {"failed": {...}} per test as it goes, {"first": token} when it starts
cold, and a result at the end. The standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.plan import MEMORY_ANSWER, STREAM_PROMPT, Test, ids, parse
from bench.telling import give, progress, tell

QUESTION = "What is a heap?"  # the short prompt of a cold start
ANSWER = 32  # tokens of the first turn's answer, at the end of the conversation so far


@dataclass(frozen=True)
class Asked:
    """What a worker is to do; `model` is the file or folder in the engine's own form."""

    model: str
    tests: list[Test]
    group: str
    cores: list[int]
    repeat: int
    stream_tokens: int  # of each stream
    positions: int  # of the longest sequence

    @property
    def threads(self) -> int:
        """One thread a core."""
        return len(self.cores)

    @property
    def streams(self) -> int:
        """Most streams at once."""
        return max([test.streams for test in self.tests], default=1)

    @classmethod
    def read(cls, text: str) -> Asked:
        """Read what `bench.run` wrote."""
        told = json.loads(text)
        return cls(**{**told, "tests": [parse(name) for name in told["tests"]]})


class Peer:
    """An engine, loaded. Each method returns the seconds of one repetition."""

    version = ""

    def prompt(self, prompt: list[int]) -> float:
        """From asking to the first token of a prompt."""
        raise NotImplementedError

    def extend(self, before: list[int], more: list[int]) -> float:
        """The same for `more` behind `before`, which is in the cache when the clock starts."""
        raise NotImplementedError

    def decode(self, prompt: list[int], count: int) -> float:
        """For `count` tokens after the first one. The prompt is the same each time."""
        raise NotImplementedError

    def streams(self, prompts: list[list[int]], count: int) -> float:
        """For `count` tokens of every stream, after all have their first."""
        raise NotImplementedError

    def answer(self, prompt: list[int], count: int) -> list[int]:
        """Return `count` greedy tokens; what was computed is kept for the next turn."""
        raise NotImplementedError

    def turn(self, conversation: list[int], more: list[int]) -> float:
        """From asking to the first token, when the conversation so far was computed before."""
        return self.prompt([*conversation, *more])

    def drafts(self) -> dict[str, Any]:
        """Quote code with and without drafts; return the row but for its name."""
        raise NotImplementedError("this engine drafts nothing here")

    def begin(self, test: Test) -> None:
        """Prepare for a test: warm-up and repetitions follow."""

    def notes(self, test: Test) -> dict[str, Any]:
        """Return what else there is to tell of the repetitions, after the warm-up."""
        return {}

    def warmed(self) -> None:
        """The warm-up is over."""


def work(load: Callable[[Asked], Peer], cold: Callable[[Asked], None]) -> None:
    """Do what the command line asks."""
    asked = Asked.read(sys.argv[1])
    os.sched_setaffinity(0, asked.cores)
    if asked.group == "cold":
        cold(asked)
        give({})
        return
    begun = time.perf_counter()
    peer = load(asked)
    tell("loaded", time.perf_counter() - begun)
    for test in asked.tests:
        tell("begin", test.name)
        try:
            row = measure(peer, test, asked)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            tell("failed", {"test": test.name, "message": told})
        else:
            tell("row", {"test": test.name, "version": peer.version, **row})
    give({})


def measure(peer: Peer, test: Test, asked: Asked) -> dict[str, Any]:
    """Return a row: tokens of a repetition, and the seconds of each after the warm-up."""
    peer.begin(test)
    if test.kind == "drafts":
        return peer.drafts()
    if test.kind == "memory":
        peer.answer(ids(test.name, 0, test.count), MEMORY_ANSWER)
        return {"peak": peak_bytes(), **peer.notes(test)}
    run, tokens = _repetition(peer, test, asked)
    seconds = []
    for repetition in range(asked.repeat + 1):
        seconds.append(run(repetition))
        progress(repetition + 1, asked.repeat + 1)
        if repetition == 0:
            peer.warmed()
    return {"tokens": tokens, "seconds": seconds[1:], **peer.notes(test)}


def _repetition(peer: Peer, test: Test, asked: Asked) -> tuple[Callable[[int], float], int]:
    """Return what runs one repetition, and its tokens."""
    name, count = test.name, test.count
    if test.kind == "pp" and not test.depth:
        return lambda n: peer.prompt(ids(name, n, count)), count
    if test.kind == "pp":
        before = ids(name, 0, test.depth)
        return lambda n: peer.extend(before, ids(name, n + 1, count)), count
    if test.kind == "tg":
        prompt = ids(name, 0, max(test.depth, 1))
        return lambda n: peer.decode(prompt, count), count
    if test.kind == "streams":
        each = asked.stream_tokens

        def all_streams(n: int) -> float:
            prompts = [ids(name, n, STREAM_PROMPT, s) for s in range(test.streams)]
            return peer.streams(prompts, each)

        return all_streams, each * test.streams
    before = ids(name, 0, max(test.depth - ANSWER, 1))
    conversation = [*before, *peer.answer(before, ANSWER)]
    return lambda n: peer.turn(conversation, ids(name, n + 1, count)), count


def first_token(token: object) -> None:
    """Tell that the first token of a cold start is there."""
    tell("first", repr(token))


def peak_bytes() -> int:
    """Return the most memory that this process has had resident (VmHWM)."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")
