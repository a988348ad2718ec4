"""`qwick models` on a store of its own, with the real default checkpoint."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from cli.conftest import Run, environment, read_terminal
from llm.small import write_small
from qwick.hub import CATALOG, DEFAULT


def test_the_life_of_a_checkpoint(qwick: Run, stocked_home: Path) -> None:
    home = str(stocked_home)

    def state() -> str:
        listed = json.loads(qwick("models", "list", "--json", QWICK_HOME=home).stdout)
        assert listed["store"] == home
        return {row["name"]: row["state"] for row in listed["models"]}[DEFAULT]

    assert state() == "unverified"
    pulled = qwick("models", "pull", QWICK_HOME=home, QWICK_OFFLINE="1")
    path = stocked_home / "checkpoints" / DEFAULT / CATALOG[DEFAULT].main
    assert (pulled.returncode, pulled.stdout) == (0, f"{path}\n"), pulled.stderr
    assert "Apache-2.0" in pulled.stderr
    assert "verifying" in pulled.stderr
    assert state() == "stored"
    again = qwick("models", "pull", DEFAULT, "--json", QWICK_HOME=home, QWICK_OFFLINE="1")
    assert again.stderr == ""
    assert json.loads(again.stdout)["pulled"][0]["path"] == str(path)
    removed = qwick("models", "rm", DEFAULT, QWICK_HOME=home)
    assert removed.stdout == f"removed {DEFAULT}: 491.4 MB freed\n"
    assert state() == "missing"
    assert qwick("models", "rm", DEFAULT, QWICK_HOME=home).returncode == 3
    offline = qwick("models", "pull", QWICK_HOME=home, QWICK_OFFLINE="1")
    assert offline.returncode == 5
    assert "QWICK_OFFLINE" in offline.stderr


def test_show(qwick: Run) -> None:
    facts = json.loads(qwick("models", "show", DEFAULT, "--json").stdout)
    assert facts["files"][0]["sha256"] == CATALOG[DEFAULT].files[0].sha256
    assert facts["license"] == "Apache-2.0"
    assert f"{CATALOG[DEFAULT].size:,} bytes" in qwick("models", "show", DEFAULT).stdout


def test_show_a_file_and_a_model_in_parts(qwick: Run, tmp_path: Path) -> None:
    whole = write_small(tmp_path / "whole.gguf")
    folder = tmp_path / "parts"
    folder.mkdir()
    write_small(folder / "small.gguf", name=None, part_tensors=8)
    parts = sorted(folder.iterdir())
    assert len(parts) == 4
    facts = json.loads(qwick("models", "show", str(whole), "--json").stdout)
    assert facts == {
        "name": "Small Random",
        "author": None,
        "license": None,
        "format": "gguf",
        "model_type": "qwen2",
        "parts": 1,
        "size": whole.stat().st_size,
        "path": str(whole),
        "files": [str(whole)],
    }
    size = sum(part.stat().st_size for part in parts)
    for path in (parts[2], folder):
        facts = json.loads(qwick("models", "show", str(path), "--json").stdout)
        assert (facts["name"], facts["parts"], facts["size"]) == ("small", 4, size)
        assert facts["files"] == [str(part) for part in parts]
    lines = qwick("models", "show", str(parts[0])).stdout.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["name", "small"],
        ["format", "gguf"],
        ["model_type", "qwen2"],
        ["parts", "4"],
        ["size", f"{size:,} bytes"],
        ["path", str(parts[0])],
    ]
    parts[1].unlink()
    done = qwick("models", "show", str(parts[0]))
    assert (done.returncode, done.stdout) == (4, "")
    assert f"1 of 4 parts are missing from its folder: {parts[1].name}" in done.stderr
    assert qwick("models", "show", "./none").returncode == 3
    assert qwick("models", "show", "none").returncode == 3


def test_list_is_a_table(qwick: Run) -> None:
    header, *rows = qwick("models", "list").stdout.splitlines()
    assert header.split() == ["NAME", "SIZE", "STATE", "LICENCE"]
    assert len(rows) == len(CATALOG)
    assert rows[0].index("Apache-2.0") == header.index("LICENCE")


def test_a_terminal_gets_a_progress_bar(stocked_home: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "qwick", "models", "pull"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(
            QWICK_HOME=str(stocked_home), QWICK_OFFLINE="1", TERM="xterm", COLUMNS="100"
        ),
    )
    os.close(theirs)
    text = read_terminal(ours)
    assert process.wait(timeout=60) == 0
    assert "Apache-2.0" in text
    assert f"verifying {DEFAULT}" in text
    assert "\x1b[" in text


def test_a_name_of_a_stranger_is_shown_on_one_line(qwick: Run, tmp_path: Path) -> None:
    path = write_small(tmp_path / "a.gguf", name="Ev\x1b]0;owned\x07il\nlicense  free")
    shown = qwick("models", "show", str(path)).stdout
    assert "Ev␛]0;owned␇il␊license  free\n" in shown
    assert "\x1b" not in shown
    assert not any(line.startswith("license  free") for line in shown.splitlines())
