"""How well `qwick recommend` predicts: memory, decoding and the first token, beside what happens.

For the default checkpoint and for random weights of published shapes (1.5B and 7B in q4_k_m, 3B in
bf16, a quarter of Qwen3-30B-A3B): predicts from the catalog and the machine's measured limits
alone, and runs the file in a process of its own, one request that fills a context, three times. The
limits are measured before and after, and the better ones count, as the best answer does.

    python -m checks.predictions                 # all five; 6 GB of disk for one file at a time
    python -m checks.predictions --only default,1.5b --json

Exit code 1 when a memory prediction is off by more than 10 %, or a decoding prediction by more than
25 %. Nothing else may run meanwhile. Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwick.machine.probe import Machine

CONTEXT, ANSWER = 2048, 64  # tokens; the prompt is what the answer leaves
TEXT = Path(__file__).parents[1] / "docs" / "structure.md"  # words, as people write them
MOST_MEMORY, MOST_DECODE = 0.10, 0.25  # errors that are allowed
# What happens: memory at most (the pages of mapped files included), and the best of three answers.
# A step that a draft shortened counts as the one step it was.
CHILD = """
import json, random, sys
from qwick import Qwen
path, ctx, answer = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = Qwen.load(path, ctx=ctx)
text = model.tokenizer.encode(open(sys.argv[4], encoding="utf-8").read(), parse_special=False)
best = {"decode": 0.0, "first": 1e9}
for turn in range(3):
    random.Random(turn).shuffle(text)  # words as people use them, but nothing that is said twice
    ids = text[: ctx - answer]
    reply = model.complete(ids, max_tokens=answer, ignore_eos=True, temperature=1.0, seed=turn)
    told = reply.timings
    steps = reply.usage.completion_tokens - 1 - told.accepted
    best["decode"] = max(best["decode"], steps / told.decode)
    best["first"] = min(best["first"], told.ttft)
with open("/proc/self/status") as status:
    best["memory"] = 1024 * int(next(l for l in status if l.startswith("VmHWM")).split()[1])
print(json.dumps(best))
"""


@dataclass(frozen=True)
class Case:
    """A checkpoint of the catalog, the format, and what stands for it here."""

    model: str  # id in the catalog
    form: str
    shape: str | None  # of bench.random_gguf; None: the checkpoint itself
    layers: int | None = None  # fewer than it has


CASES = {
    "default": Case("qwen2.5-coder-0.5b-instruct", "q4_k_m", None),
    "1.5b": Case("qwen2.5-1.5b-instruct", "q4_k_m", "1.5b"),
    "7b": Case("qwen2.5-7b-instruct", "q4_k_m", "7b"),
    "3b-bf16": Case("qwen2.5-3b-instruct", "bf16", "3b-bf16"),
    "30b-a3b-quarter": Case("qwen3-30b-a3b", "q4_k_m", "30b-a3b-quarter", layers=12),
}


def predicted(case: Case, machine: Machine) -> dict[str, float]:
    """Return what the catalog and this machine's limits say."""
    from qwick.choose.devices import this_device
    from qwick.choose.sizes import parts_of
    from qwick.choose.speed import predict
    from qwick.hub import read_catalog, shape_of
    from qwick.machine.cpu import read_memory

    model = read_catalog().models[case.model]
    form = model.format(case.form)
    assert form is not None
    if case.layers is not None:
        config = {**model.config, "num_hidden_layers": case.layers}
        model, form = replace(model, config=config), replace(form, files=())
    shape, parts = shape_of(model), parts_of(model, form, CONTEXT)
    assert shape is not None
    assert parts is not None
    speed = predict(
        shape,
        this_device(machine, read_memory()),
        weights=parts.weights,
        kv_per_token=parts.kv / CONTEXT,
        prompt=CONTEXT - ANSWER,
    )
    return {
        "memory": parts.total,
        "decode": speed.decode,
        "first": speed.first,
        "bandwidth": machine.bandwidth,
        "products": machine.products,
    }


def better(one: Machine, other: Machine) -> Machine:
    """Return the machine as it was when it was quicker: the best of three answers is, too."""
    names = ("bandwidth", "products", "products_wide")
    return replace(one, **{name: max(getattr(one, name), getattr(other, name)) for name in names})


def measured(path: Path) -> dict[str, float]:
    """Run the file and return what it took."""
    command = [sys.executable, "-c", CHILD, str(path), str(CONTEXT), str(ANSWER), str(TEXT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise SystemExit(f"running {path.name} ended with exit code {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Return both figures of a case and the errors, as shares of what was measured."""
    from qwick import hub
    from qwick.machine.probe import probe

    case = CASES[name]
    if case.shape is None:
        path, made = hub.resolve(case.model), None
    else:
        path = made = written(case.shape, folder)
    try:
        before = probe(refresh=True)
        found = measured(path)
        told = predicted(case, better(before, probe(refresh=True)))
    finally:
        if made is not None:
            made.unlink()
    errors = {key: told[key] / found[key] - 1 for key in ("memory", "decode", "first")}
    return {"case": name, "predicted": told, "measured": found, "errors": errors}


def written(shape: str, folder: Path) -> Path:
    """Write random weights of that shape, with the default checkpoint's tokenizer."""
    from bench.random_gguf import SHAPES, write_random
    from qwick import hub
    from qwick.formats.open import open_checkpoint

    path = folder / f"random-{shape}.gguf"
    with open_checkpoint(hub.resolve()) as checkpoint:
        write_random(path, f"random {shape}", SHAPES[shape], checkpoint.tokenizer)
    os.sync()  # what is still being written would be measured along
    return path


def sound(row: dict[str, Any]) -> bool:
    """Whether the errors are within what is allowed."""
    errors = row["errors"]
    return abs(errors["memory"]) <= MOST_MEMORY and abs(errors["decode"]) <= MOST_DECODE


def main() -> int:
    """Predict, run, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(CASES), help="names, with commas")
    parser.add_argument("--folder", type=Path, help="where files are written")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    names = asked.only.split(",")
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; allowed: {', '.join(CASES)}")
    rows = []
    with TemporaryDirectory(dir=asked.folder) as folder:
        for name in names:
            rows.append(compare(name, Path(folder)))
            if not asked.json:
                _print(rows[-1])
    if asked.json:
        print(json.dumps(rows, indent=1))
    return 0 if all(map(sound, rows)) else 1


def _print(row: dict[str, Any]) -> None:
    told, found, errors = row["predicted"], row["measured"], row["errors"]
    verdict = "ok" if sound(row) else "TOO FAR"
    print(
        f"{row['case']:16} memory {told['memory'] / 1e6:8.0f} MB, was "
        f"{found['memory'] / 1e6:8.0f} ({errors['memory']:+.1%});  decode {told['decode']:6.1f} "
        f"tok/s, was {found['decode']:6.1f} ({errors['decode']:+.1%});  first token "
        f"{told['first']:6.2f} s, was {found['first']:6.2f} ({errors['first']:+.1%})  {verdict}  "
        f"[{told['bandwidth'] / 1e9:.1f} GB/s, {told['products'] / 1e9:.0f} GOP/s]",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
