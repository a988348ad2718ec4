"""An answer piece by piece, ended by a stop string, with what it cost; leaving early cancels it."""

from qwick import Qwen

with Qwen.load() as qwen:
    with qwen.stream("Count from 1 to 9, with commas.", temperature=0, stop=["6"]) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)
    reply = stream.reply  # whole, once the stream has been read to its end
    print(f"\n[{reply.finish_reason} at {reply.stop!r}, first token in {reply.timings.ttft:.2f} s]")

    with qwen.stream("Write a long story.", seed=1) as stream:
        print(next(stream).text, "...")  # the block ends here, so the request is cancelled
