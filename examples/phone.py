"""A phone-sized setting: few threads, a short context, short answers, and what it costs."""

from qwick import Qwen

SMALL = {"temperature": 0, "max_tokens": 24, "loop_detection": True}

with Qwen.load(ctx=512, threads=2, kv="int8") as qwen:
    history = []
    for question in ("Name a fruit.", "And another one?"):
        history.append({"role": "user", "content": question})
        while len(qwen.render_ids(history)) + SMALL["max_tokens"] > qwen.context:
            del history[:2]  # the oldest turn goes first
        with qwen.stream(history, **SMALL) as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
        history.append({"role": "assistant", "content": stream.reply.text})
        usage = stream.reply.usage
        print(f"\n[{usage.prompt_tokens} tokens of prompt, {usage.cached_tokens} known already]")
