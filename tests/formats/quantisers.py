"""Matrices quantised by each scheme, simply, and folders of them: what a test loads.

Written from the descriptions of the formats, a loop at a time, and not from their readers. Each
quantiser takes w: F32[n, k] and gives the parts by the ends of their names, (dtype, array), and the
F32 weights that they stand for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

F32 = np.ndarray
Parts = dict[str, tuple[str, np.ndarray]]
Quantiser = Callable[[F32], tuple[Parts, F32]]

NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
NF4 += [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
NF4 += [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
NF4 += [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
PROJECTIONS = ("_proj.weight", "c_attn.weight", "w1.weight", "w2.weight")
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def packed(quants: np.ndarray, bits: int) -> np.ndarray:
    """Quants [rows, m] -> I32[rows, m bits / 32], the first lowest."""
    each = 32 // bits
    words = np.zeros((len(quants), quants.shape[1] // each), np.uint32)
    for i in range(each):
        words |= quants[:, i::each].astype(np.uint32) << np.uint32(bits * i)
    return words.view(np.int32)


def grouped(
    w: F32, bits: int, group_of: np.ndarray, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, F32]:
    """Return quants [n, k], zero points and float16 scales [n, groups], and the values."""
    top = (1 << bits) - 1
    groups = group_of.max() + 1
    zeros, scales = np.zeros((len(w), groups), int), np.zeros((len(w), groups), np.float16)
    quants, values = np.zeros(w.shape, int), np.zeros(w.shape, np.float32)
    for g in range(groups):
        x = w[:, group_of == g].astype(np.float64)
        low, high = np.minimum(x.min(1), -1e-3), np.maximum(x.max(1), 1e-3)
        if symmetric:
            low, high = -np.maximum(-low, high), np.maximum(-low, high)
        scale = ((high - low) / top).astype(np.float16)
        zero = np.full(len(w), (top + 1) // 2) if symmetric else np.rint(-low / scale)
        zero = zero.clip(1, top).astype(int)
        q = (np.rint(x / scale[:, None]) + zero[:, None]).clip(0, top).astype(int)
        values[:, group_of == g] = scale[:, None].astype(np.float64) * (q - zero[:, None])
        quants[:, group_of == g], zeros[:, g], scales[:, g] = q, zero, scale
    return quants, zeros, scales, values


def gptq(
    bits: int, size: int, *, symmetric: bool = False, shuffled: bool = False, less: int = 1
) -> Quantiser:
    def quantise(w: F32) -> tuple[Parts, F32]:
        k = w.shape[1]
        group_of = np.arange(k) // (k if size == -1 else size)
        if shuffled:
            group_of = np.random.default_rng(k).permutation(group_of)
        quants, zeros, scales, values = grouped(w, bits, group_of, symmetric)
        if shuffled or (bits == 8 and not symmetric):  # decoded to the scales' dtype
            values = values.astype(np.float16).astype(np.float32)
        return {
            "qweight": ("I32", np.ascontiguousarray(packed(quants, bits).T)),
            "qzeros": ("I32", packed(zeros.T - less, bits)),
            "scales": ("F16", np.ascontiguousarray(scales.T)),
            "g_idx": ("I32", group_of.astype(np.int32)),
            "bias": ("F16", np.zeros(len(w), np.float16)),  # as AutoGPTQ does: see `quantised`
        }, values

    return quantise


def awq(size: int) -> Quantiser:
    def quantise(w: F32) -> tuple[Parts, F32]:
        n, k = w.shape
        quants, zeros, scales, values = grouped(w, 4, np.arange(k) // size, symmetric=False)
        mixed = np.concatenate([8 * j + np.array(AWQ_ORDER) for j in range(n // 8)])
        return {
            "qweight": ("I32", packed(quants.T[:, mixed], 4)),
            "qzeros": ("I32", packed(zeros.T[:, mixed], 4)),
            "scales": ("F16", np.ascontiguousarray(scales.T)),
        }, values

    return quantise


def fp8(block: tuple[int, int]) -> Quantiser:
    def quantise(w: F32) -> tuple[Parts, F32]:
        n, k = w.shape
        grid = (-(-n // block[0]), -(-k // block[1]))
        stored, scales = np.zeros((n, k), np.uint8), np.zeros(grid, np.float32)
        values = np.zeros((n, k), np.float32)
        for i in range(grid[0]):
            for j in range(grid[1]):
                at = np.s_[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
                scale = np.float32(np.abs(w[at]).max() / 448)
                eight = torch.from_numpy(w[at] / scale).to(torch.float8_e4m3fn)
                stored[at], scales[i, j] = eight.view(torch.uint8).numpy(), scale
                decoded = eight.to(torch.float32) * torch.tensor(scale)
                values[at] = decoded.to(torch.bfloat16).to(torch.float32).numpy()
        return {"weight": ("F8_E4M3", stored), "weight_scale_inv": ("F32", scales)}, values

    return quantise


def nf4(w: F32) -> tuple[Parts, F32]:
    n, k = w.shape
    blocks = w.reshape(-1, 64)
    top = np.abs(blocks).max(1)
    table = np.array(NF4, np.float32)
    places = np.abs(blocks[:, :, None] / top[:, None, None] - table).argmin(2).astype(np.uint8)
    values = torch.from_numpy(table[places] * top[:, None]).to(torch.bfloat16)
    pairs = places.reshape(-1, 2)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [n, k]}
    said = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return {
        "weight": ("U8", (pairs[:, :1] << 4 | pairs[:, 1:]).astype(np.uint8)),
        "weight.absmax": ("F32", top),
        "weight.quant_map": ("F32", table),
        "weight.quant_state.bitsandbytes__nf4": ("U8", said),
    }, values.to(torch.float32).numpy().reshape(n, k)


def int8(w: F32) -> tuple[Parts, F32]:
    top = np.abs(w).max(1)
    quants = np.rint(w / top[:, None] * 127).astype(np.int8)
    values = torch.from_numpy(quants * top[:, None] * np.float32(7.874015718698502e-3))
    return {
        "weight": ("I8", quants),
        "SCB": ("F32", top),
        "weight_format": ("U8", np.zeros((), np.uint8)),
    }, values.to(torch.bfloat16).to(torch.float32).numpy()


def mxfp4(w: F32) -> tuple[Parts, F32]:
    n, k = w.shape
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    powers, quants = np.zeros((n, k // 32), int), np.zeros((n, k), np.uint8)
    values = np.zeros((n, k), np.float32)
    for g in range(k // 32):
        x = w[:, 32 * g : 32 * g + 32]
        powers[:, g] = np.floor(np.log2(np.abs(x).max(1))) - 2
        scale = np.exp2(powers[:, g, None]).astype(np.float32)
        places = np.abs(np.abs(x / scale)[:, :, None] - levels).argmin(2)
        values[:, 32 * g : 32 * g + 32] = np.copysign(levels[places] * scale, x)
        quants[:, 32 * g : 32 * g + 32] = places + 8 * (x < 0)
    return {
        "weight_packed": ("U8", quants[:, ::2] | quants[:, 1::2] << 4),
        "weight_scale": ("U8", (powers + 127).astype(np.uint8)),
    }, values


def compressed(**weights: Any) -> dict[str, Any]:
    """What llm-compressor writes for MXFP4."""
    said = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group"}
    said |= {"group_size": 32, "dynamic": False, "scale_dtype": "torch.uint8", **weights}
    group = {"targets": ["Linear"], "weights": said, "input_activations": None}
    group |= {"output_activations": None, "format": "mxfp4-pack-quantized"}
    return {
        "quant_method": "compressed-tensors",
        "format": "mxfp4-pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*mlp.gate$"],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


SCHEMES: dict[str, tuple[dict[str, Any], Quantiser]] = {
    "gptq int4": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False},
        gptq(4, 128, symmetric=True),
    ),
    "gptq int8": (
        {"quant_method": "gptq", "bits": 8, "group_size": 64, "sym": True},
        gptq(8, 64, symmetric=True),
    ),
    "gptq asymmetric": (
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False},
        gptq(4, 32),
    ),
    "gptq_v2 of whole rows": (
        {"quant_method": "gptq", "bits": 4, "group_size": -1, "checkpoint_format": "gptq_v2"},
        gptq(4, -1, less=0),
    ),
    "gptq act-order": (
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": True},
        gptq(4, 32, shuffled=True),
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True},
        awq(64),
    ),
    "fp8": (
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "weight_block_size": [128, 96],
            "modules_to_not_convert": ["lm_head"],
        },
        fp8((128, 96)),
    ),
    "bitsandbytes nf4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        nf4,
    ),
    "bitsandbytes int8": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 6.0},
        int8,
    ),
    "mxfp4": (compressed(), mxfp4),
}


def quantised(
    scheme: str, tensors: Mapping[str, F32]
) -> tuple[dict[str, tuple[str, np.ndarray]], dict[str, F32]]:
    """Return all tensors of a folder, every projection quantised, and the weights it stands for.

    Qwen1's own names will do as well.
    """
    stored: dict[str, tuple[str, np.ndarray]] = {}
    weights = dict(tensors)
    for name, value in tensors.items():
        if name.endswith(PROJECTIONS):
            parts, weights[name] = SCHEMES[scheme][1](value)
            stem = name[: -len("weight")]
            if stem.endswith(("q_proj.", "k_proj.", "v_proj.", "c_attn.")):
                parts.pop("bias", None)  # it is the model's own, if there is one
            stored.update({stem + end: part for end, part in parts.items()})
        else:
            stored[name] = ("F32", value)
    return stored, weights


def write_parts(
    path: Path, config: Mapping[str, Any], stored: Mapping[str, tuple[str, np.ndarray]]
) -> None:
    """Write a folder whose safetensors file has tensors of any dtype."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(dict(config)), "utf-8")
    header, at = {}, 0
    for name, (dtype, value) in stored.items():
        end = at + value.nbytes
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, value in stored.values():
            file.write(np.ascontiguousarray(value).tobytes())
