"""A whole Qwen without a checkpoint: the toy model, or random weights, and a vocabulary of bytes.

Its answers are random bytes, which is what a text layer should be tried with: half characters,
control tokens in the middle, stop strings anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.toy import ToyModel
from qwick.engine.model import Model
from qwick.engine.thread import EngineThread
from qwick.family import FAMILIES
from qwick.formats.checkpoint import TokenizerData
from qwick.formats.write import write_gguf
from qwick.llm import Qwen
from qwick.llm.defaults import Defaults, stop_ids_of
from qwick.llm.load import Loaded, Options
from qwick.llm.texts import Texts
from qwick.model.arch import read_arch
from qwick.model.decoder import tensor_table
from qwick.text.template import ChatTemplate
from qwick.text.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tone %}[{{ tone }}]{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
# As Qwen3 of 2504 ends its prompts, Qwen3-Thinking-2507, and Qwen2.5.
HYBRID = TURNS + (
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
OPENED = TURNS + "<|im_start|>assistant\n<think>\n"
PLAIN = TURNS + "<|im_start|>assistant\n"
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>")


def byte_alphabet() -> list[str]:
    """The 256 one-byte tokens of byte-level BPE (GPT-2), in the order of their bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


TOKENIZER_DATA = TokenizerData(
    tokens=[*byte_alphabet(), *CONTROL],
    token_types=[1] * 256 + [3] * len(CONTROL),
    merges=[],
    pre="qwen2",
    eos_id=258,
)
TOKENIZER = Tokenizer.from_data(TOKENIZER_DATA)
STORED_TOKENIZER_DATA = replace(  # with a merge, as GGUF files cannot hold an empty list
    TOKENIZER_DATA,
    tokens=[*(TOKENIZER_DATA.tokens or ()), "he"],
    token_types=[*(TOKENIZER_DATA.token_types or ()), 1],
    merges=["h e"],
)

# With tokens for yes and no, and the tags of thinking: what a reranker's vocabulary has.
ADDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
MERGES = (("h", "e"), ("n", "o"), ("y", "e"), ("ye", "s"), ("t", "he"))
POOLED_TOKENIZER_DATA = TokenizerData(
    tokens=[*byte_alphabet(), *("".join(merge) for merge in MERGES), *ADDED],
    token_types=[1] * (256 + len(MERGES)) + [3] * 3 + [4] * 2,
    merges=[" ".join(merge) for merge in MERGES],
    pre="qwen2",
    eos_id=256 + len(MERGES),
)


def small_qwen(
    *,
    family: str = "qwen2.5-coder",
    generation: Mapping[str, Any] | None = None,
    template: str | None = TEMPLATE,
    context: int = 512,
    cache_tokens: int = 2048,
    model: Model | None = None,
    tokenizer: Tokenizer = TOKENIZER,
    prefix_reuse: bool = True,
) -> Qwen:
    found = FAMILIES[family]
    given = generation or {}
    stop_ids = tuple(dict.fromkeys((*tokenizer.stop_ids(found.stops), *stop_ids_of(given))))
    loaded = Loaded(
        model or ToyModel(n_vocab=tokenizer.n_tokens, context=context, page_size=16),
        Texts(
            tokenizer,
            None if template is None else ChatTemplate(template),
            Defaults(found, given, stop_ids),
            "small",
        ),
        cache_tokens,
    )
    return Qwen(EngineThread(loaded.engine(Options(prefix_reuse=prefix_reuse))), loaded.texts)


ARCH: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 264,  # two rows of padding
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


def random_tensors(config: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Random weights of the right shapes: enough for an answer, whatever it says."""
    random = np.random.default_rng(1)
    return {
        spec.name: (random.standard_normal(spec.shape) * 0.3 + (len(spec.shape) == 1)).astype(
            np.float32
        )
        for spec in tensor_table(read_arch(config))
    }


def write_small(
    path: Path,
    *,
    name: str | None = "Small Random",
    part_tensors: int = 0,
    template: str | None = TEMPLATE,
    **config: Any,
) -> Path:
    """Write a whole random checkpoint as a GGUF file: real kernels, loaded in milliseconds.

    Return its path, or that of its first part.
    """
    whole = {**ARCH, **config}
    return write_gguf(
        path,
        whole,
        random_tensors(whole),
        tokenizer=STORED_TOKENIZER_DATA,
        chat_template=template,
        metadata={} if name is None else {"general.name": name},
        part_tensors=part_tensors,
    )[0]
