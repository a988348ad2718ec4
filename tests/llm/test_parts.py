"""A model in several parts, loaded and asked: answers and memory are those of one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formats.parts import cut
from llm.small import write_small
from llm.test_load import resident_of
from qwick.formats.open import open_checkpoint
from qwick.llm import Qwen


def answer(qwen: Qwen, tokens: int = 40) -> tuple[int, ...]:
    return qwen.chat("Count from 1 to 9, please.", temperature=0, max_tokens=tokens).ids


@pytest.mark.parametrize("tied", [True, False])
def test_the_same_answer_and_no_page_of_any_part_kept(tmp_path: Path, tied: bool) -> None:
    config = {"tie_word_embeddings": tied, "hidden_size": 64, "num_hidden_layers": 3}
    whole = write_small(tmp_path / "whole.gguf", **config)
    first = write_small(tmp_path / "m.gguf", part_tensors=7, **config)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) > 4
    with Qwen.load(whole) as qwen:
        wanted = answer(qwen)
    for path in (first, parts[-1]):
        with Qwen.load(path) as qwen:
            assert [resident_of(part) for part in parts] == [0] * len(parts)
            assert answer(qwen) == wanted
            # Rows of the embedding alone; the other parts are not even mapped any more.
            read = [part for part in parts if resident_of(part) > 0]
            assert len(read) == 1
            maps = Path("/proc/self/maps").read_text("utf-8")
            assert [part for part in parts if str(part) in maps] == read
        assert qwen.name == "Small Random"


@pytest.mark.model
def test_the_default_checkpoint_in_three_parts(default_checkpoint: Path, tmp_path: Path) -> None:
    """Every byte of it, and the answer; cut so that each part has its share of bytes."""
    with open_checkpoint(default_checkpoint) as whole:
        n = len(whole.tensors)
        parts = cut(default_checkpoint, (1, n // 2, n - n // 2 - 1)).write(tmp_path)
        with open_checkpoint(parts[1]) as found:
            assert len(found.files) == 3
            assert found.config == whole.config
            assert set(found.tensors) == set(whole.tensors)
            for name, tensor in whole.tensors.items():
                ours = found.tensors[name]
                assert (ours.type, ours.shape) == (tensor.type, tensor.shape)
                assert np.array_equal(ours.data, tensor.data), name
    with Qwen.load(default_checkpoint, ctx=512) as qwen:
        wanted = answer(qwen, 16)
        assert "1" in qwen.tokenizer.decode(wanted)
    with Qwen.load(tmp_path, ctx=512) as qwen:
        assert answer(qwen, 16) == wanted
    for part in parts:
        part.unlink()
