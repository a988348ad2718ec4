"""`qwick bench` with the real default checkpoint, and what it refuses before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from qwick.cli.main import main
from qwick.machine import cpu
from qwick.native import ops


@pytest.fixture
def same_threads() -> Iterator[None]:
    before = ops.threads()
    yield
    ops.set_threads(before)


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
