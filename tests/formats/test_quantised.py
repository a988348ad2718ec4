"""Quantised folders: decoded as their reference libraries decode, and refused where damaged.

quantised.json holds what those libraries made of random bits (checks/quantised_vectors.py).
"""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.quantisers import SCHEMES, quantised, write_parts
from formats.samples import CONFIG
from qwick.errors import ConfigError, FormatError, QwickError, UnsupportedError
from qwick.formats.open import open_checkpoint
from qwick.formats.quantised.compressed_tensors import _pattern
from qwick.formats.quantised.fp8 import e4m3
from qwick.formats.quantised.parts import Settings
from qwick.quant.decode import decode
from qwick.quant.encode import encode
from qwick.quant.types import StoredType

CASES = json.loads((Path(__file__).parent / "quantised.json").read_text("utf-8"))
NAME = "model.layers.0.mlp.up_proj.weight"
NEGATIVE_ZERO = 0x8000  # of bfloat16
SIZES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I8": "i1"}


def array(told: dict[str, Any]) -> np.ndarray:
    raw = np.frombuffer(base64.b64decode(told["data"]), SIZES.get(told["dtype"], "u1"))
    return raw.reshape(told["shape"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_numbers_of_the_reference_library(tmp_path: Path, case: dict[str, Any]) -> None:
    """Bit for bit; what is kept as exact blocks is rounded here as the library rounds it.

    Of e2m1, blocks have one zero: they know no -0.
    """
    config = {**CONFIG, "torch_dtype": case["dtype"]}
    config["quantization_config"] = case["quantization_config"]
    parts = {name: (told["dtype"], array(told)) for name, told in case["parts"].items()}
    write_parts(tmp_path, config, parts)
    with open_checkpoint(tmp_path) as checkpoint:
        assert "quantization_config" not in checkpoint.config
        tensor = checkpoint.tensors[NAME]
        assert tensor.nbytes == tensor.data.size
        found = decode(tensor.type, tensor.data.reshape(tensor.shape[0], -1))
    wanted = case["weight"]
    assert list(found.shape) == wanted["shape"]
    theirs = StoredType[wanted["dtype"]]
    raw = encode(theirs, found).view(SIZES[wanted["dtype"]])
    numbers = array(wanted)
    if tensor.type is StoredType.MXFP4:
        numbers = np.where(numbers == NEGATIVE_ZERO, 0, numbers)
    np.testing.assert_array_equal(raw, numbers)


def test_which_class_each_becomes(tmp_path: Path) -> None:
    kinds = {}
    for case in CASES:
        path = tmp_path / case["name"].replace(" ", "-")
        parts = {name: (told["dtype"], array(told)) for name, told in case["parts"].items()}
        write_parts(path, {**CONFIG, "quantization_config": case["quantization_config"]}, parts)
        with open_checkpoint(path) as checkpoint:
            kinds[case["name"]] = checkpoint.tensors[NAME].type.name
    gptq = {name[5:]: kind for name, kind in kinds.items() if name.startswith("gptq")}
    assert gptq == {
        "4 bits, groups of 32, symmetric": "Q4_0",
        "4 bits, groups of 64, asymmetric": "Q4_Z",
        "4 bits, groups of 32, act-order": "F16",
        "4 bits, groups of -1, asymmetric": "Q4_Z",
        "8 bits, groups of 32, symmetric": "Q8_0",
        "8 bits, groups of 64, asymmetric": "F16",
    }
    assert {kind for name, kind in kinds.items() if name.startswith("awq")} == {"Q4_Z"}
    assert {kind for name, kind in kinds.items() if "MXFP4" in name} == {"MXFP4"}


def test_activations_are_rounded_by_others_only(tmp_path: Path) -> None:
    """LLM.int8() as bitsandbytes runs it, but for what rounding its activations may come to.

    Those of a row, the column of outliers apart, are rounded to 127ths of their largest magnitude,
    by half a step at most; weights of outliers, and sums twice, to float16.
    """
    (case,) = [case for case in CASES if "inputs" in case]
    parts = {name: (told["dtype"], array(told)) for name, told in case["parts"].items()}
    write_parts(tmp_path, {**CONFIG, "quantization_config": case["quantization_config"]}, parts)
    with open_checkpoint(tmp_path) as checkpoint:
        tensor = checkpoint.tensors[NAME]
        weight = decode(tensor.type, tensor.data.reshape(tensor.shape[0], -1)).astype(np.float64)
    x, theirs = (array(case[key]).astype(np.float64) for key in ("inputs", "outputs"))
    plain = np.delete(np.arange(x.shape[1]), case["column"])
    step = np.abs(x[:, plain]).max(axis=1, keepdims=True) / 127
    limit = step / 2 * np.abs(weight[:, plain]).sum(axis=1) + 2.0**-10 * (
        np.abs(x) @ np.abs(weight).T
    )
    error = np.abs(x @ weight.T - theirs)
    assert (error <= limit).all()
    assert error.max() > 0
    all_rounded = np.abs(x).max(axis=1, keepdims=True) / 127
    rough = np.rint(x / all_rounded) * all_rounded @ weight.T
    assert np.abs(rough - theirs).mean() > 5 * error.mean()


def test_the_threshold_of_outliers_changes_no_weight(tmp_path: Path) -> None:
    found = []
    for threshold in (0.0, 6.0, None):
        config, parts = sample("bitsandbytes int8")
        config["llm_int8_threshold"] = threshold
        write_parts(tmp_path / str(threshold), {**CONFIG, "quantization_config": config}, parts)
        with open_checkpoint(tmp_path / str(threshold)) as checkpoint:
            found.append(checkpoint.tensors[NAME].data)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_e4m3_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).to(torch.float32)
    np.testing.assert_array_equal(e4m3(), theirs.numpy())


def sample(scheme: str) -> tuple[dict[str, Any], dict[str, tuple[str, np.ndarray]]]:
    rng = np.random.default_rng(1)
    value = rng.standard_normal((128, 256)).astype(np.float32)
    return copy.deepcopy(SCHEMES[scheme][0]), quantised(scheme, {NAME: value})[0]


def put(end: str, change: Callable[[np.ndarray], np.ndarray], dtype: str | None = None) -> Any:
    """Return what changes one part."""

    def damage(config: dict[str, Any], parts: dict[str, tuple[str, np.ndarray]]) -> None:
        name = NAME[: -len("weight")] + end
        parts[name] = (dtype or parts[name][0], change(parts[name][1]))

    return damage


def drop(end: str) -> Any:
    return lambda config, parts: parts.pop(NAME[: -len("weight")] + end)


def say(**given: Any) -> Any:
    return lambda config, parts: config.update(given)


def group(**given: Any) -> Any:
    """Return what changes the group of compressed-tensors."""
    return lambda config, parts: config["config_groups"]["group_0"].update(given)


def weights(**given: Any) -> Any:
    return lambda config, parts: config["config_groups"]["group_0"]["weights"].update(given)


STATE = "weight.quant_state.bitsandbytes__nf4"


def state(**given: Any) -> Any:
    def change(raw: np.ndarray) -> np.ndarray:
        text = json.dumps({**json.loads(raw.tobytes()), **given})
        return np.frombuffer(text.encode(), np.uint8)

    return put(STATE, change)


DAMAGE: dict[str, tuple[str, Any, str]] = {
    "no scales": ("gptq int4", drop("scales"), r"up_proj.scales' is missing"),
    "no zeros": ("awq", drop("qzeros"), r"up_proj.qzeros' is missing"),
    "few groups": ("gptq int4", put("scales", lambda a: a[:1]), r"scales' has the shape \[1, 128"),
    "wide zeros": ("gptq int4", put("qzeros", lambda a: a[:, :-1]), r"qzeros' has the shape"),
    "zeros as U8": ("gptq int4", put("qzeros", np.uint8, "U8"), r"qzeros' is U8; allowed: I32"),
    "a group too many": (
        "gptq act-order",
        put("g_idx", lambda a: a + 1),
        r"g_idx' holds groups from 1 to 8; there are 8",
    ),
    "a group below": ("gptq act-order", put("g_idx", lambda a: a - 1), r"groups from -1 to 6"),
    "a short g_idx": ("gptq act-order", put("g_idx", lambda a: a[:-1]), r"g_idx' has the shape"),
    "a bias": (
        "gptq int4",
        put("bias", lambda a: a + np.float16(1)),
        r"bias' is not zero; no model",
    ),
    "a NaN bias": ("gptq int4", put("bias", lambda a: a * np.float16("nan")), r"bias' is not zero"),
    "a short bias": ("gptq int4", put("bias", lambda a: a[:-1]), r"bias' has the shape \[127\]"),
    "not symmetric": ("gptq asymmetric", say(sym=True), r"off the middle.*set sym to false"),
    "3 bits": ("gptq int4", say(bits=3), r"gptq with bits 3 is not supported; allowed: 4, 8"),
    "rules": ("gptq int4", say(dynamic={"+:.*": {"bits": 8}}), r"dynamic rules"),
    "marlin": ("gptq int4", say(checkpoint_format="marlin"), r"checkpoint_format 'marlin'"),
    "no group": ("gptq int4", say(group_size=0), r"group_size of gptq is 0; allowed: -1"),
    "an unknown key": (
        "gptq int4",
        say(rotation="hadamard"),
        r"has 'rotation', which is not",
    ),
    "gemv": ("awq", say(version="gemv"), r"awq with version 'gemv' is not supported"),
    "no zero points": ("awq", say(zero_point=False), r"zero_point False is not supported"),
    "odd groups": ("awq", say(group_size=96), r"256 inputs; a multiple of group_size 96"),
    "twice": (
        "awq",
        lambda config, parts: parts.update({NAME: ("F32", np.zeros((128, 256), np.float32))}),
        r"is there both quantised and as it is",
    ),
    "left over": (
        "awq",
        lambda config, parts: parts.update({"model.g_idx": ("I32", np.zeros(4, np.int32))}),
        r"'model.g_idx' \(I32\) belongs to no quantised matrix",
    ),
    "nothing": ("awq", lambda config, parts: parts.clear(), r"says awq, but no matrix is"),
    "static": ("fp8", say(activation_scheme="static"), r"activation_scheme 'static'"),
    "e5m2": ("fp8", say(fmt="e5m2"), r"fmt 'e5m2' is not supported; allowed: 'e4m3'"),
    "no blocks": ("fp8", say(weight_block_size=None), r"weight_block_size None"),
    "a small grid": (
        "fp8",
        put("weight_scale_inv", lambda a: a[:, :-1]),
        r"weight_scale_inv' has the shape \[1, 2\], expected \[1, 3\]",
    ),
    "no weight": ("fp8", drop("weight"), r"up_proj.weight' is missing"),
    "no FP8": ("fp8", put("weight", lambda a: a, "U8"), r"is U8; allowed: F8_E4M3"),
    "few nibbles": (
        "bitsandbytes nf4",
        put("weight", lambda a: a[:-1]),
        r"; 128 x 256 values need",
    ),
    "few scales": ("bitsandbytes nf4", put("weight.absmax", lambda a: a[:-1]), r"absmax' has the"),
    "no state": ("bitsandbytes nf4", drop(STATE), r"says bitsandbytes, but no matrix"),
    "no JSON": ("bitsandbytes nf4", put(STATE, lambda a: a[:-1]), r"is not valid JSON"),
    "no text": ("bitsandbytes nf4", put(STATE, lambda a: a | 128), r"is not UTF-8"),
    "no shape": ("bitsandbytes nf4", state(shape=[1 << 40, 2]), r"no matrix is that"),
    "no block size": ("bitsandbytes nf4", state(blocksize=0), r"no matrix is that"),
    "another type": ("bitsandbytes nf4", state(quant_type="fp4"), r"no matrix is that"),
    "no rows": ("bitsandbytes int8", put("SCB", lambda a: a[:-1]), r"SCB' has the shape"),
    "columns": (
        "bitsandbytes int8",
        put("weight_format", lambda a: a + np.uint8(1)),
        r"weight_format' is \[1\]; allowed: 0",
    ),
    "no powers": ("mxfp4", drop("weight_scale"), r"up_proj.weight_scale' is missing"),
    "few powers": ("mxfp4", put("weight_scale", lambda a: a[:, 1:]), r"weight_scale' has the"),
    "a NaN power": (
        "mxfp4",
        put("weight_scale", lambda a: np.where(a == a.max(), np.uint8(255), a)),
        r"weight_scale' holds 255",
    ),
    "half a block": (
        "mxfp4",
        put("weight_packed", lambda a: a[:, :-4]),
        r"weight_packed' has 248 inputs; a multiple of 32 is expected",
    ),
    "packed integers": ("mxfp4", say(format="pack-quantized"), r"with format 'pack-quantized'"),
    "no format": ("mxfp4", say(format=None), r"with format 'fakequant' is not supported"),
    "a cache in FP8": ("mxfp4", say(kv_cache_scheme={"num_bits": 8}), r"has 'kv_cache_scheme'"),
    "sparse": ("mxfp4", say(sparsity_config={"format": "dense"}), r"with sparsity_config"),
    "rotated": ("mxfp4", say(transform_config={"config_groups": {}}), r"with transform_config"),
    "no groups": ("mxfp4", say(config_groups={}), r"config_groups {} is not supported"),
    "a preset": ("mxfp4", say(config_groups={"MXFP4": ["Linear"]}), r"allowed: objects with"),
    "ignored": ("mxfp4", say(ignore=["re:.*up_proj$"]), r"weight_packed' is left out by what"),
    "not a target": ("mxfp4", group(targets=["lm_head"]), r"weight_packed' is left out by what"),
    "targets as a text": ("mxfp4", group(targets="Linear"), r"targets 'Linear' is not supported"),
    "a rich pattern": ("mxfp4", say(ignore=["re:(a+)+$"]), r"ignore 're:\(a\+\)\+\$' is not"),
    "many patterns": ("mxfp4", say(ignore=[f"re:{i}" for i in range(33)]), r"allowed: 32 patterns"),
    "not quantised": (
        "mxfp4",
        lambda config, parts: (
            parts.update({"lm_head.weight": ("F32", np.zeros((2, 2), np.float32))})
            or config.update(ignore=[])
        ),
        r"lm_head.weight' is quantised by what quantization_config",
    ),
    "static inputs": ("mxfp4", group(input_activations={"dynamic": False}), r"and dynamic ones"),
    "outputs": ("mxfp4", group(output_activations={"dynamic": True}), r"has 'output_activations'"),
    "8 bits": ("mxfp4", weights(num_bits=8), r"num_bits 8 is not supported; allowed: 4"),
    "integers": ("mxfp4", weights(type="int"), r"type 'int' is not supported; allowed: 'float'"),
    "groups of 16": ("mxfp4", weights(group_size=16), r"group_size 16 is not supported"),
    "no size": ("mxfp4", weights(group_size=None), r"group_size 0 is not supported"),
    "zero points": ("mxfp4", weights(symmetric=False), r"symmetric False is not supported"),
    "reordered": ("mxfp4", weights(actorder="group"), r"has 'actorder', which is not known"),
    "not an object": ("awq", None, r"quantization_config is 'awq'; an object is wanted"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    scheme, change, message = DAMAGE[damage]
    config, parts = sample(scheme)
    if change is not None:
        change(config, parts)
    given = config if change is not None else "awq"
    write_parts(tmp_path, {**CONFIG, "quantization_config": given}, parts)
    with pytest.raises(QwickError, match=message) as caught, open_checkpoint(tmp_path) as found:
        _ = found.tensors[NAME].data
    assert isinstance(caught.value, (FormatError, UnsupportedError))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("dtype", [["a"], {"a": 1}, 7, "float8"])
def test_a_dtype_that_is_none(tmp_path: Path, dtype: Any) -> None:
    config, parts = sample("awq")
    given = {**CONFIG, "torch_dtype": dtype, "quantization_config": config}
    write_parts(tmp_path, given, parts)
    with pytest.raises(ConfigError, match=r"torch_dtype in config.json is .*; allowed: bfloat16"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "offset", [10**400, -(10**400), 1e39, True, "1", None], ids=lambda it: str(it)[:6]
)
def test_an_offset_that_is_no_float32(tmp_path: Path, offset: Any) -> None:
    """An integer of any length is valid JSON."""
    (case,) = [c for c in CASES if "double" in c["name"]]
    parts = {name: (told["dtype"], array(told)) for name, told in case["parts"].items()}
    (name,) = [name for name in parts if name.endswith("bitsandbytes__nf4")]
    said = {**json.loads(parts[name][1].tobytes()), "nested_offset": offset}
    parts[name] = ("U8", np.frombuffer(json.dumps(said).encode(), np.uint8))
    write_parts(tmp_path, {**CONFIG, "quantization_config": case["quantization_config"]}, parts)
    with pytest.raises(FormatError, match=r"and nested_offset .*; allowed: from 1, and a float32"):
        open_checkpoint(tmp_path)


def test_zero_biases_go_and_a_models_own_stay(tmp_path: Path) -> None:
    """AutoGPTQ writes one beside every matrix, zeros where the model has none."""
    config, parts = sample("gptq int4")
    stem = NAME[: -len("weight")]
    stored = {}
    for name in ("q_proj.", "o_proj.", "attn.c_attn.", "mlp.w1.", "mlp.c_proj."):
        stored |= {end.replace(stem, name): part for end, part in parts.items()}
        if name in ("q_proj.", "attn.c_attn."):
            stored[name + "bias"] = ("F16", np.ones(128, np.float16))
    write_parts(tmp_path, {**CONFIG, "quantization_config": config}, stored)
    with open_checkpoint(tmp_path) as checkpoint:
        biases = {name for name in checkpoint.tensors if name.endswith("bias")}
    assert biases == {"q_proj.bias", "attn.c_attn.bias"}


STEMS = ["lm_head", "model.layers.11.mlp.gate", "model.layers.1.mlp.gate_proj", "a.mlp.gateXb"]


@pytest.mark.parametrize(
    "pattern",
    [
        ".*mlp.gate$",
        ".*mlp\\.gate.*",
        "^lm_head$",
        "lm_head",
        "head",
        "",
        "$",
        ".*",
        ".*$",
        "model.layers.1.",
        "model.*1.*gate",
        "model.*1.*gate.*proj$",
        ".*gate.*gate",
        ".*.*b$",
        "model$",
        "a.mlp.gate.$",
    ],
)
def test_patterns_mean_what_re_makes_of_them(pattern: str) -> None:
    found = _pattern(pattern)
    assert found is not None
    for stem in STEMS:
        assert bool(found.match(stem)) == bool(re.match(pattern, stem)), stem


def test_a_pattern_is_matched_without_going_back() -> None:
    """re itself would take longer than the universe has been."""
    found = _pattern("a.*" * 60 + "b$")
    assert found is not None
    assert not found.match("a" * 1024)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_key_is_both_read_and_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A key that is named idle may say anything: one that is read may not."""
    idle: list[set[str]] = []
    monkeypatch.setattr(Settings, "finish", lambda it, *keys: idle.append(it._read & set(keys)))
    config, parts = sample(scheme)
    write_parts(tmp_path, {**CONFIG, "quantization_config": config}, parts)
    with open_checkpoint(tmp_path):
        assert idle
        assert not any(idle)


def test_pieces_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted eight rows at a time, in odd remainders, or in part, a matrix is the same."""
    for scheme in SCHEMES:
        config, parts = sample(scheme)
        path = tmp_path / scheme
        write_parts(path, {**CONFIG, "quantization_config": config}, parts)
        with open_checkpoint(path) as checkpoint:
            whole = checkpoint.tensors[NAME].data
            monkeypatch.setattr("qwick.formats.quantised.parts.PIECE", 24 * 256)
            tensor = checkpoint.tensors[NAME]
            np.testing.assert_array_equal(tensor.data, whole)
            size = whole.size // 128
            for a, b in ((0, 8), (3, 30), (24, 51), (101, 128)):
                np.testing.assert_array_equal(tensor.rows(a, b), whole[a * size : b * size])
            monkeypatch.undo()
