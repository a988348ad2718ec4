"""qwick's worker: the engine with ids, as `qwick.evaluate.speed` runs it; cold, the public API.

Plain tests run without prefix reuse and without drafts, whatever the engine's defaults are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bench.plan import MEMORY_ANSWER, Test
from bench.workers.common import QUESTION, Asked, Peer, first_token, work

if TYPE_CHECKING:
    from qwick.engine.engine import Engine

CHUNK = 512  # most rows of a step where a test needs a step to end at a depth


def main() -> None:
    """Do what the command line asks."""
    work(Own, cold)


def cold(asked: Asked) -> None:
    """Start as a user's program does."""
    from qwick import Qwen

    with Qwen.load(asked.model, threads=asked.threads) as qwick:
        for chunk in qwick.stream(QUESTION, temperature=0, max_tokens=1):
            first_token(chunk.text)


class Own(Peer):
    """The default engine around a decoder, built anew where a test needs another."""

    def __init__(self, asked: Asked) -> None:
        from qwick import hub
        from qwick.llm.load import Options, load
        from qwick.model.decoder import Decoder
        from qwick.native import ops

        listener = hub.SilentListener()
        options = Options(threads=asked.threads, ctx=asked.positions)
        self.loaded = load(asked.model, options, listener)
        assert isinstance(self.loaded.model, Decoder)
        self.model = self.loaded.model
        self.version = ops.isa()
        self._asked = asked
        self._engine: Engine | None = None
        self._like: object = None
        self._before = (0.0, 0.0)

    def begin(self, test: Test) -> None:
        """Build the engine that the test needs."""
        budget = None
        if test.kind == "pp" and test.depth:
            budget = max(n for n in range(1, CHUNK + 1) if test.depth % n == 0)
        self.engine(reuse=test.kind == "turn", budget=budget)

    def engine(
        self, *, reuse: bool = False, drafts: bool = False, budget: int | None = None
    ) -> Engine:
        """Return an engine of this kind; the last one is kept."""
        from qwick.engine.engine import TOKEN_BUDGET, Engine

        if self._engine is not None and self._like == (reuse, drafts, budget):
            return self._engine
        if self._engine is not None:
            self._engine.close()
        asked, page = self._asked, self.model.page_size
        positions = max(asked.positions, asked.streams * (asked.stream_tokens + 2 * page))
        self._engine = Engine(
            self.model,
            n_vocab=self.loaded.texts.tokenizer.n_tokens,
            cache_tokens=2 * positions if reuse else positions,
            token_budget=budget or TOKEN_BUDGET,
            max_sequences=max(asked.streams, 1),
            prefix_reuse=reuse,
            drafts=drafts,
        )
        self._like = (reuse, drafts, budget)
        return self._engine

    @property
    def _now(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def _submit(self, prompt: list[int], tokens: int, stops: tuple[int, ...] = ()) -> list[int]:
        """Queue a request; return the list that its tokens go into."""
        from qwick.engine.request import Event, Finished, Request, Sampling

        found: list[int] = []

        def heard(event: Event) -> None:
            if not isinstance(event, Finished):
                found.extend(event.ids)
            elif event.error is not None:
                raise event.error

        sampling = Sampling(0.0, max_tokens=tokens, stop_ids=stops)
        self._now.submit(Request(prompt, sampling=sampling), heard)
        return found

    def _drain(self) -> None:
        while self._now.has_work:
            self._now.step()

    def prompt(self, prompt: list[int]) -> float:
        """From submission to the first token."""
        found = self._submit(prompt, 1)
        start = time.perf_counter()
        self._drain()
        seconds = time.perf_counter() - start
        _expect(len(found), 1)
        return seconds

    def extend(self, before: list[int], more: list[int]) -> float:
        """The last steps of one prompt, once the steps for `before` are done."""
        found = self._submit([*before, *more], 1)
        stats = self._now.stats
        rows = stats.prompt_rows + stats.decode_rows
        while stats.prompt_rows + stats.decode_rows - rows < len(before):
            self._now.step()
        done = stats.prompt_rows + stats.decode_rows - rows
        _expect(done, len(before))  # `begin` has chosen steps that end there
        start = time.perf_counter()
        self._drain()
        seconds = time.perf_counter() - start
        _expect(len(found), 1)
        return seconds

    def decode(self, prompt: list[int], count: int) -> float:
        """One stream, from the first token to the last."""
        return self.streams([prompt], count)

    def streams(self, prompts: list[list[int]], count: int) -> float:
        """All streams, from when each has its first token to the last of all."""
        found = [self._submit(prompt, count + 1) for prompt in prompts]
        while not all(found):
            self._now.step()
        self.warmed_share()
        done = sum(map(len, found))
        start = time.perf_counter()
        self._drain()
        seconds = time.perf_counter() - start
        total = sum(map(len, found))
        _expect(total, (count + 1) * len(prompts))
        return seconds * count * len(prompts) / (total - done)

    def answer(self, prompt: list[int], count: int) -> list[int]:
        """Return a greedy answer."""
        found = self._submit(prompt, count)
        self._drain()
        _expect(len(found), count)
        return found

    def drafts(self) -> dict[str, Any]:
        """Quote code, plainly and with drafts: the same tokens, or it fails."""
        from bench.workers.quoted import MOST, PROMPT
        from qwick.text.chat import encode_chat

        template = self.loaded.texts.template
        assert template is not None
        messages = [{"role": "user", "content": PROMPT}]
        prompt = list(encode_chat(self.loaded.texts.tokenizer, template, messages).ids)
        stops = tuple(self.loaded.texts.defaults.stop_ids)
        timed: dict[bool, list[float]] = {False: [], True: []}
        texts = []
        for drafts in (False, True):
            self.engine(drafts=drafts)
            for _ in range(self._asked.repeat + 1):
                found = self._submit(prompt, MOST, stops)
                while not found:
                    self._now.step()
                first, start = len(found), time.perf_counter()
                self._drain()
                timed[drafts].append((time.perf_counter() - start) / (len(found) - first))
                texts.append(found)
        if any(text != texts[0] for text in texts):
            raise ValueError("the greedy answers differ with and without drafts")
        each = [seconds * len(texts[0]) for seconds in timed[True][1:]]
        plain = [seconds * len(texts[0]) for seconds in timed[False][1:]]
        return {"tokens": len(texts[0]), "seconds": each, "plain_seconds": plain}

    # -- what the work costs -------------------------------------------------------------------

    def warmed(self) -> None:
        """Count Python's share from here on."""
        self.warmed_share()

    def warmed_share(self) -> None:
        """Start anew to count the engine's seconds, so that prompts do not hide decoding."""
        stats = self._now.stats
        self._before = (stats.step_seconds, stats.model_seconds)

    def notes(self, test: Test) -> dict[str, Any]:
        """Bytes and operations of one repetition at least, Python's share; memory's least."""
        from qwick.evaluate.speed import Cost

        cost, arch = Cost.of(self.model), self.model.arch
        kv = arch.kv_bytes(self.model.kv_kinds)
        if test.kind == "memory":
            needed = cost.resident_bytes + kv * (test.count + MEMORY_ANSWER)
            return {"expected": needed}
        if test.kind == "turn":  # how much of it is computed anew is the engine's choice
            return {}
        stats = self._now.stats
        step = stats.step_seconds - self._before[0]
        inside = stats.model_seconds - self._before[1]
        share = max(0.0, 1 - inside / step) if step else 0.0
        attention = 4 * arch.heads * arch.head_dim * arch.layers  # operations per pair of tokens
        n, depth = test.count, test.depth
        if test.kind == "pp":
            pairs = n * depth + n * (n + 1) // 2
            work = n * cost.body_operations + cost.head_operations + attention * pairs
            steps = -(-n // self._now_budget())
            read = steps * cost.weight_bytes + kv * depth
        else:
            n = n or self._asked.stream_tokens
            pairs = test.streams * (n * depth + n * (n + 1) // 2)
            rows = test.streams * n
            work = rows * (cost.body_operations + cost.head_operations) + attention * pairs
            read = n * cost.weight_bytes + kv * pairs
        return {"bytes": read, "operations": work, "python_share": share}

    def _now_budget(self) -> int:
        from qwick.engine.engine import TOKEN_BUDGET

        return self._like[2] or TOKEN_BUDGET if isinstance(self._like, tuple) else TOKEN_BUDGET


def _expect(found: int, wanted: int) -> None:
    if found != wanted:
        raise ValueError(f"{found} tokens came, {wanted} were asked for")


if __name__ == "__main__":
    main()
