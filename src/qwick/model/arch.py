"""What a decoder is made of: a frozen description read, typed and strictly, from a model's config.

Every key that changes the computation is read, expected to have a value that is implemented, or
refused with its name. Free metadata is free. Knows nothing of weights or files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwick.errors import ConfigError, ParameterError, UnsupportedError, shown
from qwick.family import MODEL_TYPES
from qwick.model.config import Config, refused_key
from qwick.model.positions import Positions, read_positions
from qwick.native.ops import PAGE_SIZE

# What a layer's cache may hold, and how an array holds it (bf16 as uint16; int8 with its scales as
# bytes, see `ops.rope_store`).
KV_DTYPES: Mapping[str, np.dtype[Any]] = {
    "bf16": np.dtype(np.uint16),
    "f32": np.dtype(np.float32),
    "int8": np.dtype(np.uint8),
}
KV_CHOICES = ("auto", "int8", "bf16", "f32")
LARGEST_8_BIT_KEY = 24.0
"""A key in 8 bits errs in all components, by up to 1/254 of its largest: decision 0007."""

# Meaningless for the forward pass of a trained decoder.
_INERT = frozenset(
    [
        *("model_type", "architectures", "torch_dtype", "dtype", "transformers_version"),
        *("use_cache", "initializer_range", "attention_dropout", "chunk_size_feed_forward"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "tokenizer_class", "prefix"),
        *("output_attentions", "output_hidden_states", "return_dict", "name_or_path"),
        *("_name_or_path", "_attn_implementation", "_attn_implementation_autoset"),
        *("is_encoder_decoder", "is_decoder", "add_cross_attention", "finetuning_task"),
        *("task_specific_params", "id2label", "label2id", "problem_type"),
        # Of effect only with use_sliding_window, which is refused.
        *("sliding_window", "max_window_layers"),
    ]
)
_READ = frozenset(
    [
        *("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
        *("num_attention_heads", "num_key_value_heads", "head_dim", "attention_bias"),
        *("rope_theta", "rope_parameters", "rope_scaling", "max_position_embeddings"),
        "dual_chunk_attention_config",
        *("rms_norm_eps", "hidden_act", "use_sliding_window", "layer_types"),
        "tie_word_embeddings",
    ]
)
# Of Qwen1, beside what its folder's reader makes of the rest.
_READ_OF_QWEN1 = frozenset(["seq_length", "use_dynamic_ntk", "use_logn_attn"])
# Of models with experts; in any other config they would be wishes that nobody fulfils.
_READ_WITH_EXPERTS = frozenset(
    [
        *("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
        *("shared_expert_intermediate_size", "decoder_sparse_step", "mlp_only_layers"),
        *("qkv_bias", "use_qk_norm"),  # expected to say what the model type says
        "num_local_experts",  # what transformers 5 calls them
        *("router_aux_loss_coef", "output_router_logits"),  # of training
    ]
)
MAX_EXPERTS = 4096  # of a layer; the largest published has 160
MAX_EXPERT_UNITS = 1 << 16  # matrices of experts in all: twice those of the largest published
# A key that is in neither list and looks like one of these may change what is computed.
_SUSPECT = re.compile(
    r"rope|rotary|atten|attn|scal|multipl|factor|softcap|clip|window|sparse|norm|bias|residual|"
    r"expert|moe|quant|layer|head|logit|act"
)


@dataclass(frozen=True)
class ExpertArch:
    """The experts of every layer's feed-forward part; sizes in elements."""

    count: int
    taken: int  # by each token, beside a shared one
    intermediate: int
    shared: int | None  # height of the one that every token takes, by a gate of its own (Qwen2)
    renormalize: bool  # the weights of those taken sum to 1 (Qwen3)


@dataclass(frozen=True)
class Arch:
    """A Qwen decoder (Qwen1 to Qwen3), dense or with experts; sizes in elements."""

    model_type: str
    hidden: int
    intermediate: int  # of a dense feed-forward part
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int  # rows of the embedding, padding included
    positions: Positions
    rms_eps: float
    tied: bool  # the head is the embedding
    qkv_bias: bool  # Qwen1 to Qwen2.5
    qk_norm: bool  # Qwen3: RMSNorm per head before the rotation
    experts: ExpertArch | None = None
    head: bool = True  # False: saved without one, for its states (embedding checkpoints)

    @property
    def context(self) -> int:
        """Positions the model was trained for."""
        return self.positions.native

    @property
    def q_dim(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all keys (or values) of a token."""
        return self.kv_heads * self.head_dim

    def check_context(self, context: object) -> None:
        """Raise ParameterError or UnsupportedError unless the model can hold so many positions."""
        native, longest = self.positions.native, self.positions.longest
        if type(context) is not int or context < 1:
            raise ParameterError(
                f"ctx is {shown(context)}; allowed: whole numbers from 1 to {longest}"
            )
        if context <= longest:
            return
        if longest > native:
            raise UnsupportedError(
                f"ctx is {shown(context)}; the model was trained for {native} tokens, and "
                f"stretched to {longest}",
                hint=f"ask for at most {longest}",
            )
        if not self.positions.bears_yarn(first=self.model_type == "qwen"):
            raise UnsupportedError(
                f"ctx is {shown(context)}; the model was trained for {native} tokens, and has no "
                "way beyond",
                hint=f"ask for at most {native}",
            )
        raise UnsupportedError(
            f"ctx is {shown(context)}; the model was trained for {native} tokens",
            hint=f"ask for at most {native}, or let YaRN stretch positions, four times as far by "
            "--yarn 4",
        )

    def kv_bytes(self, kinds: Sequence[str]) -> int:
        """Bytes of a token's keys and values in all layers; kinds: of each, as KV_DTYPES."""
        return sum(
            math.prod(shape) * KV_DTYPES[kind].itemsize // PAGE_SIZE
            for kind in kinds
            for shape in self.kv_page_shapes(kind)
        )

    def kv_page_shapes(self, kind: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Shapes of one page of a layer's keys and values, in elements of KV_DTYPES[kind].

        "int8" only where head_dim is a multiple of 32.
        """
        heads, d = self.kv_heads, self.head_dim
        if kind == "int8":
            return (heads, PAGE_SIZE, d + d // 8), (heads, PAGE_SIZE, d + 8)
        if kind == "bf16":
            return (heads, d // 2, 2 * PAGE_SIZE), (heads, PAGE_SIZE // 2, 2 * d)
        return (heads, d, PAGE_SIZE), (heads, PAGE_SIZE, d)

    def kv_kinds(self, kv: str, key_sizes: Sequence[float]) -> tuple[str, ...]:
        """Return what each layer's cache holds: "bf16", "f32" or "int8", of KV_DTYPES.

        kv: "bf16" and "f32" are meant for all layers; "int8" for those whose keys bear it, the
        others get bf16, as do all if head_dim is no multiple of 32; "auto" is "int8" for keys with
        biases (measured on the default checkpoint), else "bf16".
        key_sizes: how large components of a layer's keys are, at most, by its weights alone: the
        largest bias, or three times the largest weight of the keys' norm. ParameterError for
        another kv.
        """
        if not isinstance(kv, str) or kv not in KV_CHOICES:
            raise ParameterError(f"kv is {shown(kv)}; allowed: {', '.join(KV_CHOICES)}")
        if kv == "auto":
            kv = "int8" if self.qkv_bias else "bf16"
        if kv != "int8":
            return (kv,) * self.layers
        fits = self.head_dim % 32 == 0
        return tuple("int8" if fits and size <= LARGEST_8_BIT_KEY else "bf16" for size in key_sizes)


def _check_layer_types(config: Config, layers: int) -> None:
    kinds = config.values.get("layer_types")
    if kinds is None:
        return
    allowed = f"implemented: 'full_attention', for each of {layers} layers"
    if not isinstance(kinds, (list, tuple)):
        raise refused_key("layer_types", kinds, allowed)
    for kind in kinds:
        if kind != "full_attention":
            raise ConfigError(f"the config says layer_types holds {kind!r:.100}; {allowed}")
    if len(kinds) != layers:
        raise ConfigError(f"the config says layer_types has {len(kinds)} entries; {allowed}")


def _experts(config: Config, layers: int, *, shared: bool) -> ExpertArch:
    """Read the experts of a model in which every layer has them, as in each that was published."""
    config.expect("decoder_sparse_step", 1)
    if config.values.get("mlp_only_layers"):
        raise refused_key("mlp_only_layers", config.values["mlp_only_layers"], "implemented: []")
    size = config.values.get("shared_expert_intermediate_size")
    if not shared and size not in (None, 0):  # Qwen3-Coder says 0
        raise refused_key("shared_expert_intermediate_size", size, "implemented: 0")
    named = [key for key in ("num_experts", "num_local_experts") if key in config.values]
    counts = {config.count(key, MAX_EXPERTS) for key in named or ["num_experts"]}
    if len(counts) > 1:
        local = config.values["num_local_experts"]
        raise refused_key("num_local_experts", local, "allowed: the number in num_experts")
    count = counts.pop()
    if 3 * layers * count > MAX_EXPERT_UNITS:
        most = MAX_EXPERT_UNITS // 3 // layers
        raise refused_key("num_experts", count, f"allowed with {layers} layers: up to {most}")
    return ExpertArch(
        count=count,
        taken=config.count("num_experts_per_tok", count),
        intermediate=config.count("moe_intermediate_size", 1 << 20),
        shared=config.count("shared_expert_intermediate_size", 1 << 20) if shared else None,
        renormalize=config.flag("norm_topk_prob", False),
    )


def _refuse_unknown(values: Mapping[str, Any], read: frozenset[str]) -> None:
    suspects = sorted(
        key
        for key, value in values.items()
        if key not in read
        and key not in _INERT
        and _SUSPECT.search(key)
        and not (value is None or value is False or value in ([], {}))
    )
    if suspects:
        shown = ", ".join(f"{key:.60}={values[key]!r:.60}" for key in suspects[:8])
        raise ConfigError(f"the config has keys that may change the computation: {shown}")


def _head_dim(config: Config, hidden: int, heads: int) -> int:
    if config.values.get("head_dim") is None and hidden % heads:
        raise ConfigError(
            f"the config has no head_dim, and hidden_size={hidden} is no multiple of "
            f"num_attention_heads={heads}"
        )
    head_dim = config.count("head_dim", 256, hidden // heads)
    if head_dim % 16:
        raise ConfigError(f"the config has head_dim={head_dim}; implemented: multiples of 16")
    return head_dim


def read_arch(values: Mapping[str, Any]) -> Arch:
    """Read a config in Hugging Face's spelling.

    Raises ConfigError for what is missing, wrong or not implemented.
    """
    config = Config(values)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        known = ", ".join(map(repr, MODEL_TYPES))
        raise refused_key("model_type", model_type, f"implemented: {known}")
    config.expect("hidden_act", "silu")
    config.expect("use_sliding_window", False)
    kind, biased = MODEL_TYPES[model_type], not model_type.startswith("qwen3")
    config.expect("attention_bias", biased)
    if kind.experts:
        config.expect("qkv_bias", biased)
        config.expect("use_qk_norm", not biased)
    read = _READ | (_READ_WITH_EXPERTS if kind.experts else frozenset())
    _refuse_unknown(values, read | (_READ_OF_QWEN1 if model_type == "qwen" else frozenset()))
    layers = config.count("num_hidden_layers", 1024)
    experts = _experts(config, layers, shared=kind.shared) if kind.experts else None
    hidden = config.count("hidden_size", 1 << 16)
    heads = config.count("num_attention_heads", 1024)
    arch = Arch(
        model_type=model_type,
        hidden=hidden,
        intermediate=config.count(
            "intermediate_size", 1 << 20, None if experts is None else experts.intermediate
        ),
        layers=layers,
        heads=heads,
        kv_heads=config.count("num_key_value_heads", 1024, heads),
        head_dim=_head_dim(config, hidden, heads),
        vocab=config.count("vocab_size", 1 << 24),
        positions=read_positions(config, first=model_type == "qwen"),
        rms_eps=config.number("rms_norm_eps", 0.0, 1.0),
        tied=config.flag("tie_word_embeddings", False),
        qkv_bias=biased,
        qk_norm=not biased,
        experts=experts,
        head=kind.bare is None or values.get("architectures") != [kind.bare],
    )
    _check_layer_types(config, arch.layers)
    if arch.heads % arch.kv_heads or arch.heads // arch.kv_heads > 64:
        raise ConfigError(
            f"the config has {arch.heads} heads over {arch.kv_heads} key heads; "
            "allowed: 1 to 64 heads to each key head, evenly"
        )
    return arch
