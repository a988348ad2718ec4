"""The decoder against transformers on wild weights, by the oracle rule, in every way of feeding.

Qwen1.5, Qwen2, Qwen2.5 and Qwen3 shapes; safetensors and GGUF; float32, bfloat16 and float16; on
every instruction set of this CPU. What these comparisons can see is shown in `test_mutants.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.parity import require_f32, require_no_further
from model.stepping import SCHEDULES, Session, mixed, prefill, run, stepwise
from model.stored import Samples, in_memory
from model.wild import CONFIGS, VOCAB, Oracle, build, chooses, sequences, wild_tensors
from qwick.errors import UnsupportedError
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_gguf
from qwick.model.arch import read_arch
from qwick.model.load import load_model
from qwick.model.positions import DualChunk
from qwick.native import reference
from qwick.quant.types import StoredType

FAMILY = ("qwen2.5-group7", "qwen3-tied")


@pytest.mark.parametrize("name", CONFIGS)
def test_float32(samples: Samples, isa: str, name: str) -> None:
    sample = samples.folder(name, StoredType.F32)
    model = sample.load()
    for schedule in SCHEDULES.values():
        require_f32(model, sample.oracle, schedule)


@pytest.mark.parametrize("name", [name for name in CONFIGS if not chooses(CONFIGS[name])])
def test_bfloat16(samples: Samples, isa: str, name: str) -> None:
    """Weights and cache in bfloat16, as such a checkpoint runs."""
    sample = samples.folder(name, StoredType.BF16)
    model = sample.load(kv="bf16")
    yardstick = sample.oracle.bf16
    for schedule in SCHEDULES.values():
        require_no_further(model, sample.oracle, schedule, yardstick)


@pytest.mark.parametrize("name", FAMILY)
def test_bfloat16_weights_are_exact_where_the_sums_are_float32(
    samples: Samples, isa: str, name: str
) -> None:
    sample = samples.folder(name, StoredType.BF16)
    model = sample.load()
    require_f32(model, sample.oracle, stepwise)
    if reference.form_of(isa, "bf16", 64) == "f32":  # a matrix unit takes many rows in bf16
        require_f32(model, sample.oracle, mixed)


@pytest.mark.parametrize("name", FAMILY)
def test_float16(samples: Samples, isa: str, name: str) -> None:
    sample = samples.folder(name, StoredType.F16)
    model = sample.load()
    for schedule in SCHEDULES.values():
        require_f32(model, sample.oracle, schedule)


@pytest.mark.parametrize("name", FAMILY)
def test_bfloat16_cache(samples: Samples, isa: str, name: str) -> None:
    """Only keys and values are rounded, where the yardstick rounds everything."""
    sample = samples.folder(name, StoredType.F32)
    model = sample.load(kv="bf16")
    for schedule in (mixed, stepwise):
        found = require_no_further(model, sample.oracle, schedule, sample.oracle.bf16)
        assert found.rms > 1e-4, "nothing was rounded"


@pytest.mark.parametrize("name", FAMILY)
def test_8_bit_cache(samples: Samples, isa: str, name: str) -> None:
    """Only keys and values are rounded, to about as many digits as bfloat16 has."""
    sample = samples.folder(name, StoredType.F32)
    model = sample.load(kv="int8")
    assert set(model.kv_kinds) == {"int8"}
    for schedule in (mixed, stepwise):
        found = require_no_further(model, sample.oracle, schedule, sample.oracle.bf16)
        assert found.rms > 1e-4, "nothing was rounded"


def test_layers_whose_pages_differ(isa: str) -> None:
    """A layer with large key biases keeps bf16 between layers of 8 bits."""
    config = CONFIGS["qwen2.5-group7"]
    tensors = {name: value.copy() for name, value in wild_tensors(config).items()}
    bias = tensors["model.layers.1.self_attn.k_proj.bias"]
    bias[[20, 52]] = 30, -30  # a pair that turns slowly
    oracle = Oracle(build(config, tensors), sequences())
    model = load_model(in_memory(config, tensors), kv="int8")
    assert model.kv_kinds == ("int8", "bf16", "int8")
    for schedule in (mixed, stepwise):
        require_no_further(model, oracle, schedule, oracle.bf16)


@pytest.mark.parametrize("name", FAMILY)
def test_shards(samples: Samples, name: str) -> None:
    sample = samples.folder(name, StoredType.F32, shards=3)
    assert len(list(sample.path.glob("*.safetensors"))) == 3
    require_f32(sample.load(), sample.oracle, prefill)


@pytest.mark.parametrize("stored", [StoredType.F32, StoredType.F16], ids=lambda t: t.name)
@pytest.mark.parametrize("name", CONFIGS)
def test_gguf(samples: Samples, name: str, stored: StoredType) -> None:
    sample = samples.gguf(name, stored)
    model = sample.load()
    for schedule in SCHEDULES.values():
        require_f32(model, sample.oracle, schedule)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen3-moe", {"shared_expert_intermediate_size": 0}),  # as of Qwen3-Coder
        ("qwen3-moe", {"moe_intermediate_size": None, "intermediate_size": None}),
        # of before llama.cpp knew these keys
        ("qwen1.5-moe", {"moe_intermediate_size": None, "shared_expert_intermediate_size": None}),
    ],
)
def test_gguf_of_experts_by_other_writers(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    config, path = CONFIGS[name], tmp_path / "model.gguf"
    write_gguf(path, {**config, **changes}, wild_tensors(config))
    with open_checkpoint(path) as checkpoint:
        assert read_arch(checkpoint.config).experts == read_arch(config).experts
        load_model(checkpoint)


@pytest.mark.parametrize("name", FAMILY)
def test_gguf_of_the_models_of_a_million_tokens(tmp_path: Path, name: str) -> None:
    """GGUF has no key for their chunks: they are those that were published."""
    config = {**CONFIGS[name], "max_position_embeddings": 1_010_000}
    write_gguf(tmp_path / "a.gguf", config, wild_tensors(CONFIGS[name]))
    with open_checkpoint(tmp_path / "a.gguf") as checkpoint:
        positions = read_arch(checkpoint.config).positions
    assert positions.scaling == DualChunk(253_952, 262_144, 262_144)
    assert (positions.native, positions.longest) == (262_144, 1_010_000)


def test_experts_are_written_by_number(tmp_path: Path) -> None:
    """However they come: sorted as texts, 10 stands before 2; and none may be missing."""
    config = CONFIGS["qwen3-moe"]
    tensors = wild_tensors(config)
    write_gguf(tmp_path / "a.gguf", config, tensors)
    write_gguf(tmp_path / "b.gguf", config, {name: tensors[name] for name in sorted(tensors)})
    with open_checkpoint(tmp_path / "a.gguf") as a, open_checkpoint(tmp_path / "b.gguf") as b:
        for name, tensor in a.tensors.items():
            assert np.array_equal(tensor.data, b.tensors[name].data), name
    some = {name: value for name, value in tensors.items() if ".experts.3." not in name}
    with pytest.raises(UnsupportedError, match="do not run from 0"):
        write_gguf(tmp_path / "c.gguf", config, some)
    with pytest.raises(UnsupportedError, match="no key for norm_topk_prob=False"):
        write_gguf(tmp_path / "d.gguf", {**config, "norm_topk_prob": False}, tensors)


@pytest.mark.parametrize("name", FAMILY)
def test_gguf_bfloat16(samples: Samples, isa: str, name: str) -> None:
    sample = samples.gguf(name, StoredType.BF16)
    model = sample.load(kv="bf16")
    require_no_further(model, sample.oracle, prefill, sample.oracle.bf16)
    require_f32(sample.load(), sample.oracle, stepwise)


def test_only_the_wanted_rows_are_answered(samples: Samples, isa: str) -> None:
    sample = samples.folder("qwen2-tied", StoredType.F32)
    model = sample.load()
    whole = run(model, sample.oracle.ids, prefill)[0]
    assert whole is not None
    assert whole.shape == (70, VOCAB)
    for wanted in ([0, 3, 4, 69], [69], [], list(range(70))):
        session = Session(model, sample.oracle.ids)
        rows = session.step([(0, 70)], np.array(wanted, np.int32))
        np.testing.assert_allclose(rows, whole[wanted], rtol=0, atol=2e-5 * sample.oracle.std)


def test_what_a_closed_checkpoint_leaves_is_enough(samples: Samples) -> None:
    """`Sample.load` closes it; decoding after another model was loaded must not change."""
    sample = samples.folder("qwen3-mha", StoredType.F32)
    model = sample.load()
    samples.folder("qwen3-group4", StoredType.F32).load()
    require_f32(model, sample.oracle, prefill)


def test_indices_out_of_range_are_defects_of_the_caller(samples: Samples) -> None:
    sample = samples.folder("qwen2-tied", StoredType.F32)
    model = sample.load()
    session = Session(model, sample.oracle.ids)
    good = session.batch([(0, 5)])
    for field, value in (
        ("ids", VOCAB),
        ("ids", -1),
        ("positions", 256),  # the context
        ("positions", -1),
        ("slots", session.cache.pages * model.page_size),
        ("slots", -1),
    ):
        array = getattr(good, field).copy()
        array[2] = value
        with pytest.raises(IndexError, match=f"{field} holds {value}"):
            model.forward(replace(good, **{field: array}), session.cache)
    model.forward(good, session.cache)


@given(
    model_type=st.sampled_from(["qwen2", "qwen3"]),
    hidden=st.integers(20, 100),
    inner=st.integers(1, 90),
    groups=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    head_dim=st.integers(1, 6).map(lambda n: 16 * n),
    layers=st.integers(1, 3),
    tied=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_any_shape(
    model_type: str,
    hidden: int,
    inner: int,
    groups: tuple[int, int],
    head_dim: int,
    layers: int,
    tied: bool,
) -> None:
    """Widths that no vector divides, one layer, one head, wide and narrow groups."""
    kv_heads, group = groups
    config = {
        **CONFIGS["qwen2-tied"],
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "num_hidden_layers": layers,
        "tie_word_embeddings": tied,
    }
    tensors = wild_tensors(config)
    oracle = Oracle(build(config, tensors), sequences((37, 5)))
    model = load_model(in_memory(config, tensors), kv="f32")
    for schedule in (prefill, mixed):
        require_f32(model, oracle, schedule)
