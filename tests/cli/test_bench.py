"""`qwick bench` with the real default checkpoint, and what it refuses before anything is loaded."""

from __future__ import annotations

import json

import pytest

from qwick.cli.main import main
from qwick.machine import cpu
from qwick.native import ops


@pytest.mark.model
@pytest.mark.usefixtures("default_checkpoint", "same_threads")
def test_the_threads_are_those_of_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("QWICK_THREADS", raising=False)
    monkeypatch.setattr(cpu, "usable_cores", lambda _: 3)  # say, six processors on three cores
    short = ["--prompt", "2", "--generate", "0", "--batch", "0", "--repeat", "1"]
    assert main(["bench", "--json", *short]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["threads"] == ops.threads() == 3
    assert [test["test"] for test in report["tests"]] == ["pp2"]


@pytest.mark.parametrize(
    ("option", "value", "most"),
    [
        ("--batch", "513", 512),
        ("--batch", "8,1000", 512),
        ("--batch", "-1", 512),
        ("--batch", "8;9", 512),
        ("--prompt", "1048577", 1 << 20),
        ("--generate", "\u0661", 1 << 20),
        ("--generate", "9" * 40, 1 << 20),
    ],
)
def test_numbers_out_of_range(
    option: str, value: str, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", option, value]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: Invalid value for '{option}'")
    assert f"allowed: whole numbers from 1 to {most}, separated by commas" in err
