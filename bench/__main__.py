"""The referee: qwick and its peers on the same file, ids and cores, in turn, and a report.

    python -m bench                                      # everything; peers are built on first use
    python -m bench --only qwick,llama_cpp --tests pp512,tg128
    python -m bench --report-only --quality gate.json    # no measuring: judge what is there

Run it from the checkout's root, with the interpreter that qwick is installed in, on a machine that
does nothing else. A run that was broken off goes on where it was; --again measures what is asked
for anew. Prints one JSON line last. Exit code 1: a floor is missed; 2: it could not be judged.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.children import ChildError, run_child
from bench.engines import ENGINES, usable_cores
from bench.environments import RECIPES, Places, default_folder, version_of
from bench.floors import Figures
from bench.machine import facts
from bench.plan import DEFAULT, Test, parse_all
from bench.report import Report, write
from bench.run import Results, Runner, Settings
from qwick.errors import QwickError


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the report, judge."""
    asked = parser().parse_args(arguments)
    try:
        return bench(asked)
    except (QwickError, ChildError) as error:
        hint = getattr(error, "hint", None)
        print(f"bench: {error}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    found = argparse.ArgumentParser(
        prog="python -m bench", description=(__doc__ or "").split("\n\n")[0]
    )
    found.add_argument("--model", help="a catalogue name or a .gguf file")
    found.add_argument("--out", type=Path, default=Path("bench-report"), help="the report's folder")
    found.add_argument("--only", help=f"engines: {','.join(ENGINES)}")
    found.add_argument("--tests", default=DEFAULT, help=DEFAULT)
    found.add_argument("--again", action="store_true", help="measure anew what is there")
    found.add_argument("--report-only", action="store_true", help="measure nothing")
    found.add_argument("--repeat", type=_whole, default=3, help="repetitions after a warm-up")
    found.add_argument("--stream-tokens", type=_whole, default=64, help="tokens of each stream")
    found.add_argument("--threads", type=_whole, help="cores to use; default: all usable ones")
    found.add_argument("--silence", type=_whole, default=900, help="seconds before a kill")
    found.add_argument("--quality", type=Path, help="what checks/quality_gate.py printed")
    add_places(found)
    return found


def add_places(found: argparse.ArgumentParser) -> None:
    """Add the options that say where the peers are."""
    found.add_argument("--peers-dir", type=Path, help="where environments are built and kept")
    found.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help=f"an interpreter to use as it is; names: {', '.join(RECIPES)}",
    )
    found.add_argument("--files", type=Path, help="a folder with hf/ and ov_int4/ to use")


def places_of(asked: argparse.Namespace) -> Places:
    """Return the places that the options name; QwickError for a name that is none."""
    pythons = {}
    for text in asked.python:
        name, _, path = text.partition("=")
        if name not in RECIPES or not path:
            raise QwickError(f"--python is {text!r}; allowed: NAME=PATH, NAME one of {_names()}")
        pythons[name] = Path(path).absolute()
    folder = asked.peers_dir or default_folder()
    files = None if asked.files is None else asked.files.absolute()
    return Places(folder.absolute(), pythons, files)


def _names() -> str:
    return ", ".join(RECIPES)


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; allowed: 1 or more")
    return value


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def bench(asked: argparse.Namespace) -> int:
    """Do what was asked; return the exit code."""
    engines, tests = selected(asked)
    folder, places = asked.out.absolute(), places_of(asked)
    results = Results(folder)
    if not asked.report_only:
        from qwick import hub

        model = hub.resolve(asked.model).absolute()
        settings = settings_of(model, asked)
        results.settle(settings)
        _machine(folder, settings, asked)
        if asked.again:
            for name in engines:
                for test in tests:
                    results.forget(name, test.name)
        runner = Runner(results, settings, model, places, asked.silence, say)
        runner.run([ENGINES[name] for name in engines], tests)
        _note_versions(folder, places, engines)
    report = read_report(folder, asked.quality)
    write(report, folder)
    print(report.markdown())
    print(report.line(folder))
    return 0 if report.passed else 1


def selected(asked: argparse.Namespace) -> tuple[list[str], list[Test]]:
    """Return the engines and tests asked for; QwickError for unknown ones."""
    names = list(ENGINES) if asked.only is None else [n.strip() for n in asked.only.split(",")]
    for name in names:
        if name not in ENGINES:
            raise QwickError(f"there is no engine {name!r}; allowed: {', '.join(ENGINES)}")
    try:
        return names, parse_all(asked.tests)
    except ValueError as error:
        raise QwickError(str(error)) from None


def settings_of(model: Path, asked: argparse.Namespace) -> Settings:
    """Return what all figures of the report have in common."""
    from qwick.formats.open import open_checkpoint
    from qwick.machine.cpu import read_cpu

    if not model.is_file():
        raise QwickError(f"{model} is a folder; the peers need a .gguf file")
    with open_checkpoint(model) as checkpoint:
        size = checkpoint.size_bytes
        parameters = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    cores = usable_cores(asked.threads or read_cpu().usable)
    return Settings(model.name, size, parameters, cores, asked.repeat, asked.stream_tokens)


def measure_limits(settings: Settings) -> dict[str, Any]:
    """Return the machine's limits and the instruction set, measured in a process of its own."""
    asked = {"model": "", "tests": [], "group": "plain", "positions": 1, "repeat": 1}
    told = json.dumps({**asked, "cores": settings.cores, "stream_tokens": 1})
    found = run_child(["-m", "bench.workers.limits", told], "limits", heard=lambda told: None)
    assert isinstance(found, dict)
    return found


def _machine(folder: Path, settings: Settings, asked: argparse.Namespace) -> None:
    """Keep what machine this is, unless it is known and nothing is asked anew."""
    file = folder / "machine.json"
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if "bandwidth" in known and not asked.again:
        return
    say("the machine's limits ...")
    told = {
        **facts(),
        "versions": known.get("versions", {}),
        **measure_limits(settings),
    }
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _note_versions(folder: Path, places: Places, engines: Sequence[str]) -> None:
    """Keep the versions of the peers that have figures."""
    file = folder / "machine.json"
    told = json.loads(file.read_text("utf-8"))
    for name in engines:
        engine = ENGINES[name]
        if engine.recipe is None or not (folder / "results" / name).is_dir():
            continue
        try:
            version = version_of(places.python(engine.recipe), engine.recipe)
        except QwickError:
            continue  # its failure is in the report already
        told.setdefault("versions", {})[engine.title] = version
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read_report(folder: Path, quality: Path | None) -> Report:
    """Return the report of a folder; QwickError when it has no figures."""
    settings = folder / "settings.json"
    if not settings.is_file():
        raise QwickError(f"{folder} holds no figures", hint="leave out --report-only")
    machine = _object(folder / "machine.json")
    growth = folder / "growth.json"
    rows = json.loads(growth.read_text("utf-8")) if growth.is_file() else []
    figures = Figures(
        Results(folder).all(), machine.get("bandwidth"), machine.get("peak"), tuple(rows)
    )
    gate = folder / "quality.json"
    if quality is not None:
        gate.write_text(json.dumps(_last_object(quality), indent=1) + "\n", encoding="utf-8")
    told = _object(gate) if gate.is_file() else None
    return Report.of(_object(settings), machine, figures, told)


def _object(file: Path) -> dict[str, Any]:
    told = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    assert isinstance(told, dict)
    return told


def _last_object(file: Path) -> dict[str, Any]:
    """Return the JSON object of a file's last line: all that quality_gate.py printed will do."""
    try:
        text = file.read_text("utf-8").strip()
        told = json.loads(text.splitlines()[-1] if not text.startswith("{") else text)
    except (OSError, ValueError, IndexError) as error:
        raise QwickError(f"--quality is {file}; it cannot be read: {error}") from None
    if not isinstance(told, dict) or "gate" not in told:
        raise QwickError(f"--quality is {file}; its last line is not a quality gate's")
    return told


if __name__ == "__main__":
    # A plain kill too ends the worker, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
