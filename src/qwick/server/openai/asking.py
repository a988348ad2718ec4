"""From a body to an `Ask`: each honoured field becomes a keyword of `Qwen.chat` or `.complete`.

Raises ParameterError or UnsupportedError that name the field. Knows no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qwick.errors import ParameterError, UnsupportedError, shown
from qwick.llm.wishes import TEMPLATE
from qwick.server.ask import Ask, Question
from qwick.server.caller import Caller
from qwick.server.openai.bodies import (
    AllowedTools,
    ChatBody,
    CompletionBody,
    MediaPart,
    Message,
    NamedTool,
    ObjectFormat,
    RefusalPart,
    Sampled,
    SchemaFormat,
    Tool,
)
from qwick.server.problems import of_field
from qwick.text.grammar import Grammar

if TYPE_CHECKING:
    from qwick.llm.texts import Texts

MODALITIES = "text"  # what the models served so far can read

# Tokens of thinking for OpenAI's words; None: as many as the answer may have.
EFFORTS: Mapping[str, int | None] = {
    "none": 0,
    "minimal": 0,
    "low": 1024,
    "medium": 4096,
    "high": 16384,
    "xhigh": None,
    "max": None,
}

_TEXTS = ("content", "reasoning_content", "name", "tool_call_id")  # of a message

# Fields whose names are those of our keywords, or of what they become.
_SAME = (
    "frequency_penalty",
    "presence_penalty",
    "temperature",
    "top_p",
    "min_p",
    "min_tokens",
    "ignore_eos",
    "loop_detection",
)


def chat_ask(body: ChatBody, caller: Caller) -> Ask:
    """Return what a chat body asks."""
    keywords = _sampled(body, caller)
    keywords["max_tokens"] = _agreed(
        body, ("max_tokens", "max_completion_tokens"), body.max_tokens, body.max_completion_tokens
    )
    if body.logprobs:
        keywords["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise ParameterError(
            f"top_logprobs is {body.top_logprobs}; allowed: only with logprobs set to true"
        )
    keywords.update(_thinking(body))
    tools, choice = _tools(body)
    if choice is not None:
        keywords["tool_choice"] = choice
    if body.parallel_tool_calls is not None:
        keywords["parallel_tool_calls"] = body.parallel_tool_calls
    messages = [_message(message, f"messages[{i}]") for i, message in enumerate(body.messages)]
    question = Question(
        _said(keywords), messages=messages, tools=tools or None, spelled=_spelled(body)
    )
    grammar: Grammar | None = keywords["grammar"]
    characters = characters_of(messages)
    characters += 0 if grammar is None else len(grammar.text)
    return Ask(
        "chat",
        body.model,
        [question],
        choices=body.n or 1,
        max_tokens=keywords["max_tokens"],
        characters=characters + sum(len(json.dumps(tool)) for tool in tools),
        user=_agreed(body, ("user", "safety_identifier"), body.user, body.safety_identifier),
    )


def completion_ask(
    body: CompletionBody, caller: Caller, said: Sequence[str], texts: Texts | None = None
) -> Ask:
    """Return what a completion body asks; said: its prompts as text; texts: for a suffix."""
    keywords = _sampled(body, caller)
    keywords["max_tokens"] = 16 if body.max_tokens is None else body.max_tokens  # OpenAI's default
    keywords["logprobs"] = body.logprobs
    n = body.n or 1
    if body.best_of is not None and body.best_of != n:
        raise UnsupportedError(
            f"best_of is {body.best_of}; allowed: {n}, the same as n",
            hint="ask for more choices (n) with logprobs, and take the best",
        )
    if body.echo and body.logprobs is not None:
        keywords["prompt_logprobs"] = body.logprobs
        if body.suffix is not None:
            with of_field("logprobs"):
                raise UnsupportedError(
                    "logprobs with echo are those of the prompt, which a suffix is made part of",
                    hint="leave out suffix, echo or logprobs",
                )
    prompts = list_of_prompts(body.prompt)
    characters = sum(map(len, said))
    if body.suffix is not None:
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise ParameterError("suffix goes with a prompt that is text; allowed: no token ids")
        characters += len(prompts) * len(body.suffix)
        assert texts is not None
        with of_field("suffix"):
            prompts = [texts.fill_in(prompt, body.suffix) for prompt in prompts]
    spelled = {"ids": "prompt"}
    questions = [Question(_said(keywords), prompt=prompt, spelled=spelled) for prompt in prompts]
    grammar: Grammar | None = keywords["grammar"]
    return Ask(
        "completion",
        body.model,
        questions,
        choices=n,
        max_tokens=keywords["max_tokens"],
        characters=characters + (0 if grammar is None else len(grammar.text)),
        user=body.user,
    )


def plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as `Qwen` takes them."""
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def plain_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Return tool definitions as `Qwen` takes them, as they were given."""
    return [tool.model_dump(exclude_unset=True) for tool in tools or ()]


# -- what all bodies have --------------------------------------------------------------------------


def _sampled(body: Sampled, caller: Caller) -> dict[str, Any]:
    keywords: dict[str, Any] = {name: getattr(body, name) for name in _SAME}
    keywords["repetition_penalty"] = _agreed(
        body,
        ("repetition_penalty", "repeat_penalty"),  # the second is llama.cpp's word
        body.repetition_penalty,
        body.repeat_penalty,
    )
    if body.top_k is not None:
        keywords["top_k"] = max(body.top_k, 0)  # -1 is vLLM's word for off
    if body.stop is not None:
        keywords["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if body.stop_token_ids is not None:
        keywords["extra_stop_ids"] = tuple(body.stop_token_ids)
    if body.seed is not None:
        keywords["seed"] = body.seed % 2**64
    if body.logit_bias:
        keywords["logit_bias"] = _biases(body.logit_bias)
    keywords["grammar"] = _grammar(body)
    keywords["progress"] = body.return_progress
    keywords["namespace"] = caller.namespace(body.cache_salt, share=body.cache_prompt is not False)
    if body.stream_options is not None and not body.stream:
        raise ParameterError("stream_options goes with stream set to true; allowed: leave it out")
    if body.return_progress and not body.stream:
        raise ParameterError("return_progress goes with stream set to true; allowed: leave it out")
    return keywords


def _said(keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if value is not None}


def _agreed(body: Sampled, names: tuple[str, str], *values: Any) -> Any:
    """Return the one value of two fields that mean the same."""
    said = [value for value in values if value is not None]
    if any(value != said[0] for value in said):
        raise ParameterError(
            f"{names[0]} is {shown(values[0])} and {names[1]} is {shown(values[1])}, which mean "
            "the same; allowed: one of them"
        )
    return said[0] if said else None


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    found: dict[int, float] = {}
    for key, bias in given.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise ParameterError(f"a key of logit_bias is {shown(key)}; allowed: token ids")
        found[int(key)] = bias
    return found


def _grammar(body: Sampled) -> Grammar | None:
    """Return the one grammar that the many spellings ask for."""
    outputs = body.structured_outputs
    spelled: list[tuple[str, Grammar]] = []

    def add(name: str, value: Any, make: Any) -> None:
        if value is not None and value is not False:
            with of_field(name):
                spelled.append((name, replace(make(value), name=name)))

    format = getattr(body, "response_format", None)
    if isinstance(format, SchemaFormat):
        schema = format.json_schema.schema_
        name = "response_format.json_schema.schema"
        add(name, {} if schema is None else schema, _by_schema)
    elif isinstance(format, ObjectFormat):
        add("response_format.schema", format.schema_ or None, _by_schema)
        if not spelled:
            add("response_format", True, lambda _: Grammar.json_object())
    if outputs is not None:
        add("structured_outputs.json", outputs.json_, _by_schema)
        add("structured_outputs.regex", outputs.regex, Grammar.regex)
        add("structured_outputs.choice", outputs.choice, Grammar.choice)
        add("structured_outputs.grammar", outputs.grammar, _by_grammar)
        add("structured_outputs.json_object", outputs.json_object, lambda _: Grammar.json_object())
    add("guided_json", body.guided_json, _by_schema)
    add("guided_regex", body.guided_regex, Grammar.regex)
    add("guided_choice", body.guided_choice, Grammar.choice)
    add("guided_grammar", body.guided_grammar, _by_grammar)
    add("json_schema", body.json_schema, _by_schema)
    add("grammar", body.grammar, _by_grammar)
    if len(spelled) > 1:
        names = " and ".join(name for name, _ in spelled)
        with of_field(spelled[-1][0]):
            raise ParameterError(f"{names} are given; allowed: one of them")
    return spelled[0][1] if spelled else None


def _by_schema(schema: Any) -> Grammar:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise ParameterError(
                f"the JSON schema is a string that is no JSON: {error}; allowed: an object, or the "
                "JSON text of one"
            ) from None
    return Grammar.json_schema(schema)


def _by_grammar(text: str) -> Grammar:
    """Take llama.cpp's GBNF (`root ::= ...`) or Lark (`start: ...`)."""
    return Grammar.gbnf(text) if "::=" in text else Grammar.lark(text)


# -- chats -----------------------------------------------------------------------------------------


def _thinking(body: ChatBody) -> dict[str, Any]:
    """Return the one setting of thinking, however it is spelled, and the template's variables."""
    found = template_keywords(body.chat_template_kwargs)
    switch = _agreed(
        body,
        ("enable_thinking", "chat_template_kwargs.enable_thinking"),
        body.enable_thinking,
        found.get("enable_thinking"),
    )
    budget = _agreed(
        body,
        ("thinking_budget", "thinking_token_budget"),
        body.thinking_budget,
        body.thinking_token_budget,
    )
    effort = body.reasoning_effort
    aim: int | None = None
    if effort in ("none", "minimal"):
        if switch is True:
            raise ParameterError(
                f"reasoning_effort is {effort!r} and enable_thinking True; allowed: one of them"
            )
        switch = False
    elif effort is not None:
        if switch is False:
            raise ParameterError(
                f"reasoning_effort is {effort!r} and enable_thinking False; allowed: one of them"
            )
        switch = True
        aim = EFFORTS[effort] if budget is None else None
    if switch is not None:
        found["enable_thinking"] = switch
    if budget is not None:
        found["thinking_budget"] = budget
    if aim is not None:
        found["thinking_aim"] = aim
    return found


def template_keywords(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return chat_template_kwargs as keywords: its variables apart, so that none overrules a field.

    A field that they overruled could reach another key's prefixes.
    """
    kwargs = dict(given or {})
    found = {"enable_thinking": kwargs.pop("enable_thinking", None), TEMPLATE: kwargs}
    return {name: value for name, value in found.items() if value not in (None, {})}


def _spelled(body: ChatBody) -> dict[str, str]:
    """Return how this body spelled what has several names, for messages about it."""
    kwargs = body.chat_template_kwargs or {}
    found: dict[str, str] = {}
    if body.reasoning_effort is not None:
        found["enable_thinking"] = "reasoning_effort"
    elif "enable_thinking" in kwargs:
        found["enable_thinking"] = "chat_template_kwargs.enable_thinking"
    if body.thinking_token_budget is not None:
        found["thinking_budget"] = "thinking_token_budget"
    return found


def _tools(body: ChatBody) -> tuple[list[dict[str, Any]], Any]:
    """Return the tools that may be called, and the choice as `Qwen` takes it."""
    tools = plain_tools(body.tools)
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return tools, choice
    if isinstance(choice, NamedTool):
        return tools, {"name": choice.function.name}
    allowed = _allowed(choice)
    known = [tool["function"]["name"] for tool in tools]
    for name in allowed:
        if name not in known:
            raise ParameterError(
                f"tool_choice allows {shown(name)}; allowed: {', '.join(known) or 'no tool'}"
            )
    kept = [tool for tool in tools if tool["function"]["name"] in allowed]
    return kept, choice.allowed_tools.mode


def _allowed(choice: AllowedTools) -> list[str]:
    return [tool.function.name for tool in choice.allowed_tools.tools]


def _message(message: Message, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _content(message, where),
    }
    if found["content"] is None and message.refusal is not None:
        found["content"] = message.refusal
    for name in ("name", "tool_call_id"):
        if getattr(message, name) is not None:
            found[name] = getattr(message, name)
    thought = message.reasoning_content or message.reasoning
    if thought and message.role == "assistant":
        found["reasoning_content"] = thought
    elif thought:
        raise ParameterError(
            f"{where}.reasoning_content belongs to the role {message.role}; allowed: assistant"
        )
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]
    return found


def _content(message: Message, where: str) -> str | None:
    content = message.content
    if content is None or isinstance(content, str):
        if content is None and message.role == "assistant" and not message.tool_calls:
            return ""
        return content
    texts: list[str] = []
    for i, part in enumerate(content):
        if isinstance(part, MediaPart):
            raise UnsupportedError(
                f"{where}.content[{i}].type is {part.type!r}; this model reads: {MODALITIES}",
                hint="leave the part out; nothing was fetched",
            )
        texts.append(part.refusal if isinstance(part, RefusalPart) else part.text)
    return "".join(texts)


def _texts(message: Mapping[str, Any]) -> list[str]:
    calls = message.get("tool_calls") or ()
    return [
        *(message.get(name) or "" for name in _TEXTS),
        *(call["id"] for call in calls),
        *(call["function"][name] for call in calls for name in ("name", "arguments")),
    ]


def characters_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return the characters of everything that messages say."""
    return sum(len(text) for message in messages for text in _texts(message))


# -- completions -----------------------------------------------------------------------------------


def list_of_prompts(prompt: Any) -> list[Any]:
    """Return the prompts of a body, each a text or ids."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)
