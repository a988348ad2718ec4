"""Runs what is missing of a report: each engine's tests in processes of their own, one at a time.

Every finished pair of engine and test is a JSON file in the report's folder, so that a run that
was broken off goes on where it was. A process that dies or falls silent costs the test that it was
at, not the rest. Knows nothing of floors and tables.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.children import ChildError, run_child
from bench.engines import Engine
from bench.environments import Places
from bench.plan import GROUPS, Test, parse, positions
from qwick.errors import QwickError

Begin = Callable[[], None]


@dataclass(frozen=True)
class Settings:
    """What holds for the whole report: figures of other settings are not comparable."""

    model: str
    size_bytes: int
    parameters: int
    cores: list[int]
    repeat: int
    stream_tokens: int


class Results:
    """The figures of a report's folder. A row has `test`; a failure has `failed`, its message."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def settle(self, settings: Settings) -> None:
        """Keep the settings; QwickError when the folder holds figures of others."""
        file = self.folder / "settings.json"
        told = asdict(settings)
        if file.is_file():
            kept = json.loads(file.read_text("utf-8"))
            different = [key for key in told if told[key] != kept.get(key)]
            if different:
                key = different[0]
                raise QwickError(
                    f"{self.folder} holds figures with {key} {kept.get(key)!r}; "
                    f"asked for is {told[key]!r}",
                    hint="name another folder with --out",
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(file, told)

    def keep(self, engine: str, test: str, row: Mapping[str, Any]) -> None:
        """Keep a row or a failure."""
        file = self._file(engine, test)
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, dict(row))

    def forget(self, engine: str, test: str) -> None:
        """Drop a figure, so that it is measured anew."""
        self._file(engine, test).unlink(missing_ok=True)

    def get(self, engine: str, test: str) -> dict[str, Any] | None:
        """Return a row or a failure, None when there is neither."""
        file = self._file(engine, test)
        return _read(file) if file.is_file() else None

    def has(self, engine: str, test: str) -> bool:
        """Whether there is a figure; a failure is none."""
        row = self.get(engine, test)
        return row is not None and "failed" not in row

    def all(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return every row and failure: engine -> test -> row."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for file in sorted(self.folder.glob("results/*/*.json")):
            found.setdefault(file.parent.name, {})[file.stem] = _read(file)
        return found

    def _file(self, engine: str, test: str) -> Path:
        return self.folder / "results" / engine / f"{test}.json"


def _read(file: Path) -> dict[str, Any]:
    told = json.loads(file.read_text("utf-8"))
    if not isinstance(told, dict):
        raise QwickError(f"{file} holds no figures", hint="delete it")
    return told


def _write(file: Path, told: Mapping[str, Any]) -> None:
    """Write so that a kill leaves the old file or the new one."""
    other = file.with_suffix(".part")
    other.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    other.replace(file)


@dataclass(frozen=True)
class Runner:
    """Measures into `results`. silence: seconds after which a quiet process is killed."""

    results: Results
    settings: Settings
    model: Path
    places: Places
    silence: float
    say: Callable[[str], None]
    begin: Begin | None = None  # runs in each new process first
    extra: Mapping[str, str] = field(default_factory=dict)  # variables of each process

    def run(self, engines: Iterable[Engine], tests: Iterable[Test]) -> None:
        """Measure what there is no figure of: group by group, in each the engines in turn."""
        engines, tests = list(engines), list(tests)
        for group in GROUPS:
            for engine in engines:
                missing = [
                    test
                    for test in tests
                    if test.group == group
                    and engine.takes(test)
                    and not self.results.has(engine.name, test.name)
                ]
                if missing:
                    self._engine(engine, group, missing)

    def _engine(self, engine: Engine, group: str, tests: list[Test]) -> None:
        try:
            python = engine.python(self.places)
            model = engine.model(self.places, self.model)
        except QwickError as error:
            for test in tests:
                self._failed(engine, test, str(error))
            return
        if group == "cold":
            for test in tests:
                self._cold(engine, python, model, test)
        elif group == "memory":  # a peak is that of a process
            for test in tests:
                self._together(engine, python, model, group, [test])
        else:
            self._together(engine, python, model, group, tests)

    def command(self, engine: Engine, model: Path, group: str, tests: list[Test]) -> list[str]:
        """Return what the interpreter is started with."""
        asked = {
            "model": str(model),
            "tests": [test.name for test in tests],
            "group": group,
            "cores": self.settings.cores,
            "repeat": self.settings.repeat,
            "stream_tokens": self.settings.stream_tokens,
            "positions": positions(tests, self.settings.stream_tokens),
        }
        return ["-m", f"bench.workers.{engine.worker}", json.dumps(asked)]

    def _together(
        self, engine: Engine, python: Path, model: Path, group: str, tests: list[Test]
    ) -> None:
        """Measure tests in one process; after a death, those behind it in another."""
        left = {test.name: test for test in tests}
        while left:
            at: list[str] = []

            def heard(told: dict[str, Any], at: list[str] = at) -> None:
                if "begin" in told:
                    at[:] = [told["begin"]]
                elif "row" in told:
                    row = told["row"]
                    self.results.keep(engine.name, row["test"], row)
                    self.say(f"{engine.name} {row['test']}: {_shown(row)}")
                    left.pop(row["test"], None)
                elif "failed" in told:
                    test = left.pop(told["failed"]["test"], None)
                    if test is not None:
                        self._failed(engine, test, told["failed"]["message"])

            self.say(f"{engine.name}: {', '.join(left)} ...")
            message = f"{engine.name} told no figure"
            try:
                command = self.command(engine, model, group, list(left.values()))
                self._child(engine, python, command, heard)
                at.clear()  # it has come to its end: what is left will not come
            except ChildError as error:
                message = str(error)
            # Died at a test: the others have their chance. Died before any, or told nothing: none.
            lost = [name for name in at if name in left] or list(left)
            for name in lost:
                self._failed(engine, left.pop(name), message)

    def _cold(self, engine: Engine, python: Path, model: Path, test: Test) -> None:
        seconds: list[float] = []
        command = self.command(engine, model, "cold", [test])
        for _ in range(self.settings.repeat + 1):
            begun = time.perf_counter()
            first: list[float] = []

            def heard(
                told: dict[str, Any], first: list[float] = first, begun: float = begun
            ) -> None:
                if "first" in told:
                    first.append(time.perf_counter() - begun)

            try:
                self._child(engine, python, command, heard)
            except ChildError as error:
                self._failed(engine, test, str(error))
                return
            if not first:
                self._failed(engine, test, f"{engine.name} told no first token")
                return
            seconds.append(first[0])
        row = {"test": test.name, "tokens": 1, "seconds": seconds[1:]}
        self.results.keep(engine.name, test.name, row)
        self.say(f"{engine.name} {test.name}: {_shown(row)}")

    def _child(
        self,
        engine: Engine,
        python: Path,
        command: list[str],
        heard: Callable[[dict[str, Any]], None],
    ) -> None:
        environment = engine.environment(self.settings.cores, python)
        run_child(
            command,
            engine.name,
            python=str(python),
            environment={**environment, **self.extra},
            silence=self.silence,
            heard=heard,
            begin=self.begin,
        )

    def _failed(self, engine: Engine, test: Test, message: str) -> None:
        self.results.keep(engine.name, test.name, {"test": test.name, "failed": message})
        self.say(f"{engine.name} {test.name}: FAILED: {message}")


def _shown(row: Mapping[str, Any]) -> str:
    if "peak" in row:
        return f"{row['peak'] / 1e6:,.0f} MB"
    best = min(row["seconds"])
    in_seconds = parse(row["test"]).in_seconds
    return f"{best:.3f} s" if in_seconds else f"{row['tokens'] / best:,.1f} tokens/s"
