"""A report out of figures: Markdown, JSON and a picture, and the one line that is printed last.

Pure but for `write`. Knows nothing of how figures are measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.engines import ENGINES, PEERS
from bench.floors import Figures, Verdict, judge
from bench.plan import Test, parse
from bench.plot import Panel, svg

NOT_HERE = (
    "Not judged here: the second turn from disk after a restart, and how long a server's engine is "
    "idle while work waits."
)

Table = tuple[Sequence[str], list[list[str]]]


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and where."""

    settings: Mapping[str, Any]  # of `bench.run`
    machine: Mapping[str, Any]  # cpu, memory, isa, bandwidth, peak, versions, commit, date
    figures: Figures
    quality: Mapping[str, Any] | None = None  # what checks/quality_gate.py printed last
    verdicts: list[Verdict] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        settings: Mapping[str, Any],
        machine: Mapping[str, Any],
        figures: Figures,
        quality: Mapping[str, Any] | None = None,
    ) -> Report:
        """Judge the figures too."""
        return cls(settings, machine, figures, quality, judge(figures))

    @property
    def tests(self) -> list[Test]:
        """Every test that was tried, in order."""
        names = {test for rows in self.figures.rows.values() for test in rows}
        order = ["pp", "tg", "streams", "turn", "drafts", "memory", "cold"]
        return sorted(
            map(parse, names), key=lambda t: (order.index(t.kind), t.depth, t.count, t.streams)
        )

    @property
    def engines(self) -> list[str]:
        """Every engine that was tried, qwick first."""
        return [name for name in ENGINES if name in self.figures.rows]

    @property
    def passed(self) -> bool:
        """Whether no floor that has a figure is missed, and the gate given holds."""
        quality = self.quality is None or self.quality.get("gate") == "holds"
        return quality and all(verdict.passed is not False for verdict in self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        told = [{**asdict(v), "passed": v.passed, "aimed": v.aimed} for v in self.verdicts]
        ratios = {
            test.name: {
                peer: ratio
                for peer in PEERS
                if (ratio := self.figures.between("qwick", test.name, peer, test.name))
            }
            for test in self.tests
            if not test.in_seconds and test.kind not in ("memory", "drafts")
        }
        return {
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "rows": {e: dict(rows) for e, rows in self.figures.rows.items()},
            "ratios": {test: found for test, found in ratios.items() if found},
            "fractions": {t.name: self.figures.fraction(t.name) for t in self.tests},
            "floors": told,
            "growth": [dict(row) for row in self.figures.growth],
            "quality": self.quality,
            "passed": self.passed,
        }

    def line(self, folder: Path) -> str:
        """Return the one line of JSON that ends the output."""
        best: dict[str, dict[str, float]] = {}
        failures = []
        for engine, rows in self.figures.rows.items():
            for test, row in rows.items():
                if "failed" in row:
                    failures.append(f"{engine} {test}")
                else:
                    best.setdefault(engine, {})[test] = round(_value(parse(test), row), 4)
        told = {
            "bench": "passed" if self.passed else "failed",
            "model": self.settings.get("model"),
            "best": best,
            "failures": failures,
            "missed": [v.name for v in self.verdicts if v.passed is False],
            "not_measured": [v.name for v in self.verdicts if v.passed is None],
            "report": str(folder),
        }
        return json.dumps(told)

    # -- Markdown ------------------------------------------------------------------------------

    def markdown(self) -> str:
        """Return report.md."""
        parts = ["# Speed beside the peers", self._head(), "![the figures](report.svg)"]
        for title, table in (
            ("Floors", self._floors()),
            ("qwick and the peers", self._beside()),
            ("qwick beside the machine's limit", self._limits()),
            ("Growth", self._growth()),
            ("Every figure", self._rows()),
        ):
            if table[1]:
                parts += [f"## {title}", markdown_table(*table)]
            if title == "Floors":
                parts.append(NOT_HERE)
        parts += self._quality() + self._failures()
        return "\n\n".join(parts) + "\n"

    def _head(self) -> str:
        machine, settings = self.machine, self.settings
        lines = [
            f"- model: `{settings['model']}`, {settings['size_bytes'] / 1e6:,.1f} MB, "
            f"{settings['parameters'] / 1e6:,.0f} M parameters",
            f"- machine: {machine.get('cpu', '?')}, {len(settings['cores'])} cores used, "
            f"kernels {machine.get('isa', '?')}",
        ]
        if machine.get("bandwidth"):
            lines.append(
                f"- its limits as qwick's kernels measure them: {machine['bandwidth'] / 1e9:.1f} "
                f"GB/s read, {machine['peak'] / 1e9:,.0f} GOP/s"
            )
        versions = ", ".join(f"{k} {v}" for k, v in machine.get("versions", {}).items())
        lines += [
            f"- {machine.get('date', '?')}, qwick at commit {machine.get('commit', '?')}; "
            f"{versions or 'no versions told'}",
            f"- best of {settings['repeat']} after a warm-up; {settings['stream_tokens']} tokens a "
            "stream; random ids, the same for all, greedy; one process at a time",
        ]
        return "\n".join(lines)

    def _floors(self) -> Table:
        head = ("what", "figure", "floor", "aim", "floor met", "aim met")
        words = {True: "yes", False: "NO", None: "not measured"}
        rows = []
        for v in self.verdicts:
            sign = "at most " if v.most else ""
            bounds = [f"{sign}{_in_unit(bound, v.unit)}" for bound in (v.floor, v.aim)]
            value = "-" if v.value is None else _in_unit(v.value, v.unit)
            value += f" ({v.beside})" if v.beside else ""
            rows.append([v.name, value, *bounds, words[v.passed], words[v.aimed].lower()])
        return head, rows

    def _beside(self) -> Table:
        engines = [name for name in self.engines if name == "qwick" or name in PEERS]
        peers = [name for name in engines if name in PEERS]
        head = ["test", *(ENGINES[n].title for n in engines), *(f"to {_short(n)}" for n in peers)]
        rows = []
        for test in self.tests:
            if test.kind == "drafts":
                continue
            cells = [self._cell(name, test) for name in engines]
            ratios = [self._ratio(name, test) for name in peers]
            rows.append([test.name, *cells, *ratios])
        return head, rows

    def _cell(self, engine: str, test: Test) -> str:
        row = self.figures.rows.get(engine, {}).get(test.name)
        if row is None:
            return "-"
        return "failed" if "failed" in row else _shown(test, row)

    def _ratio(self, peer: str, test: Test) -> str:
        ours, theirs = self.figures.row("qwick", test.name), self.figures.row(peer, test.name)
        if ours is None or theirs is None:
            return "-"
        mine, other = _value(test, ours), _value(test, theirs)
        less = test.in_seconds or test.kind == "memory"
        return f"{other / mine if less else mine / other:.2f}"

    def _limits(self) -> Table:
        head = ("test", "t/s", "GB/s", "GFLOP/s", "of the limit", "Python's share")
        rows = []
        for test in self.tests:
            row = self.figures.row("qwick", test.name)
            if row is None or "bytes" not in row:
                continue
            best, fraction = min(row["seconds"]), self.figures.fraction(test.name)
            rows.append(
                [
                    test.name,
                    f"{row['tokens'] / best:,.1f}",
                    f"{row['bytes'] / best / 1e9:.1f}",
                    f"{row['operations'] / best / 1e9:,.0f}",
                    "-" if fraction is None else f"{fraction:.0%}",
                    f"{row['python_share']:.1%}",
                ]
            )
        return head, rows

    def _growth(self) -> Table:
        head = ("size", "file", "pp512 t/s", "of the limit", "tg64 t/s", "of the limit", "peak")
        rows = []
        for row in self.figures.growth:
            cells = [row["size"], f"{row['size_bytes'] / 1e9:.2f} GB"]
            for test in ("pp512", "tg64"):
                fraction = row["fractions"].get(test)
                cells.append(f"{row['rates'][test]:,.1f}" if test in row["rates"] else "failed")
                cells.append("-" if fraction is None else f"{fraction:.0%}")
            peak = "failed" if row.get("peak") is None else f"{row['peak'] / 2**30:.2f} GiB"
            rows.append([*cells, f"{peak} ({row['memory']})"])
        return head, rows

    def _rows(self) -> Table:
        head = ("model", "size", "params", "engine", "threads", "test", "t/s", "median")
        settings = self.settings
        common = [
            str(settings["model"]),
            f"{settings['size_bytes'] / 2**20:.0f} MiB",
            f"{settings['parameters'] / 1e6:.0f} M",
        ]
        rows = []
        for name in self.engines:
            engine = ENGINES[name]
            for test in self.tests:
                row = self.figures.row(name, test.name)
                if row is None:
                    continue
                titled = f"{engine.title} ({engine.weights})"
                threads = str(len(settings["cores"]))
                middle = _shown(test, row, best=False)
                rows.append([*common, titled, threads, test.name, _shown(test, row), middle])
        return head, rows

    def _quality(self) -> list[str]:
        if self.quality is None:
            return []
        head = ("instruction set", "positions", "perplexity from float32", "top-1", "gate")
        rows = [
            [
                row["isa"],
                f"{row['positions']:,}",
                f"{row['ratio'] - 1:+.3%}",
                f"{row['agreement']:.3%}",
                "holds" if row["holds"] else "FAILS",
            ]
            for row in self.quality.get("rows", ())
        ]
        return ["## Quality", markdown_table(head, rows), f"The gate {self.quality.get('gate')}."]

    def _failures(self) -> list[str]:
        parts = []
        for engine, rows in self.figures.rows.items():
            for test, row in rows.items():
                if "failed" in row:
                    parts += [f"{engine}, {test}:", f"```\n{row['failed']}\n```"]
        return ["## Failures", *parts] if parts else []

    # -- the picture ---------------------------------------------------------------------------

    def picture(self) -> str:
        """Return report.svg."""
        colours = {name: number for number, name in enumerate(ENGINES)}
        panels = []
        for test in self.tests:
            if test.kind == "drafts":
                continue
            bars = []
            for name in self.engines:
                row = self.figures.row(name, test.name)
                if row is not None:
                    bars.append((ENGINES[name].title, _value(test, row), colours[name]))
            unit = "seconds" if test.in_seconds else "MB" if test.kind == "memory" else "tokens/s"
            if bars:
                panels.append(Panel(test.name, unit, bars))
        return svg(f"{self.settings['model']}, {len(self.settings['cores'])} cores", panels)


def write(report: Report, folder: Path) -> None:
    """Write report.md, report.json and report.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    told = json.dumps(report.to_dict(), indent=1) + "\n"
    for name, text in (
        ("report.md", report.markdown()),
        ("report.json", told),
        ("report.svg", report.picture()),
    ):
        (folder / name).write_text(text, encoding="utf-8")


def _value(test: Test, row: Mapping[str, Any], *, best: bool = True) -> float:
    """Return a row's figure in its own unit: tokens a second, seconds or MB."""
    if test.kind == "memory":
        return float(row["peak"] / 1e6)
    seconds = min(row["seconds"]) if best else median(row["seconds"])
    return float(seconds if test.in_seconds else row["tokens"] / seconds)


def _shown(test: Test, row: Mapping[str, Any], *, best: bool = True) -> str:
    value = _value(test, row, best=best)
    if test.kind == "memory":
        return f"{value:,.0f} MB"
    return f"{value:.3f} s" if test.in_seconds else f"{value:,.1f}"


def _in_unit(value: float, unit: str) -> str:
    """Return a figure as text; "%" is a fraction."""
    return {
        "%": f"{value:.1%}",
        "x": f"{value:.2f}",
        "s": f"{value:.3f} s",
        "MB": f"{value:,.0f} MB",
        "yes": "yes" if value else "no",
    }[unit]


def _short(engine: str) -> str:
    return ENGINES[engine].title.split(" ")[0]


def markdown_table(head: Sequence[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
