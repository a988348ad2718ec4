"""From a body to what is asked and what writes its answer: for the routes, and for batches.

Knows no HTTP and no model but its texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qwick.server.ask import Ask
from qwick.server.caller import Caller
from qwick.server.openai.asking import chat_ask, completion_ask, list_of_prompts
from qwick.server.openai.bodies import ChatBody, CompletionBody
from qwick.server.openai.chat import ChatWriter
from qwick.server.openai.completions import CompletionWriter
from qwick.server.problems import of_field

if TYPE_CHECKING:
    from qwick.llm.texts import Texts


def read_chat(body: ChatBody, caller: Caller) -> tuple[Ask, ChatWriter]:
    """Return what a chat body asks, and what writes the answer."""
    return chat_ask(body, caller), ChatWriter(body, caller.request_id)


def needs_texts(body: CompletionBody) -> bool:
    """Whether a completion body cannot be read without the tokenizer."""
    plain = all(isinstance(prompt, str) for prompt in list_of_prompts(body.prompt))
    return _token_by_token(body) or body.suffix is not None or not plain


def read_completion(
    body: CompletionBody, caller: Caller, texts: Texts | None
) -> tuple[Ask, CompletionWriter]:
    """Return what a completion body asks, and what writes the answer; texts: see needs_texts."""
    said = list_of_prompts(body.prompt)
    if texts is not None:
        said = _as_texts(said, texts.tokenizer, _token_by_token(body))
    ask = completion_ask(body, caller, said, texts)
    return ask, CompletionWriter(body, caller.request_id, said if body.echo else ())


def _token_by_token(body: CompletionBody) -> bool:
    return bool(body.echo) and body.logprobs is not None


def _as_texts(prompts: list[Any], tokenizer: Any, exact: bool) -> list[str]:
    """Return prompts as texts; exact: what the ids of a text say, which are in NFC."""

    def text(prompt: Any) -> str:
        if isinstance(prompt, str) and exact:
            prompt = tokenizer.encode(prompt, parse_special=True)
        found: str = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        return found

    with of_field("prompt"):
        return list(map(text, prompts))
