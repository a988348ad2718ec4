"""The quality gate: qwick beside the same weights in float32, on every instruction set.

    python -m checks.quality_gate                     # every instruction set of this CPU
    python -m checks.quality_gate --isa avx512vnni --positions 3000

The texts are HumanEval's problems, each its prompt and canonical solution: 30,863 tokens. Every
position's log probability and best token come from the public engine, in a process of its own for
each instruction set (an emulated one counts as one), and from transformers in float32 on the same
weights dequantised, computed once and kept in the store. Prints a table and, last, one JSON line.
Exit code 1: the gate does not hold. Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.children import ChildError, run_child
from bench.telling import give, progress
from qwick import hub, settings
from qwick.errors import QwickError
from qwick.evaluate.perplexity import Scored, Texts, compare, first_positions, positions_of
from qwick.evaluate.reference import PACKAGES

TOKENS = 30_863  # of all texts, each on its own, nothing put in front: no tokenizer may change that
DEVIATION = 0.005  # of the perplexity from float32's
AGREEMENT = 0.98  # least share of positions with the same best token
# Scalar code and emulations are far slower: the first positions alone, unless --whole.
FIRST = 2_000


@dataclass(frozen=True)
class Row:
    """One instruction set's line."""

    isa: str
    positions: int
    perplexity: float
    reference: float
    ratio: float
    agreement: float
    tokens_per_second: float
    holds: bool


def main() -> int:
    """Run the gate, or one part of it in a child."""
    arguments = parse()
    if arguments.part == "reference":
        return part_reference(arguments)
    if arguments.part == "score":
        return part_score(arguments)
    try:
        return gate(arguments)
    except (QwickError, ChildError) as error:
        print(f"quality gate: {error}", file=sys.stderr)
        return 1


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", help="a catalogue name, a folder or a .gguf file")
    parser.add_argument("--isa", action="append", help="only this instruction set; may be repeated")
    parser.add_argument("--whole", action="store_true", help="all positions on slow sets too")
    parser.add_argument("--positions", type=int, help="only so many positions: a short form")
    parser.add_argument("--kv", help="the cache's numbers: int8, bf16, f32; default: the engine's")
    parser.add_argument("--part", choices=["reference", "score"], help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.positions is not None and arguments.positions < 1:
        parser.error(f"--positions is {arguments.positions}; allowed: 1 or more")
    return arguments


# -- the parts, each in a process of its own -------------------------------------------------------


def part_reference(arguments: argparse.Namespace) -> int:
    """Score the texts with transformers."""
    from qwick.evaluate.reference import score_in_float32

    texts = json.loads(arguments.texts.read_text("utf-8"))
    score_in_float32(Path(arguments.model), texts, progress).save(arguments.out)
    give({})
    return 0


def part_score(arguments: argparse.Namespace) -> int:
    """Score the texts with qwick."""
    from qwick import Qwen
    from qwick.evaluate.perplexity import score_texts
    from qwick.native import ops

    texts = json.loads(arguments.texts.read_text("utf-8"))
    with Qwen.load(arguments.model, kv=arguments.kv) as model:
        begun = time.perf_counter()
        scored = score_texts(model, texts, progress)
        seconds = time.perf_counter() - begun
    scored.save(arguments.out)
    give({"isa": ops.isa(), "seconds": seconds})
    return 0


# -- the gate --------------------------------------------------------------------------------------


def gate(arguments: argparse.Namespace) -> int:
    """Run every part and print what came of it; return the exit code."""
    path = hub.resolve(arguments.model)
    texts = humaneval_texts(path)
    tokens = sum(map(len, texts))
    if tokens != TOKENS:
        raise QwickError(f"the texts come to {tokens:,} tokens with this tokenizer, not {TOKENS:,}")
    asked: Texts = first_positions(texts, arguments.positions or positions_of(texts))
    reference = reference_of(path, texts, asked)
    sets, slow = instruction_sets(arguments.isa)
    if arguments.whole:
        slow = set()
    rows, failures = [], {}
    for isa in sets:
        try:
            some = first_positions(asked, FIRST) if isa in slow else asked
            rows.append(row_of(isa, arguments.kv, path, some, reference))
        except ChildError as error:
            failures[isa] = str(error)
            print(error, file=sys.stderr)
    show(rows, failures)
    holds = not failures and all(row.holds for row in rows)
    told: dict[str, Any] = {
        "gate": "holds" if holds else "fails",
        "model": path.name,
        "texts": len(texts),
        "tokens": tokens,
        "short": arguments.positions is not None,
        "kv": arguments.kv,
        "deviation_allowed": DEVIATION,
        "agreement_needed": AGREEMENT,
        "rows": [asdict(row) for row in rows],
        "failures": failures,
        "reference": versions(),
    }
    print(json.dumps(told))
    return 0 if holds else 1


def humaneval_texts(path: Path) -> list[list[int]]:
    """Return the token ids of every problem's prompt and canonical solution."""
    from qwick.evaluate.humaneval import read_problems
    from qwick.formats.open import open_checkpoint
    from qwick.text.tokenizer import Tokenizer

    with open_checkpoint(path) as checkpoint:
        tokenizer = Tokenizer.from_data(checkpoint.tokenizer)
    return [
        tokenizer.encode(problem.prompt + problem.canonical_solution, parse_special=False)
        for problem in read_problems()
    ]


def instruction_sets(asked: list[str] | None) -> tuple[list[str], set[str]]:
    """Return the sets to run (those asked for, or all of this CPU), and which sets are slow."""
    from qwick.native import ops

    usable = [entry.name for entry in ops.available() if entry.usable]
    for name in asked or ():
        if name not in usable:
            raise QwickError(f"this CPU cannot run {name!r}; it can run {', '.join(usable)}")
    slow = {entry.name for entry in ops.available() if not entry.selectable} | {"scalar"}
    return asked or usable, slow


def row_of(isa: str, kv: str | None, path: Path, texts: Texts, reference: Scored) -> Row:
    """Score with one instruction set, and compare."""
    scored, told = run_part("score", isa, path, texts, kv, QWICK_ISA=isa)
    if told["isa"] != isa:
        raise ChildError(f"{isa} was asked for, {told['isa']} ran")
    found = compare(scored, reference)
    return Row(
        isa=isa,
        positions=found.positions,
        perplexity=found.perplexity,
        reference=found.reference,
        ratio=found.ratio,
        agreement=found.agreement,
        tokens_per_second=found.positions / told["seconds"],
        holds=found.holds(deviation=DEVIATION, agreement=AGREEMENT),
    )


def run_part(
    part: str, label: str, path: Path, texts: Texts, kv: str | None = None, **environment: str
) -> tuple[Scored, Any]:
    """Run a part of this file in a child; return the scores and what it told besides."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "texts.json"), Path(folder, "scores.npz")
        given.write_text(json.dumps([list(text) for text in texts]), encoding="utf-8")
        arguments = ["-m", "checks.quality_gate", "--part", part, "--model", str(path)]
        arguments += ["--texts", str(given), "--out", str(out)]
        arguments += [] if kv is None else ["--kv", kv]
        told = run_child(arguments, label, environment=environment)
        return Scored.read(out), told


# -- the reference, kept in the store --------------------------------------------------------------


def reference_of(path: Path, texts: Texts, asked: Texts) -> Scored:
    """Return float32's scores of the texts asked for, from the store or computed now."""
    folder = settings.HOME.get() / "references"
    weights = digest_of(path)
    for some in (texts, asked):
        kept = folder / f"{key_of(weights, some)}.npz"
        if kept.is_file():
            return Scored.read(kept)
    scored, _ = run_part("reference", "float32", path, asked)
    folder.mkdir(parents=True, exist_ok=True)
    scored.save(kept)  # the name made last: that of what was asked for
    return scored


def key_of(weights: str, texts: Texts) -> str:
    """Return a name for the scores of these texts under these weights and package versions."""
    told = json.dumps([weights, versions(), [list(text) for text in texts]])
    return hashlib.sha256(told.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute the reference."""
    try:
        return {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as error:
        raise QwickError(
            f"the package {error.name} is not installed", hint="pip install 'qwick[test]'"
        ) from None


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of every file of a folder."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as source:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


# -- showing ---------------------------------------------------------------------------------------


def show(rows: list[Row], failures: dict[str, str]) -> None:
    """Print the table."""
    head = (
        "| instruction set | positions | perplexity | float32 | deviation | top-1 | tok/s | gate |"
    )
    print(head)
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for row in rows:
        print(
            f"| {row.isa} | {row.positions:,} | {row.perplexity:.5f} | {row.reference:.5f} "
            f"| {100 * (row.ratio - 1):+.3f} % | {100 * row.agreement:.3f} % "
            f"| {row.tokens_per_second:,.0f} | {'holds' if row.holds else 'FAILS'} |"
        )
    for isa in failures:
        print(f"| {isa} | - | - | - | - | - | - | FAILS |")
    allowed = f"{100 * DEVIATION:g} % of perplexity, {100 * AGREEMENT:g} % of best tokens"
    print(f"Allowed: {allowed}.")


if __name__ == "__main__":
    sys.exit(main())
