"""Long prompts: chunks give the logits of one piece, and what was read far back is found again.

    python -m checks.long_context                              # both; compiles llama.cpp once
    python -m checks.long_context --only chunks --tokens 8192
    python -m checks.long_context --only retrieval --peer-python ~/llama/bin/python

chunks: 32,768 tokens through the real model in one step, and in chunks that end before, at and
after the borders of pages and of the engine's own chunks; the logits of the rows at those edges and
of the last one must be the same. retrieval: documents of 4,096, 8,192 and 16,384 tokens that hold
ten facts each, a question for each, greedy; qwick may find at most 2 of 30 fewer than llama.cpp
with the same file and ids. Exit code 1: one of them fails. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.children import ChildError, run_child
from bench.environments import llama_cpp_python
from bench.telling import progress
from qwick import Qwen, hub
from qwick.engine.engine import TOKEN_BUDGET
from qwick.errors import QwickError

LENGTHS = (4096, 8192, 16384)
FACTS = 10
ALLOWED = 2  # facts of 30 that qwick may find fewer
ANSWER = 16  # tokens
LIMIT = 1e-3  # of the logits' deviation; sums of other rows beside them have other partners
NAMES = (
    *("Lisbon", "Oslo", "Nairobi", "Quito", "Hanoi"),
    *("Tallinn", "Lima", "Accra", "Dublin", "Osaka"),
)


def main() -> int:
    """Run both, or one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a catalogue name or a .gguf file")
    parser.add_argument("--only", choices=("chunks", "retrieval"))
    parser.add_argument("--tokens", type=int, default=32768, help="of the prompt in chunks")
    parser.add_argument("--peer-python", type=Path, help="an interpreter with llama-cpp-python")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    try:
        if arguments.only != "retrieval":
            found["chunks"] = chunks(arguments.model, arguments.tokens)
        if arguments.only != "chunks":
            found["retrieval"] = retrieval(arguments.model, arguments.peer_python)
    except (QwickError, ChildError) as error:
        print(f"long_context: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0 if all(part["passed"] for part in found.values()) else 1


# -- chunks ----------------------------------------------------------------------------------------


def chunks(model: str | None, tokens: int) -> dict[str, Any]:
    """Compare one step over all tokens with chunks of two kinds."""
    from qwick.formats.open import open_checkpoint
    from qwick.model.load import load_model

    with open_checkpoint(hub.resolve(model)) as checkpoint:
        decoder = load_model(checkpoint, context=tokens)
    ids = np.random.default_rng(0).integers(0, 150_000, tokens).astype(np.int32)
    size = decoder.page_size
    engines = [*range(TOKEN_BUDGET, tokens, TOKEN_BUDGET), tokens]
    odd = sorted({*range(1000, tokens, 1000), 1, size - 1, size, size + 1, tokens // 2 + 1, tokens})
    rows = sorted({edge - 1 for edge in (*engines[:3], *engines[-3:], *odd[:4], *odd[-3:])})
    whole = _logits(decoder, ids, [tokens], rows)
    deviation = float(whole.std())
    worst = 0.0
    for ends in (engines, odd):
        parts = _logits(decoder, ids, ends, rows)
        worst = max(worst, float(np.abs(parts - whole).max()) / deviation)
        same = float((parts.argmax(1) == whole.argmax(1)).mean())
        print(f"{len(ends)} chunks: largest difference {worst:.2g} deviations, top-1 {same:.1%}")
    return {"tokens": tokens, "rows": len(rows), "worst": worst, "passed": worst <= LIMIT}


def _logits(decoder: Any, ids: np.ndarray, ends: list[int], rows: list[int]) -> np.ndarray:
    """Return the logits of some rows, F32[r, vocab], of a prompt in chunks that end there."""
    from qwick.model.batch import Batch, Run

    size = decoder.page_size
    count = -(-len(ids) // size)
    cache = decoder.new_cache(count)
    pages = np.random.default_rng(1).permutation(count).astype(np.int32)[None]
    found, begin = [], 0
    for end in ends:
        at = np.arange(begin, end, dtype=np.int32)
        batch = Batch(
            ids=ids[begin:end],
            positions=at,
            slots=pages[0][at // size] * size + at % size,
            starts=np.array([0, len(at)], np.int32),
            lengths=np.array([end], np.int32),
            pages=pages,
            logit_rows=np.array([r - begin for r in rows if begin <= r < end], np.int32),
            runs=(Run(0, len(at), prompt=True),),
        )
        hidden = decoder.forward(batch, cache)
        found += [decoder.logits(hidden[i : i + 1]).copy() for i in range(len(hidden))]
        begin = end
        progress(end, len(ids))
    return np.concatenate(found)


# -- retrieval -------------------------------------------------------------------------------------


def retrieval(model: str | None, peer: Path | None) -> dict[str, Any]:
    """Ask both engines for every fact, and count what they find."""
    with tempfile.TemporaryDirectory() as folder:
        prompts, answers = Path(folder) / "prompts.json", Path(folder) / "answers.jsonl"
        path = hub.resolve(model)
        print("qwick reads", flush=True)
        with Qwen.load(path, ctx=max(LENGTHS) + 1024) as qwen:
            cases = {
                f"{length}-{name}": _case(qwen, length, name)
                for length in LENGTHS
                for name in NAMES
            }
            ours = {}
            for case, (ids, _) in cases.items():
                reply = qwen.complete(list(ids), max_tokens=ANSWER, temperature=0)
                ours[case] = reply.text
                progress(len(ours), len(cases))
            stops = list(qwen.defaults.stop_ids)
            told = {"prompts": {c: ids for c, (ids, _) in cases.items()}, "stop_ids": stops}
            prompts.write_text(json.dumps(told), encoding="utf-8")
            run_child(
                [
                    *("-m", "checks.peer_llama_cpp", "--model", str(path)),
                    *("--prompts", str(prompts), "--answers", str(answers)),
                    *("--max-tokens", str(ANSWER), "--threads", str(_threads())),
                ],
                "llama.cpp answers",
                python=str(llama_cpp_python(peer)),
            )
            lines = map(json.loads, answers.read_text("utf-8").splitlines())
            theirs = {line["task_id"]: qwen.texts.tokenizer.decode(line["ids"]) for line in lines}
    scores = {
        name: {
            str(length): sum(
                wanted in told[case]
                for case, (_, wanted) in cases.items()
                if case.startswith(f"{length}-")
            )
            for length in LENGTHS
        }
        for name, told in (("qwick", ours), ("llama.cpp", theirs))
    }
    for name, by_length in scores.items():
        print(f"{name}: {sum(by_length.values())} of {len(cases)} ({by_length})")
    fewer = sum(scores["llama.cpp"].values()) - sum(scores["qwick"].values())
    return {"scores": scores, "fewer": fewer, "passed": fewer <= ALLOWED}


def _case(qwen: Qwen, length: int, name: str) -> tuple[list[int], str]:
    """Return the ids of a document with a question about one of its facts, and the answer.

    The questions of a document differ in their last words only, so that its beginning is read once.
    """
    from pydoc_data.topics import topics  # English prose that every CPython has

    numbers = np.random.default_rng(length).integers(10_000, 99_999, FACTS)
    facts = [
        f"\n\nThe code of {n} is {number}.\n\n" for n, number in zip(NAMES, numbers, strict=True)
    ]
    prose = "\n\n".join(topics[key] for key in sorted(topics))
    pieces = len(prose) // FACTS
    share = length
    while True:  # as much prose as the length allows, evenly around the facts
        parts = [prose[i * pieces : i * pieces + share] + fact for i, fact in enumerate(facts)]
        question = f"What is the code of {name}? Answer with the number only."
        messages = [{"role": "user", "content": "".join(parts) + question}]
        ids = qwen.render_ids(messages)
        if len(ids) <= length:
            return ids, str(numbers[NAMES.index(name)])
        share = int(share * length / len(ids) * 0.999)


def _threads() -> int:
    from qwick.native import ops

    return ops.threads()


if __name__ == "__main__":
    raise SystemExit(main())
