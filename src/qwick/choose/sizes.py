"""How much memory a checkpoint of the catalog takes in one of its formats, told without its files.

Bytes are exact where the published sizes are known; else they follow from the numbers of weights
(`hub.shape`) and the bits that a format gives to each kind of matrix. Knows no machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qwick.choose.memory import scratch_bytes
from qwick.errors import ConfigError, UnsupportedError
from qwick.hub import Format, Model, Shape, arch_config, shape_of
from qwick.model.arch import read_arch
from qwick.values import check_kind, whole

__all__ = [
    "BITS",
    "Parts",
    "Stored",
    "available_text",
    "held_weights",
    "needed_text",
    "parts_of",
    "stored_bytes",
]

MOST_CONTEXT = 1 << 40
STEP_ROWS, STEP_LOGIT_ROWS = 576, 64  # engine.engine's TOKEN_BUDGET and LOGIT_ROWS
STATE_BYTES = 4  # per number of a delta-net layer's state, which does not grow
# Rows of an embedding are looked up where the file is mapped. The system brings 16 pages for each
# and takes them back when memory is short; of a few thousand different tokens they are this much.
LOOKED_UP_SHARE, LOOKED_UP_BYTES = 0.35, 120_000_000  # of the embedding, and at most
HEADER_BYTES = 6_000_000  # of a GGUF file: vocabulary and merges
SUPERBLOCK = 256  # elements of a K-quant's block; rows that it does not divide take a larger type
RUNTIME_BYTES = 700 << 20  # of another runtime's process, its libraries and buffers: an estimate
CARD_BYTES = 1200 << 20  # of a graphics runtime: its context, kernels and activations; an estimate


@dataclass(frozen=True, slots=True)
class Bits:
    """Bits per weight, scales included."""

    embedding: float
    body: float  # matrices of attention, feed-forward parts and experts
    head: float
    tied: float  # the embedding where it is the head, too


def _k(embedding: float, body: float) -> Bits:
    """llama.cpp's mixes: the head, and an embedding that is one, take Q6_K (6.5625 bits)."""
    return Bits(embedding, body, 6.5625, 6.5625)


def _even(bits: float) -> Bits:
    return Bits(bits, bits, bits, bits)


def _integers(bits: float) -> Bits:
    """Folders of GPTQ and AWQ leave embedding and head in 16 bits."""
    return Bits(16, bits, 16, 16)


# The bodies of llama.cpp's mixes are means over the published files of the family
# (tests/choose/test_sizes.py holds them against all of known size).
BITS: Mapping[str, Bits] = MappingProxyType(
    {
        "bf16": _even(16),
        "fp16": _even(16),
        "fp8": Bits(16, 8.02, 16, 16),  # a scale for each block of 128 x 128
        "awq": _integers(4.16),  # groups of 128: a scale of 16 bits and a zero point of 4
        "gptq-int4": _integers(4.16),
        "gptq-int8": _integers(8.19),
        "q2_k": _k(2.625, 2.92),
        "q3_k_m": _k(3.4375, 3.83),
        "q4_0": _k(4.5, 4.5),
        "iq4_xs": _k(4.25, 4.5),
        "q4_k_m": _k(4.5, 4.81),
        "q5_0": _k(5.5, 5.5),
        "q5_k_m": _k(5.5, 5.68),
        "q6_k": _k(6.5625, 6.5625),
        "q8_0": _even(8.5),
        # While loading (`--quantize`): the embedding stays as it is stored, the head takes 8.5.
        "int4": Bits(16, 4.5, 8.5, 8.5),
        "int8": Bits(16, 8.5, 8.5, 8.5),
    }
)
ZEROED = ("awq", "gptq-int4")  # that qwick holds with a scale and a zero point for 32 weights
ZEROED_BITS = 4.75  # quant.types.StoredType.Q4_Z
GGUF = frozenset(name for name in BITS if name[0] in "qi" and "_" in name) | {"fp16"}


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes of a format on disk."""

    size: int
    known: bool  # published; else counted from the numbers of weights


@dataclass(frozen=True, slots=True)
class Parts:
    """Bytes of memory by what they are for."""

    weights: int
    kv: int  # keys and values of the context, and states of fixed size
    scratch: int  # activations, logits, tables, the process itself

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.scratch


def needed_text(size: int) -> str:
    """Return bytes that something takes, rounded up, so that it never looks as if it would fit."""
    return _size_text(-(-size // 10**8)) if size >= 10**9 else f"{-(-size // 10**6):,} MB"


def available_text(size: int) -> str:
    """Return bytes that there are, rounded down."""
    if size < 10**6:
        return f"{size:,} bytes"
    return _size_text(size // 10**8) if size >= 10**9 else f"{size // 10**6:,} MB"


def _size_text(tenths: int) -> str:
    return f"{tenths / 10:,.1f} GB"


def stored_bytes(model: Model, form: Format) -> Stored | None:
    """Return what a format takes on disk; None where nobody can tell."""
    check_kind("model", model, Model, "a Model of the catalog")
    check_kind("form", form, Format, "a Format of the model")
    if form.size is not None:
        return Stored(form.size, known=True)
    shape = shape_of(model)
    if shape is None or form.name not in BITS:
        return None
    more = model.parameters.prediction_layers if form.container == "safetensors" else 0
    return Stored(_bytes(model, shape, form.name, embedding=True) + 2 * more, known=False)


def held_weights(model: Model, form: Format, *, quantize: str | None, here: bool) -> int | None:
    """Return the bytes of weights in memory; None where nobody can tell.

    quantize: int4 or int8 while loading, or none. here: by qwick, which reads the rows of an
    embedding that is not the head from the file and does not hold them.
    """
    shape, stored = shape_of(model), stored_bytes(model, form)
    if shape is None or stored is None:
        return None
    if quantize is not None:
        return _bytes(model, shape, quantize, embedding=False)
    size, whole_file = stored.size, form.container == "gguf"
    if whole_file:  # the encoders of images and sound come beside it, in 16 bits
        size += 2 * (shape.vision + shape.audio)
    if here and (shape.head or (whole_file and _own_head(model))):
        size -= _embedding(model, shape, form.name)
    if here and form.name in ZEROED:
        size += int(shape.matrices * (ZEROED_BITS - BITS[form.name].body) / 8)
    return size


def parts_of(
    model: Model,
    form: Format,
    context: int,
    *,
    quantize: str | None = None,
    runtime: str = "qwick",
) -> Parts | None:
    """Return what running a format takes, one sequence filling `context`; None: nobody can tell.

    runtime: qwick, whose scratch is that of its own plan; another on a processor (its process takes
    RUNTIME_BYTES) or "vllm" (CARD_BYTES). Their keys and values take 16 bits.
    """
    context = whole("context", context, 1, MOST_CONTEXT)
    here = runtime == "qwick"
    weights, shape = held_weights(model, form, quantize=quantize, here=here), shape_of(model)
    if weights is None or shape is None:
        return None
    kv = 2 * 2 * shape.kv_layers * shape.kv_dim * context + _state_bytes(model, shape)
    if not here:
        return Parts(weights, kv, CARD_BYTES if runtime == "vllm" else RUNTIME_BYTES)
    # What nobody has confirmed is filled in: it changes no size.
    unconfirmed = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "vocab_size": shape.vocab}
    unconfirmed["max_position_embeddings"] = model.context.native or context
    try:
        arch = read_arch({**unconfirmed, **arch_config(model)})
    except (ConfigError, UnsupportedError):  # not one that the engine runs
        return None
    kinds = arch.kv_kinds("auto", (0.0,) * arch.layers)
    scratch = scratch_bytes(arch, STEP_ROWS, STEP_LOGIT_ROWS, context)
    scratch += int(min(LOOKED_UP_SHARE * _embedding(model, shape, form.name), LOOKED_UP_BYTES))
    return Parts(weights, arch.kv_bytes(kinds) * context, scratch)


def _bytes(model: Model, shape: Shape, name: str, *, embedding: bool) -> int:
    """Return the bytes of all weights; embedding: with the rows that are no head."""
    bits, whole_file = _bits(shape, name), name in GGUF
    floats = 32 if whole_file else 16
    total = shape.matrices * bits.body + (shape.router + shape.other) * floats
    if not whole_file:  # a GGUF file has the text part only
        total += (shape.vision + shape.audio) * 16
    if shape.head == 0 and not (whole_file and _own_head(model)):
        total += shape.embedding * bits.tied
    else:
        total += shape.embedding * (bits.head + (bits.embedding if embedding else 0))
    return int(total / 8) + (HEADER_BYTES if whole_file else 0)


def _bits(shape: Shape, name: str) -> Bits:
    """Return the bits of a format, larger where a K-quant's blocks do not divide the rows.

    llama.cpp then takes Q5_0 for Q4_K and Q8_0 for Q6_K (llama-quant.cpp); of the family that is
    so for the 0.5B of Qwen2 and 2.5 alone, whose down projections have rows that it divides.
    """
    bits = BITS[name]
    if shape.hidden % SUPERBLOCK == 0 or "_k" not in name:
        return bits
    return Bits(max(bits.embedding + 1, 4.5), max(bits.body + 0.65, 4.6), 8.5, 8.5)


def _own_head(model: Model) -> bool:
    """Whether a GGUF file of a model with a tied head holds that as a matrix of its own."""
    return model.config.get("model_type") == "qwen2"


def _embedding(model: Model, shape: Shape, name: str) -> int:
    """Return the bytes of the embedding's rows as they are stored."""
    bits, own = _bits(shape, name), shape.head > 0 or (name in GGUF and _own_head(model))
    return int(shape.embedding * (bits.embedding if own else bits.tied) / 8)


def _state_bytes(model: Model, shape: Shape) -> int:
    """Bytes of the states of layers that keep no keys."""
    if shape.kv_layers == shape.layers:
        return 0
    config = model.config
    state = config["linear_num_value_heads"] * config["linear_value_head_dim"]
    each: int = state * config["linear_key_head_dim"] * STATE_BYTES
    return (shape.layers - shape.kv_layers) * each
