"""The same weights, dequantised and run in float32 by transformers: what qwick must agree with.

Nothing of qwick's own formats, kernels or models takes part, so that no mistake can hide in both:
GGUF files are read and decoded by the `gguf` package, folders by transformers itself. Needs torch,
transformers and gguf (the extra `test`), and memory: four bytes a parameter, and as much again
while the largest matrices are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from qwick.errors import UnsupportedError
from qwick.evaluate.perplexity import Progress, Scored, Texts, positions_of

PACKAGES = ("torch", "transformers", "gguf", "numpy")  # whose versions the figures depend on

# GGUF metadata (ggml's docs/gguf.md) and the names of transformers' Qwen2Config and Qwen3Config.
_KEYS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "hidden_size": ("embedding_length", int),
    "intermediate_size": ("feed_forward_length", int),
    "num_hidden_layers": ("block_count", int),
    "num_attention_heads": ("attention.head_count", int),
    "num_key_value_heads": ("attention.head_count_kv", int),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon", float),
    "max_position_embeddings": ("context_length", int),
}
_ROWS = 64  # rows of float64 log probabilities held at once: 78 MB for a vocabulary of 151,936
_ARCHITECTURES = ("qwen2", "qwen3")


def score_in_float32(path: Path, texts: Texts, progress: Progress | None = None) -> Scored:
    """Score texts of token ids with transformers in float32, one text after the other.

    path: a .gguf file or a folder. Raises UnsupportedError for an architecture beyond qwen2, qwen3.
    """
    torch = import_module("torch")
    model = load_gguf(path) if path.is_file() else load_folder(path)
    total, done = positions_of(texts), 0
    parts = []
    for text in texts:
        ids = torch.tensor([list(text)])
        logprobs, best = [], []
        with torch.inference_mode():
            logits = model(ids[:, :-1], use_cache=False).logits[0]
            for start in range(0, len(logits), _ROWS):
                # float64 for the sum alone: the logits are what float32 gives.
                rows = torch.log_softmax(logits[start : start + _ROWS].double(), dim=-1)
                true = ids[0, start + 1 : start + 1 + len(rows), None]
                logprobs.append(rows.gather(1, true)[:, 0].numpy())
                best.append(rows.argmax(dim=-1).numpy())
        parts.append((np.concatenate(logprobs), np.concatenate(best).astype(np.int32)))
        done += len(text) - 1
        if progress is not None:
            progress(done, total)
    return Scored.of(parts)


def load_folder(path: Path) -> Any:
    """Load a folder of safetensors in float32."""
    torch, transformers = import_module("torch"), import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval()


def load_gguf(path: Path) -> Any:
    """Build transformers' model of a GGUF file, every weight decoded to float32 by `gguf`."""
    torch, transformers, gguf = map(import_module, ("torch", "transformers", "gguf"))
    reader = gguf.GGUFReader(path)

    def field(name: str) -> Any:
        found = reader.get_field(name)
        return None if found is None else found.contents()

    architecture = field("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UnsupportedError(
            f"{path} is of the architecture {architecture!r}; known: {', '.join(_ARCHITECTURES)}"
        )
    if field(f"{architecture}.rope.scaling.type") not in (None, "none"):
        raise UnsupportedError(f"{path} scales its rotary embedding")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    values = {name: of(field(f"{architecture}.{key}")) for name, (key, of) in _KEYS.items()}
    if architecture == "qwen3":
        values["head_dim"] = int(field("qwen3.attention.key_length"))
    theta = field(f"{architecture}.rope.freq_base")
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=int(tensors["token_embd.weight"].shape[1]),  # gguf has the shortest axis first
        tie_word_embeddings="output.weight" not in tensors,
        rope_parameters={"rope_type": "default", "rope_theta": float(theta or 10000.0)},
        **values,
    )
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = {}
    for name in model.state_dict():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensor = tensors.pop(names.get_name(name, try_suffixes=(".weight", ".bias")))
        decoded = gguf.dequantize(tensor.data, tensor.tensor_type)
        weights[name] = torch.from_numpy(np.array(decoded, np.float32))
    if tensors:
        raise UnsupportedError(f"{path} holds tensors beyond the model's: {sorted(tensors)}")
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise UnsupportedError(f"{path} does not fit the model: {missing} {unexpected}")
    # Buffers (rotary frequencies) are computed, not loaded: build them outside the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()
