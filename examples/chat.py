"""A conversation of two turns: the answer to the first goes back as part of the second."""

from qwick import Qwen

with Qwen.load() as qwen:  # the default checkpoint; or a name, a folder, a .gguf file
    messages = [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "What does Python's zip() do?"},
    ]
    first = qwen.chat(messages, temperature=0, max_tokens=48)
    print(first.text)

    messages += [
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "Show it in one line of code."},
    ]
    second = qwen.chat(messages, temperature=0, max_tokens=48)
    print(second.text)
    print(f"[{second.usage.total_tokens} tokens, {second.timings.decode_tok_s:.0f} tok/s]")
