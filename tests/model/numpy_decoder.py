"""A decoder in plain NumPy, in float64: the oracle where no library has one.

It is written from the published descriptions, one sequence at a time, without a cache; that it is a
decoder of the family at all is shown against transformers (`test_positions.py`). Knows nothing of
how qwick computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

F64 = np.ndarray
# Queries [n, heads, d] and keys [n, heads, d], before any rotation -> scores [heads, n, n].
Scores = Callable[[F64, F64], F64]


def turn(x: F64, at: F64, theta: float) -> F64:
    """Rotate x: [n, heads, d] to the positions at: [n] (Su et al. 2021; halves, as GPT-NeoX)."""
    half = x.shape[2] // 2
    angles = at[:, None] * theta ** -(np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2)


def plain(theta: float) -> Scores:
    def scores(q: F64, k: F64) -> F64:
        at = np.arange(len(q), dtype=np.float64)
        return np.einsum("ihd,jhd->hij", turn(q, at, theta), turn(k, at, theta))

    return scores


def qwen1(theta: float, trained: int, *, ntk: bool = True, log_n: bool = True) -> Scores:
    """Dynamic NTK and log-n attention: modeling_qwen.py of Qwen/Qwen-7B, a whole prompt at once."""

    def scores(q: F64, k: F64) -> F64:
        n, d = len(q), q.shape[2]
        alpha = max(2 ** np.ceil(np.log2(n / trained) + 1) - 1, 1) if ntk else 1
        found = plain(theta * alpha ** (d / (d - 2)))(q, k)
        if log_n:
            growth = np.log(np.arange(1, n + 1)) / np.log(trained)
            found *= np.maximum(growth, 1)[None, :, None]
        return found

    return scores


def dual_chunk(theta: float, size: int, local: int, trained: int) -> Scores:
    """Dual chunk attention (An et al. 2024, section 3.2), temperature as in Qwen2.5-1M's report.

    Three maps of distances, one for each of: the query's own chunk, the one before, all earlier.
    """

    def scores(q: F64, k: F64) -> F64:
        chunk = size - local
        at = np.arange(len(q))
        place, number = at % chunk, at // chunk
        keys = turn(k, place, theta)
        most = min(size, 2 * chunk - 1)
        own = np.einsum("ihd,jhd->hij", turn(q, place, theta), keys)
        after = turn(q, np.minimum(place + chunk, most), theta)
        later = turn(q, np.full(len(q), most), theta)
        apart = number[:, None] - number[None, :]
        found = np.where(apart == 0, own, np.einsum("ihd,jhd->hij", after, keys))
        found = np.where(apart > 1, np.einsum("ihd,jhd->hij", later, keys), found)
        growth = 0.1 * np.log(np.maximum((at + 1) / trained, 1)) + 1
        return found * (growth**2)[None, :, None]

    return scores


def _norm(x: F64, weight: F64, eps: float) -> F64:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def _mlp(_: Mapping[str, Any], w: Mapping[str, F64], name: str, x: F64) -> F64:
    """SwiGLU (Shazeer 2020) of the rows x: [n, hidden]."""
    gate = x @ w[name + "gate_proj.weight"].T
    inner = gate / (1 + np.exp(-gate)) * (x @ w[name + "up_proj.weight"].T)
    return inner @ w[name + "down_proj.weight"].T


def _experts(config: Mapping[str, Any], w: Mapping[str, F64], name: str, x: F64) -> F64:
    """Of each row the likeliest experts by their shares, and the shared one by a gate, if any."""
    shares = np.exp(x @ w[name + "gate.weight"].T)
    shares /= shares.sum(axis=1, keepdims=True)
    left_out = np.argsort(-shares, axis=1)[:, config["num_experts_per_tok"] :]
    np.put_along_axis(shares, left_out, 0, axis=1)
    if config["norm_topk_prob"]:
        shares /= shares.sum(axis=1, keepdims=True)
    out = np.zeros_like(x)
    for i in range(config["num_experts"]):
        rows = shares[:, i] > 0
        out[rows] += shares[rows, i, None] * _mlp(config, w, f"{name}experts.{i}.", x[rows])
    if "shared_expert_intermediate_size" in config:
        share = 1 / (1 + np.exp(-x @ w[name + "shared_expert_gate.weight"].T))
        out += share * _mlp(config, w, name + "shared_expert.", x)
    return out


def logits_of(
    config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], ids: np.ndarray, scores: Scores
) -> F64:
    """F64[n, vocab] of a sequence; config and tensors bear Hugging Face's names."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    eps, heads, kv = (
        config[key] for key in ("rms_norm_eps", "num_attention_heads", "num_key_value_heads")
    )
    x = w["model.embed_tokens.weight"][ids]
    n = len(ids)
    unseen = np.triu(np.ones((n, n), bool), 1)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        h = _norm(x, w[layer + "input_layernorm.weight"], eps)
        q, k, v = (
            (
                h @ w[f"{layer}self_attn.{p}_proj.weight"].T
                + w.get(f"{layer}self_attn.{p}_proj.bias", 0)
            )
            for p in "qkv"
        )
        q, k, v = q.reshape(n, heads, -1), k.reshape(n, kv, -1), v.reshape(n, kv, -1)
        if layer + "self_attn.q_norm.weight" in w:
            q = _norm(q, w[layer + "self_attn.q_norm.weight"], eps)
            k = _norm(k, w[layer + "self_attn.k_norm.weight"], eps)
        k, v = (np.repeat(y, heads // kv, axis=1) for y in (k, v))
        found = scores(q, k) / np.sqrt(q.shape[2])
        found[:, unseen] = -np.inf
        shares = np.exp(found - found.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        attended = np.einsum("hij,jhd->ihd", shares, v).reshape(n, -1)
        x = x + attended @ w[layer + "self_attn.o_proj.weight"].T
        h = _norm(x, w[layer + "post_attention_layernorm.weight"], eps)
        x = x + (_experts if "num_experts" in config else _mlp)(config, w, layer + "mlp.", h)
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return _norm(x, w["model.norm.weight"], eps) @ head.T


class NumpyOracle:
    """What `wild.Oracle` is, of this decoder: logits of each sequence and their deviation."""

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        ids: list[np.ndarray],
        scores: Scores,
    ) -> None:
        self.ids = ids
        self.logits = [logits_of(config, tensors, x, scores) for x in ids]
        self.std = float(np.concatenate(self.logits).std())
        assert 1 <= self.std <= 5, f"these weights are tame or broken: std {self.std:.3g}"
