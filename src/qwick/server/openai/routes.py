"""The routes of the OpenAI dialect: thin, for everything is done by desk, asking and writing."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from qwick.errors import ParameterError, PermissionDeniedError, UnsupportedError
from qwick.server.caller import Caller
from qwick.server.desk import Desk
from qwick.server.documents import answers, takes
from qwick.server.hosted import Hosted
from qwick.server.openai import replies
from qwick.server.openai.asking import (
    characters_of,
    plain_messages,
    plain_tools,
    template_keywords,
)
from qwick.server.openai.bodies import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    RerankBody,
    TokenizeBody,
)
from qwick.server.openai.fields import INERT_HEADER, REFUSED, inert_fields
from qwick.server.openai.pooling import PooledWriter, embedding_ask, rerank_ask
from qwick.server.openai.requests import needs_texts, read_chat, read_completion
from qwick.server.problems import of_field
from qwick.server.reading import read_body

MODALITIES = ["text"]
# Fields by which texts pass that the policy would change.
PAST_POLICY = ("echo", "logprobs", "return_documents")


def routes(desk: Desk) -> APIRouter:
    """Return the dialect's routes, over a desk."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions", **takes(ChatBody), **answers(replies.ChatCompletion, events=True)
    )
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation; with stream, piece by piece as server-sent events."""
        body = await read_body(request, ChatBody, REFUSED)
        caller: Caller = request.state.caller
        _check_policy(desk, body)
        headers = _inert(body)
        hosted = _hosted(desk, caller, body.model)
        ask, writer = await desk.read(caller, partial(read_chat, body, caller))
        stream = bool(body.stream)
        return await desk.respond(caller, hosted, ask, writer, stream=stream, headers=headers)

    @router.post(
        "/v1/completions", **takes(CompletionBody), **answers(replies.Completion, events=True)
    )
    async def completions(request: Request) -> Response:
        """Continue a raw text, or fill in between two; with stream, as server-sent events."""
        body = await read_body(request, CompletionBody, {})
        caller: Caller = request.state.caller
        _check_policy(desk, body)
        headers = _inert(body)
        hosted = _hosted(desk, caller, body.model)
        texts = (await desk.models.ready(hosted)).texts if needs_texts(body) else None
        ask, writer = await desk.read(caller, partial(read_completion, body, caller, texts))
        stream = bool(body.stream)
        return await desk.respond(caller, hosted, ask, writer, stream=stream, headers=headers)

    @router.post("/v1/embeddings", **takes(EmbeddingBody), **answers(replies.EmbeddingList))
    async def embeddings(request: Request) -> Response:
        """Return a vector for each text."""
        body = await read_body(request, EmbeddingBody, {})
        caller: Caller = request.state.caller
        hosted = _hosted(desk, caller, body.model)
        ask = await desk.read(caller, partial(embedding_ask, body, caller))
        return await desk.respond(caller, hosted, ask, PooledWriter(), stream=False, headers={})

    @router.post("/v1/rerank", **takes(RerankBody), **answers(replies.Ranking))
    @router.post("/rerank", **takes(RerankBody), **answers(replies.Ranking))
    async def rerank(request: Request) -> Response:
        """Tell how well each document meets a query, the best first."""
        body = await read_body(request, RerankBody, {})
        caller: Caller = request.state.caller
        _check_policy(desk, body)
        hosted = _hosted(desk, caller, body.model)
        documents = not desk.options.policy
        ask = await desk.read(caller, partial(rerank_ask, body, caller, documents=documents))
        return await desk.respond(caller, hosted, ask, PooledWriter(), stream=False, headers={})

    @router.get("/v1/models", **answers(replies.ModelList))
    async def list_models(request: Request) -> Response:
        """List the served models."""
        caller: Caller = request.state.caller
        allowed = caller.limits.models
        data = [
            _model(hosted)
            for name, hosted in desk.models.hosted.items()
            if allowed is None or name in allowed
        ]
        return JSONResponse({"object": "list", "data": data})

    @router.get("/v1/models/{model:path}", **answers(replies.Model))
    async def get_model(request: Request, model: str) -> Response:
        """Describe one served model."""
        return JSONResponse(_model(_hosted(desk, request.state.caller, model)))

    @router.post("/tokenize", **takes(TokenizeBody), **answers(replies.Tokenized))
    async def tokenize(request: Request) -> Response:
        """Return the token ids of a text, or of a conversation as the model sees it."""
        body = await read_body(request, TokenizeBody, {})
        hosted = _hosted(desk, request.state.caller, body.model)
        qwen = await desk.models.ready(hosted)
        said = body.model_fields_set & {"prompt", "content", "messages"}
        if len(said) != 1:
            with of_field(max(said, default="prompt")):
                raise ParameterError(
                    f"{' and '.join(sorted(said)) or 'no text'} is given; allowed: one of prompt, "
                    "content and messages"
                )

        def answered() -> dict[str, Any]:
            ids = encoded()
            found = {"tokens": ids, "count": len(ids), "max_model_len": qwen.context}
            if body.with_pieces:
                pieces = [_piece(qwen.tokenizer.token_bytes(id)) for id in ids]
                found["tokens"] = [{"id": i, "piece": p} for i, p in zip(ids, pieces, strict=True)]
            if body.return_token_strs:
                found["token_strs"] = [qwen.tokenizer.decode([id]) for id in ids]
            return found

        def encoded() -> list[int]:
            if body.messages is None:
                text = body.content if body.prompt is None else body.prompt
                return qwen.tokenizer.encode(text or "", parse_special=body.parse_special)
            with of_field(None, otherwise="messages"):
                return qwen.texts.render(
                    plain_messages(body.messages),
                    plain_tools(body.tools) or None,
                    template_keywords(body.chat_template_kwargs),
                    add_generation_prompt=body.add_generation_prompt,
                ).ids

        caller: Caller = request.state.caller
        with desk.small(caller, hosted, _characters(body)) as limits:
            found = await desk.read(caller, answered)
        return JSONResponse(found, headers={**limits, **_inert(body)})

    @router.post("/detokenize", **takes(DetokenizeBody), **answers(replies.Detokenized))
    async def detokenize(request: Request) -> Response:
        """Return the text of token ids."""
        body = await read_body(request, DetokenizeBody, {})
        hosted = _hosted(desk, request.state.caller, body.model)
        tokenizer = (await desk.models.ready(hosted)).tokenizer

        def decoded() -> str:
            with of_field("tokens"):
                return tokenizer.decode(body.tokens)

        caller: Caller = request.state.caller
        with desk.small(caller, hosted, len(body.tokens)) as limits:
            text = await desk.read(caller, decoded)
        return JSONResponse({"prompt": text, "content": text}, headers=limits)

    return router


def _piece(data: bytes) -> str | list[int]:
    """Return a token as llama.cpp tells it: text, or bytes where they are no whole characters."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return list(data)


def _check_policy(desk: Desk, body: BaseModel) -> None:
    """Refuse the fields by which texts would pass the content policy, where there is one."""
    for name in PAST_POLICY if desk.options.policy else ():
        given = getattr(body, name, None)
        if given is not None and given is not False:
            with of_field(name):
                raise UnsupportedError(
                    f"{name} tells texts as they were written, and there is a content policy here",
                    hint="leave it out, or ask a server without --policy",
                )


def _inert(body: BaseModel) -> dict[str, str]:
    found = inert_fields(body)
    return {INERT_HEADER: ", ".join(found)} if found else {}


def _hosted(desk: Desk, caller: Caller, name: str | None) -> Hosted:
    """Return a model that this caller may use; None is the first one."""
    hosted = desk.models.first if name is None else desk.models.find(name)
    allowed = caller.limits.models
    if allowed is not None and hosted.name not in allowed:
        raise PermissionDeniedError(
            f"model is {hosted.name!r}; allowed with this key: {', '.join(allowed)}"
        )
    return hosted


def _characters(body: TokenizeBody) -> int:
    """Return the characters that are to be tokenized."""
    tools = sum(len(json.dumps(tool)) for tool in plain_tools(body.tools))
    if body.messages is not None:
        return characters_of(plain_messages(body.messages)) + tools
    return len(body.prompt or body.content or "") + tools


def _model(hosted: Hosted) -> dict[str, Any]:
    qwen = hosted.qwen
    meta = None
    if qwen is not None:
        meta = {
            "context": qwen.context,
            "vocabulary": qwen.tokenizer.n_tokens,
            "thinking": qwen.texts.thinking.value,
            "modalities": MODALITIES,
            "answers": qwen.engine.capacity.head and qwen.defaults.family.answers,
            "embedding": qwen.engine.capacity.hidden,
        }
    return {
        "id": hosted.name,
        "object": "model",
        "created": hosted.created,
        "owned_by": "qwick",
        "state": hosted.state,
        "max_model_len": None if qwen is None else qwen.context,
        "meta": meta,
    }
