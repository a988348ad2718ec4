"""The most memory that a model takes with its context filled, on one core.

Runs `qwick run` in a process of its own, pinned to one core, with a prompt that leaves room for a
few tokens of the context, and reads how much was resident at most (ru_maxrss, the pages of mapped
files included, which the system could take back).

    python -m checks.memory                      # the default checkpoint, 4,096 tokens, 700 MB
    python -m checks.memory --ctx 512 --json

Exit code 1 when it takes more than `--most`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

ANSWER = 16  # tokens that are generated after the prompt
WORD = " one"  # of one token


def measure(model: str | None, ctx: int) -> dict[str, Any]:
    """Fill a context of `ctx` tokens and return what it took."""
    from qwick import hub

    path = hub.resolve(model)
    core = min(os.sched_getaffinity(0))
    prompt = WORD * (ctx - ANSWER)
    command = [sys.executable, "-m", "qwick", "run", str(path), "-", "--raw", "--json"]
    command += ["--ctx", str(ctx), "--max-tokens", str(ANSWER), "--ignore-eos"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(prompt.encode())
        process.stdin.close()
        reply = json.loads(process.stdout.read() or "{}")
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"qwick run ended with exit code {process.returncode}")
    return {
        "model": str(path),
        "ctx": ctx,
        "tokens": reply["usage"]["total_tokens"],
        "threads": 1,
        "peak_mb": round(used.ru_maxrss * 1024 / 1e6, 1),
    }


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="default: the default checkpoint")
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--most", type=float, default=700.0, help="MB (of 1,000,000 bytes)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {**measure(arguments.model, arguments.ctx), "most_mb": arguments.most}
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['tokens']} of {found['ctx']} tokens on one core: "
            f"{found['peak_mb']} MB at most; allowed: {arguments.most:g}"
        )
    return 1 if found["peak_mb"] > arguments.most else 0


if __name__ == "__main__":
    sys.exit(main())
