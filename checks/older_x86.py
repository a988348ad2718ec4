"""qwick on x86-64 CPUs that lack AVX-512, AVX2 or AVX altogether: the objects, and emulated.

    python -m checks.older_x86                # everything, the default checkpoint included
    python -m checks.older_x86 --short        # what CI runs: a small random checkpoint instead
    python -m checks.older_x86 --objects      # what was compiled, alone: nothing is emulated

The objects of the build that is installed: those for any CPU hold no instruction beyond x86-64's
first; those of an instruction set hold none of a better one, and export their table alone (an
inline function that two of them have would be kept by the linker once, for everyone). Then
`qwick doctor` on emulated CPUs, where each must choose its own kernels, and is seen to stop at
instructions that it lacks; a better set that is forced must be refused; answers must be those that
the same set of kernels gives here. Nothing here says how fast anything is.

Needs x86-64, binutils, Debian's qemu-user (`--install` gets it), the tests' packages, and the build
folder. Exit code 1: something failed; 77: something is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from checks import NOT_CHECKED
from checks.aarch64 import CheckError, run, tell
from qwick.errors import NativeBuildError
from qwick.settings import ALL, HOME, OFFLINE, child_environment

ROOT = Path(__file__).resolve().parents[1]
BASE = "scalar"
# Emulated CPUs, and which set each must use.
CPUS = {
    "Nehalem": BASE,  # 2008: no AVX
    "IvyBridge": BASE,  # 2012: AVX and F16C, no AVX2
    "Haswell,-fma": BASE,  # AVX2 without FMA
    "Haswell,-xsave": BASE,  # an operating system that keeps no wide registers
    "Haswell": "avx2",  # 2013
    "EPYC": "avx2",  # 2017
}
ANSWERING = ("Nehalem", "Haswell")
CORE_OF_BLAS = "OPENBLAS_CORETYPE"  # a user's word to NumPy about the CPU here, not an emulated one
# Instructions (xorps, pxor, vpdpbusd of AVX-VNNI, xorps of AVX-512) and which of these CPUs run it.
INSTRUCTIONS = {
    "c5fc57c0": {"IvyBridge", "Haswell"},
    "c5fdefc0": {"Haswell"},
    "c4e27d50c0": set[str](),
    "62f17c4857c0": set[str](),
}
EXECUTE = """
import ctypes, mmap, sys
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex(sys.argv[1]) + bytes([0xC3]))  # ret
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""
PROMPT = "Count from 1 to 5."
TOKENS = 8

ANY_AVX = r"\t({vex} )?v|\t(popcnt|lzcnt|andn|bextr|mulx|pdep|pext|rorx|sarx|shlx|shrx) "
AVX512 = r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])"
DOT = "vpdpb"
BF16 = r"\tv(dpbf16ps|cvtne2?ps2bf16)"
TILES = r"%tmm|\ttile"
# Per folder of objects: what none may hold, and what one must, or nothing was looked at.
TARGETS: dict[str, tuple[str, str]] = {
    "_native": (ANY_AVX, r"\tcall"),
    "qwick_core": (ANY_AVX, r"\tcall"),
    "kernels_scalar": (ANY_AVX, r"\tmulps"),
    "kernels_avx2": (f"{AVX512}|{DOT}", "%ymm"),
    "kernels_avxvnni": (AVX512, DOT),
    "kernels_avx512vnni": (f"{BF16}|{TILES}", DOT),
    "kernels_avx512bf16": (TILES, BF16),
    "kernels_amx": ("(?!)", TILES),
    "kernels_amx_emulated": (f"{BF16}|{TILES}", AVX512),
    "kernels_avxvnni_emulated": (f"{BF16}|{TILES}", DOT),
}
WHERE_ASKED = {"kernels_amx_emulated", "kernels_avxvnni_emulated"}  # compiled with QWICK_EMULATIONS


def main(argv: list[str] | None = None) -> int:
    """Look at the objects, then emulate; print what came of it."""
    arguments = parse(argv)
    begun = time.perf_counter()
    try:
        build = arguments.build or find_build()
        if not arguments.objects:
            need_emulator(arguments.install)
    except CheckError as error:
        print(f"older_x86: {error}", file=sys.stderr)
        return NOT_CHECKED
    tell(f"the objects in {build}")
    problems = problems_of_objects(build)
    answers: dict[str, list[int]] = {}
    if not arguments.objects:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            tell("instructions that a CPU lacks stop it")
            pairs = [(cpu, code) for cpu in ("IvyBridge", *ANSWERING) for code in INSTRUCTIONS]
            problems += [text for text in pool.map(lambda pair: execute(*pair), pairs) if text]
            tell(f"qwick doctor, {len(CPUS)} times")
            problems += [text for texts in pool.map(examine, CPUS) for text in texts]
        tell("a better set is refused")
        problems += refuse("Nehalem", "avx2") + refuse("Haswell", "avx512vnni")
        answers = ask_all(small=arguments.short)
        for cpu in ANSWERING:
            ids, wanted = answers[cpu], answers.get(f"{CPUS[cpu]} here", answers[cpu])
            if not ids or ids != wanted:
                problems.append(f"{cpu} answers {ids}, {CPUS[cpu]} here {wanted}")
    for problem in problems:
        print(f"older_x86: {problem}", file=sys.stderr)
    told = {
        "older_x86": "fails" if problems else "holds",
        "answers": answers,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(told))
    return 1 if problems else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m checks.older_x86",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--short", action="store_true", help="without the default checkpoint")
    parser.add_argument("--objects", action="store_true", help="look at the objects alone")
    parser.add_argument("--build", type=Path, help="a build folder; default: the installed one's")
    parser.add_argument("--install", action="store_true", help="get qemu-user with apt-get")
    return parser.parse_args(argv)


# -- what was compiled -----------------------------------------------------------------------------


def find_build() -> Path:
    """Return the folder below build/ that the installed extension was linked in."""
    if platform.machine() != "x86_64":
        raise CheckError(f"this is {platform.machine()}, and x86-64 is looked at here")
    for tool in ("objdump", "objcopy", "nm"):
        if not shutil.which(tool):
            raise CheckError(f"missing: {tool}; run `apt-get install binutils`")
    spec = find_spec("qwick.native._native")
    if spec is None or spec.origin is None:
        raise CheckError("qwick's extension is not installed")
    wanted = code_of(Path(spec.origin))
    for module in sorted((ROOT / "build").glob("*/_native*.so")):
        if code_of(module) == wanted:
            return module.parent
    raise CheckError(
        f"no folder below {ROOT / 'build'} has the objects of {spec.origin}; "
        "install from this checkout, or name one (--build)"
    )


def code_of(module: Path) -> bytes:
    """Return a module's machine code, which installing does not change (symbols it drops)."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "text"
        run(["objcopy", "-O", "binary", "-j", ".text", str(module), str(out)])
        return out.read_bytes()


def problems_of_objects(build: Path) -> list[str]:
    """Return what is wrong with the objects of a build folder: nothing when all is well."""
    problems = []
    folders = {path.name.removesuffix(".dir"): path for path in build.glob("CMakeFiles/*.dir")}
    objects = {name: sorted(path.rglob("*.o")) for name, path in folders.items()}
    objects = {name: files for name, files in objects.items() if files}
    for name in sorted(objects.keys() | TARGETS.keys()):
        if name not in TARGETS:
            problems.append(f"{name} is not known here: say what its objects may hold")
        elif name not in objects and name in WHERE_ASKED:
            continue
        elif name not in objects:
            problems.append(f"{name} has no objects in {build}")
        else:
            problems += problems_of_target(name, objects[name])
    return problems


def problems_of_target(name: str, files: list[Path]) -> list[str]:
    """Return what is wrong with the objects that were compiled with the same flags."""
    forbidden, required = TARGETS[name]
    problems, seen = [], False
    for file in files:
        code = run(["objdump", "-d", "--no-show-raw-insn", str(file)], quiet=True)
        seen = seen or re.search(required, code) is not None
        found = re.search(forbidden, code)
        if found:
            line = code[code.rfind("\n", 0, found.start()) : code.find("\n", found.end())]
            problems.append(f"{name}: {file.name} holds `{' '.join(line.split()[1:])}`")
        if name.startswith("kernels_"):
            listed = run(["nm", "-C", "--extern-only", "--defined-only", str(file)], quiet=True)
            exports = [line.split(maxsplit=2) for line in listed.splitlines()]
            extra = [words[2] for words in exports if not (words[1] in "DR" and "::k" in words[2])]
            if extra or len(exports) != 1:
                problems.append(f"{name}: {file.name} exports {extra} beside its table")
    if not seen:
        problems.append(f"{name} holds none of `{required}`: was it disassembled?")
    return problems


# -- emulated --------------------------------------------------------------------------------------


def need_emulator(install: bool) -> None:
    """Raise CheckError without an emulator, after an attempt to install it if so wished."""
    if install and not shutil.which("qemu-x86_64"):
        try:
            run(["apt-get", "update", "-qq"])
            run(["apt-get", "install", "-qqy", "--no-install-recommends", "qemu-user"])
        except OSError as error:
            raise CheckError(f"apt-get cannot be run: {error}") from None
    if not shutil.which("qemu-x86_64"):
        raise CheckError("missing: qemu-x86_64; run `apt-get install qemu-user`, or give --install")


def emulate(cpu: str, *words: str, isa: str = "") -> subprocess.CompletedProcess[str]:
    """Run this Python on an emulated CPU ("": on this one) and return what came of it."""
    emulator = ["qemu-x86_64", "-cpu", cpu] if cpu else []
    environment = child_environment(**({"QWICK_ISA": isa} if isa else {}))
    environment.pop(CORE_OF_BLAS, None)
    for setting in ALL:
        if setting not in (HOME, OFFLINE) and not (isa and setting.name == "QWICK_ISA"):
            environment.pop(setting.name, None)
    command = [*emulator, sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)


def execute(cpu: str, code: str) -> str:
    """Return what is wrong with how a CPU meets an instruction: a control of the emulator."""
    ended = emulate(cpu, "-c", EXECUTE, code).returncode
    wanted = 0 if cpu in INSTRUCTIONS[code] else -4  # SIGILL
    return "" if ended == wanted else f"{cpu}: {code} ended with {ended} and not with {wanted}"


def examine(cpu: str) -> list[str]:
    """Return what is wrong with what `qwick doctor` says on a CPU."""
    done = emulate(cpu, "-m", "qwick", "doctor", "--json")
    if done.returncode not in (0, 1):
        return [f"{cpu}: qwick doctor ended with {done.returncode}: {last_line(done.stderr)}"]
    kernels = json.loads(done.stdout)["kernels"]
    usable = {one["name"] for one in kernels["sets"] if one["usable"]}
    print(f"{cpu:15} {kernels['used']}; usable: {', '.join(sorted(usable))}", flush=True)
    problems = []
    if (kernels["used"], kernels["problem"]) != (CPUS[cpu], None):
        problems.append(f"{cpu} uses {kernels['used']}, not {CPUS[cpu]}: {kernels['problem']}")
    if usable != {CPUS[cpu], BASE}:
        problems.append(f"{cpu} is said to run {sorted(usable)}")
    return problems


def refuse(cpu: str, isa: str) -> list[str]:
    """Return what is wrong with how a set is refused that a CPU lacks."""
    done = emulate(cpu, "-m", "qwick", "run", PROMPT, isa=isa)
    said = done.stderr.strip().splitlines()
    said = [line for line in said if not line.startswith("qemu-x86_64: warning")]
    print(f"{cpu:15} {said[0] if said else ''}", flush=True)
    clear = len(said) == 2 and said[0].startswith("error: this CPU lacks") and isa in said[0]
    if done.returncode == NativeBuildError.exit_code and clear:
        return []
    return [f"{cpu}, {isa} forced: ended with {done.returncode}, said {said}"]


def ask_all(*, small: bool) -> dict[str, list[int]]:
    """Return the ids of a greedy answer, on each CPU and of the same set of kernels here.

    Each set has its own roundings. One that this machine lacks has no answer here.
    """
    tell("a small random checkpoint answers" if small else "the default checkpoint answers")
    with tempfile.TemporaryDirectory() as folder:
        model = []
        if small:
            model = [str(write_small(Path(folder) / "small.gguf")), "--raw", "--ignore-eos"]
        options = ["--json", "--temperature", "0", "--ctx", "512", "--max-tokens", str(TOKENS)]
        words = ["-m", "qwick", "run", *options, *model, PROMPT]
        answers = {}
        here = {f"{isa} here": ("", isa) for isa in (BASE, "avx2")}
        for name, (cpu, isa) in (here | {cpu: (cpu, "") for cpu in ANSWERING}).items():
            done = emulate(cpu, *words, isa=isa)
            if isa and done.returncode == NativeBuildError.exit_code:
                continue
            if done.returncode:
                print(f"{name}: ended with {done.returncode}: {last_line(done.stderr)}")
            reply = json.loads(done.stdout) if done.returncode == 0 else {"ids": [], "text": None}
            print(f"{name:15} {reply['text']!r}", flush=True)
            answers[name] = reply["ids"]
    return answers


def write_small(path: Path) -> Path:
    """Write a random model of two layers in the types of the default checkpoint's kind of file."""
    sys.path.insert(0, str(ROOT / "tests"))
    from bench.random_gguf import Shape, write_random
    from llm.small import STORED_TOKENIZER_DATA

    shape = Shape(256, 512, 2, 4, 2, tied=False, vocab=512, head_dim=64)
    write_random(path, "small", shape, STORED_TOKENIZER_DATA)
    return path


def last_line(text: str) -> str:
    """Return the last line of what a process said."""
    return (text.strip().splitlines() or [""])[-1]


if __name__ == "__main__":
    sys.exit(main())
