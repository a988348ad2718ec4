"""What becomes of each field that is not simply honoured: inert, with the reason, or refused.

The one table that the server obeys, the reference page is generated from, and tests hold to the
official client's types. A field that is inert and was given is named in the header x-qwick-inert.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from qwick.errors import UnsupportedError
from qwick.server.openai.bodies import (
    AllowedTools,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    Message,
    NamedTool,
    RerankBody,
    Sampled,
    SchemaFormat,
    StructuredOutputs,
    TextFormat,
    TextPart,
)

_GRAMMARS = (
    *("response_format", "structured_outputs", "json_schema", "grammar"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)
INERT_HEADER = "x-qwick-inert"

# Without any effect on the answer, whatever the value.
INERT: Mapping[str, str] = {
    "metadata": "nothing is stored, so there is nothing to tag",
    "prompt_cache_key": "prefixes are found by their tokens; see cache_salt to keep them apart",
    "prompt_cache_options": "prefixes are kept while their memory is not needed",
    "prompt_cache_retention": "prefixes are kept while their memory is not needed",
    "prediction": "a hint for speed only: text that repeats is guessed ahead without it",
    "stream_options.include_obfuscation": "pieces are not padded; use TLS against listeners",
    "messages.content.cache_control": "prefixes are found by their tokens, without marks",
    "messages.refusal": "beside a content, which is what the model reads then",
    "messages.name": "no template of the family tells who of several speaks",
    "response_format.json_schema.description": "the model is not told; say it in a message",
    "response_format.json_schema.strict": "the schema is held to, whether it is asked for or not",
    "add_special_tokens": "these tokenizers put nothing before or after a text",
    "add_special": "these tokenizers put nothing before or after a text",
}

# Without an effect for these values; anything else would be a wish that is not fulfilled.
INERT_VALUES: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "store": ((False,), "nothing is ever stored"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "verbosity": (("medium",), "the models have no such setting; ask for it in a message"),
    "modalities": ((["text"],), "answers are text"),
}

_COMPLETE = "inert with a grammar, as the answer ends where that is complete"

# Honoured, but not with every other field of the same body.
NOTES: Mapping[type[BaseModel], Mapping[str, str]] = {
    ChatBody: {
        "ignore_eos": _COMPLETE,
        "min_tokens": _COMPLETE,
        "tool_choice": "where it demands a call, a grammar for the answer is inert",
        "top_logprobs": "with `logprobs` only",
    },
    CompletionBody: {
        "ignore_eos": _COMPLETE,
        "min_tokens": _COMPLETE,
        "best_of": "no other value than that of `n`",
        "logprobs": "with `echo` those of the prompt too; not with `suffix` then",
        "suffix": "with prompts that are text",
    },
    EmbeddingBody: {
        "instruction": "with texts, which are queries then",
        "truncate_prompt_tokens": "-1: as many as the context holds; the beginning is kept",
    },
    RerankBody: {
        "return_documents": "without it they come, unless there is a content policy",
        "truncate_prompt_tokens": "-1: as many as the context holds; a document's end is left out",
    },
}

# In the official schema of chats, and a 400 by name here: the reason and the way out.
REFUSED: Mapping[str, str] = {
    "audio": "answers are text",
    "web_search_options": "nothing is searched; give the model a tool",
    "moderation": "there is no moderation",
    "function_call": "deprecated by tool_choice, which is understood",
    "functions": "deprecated by tools, which are understood",
}


def inert_fields(body: BaseModel) -> list[str]:
    """Return the given fields without effect; UnsupportedError for a wish that is none of them."""
    given = body.model_fields_set
    found = [name for name in INERT if name in given and getattr(body, name, None) is not None]
    options = body.stream_options if isinstance(body, Sampled) else None
    if options is not None and options.include_obfuscation:
        found.append("stream_options.include_obfuscation")
    if isinstance(body, ChatBody):
        found += _inert_of_chats(body)
    if isinstance(body, Sampled):
        found += _inert_with_grammars(body)
    for name, (values, reason) in INERT_VALUES.items():
        value = getattr(body, name, None)
        if value is None:
            continue
        if value not in values:
            allowed = " or ".join(map(repr, values))
            raise UnsupportedError(
                f"{name} is {value!r:.100}; allowed: {allowed}", hint=f"leave it out: {reason}"
            )
        found.append(name)
    return found


def _inert_of_chats(body: ChatBody) -> list[str]:
    found = []
    if any(_is_marked(message) for message in body.messages):
        found.append("messages.content.cache_control")
    if any(message.name is not None for message in body.messages):
        found.append("messages.name")
    if isinstance(body.response_format, SchemaFormat):
        told = body.response_format.json_schema
        if told.description is not None:
            found.append("response_format.json_schema.description")
        if told.strict is False:
            found.append("response_format.json_schema.strict")
    if any(message.refusal is not None and message.content for message in body.messages):
        found.append("messages.refusal")
    return found


def _inert_with_grammars(body: Sampled) -> list[str]:
    """Return what cannot be held where a grammar is, and the grammar where a call is demanded."""
    grammar = next((name for name in _GRAMMARS if _is_grammar(getattr(body, name, None))), None)
    choice = getattr(body, "tool_choice", None)
    if isinstance(choice, AllowedTools):
        choice = choice.allowed_tools.mode
    demanded = isinstance(choice, NamedTool) or choice == "required"
    found = []
    if grammar is not None or demanded:
        found += ["min_tokens"] if body.min_tokens else []
        found += ["ignore_eos"] if body.ignore_eos else []
    return [*found, grammar] if grammar is not None and demanded else found


def _is_grammar(value: Any) -> bool:
    """Whether a field's value asks for one."""
    if isinstance(value, StructuredOutputs):
        return any(one not in (None, False) for _, one in value)
    return value not in (None, False) and not isinstance(value, TextFormat)


def _is_marked(message: Message) -> bool:
    parts = message.content if isinstance(message.content, list) else ()
    return any(isinstance(part, TextPart) and part.cache_control is not None for part in parts)


def fates(body: type[BaseModel]) -> list[tuple[str, str]]:
    """Return what becomes of each field of a body, by name."""
    found = dict.fromkeys(body.model_fields, "honoured")
    found.update({name: f"honoured; {note}" for name, note in NOTES.get(body, {}).items()})
    found.update({name: f"inert: {reason}" for name, reason in INERT.items() if name in found})
    for name, (values, reason) in INERT_VALUES.items():
        if name in found:
            allowed = " or ".join(f"`{json.dumps(value)}`" for value in values)
            found[name] = f"inert if {allowed}, else refused: {reason}"
    found.update({name: f"refused: {why}" for name, why in REFUSED.items() if name in found})
    return sorted(found.items())


def inner_fates() -> list[tuple[str, str]]:
    """Return what becomes of the inert fields that are none of the two bodies' own, by name."""
    known = {*ChatBody.model_fields, *CompletionBody.model_fields}
    return sorted((name, f"inert: {why}") for name, why in INERT.items() if name not in known)
