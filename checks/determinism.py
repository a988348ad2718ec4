"""The same request and seed, in any company: the same ids and log probabilities, bit for bit.

Real kernels: small models of random weights of every architecture, weights stored in floats and in
blocks, pages of 8 bits, bf16 and float32; and the default checkpoint. Each request is answered
alone, on one thread, without drafts and without reuse. Then it must get that answer in batches of
2, 7 and 32, coming late, after preemptions, from kept pages, in chunks of any length, with drafts,
on two threads, in all of it at once, streamed, and as one of several choices.

Two things are measured and fail nothing, because docs/reference/sampling.md does not promise them:
AMX in much company or without room for it, and prompts that hold an earlier answer whose pages were
kept ("second turn").

    python -m checks.determinism                  # every model and instruction set, minutes
    python -m checks.determinism --requests 32 --isa avx2 --no-checkpoint --json

Exit code 1 when an answer differs, and for a run in which something never happened.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from engine.toy import Sink
from llm.small import write_small
from qwick.engine.engine import MAX_SEQUENCES, TOKEN_BUDGET, Engine
from qwick.engine.model import Model
from qwick.engine.request import Request, Sampling
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_gguf
from qwick.llm import Qwen
from qwick.model.arch import read_arch
from qwick.model.decoder import Decoder, tensor_table
from qwick.model.load import load_model
from qwick.native import ops
from qwick.quant.types import GGUF_TYPES, StoredType

VOCAB = 400
LONGEST = 192  # positions of one request: six pages


@dataclass(frozen=True)
class Way:
    """In what company, and by which of the engine's paths, requests are answered."""

    name: str
    company: int = 1  # requests submitted together
    late: int = 0  # steps between two arrivals
    cache_tokens: int = 64 * LONGEST
    token_budget: int = TOKEN_BUDGET
    drafts: bool = False
    reuse: bool = False
    threads: int = 1

    @property
    def small_steps(self) -> bool:
        """Whether no step has more rows of answers than AMX leaves to the other kernels.

        Where the cache has no room for all, an answer may be computed again in one go.
        """
        roomy = self.cache_tokens >= self.company * LONGEST
        return self.company <= ops.AMX_SMALL_ROWS and roomy


ALONE = Way("alone")
WAYS = (
    Way("alone, 2 threads", threads=2),
    Way("batch of 2", 2),
    Way("batch of 7", 7),
    Way("batch of 32", 32, threads=2),
    Way("late", 32, late=2),
    Way("preempted", 7, cache_tokens=LONGEST),
    Way("reused", 3, reuse=True),
    Way("chunks of 5", 1, token_budget=5),
    Way("chunks of 33", 7, token_budget=33),
    Way("drafts", 1, drafts=True),
    Way("all", 32, 1, LONGEST, 40, drafts=True, reuse=True, threads=2),
)
WANTED = ("preemptions", "reused", "accepted")


@dataclass(frozen=True)
class Answer:
    """What a request got: compared exactly."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def some_requests(count: int, vocab: int, rng: random.Random) -> list[Request]:
    """Any lengths and settings; some beginnings are shared, some prompts repeat themselves."""
    beginnings = [[rng.randrange(vocab) for _ in range(64)] for _ in range(3)]
    found = []
    for _ in range(count):
        ids = [rng.randrange(vocab) for _ in range(rng.choice([1, 3, 17, 31, 33, 50]))]
        way = rng.randrange(3)
        if way == 0:
            ids = rng.choice(beginnings) + ids[:33]
        elif way == 1:
            ids = (ids[:7] * 12)[:80]
        plain = way == 1  # long and greedy: such an answer soon repeats itself, for drafts
        sampling = Sampling(
            temperature=0.0 if plain else rng.choice([0.0, 0.7, 1.2]),
            top_k=rng.choice([0, 20]),
            top_p=rng.choice([1.0, 0.9]),
            repetition_penalty=1.0 if plain else rng.choice([1.0, 1.2]),
            presence_penalty=0.0 if plain else rng.choice([0.0, 0.5]),
            seed=rng.randrange(1 << 40),
            max_tokens=70 if plain else rng.choice([5, 12, 20, 70]),
            logprobs=rng.choice([None, 2]),
        )
        found.append(Request(ids, sampling=sampling))
    return found


def answers(
    model: Model, vocab: int, requests: Sequence[Request], way: Way, counts: Counter[str]
) -> list[Answer]:
    """Return what each request gets this way; the order of arrival is random."""
    ops.set_threads(way.threads)
    engine = Engine(
        model,
        n_vocab=vocab,
        cache_tokens=way.cache_tokens,
        token_budget=way.token_budget,
        max_sequences=min(way.company, MAX_SEQUENCES),
        drafts=way.drafts,
        prefix_reuse=way.reuse,
    )
    order = list(range(len(requests)))
    if way.company > 1:
        random.Random(way.name).shuffle(order)
    sinks = [Sink() for _ in requests]
    for start in range(0, len(order), way.company):
        for number in order[start : start + way.company]:
            engine.submit(requests[number], sinks[number])
            for _ in range(way.late):
                engine.step()
        while engine.step():
            pass
    counts["preemptions"] += engine.stats.preemptions
    counts["reused"] += engine.stats.prefix_hit_tokens
    counts["accepted"] += engine.stats.accepted
    counts["answers"] += len(requests)
    for sink in sinks:
        if sink.end.error is not None:
            raise sink.end.error
    return [
        Answer(tuple(s.ids), tuple(p.logprob for p in s.logprobs if p is not None)) for s in sinks
    ]


def compare(expected: Sequence[Answer], found: Sequence[Answer]) -> dict[str, Any]:
    """How many answers differ, and by how much at most where the ids are the same."""
    pairs = list(zip(expected, found, strict=True))
    same = [(a, b) for a, b in pairs if a.ids == b.ids]
    gaps = [abs(x - y) for a, b in same for x, y in zip(a.logprobs, b.logprobs, strict=True)]
    return {
        "answers": len(pairs),
        "differ": sum(a != b for a, b in pairs),
        "other_ids": len(pairs) - len(same),
        "logprob": max(gaps, default=0.0),
    }


def second_turn(model: Model, vocab: int, requests: Sequence[Request]) -> dict[str, Any]:
    """Ask again with the answer in the prompt: its pages kept from when it was drawn, or not."""
    ops.set_threads(1)
    results: list[list[Answer]] = []
    for reuse in (False, True):
        engine = Engine(model, n_vocab=vocab, cache_tokens=64 * LONGEST, prefix_reuse=reuse)
        got = []
        for request in requests:
            first = Sink()
            ids = (*request.ids, *request.ids[:1])
            long = replace(request.sampling, temperature=0.0, max_tokens=40)
            engine.submit(Request(ids, sampling=long), first)
            while engine.step():
                pass
            second = Sink()
            turn = replace(request.sampling, max_tokens=12, logprobs=1)
            engine.submit(Request((*ids, *first.ids, 1, 2), sampling=turn), second)
            while engine.step():
                pass
            logprobs = tuple(p.logprob for p in second.logprobs if p is not None)
            got.append(Answer(tuple(second.ids), logprobs))
        results.append(got)
    return compare(*results)


def try_model(
    name: str, model: Model, vocab: int, requests: Sequence[Request], ways: Iterable[Way] = WAYS
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Every way on one model with the instruction set in force; rows of figures, and counts."""
    counts: Counter[str] = Counter()
    before = ops.threads()
    try:
        expected = answers(model, vocab, requests, ALONE, counts)
        rows = []
        for way in ways:
            promised = not ops.isa().startswith("amx") or way.small_steps
            found = compare(expected, answers(model, vocab, requests, way, counts))
            rows.append(
                {"model": name, "isa": ops.isa(), "way": way.name, "promised": promised, **found}
            )
    finally:
        ops.set_threads(before)
    return rows, counts


def try_texts(qwen: Qwen, seeds: int) -> dict[str, Any]:
    """Whole, streamed, and as one of three choices: through `Qwen`, with its thread."""
    expected, found = [], []
    for seed in range(seeds):
        text = f"Request {seed} tells about number {seed * 7 % 5}: " * (1 + seed % 3)
        more: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "ignore_eos": True}
        alone = [qwen.complete(text, seed=seed + i, **more) for i in range(3)]
        streamed = qwen.stream_complete(text, seed=seed, **more).read()
        choices = qwen.complete_choices(text, 3, seed=seed, **more)
        expected += [Answer(tuple(r.ids), ()) for r in (alone[0], *alone)]
        found += [Answer(tuple(r.ids), ()) for r in (streamed, *choices)]
    return {
        "model": qwen.name,
        "isa": ops.isa(),
        "way": "streams and choices",
        "promised": True,
        **compare(expected, found),
    }


def _config(kind: str, hidden: int, heads: int, kv: int, inner: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "vocab_size": VOCAB + 3,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        **more,
    }


EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 256}
BLOCKS = [stored for stored in GGUF_TYPES if stored.packed.startswith("i")]
SMALL: dict[str, tuple[dict[str, Any], StoredType | None, str]] = {  # None: all block types
    "qwen2 blocks int8 pages": (_config("qwen2", 256, 4, 2, 512), None, "int8"),
    "qwen2 blocks bf16 pages": (_config("qwen2", 256, 4, 2, 512), None, "bf16"),
    "qwen3 blocks bf16 pages": (_config("qwen3", 256, 4, 2, 256, head_dim=128), None, "bf16"),
    "qwen3 Q8_0 f32 pages": (_config("qwen3", 96, 3, 3, 160, head_dim=32), StoredType.Q8_0, "f32"),
    "qwen2 group of 7, bf16": (_config("qwen2", 448, 7, 1, 96), StoredType.BF16, "int8"),
    "qwen3 F16": (_config("qwen3", 40, 8, 2, 75, head_dim=16), StoredType.F16, "bf16"),
    "qwen2 F32": (_config("qwen2", 64, 4, 4, 100), StoredType.F32, "f32"),
    "qwen2 experts, Q4_K": (
        _config("qwen2_moe", 256, 4, 2, 256, **EXPERTS, shared_expert_intermediate_size=512),
        StoredType.Q4_K,
        "int8",
    ),
    "qwen3 experts, BF16": (
        _config("qwen3_moe", 64, 4, 2, 96, head_dim=32, norm_topk_prob=True, **EXPERTS),
        StoredType.BF16,
        "bf16",
    ),
}


def small_model(name: str, folder: Path) -> Decoder:
    """A model of random weights, wild enough that the last bits soon show."""
    config, stored, kv = SMALL[name]
    rng = np.random.default_rng(1)
    tensors = {}
    for spec in tensor_table(read_arch(config)):
        noise = rng.standard_normal(spec.shape)
        if len(spec.shape) == 2:
            tensors[spec.name] = noise * (1.8 / np.sqrt(spec.shape[1]))
        else:
            tensors[spec.name] = noise * 0.3 + (0 if spec.name.endswith("bias") else 1)
    matrices = [name for name, value in tensors.items() if value.ndim == 2]
    types = {n: stored or BLOCKS[i % len(BLOCKS)] for i, n in enumerate(matrices)}
    path = folder / f"{name.replace(' ', '-')}.gguf"
    write_gguf(path, config, {n: v.astype(np.float32) for n, v in tensors.items()}, types)
    with open_checkpoint(path) as checkpoint:
        return load_model(checkpoint, kv=kv)


def tell(row: dict[str, Any]) -> None:
    """One line of figures."""
    verdict = "" if not row["differ"] else "DIFFERS" if row["promised"] else "not promised"
    print(
        f"{row['isa']:14}{row['model']:28}{row['way']:22}{row['differ']:5} of {row['answers']:4} "
        f"differ, {row['other_ids']:4} in ids, by {row['logprob']:.2g}  {verdict}",
        flush=True,
    )


def rows_of(args: argparse.Namespace, isas: Sequence[str], counts: Counter[str]) -> Iterator[Any]:
    """Everything, a row at a time."""
    with tempfile.TemporaryDirectory() as folder:
        for isa in isas:
            ops.force(isa)
            requests = some_requests(args.requests, VOCAB, random.Random(args.first))
            for name in SMALL:
                model = small_model(name, Path(folder))
                rows, more = try_model(name, model, VOCAB, requests)
                counts.update(more)
                yield from rows
                turn = second_turn(model, VOCAB, requests[: args.requests // 4])
                yield {"model": name, "isa": isa, "way": "second turn", "promised": False, **turn}
            with Qwen.load(write_small(Path(folder) / f"{isa}.gguf")) as qwen:
                yield try_texts(qwen, max(4, args.requests // 8))
    if args.checkpoint:
        ops.force(isas[0])
        with Qwen.load(ctx=2048) as qwen:
            yield try_texts(qwen, max(2, args.requests // 32))
            model, vocab = qwen._engine._loop.engine.model, qwen.tokenizer.n_tokens
            requests = some_requests(max(4, args.requests // 4), vocab, random.Random(args.first))
            rows, more = try_model(qwen.name, model, vocab, requests)
            counts.update(more)
            yield from rows
            turn = second_turn(model, vocab, requests[: max(4, args.requests // 16)])
            yield {
                "model": qwen.name,
                "isa": isas[0],
                "way": "second turn",
                "promised": False,
                **turn,
            }


def main() -> int:
    """Run, print, conclude."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=128, help="per model; default: 128")
    parser.add_argument("--first", type=int, default=0, help="seed of the random requests")
    parser.add_argument("--isa", action="append", help="default: all that this CPU has")
    parser.add_argument("--no-checkpoint", dest="checkpoint", action="store_false")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    isas = args.isa or [i.name for i in ops.available() if i.usable and i.name != "scalar"]
    counts: Counter[str] = Counter()
    failed = 0
    for row in rows_of(args, isas, counts):
        failed += bool(row["promised"] and row["differ"])
        print(json.dumps(row), flush=True) if args.json else tell(row)
    never = [name for name in WANTED if not counts[name]]
    if args.json:
        print(json.dumps({**counts, "failed": failed, "never": never}))
    else:
        print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
        if never:
            print(f"never happened: {', '.join(never)}")
        print(f"{failed} of the promised rows differ" if failed else "what is promised holds")
    return 1 if failed or never else 0


if __name__ == "__main__":
    sys.exit(main())
