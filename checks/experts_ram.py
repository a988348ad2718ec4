"""A mixture of experts larger than the memory for its weights: an 8 GB file within 2.6 GB.

    python -m checks.experts_ram
    python -m checks.experts_ram --layers 4 --weights-ram 1GB --budget 1.6GB     # smaller
    python -m checks.experts_ram --model FILE --files FOLDER --keep

Writes a random-weight model of the proportions of Qwen3-30B-A3B with as many layers as asked for
(20: 8 GB), whose tokens spread over all experts, and runs it in processes of their own with
`weights_ram`: once while the file of packed experts is written, then from that file, and in a
prompt of several hundred tokens and an answer each. The most that a process has had in memory
must stay within the budget, and all answers must be one. Needs twice the model's size of disk.
Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.confine import forget_pages
from bench.environments import default_folder
from bench.random_gguf import SHAPES, write_random
from qwick import hub, settings
from qwick.formats.open import open_checkpoint
from qwick.values import size_in_bytes

LAYERS = 20
PROMPT = 700  # tokens: more than one step takes
CTX = 2048
EMBEDDING = 100.0  # norm of its rows: what a token's experts are, it decides, and no other token


def main() -> int:
    """Write the model where it is not there, run it, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--weights-ram", default="2GB")
    parser.add_argument("--budget", default="2.6GB", help="most memory of a process [2.6GB]")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer [32]")
    parser.add_argument("--starts", type=int, default=2, help="processes, one after the other [2]")
    parser.add_argument("--model", type=Path, help="this file, not one that is written")
    parser.add_argument("--files", type=Path, help="where model and packed experts are written")
    parser.add_argument("--keep", action="store_true", help="do not delete them afterwards")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inner:
        return inner(asked)
    files = (asked.files or default_folder() / "experts_ram").absolute()
    files.mkdir(parents=True, exist_ok=True)
    model = asked.model or written(files / f"random-30b-a3b-{asked.layers}-layers.gguf", asked)
    home = files / "home"
    size = model.stat().st_size
    try:
        runs = [start(model, home, asked) for _ in range(asked.starts)]
    finally:
        if not asked.keep:
            for file in (home / "experts").glob("*"):
                file.unlink()
            if asked.model is None:
                model.unlink()
    problems = judged(runs, size_in_bytes("--budget", asked.budget))
    for problem in problems:
        print(f"experts_ram: {problem}", file=sys.stderr)
    for run in runs:
        del run["answers"]
    told = {"size_bytes": size, "weights_ram": asked.weights_ram, "runs": runs}
    print(json.dumps({"experts_ram": "fails" if problems else "holds", **told}))
    return 1 if problems else 0


def written(model: Path, asked: argparse.Namespace) -> Path:
    """Return the model, written where it is not there."""
    if model.is_file():
        return model
    shape = replace(SHAPES["30b-a3b-quarter"], layers=asked.layers, embedding=EMBEDDING)
    print(f"writing {model.name} ...", flush=True)
    part = model.with_suffix(".part")
    with open_checkpoint(hub.resolve()) as checkpoint:
        write_random(part, model.stem, shape, checkpoint.tokenizer)
    part.replace(model)
    print(f"{model.name}: {model.stat().st_size / 1e9:.2f} GB", flush=True)
    return model


def start(model: Path, home: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run one process and return its figures; nothing of model and experts is in memory before."""
    for file in (model, *(home / "experts").glob("*.tiles")):
        forget_pages(file)
    command = [sys.executable, "-m", "checks.experts_ram", "--inner", "--model", str(model)]
    command += ["--weights-ram", asked.weights_ram, "--tokens", str(asked.tokens)]
    environment = settings.child_environment(QWICK_HOME=str(home))
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"experts_ram: the process ended with {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"loaded in {figures['load_seconds']:.1f} s (peak {figures['load_peak'] / 1e9:.2f} GB), "
        f"prompt {figures['prompt_rate']:.1f} tokens/s, answer {figures['answer_rate']:.2f} and "
        f"{figures['again_rate']:.2f} tokens/s, peak {figures['peak'] / 1e9:.2f} GB",
        flush=True,
    )
    if use := figures["experts"]:
        print(
            f"experts: {use['misses']:,} of {use['hits'] + use['misses']:,} were not in memory, "
            f"{use['read'] / 1e9:.1f} GB brought in; {use['idle']} of "
            f"{use['layers'] * use['experts']} never used",
            flush=True,
        )
    return figures


def inner(asked: argparse.Namespace) -> int:
    """Load, answer twice, print the figures."""
    from qwick.llm import Qwen

    begun = time.perf_counter()
    with Qwen.load(asked.model, ctx=CTX, weights_ram=asked.weights_ram) as qwen:
        loaded = time.perf_counter() - begun
        load_peak = peak()
        ids = [(i * 7919) % 50_000 for i in range(PROMPT)]
        replies = [
            qwen.complete(prompt, max_tokens=asked.tokens, temperature=1, seed=1, ignore_eos=True)
            for prompt in (ids, ids[:64])
        ]
        use = qwen.engine.snapshot.experts
    timings = [reply.timings for reply in replies]
    figures = {
        "load_seconds": loaded,
        "load_peak": load_peak,
        "prompt_rate": PROMPT / timings[0].prefill,
        "answer_rate": (asked.tokens - 1) / timings[0].decode,
        "again_rate": (asked.tokens - 1) / timings[1].decode,
        "peak": peak(),
        "experts": None if use is None else use.to_dict(),
        "answers": [reply.text for reply in replies],
    }
    print(json.dumps(figures))
    return 0


def peak() -> int:
    """Return the most bytes that this process has had in memory, mapped files among them."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("experts_ram: this system does not tell a process's peak (VmHWM)")


def judged(runs: list[dict[str, Any]], budget: int) -> list[str]:
    """Return what is not as it should be."""
    problems = [
        f"start {i} had {run['peak']:,} bytes in memory; allowed: {budget:,}"
        for i, run in enumerate(runs, 1)
        if run["peak"] > budget
    ]
    if any(run["experts"] is None or run["experts"]["budget"] is None for run in runs):
        return [*problems, "the experts were not read from a file: nothing was shown"]
    for use in (run["experts"] for run in runs):
        if 20 * use["idle"] > use["layers"] * use["experts"]:
            problems.append(f"{use['idle']} experts were never used: too easy a model")
    if any(run["answers"] != runs[0]["answers"] for run in runs):
        problems.append("answers differ between starts")
    return problems


if __name__ == "__main__":
    sys.exit(main())
