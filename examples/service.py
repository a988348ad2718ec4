"""A service of one's own around a model: single questions and batches, from asyncio."""

import asyncio
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from qwick import Qwen

MOST = {"temperature": 0, "max_tokens": 12}


@asynccontextmanager
async def lifespan(app: FastAPI):
    """Load the model with the service, in a process of its own, and close it with the service."""
    with await asyncio.to_thread(Qwen.load, ctx=1024, own_process=True) as app.state.qwen:
        yield


app = FastAPI(lifespan=lifespan)  # `uvicorn service:app` serves it


@app.post("/ask")
async def ask(question: str) -> str:
    """Answer one question; those that come at the same time share each step."""
    return (await app.state.qwen.achat(question, **MOST)).text


@app.post("/batch")
async def batch(questions: list[str]) -> list[str]:
    """Answer many questions, together."""
    return list(await asyncio.gather(*map(ask, questions)))


async def main() -> None:
    """Ask the service as its clients would."""
    async with lifespan(app):
        door = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=door, base_url="http://x", timeout=60) as client:
            one = client.post("/ask", params={"question": "What is 2 + 2?"})
            many = client.post("/batch", json=["Name a colour.", "Name a prime number."])
            for answer in await asyncio.gather(one, many):
                print(answer.status_code, answer.json())


if __name__ == "__main__":
    asyncio.run(main())
