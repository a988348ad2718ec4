"""Qwen1's own spelling, translated: the config, the tensors and the tokenizer of its folders.

Its attention has one matrix for query, key and value; its feed-forward part computes w1(x) *
silu(w2(x)), so that w2 is the gate; its config counts both as one `intermediate_size`. Source:
modeling_qwen.py and configuration_qwen.py of Qwen/Qwen-7B, tokenization_note.md of QwenLM/Qwen.
Knows nothing of how the model is computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwick.errors import ConfigError, FormatError, shown
from qwick.formats.checkpoint import Tensor, TokenizerData
from qwick.formats.mapped import damaged
from qwick.formats.tiktoken import read_vocabulary

MODEL_TYPE = "qwen"
VOCABULARY = "qwen.tiktoken"
TRAINED = 8192  # tokens, of the 1.8B and 7B as they were last published
TRAINED_14B = 2048  # by its config.json, and README of QwenLM/Qwen: "from 2K to over 8K"
EXTRAS = 205  # tokens for whoever trains on

_KEYS = {
    "layer_norm_epsilon": "rms_norm_eps",
    "rotary_emb_base": "rope_theta",
    "kv_channels": "head_dim",
}
_EXPECTED: dict[str, Any] = {
    "no_bias": True,  # of all matrices but the attention's first
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "use_cache_quantization": False,
}
_INERT = {
    *("auto_map", "attn_dropout_prob", "emb_dropout_prob", "bf16", "fp16", "fp32", "onnx_safe"),
    *("use_flash_attn", "softmax_in_fp32", "use_cache_kernel"),
}
_LAYER = re.compile(r"transformer\.h\.(0|[1-9][0-9]{0,4})\.([a-z0-9_.]+)\.(weight|bias)")
_TOP = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_PARTS = {
    "ln_1": "input_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "ln_2": "post_attention_layernorm",
    "mlp.w1": "mlp.up_proj",
    "mlp.w2": "mlp.gate_proj",
    "mlp.c_proj": "mlp.down_proj",
}
_FUSED = "attn.c_attn"


def translate_config(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config under the names of later generations; ConfigError."""
    for key, wanted in _EXPECTED.items():
        value = values.get(key, wanted)
        if type(value) is not type(wanted) or value != wanted:
            raise ConfigError(
                f"{path}: the config says {key}={value!r:.60}; implemented: {wanted!r}"
            )
    out: dict[str, Any] = {"hidden_act": "silu"}
    for key, value in values.items():
        if key not in _EXPECTED and key not in _INERT:
            theirs = _KEYS.get(key, key)
            if theirs != key and theirs in values:
                raise ConfigError(
                    f"{path}: the config has {key} and {theirs}; allowed: one of them"
                )
            out[theirs] = value
    out["intermediate_size"] = halved(path, values.get("intermediate_size"))
    out.setdefault("tie_word_embeddings", False)
    return out


def halved(path: Path, size: object) -> int:
    """Return the height of gate and up each, of which Qwen1's intermediate_size is the sum."""
    if type(size) is not int or size < 2 or size % 2:
        raise ConfigError(
            f"{path}: the config says intermediate_size={size!r:.60}; allowed: even whole numbers"
        )
    return size // 2


def gguf_positions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a GGUF file does not tell of positions, by what the published models have.

    Those with a base of 10,000 were trained on up to 8,192 tokens (the 14B, with its 40 layers of
    5,120, on 2,048) and go on from there by dynamic NTK and log-n attention; the 72B has a base of
    a million and neither.
    """
    context = config["max_position_embeddings"]
    is_14b = (config["num_hidden_layers"], config["hidden_size"]) == (40, 5120)
    trained = TRAINED_14B if is_14b else TRAINED
    further = config["rope_theta"] == 10000.0 and context > trained
    trained = trained if further else context
    return {"seq_length": trained, "use_dynamic_ntk": further, "use_logn_attn": further}


def translate_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of later generations, query, key and value apart.

    What has no place keeps its name, for whoever compares tensors with the architecture to tell.
    Raises FormatError for a fused tensor that cannot be cut.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match and match[2] == _FUSED:
            out.update(cut_attention(path, tensor, match[1], match[3]))
            continue
        theirs = _TOP.get(name, name)
        if match and match[2] in _PARTS:
            theirs = f"model.layers.{match[1]}.{_PARTS[match[2]]}.{match[3]}"
        if theirs in out:
            raise damaged(path, f"{shown(name)} is there under another name too")
        out[theirs] = replace(tensor, name=theirs)
    return out


def cut_attention(
    path: Path, tensor: Tensor, layer: str, suffix: str
) -> Iterator[tuple[str, Tensor]]:
    """Yield query, key and value of a fused weight [3 n, k] or bias [3 n], by name."""
    rows = tensor.shape[0] if tensor.shape else 0
    if rows % 3 or not 1 <= len(tensor.shape) <= 2 or tensor.nbytes % 3:
        raise FormatError(
            f"{path}: {shown(tensor.name)} has the shape {list(tensor.shape)}; query, key and value"
            " are wanted, one below the other",
            hint="use another copy of this model",
        )
    for i, letter in enumerate("qkv"):
        name = f"model.layers.{layer}.self_attn.{letter}_proj.{suffix}"
        shape = (rows // 3, *tensor.shape[1:])
        yield name, tensor.cut(name, i, 3, shape)


def read_tokenizer(path: Path, rows: object) -> TokenizerData:
    """Read the vocabulary of a folder; rows: of its embedding. Raises FormatError."""
    file = path / VOCABULARY
    tokens, merges = read_vocabulary(file)
    control = list(_control_tokens())
    count = len(tokens) + len(control)
    if type(rows) is int and count > rows:
        raise damaged(file, f"{count} tokens with the control tokens; the model has {rows} rows")
    end = len(tokens)  # <|endoftext|>
    return TokenizerData(
        tokens=[*tokens, *control],
        token_types=[1] * len(tokens) + [3] * len(control),
        merges=merges,
        pre="qwen2",
        eos_id=end,
        pad_id=end,
    )


def _control_tokens() -> Iterable[str]:
    yield from ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    for number in range(EXTRAS):
        yield f"<|extra_{number}|>"
