"""The commands in checks/: what they tell, keep and conclude; not the long runs themselves."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checks import NOT_CHECKED
from qwick.evaluate.humaneval import Result, read_problems

# -- HumanEval -------------------------------------------------------------------------------------


def test_an_answer_broken_off_is_asked_again(tmp_path: Path) -> None:
    from checks.humaneval import read_answers

    file = tmp_path / "answers.jsonl"
    assert read_answers(file) == {}
    whole = json.dumps({"task_id": "a", "ids": [1, 2], "finish_reason": "stop"}) + "\n"
    file.write_text(whole + '{"task_id": "b", "ids": [1,', encoding="utf-8")
    assert read_answers(file) == {"a": [1, 2]}
    assert file.read_text("utf-8") == whole, "what comes next begins a line of its own"


@pytest.mark.parametrize(("problems", "allowed"), [(164, 6), (82, 4), (20, 2), (3, 1), (1, 1)])
def test_the_allowed_difference(problems: int, allowed: int) -> None:
    from checks.humaneval import allowed_difference

    assert allowed_difference(problems) == allowed


@pytest.mark.parametrize(("ours", "theirs", "code"), [(4, 5, 0), (5, 4, 0), (0, 9, 1), (9, 0, 1)])
def test_the_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ours: int, theirs: int, code: int
) -> None:
    from checks.humaneval import Engine, show

    problems = read_problems(20)
    engines = [
        Engine(
            name,
            [[i] for i in range(20)],
            [Result(p.task_id, i < n, "failed", "why", ()) for i, p in enumerate(problems)],
        )
        for name, n in (("ours", ours), ("theirs", theirs))
    ]
    assert show(problems, engines, "m.gguf", tmp_path) == code
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["passed"] == {"ours": ours, "theirs": theirs}
    assert told["difference"] == ours - theirs
    assert len(told["only_qwick"]) == max(0, ours - theirs)
    assert len(told["only_peer"]) == max(0, theirs - ours)
    assert told["humaneval"] == ("outside" if code else "within")


# -- the quality gate ------------------------------------------------------------------------------


def test_the_reference_is_kept_by_weights_texts_and_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from checks import quality_gate
    from qwick.evaluate.perplexity import Scored, first_positions, positions_of

    computed: list[int] = []

    def compute(part: str, label: str, path: Path, texts: Any) -> tuple[Scored, Any]:
        computed.append(positions_of(texts))
        lengths = np.array([len(text) - 1 for text in texts])
        zeros = np.zeros(lengths.sum())
        return Scored(lengths, zeros, zeros.astype(np.int32)), {}

    monkeypatch.setenv("QWICK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(quality_gate, "run_part", compute)
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    texts = [[1, 2, 3], [4, 5]]
    short = first_positions(texts, 1)
    assert quality_gate.reference_of(weights, texts, short).positions == 1
    assert quality_gate.reference_of(weights, texts, short).positions == 1
    assert computed == [1]
    assert quality_gate.reference_of(weights, texts, texts).positions == 3
    # the short form now uses the first part of the whole, as `compare` does
    assert quality_gate.reference_of(weights, texts, short).positions == 3
    assert computed == [1, 3]
    quality_gate.reference_of(weights, [[1, 2, 3], [4, 6]], [[1, 2, 3], [4, 6]])
    weights.write_bytes(b"two")
    quality_gate.reference_of(weights, texts, texts)
    monkeypatch.setattr(quality_gate, "versions", lambda: {"torch": "0"})
    quality_gate.reference_of(weights, texts, texts)
    assert computed == [1, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--positions", "0"], "--positions is 0; allowed: 1 or more"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_bad_arguments_end_in_a_line(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "checks.quality_gate", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# -- leaks and memory ------------------------------------------------------------------------------


def test_nothing_is_left_of_requests() -> None:
    from checks.leaks import run

    found = run(400, progress=False)
    assert found["left"] == []
    assert {"cancelled", "stop", "length"} >= set(found["finished"])
    assert found["finished"]["cancelled"] > 50


def test_a_leak_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from checks import leaks

    kept: list[Any] = []
    ask = leaks.ask

    def keeps(qwen: Any, i: int) -> None:
        kept.append(qwen.stream("a", max_tokens=1))
        ask(qwen, i)

    monkeypatch.setattr(leaks, "ask", keeps)
    (text,) = leaks.run(40, progress=False)["left"]
    assert "'Stream': 40" in text


@pytest.mark.model
def test_memory_of_a_filled_context() -> None:
    from checks.memory import measure

    found = measure(None, 1024)
    assert found["tokens"] == 1024
    assert found["weights_mb"] > 390
    assert found["weights_mb"] < found["peak_mb"] < 700
    values = 24 * 2 * 2 * 64  # layers, keys and values, heads, components: of a token
    assert 1024 * values < found["kv_mb"] * 1e6 < 2 * 1024 * values  # 8-bit pages, most of them


# -- 64-bit ARM ------------------------------------------------------------------------------------


def test_what_pytest_on_arm_tells_is_counted() -> None:
    from checks.aarch64 import counts

    assert counts("1 failed, 32 passed, 746 deselected in 34.59s") == (32, 1)
    assert counts("= 2 failed, 5 passed, 1 error in 3.00s =") == (5, 3)
    assert counts("373 passed in 72.75s (0:01:12)") == (373, 0)
    assert counts("no tests ran in 0.01s") == (0, 0)


def test_what_is_wrong_on_arm_is_told() -> None:
    from checks.aarch64 import Run, problems_of

    good = Run("max", "neoni8mm", 10, 0, 1.0)
    assert problems_of([good], {"here": [1, 2], "max": [1, 2]}) == []
    assert problems_of([good], {}) == []
    for run, answers, told in (
        (Run("max", "scalar", 10, 0, 1.0), {}, "max uses scalar and not neoni8mm"),
        (Run("max", "neoni8mm", 9, 1, 1.0), {}, "max: 1 tests failed, 9 passed"),
        (Run("max", "neoni8mm", 0, 0, 1.0), {}, "max: 0 tests failed, 0 passed"),
        (good, {"here": [1, 2], "max": [1, 3]}, "max answers [1, 3], this machine [1, 2]"),
    ):
        assert problems_of([run], answers) == [told]


def test_the_short_form_on_arm_names_tests_and_instruction_sets_that_exist() -> None:
    from checks.aarch64 import CPUS, FILES, SHORT, parse, tests_for

    root = Path(__file__).parents[2]
    sources = "".join(p.read_text("utf-8") for p in (root / "tests/native").glob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)\(isa", sources.replace("(\n    isa", "(isa"), re.M))
    asked = re.findall(r"test_\w+", SHORT)
    assert asked
    for name in asked:
        assert any(name in test for test in defined), name
    assert set(CPUS.values()) == set(
        re.findall(r'"(neon\w*)",', (root / "csrc/isa/neon.cpp").read_text())
    )
    told = tests_for("cortex-a72", parse(["--short"]))
    assert told == [*FILES, "-k", f"({SHORT}) and neon"]
    assert tests_for("cortex-a72", parse([])) == ["tests/native"]
    assert tests_for("max", parse([])) == ["tests/native", "-k", "neoni8mm"]
    for file in FILES:
        assert (root / file).is_file()
    assert tests_for("max", parse(["--", "tests/engine", "-x"])) == ["tests/engine", "-x"]


def test_what_the_arm_check_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from checks import aarch64

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(aarch64.CheckError, match=r"qemu-aarch64, .*apt-get install qemu-user"):
        aarch64.need_tools(install=False)
    assert aarch64.main([]) == NOT_CHECKED
    monkeypatch.setattr(aarch64, "TOOLS", ())
    monkeypatch.setattr(aarch64, "BUILD_PACKAGES", ("nanobind_of_no_one",))
    with pytest.raises(aarch64.CheckError, match="run `pip install nanobind_of_no_one`"):
        aarch64.need_tools(install=False)


# -- older x86-64 ----------------------------------------------------------------------------------


def compiled(source: str, folder: Path, *flags: str) -> Path:
    """Compile a few lines of C++ into an object of that folder of a build."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.cpp").write_text(source)
    command = ["g++", "-O2", "-fPIC", "-c", *flags, str(folder / "a.cpp")]
    subprocess.run([*command, "-o", str(folder / "a.cpp.o")], check=True)
    return folder / "a.cpp.o"


def test_objects_that_would_crash_older_cpus_are_found(tmp_path: Path) -> None:
    from checks.older_x86 import main, problems_of_target

    if platform.machine() != "x86_64":  # nothing to be found there, and it says so
        assert main(["--objects"]) == 2
        return
    table = "namespace qwick { extern const int kTable = 1; }\n"
    wide = "void f(float* x) { for (int i = 0; i < 64; ++i) x[i] *= 2; }\n"
    shared = (
        "#include <vector>\nstatic void s(std::vector<float>& x) { x.push_back(1); }\n"
        "__attribute__((used)) static auto t = s;\n"
    )

    def problems(name: str, source: str, *flags: str) -> list[str]:
        return problems_of_target(name, [compiled(source, tmp_path / name, *flags)])

    call = "void g(); void h() { g(); g(); }\n"
    assert problems("qwick_core", call + wide) == []
    (told,) = problems("qwick_core", call + wide, "-O3", "-mavx")
    assert re.match(r"qwick_core: a.cpp.o holds `v\w+ ", told)
    hidden = f"namespace {{ {wide} }}\n__attribute__((used)) static auto g = f;\n{table}"
    assert problems("kernels_avx2", hidden, "-O3", "-mavx2") == []
    told, _ = problems("kernels_avx2", hidden, "-O3", "-mavx512f", "-mprefer-vector-width=512")
    assert "%zmm" in told
    # An inline function of the library, compiled for AVX2: the linker may keep it for everyone.
    (told,) = problems("kernels_avx2", shared + hidden, "-O3", "-mavx2")
    assert "exports" in told
    assert "std::vector<float" in told
    (told,) = problems("kernels_avx2", table)
    assert told == "kernels_avx2 holds none of `%ymm`: was it disassembled?"


def test_a_modules_code_tells_it_from_others() -> None:
    from importlib.util import find_spec

    from checks.older_x86 import code_of

    ours, other = find_spec("qwick.native._native"), find_spec("numpy._core._multiarray_umath")
    assert ours is not None
    assert other is not None
    code, strange = (code_of(Path(spec.origin or "")) for spec in (ours, other))
    assert len(code) > 1 << 19
    assert len(strange) > 1 << 19
    assert code != strange


def test_every_instruction_set_of_x86_is_looked_at() -> None:
    from checks.older_x86 import BASE, CPUS, TARGETS

    root = Path(__file__).parents[2]
    text = (root / "CMakeLists.txt").read_text("utf-8")
    libraries = re.findall(r"isa_kernels\((\w+) csrc/isa/(?!neon)", text)
    assert {f"kernels_{name}" for name in libraries} | {"_native", "qwick_core"} == set(TARGETS)
    assert set(CPUS.values()) == {BASE, "avx2"}


def test_what_the_check_of_older_cpus_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from checks import older_x86

    monkeypatch.setenv("PATH", str(tmp_path))
    assert older_x86.main(["--objects"]) == NOT_CHECKED
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert older_x86.main(["--objects"]) == NOT_CHECKED
    assert "this is riscv64" in capsys.readouterr().err
    assert older_x86.main(["--build", str(tmp_path)]) == NOT_CHECKED
    assert "run `apt-get install qemu-user`" in capsys.readouterr().err


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.model
def test_every_limit_on_address_space_ends_in_an_answer_or_our_own_error() -> None:
    from checks.confined import check_address_space, check_cores

    assert check_cores() == []
    assert check_address_space(4) == []
