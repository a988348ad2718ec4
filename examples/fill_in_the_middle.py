"""Fill-in-the-middle: what is missing between two pieces of code, by the checkpoint's own marks."""

from qwick import Qwen, tasks

BEFORE = '''def mean(values):
    """Return the arithmetic mean."""
    return '''
AFTER = """

print(mean([1, 2, 3]))
"""

with Qwen.load() as qwen:
    answer = tasks.fill(BEFORE, AFTER).run(qwen, max_tokens=32, stop=["\n"])

print(BEFORE + answer.value + AFTER)
print(f"[filled in: {answer.value!r}, ended by {answer.replies[0].finish_reason}]")
