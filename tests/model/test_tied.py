"""Tied heads: without a head of its own the embedding is the head, in every container and type.

The yardstick is the same checkpoint with a head that is a copy of the embedding: all logits must
be its logits, bit for bit. That those are right is shown in test_parity.py and test_quantised.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.stepping import chunked, prefill, run
from model.wild import BLOCKED, CONFIGS, sequences, wild_tensors
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_folder, write_gguf
from qwick.model.load import load_model, weight_bytes
from qwick.quant.types import GGUF_TYPES, StoredType

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FLOATS = [StoredType.F32, StoredType.F16, StoredType.BF16]
CONFIG = {**BLOCKED["qwen3"], "num_hidden_layers": 1}  # tied; every width a multiple of 256
TENSORS = wild_tensors(CONFIG)


def logits(path: Path, *, tied: bool) -> tuple[list[np.ndarray], int]:
    """The logits of a checkpoint for whole prompts and for chunks, and what its weights take."""
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config["tie_word_embeddings"] is tied
        assert (HEAD in checkpoint.tensors) is not tied
        size = weight_bytes(checkpoint)
        model = load_model(checkpoint)
    assert model.arch.tied is tied
    out = []
    for schedule in (prefill, chunked):
        out += [rows for rows in run(model, sequences((40, 1)), schedule) if rows is not None]
    assert len(out) == 4
    return out, size


def require_equal(one: tuple[list[np.ndarray], int], other: tuple[list[np.ndarray], int]) -> None:
    assert one[1] == other[1], "the embedding is counted once, as the head"
    for mine, theirs in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(mine.view(np.uint32), theirs.view(np.uint32))


def test_the_config_is_a_tied_one() -> None:
    assert CONFIG["tie_word_embeddings"] is True
    assert HEAD not in TENSORS


@pytest.mark.parametrize("stored", GGUF_TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("part_tensors", [0, 5], ids=["whole", "parts"])
def test_gguf(tmp_path: Path, stored: StoredType, part_tensors: int) -> None:
    """Written last, in parts the embedding lies in another file than the metadata."""
    last = {name: value for name, value in TENSORS.items() if name != EMBEDDING}
    last[EMBEDDING] = TENSORS[EMBEDDING]
    files = write_gguf(tmp_path / "tied.gguf", CONFIG, last, stored, part_tensors=part_tensors)
    assert len(files) == (3 if part_tensors else 1)
    write_gguf(tmp_path / "two.gguf", CONFIG, {**TENSORS, HEAD: TENSORS[EMBEDDING]}, stored)
    untied = logits(tmp_path / "two.gguf", tied=False)
    require_equal(logits(files[0], tied=True), untied)


@pytest.mark.parametrize("stored", FLOATS, ids=lambda t: t.name)
@pytest.mark.parametrize("shards", [1, 3])
def test_safetensors_and_gguf_alike(tmp_path: Path, stored: StoredType, shards: int) -> None:
    write_folder(tmp_path / "tied", CONFIG, TENSORS, stored, shards=shards)
    copied = {**TENSORS, HEAD: TENSORS[EMBEDDING]}
    untied = {**CONFIG, "tie_word_embeddings": False}
    write_folder(tmp_path / "untied", untied, copied, stored, shards=shards)
    # Vectors too in the folder's type.
    write_gguf(tmp_path / "tied.gguf", CONFIG, TENSORS, dict.fromkeys(TENSORS, stored))
    found = logits(tmp_path / "tied", tied=True)
    require_equal(found, logits(tmp_path / "untied", tied=False))
    require_equal(found, logits(tmp_path / "tied.gguf", tied=True))


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen3-tied"])
def test_a_spare_copy_in_a_folder_changes_nothing(tmp_path: Path, name: str) -> None:
    """Exporters have saved such (Qwen1.5-0.5B-Chat was published with one)."""
    config, tensors = CONFIGS[name], wild_tensors(CONFIGS[name])
    write_folder(tmp_path / "tied", config, tensors, shards=2)
    write_folder(tmp_path / "spare", config, {**tensors, HEAD: tensors[EMBEDDING]}, shards=2)
    with open_checkpoint(tmp_path / "spare") as checkpoint:
        assert HEAD in checkpoint.tensors
        size = weight_bytes(checkpoint)
        model = load_model(checkpoint)
    rows = [r for r in run(model, sequences((40, 1)), prefill) if r is not None]
    wanted = logits(tmp_path / "tied", tied=True)
    require_equal((rows, size), (wanted[0][:2], wanted[1]))


@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_another_head_is_another_model(tmp_path: Path, kind: str) -> None:
    """The yardstick can fail: one row of the head differs, and so do the logits of its token."""
    head = TENSORS[EMBEDDING].copy()
    head[7] *= 1.5
    both = {**TENSORS, HEAD: head}
    if kind == "gguf":
        write_gguf(tmp_path / "tied.gguf", CONFIG, TENSORS)
        write_gguf(tmp_path / "own.gguf", CONFIG, both)
        paths = tmp_path / "tied.gguf", tmp_path / "own.gguf"
    else:
        paths = tmp_path / "tied", tmp_path / "own"
        write_folder(paths[0], CONFIG, TENSORS)
        write_folder(paths[1], {**CONFIG, "tie_word_embeddings": False}, both)
    tied, own = logits(paths[0], tied=True)[0], logits(paths[1], tied=False)[0]
    for mine, theirs in zip(tied, own, strict=True):
        differs = (mine != theirs).any(axis=0)
        assert np.flatnonzero(differs).tolist() == [7]
