"""Running and resuming with real child processes: workers that answer, crash, hang or say nothing.

The workers are small programs written here; the engine, the runner and the processes are real.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.children import ROOT, ChildError, run_child
from bench.engines import Engine
from bench.environments import Places
from bench.plan import parse_all
from bench.run import Results, Runner, Settings
from qwick.errors import QwickError

if TYPE_CHECKING:
    from bench.plan import Test

SETTINGS = Settings("m.gguf", 1, 1, [0], 2, 8)


class Fake(Runner):
    """A runner whose worker is the program `worker.py` beside the report."""

    def command(self, engine: Engine, model: Path, group: str, tests: list[Test]) -> list[str]:
        """Start the program with what a worker is asked."""
        real = super().command(engine, model, group, tests)
        return [str(self.results.folder.parent / f"{engine.worker}.py"), real[-1]]


HEAD = """
import json, os, sys, time
asked = json.loads(sys.argv[1])
def tell(**told): print(json.dumps(told), flush=True)
def row(test): tell(row={"test": test, "tokens": 4, "seconds": [2.0, 1.0]})
with open(__file__ + ".log", "a") as log: print(",".join(asked["tests"]), file=log)
"""
GOOD = """
for test in asked["tests"]:
    tell(begin=test)
    row(test)
tell(result={})
"""


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    """Return what runs tests on engines with the given programs."""

    def run(tests: str, silence: float = 30.0, **programs: str) -> Results:
        results = Results(tmp_path / "out")
        results.settle(SETTINGS)
        for name, body in programs.items():
            (tmp_path / f"{name}.py").write_text(HEAD + body, encoding="utf-8")
        engines = [Engine(name, name, "w", name) for name in programs]
        runner = Fake(
            results, SETTINGS, tmp_path / "m.gguf", Places(tmp_path), silence, lambda text: None
        )
        runner.run(engines, parse_all(tests))
        return results

    return run


def started(tmp_path: Path, name: str) -> list[str]:
    """Return the tests that each process of a program was started with."""
    log = tmp_path / f"{name}.py.log"
    return log.read_text("utf-8").split() if log.is_file() else []


def test_engines_take_turns_and_what_is_there_is_kept(bench: Any, tmp_path: Path) -> None:
    results = bench("pp8,tg8,pp8@8", one=GOOD, two=GOOD)
    assert started(tmp_path, "one") == ["pp8,tg8", "pp8@8"]
    assert set(results.all()) == {"one", "two"}
    assert results.get("one", "pp8@8") == {"test": "pp8@8", "tokens": 4, "seconds": [2.0, 1.0]}
    bench("pp8,tg8,pp8@8,tg9", one=GOOD, two=GOOD)
    assert started(tmp_path, "one")[2:] == ["tg9"], "only what was missing"
    results.forget("two", "tg8")
    bench("pp8,tg8,pp8@8,tg9", one=GOOD, two=GOOD)
    assert started(tmp_path, "two")[3:] == ["tg8"]
    assert len(started(tmp_path, "one")) == 3


def test_figures_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    Results(tmp_path).settle(SETTINGS)
    Results(tmp_path).settle(SETTINGS)
    other = Settings("m.gguf", 1, 1, [0], 5, 8)
    with pytest.raises(QwickError, match="holds figures with repeat 2; asked for is 5"):
        Results(tmp_path).settle(other)


CRASHES = """
for test in asked["tests"]:
    tell(begin=test)
    if test == "tg8":
        print("tile matmul: illegal", file=sys.stderr, flush=True)
        os.kill(os.getpid(), 11)
    row(test)
tell(result={})
"""


def test_a_crash_costs_one_test_and_is_reported(bench: Any, tmp_path: Path) -> None:
    results = bench("pp8,tg8,tg9", bad=CRASHES, good=GOOD)
    failed = results.get("bad", "tg8")["failed"]
    assert "bad ended with -11 (SIGSEGV)" in failed
    assert "tile matmul: illegal" in failed
    assert started(tmp_path, "bad") == ["pp8,tg8,tg9", "tg9"]
    assert results.has("bad", "pp8")
    assert results.has("bad", "tg9")
    assert not results.has("bad", "tg8")
    assert all(results.has("good", test) for test in ("pp8", "tg8", "tg9"))
    bench("pp8,tg8,tg9", bad=GOOD)
    assert results.has("bad", "tg8"), "a failure is tried again"


HANGS = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(__file__ + ".pid", "w") as file: file.write(str(child.pid))
print("waiting for a lock", flush=True)
tell(begin="pp8")
time.sleep(600)
"""


def test_a_hang_is_ended_with_its_children(bench: Any, tmp_path: Path) -> None:
    results = bench("pp8", silence=5.0, hung=HANGS, good=GOOD)
    failed = results.get("hung", "pp8")["failed"]
    assert "said nothing for 5 s and was killed" in failed
    assert "waiting for a lock" in failed
    assert results.has("good", "pp8")
    pid = int((tmp_path / "hung.py.pid").read_text("utf-8"))
    assert ended(pid)


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has fetched; waits for it."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit('cannot load')", "cannot load"),
        ("tell(result={})", "told no figure"),
        ("tell(begin='pp8'); tell(failed={'test': 'pp8', 'message': 'no room'})", "no room"),
    ],
)
def test_every_test_has_a_figure_or_a_reason(bench: Any, program: str, said: str) -> None:
    results = bench("pp8,tg8", bad=program)
    assert said in results.get("bad", "pp8")["failed"]
    assert "failed" in results.get("bad", "tg8")


def test_an_environment_that_cannot_be_had_fails_its_engine_alone(tmp_path: Path) -> None:
    results = Results(tmp_path / "out")
    (tmp_path / "good.py").write_text(HEAD + GOOD, encoding="utf-8")
    places = Places(tmp_path, {"vllm_cpu": tmp_path / "no-python"})
    engines = [Engine("peer", "p", "w", "good", recipe="vllm_cpu"), Engine("own", "o", "w", "good")]
    Fake(results, SETTINGS, tmp_path, places, 30.0, lambda text: None).run(
        engines, parse_all("pp8")
    )
    assert "no such file" in (results.get("peer", "pp8") or {})["failed"]
    assert results.has("own", "pp8")


COLD = """
time.sleep(0.2)
tell(first="x")
time.sleep(0.3)
tell(result={})
"""


def test_a_cold_start_ends_at_the_first_token(bench: Any, tmp_path: Path) -> None:
    row = bench("cold", own=COLD).get("own", "cold")
    assert len(row["seconds"]) == SETTINGS.repeat
    assert min(row["seconds"]) >= 0.2
    assert len(started(tmp_path, "own")) == SETTINGS.repeat + 1, "a warm-up first"
    late = "time.sleep(1); tell(result={})"
    assert "told no first token" in bench("cold", mute=late).get("mute", "cold")["failed"]


# -- children --------------------------------------------------------------------------------------


def child(tmp_path: Path, body: str, **more: Any) -> Any:
    script = tmp_path / "child.py"
    script.write_text(body, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), *sys.path])
    return run_child([str(script)], "a part", environment={"TOLD": "x", "PYTHONPATH": path}, **more)


def test_a_child_gives_its_result_whatever_else_it_prints(tmp_path: Path) -> None:
    body = (
        "import os, sys\n"
        "from bench.telling import give, progress\n"
        "print('noise'); print('[1]'); progress(1, 2); print('{', file=sys.stderr)\n"
        "give({'told': os.environ['TOLD']})\n"
    )
    assert child(tmp_path, body) == {"told": "x"}
    heard: list[Any] = []
    assert child(tmp_path, body, heard=heard.append) == {"told": "x"}
    assert heard == [{"progress": [1, 2]}]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('why')", r"ended with 1:\n(.*\n)*.*ValueError: why"),
        ("import os; os.kill(os.getpid(), 9)", r"ended with -9 \(SIGKILL\):\n  it said nothing"),
        ("print('done')", "gave no result:\n  done"),
        ("print('{\"result\": 1}'); raise SystemExit(3)", "ended with 3"),
    ],
)
def test_a_child_that_fails_says_why(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(ChildError, match=said):
        child(tmp_path, body)


def test_a_result_is_not_lost_to_a_pipe_that_stays_open(tmp_path: Path) -> None:
    body = (
        "import json, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(json.dumps({'result': 5}))\n"
    )
    assert child(tmp_path, body) == 5


def test_results_survive_a_kill_while_writing(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.keep("e", "pp8", {"test": "pp8", "tokens": 1, "seconds": [1.0]})
    (tmp_path / "results/e/tg8.part").write_text('{"te', encoding="utf-8")
    assert set(results.all()["e"]) == {"pp8"}
    assert json.loads((tmp_path / "results/e/pp8.json").read_text("utf-8"))["tokens"] == 1
