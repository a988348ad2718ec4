"""`python -m bench` as a command: a real, tiny run of qwick, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.plan import parse_all

ROOT = Path(__file__).parents[2]
TESTS = "pp8,tg2,tg2@16,streams1,streams3,pp8@32,turn40+8,memory8,cold"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.model
def test_a_run_of_qwick_alone(default_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--model", str(default_checkpoint), "--out", str(out), "--only", "qwick"]
    options += ["--tests", TESTS, "--repeat", "1", "--stream-tokens", "2"]
    done = bench(*options)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["failures"] == [], done.stderr
    assert set(told["best"]["qwick"]) == {test.name for test in parse_all(TESTS)}
    assert all(value > 0 for value in told["best"]["qwick"].values())
    whole = json.loads((out / "report.json").read_text("utf-8"))
    assert 0 < whole["fractions"]["pp8"] < 1.5
    assert whole["machine"]["bandwidth"] > 1e8
    row = whole["rows"]["qwick"]["memory8"]
    assert row["peak"] > row["expected"] > 3e8
    assert (out / "report.svg").is_file()
    assert "| pp8 |" in (out / "report.md").read_text("utf-8")
    # again: everything is there, so nothing is measured
    kept = {file: file.stat().st_mtime_ns for file in out.glob("results/*/*.json")}
    assert json.loads(bench(*options).stdout.splitlines()[-1])["best"] == told["best"]
    assert {file: file.stat().st_mtime_ns for file in out.glob("results/*/*.json")} == kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "ollama"], "there is no engine 'ollama'; allowed: qwick, llama_cpp"),
        (["--tests", "pp"], "there is no test 'pp'"),
        (["--python", "vllm=x"], "--python is 'vllm=x'; allowed: NAME=PATH"),
        (["--repeat", "0"], "0; allowed: 1 or more"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--report-only", "--out", "no-such-folder"], "no-such-folder holds no figures"),
    ],
)
def test_bad_arguments_end_in_a_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path)]
    done = bench(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["", "no object", '{"bench": "passed"}'])
def test_a_quality_gate_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}", encoding="utf-8")
    (tmp_path / "gate").write_text(text, encoding="utf-8")
    done = bench("--report-only", "--out", str(tmp_path), "--quality", str(tmp_path / "gate"))
    assert done.returncode == 2
    assert "--quality is" in done.stderr
