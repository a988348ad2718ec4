"""Folders of every scheme against transformers on the weights that they stand for.

Where those become blocks, the tolerance is that of test_quantised.py: activations meet blocks in 8
bits, so the yardstick is the same pass on the kernels' definitions. Where they are decoded to
floats, qwick equals the oracle to float32.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.quantisers import SCHEMES, quantised, write_parts
from model.numpy_ops import Definitions, substitute
from model.parity import F32_LIMIT, distance, require_f32, require_no_further
from model.stepping import mixed, prefill, run
from model.stored import gguf_weights, in_memory
from model.test_quantised import rounding_noise
from model.test_qwen1 import PUBLISHED, own_names
from model.wild import BLOCKED, Oracle, build, sequences, wild_tensors
from qwick.errors import FormatError, ParameterError
from qwick.formats.checkpoint import Tensor
from qwick.formats.open import open_checkpoint
from qwick.formats.quantised import gptq, integers
from qwick.formats.quantised.parts import Part, in_pieces
from qwick.formats.qwen1 import cut_attention
from qwick.formats.write import write_gguf
from qwick.model.decoder import Decoder
from qwick.model.load import load_model, weight_bytes
from qwick.model.requantise import KINDS, requantised
from qwick.native import ops
from qwick.quant.decode import decode
from qwick.quant.encode import encode
from qwick.quant.types import StoredType

CONFIGS = {name: {**config, "num_hidden_layers": 1} for name, config in BLOCKED.items()}
CONFIGS["qwen1"] = {**CONFIGS["qwen2"], "num_key_value_heads": 4, "rope_theta": 10000.0}
# What a folder of Qwen1 says of the same model.
QWEN1 = {**PUBLISHED, "num_hidden_layers": 1, "hidden_size": 256, "kv_channels": 64}
QWEN1["intermediate_size"] = 2 * CONFIGS["qwen1"]["intermediate_size"]
LENGTHS = (40, 1, 9)
PACKED = {"gptq int4": "i4", "gptq int8": "i8", "gptq asymmetric": "i4z"}
PACKED |= {"gptq_v2 of whole rows": "i4z", "awq": "i4z", "mxfp4": "i4e"}
# Each scheme with one architecture, experts and Qwen1 with those that they are published in.
SHAPES = dict.fromkeys(SCHEMES, "qwen3") | {"gptq int4": "qwen2", "bitsandbytes int8": "qwen2"}
PAIRS = [*SHAPES.items(), ("awq", "qwen3-moe"), ("fp8", "qwen3-moe"), ("gptq int4", "qwen3-moe")]
PAIRS += [("gptq int4", "qwen2-moe"), ("gptq int4", "qwen1"), ("gptq int8", "qwen1")]


class Folders:
    """Folders and their oracles, each made once."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self.factory = factory
        self.made: dict[tuple[str, str], tuple[Path, Oracle]] = {}

    def get(self, scheme: str, shape: str) -> tuple[Path, Oracle]:
        if (scheme, shape) not in self.made:
            config, path = CONFIGS[shape], self.factory.mktemp("quantised")
            stored, weights = quantised(scheme, wild_tensors(config))
            said = config
            if shape == "qwen1":  # the rows of a fused matrix are quantised each by itself
                stored, said = quantised(scheme, own_names(wild_tensors(config)))[0], QWEN1
            write_parts(path, {**said, "quantization_config": SCHEMES[scheme][0]}, stored)
            oracle = Oracle(build(config, weights), sequences(LENGTHS))
            self.made[scheme, shape] = path, oracle
        return self.made[scheme, shape]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory)


def load(path: Path, **given: Any) -> Decoder:
    with open_checkpoint(path) as checkpoint:
        return load_model(checkpoint, kv="f32", **given)


def classes(model: Decoder) -> set[str]:
    return {kind for kind, _ in model.weights.blocks[0].attention.qkv.weight.segments}


def by_definition(model: Decoder, oracle: Oracle, schedule: Any = mixed) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        substitute(patch, Definitions(ops.isa()))
        return run(model, oracle.ids, schedule)


@pytest.mark.parametrize(("scheme", "shape"), PAIRS)
def test_against_transformers(folders: Folders, scheme: str, shape: str) -> None:
    path, oracle = folders.get(scheme, shape)
    model = load(path)
    if scheme not in PACKED:
        assert classes(model) == {"f16" if "gptq" in scheme else "bf16"}
        if not ops.isa().startswith("amx"):  # which meets bf16 weights with activations in bf16
            require_f32(model, oracle, mixed)
            return
    else:
        assert classes(model) == {PACKED[scheme]}
    yardstick = by_definition(model, oracle)
    assert distance(yardstick, oracle).rms < rounding_noise(model.arch.layers)
    require_no_further(model, oracle, mixed, yardstick, rms_slack=1.1)


def _shifted(matrix: Any) -> Any:
    groups = matrix.zeros(0, 8).shape[0]
    object.__setattr__(matrix, "group_of", (matrix.group_of + 1) % groups)
    return matrix


@pytest.mark.parametrize("mutant", ["zero point off by one", "groups shifted", "scales turned"])
def test_mutants_are_caught(folders: Folders, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    """By the same comparison on exact arithmetic, whose error is that of rounding activations."""
    scheme = "fp8" if mutant == "scales turned" else "gptq asymmetric"
    path, oracle = folders.get(scheme, "qwen3")
    if mutant == "zero point off by one":
        true = gptq._matrix
        monkeypatch.setattr(gptq, "_matrix", lambda p, s, b, g, less, sym: true(p, s, b, g, 0, sym))
    elif mutant == "groups shifted":
        made = integers.Integers.tensor
        monkeypatch.setattr(integers.Integers, "tensor", lambda m, parts: made(_shifted(m), parts))
    else:
        floats = Part.floats
        monkeypatch.setattr(Part, "floats", lambda part: floats(part).T.reshape(part.shape))
    found = distance(run(load(path), oracle.ids, prefill), oracle)
    limit = F32_LIMIT if scheme == "fp8" else 1.5 * rounding_noise(1)
    assert found.rms > limit, mutant


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["qwen3", "qwen3-moe"])
def test_quantize_on_load(kind: str, shape: str) -> None:
    """What is computed with is the matrices encoded and decoded, as the oracle is given them."""
    config, tensors = CONFIGS[shape], wild_tensors(CONFIGS[shape])
    checkpoint = in_memory(config, tensors)
    small = requantised(checkpoint, kind)
    changed = {n for n, t in small.tensors.items() if t.made}
    assert changed == {n for n in tensors if n.endswith("_proj.weight")} | {"lm_head.weight"}
    weights = {
        name: decode(t.type, t.data.reshape(t.shape[0], -1)) if len(t.shape) == 2 else tensors[name]
        for name, t in small.tensors.items()
    }
    oracle = Oracle(build({**config, "tie_word_embeddings": False}, weights), sequences(LENGTHS))
    told: list[tuple[int, int]] = []
    model = load_model(checkpoint, kv="f32", quantize=kind, progress=lambda *at: told.append(at))
    assert classes(model) == {KINDS[kind].packed}
    assert model.weights.head.weight.segments[0][0] == "i8"
    assert told[-1][0] == told[-1][1]
    require_no_further(model, oracle, mixed, by_definition(model, oracle), rms_slack=1.1)
    plain, less = weight_bytes(checkpoint), weight_bytes(checkpoint, kind) - (64 << 20)
    assert less < plain * (0.45 if kind == "int8" else 0.35)


# Of 4 bits already, and kept under "int4" and "nf4".
SMALL = {"awq", "mxfp4"}
ROUNDED = ("gptq act-order", "gptq int8", "fp8", "bitsandbytes nf4", "bitsandbytes int8", "gguf")


def stored_in(scheme: str, tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A checkpoint of one layer in a scheme, and what its library, or the scheme, decodes it to."""
    config = CONFIGS["qwen2"]
    if scheme == "gguf":
        path = tmp_path / "small.gguf"
        write_gguf(path, config, wild_tensors(config), StoredType.Q6_K)
        return path, gguf_weights(path, config)
    parts, values = quantised(scheme, wild_tensors(config))
    write_parts(tmp_path, {**config, "quantization_config": SCHEMES[scheme][0]}, parts)
    return tmp_path, values


@pytest.mark.parametrize("kind", ["int4", "nf4"])
@pytest.mark.parametrize("scheme", [*ROUNDED, *sorted(SMALL)])
def test_quantize_of_what_is_quantised(tmp_path: Path, scheme: str, kind: str) -> None:
    """What is loaded is what encoding the decoded weights gives, to the bit."""
    path, values = stored_in(scheme, tmp_path)
    block = load(path, quantize=kind).weights.blocks[0]
    matrices = [block.attention.qkv, block.attention.out, block.mlp.gate_up, block.mlp.down]
    names = ["self_attn.q self_attn.k self_attn.v", "self_attn.o", "mlp.gate mlp.up", "mlp.down"]
    for linear, together in zip(matrices, names, strict=True):
        parts = [values[f"model.layers.0.{name}_proj.weight"] for name in together.split()]
        wanted = np.concatenate(parts)
        if scheme not in SMALL:
            wanted = decode(KINDS[kind], encode(KINDS[kind], wanted))
        assert (linear.weight.segments[0][0] == KINDS[kind].packed) == (scheme not in SMALL)
        np.testing.assert_array_equal(ops.unpack(linear.weight), wanted)


def test_quantize_leaves_what_is_small_enough(folders: Folders) -> None:
    path, _ = folders.get("gptq int4", "qwen2")
    with open_checkpoint(path) as checkpoint:
        small = requantised(checkpoint, "int8")
        made = {n: t.type.name for n, t in small.tensors.items() if n.endswith("_proj.weight")}
        assert set(made.values()) == {"Q4_0"}
        assert requantised(checkpoint, None) is checkpoint
        with pytest.raises(ParameterError, match="allowed: int8, int4, nf4, or none"):
            requantised(checkpoint, "int5")


def owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory a view keeps."""
    return owner(array.base) if isinstance(array.base, np.ndarray) else array


def cut_of_one(tensors: dict[str, np.ndarray], rows: list[int]) -> dict[str, Tensor]:
    """Query, key and value of a layer as cut of a matrix that is made; rows: told of each piece."""
    weights = [tensors[f"model.layers.0.self_attn.{x}_proj.weight"] for x in "qkv"]
    fused = np.concatenate(weights).view(np.uint8)
    shape = (len(fused), weights[0].shape[1])

    def make(a: int, b: int) -> np.ndarray:
        rows.append(b - a)
        return fused[a:b].copy()

    made = in_pieces(StoredType.F32, shape, make)
    tensor = Tensor("transformer.h.0.attn.c_attn.weight", StoredType.F32, shape, made)
    return dict(cut_attention(Path("fused"), tensor, "0", "weight"))


@pytest.mark.parametrize("quantize", ["int8", None])
def test_the_plan_holds_all_that_is_made_at_once(
    monkeypatch: pytest.MonkeyPatch, quantize: str | None
) -> None:
    """As many bytes as a group has when it is packed, though a matrix alone be larger.

    Not quantised while it is loaded, only Qwen1's fused matrix is made, each row of it once.
    """
    config = {**BLOCKED["qwen2"], "num_hidden_layers": 1, "num_key_value_heads": 4}
    held, rows = wild_tensors(config), list[int]()
    checkpoint = in_memory(config, held)
    if quantize is None:
        cut = cut_of_one(held, rows)
        checkpoint = replace(checkpoint, tensors={**checkpoint.tensors, **cut})
    pack_all, seen = ops.pack_all, [0]
    files = {id(owner(t.data)) for t in checkpoint.tensors.values() if not t.made}

    def counted(matrices: Any, *, mapped: bool) -> Any:
        owners = {id(owner(data)): owner(data) for parts in matrices for _, data, *_ in parts}
        seen.append(sum(o.nbytes for key, o in owners.items() if key not in files))
        return pack_all(matrices, mapped=mapped)

    monkeypatch.setattr(ops, "pack_all", counted)
    plans = {}
    for limit in (1, 100_000, 64 << 20):
        monkeypatch.setattr("qwick.model.load.MADE_BYTES", limit)
        del seen[1:], rows[:]
        load_model(checkpoint, quantize=quantize)
        assert sum(rows) == (0 if quantize else 3 * 256)
        plans[limit] = weight_bytes(checkpoint, quantize), max(seen)
    weights = plans[64 << 20][0] - (64 << 20)
    for limit, (planned, most) in plans.items():
        assert planned == weights + max(limit, most)
    assert plans[1][1] > 1
    assert plans[100_000][1] > 100_000


# Quants of up to 4 bits stay under "int4" and "nf4", of up to 8 under all.
FOUR = {"Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q4_K", "IQ4_NL", "IQ4_XS", "MXFP4", "Q4_Z", "NF4"}
EIGHT = FOUR | {"Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"}


@pytest.mark.parametrize("kind", KINDS)
def test_small_quants_are_not_rounded_again(kind: str) -> None:
    """Whatever their scales take: Q4_1 and Q4_Z are larger than what they would become."""
    name = "model.layers.0.mlp.up_proj.weight"
    row = {name: np.ones((8, 256), np.float32)}
    kept = set()
    for stored in StoredType:
        checkpoint = in_memory(CONFIGS["qwen3"], row, {name: stored})
        if requantised(checkpoint, kind).tensors[name] is checkpoint.tensors[name]:
            kept.add(stored.name)
        else:
            assert requantised(checkpoint, kind).tensors[name].nbytes < stored.row_bytes(256) * 8
    assert kept == (EIGHT if kind == "int8" else FOUR)


def test_numbers_that_cannot_be_encoded_are_told() -> None:
    tensors = wild_tensors(CONFIGS["qwen3"])
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 3] = np.nan
    with pytest.raises(FormatError, match=r"up_proj\.weight cannot be quantised"):
        load_model(in_memory(CONFIGS["qwen3"], tensors), quantize="int8")
