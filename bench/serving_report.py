"""The report of servers under load: Markdown, JSON and a picture. Pure but for `write`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.plot import Panel, svg
from bench.report import Table, markdown_table

Row = Mapping[str, Any]  # of one server and level, as `bench.serving` measures it

TITLES = {
    "qwick_plain": "qwick --no-drafts",
    "qwick": "qwick",
    "vllm_cpu": "vLLM",
    "llama_cpp": "llama-cpp-python",
}
OWN = ("qwick_plain", "qwick")
BASIS = "qwick_plain"  # what peers are compared with, for the reason in BESIDE
IDLE_FLOOR, IDLE_AIM = 0.10, 0.05  # of the engine's time with work, spent outside the model
BESIDE = (
    "Without drafts (`--no-drafts`), one token a step as the peers compute: answers to random "
    "prompts repeat themselves, and guessing ahead pays more there than elsewhere."
)
# What the client tells: its key, its title, and whether less of it is better.
FIGURES = (
    ("output_tokens_s", "answers, tokens/s", False),
    ("ttft_p50_ms", "TTFT p50, ms", True),
    ("ttft_p99_ms", "TTFT p99, ms", True),
    ("tpot_p50_ms", "TPOT p50, ms", True),
    ("tpot_p99_ms", "TPOT p99, ms", True),
)


@dataclass(frozen=True)
class ServingReport:
    """What was measured, and how.

    settings: model, cores, prompt and answer in tokens. machine: as `bench.machine` tells it, with
    `isa` and `versions`.
    """

    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    rows: Mapping[str, Sequence[Row]]  # server -> levels

    @property
    def own_failed(self) -> int:
        """Requests that qwick did not answer; peers' are in their rows."""
        return sum(row["failed"] for server in OWN for row in self.rows.get(server, ()))

    @property
    def idle(self) -> float | None:
        """The largest idle share of qwick's engine."""
        rows = [row for server in OWN for row in self.rows.get(server, ())]
        return max((row["idle_share"] for row in rows), default=None)

    def ratios(self) -> dict[str, list[dict[str, float]]]:
        """Return how many times better qwick is than each peer, by level and figure.

        Without drafts; see BASIS.
        """
        own = {row["at_once"]: row for row in self.rows.get(BASIS, ())}
        found: dict[str, list[dict[str, float]]] = {}
        for server, rows in self.rows.items():
            for row in rows:
                mine = own.get(row["at_once"])
                if server not in OWN and mine is not None:
                    found.setdefault(server, []).append(_compared(mine, row))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "rows": {server: list(map(dict, rows)) for server, rows in self.rows.items()},
            "ratios": self.ratios(),
            "own_failed": self.own_failed,
            "idle": self.idle,
            "passed": self.passed,
        }

    @property
    def passed(self) -> bool:
        """Whether qwick answered every request, and its engine was not idle beyond its floor."""
        return not self.own_failed and (self.idle is None or self.idle <= IDLE_FLOOR)

    def markdown(self) -> str:
        """Return serving.md."""
        parts = ["# Servers under load", self._head(), "![the figures](serving.svg)"]
        parts += ["## How many times better qwick is", BESIDE, markdown_table(*self._beside())]
        parts += ["## Every figure", markdown_table(*self._every())]
        if self.idle is not None:
            verdict = "met" if self.idle <= IDLE_AIM else "missed"
            floor = "met" if self.idle <= IDLE_FLOOR else "MISSED"
            parts.append(
                f"qwick's engine spent at most {self.idle:.1%} of its time with work outside the "
                f"model: between steps, or on sampling and bookkeeping (floor {IDLE_FLOOR:.0%}: "
                f"{floor}; aim {IDLE_AIM:.0%}: {verdict})."
            )
        return "\n\n".join(parts) + "\n"

    def _head(self) -> str:
        settings, machine = self.settings, self.machine
        versions = ", ".join(f"{name} {told}" for name, told in machine["versions"].items())
        return "\n".join(
            [
                f"- model: `{settings['model']}`; vLLM has the same weights as "
                f"{settings['vllm_dtype']}",
                f"- machine: {machine['cpu']}, {settings['cores']} cores used, kernels "
                f"{machine['isa']}",
                f"- {machine['date']}, qwick at commit {machine['commit']}; {versions}",
                f"- client: `vllm bench serve`, prompts of {settings['prompt']} random tokens, "
                f"answers of {settings['answer']}, greedy, streamed, from the same machine; every "
                "server gets the same prompts; one server at a time",
            ]
        )

    def _beside(self) -> Table:
        head = ("against", "at once", *(title.split(",")[0] for _, title, _ in FIGURES))
        lines = []
        for server, levels in self.ratios().items():
            for row in levels:
                cells = [f"{row[key]:.2f}" if key in row else "-" for key, _, _ in FIGURES]
                lines.append([TITLES[server], f"{row['at_once']:.0f}", *cells])
        return head, lines

    def _every(self) -> Table:
        head = ("server", "at once", "requests", "failed", *(t for _, t, _ in FIGURES), "idle")
        lines = []
        for server, rows in self.rows.items():
            for row in rows:
                idle = f"{row['idle_share']:.1%}" if "idle_share" in row else "-"
                whole = [str(row[key]) for key in ("at_once", "requests", "failed")]
                cells = [f"{row[key]:,.1f}" for key, _, _ in FIGURES]
                lines.append([TITLES[server], *whole, *cells, idle])
        return head, lines

    def picture(self) -> str:
        """Return serving.svg."""
        colours = {server: number for number, server in enumerate(TITLES)}
        panels = []
        for level in sorted({row["at_once"] for rows in self.rows.values() for row in rows}):
            for key, title, _ in FIGURES[:2]:
                bars = [
                    (TITLES[server], row[key], colours[server])
                    for server, rows in self.rows.items()
                    for row in rows
                    if row["at_once"] == level
                ]
                name, unit = title.split(", ")
                panels.append(Panel(f"{level} at once, {name}", unit, bars))
        return svg(f"{self.settings['model']}, {self.settings['cores']} cores", panels)


def _compared(mine: Row, other: Row) -> dict[str, float]:
    found: dict[str, float] = {"at_once": mine["at_once"]}
    for key, _, less in FIGURES:
        if mine[key] > 0 and other[key] > 0:  # else all of them have failed
            ratio = other[key] / mine[key] if less else mine[key] / other[key]
            found[key] = round(ratio, 3)
    return found


def write(report: ServingReport, folder: Path) -> None:
    """Write serving.md, serving.json and serving.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("serving.md", report.markdown()),
        ("serving.json", json.dumps(report.to_dict(), indent=1) + "\n"),
        ("serving.svg", report.picture()),
    ):
        (folder / name).write_text(text, encoding="utf-8")
