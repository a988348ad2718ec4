"""What becomes of each field that is not simply honoured: inert, with the reason, or refused.

The one table that the server obeys, the reference page is generated from, and tests hold to the
official client's types. A field that is inert and was given is named in the header x-qwick-inert.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwick.errors import UnsupportedError
from qwick.server.openai.bodies import ChatBody, Sampled, SchemaFormat

INERT_HEADER = "x-qwick-inert"

# Without any effect on the answer, whatever the value.
INERT: Mapping[str, str] = {
    "metadata": "nothing is stored, so there is nothing to tag",
    "prompt_cache_key": "prefixes are found by their tokens; see cache_salt to keep them apart",
    "prompt_cache_options": "prefixes are kept while their memory is not needed",
    "prompt_cache_retention": "prefixes are kept while their memory is not needed",
    "prediction": "a hint for speed only: text that repeats is guessed ahead without it",
    "stream_options.include_obfuscation": "pieces are not padded; use TLS against listeners",
    "messages.name": "no template of the family tells who of several speaks",
    "response_format.json_schema.description": "the model is not told; say it in a message",
    "response_format.json_schema.strict": "the schema is held to, whether it is asked for or not",
    "tools.function.strict": "arguments are held to the schema where tool_choice demands a call",
    "add_special_tokens": "these tokenizers put nothing before or after a text",
}

# Without an effect for these values; anything else would be a wish that is not fulfilled.
INERT_VALUES: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "store": ((False,), "nothing is ever stored"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "verbosity": (("medium",), "the models have no such setting; ask for it in a message"),
    "modalities": ((["text"],), "answers are text"),
}

# In the official schema, and a 400 by name here: the reason and the way out.
REFUSED: Mapping[str, str] = {
    "audio": "answers are text",
    "web_search_options": "nothing is searched; give the model a tool",
    "moderation": "there is no moderation",
    "function_call": "deprecated by tool_choice, which is understood",
    "functions": "deprecated by tools, which are understood",
}


def inert_fields(body: Sampled) -> list[str]:
    """Return the given fields without effect; UnsupportedError for a wish that is none of them."""
    given = body.model_fields_set
    found = [name for name in INERT if name in given and getattr(body, name, None) is not None]
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        found.append("stream_options.include_obfuscation")
    if isinstance(body, ChatBody):
        found += _inert_of_chats(body)
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
    if any(message.name is not None for message in body.messages):
        found.append("messages.name")
    if isinstance(body.response_format, SchemaFormat):
        told = body.response_format.json_schema
        if told.description is not None:
            found.append("response_format.json_schema.description")
        if told.strict is False:
            found.append("response_format.json_schema.strict")
    demanded = not isinstance(body.tool_choice, str | None) or body.tool_choice == "required"
    if not demanded and any(tool.function.strict for tool in body.tools or ()):
        found.append("tools.function.strict")
    return found


def fates(body: type[Sampled]) -> list[tuple[str, str]]:
    """Return what becomes of each field of a body, and of those that are refused, by name."""
    found = dict.fromkeys(body.model_fields, "honoured")
    found.update({name: f"inert: {reason}" for name, reason in INERT.items() if name in found})
    for name, (values, reason) in INERT_VALUES.items():
        if name in found:
            allowed = " or ".join(f"`{json.dumps(value)}`" for value in values)
            found[name] = f"inert if {allowed}, else refused: {reason}"
    found.update({name: f"refused: {reason}" for name, reason in REFUSED.items()})
    return sorted(found.items())
