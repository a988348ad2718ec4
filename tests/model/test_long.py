"""32,768 tokens in chunks: the logits of one piece, at the edges of pages and chunks.

A small model, so that it takes seconds; `python -m checks.long_context` does it with the real one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model.stepping import Plan, Session
from model.stored import in_memory
from model.wild import REAL, wild_tensors
from qwick.engine.engine import TOKEN_BUDGET
from qwick.model.decoder import Decoder
from qwick.model.load import load_model

TOKENS = 32_768
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 503,
    "max_position_embeddings": TOKENS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
IDS = [np.random.default_rng(2).integers(0, REAL, TOKENS).astype(np.int32)]
EDGES = (1, 31, 32, 33, TOKEN_BUDGET, 10_001, 16_384, 24_575, 32_736, 32_767, TOKENS)


def engines() -> Iterator[int]:
    """Sizes of chunks as the engine takes them, alone and beside up to 64 answers."""
    left, others = TOKENS, 0
    while left:
        size = min(left, TOKEN_BUDGET - others)
        others = (others + 13) % 64
        left -= size
        yield size


def edges() -> Iterator[int]:
    """Sizes of chunks that end at each of EDGES."""
    yield from np.diff((0, *EDGES)).tolist()


def logits_of(model: Decoder, sizes: Iterator[int]) -> np.ndarray:
    """Logits behind each of EDGES, F32[edges, vocab], of the tokens in chunks of these sizes."""
    session = Session(model, IDS)
    wanted, found = np.array(EDGES) - 1, []
    for size in sizes:
        done = session.done[0]
        rows = wanted[(wanted >= done) & (wanted < done + size)] - done
        plan: Plan = [(0, size)]
        found.append(session.step(plan, rows.astype(np.int32)))
    return np.concatenate(found)


def test_chunks_give_the_logits_of_one_piece() -> None:
    model = load_model(in_memory(CONFIG, wild_tensors(CONFIG)))
    whole = logits_of(model, iter([TOKENS]))
    assert whole.shape == (len(EDGES), 503)
    for sizes in (engines(), edges()):
        parts = logits_of(model, sizes)
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5 * whole.std())
