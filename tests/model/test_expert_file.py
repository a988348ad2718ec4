"""A model whose experts are read from a file: the same bits, and no more memory than allowed."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.stepping import mixed, prefill, run, stepwise
from model.stored import dealt_out, in_memory
from model.wild import BLOCKED, CONFIGS, sequences, wild_tensors
from native.test_mapping import resident
from qwick.formats.checkpoint import Checkpoint
from qwick.model.arch import read_arch
from qwick.model.decoder import Decoder, ExpertMLP
from qwick.model.expert_file import MADE
from qwick.model.load import (
    ExpertFile,
    ExpertLayout,
    MappedExperts,
    load_model,
    weight_bytes,
    weight_sizes,
)
from qwick.model.requantise import requantised
from qwick.quant.types import StoredType

START = 1 << 16


def checkpoint_of(name: str) -> Checkpoint:
    if name in BLOCKED:
        config = BLOCKED[name]
        return in_memory(config, wild_tensors(config), dealt_out(config))
    return in_memory(CONFIGS[name], wild_tensors(CONFIGS[name]))


class Kept:
    """Keeps the file of a test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, layout: ExpertLayout, write: Any, waited: Any) -> ExpertFile:
        if not self.path.exists():
            with self.path.open("wb") as file:
                file.write(b"\1" * START)
                write(file.write)
            assert self.path.stat().st_size == START + layout.size
        return ExpertFile(os.open(self.path, os.O_RDONLY), START)


def mapped(checkpoint: Checkpoint, path: Path, weights_ram: int, **more: Any) -> Decoder:
    return load_model(checkpoint, kv="f32", experts=MappedExperts(weights_ram, Kept(path)), **more)


def residency_of(model: Decoder) -> Any:
    mlp = model.weights.blocks[0].mlp
    assert isinstance(mlp, ExpertMLP)
    return mlp.residency


NAMES = ["qwen1.5-moe", "qwen2-moe-all", "qwen3-moe", "qwen3-moe-tied", "qwen2-moe"]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits(name: str, tmp_path: Path) -> None:
    """From a file just written and from one that was there, in prompts and token by token."""
    checkpoint, file = checkpoint_of(name), tmp_path / "experts"
    whole = load_model(checkpoint, kv="f32")
    shared = read_arch(checkpoint.config).experts.shared is not None  # type: ignore[union-attr]
    sizes, ids = weight_sizes(checkpoint), sequences((40, 1, 23))
    assert sizes.least is not None
    for budget, schedule in ((sizes.least, prefill), (sizes.least + START, stepwise)):
        model = residency = None
        gc.collect()
        model = mapped(checkpoint, file, budget)
        residency = residency_of(model)
        for ours, theirs in zip(run(model, ids, schedule), run(whole, ids, schedule), strict=True):
            if theirs is not None and ours is not None:
                assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
        assert residency.misses > 0
        assert resident(file) <= residency.held + START
        assert residency.held <= residency.budget
        use, expected = model.expert_use, whole.expert_use
        assert use is not None
        assert expected is not None
        assert (use.read, use.held) == (residency.read, residency.held)
        assert (use.budget, expected.budget) == (residency.budget, None)
        assert use.taken == use.hits + use.misses + use.calls * shared


def test_memory_is_really_bounded(tmp_path: Path) -> None:
    """Whatever steps read, the file's pages in memory are those that are counted, and few."""
    checkpoint, file = checkpoint_of("qwen3-moe"), tmp_path / "experts"
    sizes = weight_sizes(checkpoint)
    assert sizes.least is not None
    model = mapped(checkpoint, file, sizes.least + 3 * START)
    residency = residency_of(model)
    assert resident(file) == 0, "nothing is read before it is used"
    assert sizes.layer <= residency.budget < file.stat().st_size * 2 // 3
    for schedule in (prefill, stepwise, mixed):
        run(model, sequences((30, 9)), schedule)
        assert residency.held <= resident(file) <= residency.held + START, "with the header"
        assert residency.held <= residency.budget


def test_all_experts_fit(tmp_path: Path) -> None:
    """With room for all each is read from the file once."""
    checkpoint, file = checkpoint_of("qwen3-moe-all"), tmp_path / "experts"
    model = mapped(checkpoint, file, 1 << 30)
    for _ in range(2):
        run(model, sequences((30,)), stepwise)
    use = model.expert_use
    assert use is not None
    assert use.misses == use.layers * use.experts
    assert use.held == use.read == file.stat().st_size - START


def test_progress_counts_every_tensor_once(tmp_path: Path) -> None:
    checkpoint, file = checkpoint_of("qwen1.5-moe"), tmp_path / "experts"
    for _ in range(2):  # written, and found
        seen: list[tuple[int, int]] = []
        mapped(checkpoint, file, 1 << 30, progress=lambda *at, seen=seen: seen.append(at))
        assert seen[-1][0] == seen[-1][1]
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_the_file_depends_on() -> None:
    config = BLOCKED["qwen3-moe"]
    held, types = wild_tensors(config), dealt_out(config)
    name = "model.layers.1.mlp.experts.0.up_proj.weight"

    def facts(types: dict[str, StoredType]) -> dict[str, object]:
        return ExpertLayout(in_memory(config, held, types).tensors, read_arch(config)).facts()

    assert facts(types) == facts(dict(types))
    assert facts(types) != facts({**types, name: StoredType.Q8_0})
    head = {**types, "lm_head.weight": StoredType.Q8_0}
    assert facts(types) == facts(head), "which is not in the file"


def test_how_tensors_are_made_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BLOCKED["qwen3-moe"]
    checkpoint = in_memory(config, wild_tensors(config))

    def facts(kind: str | None) -> dict[str, object]:
        small = requantised(checkpoint, kind)
        return ExpertLayout(small.tensors, read_arch(small.config)).facts()

    before, stored = facts("int4"), facts(None)
    assert before["made"] == MADE
    assert "made" not in stored
    monkeypatch.setattr("qwick.model.expert_file.MADE", MADE + 1)
    assert facts("int4") != before
    assert facts(None) == stored


@pytest.mark.parametrize("stored", [StoredType.F32, StoredType.BF16, StoredType.Q8_0])
def test_routers_count_as_they_are_in_memory(stored: StoredType) -> None:
    config = CONFIGS["qwen1.5-moe"]
    held = wild_tensors(config)
    routers = [n for n in held if n.endswith(("mlp.gate.weight", "shared_expert_gate.weight"))]
    assert len(routers) == 2 * config["num_hidden_layers"]
    plain = weight_bytes(in_memory(config, held))
    assert weight_bytes(in_memory(config, held, dict.fromkeys(routers, stored))) == plain


def test_the_sizes_of_the_parts() -> None:
    checkpoint = checkpoint_of("qwen1.5-moe")
    sizes = weight_sizes(checkpoint)
    experts = sum(t.data.nbytes for n, t in checkpoint.tensors.items() if ".experts." in n)
    embedding = checkpoint.tensors["model.embed_tokens.weight"].data.nbytes
    assert sizes.every == weight_bytes(checkpoint)
    assert sizes.always == sizes.every - experts + embedding
    assert sizes.layer == 7 * START  # of 3 x 48 x 64 float32, rounded up
    dense = weight_sizes(in_memory(CONFIGS["qwen3-mha"], wild_tensors(CONFIGS["qwen3-mha"])))
    assert (dense.layer, dense.least) == (0, None)
