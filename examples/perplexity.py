"""How probable a text is to the model: per text (perplexity), and token by token (score)."""

import math

from qwick import Qwen

TEXTS = {
    "code": "def add(a, b):\n    return a + b\n",
    "the same letters": "b(:) dnreute add,+ a fed a\n b",
}

with Qwen.load() as qwen:
    for name, text in TEXTS.items():
        print(f"{name}: perplexity {qwen.perplexity(text):.1f}")

    ids = qwen.tokenizer.encode(TEXTS["code"], parse_special=False)
    scores = qwen.score(ids)  # of every token but the first, which has nothing before it
    for token, logprob in zip(ids[1:], scores.logprobs, strict=True):
        print(f"  {qwen.tokenizer.decode([token])!r:12} {math.exp(logprob):7.2%}")
