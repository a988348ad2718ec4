"""The numbers that reference libraries make of quantised matrices, for tests to compare with.

    python -m checks.quantised_vectors --autogptq FILE --autoawq FILE

Writes tests/formats/quantised.json: small matrices of random bits as each scheme stores them, and
what they decode to by bitsandbytes, compressed-tensors (MXFP4; FP8 too, where it must agree with
transformers) and transformers, which must be installed, by `QuantLinear` of AutoGPTQ
(auto_gptq/nn_modules/qlinear/qlinear_cuda.py) and `dequantize_gemm` of AutoAWQ
(awq/utils/packing_utils.py), whose packages need a GPU and whose files are given. Run once; what it
wrote is in the repository.
"""

from __future__ import annotations

import argparse
import base64
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np

from qwick.errors import QwickError

OUT = Path(__file__).parents[1] / "tests/formats/quantised.json"
NAMES = {
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.float8_e4m3fn": "F8_E4M3",
}
STEM = "model.layers.0.mlp.up_proj."


def told(tensor: Any) -> dict[str, Any]:
    """Return a torch tensor as the file has it: dtype, shape, bytes in base64."""
    import torch

    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return {
        "dtype": NAMES[str(tensor.dtype)],
        "shape": list(tensor.shape),
        "data": base64.b64encode(flat.numpy().tobytes()).decode(),
    }


def case(
    name: str, config: dict[str, Any], parts: dict[str, Any], weight: Any, dtype: str = "bfloat16"
) -> dict[str, Any]:
    """Return one entry: parts by the ends of their names, and the weight that they stand for."""
    return {
        "name": name,
        "dtype": dtype,
        "quantization_config": config,
        "parts": {STEM + end: told(value) for end, value in parts.items()},
        "weight": told(weight),
    }


def words(rng: np.random.Generator, *shape: int) -> Any:
    """Return random 32-bit words."""
    import torch

    return torch.from_numpy(rng.integers(0, 1 << 32, shape, np.uint32).view(np.int32))


def scales(rng: np.random.Generator, *shape: int) -> Any:
    """Return plausible scales, half of them negative, in float16."""
    import torch

    sign = rng.choice([-1.0, 1.0], shape)
    return torch.from_numpy((sign * rng.uniform(0.001, 0.1, shape)).astype(np.float16))


def gptq(rng: np.random.Generator, file: Path) -> list[dict[str, Any]]:
    """By AutoGPTQ's forward pass on the identity, whose sums have one term."""
    import torch

    linear = runpy.run_path(str(file))["QuantLinear"]
    n, k, found = 32, 96, []
    for bits, size, sym, act in (
        (4, 32, True, False),
        (4, 64, False, False),
        (4, 32, False, True),
        (4, -1, False, False),
        (8, 32, True, False),
        (8, 64, False, False),
    ):
        layer = linear(bits, size, k, n, False)
        layer.qweight = words(rng, *layer.qweight.shape)
        layer.qzeros = words(rng, *layer.qzeros.shape)
        if sym:
            layer.qzeros[:] = 0x77777777 if bits == 4 else 0x7F7F7F7F
        layer.scales = scales(rng, *layer.scales.shape)
        if act:
            layer.g_idx = layer.g_idx[torch.from_numpy(rng.permutation(k))]
        weight = layer(torch.eye(k, dtype=torch.float16)).T
        parts = {end: getattr(layer, end) for end in ("qweight", "qzeros", "scales", "g_idx")}
        config = {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": sym}
        config |= {"desc_act": act, "checkpoint_format": "gptq"}
        kind = "act-order" if act else "symmetric" if sym else "asymmetric"
        found.append(case(f"gptq {bits} bits, groups of {size}, {kind}", config, parts, weight))
    return found


def awq(rng: np.random.Generator, file: Path) -> list[dict[str, Any]]:
    """By AutoAWQ's dequantisation."""
    dequantize = runpy.run_path(str(file))["dequantize_gemm"]
    n, k, found = 16, 128, []
    for size in (32, 128):
        parts = {
            "qweight": words(rng, k, n // 8),
            "qzeros": words(rng, k // size, n // 8),
            "scales": scales(rng, k // size, n),
        }
        weight = dequantize(parts["qweight"], parts["qzeros"], parts["scales"], 4, size).T
        config = {"quant_method": "awq", "bits": 4, "group_size": size}
        config |= {"version": "gemm", "zero_point": True}
        found.append(case(f"awq, groups of {size}", config, parts, weight))
    return found


def fp8(rng: np.random.Generator) -> list[dict[str, Any]]:
    """By transformers, on whole blocks, whose edges are cut off; by the other with edges."""
    import torch
    from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import (
        FP8BlockDequantizer,
    )
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    decode = Fp8Dequantize(None)._dequantize_one
    again = FP8BlockDequantizer(weight_block_size=(8, 16))._create_dequantized_weight
    found = []
    for of, kept in ((torch.bfloat16, (24, 48)), (torch.float32, (20, 40))):
        bits = rng.integers(0, 256, (24, 48), np.uint8)
        bits[(bits & 127) == 127] = 0  # no NaN
        weight = torch.from_numpy(bits).view(torch.float8_e4m3fn)
        by = scales(rng, 3, 3).to(of)
        n, k = kept
        value = decode(weight, by, torch.bfloat16)[:n, :k]
        if not torch.equal(again(weight[:n, :k], by), value):
            raise QwickError("transformers and compressed-tensors decode FP8 to different numbers")
        parts = {"weight": weight[:n, :k], "weight_scale_inv": by}
        config = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
        config |= {"weight_block_size": [8, 16]}
        found.append(case(f"fp8, scales of {of}, {n} x {k}", config, parts, value))
    return found


def bitsandbytes(rng: np.random.Generator) -> list[dict[str, Any]]:
    """By bitsandbytes on this CPU."""
    import bitsandbytes.functional as bnb
    import torch

    found = []
    for kind, dtype, double, (n, k) in (
        ("nf4", torch.bfloat16, False, (16, 64)),
        ("fp4", torch.float16, False, (16, 64)),
        ("nf4", torch.bfloat16, True, (24, 768)),
        ("nf4", torch.float32, False, (15, 40)),
    ):
        value = torch.from_numpy(rng.standard_normal((n, k)).astype(np.float32)).to(dtype)
        packed, state = bnb.quantize_4bit(
            value, blocksize=64, compress_statistics=double, quant_type=kind
        )
        parts = {"weight": packed}
        parts |= {f"weight.{key}": v for key, v in state.as_dict(packed=True).items()}
        config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}
        config |= {"bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": double}
        name = f"bitsandbytes {kind}, {dtype}{', double' if double else ''}, {n} x {k}"
        found.append(case(name, config, parts, bnb.dequantize_4bit(packed, state)))
    value = torch.from_numpy(rng.standard_normal((12, 40)).astype(np.float16))
    quants, top, _ = bnb.int8_vectorwise_quant(value)
    weight = bnb.int8_vectorwise_dequant(quants, top).to(torch.float16)
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 6.0}
    parts = {"weight": quants, "SCB": top, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    found.append(case("bitsandbytes int8", config, parts, weight, "float16"))
    return found


def llm_int8(rng: np.random.Generator) -> list[dict[str, Any]]:
    """By bitsandbytes' forward pass on this CPU, with a column of outliers that it does not round.

    The entry has its inputs [m, k] and outputs [m, n] as well.
    """
    import bitsandbytes.functional as bnb
    import torch
    from bitsandbytes.autograd._functions import MatmulLtState, matmul

    n, k, column, threshold = 24, 64, 5, 6.0
    value = torch.from_numpy(rng.standard_normal((n, k)).astype(np.float16))
    quants, top, _ = bnb.int8_vectorwise_quant(value)
    inputs = torch.from_numpy(rng.uniform(-3, 3, (4, k)).astype(np.float16))
    inputs[:, column] *= 20
    state = MatmulLtState()
    state.is_training = False  # while training it takes another way on a CPU
    state.CB, state.SCB = quants, top
    state.threshold, state.has_fp16_weights = threshold, False
    outputs = matmul(inputs.clone(), quants, state=state)
    if state.idx.tolist() != [column]:
        raise QwickError(f"the outliers are {state.idx.tolist()}; the column {column} is wanted")
    weight = bnb.int8_vectorwise_dequant(quants, top).to(torch.float16)
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    config |= {"llm_int8_threshold": threshold}
    parts = {"weight": quants, "SCB": top, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    found = case("bitsandbytes int8 with outliers", config, parts, weight, "float16")
    return [found | {"column": column, "inputs": told(inputs), "outputs": told(outputs)}]


def mxfp4(rng: np.random.Generator) -> list[dict[str, Any]]:
    """By compressed-tensors; powers of two from the least to the last that keeps 6 finite."""
    import torch
    from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
    from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme

    form, found = "mxfp4-pack-quantized", []
    for preset, n, k, powers in (("MXFP4A16", 24, 96, (107, 148)), ("MXFP4", 17, 160, (0, 253))):
        scheme = preset_name_to_scheme(preset, ["Linear"])
        config = QuantizationConfig(
            config_groups={"group_0": scheme.model_copy(update={"format": form})},
            format=form,
            quantization_status="compressed",
            ignore=["lm_head"],
        )
        quants = rng.integers(0, 256, (n, k // 2), np.uint8)
        exponents = rng.integers(*powers, (n, k // 32), np.uint8)
        exponents[0, :2] = powers[0], powers[1] - 1
        parts = {
            "weight_packed": torch.from_numpy(quants),
            "weight_scale": torch.from_numpy(exponents),
        }
        weight = MXFP4PackedCompressor.decompress(parts, scheme)["weight"]
        said = json.loads(config.model_dump_json())
        found.append(case(f"compressed-tensors {preset}, {n} x {k}", said, parts, weight))
    return found


def main() -> int:
    """Write the file; 0 if it was written."""
    parser = argparse.ArgumentParser(
        prog="python -m checks.quantised_vectors", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--autogptq", type=Path, required=True, help="AutoGPTQ's qlinear_cuda.py")
    parser.add_argument("--autoawq", type=Path, required=True, help="AutoAWQ's packing_utils.py")
    arguments = parser.parse_args()
    rng = np.random.default_rng(20)
    cases = [
        *gptq(rng, arguments.autogptq),
        *awq(rng, arguments.autoawq),
        *fp8(rng),
        *bitsandbytes(rng),
        *mxfp4(np.random.default_rng(21)),
        *llm_int8(np.random.default_rng(22)),
    ]
    OUT.write_text(json.dumps(cases, indent=1) + "\n", "utf-8")
    print(f"{len(cases)} matrices, {OUT.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QwickError as error:
        sys.exit(f"error: {error}")
