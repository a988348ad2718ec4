"""/v1/embeddings and /v1/rerank: from a body to an `Ask`, and the JSON of the answer.

The first is OpenAI's, the second what Jina, Cohere and vLLM have in common. Knows no HTTP.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qwick.errors import ParameterError
from qwick.llm import Qwen, Ranked, Reply
from qwick.llm.pooling import Pooled, embedding, reranking
from qwick.llm.reply import Chunk, Usage
from qwick.server.ask import Ask, Question
from qwick.server.caller import Caller
from qwick.server.openai.bodies import EmbeddingBody, RerankBody
from qwick.server.openai.writing import dumped
from qwick.server.pooled import Pool, Written
from qwick.server.problems import Problem, of_field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_NUMBERS = 1 << 20  # of an answer as text, 22 bytes each; base64 has 5.3
MOST_TOKENS = 1 << 21  # of all prompts of a request: half an hour's, and 80 MB of ids
SPELLED = {"truncate": "truncate_prompt_tokens"}


class PooledWriter:
    """Sends what is written already; see `desk.Writer`. Such answers are never streamed."""

    def whole(self, replies: Sequence[Reply]) -> bytes:
        """Return the body."""
        (reply,) = replies
        assert isinstance(reply, Written)
        return reply.body

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """Return nothing."""
        return b""

    def reply(self, index: int, reply: Reply) -> bytes:
        """Return nothing."""
        return b""

    def end(self, replies: Sequence[Reply]) -> bytes:
        """Return nothing."""
        return b""

    def failed(self, problem: Problem) -> bytes:
        """Return nothing."""
        return b""


def embedding_ask(body: EmbeddingBody, caller: Caller) -> Ask:
    """Return what an embedding body asks."""
    given = body.input
    one = isinstance(given, str) or isinstance(given[0], int)
    inputs: list[Any] = [given] if one else list(given)
    as_text = body.encoding_format != "base64"
    names = "input" if one else "input[{i}]"

    def prepare(qwen: Qwen) -> Pooled[NDArray[np.float32]]:
        with of_field(None, SPELLED, "input"):
            pooled = embedding(
                qwen.texts,
                qwen.engine.capacity,
                inputs,
                instruction=body.instruction,
                dimensions=body.dimensions,
                normalize=body.normalize is not False,
                truncate=_truncated(body.truncate_prompt_tokens, qwen),
                namespace=caller.namespace(body.cache_salt, share=body.cache_prompt is not False),
                names=names,
                most_tokens=MOST_TOKENS,
            )
            size = body.dimensions or qwen.engine.capacity.hidden
            if as_text and len(inputs) * size > MOST_NUMBERS:
                raise ParameterError(
                    f"input holds {len(inputs)} texts of {size} numbers each; allowed: "
                    f"{MOST_NUMBERS} numbers in an answer of the encoding_format 'float'",
                    hint="ask for 'base64', or send fewer texts at a time",
                )
            return pooled

    each = len(body.instruction or "")  # it is read with every text
    return Ask(
        "embedding",
        body.model,
        [Question({}, prompt=text) for text in inputs],
        characters=len(inputs) * each + sum(map(len, inputs)),
        user=body.user,
        pool=Pool("input", prepare, partial(_embeddings, body.model, as_text=as_text)),
    )


def rerank_ask(body: RerankBody, caller: Caller, *, documents: bool) -> Ask:
    """Return what a rerank body asks; documents: whether the answer has them, if none says."""
    texts = [one if isinstance(one, str) else one.text for one in body.documents]

    def prepare(qwen: Qwen) -> Pooled[list[Ranked]]:
        with of_field(None, SPELLED, "documents"):
            return reranking(
                qwen.texts,
                qwen.engine.capacity,
                body.query,
                texts,
                instruction=body.instruction,
                top_n=body.top_n or None,
                truncate=_truncated(body.truncate_prompt_tokens, qwen),
                namespace=caller.namespace(body.cache_salt, share=body.cache_prompt is not False),
                most_tokens=MOST_TOKENS,
            )

    told = documents if body.return_documents is None else body.return_documents
    each = len(body.query) + len(body.instruction or "")  # both are read with every document
    return Ask(
        "rerank",
        body.model,
        [Question({}, prompt=text) for text in (body.query, *texts)],
        characters=len(texts) * each + sum(map(len, texts)),
        user=body.user,
        pool=Pool("documents", prepare, partial(_ranking, body.model, caller.request_id, told)),
    )


def _truncated(given: int | None, qwen: Qwen) -> int | None:
    """Return the most tokens of a prompt; -1 is vLLM's word for as many as there may be."""
    return qwen.context if given == -1 else given


def _embeddings(model: str, vectors: NDArray[np.float32], usage: Usage, *, as_text: bool) -> bytes:
    """Return OpenAI's list of embeddings: a vector at a time, between which others have a turn."""
    rows = []
    for index, vector in enumerate(vectors):
        told: Any = vector.tolist()
        if not as_text:
            told = base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        rows.append(dumped({"object": "embedding", "index": index, "embedding": told}))
    rest = dumped({"model": model, "usage": _usage(usage)})
    return b'{"object":"list","data":[' + b",".join(rows) + b"]," + rest[1:]


def _ranking(
    model: str, request_id: str, told: bool, rows: Sequence[Ranked], usage: Usage
) -> bytes:
    """Return what vLLM answers."""
    results = []
    for row in rows:
        document = {"document": {"text": row.document}} if told else {}
        results.append({"index": row.index, "relevance_score": row.score, **document})
    found = {"id": f"rerank-{request_id}", "model": model, "usage": _usage(usage)}
    return dumped({**found, "results": results})


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.prompt_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
