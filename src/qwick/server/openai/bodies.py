"""The bodies that clients send, strictly typed: an unknown field, or a wrong type, is refused.

Only shapes and ranges that hold for every model; what depends on one is checked where it is asked.
Types come from the official client's (openai 3.57, types/chat/completion_create_params.py); below
"ours and others'" are fields of vLLM, llama.cpp and the like.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from qwick.server.reading import NOT_SUPPORTED

MAX_MESSAGES = 4096
MAX_TEXT = 8 << 20  # characters of one text
MAX_STOPS = 32
MAX_PROMPTS = 64
MAX_INPUTS = 2048  # as in OpenAI's API

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Identifier = Annotated[str, Field(max_length=512)]
Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Json = dict[str, Any]


class Body(BaseModel):
    """The base of all: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _no_custom(value: Any) -> Any:
    """Refuse what newer clients call custom: a tool that takes any text, or a call of one."""
    if isinstance(value, dict) and value.get("type") == "custom":
        from pydantic_core import PydanticCustomError

        raise PydanticCustomError(NOT_SUPPORTED, "only functions are supported, no custom tools")
    return value


OnlyFunctions = BeforeValidator(_no_custom)


class TextPart(Body):
    """A part of a content that is text."""

    type: Literal["text", "input_text", "output_text"]
    text: Text
    cache_control: Json | None = None


class RefusalPart(Body):
    """An earlier refusal of an assistant."""

    type: Literal["refusal"]
    refusal: Text


class MediaPart(BaseModel):
    """A part that is no text. It is looked at no further: these models read text."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal[
        "image_url",
        "input_image",
        "image",
        "input_audio",
        "audio_url",
        "audio",
        "video_url",
        "video",
        "file",
        "input_file",
    ]


Part = Annotated[TextPart | RefusalPart | MediaPart, Field(discriminator="type")]
Content = Text | list[Part]


class CalledFunction(Body):
    """The name of a tool and the JSON text of its arguments."""

    name: Name
    arguments: Text


class Call(Body):
    """A call that an assistant wished for."""

    id: Identifier
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # as in streams, which some clients send back


class Message(Body):
    """One turn. `developer` is what newer clients call `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Identifier | None = None
    tool_calls: list[Annotated[Call, OnlyFunctions]] | None = Field(default=None, max_length=128)
    tool_call_id: Identifier | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    refusal: Text | None = None
    # Of replies that clients send back as they came; nothing of ours is ever in them.
    annotations: list[Any] | None = Field(default=None, max_length=0)
    audio: None = None
    function_call: None = None


class FunctionTool(Body):
    """What a tool is called, does and takes."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: Text | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool that the model may wish to be called."""

    type: Literal["function"]
    function: FunctionTool


Tools = list[Annotated[Tool, OnlyFunctions]]


class NamedFunction(Body):
    """A function by its name."""

    name: Name


class NamedTool(Body):
    """A tool by its name."""

    type: Literal["function"]
    function: NamedFunction


class Allowed(Body):
    """Some of the tools, to choose from."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=128)


class AllowedTools(Body):
    """The form in which newer clients narrow the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowed


class TextFormat(Body):
    """Text."""

    type: Literal["text"]


class ObjectFormat(Body):
    """Any JSON object; with a schema, which llama.cpp takes here, JSON by that."""

    type: Literal["json_object"]
    schema_: Json | None = Field(default=None, alias="schema")


class JsonSchema(Body):
    """A schema with a name."""

    name: Name
    description: Text | None = None
    schema_: Json | None = Field(default=None, alias="schema")
    strict: bool | None = None


class SchemaFormat(Body):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(Body):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class StructuredOutputs(Body):
    """vLLM's form of a grammar: one of these."""

    json_: Json | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Sampled(Body):
    """What both kinds of completion have in common."""

    model: Name
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=1024)
    max_tokens: Count | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    user: Identifier | None = None

    # Ours and others'.
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop_token_ids: list[Id] | None = Field(default=None, max_length=64)
    ignore_eos: bool | None = None
    loop_detection: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Json | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: Json | None = None
    grammar: str | None = None
    cache_prompt: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    return_progress: bool | None = None


class ChatBody(Sampled):
    """A body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    logprobs: bool | None = None
    max_completion_tokens: Count | None = None
    modalities: list[Literal["text", "audio"]] | None = Field(default=None, max_length=2)
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    response_format: (
        Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None
    ) = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"]
        | Annotated[NamedTool | AllowedTools, Field(discriminator="type")]
        | None,
        OnlyFunctions,
    ] = None
    tools: Tools | None = Field(default=None, max_length=128)
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    prediction: Json | None = None
    prompt_cache_key: Identifier | None = None
    prompt_cache_options: Json | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: Identifier | None = None
    service_tier: str | None = None
    store: bool | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    # Refused by name; null asks for nothing.
    audio: None = None
    function_call: None = None
    functions: None = None
    moderation: None = None
    web_search_options: None = None

    # Ours and others'.
    enable_thinking: bool | None = None
    thinking_budget: Annotated[int, Field(ge=0, le=1 << 24)] | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, le=1 << 24)] | None = None
    chat_template_kwargs: Json | None = None


class CompletionBody(Sampled):
    """A body of /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Id], Field(min_length=1, max_length=1 << 20, fail_fast=True)]
        | Annotated[
            list[Annotated[list[Id], Field(min_length=1, max_length=1 << 20, fail_fast=True)]],
            Field(min_length=1, max_length=MAX_PROMPTS),
        ]
    )
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: Text | None = None


class PooledBody(Body):
    """What embeddings and rankings have in common."""

    model: Name
    user: Identifier | None = None

    # Ours and others'.
    instruction: Annotated[Text, Field(min_length=1)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    cache_prompt: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class EmbeddingBody(PooledBody):
    """A body of /v1/embeddings."""

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[list[Id], Field(min_length=1, max_length=1 << 20, fail_fast=True)]
        | Annotated[
            list[Annotated[list[Id], Field(min_length=1, max_length=1 << 20, fail_fast=True)]],
            Field(min_length=1, max_length=MAX_INPUTS),
        ]
    )
    dimensions: Count | None = None
    encoding_format: Literal["float", "base64"] | None = None

    # Ours and others'.
    normalize: bool | None = None


class DocumentText(Body):
    """A document in the form that an answer has."""

    text: Text


class RerankBody(PooledBody):
    """A body of /v1/rerank."""

    query: Text
    documents: list[Text | DocumentText] = Field(min_length=1, max_length=MAX_INPUTS)
    top_n: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None  # 0: vLLM's word for all
    return_documents: bool | None = None


class TokenizeBody(Body):
    """A body of /tokenize: a text, or a conversation as the model sees it."""

    model: Name | None = None
    prompt: Text | None = None
    content: Text | None = None  # what llama.cpp calls it
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    tools: Tools | None = Field(default=None, max_length=128)
    add_generation_prompt: bool = True
    add_special_tokens: bool = True
    add_special: bool = True  # what llama.cpp calls it
    parse_special: bool = True
    with_pieces: bool = False  # llama.cpp's: tokens are objects with their piece of the text
    return_token_strs: bool = False  # vLLM's: the pieces in a list of their own
    chat_template_kwargs: Json | None = None


class DetokenizeBody(Body):
    """A body of /detokenize."""

    model: Name | None = None
    tokens: list[Id] = Field(max_length=1 << 20, fail_fast=True)
