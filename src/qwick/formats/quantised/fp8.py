"""FP8 folders with a scale per block of a matrix, as Qwen3-*-FP8 are published.

Of a matrix [n, k]: weight F8_E4M3[n, k] and weight_scale_inv [ceil(n / r), ceil(k / c)], a number
that each block of r x c weights (128 x 128; less at the edges) is multiplied with. What
modules_to_not_convert names has no weight_scale_inv and is stored as it is.

Source: Fp8Dequantize in transformers' integrations/finegrained_fp8.py: float32 products, rounded to
the checkpoint's dtype (so does FP8BlockDequantizer of compressed-tensors). e4m3: OCP 8-bit Floating
Point 1.0. activation_scheme "dynamic" lets others round activations to 8 bits as well; here they
meet the decoded weights in float32.
"""

from __future__ import annotations

import numpy as np

from qwick.errors import UnsupportedError, shown
from qwick.formats.checkpoint import Tensor
from qwick.formats.quantised.parts import F32, FLOATS, U8, Parts, Settings, in_pieces, rounded

IDLE = ("dequantize", "ignored_layers", "modules_to_not_convert")


def e4m3() -> F32:
    """Return the 256 values of e4m3 (no infinity; all bits of a magnitude set: NaN)."""
    bits = np.arange(128)
    exponent, fraction = bits >> 3, bits & 7
    values = np.where(
        exponent == 0, np.ldexp(fraction / 8, -6), np.ldexp(1 + fraction / 8, exponent - 7)
    )
    values[127] = np.nan
    return np.concatenate([values, -values]).astype(np.float32)


def read(settings: Settings, parts: Parts) -> dict[str, Tensor]:
    """Return the quantised matrices; errors as `read_quantised`."""
    settings.one_of("activation_scheme", "dynamic", "dynamic")
    settings.one_of("fmt", "e4m3", "e4m3")
    settings.one_of("scale_fmt", "float", "float", "ue8m0")  # the dtype of scales says it
    block = settings.take("weight_block_size")
    if not (
        isinstance(block, list)
        and len(block) == 2
        and all(type(size) is int and 0 < size < 1 << 31 for size in block)
    ):
        raise UnsupportedError(
            f"{settings.path}: fp8 with weight_block_size {shown(block)} is not supported; "
            "allowed: the rows and columns of a block, as [128, 128]"
        )
    settings.finish(*IDLE)
    stems = parts.ending(".weight_scale_inv")
    made = [_matrix(settings, parts, stem, (block[0], block[1])) for stem in stems]
    return {tensor.name: tensor for tensor in made}


def _matrix(settings: Settings, parts: Parts, stem: str, block: tuple[int, int]) -> Tensor:
    weight = parts.take(stem + ".weight", ("F8_E4M3",), (None, None))
    n, k = weight.shape
    grid = (-(-n // block[0]), -(-k // block[1]))
    scales = parts.take(stem + ".weight_scale_inv", (*FLOATS, "F8_E8M0"), grid)
    stored = settings.dtype
    table = e4m3()

    def make(a: int, b: int) -> U8:
        first = a // block[0]
        each = scales.floats()[first : -(-b // block[0])]
        rows = np.arange(a, b) // block[0] - first
        columns = np.arange(k) // block[1]
        with np.errstate(over="ignore", invalid="ignore"):
            return rounded(table[weight.numbers()[a:b]] * each[rows][:, columns], stored)

    return Tensor(weight.name, stored, (n, k), in_pieces(stored, (n, k), make))
