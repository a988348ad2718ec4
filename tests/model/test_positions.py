"""Beyond the length that a model was trained for: YaRN, dual chunk attention, Qwen1's two ways.

YaRN against transformers, which has it; the others against `numpy_decoder.py`. Each in prefill,
step by step, in chunks and mixed with sequences that need none of it; mutants must show in prefill
and step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest

from model.numpy_decoder import NumpyOracle, dual_chunk, plain
from model.parity import F32_LIMIT, distance, require_f32, require_shown
from model.stepping import SCHEDULES, Schedule, one_by_one, prefill, run, stepwise
from model.stored import in_memory
from model.wild import CONFIGS, Oracle, build, chooses, sequences, wild_tensors
from qwick.errors import UnsupportedError
from qwick.family import MODEL_TYPES
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_gguf
from qwick.model.arch import read_arch
from qwick.model.decoder import Decoder
from qwick.model.load import load_model
from qwick.model.positions import DualChunk, Positions, Rotations, Yarn, with_yarn

YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
STRETCHED = {
    name: {**CONFIGS[name], "rope_theta": None, "rope_scaling": {**YARN, "rope_theta": theta}}
    for name, theta in {
        "qwen2-tied": 1e6,
        "qwen3-tied": 1e6,
        # Of eight pairs, 1e6 would let other ramps end at the same ones: nothing would show.
        "qwen2-moe-group2": 2e3,
        "qwen3-moe": 1e6,
    }.items()
}
LENGTHS = (70, 1, 33, 150)


@pytest.fixture(scope="module", params=STRETCHED)
def stretched(request: pytest.FixtureRequest) -> dict[str, Any]:
    stretched: dict[str, Any] = STRETCHED[request.param]
    return stretched


@pytest.fixture(scope="module")
def oracles(stretched: dict[str, Any]) -> tuple[Oracle, Oracle]:
    """Of the plain rotation and of the stretched one."""
    tensors, ids = wild_tensors(config_of(stretched)), sequences(LENGTHS)
    theirs = {**stretched, "rope_scaling": None, "rope_parameters": stretched["rope_scaling"]}
    del theirs["rope_theta"]
    return Oracle(build(config_of(stretched), tensors), ids), Oracle(build(theirs, tensors), ids)


def test_short_requests_are_not_stretched_and_long_ones_are(
    stretched: dict[str, Any], oracles: tuple[Oracle, Oracle], isa: str
) -> None:
    model = load_model(
        in_memory(stretched, wild_tensors(config_of(stretched))), kv="f32", context=256
    )
    assert model.rotations == Rotations((64, 256))
    rotations = [1, 0, 0, 1]
    theirs = replace_logits(oracles, rotations)
    for schedule in SCHEDULES.values():
        require_f32(model, theirs, schedule, rotations)
    require_f32(model, oracles[1], prefill, [1] * 4)
    require_shown(model, oracles[0], [1] * 4)
    # The first sequence is stretched by both, so that the third must show it step by step.
    require_shown(model, oracles[1], rotations, (prefill, one_by_one(2)))


@pytest.mark.parametrize(
    "change",
    [
        lambda yarn: replace(yarn, magnitude=1.0),
        lambda yarn: replace(yarn, factor=4.4),
        lambda yarn: replace(yarn, whole=False),
        lambda yarn: replace(yarn, beta_fast=2.0),
        lambda yarn: replace(yarn, beta_slow=2.0),
        lambda yarn: replace(yarn, original=128),
    ],
    ids=["magnitude", "factor", "whole", "fast", "slow", "original"],
)
def test_other_stretches_show(
    stretched: dict[str, Any],
    oracles: tuple[Oracle, Oracle],
    change: Callable[[Yarn], Yarn],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from qwick.model import positions

    true = positions._yarn
    monkeypatch.setattr(positions, "_yarn", lambda *a: change(true(*a)))
    model = load_model(
        in_memory(stretched, wild_tensors(config_of(stretched))), kv="f32", context=200
    )
    require_shown(model, oracles[1], [1 % len(model.rotations.limits)] * 4)


def load_gguf(path: Path, config: dict[str, Any], yarn: dict[str, Any]) -> Decoder:
    plain_config = config_of(config)
    write_gguf(path, {**plain_config, "rope_scaling": yarn}, wild_tensors(plain_config))
    with open_checkpoint(path) as checkpoint:
        return load_model(checkpoint, kv="f32", context=200)


def test_a_gguf_file_stretches_by_its_metadata(
    tmp_path: Path, stretched: dict[str, Any], oracles: tuple[Oracle, Oracle]
) -> None:
    """Under llama.cpp's names; and any other value of them shows."""
    model = load_gguf(tmp_path / "a.gguf", stretched, YARN)
    fields, arch = (
        gguf.GGUFReader(tmp_path / "a.gguf").fields,
        MODEL_TYPES[stretched["model_type"]].gguf,
    )
    keys = {
        gguf.Keys.Rope.SCALING_TYPE: "yarn",
        gguf.Keys.Rope.SCALING_FACTOR: 4.0,
        gguf.Keys.Rope.SCALING_ORIG_CTX_LEN: 64,
    }
    assert {key: fields[key.format(arch=arch)].contents() for key in keys} == keys
    rotations = [1, 0, 0, 1]
    for schedule in SCHEDULES.values():
        require_f32(model, replace_logits(oracles, rotations), schedule, rotations)
    for change in (
        {"factor": 4.4},
        {"original_max_position_embeddings": 128},
        {"beta_fast": 2.0},
        {"beta_slow": 2.0},
    ):
        other = load_gguf(tmp_path / "b.gguf", stretched, {**YARN, **change})
        require_shown(other, oracles[1], [1 % len(other.rotations.limits)] * 4)


def config_of(config: dict[str, Any]) -> dict[str, Any]:
    """The same without scaling, as transformers reads it."""
    return {**config, "rope_scaling": None, "rope_theta": config["rope_scaling"]["rope_theta"]}


def replace_logits(oracles: tuple[Oracle, Oracle], rotations: list[int]) -> Any:
    logits = [oracles[r].logits[i] for i, r in enumerate(rotations)]
    return SimpleNamespace(ids=oracles[0].ids, logits=logits, std=oracles[0].std)


CHUNKS = {"chunk_size": 80, "local_size": 16, "original_max_position_embeddings": 100}
CHUNKED = ("qwen2.5-group7", "qwen3-tied", "qwen3-moe")
FAR = (270, 40, 129, 64, 65)  # five chunks of 64; within one; three; one, to its last; one more


@pytest.fixture(scope="module", params=CHUNKED)
def chunked_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    longer = {"max_position_embeddings": 300}
    return {**CONFIGS[request.param], **longer, "dual_chunk_attention_config": CHUNKS}


@pytest.fixture(scope="module")
def far_oracle(chunked_config: dict[str, Any]) -> NumpyOracle:
    scores = dual_chunk(chunked_config["rope_theta"], 80, 16, 100)
    return NumpyOracle(chunked_config, wild_tensors(bare(chunked_config)), sequences(FAR), scores)


def test_every_schedule(chunked_config: dict[str, Any], far_oracle: NumpyOracle, isa: str) -> None:
    arch = read_arch(chunked_config)
    assert arch.positions.scaling == DualChunk(64, 80, 100)
    assert (arch.positions.native, arch.positions.longest) == (100, 300)
    model = load_model(
        in_memory(chunked_config, wild_tensors(bare(chunked_config))), kv="f32", context=300
    )
    for schedule in SCHEDULES.values():
        require_f32(model, far_oracle, schedule)


@pytest.fixture(scope="module")
def near_oracle(chunked_config: dict[str, Any], far_oracle: NumpyOracle) -> NumpyOracle:
    """Of the same without chunks."""
    scores = plain(chunked_config["rope_theta"])
    return NumpyOracle(chunked_config, wild_tensors(bare(chunked_config)), far_oracle.ids, scores)


@pytest.mark.parametrize("kv", ["bf16", "int8"])
@pytest.mark.parametrize(
    "chunked_config", [name for name in CHUNKED if not chooses(CONFIGS[name])], indirect=True
)
def test_other_caches(
    chunked_config: dict[str, Any], far_oracle: NumpyOracle, near_oracle: NumpyOracle, kv: str
) -> None:
    """Pages of fewer bits join as well: no further off than the same pages without chunks."""
    bare_config = {**bare(chunked_config), "max_position_embeddings": 300}
    tensors = wild_tensors(bare(chunked_config))
    model = load_model(in_memory(chunked_config, tensors), kv=kv, context=300)
    yardstick = load_model(in_memory(bare_config, tensors), kv=kv)
    found = distance(run(model, far_oracle.ids, prefill), far_oracle)
    allowed = distance(run(yardstick, far_oracle.ids, prefill), near_oracle)
    assert found.rms <= 1.5 * allowed.rms


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_size": 112},
        {"chunk_size": 96, "local_size": 32},
        {"local_size": 48},
        {"original_max_position_embeddings": 200},
    ],
    ids=str,
)
def test_other_chunks_show(
    chunked_config: dict[str, Any], far_oracle: NumpyOracle, change: dict[str, int]
) -> None:
    mutant = {**chunked_config, "dual_chunk_attention_config": {**CHUNKS, **change}}
    model = load_model(in_memory(mutant, wild_tensors(bare(chunked_config))), kv="f32", context=300)
    require_shown(model, far_oracle)


@pytest.mark.parametrize("left", [0, 1])
def test_keys_left_out_show(
    chunked_config: dict[str, Any],
    far_oracle: NumpyOracle,
    left: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the chunk before, or without all earlier ones."""
    model = load_model(
        in_memory(chunked_config, wild_tensors(bare(chunked_config))), kv="f32", context=300
    )
    true = model.rope.turns

    def fewer(batch: Any) -> Any:
        turns = true(batch)
        return replace(turns, far=turns.far[:left] + turns.far[left + 1 :])

    monkeypatch.setattr(model.rope, "turns", fewer)
    require_shown(model, far_oracle)


def test_a_row_is_scaled_alike_in_any_company() -> None:
    """Also where scores grow within the first chunk: alone, and beside a longer sequence."""
    config = {**CONFIGS["qwen3-tied"], "max_position_embeddings": 300}
    config["dual_chunk_attention_config"] = {**CHUNKS, "original_max_position_embeddings": 32}
    tensors, ids = wild_tensors(CONFIGS["qwen3-tied"]), sequences((60, 130))
    model = load_model(in_memory(config, tensors), kv="f32", context=300)
    alone, beside = (run(model, ids, s)[0] for s in (prefill, together))
    assert alone is not None
    np.testing.assert_allclose(alone, beside, atol=1e-4)


def test_how_much_scores_grow_with_the_published_config() -> None:
    """The figures of docs/decisions/0015: the factor of a score is that of its query."""
    positions = Positions(1e7, 262_144, 1_010_000, DualChunk(253_952, 262_144, 262_144))
    assert positions.query_scale(np.array([0, 262_143], np.int32)) is None
    found = positions.query_scale(np.array([9, 524_287, 1_009_999], np.int32))
    assert found is not None
    np.testing.assert_allclose(found, [1, 1.143, 1.288], atol=5e-4)


def together(lengths: list[int]) -> list[list[tuple[int, int]]]:
    return [list(enumerate(lengths))]


def test_within_a_chunk_nothing_changes(chunked_config: dict[str, Any]) -> None:
    tensors, ids = wild_tensors(bare(chunked_config)), sequences((64, 20))
    chunks = load_model(in_memory(chunked_config, tensors), kv="f32", context=300)
    other = load_model(in_memory(bare(chunked_config), tensors), kv="f32")
    for a, b in zip(run(chunks, ids, prefill), run(other, ids, prefill), strict=True):
        assert a is not None
        np.testing.assert_array_equal(a, b)


def bare(config: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: value for key, value in config.items() if key != "dual_chunk_attention_config"},
        "max_position_embeddings": 256,
    }


@pytest.mark.parametrize(
    "name", ["qwen2-tied", "qwen3-group4", "qwen1.5-mha", "qwen1.5-moe", "qwen3-moe"]
)
def test_the_numpy_decoder_is_one_of_the_family(name: str) -> None:
    config = CONFIGS[name]
    tensors = wild_tensors(config)
    theirs = Oracle(build(config, tensors), sequences())
    ours = NumpyOracle(config, tensors, theirs.ids, plain(config["rope_theta"]))
    assert distance(list(ours.logits), theirs).worst <= F32_LIMIT


def test_which_rotation_a_request_gets() -> None:
    stretched = Rotations((64, 256))
    assert [stretched.of(9, n) for n in (10, 64, 65, 256)] == [0, 0, 1, 1]
    assert [stretched.reach(i) for i in (0, 1)] == [64, 256]
    by_prompt = Rotations((64, 128, 200), by_prompt=True)
    assert [by_prompt.of(n, 200) for n in (1, 64, 65, 128, 129, 200)] == [0, 0, 1, 1, 2, 2]
    assert by_prompt.reach(0) == 200


def test_yarn_may_be_asked_for() -> None:
    """For 40,960 positions, as of Qwen3, 32,768 are the trained ones; a config's own win."""
    config = {**CONFIGS["qwen3-tied"], "max_position_embeddings": 40960}
    positions = read_arch(with_yarn(config, 4)).positions
    assert (positions.native, positions.longest) == (32768, 131072)
    published = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 30000}
    asked = read_arch(with_yarn({**config, "rope_scaling": published}, 2.5)).positions
    assert (asked.native, asked.longest) == (30000, 75000)
    twice = {"rope_scaling": published, "rope_parameters": {**published, "attention_factor": 1.2}}
    both = read_arch(with_yarn({**config, **twice}, 2.0)).positions.scaling
    assert isinstance(both, Yarn)
    assert (both.factor, both.magnitude) == (2.0, 0.1 * np.log(2.0) + 1)


def test_of_dual_chunks_there_is_no_yarn_and_no_hint_of_one() -> None:
    config = {**CONFIGS["qwen3-tied"], "max_position_embeddings": 300}
    chunked = {**config, "dual_chunk_attention_config": CHUNKS}
    with pytest.raises(UnsupportedError, match=r"its own way .* of 100 tokens, up to 300;"):
        with_yarn(chunked, 2)
    whole = {**chunked, "dual_chunk_attention_config": {"chunk_size": 80, "local_size": 16}}
    with pytest.raises(UnsupportedError, match="no way beyond its native context of 300"):
        with_yarn(whole, 2)
    with pytest.raises(UnsupportedError, match="trained for 300 tokens, and has no way") as caught:
        read_arch(whole).check_context(301)
    assert "yarn" not in str(caught.value.hint).lower()


def test_what_lies_beyond_is_refused_until_it_is_asked_for() -> None:
    config = {**CONFIGS["qwen3-tied"], "max_position_embeddings": 40960}
    with pytest.raises(UnsupportedError, match="trained for 40960") as caught:
        read_arch(config).check_context(40961)
    assert "--yarn 4" in str(caught.value.hint)
    arch = read_arch(with_yarn(config, 4))
    arch.check_context(131072)
    with pytest.raises(UnsupportedError, match="trained for 32768 tokens, and stretched to 131072"):
        arch.check_context(131073)


@pytest.mark.parametrize("schedule", [stepwise])
def test_a_long_answer_keeps_its_rotation(schedule: Schedule) -> None:
    """Token by token from the first on, what was asked for long is stretched from the first on."""
    config = STRETCHED["qwen2-tied"]
    tensors = wild_tensors(config_of(config))
    model = load_model(in_memory(config, tensors), kv="f32", context=256)
    ids = sequences((70,))
    once, steps = (run(model, ids, each, [1])[0] for each in (prefill, schedule))
    assert once is not None
    np.testing.assert_allclose(once, steps, atol=1e-3)
