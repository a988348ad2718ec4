"""An interpreter that can run llama-cpp-python, built once under the store when none is given.

llama.cpp is compiled for what this CPU has, AMX left out: its AMX matmul (release 0.3.36 of the
Python package) crashes on some CPUs. Knows nothing of what the peer is asked.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qwick import settings
from qwick.errors import QwickError

LLAMA_CPP_PYTHON = "0.3.36"

# Flags of /proc/cpuinfo, and ggml's build options for them (ggml/CMakeLists.txt).
_OPTIONS = {
    "avx": "GGML_AVX",
    "avx2": "GGML_AVX2",
    "fma": "GGML_FMA",
    "f16c": "GGML_F16C",
    "bmi2": "GGML_BMI2",
    "avx_vnni": "GGML_AVX_VNNI",
    "avx512f": "GGML_AVX512",
    "avx512_vbmi": "GGML_AVX512_VBMI",
    "avx512_vnni": "GGML_AVX512_VNNI",
    "avx512_bf16": "GGML_AVX512_BF16",
}


def version_of(python: Path) -> str:
    """Return the version of llama-cpp-python in that interpreter."""
    program = "import llama_cpp; print(llama_cpp.__version__)"
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise QwickError(f"{python} cannot import llama_cpp: {why}")
    return done.stdout.strip()


def llama_cpp_python(given: Path | None) -> Path:
    """Return the interpreter given, or that of the store's own environment, built when missing."""
    if given is not None:
        if not given.is_file():
            raise QwickError(f"--peer-python is {given}; there is no such file")
        return given
    folder = settings.HOME.get() / "peers" / f"llama-cpp-python-{LLAMA_CPP_PYTHON}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        _build(folder, python)
        ready.touch()
    return python


def _build(folder: Path, python: Path) -> None:
    from rich.console import Console

    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    environment = settings.child_environment(CMAKE_ARGS=_cmake_arguments())
    requirement = f"llama-cpp-python=={LLAMA_CPP_PYTHON}"
    # No cache: pip would take a wheel compiled earlier with whatever options.
    install = ["install", "--no-cache-dir", "--no-binary", "llama-cpp-python", requirement]
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", *install],
    )
    status = Console(stderr=True).status(f"compiling {requirement} (minutes)")
    with status:
        for command in commands:
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            log.write_text(done.stdout + done.stderr, encoding="utf-8")
            if done.returncode:
                raise QwickError(
                    f"{requirement} cannot be installed; its log is {log}",
                    hint="or name an interpreter that has it with --peer-python",
                )


def _cmake_arguments() -> str:
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("flags"):
            flags.update(line.split(":", 1)[1].split())
    options = [
        f"-D{option}={'ON' if flag in flags else 'OFF'}" for flag, option in _OPTIONS.items()
    ]
    return " ".join(["-DGGML_NATIVE=OFF", "-DGGML_AMX_TILE=OFF", "-DGGML_AMX_INT8=OFF", *options])
