"""qwick under the limits that a machine's owner sets, for real: cores, CPU time, memory.

    python -m checks.confined
    python -m checks.confined --ulimits 40      # finer steps of ulimit -v

- cores: a process that may run on one uses one thread (sched_setaffinity, as taskset does).
- CPU time: control groups of 0.5 and 1.5 CPUs give one thread, and `qwick doctor` says why.
- memory: in a control group that holds the default checkpoint it answers, and nothing is killed,
  though the pages of the file were read into that group before; in a smaller one it is refused.
- ulimit -v: in steps up to what suffices, every run answers or is refused with our own error.

Exit code 1: a limit was not kept; 77: this process may make no control group (the rest holds).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.confine import forget_pages, limited, limited_cpus
from checks import NOT_CHECKED
from qwick import hub
from qwick.errors import NativeBuildError, ResourceError
from qwick.settings import ALL, HOME, OFFLINE, child_environment

ROOMY, TIGHT = 700_000_000, 400_000_000  # bytes: what the default checkpoint fits in, and not
# Address space in MB. Below the first numpy itself ends the process; in the last all fits.
LEAST, ENOUGH = 110, 1500
QUESTION = ["--temperature", "0", "--max-tokens", "4", "What is the capital of France? One word."]
COUNT = """
import os, sys
from qwick import Qwen
from qwick.native import ops
with Qwen.load(ctx=512) as qwen:
    print(qwen.chat(sys.argv[1], max_tokens=2).text, ops.threads())
"""
READ = """
import sys
for _ in range(2):  # what was read twice counts as active
    with open(sys.argv[1], "rb", buffering=0) as file:
        while file.read(1 << 24): pass
"""

Enter = Callable[[], None] | None


def child(*words: str, enter: Enter = None) -> subprocess.CompletedProcess[str]:
    """Run this Python after `enter`, with no setting but where the store is."""
    environment = child_environment()
    for setting in ALL:
        if setting not in (HOME, OFFLINE):
            environment.pop(setting.name, None)
    command = [sys.executable, *words]
    return subprocess.run(
        command, env=environment, text=True, capture_output=True, preexec_fn=enter
    )


def run(*options: str, enter: Enter = None) -> subprocess.CompletedProcess[str]:
    """Answer the question."""
    return child("-m", "qwick", "run", *options, *QUESTION, enter=enter)


def doctor(enter: Enter) -> dict[str, Any]:
    """Return what `qwick doctor` tells."""
    report: dict[str, Any] = json.loads(
        child("-m", "qwick", "doctor", "--json", enter=enter).stdout
    )
    return report


def check_cores() -> list[str]:
    """One core: one thread."""
    core = min(os.sched_getaffinity(0))
    done = child("-c", COUNT, QUESTION[-1], enter=lambda: os.sched_setaffinity(0, {core}))
    print(f"one core: {done.stdout.strip()!r}", flush=True)
    return (
        [] if done.stdout.split() == ["Paris", "1"] else [f"one core: {done.stdout}{done.stderr}"]
    )


def check_quota(cpus: float) -> list[str] | None:
    """A quota of CPU time; None where it cannot be set."""
    with limited_cpus(cpus) as limit:
        if limit.enter is None:
            return None
        told, done = doctor(limit.enter), run("--ctx", "512", enter=limit.enter)
    seen = (told["cpu"]["quota"], told["threads"], done.stdout.strip())
    print(f"{limit.words}: (quota, threads, answer) {seen}", flush=True)
    wanted = (cpus, min(max(1, int(cpus)), told["cpu"]["physical"]), "Paris")
    return [] if seen == wanted else [f"{limit.words}: {seen} and not {wanted}: {done.stderr}"]


def check_memory() -> list[str] | None:
    """A memory limit that suffices, and one that does not; None where it cannot be set."""
    path, problems = hub.resolve(), []
    with limited(ROOMY) as limit:
        if limit.enter is None:
            return None
        forget_pages(path)  # so that the group is charged for them
        child("-c", READ, str(path), enter=limit.enter)
        told, done = doctor(limit.enter), run("--ctx", "4096", enter=limit.enter)
        seen = (told["memory"]["limited_by"], done.stdout.strip())
        available = told["memory"]["available"] // 1_000_000
        print(f"{limit.words}: {seen}, {available} MB said to be available", flush=True)
        if seen != ("cgroup", "Paris") or available * 1_000_000 > ROOMY:
            problems.append(f"{limit.words}: {seen}, {done.returncode}, {done.stderr}")
    with limited(TIGHT) as limit:
        done = run("--ctx", "512", enter=limit.enter)
    print(f"{limit.words}: {done.stderr.strip()}", flush=True)
    if done.returncode != ResourceError.exit_code or "the control group leaves" not in done.stderr:
        problems.append(f"{limit.words}: ended with {done.returncode}, said {done.stderr}")
    return problems


def check_address_space(steps: int) -> list[str]:
    """Every limit gives an answer or our own error; and enough is enough."""
    problems = []
    fine = (0, ResourceError.exit_code, NativeBuildError.exit_code)
    for step in range(steps + 1):
        size = (LEAST + (ENOUGH - LEAST) * step // steps) << 20

        def enter(size: int = size) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

        done = run(enter=enter)
        said = (done.stdout or done.stderr).strip().splitlines()
        told = f"ulimit -v {size >> 10}: {done.returncode}, {said[0][:90] if said else ''}"
        print(told, flush=True)
        if done.returncode not in fine or (step == steps and done.returncode):
            problems.append(told)
    return problems


def main() -> int:
    """Check everything, print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ulimits", type=int, default=14, help="steps of ulimit -v")
    arguments = parser.parse_args()
    begun, problems, missing = time.perf_counter(), check_cores(), 0
    for found in (check_quota(0.5), check_quota(1.5), check_memory()):
        missing += found is None
        problems += found or []
    problems += check_address_space(arguments.ulimits)
    for problem in problems:
        print(f"confined: {problem}", file=sys.stderr)
    if missing:
        print("confined: no control group could be made; they were not checked", file=sys.stderr)
    seconds = round(time.perf_counter() - begun, 1)
    print(json.dumps({"confined": "fails" if problems else "holds", "seconds": seconds}))
    return 1 if problems else NOT_CHECKED if missing else 0


if __name__ == "__main__":
    sys.exit(main())
