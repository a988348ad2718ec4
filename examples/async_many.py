"""Many asyncio tasks share one model: they batch, and a task that is cancelled stops computing."""

import asyncio

from qwick import Qwen, Reply


async def ask(qwen: Qwen, number: int) -> Reply:
    """Answer one question among others."""
    return await qwen.achat(f"What is {number} plus {number}?", temperature=0, max_tokens=16)


async def show(qwen: Qwen) -> None:
    """Print an answer while it is written."""
    async for chunk in qwen.astream("Name three planets.", temperature=0, max_tokens=16):
        print(chunk.text, end="", flush=True)
    print()


async def main() -> None:
    """Ask eight questions at once, then stream one answer, then give one up."""
    with Qwen.load() as qwen:
        for reply in await asyncio.gather(*(ask(qwen, number) for number in range(8))):
            print(reply.text)
        await show(qwen)
        try:
            # Without stop ids it would go on until the context is full.
            await asyncio.wait_for(qwen.achat("Write a story.", stop_ids=()), timeout=0.5)
        except asyncio.TimeoutError:  # the name of TimeoutError before Python 3.11
            print("[given up after half a second]")


asyncio.run(main())
