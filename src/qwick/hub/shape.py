"""How many weights each part of a published checkpoint has, counted from its config alone.

The layouts are those of the published implementations (transformers, `modeling_qwen*.py`); the
numbers are exact, and `tests/hub/test_shape.py` holds them against the catalog. Arithmetic only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwick.hub.catalog import Model
from qwick.values import check_kind

__all__ = ["Shape", "arch_config", "shape_of"]

# Model types whose text part is not made of the layers counted here, or whose checkpoints hold
# encoders or talkers without published sizes.
_NOT_COUNTED = frozenset([None, "qwen2_5_omni", "qwen3_omni_moe", "qwen4_exp"])
_QWEN3_VOCAB = 151_936
"""Rows of Qwen3's embedding. Nobody's copy of a text reranker's config was found: it is made of
Qwen3 and may have up to 0.2 % fewer."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Numbers of weights by part, all layers together; then the sizes that memory depends on."""

    embedding: int
    head: int  # 0 where it is the embedding
    attention: int  # projections with their biases, of the layers that attend
    dense: int  # dense feed-forward parts
    routed: int  # all experts
    shared: int  # the expert that every token takes
    router: int  # and the shared expert's gate
    delta: int  # everything of the delta-net layers but their norms and experts
    other: int  # norms
    vision: int  # encoder and what joins it to the text
    audio: int
    layers: int
    kv_layers: int  # that keep keys and values; the others have a state of fixed size
    q_dim: int  # width of the queries of a token in one layer
    kv_dim: int  # width of the keys (or values) of a token in one layer
    hidden: int
    vocab: int
    experts: int  # of a layer; 0: none
    taken: int  # of them by each token

    @property
    def text(self) -> int:
        """All weights but the encoders of images and sound."""
        return self.embedding + self.head + self.matrices + self.router + self.other

    @property
    def matrices(self) -> int:
        """What formats round: attention, feed-forward parts, experts, delta-net layers."""
        return self.attention + self.dense + self.routed + self.shared + self.delta

    @property
    def total(self) -> int:
        """All weights; layers of multi-token prediction are not among them."""
        return self.text + self.vision + self.audio

    @property
    def active(self) -> int:
        """Weights of the text part that belong to one token's way, all of its embedding included.

        The publisher's "activated parameters": of the experts only those taken.
        """
        idle = self.routed - self.routed * self.taken // self.experts if self.experts else 0
        return self.text - idle

    @property
    def non_embedding(self) -> int:
        """Weights of the text part without the embedding and the head."""
        return self.text - self.embedding - self.head


def shape_of(model: Model) -> Shape | None:
    """Return the shape of a checkpoint, or None where its config does not tell.

    That is so for the first multimodal checkpoints, the omni ones and Qwen3.8-Flash-Next.
    """
    check_kind("model", model, Model, "a Model of the catalog")
    config = model.config
    kind = config.get("model_type")
    if kind in _NOT_COUNTED or (kind == "qwen" and model.inputs != ("text",)):
        return None
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    vocab = config.get("vocab_size", _QWEN3_VOCAB)
    every = config.get("full_attention_interval", 1)  # one layer in so many attends
    full = layers // every
    experts = config.get("num_experts", 0)
    tied = config["tie_word_embeddings"]
    norms = (2 * layers + 1) * hidden + full * (2 * config["head_dim"] * config["qk_norm"])
    return Shape(
        embedding=vocab * hidden,
        head=0 if tied else vocab * hidden,
        attention=full * _attention(config),
        dense=0 if experts else layers * 3 * hidden * _dense_height(config),
        routed=layers * experts * 3 * hidden * config.get("moe_intermediate_size", 0),
        shared=layers * 3 * hidden * _shared_height(config),
        router=layers * hidden * (experts + (1 if _shared_height(config) else 0)),
        delta=(layers - full) * (_delta_net(config) if full < layers else 0),
        other=norms,
        vision=_vision(model.vision, hidden) if model.vision else 0,
        audio=_audio(model.audio, hidden) if model.audio else 0,
        layers=layers,
        kv_layers=full,
        q_dim=config["num_attention_heads"] * config["head_dim"],
        kv_dim=config["num_key_value_heads"] * config["head_dim"],
        hidden=hidden,
        vocab=vocab,
        experts=experts,
        taken=config.get("num_experts_per_tok", 0),
    )


def arch_config(model: Model) -> dict[str, Any]:
    """Return the config of a text checkpoint as `model.arch.read_arch` reads one.

    Keys that nobody has confirmed are missing, and `read_arch` may say so.
    """
    check_kind("model", model, Model, "a Model of the catalog")
    config = {key: value for key, value in model.config.items() if key != "qk_norm"}
    if config.get("model_type") == "qwen":
        config["intermediate_size"] = _dense_height(config)
    return config


def _dense_height(config: Mapping[str, Any]) -> int:
    """Height of a dense feed-forward part; Qwen1's config says twice that."""
    height: int = config["intermediate_size"]
    return height // 2 if config["model_type"] == "qwen" else height


def _shared_height(config: Mapping[str, Any]) -> int:
    return int(config.get("shared_expert_intermediate_size", 0))


def _attention(config: Mapping[str, Any]) -> int:
    """Weights of one layer's projections: queries (and their gate), keys, values, output."""
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    gate = queries if config.get("attn_output_gate") else 0
    biases = queries + 2 * keys if config["attention_bias"] else 0
    return int(config["hidden_size"] * (2 * queries + 2 * keys + gate) + biases)


def _delta_net(config: Mapping[str, Any]) -> int:
    """Weights of one gated delta-net layer, which attends to a state instead of to keys."""
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    heads = config["linear_num_value_heads"]
    values = heads * config["linear_value_head_dim"]
    projected = 2 * keys + 2 * values + 2 * heads  # q, k, v, z; b, a
    convolved = (2 * keys + values) * config["linear_conv_kernel_dim"]
    small = 2 * heads + config["linear_value_head_dim"]  # A_log, dt_bias; the output's norm
    return int(config["hidden_size"] * (projected + values) + convolved + small)


def _vision(vision: Mapping[str, Any], hidden: int) -> int:
    """Weights of an image encoder (`visual.*`), its merger into `hidden` included.

    q2vl: Qwen2-VL; q25vl: Qwen2.5-VL (RMSNorm, SwiGLU); q3vl: Qwen3-VL and later (learned
    positions, mergers of earlier layers).
    """
    kind = vision["type"]
    width = vision["embed_dim" if kind == "q2vl" else "hidden_size"]
    height = width * vision["mlp_ratio"] if kind == "q2vl" else vision["intermediate_size"]
    norm = width if kind == "q25vl" else 2 * width  # RMSNorm, or LayerNorm with its bias
    patch = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * width
    merged = width * vision["spatial_merge_size"] ** 2
    merger = merged * merged + merged + merged * hidden + hidden
    attention = 4 * width * width + 4 * width
    swiglu = kind == "q25vl"
    forward = (3 if swiglu else 2) * width * height + (2 if swiglu else 1) * height + width
    count = patch + vision["depth"] * (2 * norm + attention + forward) + norm + merger
    if kind == "q3vl":
        count += width + vision["num_position_embeddings"] * width  # the patches' bias; positions
        count += len(vision["deepstack_visual_indexes"]) * (2 * merged + merger)
    return int(count)


def _audio(audio: Mapping[str, Any], hidden: int) -> int:
    """Weights of Qwen2-Audio's encoder (Whisper's) and of the projection into `hidden`."""
    width, height = audio["d_model"], audio["encoder_ffn_dim"]
    convolutions = 3 * width * (audio["num_mel_bins"] + width) + 2 * width
    attention = 4 * width * width + 3 * width  # keys have no bias
    layer = attention + 2 * width * height + height + width + 4 * width  # two LayerNorms
    positions = audio["max_source_positions"] * width
    encoder = convolutions + positions + audio["encoder_layers"] * layer + 2 * width
    return int(encoder + width * hidden + hidden)
