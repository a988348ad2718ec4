"""transformers' worker: bf16, torch's CPU kernels, its own attention (sdpa) and dynamic cache.

The loop around the model is the plain one: the greedy token of the last row, no Python between
that `generate` would add.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from bench.workers.common import QUESTION, Asked, Peer, first_token, work


def main() -> None:
    """Do what the command line asks."""
    work(Transformers, cold)


def cold(asked: Asked) -> None:
    """Start as a user's program does."""
    model = Transformers(asked)
    lib = import_module("transformers")
    tokenizer = lib.AutoTokenizer.from_pretrained(asked.model)
    messages = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, tokenize=True
    )
    first_token(model.answer(list(prompt), 1))


class Transformers(Peer):
    """One model and the cache of the last prompt."""

    def __init__(self, asked: Asked) -> None:
        self.torch: Any = import_module("torch")
        self.lib: Any = import_module("transformers")
        self.version = self.lib.__version__
        self.torch.set_num_threads(asked.threads)
        self.torch.set_grad_enabled(False)
        automatic = self.lib.AutoModelForCausalLM
        self.model = automatic.from_pretrained(asked.model, dtype=self.torch.bfloat16).eval()
        self.cache: Any = None
        self._held: list[int] = []

    def _forward(self, rows: list[list[int]]) -> Any:
        """Compute [streams, n] ids behind what is in the cache; return the next ids, [streams]."""
        out = self.model(
            self.torch.tensor(rows), past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        self.cache = out.past_key_values
        return out.logits[:, -1].argmax(-1)

    def _read(self, ids: list[int], keep: int = 0) -> int:
        if keep == 0:
            self.cache, self._held = self.lib.DynamicCache(config=self.model.config), []
        else:
            self._cut(keep)
        token = int(self._forward([ids])[0])
        self._held = [*self._held[:keep], *ids]
        return token

    def _cut(self, keep: int) -> None:
        """Leave `keep` tokens in the cache."""
        beyond = self.cache.get_seq_length() - keep
        if beyond:
            self.cache.crop(-beyond)

    def prompt(self, prompt: list[int]) -> float:
        """A new cache each time."""
        start = time.perf_counter()
        self._read(prompt)
        return time.perf_counter() - start

    def extend(self, before: list[int], more: list[int]) -> float:
        """The cache is cut back to `before`."""
        if self._held[: len(before)] != before:
            self._read(before)
        self._cut(len(before))
        start = time.perf_counter()
        self._read(more, len(before))
        return time.perf_counter() - start

    def decode(self, prompt: list[int], count: int) -> float:
        """One token at a time; the prompt's cache is cut back and used again."""
        if len(prompt) > 1 and self._held[: len(prompt)] == prompt:
            token = self._read(prompt[-1:], len(prompt) - 1)
        else:
            token = self._read(prompt)
        start = time.perf_counter()
        for _ in range(count):
            token = int(self._forward([[token]])[0])
        return time.perf_counter() - start

    def streams(self, prompts: list[list[int]], count: int) -> float:
        """A batch of prompts of one length."""
        self.cache, self._held = self.lib.DynamicCache(config=self.model.config), []
        tokens = self._forward(prompts)
        start = time.perf_counter()
        for _ in range(count):
            tokens = self._forward(tokens[:, None].tolist())
        return time.perf_counter() - start

    def answer(self, prompt: list[int], count: int) -> list[int]:
        """Return a greedy answer; everything stays in the cache."""
        found = [self._read(prompt)]
        while len(found) < count:
            found.append(self._read(found[-1:], len(self._held)))
        return found

    def turn(self, conversation: list[int], more: list[int]) -> float:
        """The cache holds all of the conversation but its last token."""
        start = time.perf_counter()
        keep = len(conversation) - 1
        if self._held[:keep] != conversation[:keep]:
            raise RuntimeError("the cache does not hold the conversation")
        self._read([*conversation[keep:], *more], keep)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
