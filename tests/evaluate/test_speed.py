"""The speed measurement counts what it says: tokens, bytes and operations of a real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwick.errors import UsageError
from qwick.evaluate.speed import Cost, Plan, measure
from qwick.formats.open import open_checkpoint
from qwick.model.decoder import Decoder
from qwick.model.load import load_model


@pytest.fixture(scope="module")
def decoder(default_checkpoint: Path) -> Decoder:
    with open_checkpoint(default_checkpoint) as checkpoint:
        return load_model(checkpoint, context=256)


@pytest.mark.model
def test_cost_is_the_files_own(decoder: Decoder, default_checkpoint: Path) -> None:
    """Packing adds next to nothing; of the embedding only rows are read."""
    with open_checkpoint(default_checkpoint) as checkpoint:
        read = sum(
            tensor.data.nbytes
            for name, tensor in checkpoint.tensors.items()
            if len(tensor.shape) == 2 and name != "model.embed_tokens.weight"
        )
    cost = Cost.of(decoder)
    # Q4_K's 6-bit scales are kept in bytes: 2.8 % more on these tensors, 0.2 % on the file.
    assert read <= cost.weight_bytes <= read * 1.003
    assert cost.body_operations == 2 * 24 * (896 * (1152 + 896) + 3 * 896 * 4864)
    assert cost.head_operations == 2 * 896 * 151_936


@pytest.mark.model
def test_every_test_of_the_plan_is_measured(decoder: Decoder) -> None:
    heard: list[str] = []
    plan = Plan(prompts=(40,), answers=(8,), batches=(2, 66), repeat=2)
    rows = {row.test: row for row in measure(decoder, 151_665, plan, heard.append)}
    assert heard == list(rows) == ["pp40", "tg8", "batch2", "batch66"]
    assert [row.tokens for row in rows.values()] == [40, 8, 128, 66 * 64]
    cost = Cost.of(decoder)
    assert rows["pp40"].bytes_read == cost.weight_bytes
    assert rows["pp40"].operations == 40 * cost.body_operations + cost.head_operations
    assert rows["tg8"].bytes_read == 8 * cost.weight_bytes
    for row in rows.values():
        assert len(row.seconds) == 2
        assert row.rate >= row.median_rate > 0
        assert 0 <= row.python_share < 1


@pytest.mark.model
def test_a_test_longer_than_the_context_is_refused(decoder: Decoder) -> None:
    with pytest.raises(UsageError, match=r"needs 302 tokens, the context holds 256"):
        next(measure(decoder, 151_665, Plan(prompts=(300,))))
