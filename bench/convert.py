"""A .gguf file as a Hugging Face folder in bf16, for the runtimes that read no GGUF.

    python -m bench.convert FILE FOLDER

Runs in the environment of transformers: `gguf` dequantizes, transformers gives the names and the
config, safetensors writes. Knows nothing of qwick; refuses what it would get wrong.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

# transformers' config keys by GGUF's, which begin with the architecture's name.
_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
}


def main() -> None:
    """Convert, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    count = convert(asked.file, asked.folder)
    print(f"{count} tensors in {asked.folder}")


def convert(file: Path, folder: Path) -> int:
    """Write config, weights and tokenizer; return the number of tensors."""
    gguf, transformers = import_module("gguf"), import_module("transformers")
    reader = gguf.GGUFReader(file)

    def field(name: str) -> Any:
        found = reader.get_field(name)
        return None if found is None else found.contents()

    architecture = field("general.architecture")
    if architecture not in ("qwen2", "qwen3"):
        raise SystemExit(f"{file} is of the architecture {architecture!r}; known: qwen2, qwen3")
    if field(f"{architecture}.rope.scaling.type") not in (None, "none"):
        raise SystemExit(f"{file} scales its rotary embedding")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    values = {name: int(field(f"{architecture}.{key}")) for name, key in _KEYS.items()}
    if field(f"{architecture}.attention.key_length") is not None:
        values["head_dim"] = int(field(f"{architecture}.attention.key_length"))
    theta = float(field(f"{architecture}.rope.freq_base") or 10_000.0)
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=int(tensors["token_embd.weight"].shape[1]),  # the shortest axis first
        rms_norm_eps=float(field(f"{architecture}.attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings="output.weight" not in tensors,
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        dtype="bfloat16",
        **values,
    )
    count = _write_weights(architecture, config, tensors, folder)
    _write_config(config, theta, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(folder)
    return count


def _write_weights(architecture: str, config: Any, tensors: dict[str, Any], folder: Path) -> int:
    numpy, torch = import_module("numpy"), import_module("torch")
    gguf, transformers = import_module("gguf"), import_module("transformers")
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    weights = {}
    for name, like in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensor = tensors.pop(names.get_name(name, try_suffixes=(".weight", ".bias")))
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        weights[name] = torch.from_numpy(values).reshape(like.shape).to(torch.bfloat16)
    if tensors:
        raise SystemExit(f"the file holds tensors beyond the model's: {sorted(tensors)}")
    writer = import_module("safetensors.torch")
    writer.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return len(weights)


def _write_config(config: Any, theta: float, folder: Path) -> None:
    """Write the config with the older spelling of the rotation beside the newer one."""
    import json

    config.architectures = [type(config).__name__.replace("Config", "ForCausalLM")]
    told = {**config.to_dict(), "rope_theta": theta, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    ids = {key: told.get(key) for key in ("bos_token_id", "eos_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ids), encoding="utf-8")


if __name__ == "__main__":
    main()
