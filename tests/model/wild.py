"""Wild random checkpoints of every shape of the family, and transformers as their oracle.

A parity test on tame weights proves nothing: here norms are 1 +- 0.3, biases N(0, 0.5), and
matrices scaled so that the logits' standard deviation lies between 1 and 5, which `Oracle` asserts.
Knows nothing of how qwick computes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

F32 = np.ndarray

VOCAB, REAL = 503, 490  # rows of the embedding, and ids in use: the rest is padding

_BASE: dict[str, Any] = {
    "num_hidden_layers": 3,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def _config(
    model_type: str, hidden: int, heads: int, kv_heads: int, inner: int, **rest: Any
) -> dict[str, Any]:
    return {
        **_BASE,
        "model_type": model_type,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        **rest,
    }


def _experts(count: int, taken: int, inner: int, shared: int | None = None) -> dict[str, Any]:
    given: dict[str, Any] = {
        "num_experts": count,
        "num_experts_per_tok": taken,
        "moe_intermediate_size": inner,
        "norm_topk_prob": shared is None,
        "decoder_sparse_step": 1,
    }
    return given if shared is None else {**given, "shared_expert_intermediate_size": shared}


TIED = {"tie_word_embeddings": True}
CONFIGS: dict[str, dict[str, Any]] = {
    # Qwen1.5: every head has its own key head; head_dim 16.
    "qwen1.5-mha": _config("qwen2", 64, 4, 4, 100),
    # Qwen2 and Qwen2.5: groups; head_dim 32, 64 (seven heads to a key head, as the 0.5B) and 128.
    "qwen2-tied": _config("qwen2", 128, 4, 2, 176, rope_theta=1e6, **TIED),
    "qwen2.5-group7": _config("qwen2", 448, 7, 1, 96, rms_norm_eps=1e-5),
    "qwen2.5-wide": _config("qwen2", 256, 2, 1, 200, rope_theta=1e6, **TIED),
    # A qwen2 whose config names a head_dim of its own.
    "qwen2-head_dim": _config("qwen2", 72, 3, 1, 64, head_dim=48),
    # Qwen3: head_dim free of the hidden size, norms of queries and keys, no biases.
    "qwen3-tied": _config("qwen3", 96, 4, 2, 112, head_dim=128, rope_theta=1e6, **TIED),
    "qwen3-mha": _config("qwen3", 80, 3, 3, 75, head_dim=32),
    "qwen3-group4": _config("qwen3", 40, 8, 2, 64, head_dim=16, rms_norm_eps=1e-5),
    # Experts beside one that every token takes, by a gate; weights as they come from the softmax.
    "qwen1.5-moe": _config("qwen2_moe", 64, 4, 4, 96, **_experts(7, 3, 48, shared=80)),
    "qwen2-moe-group2": _config("qwen2_moe", 96, 6, 3, 96, **_experts(9, 2, 76, shared=36)),
    "qwen2-moe-all": _config("qwen2_moe", 80, 5, 1, 96, **_experts(4, 4, 48, shared=52)),
    # Experts only, whose weights sum to 1.
    "qwen3-moe": _config("qwen3_moe", 96, 4, 2, 96, head_dim=32, **_experts(12, 4, 40)),
    "qwen3-moe-all": _config("qwen3_moe", 64, 4, 2, 96, head_dim=32, **_experts(4, 4, 40)),
    "qwen3-moe-tied": _config("qwen3_moe", 64, 4, 1, 96, head_dim=48, **_experts(5, 1, 64), **TIED),
}


def chooses(config: Mapping[str, Any]) -> bool:
    """Whether some experts are left out. Which ones, nearly equal logits decide by their rounding,
    so that only float32 can be compared; where all are taken, nothing but numbers is rounded.
    """
    return config.get("num_experts", 0) > config.get("num_experts_per_tok", 0)


# For block formats: every width a multiple of 256.
BLOCKED = {
    "qwen2": _config("qwen2", 256, 4, 2, 512, rope_theta=1e6),
    "qwen3": _config("qwen3", 256, 4, 2, 256, head_dim=128, rope_theta=1e6, **TIED),
    "qwen2-moe": _config("qwen2_moe", 256, 4, 2, 256, **_experts(3, 3, 256, shared=512)),
    "qwen3-moe": _config("qwen3_moe", 256, 4, 2, 256, head_dim=64, **_experts(4, 4, 256)),
}
STEMS = {"qwen2": "Qwen2", "qwen2_moe": "Qwen2Moe", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}


def model_class(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """transformers' config and model classes."""
    stem = STEMS[config["model_type"]]
    return getattr(transformers, f"{stem}Config"), getattr(transformers, f"{stem}ForCausalLM")


def build(config: Mapping[str, Any], tensors: Mapping[str, F32] | None = None) -> Any:
    """Return transformers' model in float32, with these tensors (strictly) or uninitialised."""
    config_class, cls = model_class(config)
    rest = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta" if tensors is None else "cpu"):
        model = cls._from_config(config_class(**rest, attn_implementation="eager"))
    if tensors is not None:
        fused = _fused(config, tensors)
        values = {name: torch.from_numpy(np.array(value)) for name, value in fused.items()}
        if config["tie_word_embeddings"]:
            values["lm_head.weight"] = values["model.embed_tokens.weight"]
        model.load_state_dict(values, strict=True)
        if config["tie_word_embeddings"]:
            model.tie_weights()
    return model.eval()


def _apart(name: str, value: F32) -> dict[str, F32]:
    """A tensor of transformers' model under the names that checkpoints have: experts apart."""
    stem, _, last = name.rpartition(".experts.")
    if not stem:
        return {name: value}
    halves = {"gate_proj": 0, "up_proj": 1} if last == "gate_up_proj" else {"down_proj": 0}
    return {
        f"{stem}.experts.{i}.{part}.weight": np.split(one, len(halves))[half]
        for i, one in enumerate(value)
        for part, half in halves.items()
    }


def _fused(config: Mapping[str, Any], tensors: Mapping[str, F32]) -> dict[str, F32]:
    """The other way round."""
    out = {name: value for name, value in tensors.items() if ".experts." not in name}
    for layer in range(config["num_hidden_layers"] if "num_experts" in config else 0):
        stem = f"model.layers.{layer}.mlp.experts."
        part = {
            p: np.stack([tensors[f"{stem}{i}.{p}.weight"] for i in range(config["num_experts"])])
            for p in ("gate_proj", "up_proj", "down_proj")
        }
        out[stem + "gate_up_proj"] = np.concatenate([part["gate_proj"], part["up_proj"]], axis=1)
        out[stem + "down_proj"] = part["down_proj"]
    return out


@functools.lru_cache(maxsize=32)
def _shapes(items: tuple[tuple[str, Any], ...]) -> dict[str, tuple[int, ...]]:
    config = dict(items)
    shapes = {name: tuple(p.shape) for name, p in build(config).state_dict().items()}
    if config["tie_word_embeddings"]:
        del shapes["lm_head.weight"]
    return shapes


def wild_tensors(config: Mapping[str, Any]) -> dict[str, F32]:
    """Every tensor of transformers' model, under its names: F32, wild and read-only."""
    return dict(_wild(tuple(config.items())))


@functools.lru_cache(maxsize=32)
def _wild(items: tuple[tuple[str, Any], ...]) -> dict[str, F32]:
    rng, config = np.random.default_rng(0), dict(items)
    out = {}
    for name, shape in _shapes(items).items():
        noise = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            value = 1 + 0.3 * noise
        elif name.endswith(".bias"):
            value = 0.5 * noise
        elif "embed_tokens" in name and not config["tie_word_embeddings"]:
            value = noise
        elif "embed_tokens" in name or "lm_head" in name:
            value = noise * 2.5 / np.sqrt(shape[1])
        else:
            value = noise * 1.5 / np.sqrt(shape[-1])
        for part, values in _apart(name, value.astype(np.float32)).items():
            out[part] = np.ascontiguousarray(values)
            out[part].flags.writeable = False
    return out


def sequences(lengths: tuple[int, ...] = (70, 1, 33, 45), seed: int = 1) -> list[np.ndarray]:
    """Random ids, I32[n] each; the longest covers three pages of the cache."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, REAL, n).astype(np.int32) for n in lengths]


class Oracle:
    """transformers' logits of each sequence, F32[n, vocab], in float32 and in bfloat16."""

    def __init__(self, model: Any, ids: list[np.ndarray]) -> None:
        self.ids = ids
        self.model = model
        self.logits = self._run()
        self.std = float(np.concatenate(self.logits).std())
        assert 1 <= self.std <= 5, f"these weights are tame or broken: std {self.std:.3g}"

    def _run(self) -> list[np.ndarray]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # many wait for each other on a busy machine
        try:
            with torch.no_grad():
                rows = [self.model(torch.from_numpy(x)[None].long()).logits[0] for x in self.ids]
        finally:
            torch.set_num_threads(threads)
        return [row.float().numpy() for row in rows]

    @functools.cached_property
    def bf16(self) -> list[np.ndarray]:
        """The same model's run in bfloat16. Uses the model up."""
        self.model.to(torch.bfloat16)
        return self._run()


def open_with_transformers(folder: Path, config: Mapping[str, Any]) -> Any:
    """Let transformers read the folder by itself, in float32."""
    cls = model_class(config)[1]
    return cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def open_gguf_with_transformers(path: Path, config: Mapping[str, Any]) -> Any:
    """Let transformers read the GGUF file by itself: its names, its decoding, its config."""
    cls = model_class(config)[1]
    return cls.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
