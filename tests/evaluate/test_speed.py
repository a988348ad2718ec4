"""The speed measurement counts what it says: tokens, bytes and operations of a real model."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from qwick.errors import EngineError, UsageError
from qwick.evaluate import speed
from qwick.evaluate.editing import CODE, TASK
from qwick.evaluate.speed import Cost, Plan, measure, measure_drafts
from qwick.formats.open import open_checkpoint
from qwick.model.decoder import Decoder
from qwick.model.load import load_model
from qwick.text.tokenizer import Tokenizer


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
def test_every_test_of_the_plan_is_measured(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "BATCH_TOKENS", 4)
    heard: list[str] = []
    plan = Plan(prompts=(40,), answers=(8,), batches=(2, 66), repeat=2)
    rows = {row.test: row for row in measure(decoder, 151_665, plan, heard.append)}
    assert heard == list(rows) == ["pp40", "tg8", "batch2", "batch66"]
    assert [row.tokens for row in rows.values()] == [40, 8, 2 * 4, 66 * 4]
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


@pytest.mark.model
def test_drafts_are_measured_beside_plain_decoding(decoder: Decoder) -> None:
    prompt = list(range(1000, 1020)) * 5
    measured = measure_drafts(decoder, 151_665, prompt, answer=40, repeat=2)
    assert measured.tokens == 40
    assert (len(measured.plain), len(measured.drafts)) == (2, 2)
    assert measured.drafted >= measured.accepted > 20
    assert measured.plain_rate == pytest.approx(39 / min(measured.plain))
    assert measured.gain == pytest.approx(measured.drafts_rate / measured.plain_rate)
    stopped = [1000]
    with pytest.raises(EngineError, match="has 0 tokens and is too short"):
        measure_drafts(decoder, 151_665, prompt, answer=40, stop_ids=stopped, repeat=1)


@pytest.mark.model
def test_the_editing_task_is_about_six_hundred_tokens(default_checkpoint: Path) -> None:
    with open_checkpoint(default_checkpoint) as checkpoint:
        tokenizer = Tokenizer.from_data(checkpoint.tokenizer)
    assert 550 < len(tokenizer.encode(CODE, parse_special=False)) < 650
    ast.parse(CODE)
    assert CODE.count("between") == 1
    assert CODE in TASK
