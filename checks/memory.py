"""The most memory that a model takes with its context filled, on one core.

Runs `qwick run` in a process of its own, pinned to one core, with a prompt that leaves room for a
few tokens of the context, and reads how much was resident at most (VmHWM, the pages of mapped
files included, which the system could take back; ru_maxrss would count what the parent had).

    python -m checks.memory                      # the default checkpoint, 4,096 tokens, 700 MB
    python -m checks.memory --ctx 512 --json
    python -m checks.memory --ctx 32768 --beyond 300    # beside weights and what the cache holds

Exit code 1 when it takes more than is allowed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ANSWER = 16  # tokens that are generated after the prompt
WORD = " one"  # of one token
# `qwick` on one core, which at its end tells its peak on standard error.
CHILD = """
import atexit, os, sys
os.sched_setaffinity(0, {int(sys.argv.pop(1))})
def tell():
    with open("/proc/self/status") as status:
        sys.stderr.writelines(line for line in status if line.startswith("VmHWM"))
atexit.register(tell)
from qwick.cli.main import main
sys.exit(main())
"""


def measure(model: str | None, ctx: int) -> dict[str, Any]:
    """Fill a context of `ctx` tokens and return what it took."""
    from qwick import hub

    path = hub.resolve(model)
    core = min(os.sched_getaffinity(0))
    prompt = WORD * (ctx - ANSWER)
    command = [sys.executable, "-c", CHILD, str(core), "run", str(path), "-", "--raw", "--json"]
    command += ["--ctx", str(ctx), "--max-tokens", str(ANSWER), "--ignore-eos"]
    done = subprocess.run(command, input=prompt, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise SystemExit(f"qwick run ended with exit code {done.returncode}")
    reply = json.loads(done.stdout)
    kilobytes = int(done.stderr.split("VmHWM:")[1].split()[0])
    tokens = reply["usage"]["total_tokens"]
    weights, per_token = sizes(path)
    return {
        "model": str(path),
        "ctx": ctx,
        "tokens": tokens,
        "threads": 1,
        "peak_mb": round(kilobytes * 1024 / 1e6, 1),
        "weights_mb": round(weights / 1e6, 1),
        "kv_mb": round(tokens * per_token / 1e6, 1),
    }


def sizes(path: Path) -> tuple[int, int]:
    """Return the bytes of a model's weights in memory, and those of a token's keys and values."""
    from qwick import settings
    from qwick.formats.open import open_checkpoint
    from qwick.model.arch import read_arch
    from qwick.model.load import kv_kinds, weight_bytes

    with open_checkpoint(path) as checkpoint:
        kinds = kv_kinds(checkpoint, settings.KV.get())
        return weight_bytes(checkpoint), read_arch(checkpoint.config).kv_bytes(kinds)


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="default: the default checkpoint")
    parser.add_argument("--ctx", type=int, default=4096)
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--most", type=float, default=700.0, help="MB (of 1,000,000 bytes)")
    bound.add_argument("--beyond", type=float, help="MB beside weights, keys and values")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.ctx)
    most = arguments.most
    if arguments.beyond is not None:
        most = round(found["weights_mb"] + found["kv_mb"] + arguments.beyond, 1)
    found["most_mb"] = most
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['tokens']} of {found['ctx']} tokens on one core: "
            f"{found['peak_mb']} MB at most, of them {found['weights_mb']} weights and "
            f"{found['kv_mb']} keys and values; allowed: {most:g}"
        )
    return 1 if found["peak_mb"] > most else 0


if __name__ == "__main__":
    sys.exit(main())
