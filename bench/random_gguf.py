"""GGUF files of the family's shapes with random weights, in llama.cpp's q4_k_m mix or in bf16.

Blocks are drawn, not encoded: random quants under scales that give each matrix rows of about unit
gain, so that logits stay finite at any size. Written tensor by tensor, a few MB in memory. Which
type a tensor has follows `llama_tensor_get_type` of llama.cpp's `llama-quant.cpp`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwick.formats.checkpoint import TokenizerData
from qwick.quant.types import StoredType

U8 = NDArray[np.uint8]
BLOCK = 256  # elements of a K-quant's block
PIECE = 1 << 15  # blocks drawn at a time
# The root mean square of a drawn quant times its scale, in units of the block's float16 scale.
_RMS = {StoredType.Q4_K: 223.6, StoredType.Q6_K: 1557.0}
GAIN = 0.7  # of a matrix: its rows have this norm


@dataclass(frozen=True)
class Shape:
    """The sizes of a checkpoint, as its config.json has them."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    vocab: int = 151_936
    head_dim: int = 128
    experts: int = 0  # a Qwen3 with experts of `intermediate`; else a Qwen2.5
    taken: int = 0  # of them, by each token
    embedding: float = GAIN  # norm of its rows: large ones keep tokens, and their experts, apart
    wide: bool = False  # its matrices in bf16 instead of the mix

    @property
    def arch(self) -> str:
        """GGUF's name of the architecture."""
        return "qwen3moe" if self.experts else "qwen2"


SHAPES = {
    "1.5b": Shape(1536, 8960, 28, 12, 2, tied=True),
    "3b": Shape(2048, 11008, 36, 16, 2, tied=True),
    "3b-bf16": Shape(2048, 11008, 36, 16, 2, tied=True, wide=True),
    "7b": Shape(3584, 18944, 28, 28, 4, tied=False, vocab=152_064),
    # Qwen3-30B-A3B with a quarter of its 48 layers.
    "30b-a3b-quarter": Shape(2048, 768, 12, 32, 4, tied=False, experts=128, taken=8),
}


@dataclass(frozen=True)
class Spec:
    """One tensor to write; shape is row-major."""

    name: str
    shape: tuple[int, ...]
    type: StoredType
    mean: float = 0.0  # of floats
    deviation: float = 0.0  # of floats
    gain: float = GAIN  # of blocks


def more_bits(layer: int, layers: int) -> bool:
    """Whether the mix spends 6 bits on this layer's values and down projection."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def tensors_of(shape: Shape) -> Iterator[Spec]:
    """Yield every tensor in the order of the file."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    four, six, floats = StoredType.Q4_K, StoredType.Q6_K, StoredType.F32
    if shape.wide:
        four = six = StoredType.BF16
    # A tied embedding is the head too, and typed as one.
    rows = (shape.vocab, shape.hidden)
    yield Spec("token_embd.weight", rows, six if shape.tied else four, gain=shape.embedding)
    yield Spec("output_norm.weight", (shape.hidden,), floats, 1.0, 0.1)
    if not shape.tied:
        yield Spec("output.weight", (shape.vocab, shape.hidden), six)
    for layer in range(shape.layers):
        more = six if more_bits(layer, shape.layers) else four
        matrices = {
            "attn_q": (q, shape.hidden, four),
            "attn_k": (kv, shape.hidden, four),
            "attn_v": (kv, shape.hidden, more),
            "attn_output": (shape.hidden, q, four),
        }
        for name, (n, k, stored) in matrices.items():
            yield Spec(f"blk.{layer}.{name}.weight", (n, k), stored)
        some = (shape.experts,) if shape.experts else ()
        end = "_exps" if shape.experts else ""
        high, wide = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
        yield Spec(f"blk.{layer}.ffn_gate{end}.weight", (*some, *high), four)
        yield Spec(f"blk.{layer}.ffn_up{end}.weight", (*some, *high), four)
        yield Spec(f"blk.{layer}.ffn_down{end}.weight", (*some, *wide), more)
        if shape.experts:
            router = (shape.experts, shape.hidden)
            spread = 1 / math.sqrt(shape.hidden)
            yield Spec(f"blk.{layer}.ffn_gate_inp.weight", router, floats, 0.0, spread)
            for name in ("attn_q_norm", "attn_k_norm"):
                yield Spec(f"blk.{layer}.{name}.weight", (shape.head_dim,), floats, 1.0, 0.1)
        else:
            for name, width in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
                yield Spec(f"blk.{layer}.{name}.bias", (width,), floats, 0.0, 0.1)
        for name in ("attn_norm", "ffn_norm"):
            yield Spec(f"blk.{layer}.{name}.weight", (shape.hidden,), floats, 1.0, 0.1)


def write_random(path: Path, name: str, shape: Shape, tokenizer: TokenizerData) -> None:
    """Write a model of this shape; `name` becomes its general.name. Needs `gguf`."""
    import gguf

    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_string("general.name", name)
    writer.add_block_count(shape.layers)
    writer.add_context_length(32_768)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    if shape.experts:
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.taken)
        writer.add_expert_feed_forward_length(shape.intermediate)
    _add_tokenizer(writer, tokenizer, shape.vocab)
    specs = list(tensors_of(shape))
    for spec in specs:
        kind = gguf.GGMLQuantizationType[spec.type.name]
        if spec.type is StoredType.F32:
            nbytes = 4 * math.prod(spec.shape)
            writer.add_tensor_info(spec.name, spec.shape, np.dtype(np.float32), nbytes)
        else:
            rows = (*spec.shape[:-1], spec.type.row_bytes(spec.shape[-1]))
            dtype = np.dtype(np.uint8)
            writer.add_tensor_info(spec.name, rows, dtype, math.prod(rows), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file = writer.fout[0]
    draw = np.random.Generator(np.random.SFC64(0))
    for spec in specs:
        start = file.tell()
        file.write(b"\0" * (-start % writer.data_alignment))
        for piece in _pieces(spec, draw):
            file.write(piece.tobytes())
    file.write(b"\0" * (-file.tell() % writer.data_alignment))
    writer.close()


def _pieces(spec: Spec, draw: np.random.Generator) -> Iterator[NDArray[Any]]:
    """Yield the tensor's bytes, a piece at a time."""
    if spec.type is StoredType.F32:
        yield draw.normal(spec.mean, spec.deviation, spec.shape).astype("<f4")
        return
    blocks = math.prod(spec.shape) // BLOCK
    if spec.type is StoredType.BF16:
        deviation = np.float32(spec.gain / math.sqrt(spec.shape[-1]))
        for start in range(0, blocks, PIECE):
            drawn = draw.standard_normal((min(PIECE, blocks - start), BLOCK), np.float32)
            yield ((drawn * deviation).view(np.uint32) >> 16).astype("<u2")
        return
    scale = spec.gain / math.sqrt(spec.shape[-1]) / _RMS[spec.type]
    for start in range(0, blocks, PIECE):
        yield draw_blocks(spec.type, min(PIECE, blocks - start), scale, draw)


def draw_blocks(stored: StoredType, n: int, scale: float, draw: np.random.Generator) -> U8:
    """Return n random blocks, U8[n, stored.bytes]; values have the deviation scale * _RMS."""
    raw = draw.integers(0, 256, (n, stored.bytes), np.uint8)
    d = np.array([scale], "<f2").view(np.uint8)
    if stored is StoredType.Q4_K:  # d, dmin, 12 bytes of scales and minimums, 128 of quants
        # value = d * sc * q - dmin * m; with m = sc and dmin = 7.5 d its mean is 0.
        raw[:, 0:2] = d
        raw[:, 2:4] = np.array([7.5 * scale], "<f2").view(np.uint8)
        sc = draw.integers(32, 64, (n, 8), np.uint8)
        raw[:, 4:8] = raw[:, 8:12] = sc[:, :4] | ((sc[:, 4:] >> 4) << 6)
        raw[:, 12:16] = (sc[:, 4:] & 15) | ((sc[:, 4:] & 15) << 4)
        return raw
    # Q6_K: 192 bytes of quants, 16 signed scales, d; value = d * sc * (q - 32)
    sc = draw.integers(32, 128, (n, 16), np.int8)
    raw[:, 192:208] = (sc * draw.choice(np.array([-1, 1], np.int8), (n, 16))).view(np.uint8)
    raw[:, 208:210] = d
    return raw


def _add_tokenizer(writer: Any, data: TokenizerData, vocab: int) -> None:
    """Add a tokenizer, filled up to `vocab` with tokens that are never used, as converters do."""
    assert data.tokens is not None
    assert data.token_types is not None
    assert data.merges is not None
    tokens, types = list(data.tokens)[:vocab], list(data.token_types)[:vocab]
    unused = range(len(tokens), vocab)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", data.pre or "qwen2")
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in unused])
    writer.add_token_types(types + [5 for _ in unused])  # 5: unused
    writer.add_token_merges(list(data.merges))
    if data.eos_id is not None:
        writer.add_uint32("tokenizer.ggml.eos_token_id", data.eos_id)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
