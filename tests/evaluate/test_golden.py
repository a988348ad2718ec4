"""The default checkpoint beside float32, on texts whose scores are committed: the gate in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluate import golden
from qwick import Qwen, hub
from qwick.evaluate.perplexity import Scored, compare, score_texts

pytestmark = pytest.mark.model

TOLERANCE = 0.005  # of perplexity; the gate's own
AGREEMENT = 0.98


@pytest.fixture(scope="module")
def kept() -> Scored:
    told = golden.read()
    assert told["checkpoint"] == hub.CATALOG[hub.DEFAULT].files[0].sha256
    return Scored(
        np.array(told["lengths"], np.int64),
        np.array(told["logprobs"], np.float64),
        np.array(told["best"], np.int32),
    )


@pytest.fixture(scope="module")
def model(default_checkpoint: Path) -> Qwen:
    return Qwen.load(default_checkpoint, ctx=1024)


def test_the_file_is_whole(kept: Scored) -> None:
    told = golden.read()
    assert kept.positions == len(kept.best) == kept.lengths.sum() == len(told["ids"]) - 4
    assert kept.perplexity == pytest.approx(told["perplexity"], rel=1e-5)


def test_perplexity_and_best_tokens(model: Qwen, kept: Scored) -> None:
    texts = [model.tokenizer.encode(text, parse_special=False) for text in golden.TEXTS]
    assert [id for text in texts for id in text] == golden.read()["ids"]
    found = compare(score_texts(model, texts), kept)
    assert found.positions == kept.positions
    assert abs(found.ratio - 1) < TOLERANCE, found
    assert found.agreement >= AGREEMENT, found


def test_the_public_perplexity(model: Qwen, kept: Scored) -> None:
    start = 0
    for text, length in zip(golden.TEXTS, kept.lengths, strict=True):
        part = Scored(
            np.array([length]),
            kept.logprobs[start : start + length],
            kept.best[start : start + length],
        )
        start += int(length)
        # A single text is short: chance weighs more than in the whole.
        assert model.perplexity(text) == pytest.approx(part.perplexity, rel=3 * TOLERANCE)
