"""OpenVINO GenAI's worker: 4-bit weights, the continuous-batching pipeline, stepped here.

That pipeline is what its LLMPipeline runs on a CPU of this kind too. Settings as its documentation
recommends them: latency hint, a pinned thread per core, split prompts; prefix caching where a test
is about it.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from bench.workers.common import QUESTION, Asked, Peer, first_token, work

STEP_TOKENS = 2048
CACHE_GB = 2


def main() -> None:
    """Do what the command line asks."""
    work(OpenVino, cold)


def properties(asked: Asked) -> dict[str, Any]:
    """Return the plugin's settings."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": asked.threads,
        "ENABLE_CPU_PINNING": True,
    }


def cold(asked: Asked) -> None:
    """Start as a user's program does."""
    genai = import_module("openvino_genai")
    pipe = genai.LLMPipeline(asked.model, "CPU", **properties(asked))
    first_token(str(pipe.generate(QUESTION, max_new_tokens=1, do_sample=False)))


class OpenVino(Peer):
    """One pipeline, asked through requests and steps."""

    def __init__(self, asked: Asked) -> None:
        self.genai: Any = import_module("openvino_genai")
        self.ov: Any = import_module("openvino")
        self.numpy = import_module("numpy")
        self.version = self.genai.__version__
        scheduler = self.genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.max_num_seqs = max(asked.streams, 1)
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = asked.group == "reuse"
        self.pipe = self.genai.ContinuousBatchingPipeline(
            asked.model, scheduler, "CPU", properties(asked)
        )
        self._number = 0

    def _submit(self, prompt: list[int], tokens: int) -> _Handle:
        config = self.genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.do_sample, config.ignore_eos = False, True
        config.apply_chat_template = False
        self._number += 1
        ids = self.ov.Tensor(self.numpy.array([prompt], self.numpy.int64))
        return _Handle(self.pipe.add_request(self._number, ids, config))

    def _until(self, handles: list[_Handle], tokens: int) -> float:
        """Step until each handle has so many tokens; return the seconds."""
        start = time.perf_counter()
        while any(len(handle.read()) < tokens for handle in handles):
            if not self.pipe.has_non_finished_requests():
                raise RuntimeError("the pipeline stopped before all tokens were there")
            self.pipe.step()
        return time.perf_counter() - start

    def prompt(self, prompt: list[int]) -> float:
        """From asking to the first token."""
        start = time.perf_counter()
        self._until([self._submit(prompt, 1)], 1)
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
        handles = [self._submit(prompt, count + 1) for prompt in prompts]
        self._until(handles, 1)
        done = sum(len(handle.read()) for handle in handles)
        seconds = self._until(handles, count + 1)
        return seconds * count * len(handles) / ((count + 1) * len(handles) - done)

    def answer(self, prompt: list[int], count: int) -> list[int]:
        """Return a greedy answer."""
        handle = self._submit(prompt, count)
        self._until([handle], count)
        return handle.read()


class _Handle:
    """A request's tokens so far."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._ids: list[int] = []

    def read(self) -> list[int]:
        """Return all ids that have come."""
        while self._handle.can_read():
            for output in self._handle.read().values():
                self._ids.extend(output.generated_ids)
        return self._ids


if __name__ == "__main__":
    main()
