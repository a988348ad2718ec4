"""checks/fuzz_readers.py in short: damaged files give our errors, and the check sees faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checks import fuzz_readers
from checks.hostile import make, read, specimens


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fuzz_readers, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


def test_damaged_checkpoints(capsys: pytest.CaptureFixture[str], kept: Path) -> None:
    code = fuzz_readers.main(["--synthetic", "--count", "1000", "--jobs", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["failures"] == {}
    assert (code, found["cases"], kept.exists()) == (0, 1000, False)
    assert found["outcomes"]["read"] > 50
    assert found["outcomes"]["FormatError"] > 400
    assert found["outcomes"]["ConfigError"] > 20


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        ("another_error", "ValueError: not ours"),
        ("no_exception", "BaseException: as a panic is"),
        ("crash", "the process died (SIGSEGV)"),
        ("endless", "more than 0.2 s of CPU time"),
        ("much_memory", "bytes of memory for"),
    ],
)
def test_a_fault_is_seen_and_its_input_kept(
    capsys: pytest.CaptureFixture[str], kept: Path, reader: str, said: str
) -> None:
    seconds = "0.2" if reader == "endless" else "20"
    arguments = ["--synthetic", "--count", "1", "--first", "3", "--seconds", seconds, "--json"]
    code = fuzz_readers.main([*arguments, "--reader", f"formats.planted:{reader}"])
    found = json.loads(capsys.readouterr().out)
    assert said in found["failures"]["3"]
    assert (code, found["cases"]) == (1, 1)
    assert {path.name for path in (kept / "0-3").iterdir()} == set(make(0, 3).files)


def test_a_case_is_what_it_was(tmp_path: Path) -> None:
    for number in range(50):
        assert make(5, number) == make(5, number)
    assert make(5, 1) != make(6, 1)


def test_the_sound_ones_are_read(tmp_path: Path) -> None:
    for name, case in specimens(None).items():
        (tmp_path / name).mkdir()
        assert read(case.write(tmp_path / name)) == "read"


def test_the_guided_fuzzers_targets(tmp_path: Path) -> None:
    """Each input is read in its place; an error that is not ours would come through."""
    from checks.fuzz_guided import TARGETS, seeds, tester

    for target, (specimen, name) in TARGETS.items():
        (tmp_path / target / "corpus").mkdir(parents=True)
        (tmp_path / target / "files").mkdir()
        seeds(target, tmp_path / target / "corpus")
        inputs = sorted((tmp_path / target / "corpus").iterdir())
        assert inputs[0].read_bytes() == specimens(None)[specimen].files[name]
        test = tester(target, tmp_path / target / "files")
        for path in inputs[:10]:
            test(path.read_bytes())
