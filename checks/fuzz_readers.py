"""100,000 damaged checkpoints through qwick's readers: each is read, or refused with our error.

Each case is a sound checkpoint (GGUF whole and in parts, safetensors folders with one file and with
shards, and the header of the default checkpoint) damaged in one to three ways: bits, lengths,
counts of 2^63, overlaps, files that point at each other, absurd values, broken UTF-8, depth. It is
read as loading does: container, config, tensors, tokenizer, template, and small ones are packed.
A failure is any other exception, a crash, more than --seconds of CPU time, or memory beyond twice
the bytes of its files and ALLOWANCE. Children do the reading, so that a crash costs one case.

    python -m checks.fuzz_readers                          # 100,000 cases, some minutes
    python -m checks.fuzz_readers --first 4711 --count 1   # one case again

The input of a failure is kept in build/fuzz/readers. Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "fuzz" / "readers"
ALLOWANCE = 64 << 20
"""Bytes beyond twice the file. The readers bound what is not proportional to a file by constants:
JSON of at most 2 MiB as Python objects (up to 25 times as much), 16 MiB of texts, 65,536 tensors
and keys, the compiled template, and what the allocator keeps."""
ADDRESS_SPACE = 4 << 30  # that a runaway ends as a MemoryError, and not the machine
WALL_SECONDS = 120  # for what waits without computing

Reader = Callable[[Path], str]


def one(given: argparse.Namespace, number: int, reader: Reader) -> dict[str, Any]:
    """Read one case; return what came of it. Dies of SIGPROF when it takes too long."""
    from checks.hostile import make

    case = make(given.seed, number, given.real)
    with tempfile.TemporaryDirectory(prefix="qwick-fuzz-") as name:
        path = case.write(Path(name))
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
        signal.alarm(WALL_SECONDS)
        signal.setitimer(signal.ITIMER_PROF, given.seconds)
        start = time.process_time()
        failure = None
        try:
            outcome = reader(path)
        except BaseException as error:  # a panic of the tokenizers library is no Exception
            outcome, failure = "failure", f"{type(error).__name__}: {error}"[:300]
        taken = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        grown = _memory("VmHWM") - before
    if not given.unlimited and failure is None and grown > 2 * case.size + ALLOWANCE:
        failure = f"{grown:,} bytes of memory for {case.size:,} bytes of files"
    return {
        "number": number,
        "specimen": case.specimen,
        "outcome": outcome,
        "failure": failure,
        "memory": grown,
        "beyond": max(0, grown - 2 * case.size),
        "seconds": taken,
    }


def _memory(field: str) -> int:
    """Bytes that /proc/self/status gives for a field."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def child(arguments: argparse.Namespace) -> None:
    """Read cases first, first + step, ...; a JSON line for each."""
    import importlib

    from checks.hostile import read, specimens

    module, _, function = arguments.reader.partition(":")
    reader: Reader = getattr(importlib.import_module(module), function)
    for case in specimens(arguments.real).values():  # all that is imported once is imported now
        with tempfile.TemporaryDirectory() as name:
            read(case.write(Path(name)))
    if not arguments.unlimited:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    end = arguments.first + arguments.count
    for number in range(arguments.first, end, arguments.step):
        found = one(arguments, number, reader)
        print(json.dumps(found), flush=True)


class Run:
    """The parent's side: children over the cases, and what came of them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.outcomes: Counter[str] = Counter()
        self.failures: dict[int, str] = {}
        self.most: dict[str, float] = {"memory": 0, "beyond": 0, "seconds": 0.0}
        self.lock = threading.Lock()

    @property
    def done(self) -> int:
        """Cases read."""
        return self.outcomes.total()

    def lane(self, index: int) -> None:
        """Read every `jobs`-th case, with a new child after one that died."""
        given = self.arguments
        next_, end = given.first + index, given.first + given.count
        while next_ < end:
            command = [sys.executable, "-m", "checks.fuzz_readers", "--child"]
            command += [
                "--first",
                str(next_),
                "--count",
                str(end - next_),
                "--step",
                str(given.jobs),
            ]
            command += ["--seed", str(given.seed), "--seconds", str(given.seconds)]
            command += ["--reader", given.reader]
            command += ["--unlimited"] if given.unlimited else []
            command += ["--real", str(given.real)] if given.real else []
            environment = {**os.environ, "RUST_BACKTRACE": "0", "QWICK_THREADS": "1"}
            with (
                tempfile.TemporaryFile() as errors,
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=environment
                ) as process,
            ):
                assert process.stdout is not None
                for line in process.stdout:
                    self.note(json.loads(line))
                    next_ += given.jobs
                code = process.wait()
                errors.seek(max(0, errors.seek(0, os.SEEK_END) - 2000))
                words = errors.read().decode("utf-8", "replace")
            if next_ < end:
                self.note({"number": next_, "specimen": "", "failure": _cause(code, given, words)})
                next_ += given.jobs

    def note(self, found: dict[str, Any]) -> None:
        """Count a case, and keep the input of one that failed."""
        number, failure = found["number"], found["failure"]
        with self.lock:
            self.outcomes[found.get("outcome", "failure") if not failure else "failure"] += 1
            for name in self.most:
                self.most[name] = max(self.most[name], found.get(name, 0))
            if failure:
                self.failures[number] = failure
                self._keep(number)
            if self.arguments.progress and (self.done % 100 == 0 or failure):
                told = f"{self.done:,} of {self.arguments.count:,}, {len(self.failures)} failed"
                print(f"\r{told}", end="", file=sys.stderr, flush=True)

    def _keep(self, number: int) -> None:
        from checks.hostile import make

        folder = KEPT / f"{self.arguments.seed}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(self.arguments.seed, number, self.arguments.real).write(folder)

    def report(self) -> dict[str, Any]:
        """Run all lanes and return the figures."""
        start = time.monotonic()
        lanes = [
            threading.Thread(target=self.lane, args=(index,))
            for index in range(self.arguments.jobs)
        ]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        return {
            "seed": self.arguments.seed,
            "cases": self.done,
            "outcomes": dict(self.outcomes.most_common()),
            "most_memory": self.most["memory"],
            "most_memory_beyond_twice_the_files": self.most["beyond"],
            "most_cpu_seconds": round(self.most["seconds"], 3),
            "wall_seconds": round(time.monotonic() - start, 1),
            "failures": dict(sorted(self.failures.items())),
        }


def _cause(code: int, given: argparse.Namespace, words: str) -> str:
    if code == -signal.SIGPROF:
        return f"more than {given.seconds:g} s of CPU time"
    if code == -signal.SIGALRM:
        return f"not done after {WALL_SECONDS} s"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the process died ({name}): {words[-600:].strip()}"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's meaning."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU time that a case may take")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--synthetic", action="store_true", help="without the default checkpoint")
    parser.add_argument(
        "--unlimited", action="store_true", help="no limits of memory (AddressSanitizer needs much)"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--reader", default="checks.hostile:read", help="what reads: module:function"
    )
    for name in ("--child", "--real", "--step"):
        kind: dict[str, Any] = {"--child": {"action": "store_true"}, "--real": {"type": Path}}.get(
            name, {"type": int, "default": 1}
        )
        parser.add_argument(name, help=argparse.SUPPRESS, **kind)
    given = parser.parse_args(argv)
    given.progress = sys.stderr.isatty()
    if not given.synthetic and not given.child:
        from qwick import hub

        given.real = hub.resolve()
    return given


def main(argv: list[str] | None = None) -> int:
    """Run, print, conclude."""
    given = parse(argv)
    if given.child:
        child(given)
        return 0
    found = Run(given).report()
    if given.progress:
        print(file=sys.stderr)
    if given.json:
        print(json.dumps(found))
    else:
        told = ", ".join(f"{count:,} {name}" for name, count in found["outcomes"].items())
        print(f"{found['cases']:,} cases in {found['wall_seconds']} s: {told}")
        print(
            f"at most {found['most_cpu_seconds']} s of CPU time, and "
            f"{found['most_memory_beyond_twice_the_files'] / 2**20:.1f} MiB beyond twice the files"
        )
        for number, text in found["failures"].items():
            print(f"failed: {text}")
            print(
                f"    --seed {given.seed} --first {number} --count 1; {KEPT}/{given.seed}-{number}"
            )
    return 1 if found["failures"] or found["cases"] != given.count else 0


if __name__ == "__main__":
    sys.exit(main())
