"""Scoring against the definition on a toy model, and the float32 reference against itself."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.toy import ToyModel
from llm.small import TOKENIZER, small_qwen
from model.wild import CONFIGS, REAL, wild_tensors
from qwick.errors import ContextLengthError, FormatError, ParameterError, UnsupportedError
from qwick.evaluate.perplexity import (
    Scored,
    compare,
    first_positions,
    positions_of,
    score_texts,
)
from qwick.evaluate.reference import load_folder, load_gguf, score_in_float32
from qwick.formats.write import write_folder, write_gguf

TEXTS = st.lists(st.lists(st.integers(0, 255), min_size=2, max_size=20), min_size=1, max_size=12)


def scored(*lengths: int, shift: int = 0) -> Scored:
    count = sum(lengths)
    return Scored(
        np.array(lengths, np.int64),
        -np.arange(1.0, count + 1) / 10,
        np.arange(count, dtype=np.int32) + shift,
    )


# -- through the engine ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(TEXTS)
def test_scores_are_the_models_whatever_the_mix(texts: list[list[int]]) -> None:
    model = ToyModel(n_vocab=TOKENIZER.n_tokens, context=64, page_size=16)
    told: list[tuple[int, int]] = []
    with small_qwen(model=model) as qwen:
        found = score_texts(qwen, texts, lambda *done: told.append(done))
    assert found.lengths.tolist() == [len(text) - 1 for text in texts]
    assert told[-1] == (found.positions, found.positions)
    rows = [model.row_after(text[:i]) for text in texts for i in range(1, len(text))]
    true = [id for text in texts for id in text[1:]]
    logprobs = [
        float(row[id]) - math.log(np.exp(row.astype(np.float64)).sum())
        for row, id in zip(rows, true, strict=True)
    ]
    np.testing.assert_allclose(found.logprobs, logprobs, rtol=0, atol=1e-5)
    assert found.best.tolist() == [int(row.argmax()) for row in rows]
    assert found.perplexity == pytest.approx(math.exp(-sum(logprobs) / len(logprobs)), rel=1e-5)


def test_a_text_that_cannot_be_scored_fails_the_whole() -> None:
    with small_qwen(context=64) as qwen:
        with pytest.raises(ContextLengthError):
            score_texts(qwen, [[1, 2], list(range(100)), [3, 4]])
        with pytest.raises(ParameterError):
            score_texts(qwen, [[1, 2], [3]])
        assert score_texts(qwen, [[1, 2]]).positions == 1  # the engine goes on


# -- arithmetic ------------------------------------------------------------------------------------


def test_a_fair_die_has_perplexity_six() -> None:
    logprobs = np.full(50, math.log(1 / 6))
    die = Scored(np.array([50]), logprobs, np.zeros(50, np.int32))
    assert die.perplexity == pytest.approx(6.0)


@given(TEXTS, st.integers(1, 300))
def test_the_first_positions(texts: list[list[int]], count: int) -> None:
    cut = first_positions(texts, count)
    assert positions_of(cut) == min(count, positions_of(texts))
    assert all(len(text) >= 2 for text in cut)
    for part, whole in zip(cut, texts, strict=False):
        assert list(part) == whole[: len(part)]
    assert [list(text) for text in cut[:-1]] == texts[: len(cut) - 1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 60))
def test_the_first_part_of_a_scoring_is_that_of_the_first_texts(
    lengths: list[int], count: int
) -> None:
    texts = [list(range(length + 1)) for length in lengths]
    part = scored(*lengths).first(count)
    assert part.lengths.tolist() == [len(t) - 1 for t in first_positions(texts, count)]
    assert part.positions == min(count, sum(lengths))
    assert part.best.tolist() == list(range(part.positions))


def test_keeping_and_reading(tmp_path: Path) -> None:
    whole = scored(3, 1, 4)
    whole.save(tmp_path / "a.npz")
    again = Scored.read(tmp_path / "a.npz")
    for name in ("lengths", "logprobs", "best"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_comparing_the_first_positions_with_the_whole() -> None:
    reference = scored(3, 5)
    ours = Scored(np.array([3, 1]), reference.logprobs[:4] - 0.004, reference.best[:4].copy())
    ours.best[1] += 1
    found = compare(ours, reference)
    assert found.positions == 4
    assert found.agreement == 0.75
    assert found.ratio == pytest.approx(math.exp(0.004))
    assert found.reference == pytest.approx(math.exp(0.25))
    assert found.holds(deviation=0.005, agreement=0.75)
    assert not found.holds(deviation=0.003, agreement=0.75)
    assert not found.holds(deviation=0.005, agreement=0.76)


def test_better_than_the_reference_is_as_wrong_as_worse() -> None:
    reference = scored(8)
    ours = Scored(reference.lengths, reference.logprobs + 0.01, reference.best)
    assert not compare(ours, reference).holds(deviation=0.005, agreement=0.98)


@pytest.mark.parametrize("other", [scored(8), scored(4, 4), scored(3)])
def test_different_texts_are_not_compared(other: Scored) -> None:
    with pytest.raises(ParameterError, match="different texts"):
        compare(scored(3, 5), other)


# -- the float32 reference -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen2.5-group7", "qwen3-group4", "qwen3-tied"])
def test_a_gguf_file_and_a_folder_score_alike(tmp_path: Path, name: str) -> None:
    """The file goes through `gguf` and our table of metadata, the folder through transformers."""
    config, tensors = CONFIGS[name], wild_tensors(CONFIGS[name])
    write_folder(tmp_path / "folder", config, tensors)
    write_gguf(tmp_path / "file.gguf", config, tensors)
    random = np.random.default_rng(5)
    texts = [random.integers(0, REAL, size).tolist() for size in (2, 90, 17)]
    folder = score_in_float32(tmp_path / "folder", texts)
    file = score_in_float32(tmp_path / "file.gguf", texts)
    assert folder.lengths.tolist() == [1, 89, 16]
    np.testing.assert_allclose(file.logprobs, folder.logprobs, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(file.best, folder.best)
    assert folder.logprobs.std() > 1, "too tame to tell anything"


def test_the_reference_is_float32(tmp_path: Path) -> None:
    config, tensors = CONFIGS["qwen2-tied"], wild_tensors(CONFIGS["qwen2-tied"])
    write_folder(tmp_path / "folder", config, tensors)
    write_gguf(tmp_path / "file.gguf", config, tensors)
    for model in (load_folder(tmp_path / "folder"), load_gguf(tmp_path / "file.gguf")):
        assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}
        assert not model.training


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match="'llama'"):
        load_gguf(path)


def test_a_perplexity_beyond_every_float_is_infinite() -> None:
    assert Scored.of([(np.array([-1e5, -2.0]), np.array([1, 2], np.int32))]).perplexity == math.inf


HUGE_NPY = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (17592186044416,), }".ljust(117) + b"\n"
)


@pytest.mark.parametrize("kind", ["empty", "cut", "huge", "texts", "shapes", "lengths", "negative"])
def test_files_that_hold_no_scores(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "scores.npz"
    scored(3, 4).save(path)
    good = {name: getattr(scored(3, 4), name) for name in ("lengths", "logprobs", "best")}
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "huge":
        with zipfile.ZipFile(path, "w") as file:
            for name in good:
                file.writestr(f"{name}.npy", HUGE_NPY)
    else:
        wrong = {
            "texts": {"logprobs": np.array(["a"] * 7)},
            "shapes": {"best": np.array(3, np.int32)},
            "lengths": {"lengths": np.array([3, 5])},
            "negative": {
                "lengths": np.array([-1, 1]),
                "logprobs": np.empty(0),
                "best": np.empty(0, np.int32),
            },
        }
        np.savez(path, **{**good, **wrong[kind]})
    with pytest.raises(FormatError, match="holds no scores"):
        Scored.read(path)
