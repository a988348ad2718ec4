"""Many prompts at once: they are computed in the same steps, so together they take less time."""

import time

from qwick import Qwen

PROMPTS = [
    "Name a primary colour.",
    "What is 2 + 2?",
    "Translate 'good morning' into French.",
    "Name a sorting algorithm.",
]

with Qwen.load(prefix_reuse=False) as qwen:  # or the batch would find what was computed before it
    begun = time.perf_counter()
    alone = [qwen.chat(prompt, temperature=0, max_tokens=12) for prompt in PROMPTS]
    middle = time.perf_counter()
    together = qwen.chat_batch(PROMPTS, temperature=0, max_tokens=12)
    end = time.perf_counter()

for prompt, reply in zip(PROMPTS, together, strict=True):
    print(f"{prompt} -> {reply.text!r}")
print(f"one after the other {middle - begun:.2f} s, as one batch {end - middle:.2f} s")
