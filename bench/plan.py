"""What is measured: the tests by name, and which of them share a process.

    pp512           a prompt of 512 tokens, until its first token
    pp512@8192      512 more tokens of prompt after 8,192 in the cache
    tg128           128 tokens of one stream, after the first
    tg128@8192      the same behind a prompt of 8,192
    streams8        8 streams at once, each as many tokens as the settings say
    turn8192+32     a conversation of 8,192 tokens goes on with 32 more: the time to the first token
    drafts          code quoted back, with and without prompt-lookup drafts
    memory2048      the peak of a process that reads a prompt of 2,048 tokens and answers
    cold            a process from its start to the first token of a short prompt

Knows no engine and runs in any interpreter: the standard library alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT = (
    "pp128,pp512,pp2048,pp8192,tg128,tg128@2048,tg128@8192,streams1,streams8,streams32,"
    "pp512@8192,turn8192+32,drafts,memory2048,cold"
)
STREAM_PROMPT = 16  # tokens before the streams' answers
MEMORY_ANSWER = 32  # tokens answered while memory is watched
QUOTED = 1024  # tokens that the prompt of the drafts and its answer have at most
FIRST_ID, LAST_ID = 1_000, 100_000  # ordinary tokens in every Qwen vocabulary

_NAME = re.compile(
    r"(?P<kind>pp|tg)(?P<count>[1-9][0-9]*)(?:@(?P<depth>0|[1-9][0-9]*))?"
    r"|(?P<streams>streams)(?P<b>[1-9][0-9]*)"
    r"|(?P<turn>turn)(?P<before>[1-9][0-9]*)\+(?P<more>[1-9][0-9]*)"
    r"|(?P<memory>memory)(?P<prompt>[1-9][0-9]*)"
    r"|(?P<word>drafts|cold)"
)
# The tests of a group share a process, so that a model is loaded once for them.
_GROUPS = {"streams": "plain", "tg": "plain", "turn": "reuse"}
GROUPS = ("plain", "reuse", "drafts", "memory", "cold")


@dataclass(frozen=True)
class Test:
    """One test: `count` tokens are timed behind `depth` tokens, in `streams` streams."""

    name: str
    kind: str  # pp, tg, streams, turn, drafts, memory, cold
    count: int = 0
    depth: int = 0
    streams: int = 1

    @property
    def group(self) -> str:
        """Which process it is measured in."""
        if self.kind == "pp":
            return "reuse" if self.depth else "plain"
        return _GROUPS.get(self.kind, self.kind)

    @property
    def in_seconds(self) -> bool:
        """Whether its figure is a time, not a rate."""
        return self.kind in ("turn", "cold")


def parse(name: str) -> Test:
    """Return the test of this name; ValueError says what names there are."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"there is no test {name!r}; allowed are names like those of {DEFAULT}")
    part = found.groupdict()
    if part["kind"]:
        depth = int(part["depth"] or 0)
        plain = f"{part['kind']}{part['count']}" + (f"@{depth}" if depth else "")
        return Test(plain, part["kind"], int(part["count"]), depth)
    if part["streams"]:
        return Test(name, "streams", streams=int(part["b"]))
    if part["turn"]:
        return Test(name, "turn", int(part["more"]), int(part["before"]))
    if part["memory"]:
        return Test(name, "memory", int(part["prompt"]))
    return Test(name, part["word"])


def parse_all(names: str) -> list[Test]:
    """Return the tests of a list with commas between; each once, ValueError as `parse`."""
    return list(dict.fromkeys(parse(name.strip()) for name in names.split(",") if name.strip()))


def positions(tests: Iterable[Test], stream_tokens: int) -> int:
    """Return how many positions one sequence needs at most."""
    most = 1
    for test in tests:
        answer = {"turn": 34, "memory": MEMORY_ANSWER, "streams": stream_tokens, "drafts": QUOTED}
        most = max(most, test.depth + test.count + answer.get(test.kind, 1) + STREAM_PROMPT)
    return most + 16


def ids(test: str, repetition: int, count: int, stream: int = 0) -> list[int]:
    """Return the random ids of a repetition: the same for every engine, never a second time.

    A repetition's ids share no beginning with another's, so a prefix cache finds nothing there.
    """
    draw = random.Random(f"{test} {repetition} {stream}")
    return [draw.randrange(FIRST_ID, LAST_ID) for _ in range(count)]
