"""Tables and long lines as wide as the terminal, and whole where there is none."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from cli.conftest import Run, environment, read_terminal
from qwick.hub import read_catalog

SIZES = ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b")
OTHERS = ("qwen3-30b-a3b", "qwen3-235b-a22b", "qwq-32b", "qwen2.5-7b-instruct")
TWELVE = (*SIZES, *OTHERS, "qwen2.5-14b-instruct", "qwen2.5-32b-instruct")


def on_terminal(columns: int, *words: str) -> list[str]:
    """Return the lines that `qwick ...` shows on a terminal of that width."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "qwick", *words],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=environment(COLUMNS=str(columns), QWICK_OFFLINE="1"),
    )
    os.close(theirs)
    text = read_terminal(ours)
    assert process.wait(timeout=60) == 0
    return text.replace("\r\n", "\n").splitlines()


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_a_wide_comparison_comes_in_blocks() -> None:
    lines = on_terminal(80, "models", "compare", *TWELVE)
    assert max(map(len, lines)) <= 80
    facts, scores = "\n".join(lines).split("\nBENCHMARK ", 1)
    blocks = facts.rstrip().split("\n\n")
    assert len(blocks) > 2
    assert [name for block in blocks for name in block.split("\n")[0].split()] == list(TWELVE)
    for block in blocks:  # the first column in each
        assert [line.split()[0] for line in block.split("\n")[1:3]] == ["series", "variant"]
    heads = [line.split() for line in lines if line.startswith("BENCHMARK ")]
    # A benchmark may have a row for each setting, so that is in each block, too.
    assert all(head[:2] == ["BENCHMARK", "SETTING"] for head in heads)
    assert [name for head in heads for name in head[2:]] == [*TWELVE, "SOURCE"]
    assert "MMLU-Redux" in scores


def test_a_value_stands_below_its_checkpoint() -> None:
    lines = on_terminal(60, "models", "compare", *SIZES)
    expected = next(s for s in read_catalog().models["qwen3-14b"].scores if s.name == "C-Eval")
    head = next(i for i, t in enumerate(lines) if t.startswith("BENCHMARK") and "qwen3-14b" in t)
    row = next(t for t in lines[head:] if t.split()[:2] == ["C-Eval", expected.setting])
    assert row[lines[head].index("qwen3-14b") :].split()[0] == f"{expected.value:g}"


def test_what_is_piped_is_whole(qwick: Run) -> None:
    text = qwick("models", "compare", *TWELVE, COLUMNS="40").stdout
    head = text.splitlines()[0]
    assert head.split() == list(TWELVE)
    assert len(head) > 150
    assert words_of(head) == words_of(qwick("models", "compare", *TWELVE).stdout.splitlines()[0])
    shown = qwick("recommend", "--device", "laptop", COLUMNS="40").stdout
    assert any(line.startswith("   speed ") and len(line) > 80 for line in shown.splitlines())


@pytest.mark.parametrize("columns", [64, 100])  # its longest word takes 62
def test_what_is_shown_of_a_checkpoint_fits(columns: int, qwick: Run) -> None:
    words = ("models", "show", "qwen3-8b")
    lines, whole = on_terminal(columns, *words), qwick(*words).stdout.splitlines()
    assert max(map(len, whole)) > columns
    assert max(map(len, lines)) <= columns
    # A long text goes on below where it began, and nothing is lost.
    indent = whole[0].index("qwen3-8b")
    start = next(i for i, line in enumerate(lines) if line.startswith("languages"))
    assert lines[start + 1].startswith(" " * indent)
    facts, told = lines[: lines.index("")], whole[: whole.index("")]
    assert words_of(" ".join(facts)) == words_of(" ".join(told))


def test_a_recommendation_fits_and_its_commands_are_whole(qwick: Run) -> None:
    words = ("recommend", "--device", "laptop")
    lines, whole = on_terminal(40, *words), qwick(*words).stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("1. "))
    last = next(i for i, line in enumerate(lines) if line.startswith("one size up"))
    starts = [line for line in whole if line.startswith("   start ")]
    assert starts
    assert set(starts) <= set(lines)
    told = [line for line in lines[first:last] if line not in starts and line[:1] == " "]
    assert max(map(len, told)) <= 40
    assert any(line.startswith(" " * 13) for line in told)


def test_a_long_list_stays_a_list() -> None:
    header, *lines = on_terminal(60, "models", "search", "--series", "Qwen2.5-VL")
    assert header.startswith("NAME ")
    assert max(map(len, (header, *lines))) <= 60
    assert sum(line.startswith("qwen2.5-vl-") for line in lines) == 4
    assert all(line.startswith(("qwen2.5-vl-", "    ")) for line in lines)
    wide = on_terminal(200, "models", "search", "--series", "Qwen2.5-VL")
    assert len(wide) == 5
