"""Fill-in-the-middle: a raw prompt with the control tokens that Qwen2.5-Coder was trained on."""

from qwick import Qwen

BEFORE = '''def mean(values):
    """Return the arithmetic mean."""
    return '''
AFTER = """

print(mean([1, 2, 3]))
"""

with Qwen.load() as qwen:
    prompt = f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>"
    reply = qwen.complete(prompt, temperature=0, max_tokens=32, stop=["\n"])

print(BEFORE + reply.text + AFTER)
print(f"[filled in: {reply.text!r}, ended by {reply.finish_reason}]")
