"""Speed beside llama.cpp: the same file, machine and threads, in turn, in one run.

    python checks/speed_beside_llama_cpp.py [--rounds 2] [--peer-python PATH]

Each round times qwick and then llama-cpp-python, each in a process of its own; the best of all
rounds counts. Prints the table, the ratios and one JSON line; exit code 1 below the floors (decode
1.0, prompt 3.0 times llama.cpp). Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from children import ChildError, run_child
from peers import llama_cpp_python, version_of

from qwick import hub
from qwick.errors import QwickError
from qwick.machine.cpu import read_cpu

PROMPT, GENERATE, REPEAT = 512, 128, 3
FLOORS = {f"pp{PROMPT}": 3.0, f"tg{GENERATE}": 1.0}
HERE = Path(__file__).parent


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a name or a .gguf file; default: the default checkpoint")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=read_cpu().usable)
    parser.add_argument("--peer-python", type=Path)
    asked = parser.parse_args()
    try:
        file = hub.resolve(asked.model)
        peer = llama_cpp_python(asked.peer_python)
        report = measure(file, peer, asked.rounds, asked.threads)
    except (QwickError, ChildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(report)
    print(json.dumps(report))
    return 0 if report["passed"] else 1


def measure(file: Path, peer: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Run the rounds; rates are tokens per second of every repetition."""
    qwick: dict[str, list[float]] = {test: [] for test in FLOORS}
    llama: dict[str, list[float]] = {test: [] for test in FLOORS}
    machine: dict[str, Any] = {}
    common = ["--threads", str(threads), "--repeat", str(REPEAT)]
    tests = ["--prompt", str(PROMPT), "--generate", str(GENERATE)]
    for number in range(1, rounds + 1):
        told = run_child(
            [str(HERE / "own_speed.py"), str(file), *tests, "--batch", "0", *common],
            f"qwick, round {number}",
        )
        machine = {key: told[key] for key in ("isa", "bandwidth", "peak", "model")}
        for row in told["tests"]:
            tokens = row["tokens_per_second"] * min(row["seconds"])
            qwick[row["test"]] += [tokens / s for s in row["seconds"]]
        told = run_child(
            [str(HERE / "peer_llama_cpp_speed.py"), "--model", str(file), *tests, *common],
            f"llama.cpp, round {number}",
            python=str(peer),
        )
        for test, rates in told.items():
            llama[test] += rates
    ratios = {test: max(qwick[test]) / max(llama[test]) for test in FLOORS}
    return {
        "file": file.name,
        "threads": threads,
        **machine,
        "peer": f"llama-cpp-python {version_of(peer)}",
        "qwick": qwick,
        "llama_cpp": llama,
        "ratios": ratios,
        "floors": FLOORS,
        "passed": all(ratios[test] >= floor for test, floor in FLOORS.items()),
    }


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['model']}, {report['threads']} threads")
    for heading in ("test", f"qwick ({report['isa']})", report["peer"], "ratio", "floor"):
        table.add_column(heading, justify="left" if heading == "test" else "right")
    for test, floor in report["floors"].items():
        ours, theirs = max(report["qwick"][test]), max(report["llama_cpp"][test])
        ratio = report["ratios"][test]
        table.add_row(test, f"{ours:.1f} t/s", f"{theirs:.1f} t/s", f"{ratio:.2f}", f"{floor:.1f}")
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main())
