"""vLLM's worker: its CPU build in bf16, the engine stepped in this process.

Settings as its documentation recommends them for a CPU: threads bound to cores, a KV cache of 4
GiB, prompts in steps of up to 4,096 tokens; prefix caching where a test is about it. tcmalloc is
preloaded by `bench.engines` where the machine has it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from bench.workers.common import QUESTION, Asked, Peer, first_token, work

STEP_TOKENS = 4096


def main() -> None:
    """Do what the command line asks."""
    work(Vllm, cold)


def cold(asked: Asked) -> None:
    """Start as a user's program does; what earlier starts compiled is in its cache."""
    model = Vllm(asked)
    params = model.lib.SamplingParams(temperature=0, max_tokens=1)
    messages = [{"role": "user", "content": QUESTION}]
    first_token(model.llm.chat(messages, params, use_tqdm=False)[0].outputs[0].text)


class Vllm(Peer):
    """One engine, asked through requests and steps."""

    def __init__(self, asked: Asked) -> None:
        cores = ",".join(map(str, asked.cores))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # steps are taken in this process
        self.lib: Any = import_module("vllm")
        self.version = self.lib.__version__
        self.llm = self.lib.LLM(
            asked.model,
            dtype="bfloat16",
            max_model_len=max(asked.positions, STEP_TOKENS),
            max_num_batched_tokens=STEP_TOKENS,
            max_num_seqs=max(asked.streams, 1),
            enable_prefix_caching=asked.group == "reuse",
        )
        self._number = 0
        self._found: dict[str, list[int]] = {}

    def _submit(self, prompt: list[int], tokens: int) -> str:
        """Queue a request; return its name."""
        params = self.lib.SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        self._number += 1
        name = str(self._number)
        self._found[name] = []
        self.llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, params)
        return name

    def _step(self) -> None:
        for out in self.llm.llm_engine.step():
            # The engine may have given the request a longer name that begins with ours.
            name = out.request_id if out.request_id in self._found else out.request_id.split("-")[0]
            self._found[name] = list(out.outputs[0].token_ids)

    def _until(self, done: Callable[[], bool]) -> float:
        start = time.perf_counter()
        while not done():
            if not self.llm.llm_engine.has_unfinished_requests():
                raise RuntimeError("the engine stopped before all tokens were there")
            self._step()
        return time.perf_counter() - start

    def prompt(self, prompt: list[int]) -> float:
        """From asking to the first token."""
        start = time.perf_counter()
        name = self._submit(prompt, 1)
        self._until(lambda: len(self._found[name]) == 1)
        return time.perf_counter() - start

    def extend(self, before: list[int], more: list[int]) -> float:
        """`before` is in the prefix cache."""
        self.prompt(before)
        return self.prompt([*before, *more])

    def decode(self, prompt: list[int], count: int) -> float:
        """One stream, from the first token to the last."""
        return self.streams([prompt], count)

    def streams(self, prompts: list[list[int]], count: int) -> float:
        """All streams, from when each has its first token to the last of all."""
        names = [self._submit(prompt, count + 1) for prompt in prompts]
        self._until(lambda: all(self._found[name] for name in names))
        done = sum(len(self._found[name]) for name in names)
        seconds = self._until(lambda: all(len(self._found[n]) == count + 1 for n in names))
        return seconds * count * len(names) / ((count + 1) * len(names) - done)

    def answer(self, prompt: list[int], count: int) -> list[int]:
        """Return a greedy answer."""
        name = self._submit(prompt, count)
        self._until(lambda: len(self._found[name]) == count)
        return self._found[name]


if __name__ == "__main__":
    main()
