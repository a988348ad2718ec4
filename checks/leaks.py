"""Thousands of requests through the whole API, and what is left of them: nothing.

A small model of random weights answers a mix of whole, streamed, dropped, closed, cancelled,
asynchronous, failing and scoring requests. Afterwards no page is held, there are as many threads
and open files as before, no request or stream is alive, and the memory that was resident after the
first fifth has not grown by more than a few bytes a request.

    python -m checks.leaks                        # 10,000 requests, a few minutes
    python -m checks.leaks --requests 500 --json

Exit code 1 when something is left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from llm.small import write_small
from qwick.engine.live import Live
from qwick.engine.request import Request
from qwick.engine.sequence import Sequence
from qwick.engine.thread import ThreadTicket
from qwick.errors import QwickError
from qwick.llm import Qwen
from qwick.llm.stream import AsyncStream, Stream

KINDS = (Live, Request, Sequence, ThreadTicket, Stream, AsyncStream)
BYTES_A_REQUEST = 200  # what the resident memory may grow by: the allocator's own unrest
SLACK = 2_000_000  # beside it, for runs too short to tell
PATIENCE = 5.0  # seconds


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def state() -> dict[str, Any]:
    """Return what must come back to what it was, once the engine has let go of the last request.

    That is a moment after its last event.
    """
    latest = time.monotonic() + PATIENCE
    while True:
        gc.collect()
        alive = Counter(kind for kind in map(type, gc.get_objects()) if kind in KINDS)
        if alive[ThreadTicket] == 0 or time.monotonic() > latest:
            break
        time.sleep(0.01)
    return {
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": {kind.__name__: alive[kind] for kind in KINDS},
    }


async def cancelled(qwen: Qwen, text: str) -> None:
    """Ask and cancel the task at its first piece."""
    stream = qwen.astream(text, max_tokens=20, ignore_eos=True)
    async for _ in stream:
        break
    await stream.aclose()


def ask(qwen: Qwen, i: int) -> None:
    """One request, of a way that depends on its number."""
    text = f"request {i} " * (1 + i % 5)
    way = i % 10
    if way == 0:
        stream = qwen.stream(text, max_tokens=20, ignore_eos=True)
        next(stream, None)
        stream.close()
    elif way == 1:
        next(qwen.stream(text, max_tokens=20, ignore_eos=True), None)  # and dropped
    elif way == 2:
        asyncio.run(cancelled(qwen, text))
    elif way == 3:
        try:
            qwen.chat(text, temperature=-1)
        except QwickError:
            return
        raise AssertionError("a negative temperature was taken")
    elif way == 4:
        qwen.score(qwen.tokenizer.encode(text, parse_special=False))
    elif way == 5:
        qwen.chat_batch([text, "another", "third"], max_tokens=3)
    elif way == 6:
        qwen.choices(text, 2, max_tokens=3, presence_penalty=0.5)
    elif way == 7:
        qwen.chat(text, max_tokens=4, stop=["zq"], logprobs=2, namespace=str(i % 7))
    else:
        qwen.complete(text, max_tokens=4)


def run(requests: int, *, progress: bool) -> dict[str, Any]:
    """Ask so often and return what was left."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.gguf"
        write_small(path)
        with Qwen.load(path) as qwen:
            warm = max(20, requests // 5)
            for i in range(warm):
                ask(qwen, i)
            before, memory = state(), resident()
            for i in range(warm, requests):
                ask(qwen, i)
                if progress and i % 100 == 99:
                    print(f"\r{i + 1} of {requests} requests", end="", file=sys.stderr)
            if progress:
                print(file=sys.stderr)
            after, grown = state(), resident() - memory
            engine = qwen._engine._loop.engine
            held = engine.pages_used
            finished = dict(qwen.stats.finished)
    allowed = SLACK + BYTES_A_REQUEST * (requests - warm)
    left = [
        *([f"{held} pages are held"] if held else []),
        *([f"before {before}, after {after}"] if before != after else []),
        *([f"{grown:,} bytes more are resident; allowed: {allowed:,}"] if grown > allowed else []),
    ]
    return {
        "requests": requests,
        "finished": finished,
        "grown_bytes": grown,
        "allowed_bytes": allowed,
        **after,
        "left": left,
    }


def main() -> int:
    """Run, print, conclude."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = run(arguments.requests, progress=sys.stderr.isatty())
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['requests']:,} requests ({found['finished']}): memory grew by "
            f"{found['grown_bytes']:,} bytes; {found['threads']} threads, {found['files']} files, "
            f"{sum(found['objects'].values())} objects"
        )
        for text in found["left"]:
            print(f"left: {text}")
    return 1 if found["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
