"""A whole Qwen without a checkpoint: the toy model under a byte-level vocabulary.

Its answers are random bytes, which is what a text layer should be tried with: half characters,
control tokens in the middle, stop strings anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.toy import ToyModel
from qwick.family import FAMILIES
from qwick.formats.checkpoint import TokenizerData
from qwick.llm import Qwen
from qwick.llm.defaults import Defaults, stop_ids_of
from qwick.text.template import ChatTemplate
from qwick.text.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tone %}[{{ tone }}]{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>")


def byte_alphabet() -> list[str]:
    """The 256 one-byte tokens of byte-level BPE (GPT-2), in the order of their bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def tokenizer() -> Tokenizer:
    return Tokenizer.from_data(
        TokenizerData(
            tokens=[*byte_alphabet(), *CONTROL],
            token_types=[1] * 256 + [3] * len(CONTROL),
            merges=[],
            pre="qwen2",
            eos_id=258,
        )
    )


TOKENIZER = tokenizer()


def small_qwen(
    *,
    family: str = "qwen2.5-coder",
    generation: Mapping[str, Any] | None = None,
    template: str | None = TEMPLATE,
    context: int = 512,
    model: ToyModel | None = None,
) -> Qwen:
    found = FAMILIES[family]
    given = generation or {}
    stop_ids = tuple(dict.fromkeys((*TOKENIZER.stop_ids(found.stops), *stop_ids_of(given))))
    return Qwen(
        model or ToyModel(n_vocab=TOKENIZER.n_tokens, context=context, page_size=16),
        TOKENIZER,
        None if template is None else ChatTemplate(template),
        Defaults(found, given, stop_ids),
        name="small",
        cache_tokens=2048,
    )
