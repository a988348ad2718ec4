"""Wild random checkpoints with a small vocabulary, as embedding and reranking ones are published.

With a tokenizer.json whose post-processor appends `<|endoftext|>`, so that transformers reads a
folder by itself: model, tokenizer and all. Knows nothing of how qwick computes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from llm.small import ADDED, MERGES, POOLED_TOKENIZER_DATA
from model.wild import CONFIGS, wild_tensors
from qwick.formats.write import write_folder, write_gguf

F32 = np.ndarray
BODY = "model."
TOKENS = list(POOLED_TOKENIZER_DATA.tokens or ())
END = TOKENS.index("<|endoftext|>")
CONFIG: dict[str, Any] = {
    **CONFIGS["qwen3-tied"],
    "vocab_size": len(TOKENS) + 6,
    "max_position_embeddings": 640,
}
# How such a checkpoint may lie on a disk: as a whole, without the prefix of a model with a head, as
# the 8B (whose head is not its embedding, and is not there), and as AutoModel saves it.
FORMS: dict[str, dict[str, Any]] = {
    "whole": {"architectures": ["Qwen3ForCausalLM"]},
    "bare": {"architectures": ["Qwen3ForCausalLM"]},
    "bare-untied": {"architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": False},
    "bare-class": {"architectures": ["Qwen3Model"]},
    "gguf": {"architectures": ["Qwen3Model"]},
    "gguf-whole": {"architectures": ["Qwen3ForCausalLM"]},
}


def tokenizer_json() -> str:
    """The vocabulary as a tokenizer.json, with Qwen3-Embedding's post-processor."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    from qwick.text.recognise import _SPLITS

    vocabulary = {token: id for id, token in enumerate(TOKENS[: -len(ADDED)])}
    made = Tokenizer(models.BPE(vocabulary, list(MERGES)))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLITS["qwen2"]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(t, special=t.startswith("<|"), normalized=False) for t in ADDED])
    made.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", END)]
    )
    return str(made.to_str())


def write_checkpoint(path: Path, form: str) -> Path:
    """Write a checkpoint of the same numbers in one of the forms; return its folder or file."""
    config = {**CONFIG, **FORMS[form]}
    tensors = wild_tensors(CONFIG)
    if form.startswith("gguf"):
        return write_gguf(path / "a.gguf", config, tensors, tokenizer=POOLED_TOKENIZER_DATA)[0]
    if form.startswith("bare"):
        tensors = {name.removeprefix(BODY): value for name, value in tensors.items()}
    files = {
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": json.dumps(
            {"eos_token": ADDED[0], "tokenizer_class": "PreTrainedTokenizerFast"}
        ),
    }
    write_folder(path, config, tensors, files=files)
    return path


@functools.lru_cache(maxsize=4)
def _opened(folder: Path, kind: str) -> tuple[Any, Any]:
    """transformers' tokenizer and model of a folder, by itself."""
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)
    return transformers.AutoTokenizer.from_pretrained(folder), model.eval()


def states(folder: Path, texts: Sequence[str]) -> list[F32]:
    """transformers' final states of every token of each text, F32[n, hidden]: by itself, alone."""
    tokenizer, model = _opened(folder, "AutoModel")
    with torch.no_grad():
        found = [model(**tokenizer(text, return_tensors="pt")) for text in texts]
    return [one.last_hidden_state[0].numpy() for one in found]


def judged(folder: Path, instruction: str, query: str, documents: Sequence[str]) -> list[float]:
    """The scores of Qwen3-Reranker's card, by its own code but for the padding."""
    tokenizer, model = _opened(folder, "AutoModelForCausalLM")
    no, yes = tokenizer.convert_tokens_to_ids("no"), tokenizer.convert_tokens_to_ids("yes")
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    before = tokenizer.encode(prefix, add_special_tokens=False)
    after = tokenizer.encode(suffix, add_special_tokens=False)
    scores = []
    for document in documents:
        pair = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
        ids = before + tokenizer.encode(pair, add_special_tokens=False) + after
        with torch.no_grad():
            last = model(torch.tensor([ids])).logits[0, -1]
        scores.append(float(torch.log_softmax(last[[no, yes]], dim=0)[1].exp()))
    return scores
