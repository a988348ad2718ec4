"""What GGUF calls the tensors and config keys of a Hugging Face checkpoint, and back.

Source of the names: llama.cpp's `gguf-py/gguf/tensor_mapping.py` and `constants.py`. Data and
look-ups; knows no files.
"""

from __future__ import annotations

import re

from qwick.family import MODEL_TYPES, ModelType

_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
# One tensor of a layer's experts, one below the other; ours are apart, as in a folder.
EXPERT_PARTS = {
    "ffn_gate_exps": "gate_proj",
    "ffn_up_exps": "up_proj",
    "ffn_down_exps": "down_proj",
}
FUSED = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.attn_qkv\.(weight|bias)")  # of Qwen1
OF_EXPERTS = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([a-z_]+)\.weight")
_EXPERT = re.compile(r"model\.layers\.([0-9]+)\.mlp\.experts\.([0-9]+)\.([a-z_]+)\.weight")
_PROJECTION = re.compile(r"model\.layers\.([0-9]+)\.self_attn\.[qkv]_proj\.(weight|bias)")
_NAME = re.compile(r"(?:blk\.(0|[1-9][0-9]{0,4})\.)?([a-z_]+)\.(weight|bias)")

# GGUF key after the architecture's name -> Hugging Face key and type. "!" marks a required key.
CONFIG_KEYS: dict[str, tuple[str, type]] = {
    "block_count!": ("num_hidden_layers", int),
    "context_length!": ("max_position_embeddings", int),
    "embedding_length!": ("hidden_size", int),
    "feed_forward_length!": ("intermediate_size", int),
    "attention.head_count!": ("num_attention_heads", int),
    "attention.head_count_kv": ("num_key_value_heads", int),
    "attention.key_length": ("head_dim", int),
    "attention.layer_norm_rms_epsilon!": ("rms_norm_eps", float),
    "rope.freq_base": ("rope_theta", float),
}
# Where there are experts. Files from before mid-2024 lack the lengths, which the tensors tell too.
EXPERT_KEYS: dict[str, tuple[str, type]] = {
    "feed_forward_length": ("intermediate_size", int),  # of no use then
    "expert_count!": ("num_experts", int),
    "expert_used_count!": ("num_experts_per_tok", int),
    "expert_feed_forward_length": ("moe_intermediate_size", int),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size", int),
}
# A context of the models that attend by chunks, which GGUF has no key for: as they were published
# (config.json of Qwen2.5-7B-Instruct-1M, config_1m.json of Qwen3-30B-A3B-Instruct-2507).
MILLION = 1_010_000
DUAL_CHUNKS = {
    "chunk_size": 262_144,
    "local_size": 8192,
    "original_max_position_embeddings": 262_144,
}
ROPE_KEYS: dict[str, tuple[str, type]] = {
    "type": ("rope_type", str),
    "factor": ("factor", float),
    "original_context_length": ("original_max_position_embeddings", int),
    "yarn_beta_fast": ("beta_fast", float),
    "yarn_beta_slow": ("beta_slow", float),
}

# llama.cpp's gguf-py/gguf/constants.py, PoolingType: in the order of their numbers.
POOLINGS = ("none", "mean", "cls", "last", "rank")
LAST = POOLINGS.index("last")


def type_of(arch: str) -> tuple[str, ModelType]:
    """Return the model type that GGUF calls so, and what is known of it."""
    return next((name, kind) for name, kind in MODEL_TYPES.items() if kind.gguf == arch)


def keys_of(arch: str) -> dict[str, tuple[str, type]]:
    """Return the config keys of an architecture, under GGUF's name for it."""
    if not type_of(arch)[1].experts:
        return CONFIG_KEYS
    dense = {key: told for key, told in CONFIG_KEYS.items() if key != "feed_forward_length!"}
    return {**dense, **EXPERT_KEYS}


def hf_name(name: str) -> str | None:
    """Return the Hugging Face name of a GGUF tensor; None when the family has no such tensor."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    layer, part, suffix = match.groups()
    if layer is None:
        return f"{_TOP[part]}.{suffix}" if part in _TOP else None
    return f"model.layers.{layer}.{_LAYER[part]}.{suffix}" if part in _LAYER else None


def is_expert(name: str) -> bool:
    """Whether a Hugging Face tensor belongs to one of several experts."""
    return _EXPERT.fullmatch(name) is not None


def gguf_name(name: str, *, fused: bool = False) -> str | None:
    """Return the GGUF name of a Hugging Face tensor; None when the family has no such tensor.

    All experts of a layer have one name: they are one tensor there. fused: so are query, key and
    value (Qwen1).
    """
    match = _PROJECTION.fullmatch(name) if fused else None
    if match is not None:
        return f"blk.{match[1]}.attn_qkv.{match[2]}"
    expert = _EXPERT.fullmatch(name)
    if expert is not None:
        found = [ours for ours, theirs in EXPERT_PARTS.items() if theirs == expert[3]]
        return f"blk.{expert[1]}.{found[0]}.weight" if found else None
    stem, _, suffix = name.rpartition(".")
    match = re.fullmatch(r"model\.layers\.([0-9]+)\.(.+)", stem)
    table, prefix, part = (_LAYER, f"blk.{match[1]}.", match[2]) if match else (_TOP, "", stem)
    found = [ours for ours, theirs in table.items() if theirs == part]
    return f"{prefix}{found[0]}.{suffix}" if found and suffix in ("weight", "bias") else None


def weights_sum_to_one(kind: ModelType) -> bool:
    """Whether the weights of the experts taken do: llama.cpp takes it for granted by architecture.

    Source: its src/models/qwen2moe.cpp and qwen3moe.cpp, the call of build_moe_ffn.
    """
    return not kind.shared
