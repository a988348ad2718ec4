"""The answers as the OpenAPI document describes them. Only described: JSON is written by hand.

Types come from the official client's (openai 3.57, types/chat/chat_completion.py and
chat_completion_chunk.py), with what others add: reasoning_content and reasoning, timings,
prompt_progress.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

Finish = Literal["stop", "length", "tool_calls", "repetition"]


class PromptDetails(BaseModel):
    """Of the prompt's tokens, those that were not computed again."""

    cached_tokens: int


class CompletionDetails(BaseModel):
    """Of the answer's tokens, those of its thinking."""

    reasoning_tokens: int


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Timings(BaseModel):
    """How fast it was, named as llama.cpp does."""

    prompt_n: int
    cache_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float
    draft_n: int
    draft_n_accepted: int
    queue_ms: float


class TopLogprob(BaseModel):
    """A token and its log probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """The token that was taken, and the most probable ones there."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """Of each token of an answer."""

    content: list[TokenLogprob] | None
    refusal: None = None


class Function(BaseModel):
    """The name of a tool and the JSON text of its arguments."""

    name: str
    arguments: str


class Call(BaseModel):
    """A call that the model wishes for."""

    id: str
    type: Literal["function"]
    function: Function


class Message(BaseModel):
    """An answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None


class Choice(BaseModel):
    """One of the answers."""

    index: int
    message: Message
    finish_reason: Finish
    logprobs: Logprobs | None
    warnings: list[str] | None = None


class ChatCompletion(BaseModel):
    """A whole answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    timings: Timings
    system_fingerprint: str | None = None
    service_tier: str | None = None


class CompletionLogprobs(BaseModel):
    """Of each token of a completion; null for the first of a prompt that is echoed."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One of the completions."""

    index: int
    text: str
    finish_reason: Finish
    logprobs: CompletionLogprobs | None
    warnings: list[str] | None = None


class Completion(BaseModel):
    """A whole answer of /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    timings: Timings
    system_fingerprint: str | None = None


class PooledUsage(BaseModel):
    """Tokens of a request that is answered without any."""

    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Embedding(BaseModel):
    """A vector: numbers, or the base64 of float32, the lowest byte first."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """An answer of /v1/embeddings, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: PooledUsage


class RankedText(BaseModel):
    """A document as it was sent."""

    text: str


class RankedDocument(BaseModel):
    """A document by its number, and how well it meets the query: 0 to 1."""

    index: int
    relevance_score: float
    document: RankedText | None = None


class Ranking(BaseModel):
    """An answer of /v1/rerank, the best document first."""

    id: str
    model: str
    usage: PooledUsage
    results: list[RankedDocument]


class ModelMeta(BaseModel):
    """What is known of a loaded model; answers: false where it makes embeddings only."""

    context: int
    vocabulary: int
    thinking: str
    modalities: list[str]
    answers: bool
    embedding: int


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    state: str
    max_model_len: int | None
    meta: ModelMeta | None


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"]
    data: list[Model]


class TokenPiece(BaseModel):
    """A token, and what it is of the text: bytes where those are no whole characters."""

    id: int
    piece: str | list[int]


class Tokenized(BaseModel):
    """A text as token ids; with_pieces adds llama.cpp's pieces, return_token_strs vLLM's list."""

    tokens: list[int] | list[TokenPiece]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None


class Detokenized(BaseModel):
    """Token ids as text: under vLLM's name and llama.cpp's."""

    prompt: str
    content: str


class ErrorDetail(BaseModel):
    """What was wrong, and the way out."""

    message: str
    type: str
    param: str | None
    code: str | None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class Error(BaseModel):
    """An error in the OpenAI form."""

    error: ErrorDetail
