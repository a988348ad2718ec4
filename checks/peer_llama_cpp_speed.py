"""Times llama-cpp-python as llama-bench does: prompts and one stream of random ids.

Runs in the peer's interpreter; every repetition after a warm-up. Knows nothing of qwick.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from importlib import import_module

from telling import give, progress


def main() -> None:
    """Time `--prompt` tokens at once and `--generate` tokens one by one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt", type=int, required=True)
    parser.add_argument("--generate", type=int, required=True)
    parser.add_argument("--repeat", type=int, required=True)
    asked = parser.parse_args()

    # Its best documented settings for a CPU: flash attention, physical batches of 512.
    model = import_module("llama_cpp").Llama(
        model_path=asked.model,
        n_ctx=max(asked.prompt, asked.generate) + 64,
        n_batch=2048,
        n_ubatch=512,
        n_threads=asked.threads,
        n_threads_batch=asked.threads,
        flash_attn=True,
        verbose=False,
    )
    draw = random.Random(0)

    def prompt() -> float:
        model.reset()
        ids = [draw.randrange(1000, 100_000) for _ in range(asked.prompt)]
        start = time.perf_counter()
        model.eval(ids)
        return time.perf_counter() - start

    def generate() -> float:
        model.reset()
        model.eval([1000])
        start = time.perf_counter()
        for i in range(asked.generate):
            model.eval([1000 + i])
        return time.perf_counter() - start

    done = 0

    def repeated(run: Callable[[], float]) -> list[float]:
        nonlocal done
        seconds = []
        for _ in range(asked.repeat + 1):
            seconds.append(run())
            done += 1
            progress(done, 2 * (asked.repeat + 1))
        return seconds[1:]

    prompts, streams = repeated(prompt), repeated(generate)
    give(
        {
            f"pp{asked.prompt}": [asked.prompt / s for s in prompts],
            f"tg{asked.generate}": [asked.generate / s for s in streams],
        }
    )


if __name__ == "__main__":
    main()
