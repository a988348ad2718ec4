"""Committed ids of what models that think write, through the real engine loop and tokenizer.

No such checkpoint can be had here. Its vocabulary can: that of Qwen2.5 with four names more. So
replays.json holds ids as Qwen3 and QwQ write them (QwenLM/Qwen3: README.md, its pages on thinking
budgets and on function calls), and a model that says them. They are replayed as they are, several
ids in a step, and cut otherwise: at every byte, and byte by byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llm.small import HYBRID, OPENED, PLAIN, small_qwen
from qwick.formats.open import open_checkpoint
from qwick.llm import Qwen, Reply
from qwick.model.batch import Batch
from qwick.model.positions import Rotations
from qwick.text.grammar import Grammar
from qwick.text.thinking import EARLY_END
from qwick.text.tokenizer import Tokenizer

pytestmark = pytest.mark.model

F32 = NDArray[np.float32]
REPLAYS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("replays.json").read_text("utf-8")
)
WITH_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
TEMPLATES = {
    "hybrid": WITH_TOOLS + HYBRID,
    "opened": WITH_TOOLS + OPENED,
    "plain": WITH_TOOLS + PLAIN,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_current_temperature", "get_temperature_date")
]
# What Qwen3's tokenizer has behind the last token of Qwen2.5's.
FIRST_TAG, TAGS = 151_665, ("<tool_response>", "</tool_response>", "<think>", "</think>")
USER_DEFINED = 4  # a token type of GGUF
END = 151_645  # <|im_end|>


class Replay:
    """A model that says given ids behind its prompt, whatever else a step asks of it."""

    context, page_size, exact_rows = 2048, 16, 1 << 20
    hidden, has_head = 4, True
    rotations = Rotations((2048,))

    def __init__(self, width: int) -> None:
        self._width = width
        self._start = 0
        self._script: Sequence[int] = ()

    def say(self, script: Sequence[int], prompt_tokens: int) -> None:
        self._script, self._start = script, prompt_tokens

    def new_cache(self, pages: int) -> None:
        return None

    def forward(self, batch: Batch, cache: None) -> F32:
        places = batch.positions[batch.logit_rows] + 1 - self._start
        said = [self._script[p] if p < len(self._script) else END for p in places]
        return np.array(said, np.float32)[:, None]

    def logits(self, hidden: F32) -> F32:
        rows = np.zeros((len(hidden), self._width), np.float32)
        rows[np.arange(len(hidden)), hidden[:, 0].astype(int)] = 1e3
        return rows

    def best(self, hidden: F32, n_vocab: int) -> NDArray[np.int32]:
        return hidden[:, 0].astype(np.int32)


@pytest.fixture(scope="module")
def tokenizer(default_checkpoint: Path) -> Tokenizer:
    with open_checkpoint(default_checkpoint) as opened:
        data = opened.tokenizer
        assert data.tokens is not None
        assert data.token_types is not None
        tokens = [*data.tokens[:FIRST_TAG], *TAGS]
        types = [*data.token_types[:FIRST_TAG], *[USER_DEFINED] * len(TAGS)]
        return Tokenizer.from_data(replace(data, tokens=tokens, token_types=types))


class Stage:
    """Qwens of each family and template, each with a model to be told what to say."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._qwens: dict[tuple[str, str], tuple[Qwen, Replay]] = {}

    def close(self) -> None:
        for qwen, _ in self._qwens.values():
            qwen.close()

    def _qwen(self, family: str, template: str) -> tuple[Qwen, Replay]:
        if (family, template) not in self._qwens:
            model = Replay(self.tokenizer.n_tokens)
            qwen = small_qwen(
                family=family,
                template=TEMPLATES[template],
                model=model,
                tokenizer=self.tokenizer,
                context=2048,
                cache_tokens=4096,
            )
            self._qwens[family, template] = qwen, model
        return self._qwens[family, template]

    def play(self, case: dict[str, Any], ids: Sequence[int], **more: Any) -> Reply:
        """Say these ids; return the reply, streamed, whose pieces are what it says as a whole."""
        qwen, model = self._qwen(case["family"], case["template"])
        asked = {"temperature": 0, **case["asked"], **more}
        prompt = [{"role": "user", "content": asked.pop("prompt", "Hi.")}]
        if asked.pop("tools", False):
            asked["tools"] = TOOLS
        tools = asked.pop("tools", None)
        made = qwen.texts.chat(prompt, tools, asked, context=qwen.context)
        model.say(ids, len(made.request.ids))
        thinking, text, calls = "", "", {}
        with qwen.stream(prompt, tools=tools, **asked) as stream:
            for chunk in stream:
                assert not (chunk.thinking and (text or calls)), "thinking after the answer began"
                thinking += chunk.thinking
                text += chunk.text
                for call in chunk.calls:
                    calls[call.index] = calls.get(call.index, "") + call.arguments
            reply = stream.reply
        assert (reply.thinking, reply.text) == (thinking, text)
        assert [call.arguments for call in reply.tool_calls] == list(calls.values())
        return reply


@pytest.fixture(scope="module")
def stage(tokenizer: Tokenizer) -> Iterator[Stage]:
    stage = Stage(tokenizer)
    yield stage
    stage.close()


def check(reply: Reply, case: dict[str, Any]) -> None:
    calls = [[call.name, json.loads(call.arguments)] for call in reply.tool_calls]
    assert (reply.thinking, reply.text, calls) == (case["thinking"], case["text"], case["calls"])
    ended = "length" if "max_tokens" in case["asked"] else "tool_calls" if calls else "stop"
    assert reply.finish_reason == ended
    assert reply.troubles == ()


@pytest.fixture(params=REPLAYS, ids=lambda case: case["name"])
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_as_it_was_written(case: dict[str, Any], stage: Stage) -> None:
    reply = stage.play(case, case["ids"])
    check(reply, case)
    most = case["asked"].get("max_tokens")
    assert list(reply.ids) == [id for id in case["ids"] if id != END][:most]
    inside = case["ids"][: case["ids"].index(151_668) + 1] if 151_668 in case["ids"] else None
    if inside is not None and case["template"] != "plain":
        assert reply.usage.reasoning_tokens == len(inside)


def test_several_ids_in_a_step(case: dict[str, Any], stage: Stage) -> None:
    """Where the prompt quotes the answer, drafts give many ids at once."""
    text = stage.tokenizer.decode(case["ids"], skip_control=True)
    if "max_tokens" in case["asked"]:
        text = ""  # the quotation would change nothing that is looked at
    quoted = case["asked"].get("prompt", "Hi.") + text
    reply = stage.play(case, case["ids"], prompt=quoted)
    check(reply, case)
    if len(text) > 120:
        assert reply.timings.accepted > 8


@pytest.mark.parametrize(
    "case", [case for case in REPLAYS if "max_tokens" not in case["asked"]], ids=lambda c: c["name"]
)
def test_cut_at_every_byte(case: dict[str, Any], stage: Stage) -> None:
    """The same text in other ids: cut in two anywhere, each part as tokens of its own."""
    data = b"".join(map(stage.tokenizer.token_bytes, case["ids"])).removesuffix(b"<|im_end|>")
    loose = _byte(stage.tokenizer)
    for cut in (*range(1, len(data)), None):
        ids = [*_ids(stage.tokenizer, data[:cut]), *_ids(stage.tokenizer, data[cut or len(data) :])]
        reply = stage.play(case, ids if cut else [loose[b] for b in data])
        check(reply, case)


def _byte(tokenizer: Tokenizer) -> dict[int, int]:
    """Return the token of each byte; they are a vocabulary's first."""
    return {tokenizer.token_bytes(id)[0]: id for id in range(256)}


def _ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """Return ids of bytes: whole characters as ever, the rest byte by byte."""
    for start in range(4):
        for end in range(len(data), max(start, len(data) - 4) - 1, -1):
            try:
                text = data[start:end].decode("utf-8")
            except UnicodeDecodeError:
                continue
            loose = _byte(tokenizer)
            head, tail = ([loose[b] for b in part] for part in (data[:start], data[end:]))
            return [*head, *tokenizer.encode(text, parse_special=True), *tail]
    raise AssertionError(data)


def test_a_budget_ends_the_thinking(stage: Stage) -> None:
    """The early end is forced as ids; what the model says at that place is the answer."""
    case = REPLAYS[0]
    early = stage.tokenizer.encode(EARLY_END, parse_special=True)
    assert 151_668 in early
    thought = case["ids"][: 2 + 5]
    script = [*thought, *early, *stage.tokenizer.encode("42.", parse_special=True), END]
    reply = stage.play(case, script, thinking_budget=len(thought))
    assert list(reply.ids) == script[:-1]
    said = EARLY_END.removesuffix("\n</think>\n\n")
    assert (reply.thinking, reply.text) == (stage.tokenizer.decode(thought[2:]) + said, "42.")
    behind = 1  # the empty line behind the tag
    assert reply.usage.reasoning_tokens == len(thought) + len(early) - behind


def test_a_grammar_begins_behind_the_block(stage: Stage) -> None:
    """The tag is asked for as its one token, and the thinking is free."""
    for ids in (
        [151_667, 198, *stage.tokenizer.encode("Hm: {", parse_special=False), 198, 151_668],
        stage.tokenizer.encode("Hm: {", parse_special=False),  # a model that forgets to open it
    ):
        reply = stage.play(
            REPLAYS[0],
            [*ids, *stage.tokenizer.encode("\n\nfree text", parse_special=False)],
            grammar=Grammar.json_schema({"const": {"a": 1}}),
            thinking_budget=12,
            max_tokens=200,
        )
        assert json.loads(reply.text) == {"a": 1}
        assert reply.ids[0] == 151_667
