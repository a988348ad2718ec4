"""Environments: built once, adopted as they are, and named when they cannot be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import environments
from bench.engines import ENGINES, usable_cores
from bench.environments import RECIPES, Places, Recipe, cmake_arguments, version_of
from qwick.errors import QwickError


def test_an_interpreter_without_the_peer_is_named(tmp_path: Path) -> None:
    with pytest.raises(QwickError, match="no such file"):
        environments.llama_cpp_python(tmp_path / "python")
    with pytest.raises(QwickError, match="cannot import llama_cpp: ModuleNotFoundError"):
        version_of(Path(sys.executable))


def test_llama_cpp_is_compiled_for_the_cpu_and_without_amx() -> None:
    told = cmake_arguments({"avx2", "avx512f", "amx_tile", "amx_int8"}).split()
    assert {"-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_AVX512=ON", "-DGGML_FMA=OFF"} <= {*told}
    assert {"-DGGML_AMX_TILE=OFF", "-DGGML_AMX_INT8=OFF"} <= {*told}
    plain = RECIPES["llama_cpp_avx2"].variables()["CMAKE_ARGS"]
    assert "AVX512=OFF" in plain
    assert "AVX_VNNI=OFF" in plain


def test_an_environment_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # pip is in every environment that venv makes, so nothing is fetched
    monkeypatch.setitem(RECIPES, "openvino", Recipe("pip", ("pip",)))
    places = Places(tmp_path)
    python = places.python("openvino")
    made = python.with_name("activate").stat().st_mtime_ns
    assert version_of(python, "openvino")
    assert places.python("openvino") == python
    assert python.with_name("activate").stat().st_mtime_ns == made
    (python.parents[1] / "ready").unlink()  # as after a build that was broken off
    places.python("openvino")
    assert python.with_name("activate").stat().st_mtime_ns != made


def test_a_build_that_fails_says_so_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = str(tmp_path / "no-such-package")
    monkeypatch.setitem(RECIPES, "openvino", Recipe("pip", (missing,)))
    for _ in range(2):
        with pytest.raises(QwickError, match=r"ended with 1: .*no-such-package.* its log is"):
            Places(tmp_path).python("openvino")


def test_what_is_given_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    places = Places(tmp_path / "never", {"vllm_cpu": Path(sys.executable)}, tmp_path)
    engine = ENGINES["vllm_cpu"]
    assert engine.python(places) == Path(sys.executable)
    assert engine.model(places, tmp_path / "m.gguf") == tmp_path / "hf"
    with pytest.raises(QwickError, match="it has no folder 'ov_int4'"):
        ENGINES["openvino"].model(places, tmp_path / "m.gguf")
    assert not (tmp_path / "never").exists()


def test_peers_do_not_see_the_modules_of_qwick() -> None:
    for engine in ENGINES.values():
        told = engine.environment([0, 1], Path(sys.executable))
        assert told["OMP_NUM_THREADS"] == "2"
        assert ("PYTHONPATH" in told) is not engine.own
    assert ENGINES["qwick_avx2"].environment([0], Path())["QWICK_ISA"] == "avx2"


def test_cores_are_different_ones_that_may_be_used() -> None:
    program = (
        "import os; from bench.engines import usable_cores as cores\n"
        "a = sorted(os.sched_getaffinity(0)); assert set(cores(len(a))) == set(a)\n"
        "os.sched_setaffinity(0, a[-1:]); assert cores(4) == a[-1:]"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert len(usable_cores(1)) == 1
