"""From a checkpoint to a Decoder: tensors that do not fit the config, and bad arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.stepping import Session
from model.stored import Samples, in_memory
from model.wild import BLOCKED, CONFIGS, wild_tensors
from qwick.errors import (
    ConfigError,
    FormatError,
    ParameterError,
    QwickError,
    ResourceError,
    UnsupportedError,
)
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_folder
from qwick.model.arch import KV_DTYPES, read_arch
from qwick.model.cache import KVCache, page_bytes
from qwick.model.decoder import tensor_table
from qwick.model.load import load_model, weight_bytes
from qwick.model.requantise import requantised
from qwick.model.rope import Rope
from qwick.quant.types import StoredType

NAME = "qwen3-tied"
CONFIG = CONFIGS[NAME]
Q_NORM = "model.layers.1.self_attn.q_norm.weight"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def tensors() -> dict[str, np.ndarray]:
    return dict(wild_tensors(CONFIG))


def refusal(held: dict[str, np.ndarray], config: dict[str, Any] = CONFIG) -> FormatError:
    with pytest.raises(FormatError) as caught:
        load_model(in_memory(config, held))
    assert not isinstance(caught.value, ConfigError)
    return caught.value


def refused(held: dict[str, np.ndarray], config: dict[str, Any] = CONFIG) -> str:
    return refusal(held, config).message


# ---- tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CONFIGS, *BLOCKED])
def test_the_table_is_transformers(name: str) -> None:
    config = {**CONFIGS, **BLOCKED}[name]
    ours = {spec.name: spec.shape for spec in tensor_table(read_arch(config))}
    assert ours == {key: value.shape for key, value in wild_tensors(config).items()}


@pytest.mark.parametrize("name", [*list(wild_tensors(CONFIG))[:13], "model.norm.weight"])
def test_a_missing_tensor_is_named(name: str) -> None:
    held = tensors()
    shape = list(held.pop(name).shape)
    assert f"in-memory: the tensors do not fit the config: missing: {name} {shape}" == refused(held)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",  # a bias that Qwen3 does not have
        "model.layers.3.input_layernorm.weight",  # a fourth layer
        "model.layers.1.self_attn.o_proj.bias",
        "model.layers.1.mlp.experts.0.up_proj.weight",
        "score.weight",
    ],
)
def test_an_unexpected_tensor_is_named(name: str) -> None:
    message = refused({**tensors(), name: np.zeros((5, 7), np.float32)})
    assert message.endswith(f"unexpected: {name!r} [5, 7]")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (Q_PROJ, (96, 512)),  # transposed
        (Q_PROJ, (512 * 96,)),
        (Q_PROJ, (512, 96, 1)),
        (Q_PROJ, (496, 96)),
        (Q_NORM, (96,)),
        (Q_NORM, (1, 128)),
        ("model.embed_tokens.weight", (502, 96)),
    ],
)
def test_a_misshapen_tensor_is_named(name: str, shape: tuple[int, ...]) -> None:
    held = tensors()
    before = list(held[name].shape)
    held[name] = np.ones(shape, np.float32)
    assert refused(held).endswith(f"{name} has the shape {list(shape)}, expected {before}")


def test_all_faults_come_in_one_message_of_bounded_length() -> None:
    held = tensors()
    del held[Q_PROJ]
    held["extra"] = held[Q_NORM]
    held[Q_NORM] = held["model.norm.weight"]
    message = refused(held)
    assert f"missing: {Q_PROJ}" in message
    assert "unexpected: 'extra'" in message
    assert f"{Q_NORM} has the shape [96]" in message
    message = refused({}, CONFIG)
    assert message.count("missing: ") == 8
    assert message.endswith(f"and {len(tensors()) - 8} more")


def test_an_untied_head_must_be_there_and_a_tied_copy_may() -> None:
    head = "lm_head.weight"
    untied = {**CONFIG, "tie_word_embeddings": False}
    assert f"missing: {head} [503, 96]" in refused(tensors(), untied)
    copy = {**tensors(), head: tensors()["model.embed_tokens.weight"]}
    load_model(in_memory(untied, copy))
    assert load_model(in_memory(CONFIG, copy)).arch.tied
    for other in (copy[head][:-1], copy[head] + np.float32(1e-6)):
        error = refusal({**copy, head: other})
        assert "the head, but there is lm_head.weight, which is another" in error.message
        assert "set tie_word_embeddings to false" in str(error.hint)
    half = {head: StoredType.F16}
    with pytest.raises(FormatError, match="another matrix"):
        load_model(in_memory(CONFIG, copy, half))
    frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load_model(in_memory(CONFIG, {**tensors(), frequencies: np.ones(64, np.float32)}))


def test_a_folder_with_the_rotation_where_newer_transformers_write_it(tmp_path: Path) -> None:
    bare = {key: value for key, value in CONFIG.items() if key != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": 12345.0}
    write_folder(tmp_path, {**bare, "rope_parameters": rope}, tensors())
    with open_checkpoint(tmp_path) as checkpoint:
        assert load_model(checkpoint).arch.positions.theta == 12345.0


def test_nothing_is_packed_before_all_is_checked() -> None:
    held = tensors()
    del held["model.norm.weight"]
    seen: list[tuple[int, int]] = []
    with pytest.raises(FormatError):
        load_model(in_memory(CONFIG, held), progress=lambda *at: seen.append(at))
    assert seen == []


@pytest.mark.parametrize("tied", [True, False])
def test_progress_ascends_to_the_whole(tied: bool) -> None:
    held = {**tensors(), "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(64, np.float32)}
    total = sum(values.nbytes for values in tensors().values())
    if not tied:
        held["lm_head.weight"] = held["model.embed_tokens.weight"]
        total += held["lm_head.weight"].nbytes
    seen: list[tuple[int, int]] = []
    checkpoint = in_memory({**CONFIG, "tie_word_embeddings": tied}, held)
    load_model(checkpoint, progress=lambda *at: seen.append(at))
    done = [at for at, _ in seen]
    assert done == sorted(set(done))
    assert {whole for _, whole in seen} == {total}
    assert done[-1] == total
    assert len(done) > 10


@pytest.mark.parametrize("tied", [True, False])
def test_weights_count_once_in_memory(tied: bool) -> None:
    """The embedding as the head, or else the head alone; a tied copy is not loaded."""
    held = {**tensors(), "lm_head.weight": tensors()["model.embed_tokens.weight"]}
    once = sum(values.nbytes for values in tensors().values())
    assert weight_bytes(in_memory({**CONFIG, "tie_word_embeddings": tied}, held)) == once
    if tied:
        assert weight_bytes(in_memory(CONFIG, tensors())) == once


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_what_is_not_loaded_is_not_counted(quantize: str | None) -> None:
    """A head that the architecture does not name, and constants of old exporters."""
    plain = tensors()
    bare = {**CONFIG, "architectures": ["Qwen3Model"], "tie_word_embeddings": False}
    spare = {
        **plain,
        "lm_head.weight": plain["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
    }
    checkpoint = in_memory(bare, spare)
    loaded = load_model(checkpoint, quantize=quantize)
    assert loaded.weights.head is None
    assert weight_bytes(checkpoint, quantize) == weight_bytes(in_memory(bare, plain), quantize)
    small = requantised(checkpoint, quantize)
    assert not small.tensors["lm_head.weight"].made
    assert "lm_head.weight" not in requantised(in_memory(bare, plain), quantize).tensors


def test_a_config_beyond_the_tensors_costs_nothing(tmp_path: Path) -> None:
    """Sizes up to the limits in the config, tiny tensors: refused at once, without the memory."""
    huge = {
        "hidden_size": 1 << 16,
        "intermediate_size": 1 << 20,
        "num_hidden_layers": 1024,
        "vocab_size": 1 << 24,
        "max_position_embeddings": 1 << 27,
    }
    for key, value in huge.items():
        path = tmp_path / key
        write_folder(path, {**CONFIG, key: value}, tensors())
        with open_checkpoint(path) as checkpoint:
            if key == "max_position_embeddings":  # fits any tensors; tables grow as they are used
                assert load_model(checkpoint).context == 1 << 27
            else:
                with pytest.raises(FormatError, match="do not fit the config"):
                    load_model(checkpoint)


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, -1, True, 1.0, "64", [64], float("nan")])
def test_a_wrong_context_is_named(context: Any) -> None:
    with pytest.raises(ParameterError) as caught:
        load_model(in_memory(CONFIG, tensors()), context=context)
    assert str(caught.value) == f"ctx is {context!r}; allowed: whole numbers from 1 to 256"


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(UnsupportedError) as caught:
        load_model(in_memory(CONFIG, tensors()), context=257)
    assert "257" in caught.value.message
    assert "256" in caught.value.message
    assert caught.value.hint.startswith("ask for at most 256, or let YaRN")


@pytest.mark.parametrize("kv", ["f16", "", "BF16", None, 16])
def test_a_wrong_cache_type_is_named(kv: Any) -> None:
    with pytest.raises(ParameterError, match=r"^kv is .*; allowed: auto, int8, bf16, f32$"):
        load_model(in_memory(CONFIG, tensors()), kv=kv)


def kinds_of(kv: str, name: str = NAME, **changed: Any) -> tuple[str, ...]:
    """What each layer's cache holds, of wild weights with some tensors scaled by a number."""
    held = dict(wild_tensors(CONFIGS[name]))
    for tensor, factor in changed.items():
        held[tensor] = held[tensor] * np.float32(factor)
    model = load_model(in_memory(CONFIGS[name], held), kv=kv)
    dtypes = [array.dtype for array in model.new_cache(1).keys]
    assert dtypes == [KV_DTYPES[kind] for kind in model.kv_kinds]
    return model.kv_kinds


def test_what_the_cache_holds() -> None:
    """8 bits only where keys are even: one large bias spoils all components of its group."""
    assert CONFIGS["qwen2.5-wide"]["model_type"] == "qwen2"
    wide = "qwen2.5-wide"
    for kv in ("bf16", "f32"):
        assert kinds_of(kv, wide) == (kv,) * 3
    for kv in ("int8", "auto"):
        assert kinds_of(kv, wide) == ("int8",) * 3
        large = {"model.layers.1.self_attn.k_proj.bias": 100}
        assert kinds_of(kv, wide, **large) == ("int8", "bf16", "int8")
        assert kinds_of(kv, wide, **{"model.layers.2.self_attn.v_proj.bias": 1e4}) == ("int8",) * 3
        bad = {"model.layers.0.self_attn.k_proj.bias": np.nan}
        assert kinds_of(kv, wide, **bad) == ("bf16", "int8", "int8")
    # Keys that are normed were not measured: only on request.
    norms = {"model.layers.2.self_attn.k_norm.weight": 100}
    assert kinds_of("auto", "qwen3-tied") == ("bf16",) * 3
    assert kinds_of("int8", "qwen3-tied") == ("int8",) * 3
    assert kinds_of("int8", "qwen3-tied", **norms) == ("int8", "int8", "bf16")
    # Heads of 16 components do not fit the layout.
    assert kinds_of("int8", "qwen1.5-mha") == ("bf16",) * 3


def test_the_context_bounds_positions(samples: Samples) -> None:
    sample = samples.folder(NAME, StoredType.F32)
    with open_checkpoint(sample.path) as checkpoint:
        model = load_model(checkpoint, context=40, kv="f32")
        whole = load_model(checkpoint, kv="f32")
    assert (model.context, whole.context) == (40, 256)
    ids = [sample.oracle.ids[0]]
    short, long = Session(model, ids).step([(0, 40)]), Session(whole, ids).step([(0, 40)])
    np.testing.assert_array_equal(short, long)
    with pytest.raises(IndexError, match="positions holds 40, allowed: 0 to 39"):
        Session(model, ids).step([(0, 41)])


def test_rotation_tables_grow_with_the_positions_in_use() -> None:
    """Growing in steps gives the very numbers of one table, and never passes the context."""
    config = {**CONFIG, "max_position_embeddings": 5000}
    stepped, once = (load_model(in_memory(config, tensors())).rope.tables[0] for _ in range(2))
    assert len(stepped.cos) < 5000
    for positions in (1, 1024, 1025, 1500, 4999):
        stepped.cover(positions)
        assert positions <= len(stepped.cos) <= 5000
    for positions in (5000, 10**9):
        stepped.cover(positions)
        once.cover(positions)
        assert len(stepped.cos) == len(stepped.sin) == 5000
    np.testing.assert_array_equal(stepped.cos, once.cos)
    np.testing.assert_array_equal(stepped.sin, once.sin)
    angle = 4321 * 1e6 ** (-2 * 5 / 128)
    assert stepped.cos[4321, 5] == np.float32(np.cos(angle))
    assert stepped.sin[4321, 5] == np.float32(np.sin(angle))


@pytest.mark.parametrize(("kv", "size"), [("bf16", 2), ("f32", 4)])
def test_cache_bytes_are_those_of_the_arrays(kv: str, size: int) -> None:
    arch = read_arch(CONFIG)
    kinds = (kv,) * arch.layers
    cache = KVCache(arch, 5, kinds)
    held = sum(array.nbytes for array in (*cache.keys, *cache.values))
    assert held == 5 * page_bytes(arch, kinds) == 5 * 2 * 3 * 32 * 2 * 128 * size
    theirs = load_model(in_memory(CONFIG, tensors()), kv=kv).new_cache(5)
    assert held == sum(array.nbytes for array in (*theirs.keys, *theirs.values))


def test_cache_bytes_where_layers_differ() -> None:
    arch = read_arch(CONFIGS["qwen2.5-wide"])
    kinds = ("int8", "bf16", "int8")
    cache = KVCache(arch, 5, kinds)
    held = sum(array.nbytes for array in (*cache.keys, *cache.values))
    # 128 components: a byte each, a float per 32 of a key, two per value
    assert held == 5 * page_bytes(arch, kinds) == 5 * 32 * (2 * (144 + 136) + 2 * 256)


def test_a_cache_beyond_memory_is_our_error() -> None:
    arch = replace(read_arch(CONFIG), layers=1)
    with pytest.raises(ResourceError, match=r"the KV cache needs [\d,]+ bytes for") as caught:
        KVCache(arch, 1 << 36, ("f32",))
    assert isinstance(caught.value, QwickError)


def test_a_rotation_that_finds_no_memory_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    rope = Rope(read_arch(CONFIG), 4096).tables[0]
    before = len(rope.cos)
    with monkeypatch.context() as patched:
        patched.setattr(np, "sin", out_of_memory)
        with pytest.raises(MemoryError):
            rope.cover(2000)
    assert len(rope.cos) == len(rope.sin) == before
    rope.cover(2000)
    assert len(rope.cos) == len(rope.sin) >= 2000


def out_of_memory(*_: object) -> None:
    raise MemoryError


def test_a_strangers_tensor_name_is_shown_short_and_without_control_characters() -> None:
    held = {**tensors(), "\x1b]0;owned\x07" + "A" * 5000: np.zeros(8, np.float32)}
    message = refused(held)
    assert len(message) < 400
    assert message.isprintable()
