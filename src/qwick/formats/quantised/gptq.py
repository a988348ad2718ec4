"""GPTQ folders (Frantar et al. 2022), as AutoGPTQ and GPTQModel write them.

Of a matrix [n, k] with groups of g columns: qweight I32[k bits / 32, n] holds 32 / bits quants of a
column of outputs in a word, the first lowest; qzeros I32[groups, n bits / 32] likewise, less one
(checkpoint_format "gptq"; "gptq_v2": as they are); scales [groups, n]; g_idx I32[k], the group of
each column, in any order (desc_act), or absent: i // g. AutoGPTQ writes a bias [n] beside each,
zeros where the model has none.

Source: QuantLinear.forward in auto_gptq/nn_modules/qlinear/qlinear_cuda.py (AutoGPTQ):
weight = scales[g_idx] * (q - (zeros + 1)[g_idx]).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qwick.errors import UnsupportedError, shown
from qwick.formats.checkpoint import Tensor
from qwick.formats.quantised.integers import Integers, nibbles, octets
from qwick.formats.quantised.parts import FLOATS, U8, Parts, Settings, fault

# How a checkpoint was made, and how others run it.
IDLE = (
    "act_group_aware",
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "desc_act",  # g_idx says it
    "disable_exllama",
    "exllama_config",
    "lm_head",  # whether there is lm_head.qweight says it
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_not_convert",
    "mse",
    "pad_token_id",
    "quant_type",
    "static_groups",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
)


BIASED = ("q_proj", "k_proj", "v_proj", "c_attn")  # which have a bias in models of the family


def read(settings: Settings, parts: Parts) -> dict[str, Tensor]:
    """Return the quantised matrices; errors as `read_quantised`."""
    bits = settings.one_of("bits", 4, 4, 8)
    group_size = settings.group_size(128)
    symmetric = settings.one_of("sym", False, True, False)
    known = ("gptq", "gptq_v2")
    layout = settings.one_of("checkpoint_format", None, *known)
    layout = settings.one_of("format", layout, *known) or "gptq"
    settings.one_of("is_marlin_format", False, False)
    settings.one_of("pack_dtype", "int32", "int32")
    settings.one_of("method", "gptq", "gptq")
    dynamic = settings.take("dynamic") or {}
    if not isinstance(dynamic, dict) or not all(rule.startswith("-") for rule in dynamic):
        raise UnsupportedError(
            f"{settings.path}: GPTQ with the dynamic rules {shown(dynamic)} is not supported; "
            "allowed: none, and such as leave matrices out (-: ...)"
        )
    settings.finish(*IDLE)
    less = 0 if layout == "gptq_v2" else 1
    found = {}
    for stem in parts.ending(".qweight"):
        matrix = _matrix(parts, stem, bits, group_size, less, symmetric)
        found[matrix.name] = matrix.tensor(parts)
    return found


def _matrix(
    parts: Parts, stem: str, bits: int, group_size: int, less: int, symmetric: bool
) -> Integers:
    each = 32 // bits
    qweight = parts.take(stem + ".qweight", ("I32",), (None, None))
    k, n = qweight.shape[0] * each, qweight.shape[1]
    size = k if group_size == -1 else group_size
    groups = -(-k // size)
    scales = parts.take(stem + ".scales", FLOATS, (groups, n))
    qzeros = parts.take(stem + ".qzeros", ("I32",), (groups, n // each))
    if n % each:
        raise fault(parts, qweight.name, f"has {n} outputs; a multiple of {each} is expected")
    group_of = np.arange(k, dtype=np.int32) // np.int32(size)
    if stem + ".g_idx" in parts:
        group_of = parts.take(stem + ".g_idx", ("I32", "I64"), (k,)).numbers()
        if group_of.min() < 0 or group_of.max() >= groups:
            raise fault(
                parts,
                stem + ".g_idx",
                f"holds groups from {group_of.min()} to {group_of.max()}; there are {groups}",
            )
    if stem.rpartition(".")[2] not in BIASED and stem + ".bias" in parts:
        bias = parts.take(stem + ".bias", FLOATS, (n,))
        if (bias.floats() != 0).any():
            raise fault(parts, bias.name, "is not zero; no model of the family has a bias there")

    def quants(a: int, b: int) -> U8:
        words = qweight.numbers()[:, a:b]
        octet = octets(words).reshape(len(words), b - a, 4).transpose(1, 0, 2)
        rows = np.ascontiguousarray(octet).reshape(b - a, -1)
        return nibbles(rows) if bits == 4 else rows

    def zeros(a: int, b: int) -> NDArray[np.int16]:
        packed = octets(qzeros.numbers()[:, a // each : b // each])
        stored = (nibbles(packed) if bits == 4 else packed).astype(np.int16)
        stored += np.int16(less)
        return stored

    return Integers(
        stem + ".weight", (n, k), bits, quants, zeros, scales, group_of.astype(np.int32), symmetric
    )
