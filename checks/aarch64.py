"""qwick on 64-bit ARM, emulated: compiled without a warning, and the kernel tests on three CPUs.

    python -m checks.aarch64                  # everything, the default checkpoint included
    python -m checks.aarch64 --short          # what CI runs: less optimized, and fewer tests
    python -m checks.aarch64 --cpu max -- tests/engine -k draft

Below build/aarch64: a root folder of Debian's arm64 packages (a Python and its headers), pip's
wheels for it, and the extension, cross-compiled with warnings as errors. pytest runs in there
under qemu's user-mode emulation, on a CPU with I8MM and BF16, on one with DOTPROD alone, and on
one with neither: each must choose its own kernels, and passes the tests of those; the last one
also those of the scalar kernels and those that know no instruction set. At the end the default
checkpoint answers a prompt on each, greedily: the ids must be those that this machine's scalar
kernels give. Nothing here says how fast anything is.

Needs Debian or a relative of it, its packages qemu-user and g++-aarch64-linux-gnu, and pip's
nanobind, cmake and ninja in qwick's own environment; `--install` gets them. Exit code 1: something
failed; 77: something is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

from checks import NOT_CHECKED
from qwick.settings import child_environment

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "aarch64"
CPUS = {
    "max": "neoni8mm",
    "neoverse-n1": "neondot",
    "cortex-a72": "neon",
}  # which set each must use
PLAINEST = "cortex-a72"
PACKAGES = ("qemu-user", "g++-aarch64-linux-gnu")
TOOLS = ("qemu-aarch64", "aarch64-linux-gnu-g++", "aarch64-linux-gnu-nm", "dpkg-deb", "apt-get")
BUILD_PACKAGES = ("nanobind", "cmake", "ninja")
PIP = [sys.executable, "-m", "pip", "install", "-q"]
BIN = Path(sys.executable).parent
TEST_PACKAGES = ("gguf", "hypothesis", "pytest", "pytest-randomly")
# Newest first that Debian 12's C library (2.36) can load.
PLATFORMS = (
    "manylinux_2_35",
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_17",
    "manylinux2014",
)
# Odd shapes, every class and form of pages, one row and many, on each instruction set.
SHORT = (
    "test_odd_widths or test_rows_have_the_results or test_rows_at_the_ends or nearly_nothing "
    "or test_add_rms_norm or test_mlp and 3-512 "
    "or (test_rope_store_and_attention or test_pages_of_8_bits) and 14-2-64"
)
FILES = ("tests/native/test_matmul.py", "tests/native/test_elementwise.py")
PROMPT = "Write a function that reverses a list."
TOKENS = 12


class CheckError(Exception):
    """A step that failed, with what to tell."""


@dataclass(frozen=True)
class Run:
    """What one CPU's tests came to."""

    cpu: str
    isa: str  # the one in use
    passed: int
    failed: int
    seconds: float


def main(argv: list[str] | None = None) -> int:
    """Run every step and print what came of it."""
    arguments = parse(argv)
    try:
        need_tools(arguments.install)
        python = make_root()
        install_wheels(python)
    except CheckError as error:
        print(f"aarch64: {error}", file=sys.stderr)
        return NOT_CHECKED
    try:
        return check(arguments, python)
    except CheckError as error:
        print(f"aarch64: {error}", file=sys.stderr)
        return 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m checks.aarch64", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--short", action="store_true", help="less optimized, and fewer tests")
    parser.add_argument(
        "--cpu", action="append", choices=list(CPUS), help="only this CPU; may be repeated"
    )
    parser.add_argument("--no-model", action="store_true", help="without the default checkpoint")
    parser.add_argument(
        "--install", action="store_true", help="install what is missing, with apt-get and pip"
    )
    parser.add_argument(
        "pytest", nargs="*", help="what pytest is given instead of the kernel tests; after --"
    )
    return parser.parse_args(argv)


def check(arguments: argparse.Namespace, python: Path) -> int:
    """Build, test, compare; return the exit code."""
    begun = time.perf_counter()
    build(python, "-O1" if arguments.short else "-O3")
    cpus = arguments.cpu or list(CPUS)
    at_once = len(os.sched_getaffinity(0)) if arguments.short else 1

    def test(cpu: str) -> Run:
        return run_tests(cpu, python, tests_for(cpu, arguments), at_once == 1)

    with ThreadPoolExecutor(at_once) as pool:
        runs = list(pool.map(test, cpus))
    answers = {} if arguments.short or arguments.no_model else compare_answers(cpus, python)
    problems = problems_of(runs, answers)
    for run in runs:
        came = f"{run.passed:5} passed {run.failed:3} failed {run.seconds:6.0f} s"
        print(f"{run.cpu:12} {run.isa:9} {came}")
    for problem in problems:
        print(f"aarch64: {problem}", file=sys.stderr)
    told = {
        "aarch64": "fails" if problems else "holds",
        "runs": [asdict(run) for run in runs],
        "answers": answers,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(told))
    return 1 if problems else 0


def tests_for(cpu: str, arguments: argparse.Namespace) -> list[str]:
    """Return what pytest is given.

    A CPU runs the tests of its own instruction set; the plainest, unless in the short form, also
    those of the scalar kernels and those that know no instruction set.
    """
    if arguments.pytest:
        return list(arguments.pytest)
    if arguments.short:
        return [*FILES, "-k", f"({SHORT}) and {CPUS[cpu]}"]
    return ["tests/native"] if cpu == PLAINEST else ["tests/native", "-k", CPUS[cpu]]


def problems_of(runs: list[Run], answers: dict[str, list[int]]) -> list[str]:
    """Return what is wrong with the results, nothing when all is well."""
    problems = []
    for run in runs:
        if run.isa != CPUS[run.cpu]:
            problems.append(f"{run.cpu} uses {run.isa} and not {CPUS[run.cpu]}")
        if run.failed or not run.passed:
            problems.append(f"{run.cpu}: {run.failed} tests failed, {run.passed} passed")
    wanted = answers.get("here")
    for cpu, ids in answers.items():
        if ids != wanted:
            problems.append(f"{cpu} answers {ids}, this machine {wanted}")
    return problems


# -- what it stands on -----------------------------------------------------------------------------


def need_tools(install: bool) -> None:
    """Raise CheckError where something is missing, after an attempt to install it if so wished."""
    if install and missing_tools():
        tell(f"apt-get install {' '.join(PACKAGES)}")
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "install", "-qqy", "--no-install-recommends", *PACKAGES])
    if install and missing_packages():
        tell(f"pip install {' '.join(BUILD_PACKAGES)}")
        run([*PIP, "-c", str(ROOT / "constraints.txt"), *BUILD_PACKAGES])
    for gone, how in (
        (missing_tools(), f"apt-get install {' '.join(PACKAGES)}"),
        (missing_packages(), f"pip install {' '.join(BUILD_PACKAGES)}"),
    ):
        if gone:
            raise CheckError(f"missing: {', '.join(gone)}; run `{how}`, or give --install")


def missing_tools() -> list[str]:
    """Return those programs of Debian's that are not on the path."""
    return [tool for tool in TOOLS if not shutil.which(tool)]


def missing_packages() -> list[str]:
    """Return those packages that this Python lacks; a system's own CMake may be too old."""
    return [
        name
        for name in BUILD_PACKAGES
        if not ((BIN / name).exists() or (name == "nanobind" and find_spec(name)))
    ]


def make_root() -> Path:
    """Unpack Debian's arm64 packages into a folder, once; return the Python in it.

    apt-get works on folders of its own, so that neither the system's packages nor its list of
    architectures change.
    """
    root, apt = WORK / "root", WORK / "apt"
    if not (WORK / "root.done").exists():
        tell("Debian's arm64 packages")
        shutil.rmtree(root, ignore_errors=True)
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (apt / folder).mkdir(parents=True, exist_ok=True)
        (apt / "status").touch()
        options = [
            "APT::Architecture=arm64",
            "APT::Architectures=arm64",
            "APT::Sandbox::User=root",
            f"Dir::State={apt}/state",
            f"Dir::State::status={apt}/status",
            f"Dir::Cache={apt}/cache",
            "Debug::NoLocking=1",
        ]
        get = ["apt-get", "-qq", *(f"-o{option}" for option in options)]
        run([*get, "update"])
        wanted = ["python3", "libpython3-dev", "libstdc++6"]
        run([*get, "install", "-y", "--no-install-recommends", "--download-only", *wanted])
        for package in sorted((apt / "cache/archives").glob("*.deb")):
            run(["dpkg-deb", "-x", str(package), str(root)])
        (WORK / "root.done").touch()
    return root / "usr/bin" / os.readlink(root / "usr/bin/python3")


def install_wheels(python: Path) -> None:
    """Install qwick's requirements and pytest for that Python, once, in the versions of CI."""
    site = WORK / "site"
    if (WORK / "site.done").exists():
        return
    tell("wheels for it")
    shutil.rmtree(site, ignore_errors=True)
    own = [text for text in requires("qwick") or [] if "extra ==" not in text]
    platforms = [f"--platform={name}_aarch64" for name in PLATFORMS]
    version = f"--python-version={python.name.removeprefix('python')}"
    target = ["--target", str(site), *platforms, version, "--implementation=cp"]
    constraints = ["--only-binary=:all:", "-c", str(ROOT / "constraints.txt")]
    run([*PIP, *target, *constraints, *own, *TEST_PACKAGES])
    (WORK / "site.done").touch()


def build(python: Path, optimize: str) -> None:
    """Cross-compile the extension, warnings being errors, and put it into a copy of the package."""
    tell(f"compiling with {optimize}")
    build = WORK / f"build{optimize}"
    include = WORK / "root/usr/include"
    nanobind = run([sys.executable, "-m", "nanobind", "--cmake_dir"], quiet=True).strip()
    defined = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        "CMAKE_MAKE_PROGRAM": str(BIN / "ninja"),
        # Python's header asks for the architecture's own below the same folder.
        "CMAKE_CXX_FLAGS": f"-Werror -idirafter {include}",
        "CMAKE_CXX_FLAGS_RELEASE": f"{optimize} -DNDEBUG",
        "QWICK_OPTIMIZE": optimize,
        "Python_EXECUTABLE": sys.executable,
        "Python_INCLUDE_DIR": str(include / python.name),
        "nanobind_DIR": nanobind,
        "SKBUILD_SABI_VERSION": "3.10",
    }
    options = [f"-D{name}={value}" for name, value in defined.items()]
    cmake = str(BIN / "cmake")
    run([cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "--log-level=WARNING", *options])
    run([cmake, "--build", str(build), "--parallel", str(len(os.sched_getaffinity(0)))])
    source = WORK / "src"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (module,) = build.glob("_native*.so")
    shutil.copy2(module, source / "qwick/native")


# -- what is shown ---------------------------------------------------------------------------------


def emulated(cpu: str, python: Path) -> list[str]:
    """Return the command that is Python on an emulated CPU."""
    return ["qemu-aarch64", "-cpu", cpu, "-L", str(WORK / "root"), str(python)]


def environment() -> dict[str, str]:
    """Return the variables of the emulated Python."""
    return child_environment(
        PYTHONPATH=f"{WORK / 'src'}{os.pathsep}{WORK / 'site'}", PYTHONDONTWRITEBYTECODE="1"
    )


def run_tests(cpu: str, python: Path, what: list[str], live: bool) -> Run:
    """Run pytest on a CPU; return the counts of its last line.

    live: its output is shown as it comes, else when it ends, so that two may run at once.
    """
    title = f"on {cpu}: pytest {' '.join(what)}"
    if live:
        tell(title)
    ask = "from qwick.native import ops; print(ops.isa())"
    isa = run([*emulated(cpu, python), "-c", ask], env=environment(), quiet=True).strip()
    begun, lines = time.perf_counter(), [f"== {title}\n"]
    command = [*emulated(cpu, python), "-m", "pytest", "-p", "no:cacheprovider", *what]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if live:
                print(line, end="", flush=True)
    if not live:
        print("".join(lines), end="", flush=True)
    passed, failed = counts(next(line for line in reversed(lines) if line.strip()))
    if child.returncode and not failed:  # a crash, say an instruction that this CPU lacks
        failed = 1
        print(f"aarch64: pytest on {cpu} ended with code {child.returncode}", file=sys.stderr)
    return Run(cpu, isa, passed, failed, round(time.perf_counter() - begun, 1))


def counts(line: str) -> tuple[int, int]:
    """Return how many tests passed and failed, from pytest's last line: "1 failed, 32 passed"."""
    found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", line)}
    return found.get("passed", 0), found.get("failed", 0) + found.get("error", 0)


def compare_answers(cpus: list[str], python: Path) -> dict[str, list[int]]:
    """Return the ids of a greedy answer of the default checkpoint, of this machine and each CPU.

    This machine's scalar kernels have the arithmetic that all of ARM's have; those of AVX-512 and
    AMX take other roundings for prompts (docs/decisions/0009).
    """
    tell("the default checkpoint answers")
    words = [
        "-m",
        "qwick",
        "run",
        "--json",
        "--temperature",
        "0",
        "--max-tokens",
        str(TOKENS),
        PROMPT,
    ]
    answers = {}
    for name, command, variables in (
        ("here", [sys.executable], child_environment(QWICK_ISA="scalar")),
        *((cpu, emulated(cpu, python), environment()) for cpu in cpus),
    ):
        reply = json.loads(run([*command, *words], env=variables, quiet=True))
        answers[name] = reply["ids"]
        print(f"{name:12} {reply['text']!r}", flush=True)
    return answers


def run(command: list[str], env: dict[str, str] | None = None, quiet: bool = False) -> str:
    """Run a command; its output is shown, or with `quiet` returned. CheckError where it fails."""
    done = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE if quiet else None)
    if done.returncode:
        raise CheckError(f"`{' '.join(command[:4])} ...` ended with code {done.returncode}")
    return done.stdout if quiet else ""


def tell(step: str) -> None:
    """Print the name of a step."""
    print(f"== {step}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
