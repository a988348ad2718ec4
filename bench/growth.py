"""Larger models: whether the fraction of the machine's limit holds, and 7B runs in 6 GiB.

    python -m bench.growth --out bench-report              # beside the figures of `python -m bench`
    python -m bench.growth --sizes 1.5b --keep

Writes random-weight files of the family's shapes in the q4_k_m mix, measures qwick on each, and
adds growth.json to the report's folder. Exit code 1: a test failed, or a floor of these sizes (in
`bench.floors`) is missed, as that a mixture of experts decodes at three quarters of the dense
models' fraction of the bandwidth or more. 12 GB of disk for all sizes, one file at a time unless
--keep. Prints one JSON line last. Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.__main__ import measure_limits, read_report, say, settings_of
from bench.children import ChildError
from bench.confine import Limit, forget_pages, limited
from bench.engines import ENGINES
from bench.environments import Places, default_folder
from bench.floors import Figures, Verdict, judge
from bench.plan import parse_all
from bench.random_gguf import SHAPES, write_random
from bench.report import write
from bench.run import Results, Runner, Settings
from qwick.errors import QwickError

TESTS = "pp512,tg64,memory512"
MIXED = [name for name, shape in SHAPES.items() if not shape.wide]
LIMIT = 6 << 30  # bytes that a 7B model in q4_k_m must run in


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("bench-report"))
    parser.add_argument("--sizes", default=",".join(MIXED), help="empty: judge what is kept")
    parser.add_argument("--tests", default=TESTS, help=TESTS)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--silence", type=int, default=900)
    parser.add_argument("--files", type=Path, help="where the models are written")
    parser.add_argument("--keep", action="store_true", help="do not delete the models afterwards")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    asked = parser.parse_args(arguments)
    try:
        return grow(asked)
    except (QwickError, ChildError, ValueError) as error:
        print(f"bench.growth: {error}", file=sys.stderr)
        return 2


def grow(asked: argparse.Namespace) -> int:
    """Write, measure, delete, size after size; then the report anew."""
    sizes = [size.strip() for size in asked.sizes.split(",")] if asked.sizes else []
    for size in sizes:
        if size not in SHAPES:
            raise QwickError(f"there is no size {size!r}; allowed: {', '.join(SHAPES)}")
    folder = asked.out.absolute()
    files = (asked.files or default_folder() / "growth").absolute()
    rows = [measure(size, folder / "growth" / size, files, asked) for size in sizes]
    kept = folder / "growth.json"
    before = json.loads(kept.read_text("utf-8")) if kept.is_file() else []
    by_size = {row["size"]: row for row in [*before, *rows]}
    rows = [by_size[size] for size in SHAPES if size in by_size]
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if (folder / "settings.json").is_file():
        report = read_report(folder, None)
        write(report, folder)
        verdicts = report.verdicts
    else:  # without the default model's figures the sizes have each other's
        verdicts = judge(Figures({}, growth=tuple(rows)))
    passed = told([v for v in verdicts if v.name.split(":")[0] in SHAPES])
    print(json.dumps({"growth": rows}))
    return 0 if passed and not any(row["failures"] for row in rows) else 1


def told(verdicts: Sequence[Verdict]) -> bool:
    """Print verdicts, a line each; return whether none is missed."""
    for verdict in verdicts:
        print(f"{verdict.name}: {verdict.value} (passed: {verdict.passed})")
    return all(verdict.passed is not False for verdict in verdicts)


def measure(size: str, folder: Path, files: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Return one size's row, its limits measured beside it."""
    model = made(size, files)
    try:
        settings_asked = argparse.Namespace(
            threads=asked.threads, repeat=asked.repeat, stream_tokens=1
        )
        settings = settings_of(model, settings_asked)
        results = Results(folder)
        results.settle(settings)
        engine, tests = ENGINES["qwick"], parse_all(asked.tests)
        if asked.again:
            for test in tests:
                results.forget(engine.name, test.name)
        machine = kept_limits(folder / "machine.json", settings, asked.again)
        forget_pages(model)
        with limited(LIMIT) as limit:
            runner = Runner(
                results, settings, model, Places(files), asked.silence, say, limit.enter
            )
            runner.run([engine], tests)
            figures = Figures(results.all(), machine["bandwidth"], machine["peak"])
            return row_of(size, figures, settings.size_bytes, machine, limit)
    finally:
        if not asked.keep:
            model.unlink(missing_ok=True)


def kept_limits(file: Path, settings: Settings, again: bool) -> dict[str, Any]:
    """Return the machine's limits as they were beside the figures that are kept."""
    if not file.is_file() or again:
        told = measure_limits(settings)
        file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    found = json.loads(file.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def row_of(
    size: str, figures: Figures, size_bytes: int, machine: dict[str, Any], limit: Limit
) -> dict[str, Any]:
    """Return a row of growth.json. `fits`: it ran under the limit, or none was and it kept to it.

    The peak of a process counts file pages that it has mapped; the group's may take them back.
    """
    rows = figures.rows.get("qwick", {})
    good = [name for name, row in rows.items() if "seconds" in row]
    peak = max((row["peak"] for row in rows.values() if "peak" in row), default=None)
    failures = {name: row["failed"] for name, row in rows.items() if "failed" in row}
    if limit.enter is not None:
        fits = not failures if rows else None
    else:
        fits = None if peak is None else peak <= LIMIT
    return {
        "size": size,
        "size_bytes": size_bytes,
        "machine": machine,
        "rates": {name: figures.rate("qwick", name) for name in good},
        "fractions": {name: figures.fraction(name) for name in good},
        "peak": peak,
        "group_peak": limit.peak(),
        "fits": fits,
        "memory": limit.words,
        "failures": failures,
    }


def made(size: str, files: Path) -> Path:
    """Return the model of a size, written when it is not there."""
    shape = SHAPES[size]
    name = f"random-{'qwen3' if shape.experts else 'qwen2.5'}-{size}"
    model = files / f"{name}-q4_k_m.gguf"
    if model.is_file():
        return model
    from qwick import hub
    from qwick.formats.open import open_checkpoint

    files.mkdir(parents=True, exist_ok=True)
    say(f"writing {model.name} ...")
    with open_checkpoint(hub.resolve()) as checkpoint:
        part = model.with_suffix(".part")
        write_random(part, name, shape, checkpoint.tokenizer)
    part.replace(model)
    say(f"{model.name}: {math.ceil(model.stat().st_size / 1e6):,} MB")
    return model


if __name__ == "__main__":
    # A plain kill too ends the worker, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
