"""The default checkpoint's tokenizer and template, ours and transformers', each loaded once."""

from __future__ import annotations

import pytest

from qwick.formats.open import open_checkpoint
from qwick.text.template import ChatTemplate
from qwick.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def checkpoint(default_checkpoint):
    with open_checkpoint(default_checkpoint) as opened:
        yield opened


@pytest.fixture(scope="session")
def tokenizer(checkpoint) -> Tokenizer:
    return Tokenizer.from_data(checkpoint.tokenizer)


@pytest.fixture(scope="session")
def template(checkpoint) -> ChatTemplate:
    return ChatTemplate(checkpoint.chat_template)


@pytest.fixture(scope="session")
def reference(checkpoint):
    """Transformers' own Qwen2Tokenizer over the same vocabulary.

    Not `AutoTokenizer.from_pretrained(folder, gguf_file=...)`: that leaves out the NFC step of
    Qwen's tokenizer.json (transformers 5.18), and takes 10 s.
    """
    from transformers import AddedToken, Qwen2Tokenizer

    data = checkpoint.tokenizer
    size = 151_665
    tokenizer = Qwen2Tokenizer(
        vocab={token: id for id, token in enumerate(data.tokens[:size])},
        merges=[tuple(merge.split(" ")) for merge in data.merges],
        eos_token="<|im_end|>",
    )
    for id in range(151_643, size):
        special = data.token_types[id] == 3
        tokenizer.add_tokens([AddedToken(data.tokens[id], normalized=False, special=special)])
    tokenizer.chat_template = checkpoint.chat_template
    assert len(tokenizer) == size
    return tokenizer
