"""The floors below which qwick's speed may not lie, the aims above them, and the verdict on each.

Pure: a report's figures go in, verdicts come out. Ratios are to the best peer of the same test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.engines import PEERS
from bench.random_gguf import SHAPES

Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]  # engine -> test -> row

MB = 1e6
NOISE = 0.95  # "does not fall": a fraction this much of another one counts as the same
EXPERTS = 0.75  # of the dense models' fraction: what a mixture of experts reaches in decoding


@dataclass(frozen=True)
class Figures:
    """All that floors are judged by; `growth` holds one row per model size, smallest first."""

    rows: Rows
    bandwidth: float | None = None  # bytes a second that this machine reads
    peak: float | None = None  # operations a second
    growth: tuple[Mapping[str, Any], ...] = ()

    def row(self, engine: str, test: str) -> Mapping[str, Any] | None:
        """Return a row; None where there is none or it failed."""
        row = self.rows.get(engine, {}).get(test)
        return None if row is None or "failed" in row else row

    def rate(self, engine: str, test: str) -> float | None:
        """Return tokens a second of the best repetition."""
        row = self.row(engine, test)
        return None if row is None else row["tokens"] / min(row["seconds"])

    def seconds(self, engine: str, test: str) -> float | None:
        """Return the seconds of the best repetition."""
        row = self.row(engine, test)
        return None if row is None else min(row["seconds"])

    def best_peer(self, test: str) -> tuple[str, float] | None:
        """Return the fastest peer of a test and its rate."""
        rates = [(rate, name) for name in PEERS if (rate := self.rate(name, test)) is not None]
        return (max(rates)[1], max(rates)[0]) if rates else None

    def to_best(self, test: str) -> float | None:
        """Return qwick's rate over the best peer's."""
        ours, best = self.rate("qwick", test), self.best_peer(test)
        return None if ours is None or best is None else ours / best[1]

    def between(self, engine: str, test: str, other: str, their_test: str) -> float | None:
        """Return one rate over another."""
        ours, theirs = self.rate(engine, test), self.rate(other, their_test)
        return None if ours is None or theirs is None else ours / theirs

    def fraction(self, test: str) -> float | None:
        """Return the least time that qwick's work could take here, over the time it took."""
        row = self.row("qwick", test)
        if row is None or "bytes" not in row or not self.bandwidth or not self.peak:
            return None
        least = max(row["bytes"] / self.bandwidth, row["operations"] / self.peak)
        return float(least / min(row["seconds"]))


@dataclass(frozen=True)
class Floor:
    """One line: what is measured, floor and aim in its unit, whether less is better."""

    name: str
    unit: str  # "x", "%", "s", "MB", "yes": 1 or 0
    floor: float
    aim: float
    value: Callable[[Figures], float | None]
    most: bool = False  # floor and aim are upper bounds
    test: str | None = None  # where the value is a ratio to the best peer: of this test


@dataclass(frozen=True)
class Verdict:
    """A floor judged: passed is None where there is no figure."""

    name: str
    unit: str
    value: float | None
    floor: float
    aim: float
    most: bool
    beside: str = ""  # the best peer, and peers that gave no figure

    @property
    def passed(self) -> bool | None:
        """Whether the floor is met."""
        return self._met(self.floor)

    @property
    def aimed(self) -> bool | None:
        """Whether the aim is met too."""
        return self._met(self.aim)

    def _met(self, bound: float) -> bool | None:
        if self.value is None:
            return None
        return self.value <= bound if self.most else self.value >= bound


def judge(figures: Figures) -> list[Verdict]:
    """Return the verdict on every floor."""
    return [
        Verdict(f.name, f.unit, f.value(figures), f.floor, f.aim, f.most, _beside(figures, f.test))
        for f in FLOORS
    ] + _growth(figures)


def _beside(figures: Figures, test: str | None) -> str:
    """Return which peer was the best; one that failed might have been, so it is named too."""
    best = None if test is None else figures.best_peer(test)
    if test is None or best is None:
        return ""
    without = [name for name in PEERS if figures.row(name, test) is None]
    return best[0] + (f"; without {', '.join(without)}" if without else "")


def _best(words: str, floor: float, aim: float, test: str) -> Floor:
    name = f"{words}, to the best peer"
    return Floor(name, "x", floor, aim, lambda figures: figures.to_best(test), test=test)


def _own(test: str, other: str, engine: str = "qwick") -> Callable[[Figures], float | None]:
    return lambda figures: figures.between(engine, test, engine, other)


def _avx2(test: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.between("qwick_avx2", test, "llama_cpp_avx2", test)


def _seconds(test: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.seconds("qwick", test)


def _beyond_need(figures: Figures) -> float | None:
    """Peak memory beyond weights touched and KV, in MB."""
    row = figures.row("qwick", "memory2048")
    return None if row is None else (row["peak"] - row["expected"]) / MB


def _drafts(figures: Figures) -> float | None:
    row = figures.row("qwick", "drafts")
    return None if row is None else min(row["plain_seconds"]) / min(row["seconds"])


def _python_share(figures: Figures) -> float | None:
    row = figures.row("qwick", "tg128")
    return None if row is None else row.get("python_share")


FLOORS = (
    _best("prompt of 512", 1.3, 2.0, "pp512"),
    _best("prompt of 2,048", 1.3, 2.0, "pp2048"),
    _best("prompt of 128", 1.0, 1.5, "pp128"),
    _best("one stream", 1.4, 1.65, "tg128"),
    _best("8 streams", 2.0, 3.0, "streams8"),
    _best("32 streams", 2.0, 3.0, "streams32"),
    Floor("decoding at depth 8,192, to depth 0", "%", 0.6, 0.8, _own("tg128@8192", "tg128")),
    Floor("prompt at depth 8,192, to depth 0", "%", 0.3, 0.4, _own("pp512@8192", "pp512")),
    Floor(
        "decoding at depth 8,192, bf16 KV, to depth 0",
        "%",
        0.6,
        0.72,
        _own("tg128@8192", "tg128", "qwick_bf16"),
    ),
    Floor(
        "prompt at depth 8,192, bf16 KV, to depth 0",
        "%",
        0.3,
        0.4,
        _own("pp512@8192", "pp512", "qwick_bf16"),
    ),
    Floor(
        "second turn of 8,192 tokens, first token",
        "s",
        0.25,
        0.1,
        _seconds("turn8192+32"),
        most=True,
    ),
    Floor("cold start, first token", "s", 1.6, 1.0, _seconds("cold"), most=True),
    Floor("peak memory beyond weights and KV", "MB", 350, 200, _beyond_need, most=True),
    Floor("quoting with drafts, to plain decoding", "x", 1.4, 2.0, _drafts),
    Floor("AVX2, prompt of 512, to llama.cpp", "x", 1.1, 1.5, _avx2("pp512")),
    Floor("AVX2, one stream, to llama.cpp", "x", 1.1, 1.5, _avx2("tg128")),
    Floor("Python's share of a decode step", "%", 0.08, 0.05, _python_share, most=True),
)


def _growth(figures: Figures) -> list[Verdict]:
    """Larger models: their fractions of the limit beside others'; the largest's memory."""
    found = []
    for row in figures.growth:
        for test, words in (("pp512", "prompts"), ("tg64", "one stream")):
            like = figures.fraction("tg128" if test == "tg64" else test)
            value = row.get("fractions", {}).get(test)
            ratio = None if not like or value is None else value / like
            name = f"{row['size']}: fraction of the limit, {words}, to the default model's"
            found.append(Verdict(name, "x", ratio, NOISE, 1.0, most=False))
        if row["size"] == "7b":
            fits = None if row.get("fits") is None else float(row["fits"])
            found.append(Verdict("7b: runs in 6 GiB", "yes", fits, 1.0, 1.0, most=False))
        if _has_experts(row):
            name = f"{row['size']}: fraction of the limit, one stream, to the dense models' mean"
            ratio = _to_dense(row, figures.growth)
            found.append(Verdict(name, "x", ratio, EXPERTS, 1.0, most=False))
    return found


def _has_experts(row: Mapping[str, Any]) -> bool:
    return row["size"] in SHAPES and SHAPES[row["size"]].experts > 0


def _to_dense(row: Mapping[str, Any], growth: tuple[Mapping[str, Any], ...]) -> float | None:
    """Return the fraction of the bandwidth that decoding reaches, over the dense models' mean.

    Of a mixture of experts the bytes are those of the experts taken. The mean of all sizes, not the
    nearest in bytes: that is the smallest, which reaches the least.
    """
    value = row.get("fractions", {}).get("tg64")
    dense = [
        other["fractions"]["tg64"]
        for other in growth
        if not _has_experts(other) and "tg64" in other.get("fractions", {})
    ]
    if value is None or not dense or None in dense:
        return None
    return float(value / (sum(dense) / len(dense)))
