"""HumanEval with qwick and with llama.cpp: same file, same prompt ids, greedy, same scoring.

    python -m checks.humaneval                            # all 164 problems
    python -m checks.humaneval --limit 20 --peer-python ~/llama/bin/python

Answers are kept in the store as they come, so that a broken run goes on where it was, and a second
one only scores again; a changed qwick or another instruction set answers anew. Programs run in a
sandbox. Prints both counts and whether they lie within 6 of 164; the last line is JSON. Exit code
1: they do not. Needs the extra `evaluate`; the peer is compiled once when no interpreter is given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import qwick
from bench.children import ChildError, run_child
from bench.environments import llama_cpp_python, version_of
from bench.telling import give, progress
from qwick import hub, settings
from qwick.errors import QwickError
from qwick.evaluate.humaneval import (
    MAX_TOKENS,
    Problem,
    Result,
    answer_problems,
    count_passed,
    question_of,
    read_problems,
    score_answers,
)

PROBLEMS = 164
ALLOWED = 6  # problems that the two may differ by, of all 164
GROUP = 32  # problems answered as one batch, and then kept


@dataclass(frozen=True)
class Engine:
    """One engine's answers and how they fared."""

    name: str
    answers: list[list[int]]
    results: list[Result]

    @property
    def passed(self) -> set[str]:
        """The problems passed."""
        return {result.task_id for result in self.results if result.passed}


def main() -> int:
    """Run the comparison, or qwick's part of it in a child."""
    arguments = parse()
    if arguments.answers is not None:
        return part_answer(arguments)
    try:
        return compare(arguments)
    except (QwickError, ChildError) as error:
        print(f"humaneval: {error}", file=sys.stderr)
        return 1


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", help="a catalogue name or a .gguf file")
    parser.add_argument("--limit", type=int, help="only the first problems: a short form")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="of one answer")
    parser.add_argument("--peer-python", type=Path, help="an interpreter with llama-cpp-python")
    parser.add_argument("--peer-threads", type=int, help="default: as many as qwick's")
    parser.add_argument("--fresh", action="store_true", help="forget the answers that are kept")
    parser.add_argument("--prompts", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--answers", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# -- qwick's part, in a process of its own ---------------------------------------------------------


def part_answer(arguments: argparse.Namespace) -> int:
    """Write the prompts' ids, and answer the problems that have no answer yet."""
    from qwick import Qwen

    problems = read_problems(arguments.limit)
    known = read_answers(arguments.answers)
    left = [problem for problem in problems if problem.task_id not in known]
    with Qwen.load(arguments.model) as model:
        prompts = {p.task_id: model.render_ids(question_of(p)) for p in problems}
        asked = {"prompts": prompts, "stop_ids": list(model.defaults.stop_ids)}
        arguments.prompts.write_text(json.dumps(asked), encoding="utf-8")
        with arguments.answers.open("a", encoding="utf-8") as out:
            for start in range(0, len(left), GROUP):
                group = left[start : start + GROUP]
                progress(len(problems) - len(left) + start, len(problems))
                replies = answer_problems(model, group, max_tokens=arguments.max_tokens)
                for problem, reply in zip(group, replies, strict=True):
                    if reply.usage.prompt_tokens != len(prompts[problem.task_id]):
                        raise QwickError(f"{problem.task_id}: chat_batch read another prompt")
                    line = {
                        "task_id": problem.task_id,
                        "ids": list(reply.ids),
                        "finish_reason": reply.finish_reason,
                    }
                    print(json.dumps(line), file=out)
                out.flush()
    progress(len(problems), len(problems))
    give({})
    return 0


def read_answers(path: Path) -> dict[str, list[int]]:
    """Return the ids of each answer kept; a line broken off by a crash is dropped for good."""
    found: dict[str, list[int]] = {}
    whole = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            told = json.loads(line)
            found[told["task_id"]] = told["ids"]
        except (ValueError, KeyError, TypeError):
            continue
        whole.append(line + "\n")
    if path.exists():
        path.write_text("".join(whole), encoding="utf-8")
    return found


# -- the comparison --------------------------------------------------------------------------------


def compare(arguments: argparse.Namespace) -> int:
    """Let both answer, score both, print; return the exit code."""
    from qwick.native import ops

    problems = read_problems(arguments.limit)
    path = hub.resolve(arguments.model)
    if not path.is_file():
        raise QwickError(f"{path} is a folder; llama.cpp reads .gguf files only")
    peer = llama_cpp_python(arguments.peer_python)
    version = version_of(peer)
    folder = folder_of(path, arguments.max_tokens)
    prompts = folder / f"prompts-{len(problems)}.json"
    files = {
        f"qwick ({ops.isa()})": folder / f"qwick-{ops.isa()}-{code_digest()}.jsonl",
        f"llama-cpp-python {version}": folder / f"llama-cpp-python-{version}.jsonl",
    }
    if arguments.fresh:
        for file in files.values():
            file.unlink(missing_ok=True)
    for file in files.values():
        read_answers(file)  # drops a broken line before anything is appended
    own, others = files.values()
    common = ["--model", str(path), "--max-tokens", str(arguments.max_tokens)]
    common += ["--prompts", str(prompts)]
    run_child(
        ["-m", "checks.humaneval", *common, "--answers", str(own), "--limit", str(len(problems))],
        "qwick answers",
    )
    threads = arguments.peer_threads or ops.threads()
    rest = ["--answers", str(others), "--threads", str(threads)]
    run_child(
        ["-m", "checks.peer_llama_cpp", *common, *rest],
        "llama.cpp answers",
        python=str(peer),
    )
    engines = score(problems, path, files)
    results = {e.name: [asdict(result) for result in e.results] for e in engines}
    kept = folder / f"results-{len(problems)}.json"
    kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return show(problems, engines, path.name, kept)


def folder_of(path: Path, max_tokens: int) -> Path:
    """Return the folder for answers to these questions by these weights."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    digest.update(json.dumps([max_tokens, [question_of(p) for p in read_problems()]]).encode())
    folder = settings.HOME.get() / "evaluations" / f"humaneval-{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def code_digest() -> str:
    """Return a name for qwick as it is: its Python files and its kernels, but not the scoring."""
    package = Path(qwick.__file__).parent
    digest = hashlib.sha256()
    for file in sorted([*package.rglob("*.py"), *package.rglob("*.so")]):
        name = file.relative_to(package).as_posix()
        if not name.startswith(("evaluate/", "cli/")):
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def score(problems: list[Problem], path: Path, files: dict[str, Path]) -> list[Engine]:
    """Decode every answer with the same tokenizer, and run its program."""
    from rich.console import Console
    from rich.progress import Progress

    from qwick.formats.open import open_checkpoint
    from qwick.text.tokenizer import Tokenizer

    with open_checkpoint(path) as checkpoint:
        tokenizer = Tokenizer.from_data(checkpoint.tokenizer)
    engines = []
    with Progress(console=Console(stderr=True)) as bar:
        for name, file in files.items():
            task = bar.add_task(f"running the programs of {name}", total=len(problems))
            known = read_answers(file)
            answers = [known[problem.task_id] for problem in problems]
            texts = [tokenizer.decode(ids, skip_control=True) for ids in answers]

            def advance(done: int, _: int, task: Any = task) -> None:
                bar.update(task, completed=done)

            results = score_answers(problems, texts, progress=advance)
            engines.append(Engine(name, answers, results))
    return engines


# -- showing ---------------------------------------------------------------------------------------


def allowed_difference(problems: int) -> int:
    """Return how far two counts may lie apart: 6 of 164, fewer of fewer (as the root: chance)."""
    return max(1, round(ALLOWED * math.sqrt(problems / PROBLEMS)))


def show(problems: Sequence[Problem], engines: list[Engine], model: str, kept: Path) -> int:
    """Print each problem on which the two differ, both counts and the verdict."""
    ours, peer = engines
    counts = [count_passed(engine.results) for engine in engines]
    details = {e.name: {r.task_id: r for r in e.results} for e in engines}
    for problem in problems:
        name = problem.task_id
        if (name in ours.passed) != (name in peer.passed):
            loser = peer if name in ours.passed else ours
            result = details[loser.name][name]
            print(f"{name}: {loser.name} {result.status}: {result.detail[:80]}")
    print("| engine | passed | of | pass@1 |")
    print("|---|---:|---:|---:|")
    for engine, count in zip(engines, counts, strict=True):
        print(
            f"| {engine.name} | {count} | {len(problems)} | {100 * count / len(problems):.1f} % |"
        )
    same = sum(a == b for a, b in zip(ours.answers, peer.answers, strict=True))
    difference = counts[0] - counts[1]
    allowed = allowed_difference(len(problems))
    within = abs(difference) <= allowed
    print(
        f"Difference {difference:+d}, allowed {allowed} either way: "
        f"{'within' if within else 'OUTSIDE'}. Answers alike token for token: {same}."
    )
    open_guards = sorted({text for e in engines for r in e.results for text in r.open})
    if open_guards:
        print(f"The sandbox could not give: {', '.join(open_guards)}.")
    print(f"Every result: {kept}")
    told = {
        "humaneval": "within" if within else "outside",
        "model": model,
        "of": len(problems),
        "passed": {engine.name: count for engine, count in zip(engines, counts, strict=True)},
        "difference": difference,
        "allowed": allowed,
        "only_qwick": sorted(ours.passed - peer.passed),
        "only_peer": sorted(peer.passed - ours.passed),
        "same_answers": same,
        "sandbox_open": open_guards,
    }
    print(json.dumps(told))
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
