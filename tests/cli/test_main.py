"""Errors of the command line: a line, a hint and an exit code, never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Run, environment
from qwick.cli.main import BROKEN_PIPE, VERBS, main
from qwick.errors import ResourceError
from qwick.machine import cpu


@pytest.mark.parametrize(
    ("arguments", "words"), [([], VERBS), (["models"], ["pull", "list", "show", "rm"])]
)
def test_no_arguments_show_the_help(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in words)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    from qwick import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"qwick {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: qwick {verb}")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["modles"], 2, "did you mean models?"),
        (["zzz"], 2, "known: recommend, run, chat, jobs, serve"),
        (["--nonsense"], 2, "--nonsense"),
        (["run", "--max-tokens", "many", "x"], 2, "many"),
        (["run", "--temprature", "1", "x"], 2, "--temperature"),
        (["models", "nonsense"], 2, "nonsense"),
        (["models", "show"], 2, "NAME"),
        (
            ["models", "show", "qwen2.5-coder-0.5b-instruc"],
            3,
            "did you mean qwen2.5-coder-0.5b-instruct",
        ),
        (["models", "pull", "zzz"], 3, "what `qwick models search` shows"),
        (["models", "rm", "zzz"], 3, "no model called 'zzz'"),
    ],
)
def test_bad_arguments(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert said in captured.err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", "zzz"]) == 3
    assert "Traceback" not in capsys.readouterr().err
    assert main(["--debug", "models", "show", "zzz"]) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-2].startswith("error: ")


def test_a_fault_is_a_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VERBS, "doctor", "qwick.no_such_module")
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: qwick failed: ModuleNotFoundError")
    assert "--debug" in err
    assert "Traceback" not in err


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "qwick", "models", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == BROKEN_PIPE
    assert err == b""


@pytest.mark.parametrize("command", [["models", "list"], ["models", "list", "--json"]])
def test_an_output_that_cannot_be_written(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "qwick", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=60,
            check=False,
        )
    assert done.returncode == 6
    first, *rest = done.stderr.decode().splitlines()
    assert first == "error: the output cannot be written: No space left on device"
    assert [line.split(":")[0] for line in rest] == ["hint"]


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [(">&-", 2, "error: standard output is closed"), ("2>&-", 0, ""), ("<&-", 0, "")],
)
def test_a_closed_stream(closed: str, code: int, said: str) -> None:
    command = [sys.executable, "-m", "qwick", "models", "list"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert ("NAME" in done.stdout) == (code == 0)


def test_memory_that_does_not_suffice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise MemoryError

    monkeypatch.setattr("qwick.cli.doctor.examine", full)
    assert main(["doctor"]) == ResourceError.exit_code
    assert capsys.readouterr().err.startswith("error: not enough memory")


def test_a_bad_setting_names_the_variable(qwick: Run, tmp_path: Path) -> None:
    done = qwick("models", "pull", QWICK_OFFLINE="maybe", QWICK_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "QWICK_OFFLINE is 'maybe'" in done.stderr


def test_an_encoding_that_lacks_characters_is_no_error(qwick: Run) -> None:
    done = qwick("models", "show", "qwen2.5-coder-0.5b-instruct", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor(qwick: Run) -> None:
    done = qwick("doctor", QWICK_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    for label in ("cpu", "cores", "memory", "kernels", "gpu", "measured", "store", "versions"):
        assert f"\n{label} " in done.stdout
    assert "no problems found" in done.stdout
    report = json.loads(qwick("doctor", "--json", QWICK_THREADS="1").stdout)
    usable = [s["name"] for s in report["kernels"]["sets"] if s["usable"]]
    assert report["kernels"]["used"] in usable
    assert report["threads"] == 1
    assert report["settings"]["QWICK_THREADS"] == "1"
    assert report["problems"] == []


def test_doctor_shows_gpus_and_what_was_measured(qwick: Run, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A10, 23028'; echo 'NVIDIA GB10, [N/A]'\n")
    tool.chmod(0o755)
    changes = {"QWICK_HOME": str(tmp_path / "home"), "QWICK_THREADS": "1"}
    changes["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    out = qwick("doctor", **changes).stdout
    assert "\nmeasured  not yet: `qwick recommend` measures it\n" in out
    assert "\ngpu       NVIDIA A10 · 24.1 GB\ngpu       NVIDIA GB10 · memory not known\n" in out
    assert json.loads(qwick("doctor", "--json", **changes).stdout)["measured"] is None
    assert not (tmp_path / "home").exists()
    script = "from qwick.machine.probe import probe; probe()"
    subprocess.run([sys.executable, "-c", script], env=environment(**changes), check=True)
    out = qwick("doctor", **changes).stdout
    rates = r"reads \d+\.\d GB/s, multiplies \d+ GOP/s \(\w+, 1 threads, \d{4}-\d\d-\d\d"
    assert re.search(rf"^measured  {rates}(, while others computed)?\)$", out, re.MULTILINE)
    report = json.loads(qwick("doctor", "--json", **changes).stdout)
    assert report["gpus"][0] == {"name": "NVIDIA A10", "memory": 23028 << 20, "kind": "nvidia"}
    assert report["measured"]["isa"] == report["kernels"]["used"]
    assert report["measured"]["bandwidth"] > 1e8
    assert re.search(r"^machine\.json  ", qwick("models", "du", **changes).stdout, re.MULTILINE)


def test_doctor_knows_the_limit_of_a_shell() -> None:
    command = ["sh", "-c", 'ulimit -v 700000; exec "$@"', "sh", sys.executable, "-m", "qwick"]
    done = subprocess.run(
        [*command, "doctor"], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("memory ")]
    assert re.fullmatch(r"memory +\d+\.\d MB available of \S+ GB \(ulimit\)", line)


def test_doctor_tells_what_is_wrong(qwick: Run) -> None:
    done = qwick("doctor", QWICK_ISA="nonsense", QWICK_OFFLINE="maybe", QWICK_HOME="/proc/none")
    assert done.returncode == 8
    problems = [line for line in done.stdout.splitlines() if line.startswith("PROBLEM")]
    assert len(problems) == 3
    for name in ("nonsense", "QWICK_OFFLINE", "/proc/none"):
        assert any(name in line for line in problems)


def test_doctor_counts_threads_as_run_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "_physical_cores", lambda root, processors: 1)  # the rest: SMT
    monkeypatch.delenv("QWICK_THREADS", raising=False)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^kernels +\w+ in use, 1 threads$", out, re.MULTILINE)
    monkeypatch.setenv("QWICK_THREADS", "2")
    assert main(["doctor"]) == 1
    assert "QWICK_THREADS asks for 2 threads on 1 usable cores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variable", "value", "code", "said"),
    [
        ("QWICK_ISA", "nonsense", 8, "QWICK_ISA cannot be obeyed: unknown instruction set"),
        ("QWICK_THREADS", "x", 1, "QWICK_THREADS is 'x'; allowed: a whole number from 1 to 1024"),
        ("QWICK_THREADS", "5000", 1, "QWICK_THREADS is '5000'; allowed: a whole number"),
        ("QWICK_HOME", "~no such user/x", 1, "QWICK_HOME is '~no such user/x'; allowed: a folder"),
    ],
)
def test_doctor_explains_a_bad_setting(
    qwick: Run, variable: str, value: str, code: int, said: str
) -> None:
    done = qwick("doctor", **{variable: value})
    assert (done.returncode, done.stderr) == (code, "")
    for label in ("cpu", "cores", "memory", "kernels", "store", "versions"):
        assert f"\n{label} " in done.stdout
    (problem,) = [line for line in done.stdout.splitlines() if line.startswith("PROBLEM")]
    assert said in problem
    report = json.loads(qwick("doctor", "--json", **{variable: value}).stdout)
    assert len(report["problems"]) == 1


def test_a_user_without_a_home_is_told_what_to_set() -> None:
    # A user id that no table knows, as in some containers; here it is os.path that does not know.
    script = (
        "import os, pwd, sys; os.environ.pop('HOME', None)\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from qwick.cli.main import main; sys.exit(main(['models', 'list']))"
    )
    env = {k: v for k, v in environment().items() if k not in ("QWICK_HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no home folder" in done.stderr
    assert "QWICK_HOME" in done.stderr
