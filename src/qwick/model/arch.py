"""What a decoder is made of: a frozen description read, typed and strictly, from a model's config.

Every key that changes the computation is read, expected to have a value that is implemented, or refused with
its name. Free metadata is free. Knows nothing of weights or files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwick.errors import ConfigError

# Read below, or meaningless for the forward pass of a trained decoder.
_INERT = frozenset(
    """
    model_type architectures torch_dtype dtype transformers_version use_cache initializer_range
    attention_dropout bos_token_id eos_token_id pad_token_id tie_word_embeddings max_window_layers
    sliding_window output_attentions output_hidden_states return_dict chunk_size_feed_forward
    id2label label2id problem_type name_or_path _name_or_path is_encoder_decoder is_decoder
    add_cross_attention finetuning_task task_specific_params tokenizer_class prefix
    """.split()
)
_READ = frozenset(
    """
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    vocab_size rms_norm_eps rope_theta rope_parameters rope_scaling max_position_embeddings hidden_act
    use_sliding_window attention_bias layer_types
    """.split()
)
# A key that is in neither list and looks like one of these may change what is computed.
_SUSPECT = re.compile(
    r"rope|atten|attn|scal|multipl|softcap|window|norm|bias|expert|moe|quant|layer|head|logit|act"
)


@dataclass(frozen=True)
class Arch:
    """A dense Qwen decoder (Qwen1.5, Qwen2, Qwen2.5, Qwen3); sizes in elements."""

    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int  # rows of the embedding, padding included
    context: int  # positions the model was trained for
    rms_eps: float
    rope_theta: float
    tied: bool  # the head is the embedding
    qkv_bias: bool  # Qwen1.5 to Qwen2.5
    qk_norm: bool  # Qwen3: RMSNorm per head before the rotation

    @property
    def q_dim(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all keys (or values) of a token."""
        return self.kv_heads * self.head_dim


class _Config:
    """Reads keys with their type and range; a ConfigError names the key, the value and what is allowed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def count(self, key: str, limit: int, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if value is None:
            raise ConfigError(f"the config has no key {key!r}")
        if type(value) is not int or not 1 <= value <= limit:
            raise ConfigError(
                f"the config says {key}={value!r}; allowed: a whole number from 1 to {limit}"
            )
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.values.get(key)
        if value is None:
            raise ConfigError(f"the config has no key {key!r}")
        if type(value) not in (int, float) or not low <= value <= high:
            raise ConfigError(f"the config says {key}={value!r}; allowed: {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if value is None:
            return default
        if type(value) is not bool:
            raise ConfigError(f"the config says {key}={value!r}; allowed: true or false")
        return value

    def expect(self, key: str, *implemented: object) -> None:
        value = self.values.get(key)
        if value is not None and value not in implemented:
            raise ConfigError(
                f"the config says {key}={value!r}, which is not implemented; "
                f"implemented: {', '.join(map(repr, implemented))}"
            )


def _rope_theta(config: _Config) -> float:
    """Read the base of the rotation from either spelling; scaled rotations are refused by name."""
    scaling = config.values.get("rope_scaling") or {}
    parameters = config.values.get("rope_parameters") or {}  # transformers from 5.0
    for key, table in (("rope_scaling", scaling), ("rope_parameters", parameters)):
        if not isinstance(table, Mapping):
            raise ConfigError(f"the config says {key}={table!r}; allowed: an object or null")
        kind = table.get("rope_type", table.get("type", "default"))
        extra = set(table) - {"rope_type", "type", "rope_theta"}
        if kind != "default" or extra:
            raise ConfigError(
                f"the config says {key}={dict(table)!r}; only the plain rotation is implemented",
                hint=f"remove {key} to run within the native context",
            )
    if "rope_theta" in parameters:
        return _Config(parameters).number("rope_theta", 1.0, 1e12)
    return config.number("rope_theta", 1.0, 1e12)


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    suspects = sorted(
        key
        for key, value in values.items()
        if key not in _READ
        and key not in _INERT
        and _SUSPECT.search(key)
        and value not in (None, False, [], {})
    )
    if suspects:
        shown = ", ".join(f"{key}={values[key]!r:.60}" for key in suspects)
        raise ConfigError(f"the config has keys that may change the computation: {shown}")


def read_arch(values: Mapping[str, Any]) -> Arch:
    """Read a config in Hugging Face's spelling; ConfigError for what is missing, wrong or not implemented."""
    config = _Config(values)
    model_type = values.get("model_type")
    if model_type not in ("qwen2", "qwen3"):
        raise ConfigError(
            f"the config says model_type={model_type!r}; implemented: 'qwen2', 'qwen3'"
        )
    config.expect("hidden_act", "silu")
    config.expect("use_sliding_window", False)
    config.expect("attention_bias", model_type == "qwen2")
    for kind in values.get("layer_types") or ():
        if kind != "full_attention":
            raise ConfigError(
                f"the config says layer_types holds {kind!r}; implemented: 'full_attention'"
            )
    _refuse_unknown(values)
    hidden = config.count("hidden_size", 1 << 16)
    heads = config.count("num_attention_heads", 1024)
    arch = Arch(
        model_type=model_type,
        hidden=hidden,
        intermediate=config.count("intermediate_size", 1 << 20),
        layers=config.count("num_hidden_layers", 1024),
        heads=heads,
        kv_heads=config.count("num_key_value_heads", 1024, heads),
        head_dim=config.count("head_dim", 256, max(hidden // heads, 1)),
        vocab=config.count("vocab_size", 1 << 24),
        context=config.count("max_position_embeddings", 1 << 27),
        rms_eps=config.number("rms_norm_eps", 0.0, 1.0),
        rope_theta=_rope_theta(config),
        tied=config.flag("tie_word_embeddings", False),
        qkv_bias=model_type == "qwen2",
        qk_norm=model_type == "qwen3",
    )
    if arch.heads % arch.kv_heads or arch.heads // arch.kv_heads > 64:
        raise ConfigError(
            f"the config has {arch.heads} heads over {arch.kv_heads} key heads; "
            "allowed: 1 to 64 heads to each key head, evenly"
        )
    if arch.head_dim % 16:
        raise ConfigError(f"the config has head_dim={arch.head_dim}; implemented: multiples of 16")
    return arch
