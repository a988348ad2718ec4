"""The sandbox against programs that loop, swell, multiply, flood, pry, flee and feign."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from qwick.errors import EngineError
from qwick.evaluate import sandbox
from qwick.evaluate.sandbox import GUARDS, Limits, Outcome, run_program

SHORT = Limits(seconds=3.0, cpu_seconds=1)


def run(program: str, limits: Limits = SHORT) -> Outcome:
    return run_program(textwrap.dedent(program), limits)


def tasks_named(mark: str) -> list[str]:
    """Processes whose command line holds the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(folder.name)
            except OSError:
                continue
    return found


# -- what passes and what does not -----------------------------------------------------------------


def test_a_program_that_reaches_its_end_passes() -> None:
    outcome = run("import math, re, typing, collections\nassert math.isqrt(17) == 4\nprint('é')")
    assert (outcome.status, outcome.detail) == ("passed", "")
    assert outcome.passed
    assert outcome.seconds < 3


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("x = '\0'", "null bytes"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("import numpy", "ModuleNotFoundError"),
        ("input()", "EOFError"),
        ("class E(Exception):\n    __str__ = None\nraise E", "cannot be shown"),
    ],
)
def test_an_exception_fails(program: str, detail: str) -> None:
    outcome = run(program)
    assert outcome.status == "failed"
    assert detail in outcome.detail


@pytest.mark.parametrize(
    ("leave", "status"),
    [
        ("import sys; sys.exit(0)", "failed"),
        ("raise SystemExit", "failed"),
        ("quit = exit = None\nraise KeyboardInterrupt", "failed"),
        ("import os; os._exit(0)", "died"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "died"),
        ("import os; os.abort()", "died"),
        ("import ctypes; ctypes.string_at(0)", "died"),
        (
            "import os\nif os.fork():\n    os.wait()\n    os._exit(0)",
            "died",
        ),  # only a copy goes on to the end
    ],
)
def test_leaving_before_the_end_is_no_pass(leave: str, status: str) -> None:
    outcome = run(f"{leave}\nassert True")
    assert outcome.status == status, outcome
    assert not outcome.passed


def test_writing_a_report_of_ones_own_is_no_pass() -> None:
    outcome = run(
        """
        import json, os
        told = json.dumps({"status": "passed", "detail": "", "isolation": []}).encode()
        for descriptor in range(64):
            for line in (told + b"\\n", b"0" * 32 + b" " + told + b"\\n"):
                try:
                    os.write(descriptor, line)
                except OSError:
                    pass
        os._exit(0)
        """
    )
    assert outcome.status == "died"


# -- limits ----------------------------------------------------------------------------------------


def test_an_endless_loop_ends_with_its_processor_time() -> None:
    begun = time.monotonic()
    outcome = run("while True: pass", Limits(seconds=20, cpu_seconds=1))
    assert (outcome.status, outcome.detail) == ("died", "killed by SIGKILL")
    assert time.monotonic() - begun < 15


def test_sleeping_ends_with_the_time_limit() -> None:
    outcome = run("import time; time.sleep(60)", Limits(seconds=0.5))
    assert (outcome.status, outcome.detail) == ("timeout", "still running after 0.5 s")
    assert outcome.seconds < 10


def test_ignoring_every_signal_does_not_help() -> None:
    outcome = run(
        """
        import signal, time
        for number in signal.valid_signals():
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        time.sleep(60)
        """,
        Limits(seconds=0.5),
    )
    assert outcome.status == "timeout"


@pytest.mark.parametrize(
    "program", ["x = bytearray(1 << 33)", "x = []\nwhile True: x.append(' ' * 1_000_000)"]
)
def test_a_memory_bomb_meets_the_limit(program: str) -> None:
    outcome = run(program, Limits(cpu_seconds=8))
    assert (outcome.status, outcome.detail.split(":")[0]) == ("failed", "MemoryError")


@pytest.mark.alone
def test_a_fork_bomb_meets_the_limit() -> None:
    outcome = run("import os\nwhile True: os.fork()")
    assert outcome.status == "failed"
    assert "BlockingIOError" in outcome.detail, outcome


def test_a_thread_bomb_meets_the_limit() -> None:
    outcome = run(
        """
        import threading, time
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """
    )
    assert outcome.status == "failed"
    assert "can't start new thread" in outcome.detail


def test_a_long_file_meets_the_limit() -> None:
    outcome = run("open('a', 'w').write('x' * 10_000_000)")
    assert outcome.status == "failed"
    assert "File too large" in outcome.detail


@pytest.mark.alone
def test_a_flood_of_output_goes_nowhere() -> None:
    outcome = run("import os\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'x' * 65536)")
    assert outcome.status == "died"
    assert len(outcome.detail) < 100


def test_a_flood_into_the_report_does_not_block_or_swell() -> None:
    outcome = run(
        """
        import os
        for descriptor in range(3, 64):
            try:
                os.set_blocking(descriptor, False)
                while True:
                    os.write(descriptor, b"x" * 4096)
            except OSError:
                pass
        os._exit(0)
        """
    )
    assert outcome.status == "died"


# -- reach -----------------------------------------------------------------------------------------


def test_the_working_directory_is_empty_writable_and_gone_afterwards() -> None:
    outcome = run(
        """
        import os
        assert os.listdir(".") == []
        with open("note", "w") as file:
            file.write("x")
        assert open("note").read() == "x"
        raise Exception(os.getcwd())
        """
    )
    folder = outcome.detail.removeprefix("Exception: ")
    assert "qwick-sandbox" in folder
    assert not os.path.exists(folder)


def test_there_is_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    assert run("import os; assert set(os.environ) <= {'LC_CTYPE'}, set(os.environ)").passed


def test_files_of_the_caller_are_not_written(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    outcome = run(f"open({str(target)!r}, 'w').write('after')")
    assert outcome.status == "failed" or "files read-only" in outcome.open
    if "files read-only" not in outcome.open:
        assert target.read_text() == "before"
    beside = tmp_path.parent / "beside"
    outcome = run(f"open({str(beside)!r}, 'w').write('x')")
    assert not beside.exists() or "files read-only" in outcome.open


def test_the_home_folder_is_not_read() -> None:
    outcome = run(
        """
        import os
        for home in ("/root", "/home"):
            if not os.path.isdir(home):
                continue
            names = [os.path.join(home, n) for n in os.listdir(home)]
            assert not [n for n in names if os.path.isfile(n)], names
            secret = os.path.join(home, ".ssh", "id_ed25519")
            assert not os.path.exists(secret)
        """
    )
    assert outcome.passed or "home folders hidden" in outcome.open, outcome


def test_the_network_is_out_of_reach() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)")
    assert outcome.passed == ("no network" in outcome.open), outcome


def test_no_process_outlives_the_program() -> None:
    mark = f"left-over-{os.getpid()}"
    outcome = run(
        f"""
        import os, sys
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                sleep = "import time; time.sleep(30)"
                os.execv(sys.executable, [sys.executable, "-c", sleep, "{mark}"])
            os._exit(0)
        os.wait()
        import time; time.sleep(0.3)
        """
    )
    assert outcome.passed
    assert tasks_named(mark) == []


def test_the_guards_cannot_be_taken_down() -> None:
    outcome = run(
        """
        import ctypes, os, resource
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mount(None, b"/", None, 32 | 4096, None) == -1, "remounted"
        assert libc.umount2(os.getcwd().encode(), 2) == -1, "unmounted"
        for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC):
            try:
                resource.setrlimit(limit, (resource.RLIM_INFINITY,) * 2)
            except (ValueError, OSError):
                continue
            raise Exception("a limit was lifted")
        try:
            os.setuid(0)
        except PermissionError:
            pass
        else:
            assert os.getuid() != 0, "root"
        """
    )
    assert outcome.passed, outcome


def test_what_is_not_guarded_is_said() -> None:
    outcome = run("import os; raise Exception(os.getpid())")
    number = int(outcome.detail.removeprefix("Exception: "))
    assert (number < 10) == (GUARDS["leftovers"] not in outcome.open)
    assert set(outcome.open) <= set(GUARDS.values())


def test_without_namespaces_the_limits_still_hold() -> None:
    """In a user namespace that may make no further ones: what a strict container permits."""
    script = textwrap.dedent(
        """
        import ctypes, os, sys
        if ctypes.CDLL(None).unshare(0x10000000) == 0:  # else it is forbidden here anyway
            open("/proc/sys/user/max_user_namespaces", "w").write("0")
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        sys.path[:0] = sys.argv[1:]
        from qwick.evaluate.sandbox import Limits, run_program
        from qwick.evaluate.sandbox_child import drop_capabilities
        drop_capabilities()
        def show(program):
            outcome = run_program(program, Limits(seconds=1, cpu_seconds=1))
            print(outcome.status, outcome.open)
        show("assert True")
        show("import sys; sys.exit(0)")
        show("import time; time.sleep(60)")
        show("x = bytearray(1 << 33)")
        mark = "left-over-%d" % os.getpid()
        show("import os, sys\\nif os.fork() == 0:\\n    os.setsid()\\n"
             "    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(30)', "
             "%r])\\nimport time; time.sleep(0.3)" % mark)
        print(mark)
        """
    )
    source = str(Path(sandbox.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, source], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    *lines, mark = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "passed",
        "failed",
        "timeout",
        "failed",
        "passed",
    ]
    assert all(GUARDS["network"] in line and GUARDS["leftovers"] in line for line in lines)
    assert tasks_named(mark) == []


def test_a_sandbox_that_cannot_be_set_up_is_an_error_not_a_failed_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox, "_CHILD", tmp_path / "gone.py")
    with pytest.raises(EngineError, match=r"gone\.py"):
        run("assert True")
