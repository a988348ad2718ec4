"""Thousands of requests to a live server, half of them cut off at random: nothing may be left.

`qwick serve` with the real default checkpoint answers chats, completions and streams from several
clients at once; half of the clients leave at a random moment, before or within the answer.
Afterwards the engine runs nothing, no page of its cache is held, server and engine have as many
threads and open files as before, and their memory has not grown beyond what the cache may take.

    python -m checks.serve_cuts                        # 2,000 requests
    python -m checks.serve_cuts --requests 200 --json

Exit code 1 when something is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import httpx

from server.live import Server, chat_body

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
CLIENTS = 8
PATIENCE = 20.0  # seconds for the last answers to be let go of
TOOL = {
    "type": "function",
    "function": {
        "name": "sort",
        "parameters": {"type": "object", "properties": {"by": {"type": "string"}}},
    },
}
GROWTH = 64 << 20  # bytes that either process may grow by once the cache is full
# All of the cache is used in time, for prompts that may be found again: few pages are full soon.
OPTIONS = ["--ctx", "1024"]
WARM = 100  # requests, of some hundred tokens each
POOL = min(32, (os.cpu_count() or 1) + 4)  # threads that asyncio starts as they are needed


def process_state(pid: int) -> dict[str, int]:
    """Return the threads, open files and resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "threads": int(fields["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "memory": int(fields["VmRSS"].split()[0]) << 10,
    }


def state(server: Server, client: httpx.Client) -> dict[str, Any]:
    """Return what must come back to what it was, once the server is at rest."""
    end = time.monotonic() + PATIENCE
    while True:
        report = client.get("/v1/monitor").json()
        (model,) = report["models"]
        resting = not (model["running"] or model["waiting"] or report["server"]["under_way"])
        if (resting and model["cache_used"] == 0) or time.monotonic() > end:
            break
        time.sleep(0.25)
    time.sleep(1.5)  # idle connections are let go of, threads of pools stay
    metrics = client.get("/metrics").text
    gauges = re.findall(r"^qwick:(num_requests_\w+|kv_cache_\w+_perc)\{.*\} (\S+)$", metrics, re.M)
    assert len(gauges) == 3, metrics
    (engine,) = server.engines()
    return {
        "running": model["running"],
        "waiting": model["waiting"],
        "under_way": report["server"]["under_way"],
        "cache_used": model["cache_used"],
        "restarts": model["restarts"],
        "metrics": {name: float(value) for name, value in gauges},
        "server": process_state(server.process.pid),
        "engine": process_state(engine),
    }


def one(server: Server, number: int, seed: int) -> str:
    """Send one request, and leave it in the middle where its number is odd; return how it went."""
    rng = random.Random(f"{seed}/{number}")
    prompt = " ".join(
        rng.choice(["list", "sort", "queue", "graph"]) for _ in range(rng.randint(3, 300))
    )
    fields: dict[str, Any] = {"max_tokens": rng.randint(1, 40), "temperature": 1}
    stream = rng.random() < 0.6
    path, body = CHAT, chat_body(prompt, stream=stream, **fields)
    if rng.random() < 0.3:
        path, body = (
            COMPLETE,
            {**fields, "model": body["model"], "prompt": prompt, "stream": stream},
        )
        if rng.random() < 0.5:
            body |= {"echo": True, "logprobs": rng.randint(0, 5)}
    elif rng.random() < 0.2:
        body |= {"tools": [TOOL], "tool_choice": "required"}
    elif rng.random() < 0.2:
        body |= {"logprobs": True, "top_logprobs": rng.randint(0, 5)}
    if rng.random() < 0.15:
        body["n"] = 3
    if rng.random() < 0.1 and "tools" not in body:
        body["guided_regex"] = "[a-z ]{1,60}"
    leaves = number % 2 == 1
    timeout = httpx.Timeout(120, read=rng.random() * 0.5 if leaves and not stream else 120)
    try:
        with (
            httpx.Client(base_url=server.url, timeout=timeout) as client,
            client.stream("POST", path, json=body) as response,
        ):
            after = rng.randint(0, 12) if leaves else 1 << 30
            for count, _ in enumerate(response.iter_lines()):
                if count >= after:
                    return "left"
            return str(response.status_code)
    except httpx.ReadTimeout:
        return "left"


def run(requests: int, seed: int, *, progress: bool) -> dict[str, Any]:
    """Return the outcome of all requests, and what is left of them."""
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), OPTIONS) as server:
        server.ready()
        most = process_state(server.process.pid)["threads"] + POOL
        with server.client() as client:
            warm = ThreadPoolExecutor(CLIENTS)
            list(warm.map(lambda i: one(server, i, seed + 1), range(WARM)))
            before = state(server, client)
            ends: Counter[str] = Counter()
            lock = threading.Lock()

            def ask(number: int) -> None:
                end = one(server, number, seed)
                with lock:
                    ends[end] += 1
                    if progress and sum(ends.values()) % 20 == 0:
                        print(f"\r{sum(ends.values()):,} of {requests:,}", end="", file=sys.stderr)

            begun = time.monotonic()
            list(warm.map(ask, range(requests)))
            seconds = time.monotonic() - begun
            if progress:
                print(file=sys.stderr)
            warm.shutdown()
            after = state(server, client)
    return {
        "requests": requests,
        "seconds": round(seconds, 1),
        "ends": dict(ends),
        "before": before,
        "after": after,
        "left": left(before, after, ends, most),
    }


def left(before: dict[str, Any], after: dict[str, Any], ends: Counter[str], most: int) -> list[str]:
    """Say what is not as it was. most: threads of the server with a full pool."""
    found = [
        f"{name} is {after[name]}"
        for name in ("running", "waiting", "under_way", "cache_used", "restarts")
        if after[name]
    ]
    found += [f"{name} is {value} in /metrics" for name, value in after["metrics"].items() if value]
    for process in ("server", "engine"):
        for name in ("threads", "files"):
            was, now = before[process][name], after[process][name]
            if now > was and not (process == "server" and name == "threads" and now <= most):
                found.append(f"the {process} has {now} {name}, {was} before")
        grown = after[process]["memory"] - before[process]["memory"]
        if grown > GROWTH:
            found.append(f"the {process} has grown by {grown:,} bytes")
    found += [
        f"{count} answers with {end}" for end, count in ends.items() if end not in ("200", "left")
    ]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m checks.serve_cuts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = run(given.requests, given.seed, progress=sys.stderr.isatty())
    if given.json:
        print(json.dumps(found))
    else:
        print(f"{found['requests']:,} requests in {found['seconds']} s: {found['ends']}")
        print(f"before {found['before']}\nafter  {found['after']}")
        for text in found["left"]:
            print(f"left: {text}")
    return 1 if found["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
