"""Random traces through the engine, every invariant derived again after every step.

A trace has a cache from far too small to ample, shared beginnings, namespaces, drafts or none,
penalties, scores, embeddings, cancels and arrivals at random. The model is the tests' toy, whose
logits depend on every id in every page of a sequence, so that what was computed for another shows
at once. Each answer must be the one that its request gets alone, a cancelled one its beginning; at
the end no page is held. A failure names the trace, which `--first N --traces 1` runs again.

    python -m checks.engine_traces                # 10,000 traces, some minutes
    python -m checks.engine_traces --traces 300 --json

Exit code 1 for a failure, and for a run in which something never happened.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from engine.toy import Sink, ToyModel, engine_of
from qwick.engine.engine import Engine
from qwick.engine.request import FinishReason, Request, Sampling
from qwick.errors import ResourceError

CONTEXT = 48
WANTED = ("steps", "requests", "preemptions", "cancels", "evictions", "prefix_hits", "accepted")


def some_request(rng: random.Random, beginnings: list[list[int]]) -> Request:
    """Anything that may be asked; short, because only pages and turns matter."""
    ids = [*rng.choice(beginnings), *(rng.randrange(40) for _ in range(rng.randrange(1, 8)))]
    namespace = rng.choice(["", "", "", "other"])
    if rng.random() < 0.2 and len(ids) > 1:
        return Request(ids, kind="score", namespace=namespace)
    if rng.random() < 0.2:
        if rng.random() < 0.5:
            return Request(ids, kind="embed", namespace=namespace)
        return Request(ids, kind="classify", labels=(3, 1), namespace=namespace)
    sampling = Sampling(
        temperature=rng.choice([0.0, 0.0, 1.0]),
        seed=rng.randrange(1000),
        max_tokens=rng.randrange(1, CONTEXT - len(ids)),
        stop_ids=tuple(rng.sample(range(40), rng.choice([0, 0, 2]))),
        repetition_penalty=rng.choice([1.0, 1.0, 1.3]),
        frequency_penalty=rng.choice([0.0, 0.0, 0.5]),
    )
    told = rng.choice([None, None, None, 2])
    return Request(ids, sampling=sampling, namespace=namespace, prompt_logprobs=told)


class Cycling(ToyModel):
    """Logits that depend on little of the last token soon repeat themselves: drafts come true."""

    def value_of(self, tokens: Any, positions: Any) -> int:
        return super().value_of(tokens[-1:] % 5, positions[-1:] * 0)


def outcome(sink: Sink) -> tuple[Any, ...]:
    """What must not depend on company."""
    end = sink.end
    scores = end.scores and (end.scores.logprobs.tolist(), end.scores.best.tolist())
    pooled = [None if p is None else p.tolist() for p in (end.state, end.label_logits)]
    return sink.ids, end.reason, end.stop_id, scores, pooled, sink.prompt_logprobs


def alone(model: type[ToyModel], size: int, request: Request) -> tuple[Any, ...]:
    """Return what the request gets with a cache of its own, without reuse and drafts."""
    engine = engine_of(model(context=CONTEXT, page_size=size), prefix_reuse=False, drafts=False)
    sink = Sink()
    engine.submit(request, sink)
    while engine.step():
        pass
    return outcome(sink)


def run_trace(number: int, counts: Counter[str]) -> None:
    """Run trace `number`; raises AssertionError."""
    rng = random.Random(number)
    kind = rng.choice([ToyModel, Cycling])
    size = rng.choice([1, 2, 4, 8])
    engine: Engine = engine_of(
        kind(context=CONTEXT, page_size=size),
        cache_tokens=rng.choice([CONTEXT, CONTEXT + 2 * size, 3 * CONTEXT, 20 * CONTEXT]),
        token_budget=rng.choice([9, 16, 64]),
        max_sequences=rng.choice([1, 2, 5, 8]),
        prefix_reuse=rng.random() < 0.8,
        drafts=rng.random() < 0.7,
    )
    beginnings = [[rng.randrange(40) for _ in range(rng.randrange(20))] for _ in range(3)]
    asked: list[tuple[Request, Sink, int]] = []
    left = rng.randrange(2, 12)
    while left or engine.has_work:
        while left and (rng.random() < 0.4 or not engine.has_work):
            left -= 1
            request, sink = some_request(rng, beginnings), Sink()
            try:
                asked.append((request, sink, engine.submit(request, sink)))
            except ResourceError:
                counts["refused"] += 1
        if asked and rng.random() < 0.05:
            counts["cancels"] += engine.cancel(rng.choice(asked)[2])
        engine.step()
        engine.check()
        counts["steps"] += 1
    assert engine.pages_used == 0, f"{engine.pages_used} pages are held after the last request"
    for request, sink, _ in asked:
        found, expected = outcome(sink), alone(kind, size, request)
        if found[1] is FinishReason.CANCELLED:
            assert found[0] == expected[0][: len(found[0])], (request, found, expected)
        else:
            assert found == expected, (request, found, expected)
    stats = engine.stats
    counts["requests"] += len(asked)
    counts["preemptions"] += stats.preemptions
    counts["evictions"] += stats.evicted_pages
    counts["prefix_hits"] += stats.prefix_hit_tokens
    counts["accepted"] += stats.accepted


def run(first: int, traces: int, *, progress: bool) -> dict[str, Any]:
    """Run traces and return what happened in them, the failures by number."""
    counts: Counter[str] = Counter()
    failures: dict[int, str] = {}
    for number in range(first, first + traces):
        try:
            run_trace(number, counts)
        except Exception as error:
            failures[number] = f"{type(error).__name__}: {error}"[:2000]
        done = number - first + 1
        if progress and (done % 100 == 0 or done == traces):
            print(f"\r{done} of {traces} traces, {len(failures)} failed", end="", file=sys.stderr)
    if progress:
        print(file=sys.stderr)
    never = [name for name in WANTED if not counts[name]]
    return {"traces": traces, "first": first, **counts, "never": never, "failures": failures}


def main() -> int:
    """Run, print, conclude."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first trace")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = run(arguments.first, arguments.traces, progress=sys.stderr.isatty())
    if arguments.json:
        print(json.dumps(found))
    else:
        counted = ", ".join(f"{found.get(name, 0):,} {name}" for name in WANTED)
        print(f"{found['traces']:,} traces: {counted}")
        for number, text in found["failures"].items():
            print(f"trace {number} failed: {text}")
        if found["never"]:
            print(f"never happened: {', '.join(found['never'])}")
    return 1 if found["failures"] or (found["never"] and arguments.traces >= 100) else 0


if __name__ == "__main__":
    sys.exit(main())
