"""llama.cpp's worker, through llama-cpp-python's low-level functions; cold, its chat function.

Settings as its documentation recommends them for a CPU: flash attention on, weights repacked for
the CPU (its default), logical batches of 2,048 and physical ones of 512, a thread per core for
prompts and for decoding. The next turn keeps the sequence in the cache, as `Llama.generate` does.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from bench.plan import STREAM_PROMPT, Test
from bench.workers.common import QUESTION, Asked, Peer, first_token, work

BATCH, PHYSICAL = 2048, 512


def main() -> None:
    """Do what the command line asks."""
    work(LlamaCpp, cold)


def cold(asked: Asked) -> None:
    """Start as a user's program does."""
    model = import_module("llama_cpp").Llama(
        asked.model,
        n_ctx=512,
        n_threads=asked.threads,
        n_threads_batch=asked.threads,
        flash_attn=True,
        verbose=False,
    )
    messages = [{"role": "user", "content": QUESTION}]
    for chunk in model.create_chat_completion(messages, temperature=0, max_tokens=1, stream=True):
        text = chunk["choices"][0]["delta"].get("content")
        if text:
            first_token(text)
            break


class LlamaCpp(Peer):
    """One model; a context per number of streams."""

    def __init__(self, asked: Asked) -> None:
        self.lib: Any = import_module("llama_cpp")
        self.version = self.lib.__version__
        self.numpy = import_module("numpy")
        self._asked = asked
        self._quiet = self.lib.llama_log_callback(lambda level, text, data: None)
        self.lib.llama_log_set(self._quiet, None)
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(
            asked.model.encode(), self.lib.llama_model_default_params()
        )
        if not self.model:
            raise OSError(f"llama.cpp cannot load {asked.model}")
        vocab = self.lib.llama_model_get_vocab(self.model)
        self.n_vocab = self.lib.llama_vocab_n_tokens(vocab)
        self.batch = self.lib.llama_batch_init(BATCH, 0, 1)
        self.context: Any = None
        self._streams = 0
        self._held: list[int] = []  # ids of sequence 0 in the cache

    def begin(self, test: Test) -> None:
        """Make a context for the test's streams."""
        if self._streams == test.streams:
            return
        if self.context:
            self.lib.llama_free(self.context)
        lib, asked = self.lib, self._asked
        each = asked.positions if test.streams == 1 else asked.stream_tokens + STREAM_PROMPT + 8
        params = lib.llama_context_default_params()
        params.n_ctx = -(-each // 256) * 256 * test.streams
        params.n_batch, params.n_ubatch = BATCH, PHYSICAL
        params.n_threads = params.n_threads_batch = asked.threads
        params.n_seq_max = test.streams
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise OSError("llama.cpp cannot make a context")
        self._streams, self._held = test.streams, []

    def _decode(self, items: list[tuple[int, int, int, bool]]) -> None:
        """Compute rows of (id, position, sequence, whether logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(items)
        for i, (token, position, sequence, wanted) in enumerate(items):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.logits[i] = 1, wanted
            batch.seq_id[i][0] = sequence
        code = self.lib.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def _read(self, ids: list[int], keep: int = 0) -> int:
        """Compute ids of sequence 0 behind its first `keep`; return the best next token."""
        self._forget(keep)
        for start in range(0, len(ids), BATCH):
            part, last = ids[start : start + BATCH], start + BATCH >= len(ids)
            at = keep + start
            rows = [(t, at + i, 0, last and i == len(part) - 1) for i, t in enumerate(part)]
            self._decode(rows)
        self._held = [*self._held[:keep], *ids]
        return self._best()

    def _best(self) -> int:
        row = self.lib.llama_get_logits_ith(self.context, -1)
        return int(self.numpy.ctypeslib.as_array(row, shape=(self.n_vocab,)).argmax())

    def _forget(self, keep: int) -> None:
        memory = self.lib.llama_get_memory(self.context)
        if not self.lib.llama_memory_seq_rm(memory, -1 if keep == 0 else 0, keep, -1):
            raise RuntimeError(f"llama.cpp cannot cut its cache at {keep}")
        self._held = self._held[:keep]

    def prompt(self, prompt: list[int]) -> float:
        """Nothing of the last prompt is kept."""
        start = time.perf_counter()
        self._read(prompt)
        return time.perf_counter() - start

    def extend(self, before: list[int], more: list[int]) -> float:
        """The cache is cut back to `before`."""
        if self._held[: len(before)] != before:
            self._read(before)
        start = time.perf_counter()
        self._read(more, len(before))
        return time.perf_counter() - start

    def decode(self, prompt: list[int], count: int) -> float:
        """The prompt stays in the cache from one repetition to the next."""
        if self._held[: len(prompt)] == prompt and len(prompt) > 1:
            token = self._read(prompt[-1:], len(prompt) - 1)
        else:
            token = self._read(prompt)
        start = time.perf_counter()
        for i in range(count):
            self._decode([(token, len(prompt) + i, 0, True)])
            token = self._best()
        return time.perf_counter() - start

    def streams(self, prompts: list[list[int]], count: int) -> float:
        """All sequences in one unified cache, a row each in every step."""
        self._forget(0)
        together = max(1, BATCH // len(prompts[0]))
        for first in range(0, len(prompts), together):
            rows = []
            for sequence, prompt in list(enumerate(prompts))[first : first + together]:
                last = len(prompt) - 1
                rows += [(t, i, sequence, i == last) for i, t in enumerate(prompt)]
            self._decode(rows)
        at = len(prompts[0])
        tokens = [prompt[0] for prompt in prompts]
        start = time.perf_counter()
        for i in range(count):
            self._decode([(token, at + i, s, True) for s, token in enumerate(tokens)])
        return time.perf_counter() - start

    def answer(self, prompt: list[int], count: int) -> list[int]:
        """Return a greedy answer; everything stays in the cache."""
        found = [self._read(prompt)]
        while len(found) < count:
            found.append(self._read(found[-1:], len(self._held)))
        return found

    def turn(self, conversation: list[int], more: list[int]) -> float:
        """What the cache has in common with the new prompt is kept."""
        whole = [*conversation, *more]
        start = time.perf_counter()
        same = 0
        for ours, theirs in zip(self._held, whole, strict=False):
            if ours != theirs:
                break
            same += 1
        self._read(whole[same:], same)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
