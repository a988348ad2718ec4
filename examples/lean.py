"""Little memory: one copy of the weights, a small cache in 8 bits, one sequence that is short."""

import resource

from qwick import Qwen

with Qwen.load(
    ctx=1024,
    kv="int8",
    threads=2,
    quantize="int8",  # what has more bits, as in a bf16 folder, is rounded while it is loaded
    # weights_ram="8GB",  # of a mixture of experts: so much in memory, the others in a file
) as qwen:
    reply = qwen.chat("What is a heap?", temperature=0, max_tokens=16)
    print(reply.text)
    capacity = qwen.engine.capacity
    print(f"cache: {capacity.cache_tokens} tokens")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak: {peak:.2f} GB, loading included")
