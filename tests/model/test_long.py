"""Up to 32,768 tokens in chunks: the logits of one piece, at the edges of pages and chunks.

A small model, so that it takes seconds; `python -m checks.long_context` does it with the real one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from model.stepping import Plan, Session
from model.stored import in_memory
from model.wild import REAL, wild_tensors
from qwick.engine.engine import TOKEN_BUDGET
from qwick.model.decoder import Decoder
from qwick.model.load import load_model

TOKENS = 32_768
HALF = TOKENS // 2
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the least that 8-bit pages take
    "vocab_size": 503,
    "max_position_embeddings": TOKENS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
IDS = [np.random.default_rng(2).integers(0, REAL, TOKENS).astype(np.int32)]
EDGES = (1, 31, 32, 33, TOKEN_BUDGET, 10_001, HALF, 24_575, 32_736, 32_767, TOKENS)


def engines(tokens: int) -> Iterator[int]:
    """Sizes of chunks as the engine takes them, alone and beside up to 64 answers."""
    left, others = tokens, 0
    while left:
        size = min(left, TOKEN_BUDGET - others)
        others = (others + 13) % 64
        left -= size
        yield size


def edges(tokens: int) -> Iterator[int]:
    """Sizes of chunks that end at each of EDGES."""
    yield from np.diff((0, *(edge for edge in EDGES if edge <= tokens))).tolist()


def logits_of(model: Decoder, sizes: Iterable[int]) -> np.ndarray:
    """Logits behind each of EDGES, F32[edges, vocab], of the tokens in chunks of these sizes."""
    session = Session(model, IDS)
    wanted, found = np.array(EDGES) - 1, []
    for size in sizes:
        done = session.done[0]
        rows = wanted[(wanted >= done) & (wanted < done + size)] - done
        plan: Plan = [(0, size)]
        found.append(session.step(plan, rows.astype(np.int32)))
    return np.concatenate(found)


# 8-bit pages are what "auto" gives checkpoints with biases of keys. bf16 has half the tokens: its
# attention takes twice the time.
@pytest.mark.parametrize(("kv", "tokens"), [("int8", TOKENS), ("bf16", HALF)])
def test_chunks_give_the_logits_of_one_piece(kv: str, tokens: int) -> None:
    """The same bits: with float32 weights each output of a row is one chain of additions, whichever
    rows share its step. Were it not, a last bit could move a key by a whole step of 8 bits.
    """
    model = load_model(in_memory(CONFIG, wild_tensors(CONFIG)), kv=kv)
    assert set(model.kv_kinds) == {kv}
    whole = logits_of(model, [tokens])
    assert whole.shape == (sum(edge <= tokens for edge in EDGES), 503)
    assert np.isfinite(whole).all()
    for sizes in (engines, edges):
        np.testing.assert_array_equal(logits_of(model, sizes(tokens)), whole)
