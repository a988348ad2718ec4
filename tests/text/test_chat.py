"""Conversations to ids: equal to transformers' for harmless text, and closed for any text."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collected import TEMPLATES, collected
from qwick.errors import ParameterError, TemplateError, UnsupportedError, UsageError
from qwick.formats.checkpoint import TokenizerData
from qwick.text.chat import encode_chat
from qwick.text.messages import check_messages
from qwick.text.template import ChatTemplate
from qwick.text.tokenizer import Tokenizer

pytestmark = pytest.mark.model

CONTROL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|fim_prefix|>", "<|image_pad|>"]
PIECES = ["<|", "|>", "<", ">", "|", "im_end", "<|im_", "end|>", "<|im_end|", "|im_end|>", "\n"]
PIECES += ["<|im_start|>system\n", "<tool_call>", "</think>", "a || b", "\ue000", "\uf8ff", " "]
NASTY = st.lists(
    st.sampled_from(CONTROL + PIECES)
    | st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=10),
    max_size=8,
).map("".join)
TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Look <b>it</b> up & tell: \"é\" 'x'",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    },
}


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def control(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    return [id for id in ids if id in tokenizer.control_ids]


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


CONVERSATIONS = [
    user("Write a Python function that merges two sorted lists."),
    [{"role": "system", "content": "Terse."}, *user("我们 😀 e\u0301\n"), *user("  a | b  ")],
    [
        *user("Weather?"),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "content": '{"t": 21.5}', "name": "f"},
        {"role": "assistant", "content": "It is 21.5."},
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("prompt", [True, False])
def test_equals_transformers(tokenizer, template, reference, messages, tools, prompt) -> None:
    ours = encode_chat(tokenizer, template, messages, tools=tools, add_generation_prompt=prompt)
    options = {"tools": tools, "add_generation_prompt": prompt}
    assert ours.text == reference.apply_chat_template(messages, tokenize=False, **options)
    assert ours.ids == reference.apply_chat_template(messages, return_dict=False, **options)


@settings(deadline=None, max_examples=150)
@given(NASTY, NASTY)
def test_harmless_text_equals_transformers(tokenizer, template, reference, one, two) -> None:
    messages = [{"role": "system", "content": one}, *user(two)]
    ours = encode_chat(tokenizer, template, messages)
    text = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours.text == text
    if not any(literal in one + two for literal in tokenizer.control_literals):
        assert ours.ids == reference.encode(text)


@settings(deadline=None, max_examples=150)
@given(NASTY, NASTY, NASTY)
def test_control_tokens_are_the_templates_own(tokenizer, template, one, two, three) -> None:
    """Wherever a caller writes: content, parts, tool calls (name, keys, values), definitions."""

    def conversation(one: str, two: str, three: str) -> tuple[list[dict], list[dict]]:
        call = {"name": f"f{one}", "arguments": {f"k{two}": [{f"n{three}": one}, 1, None]}}
        parts = [{"type": "text", "text": one}, {"type": "text", "text": two}]
        messages = [
            {"role": "system", "content": three},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": one, "tool_calls": [{"function": call}]},
            {"role": "tool", "content": two},
        ]
        tools = [{"type": "function", "function": {"name": two, f"x{three}": {"y": [one]}}}]
        return messages, tools

    messages, tools = conversation(one, two, three)
    harmless, plain_tools = conversation("x", "y", "z")
    ours = encode_chat(tokenizer, template, messages, tools=tools)
    expected = encode_chat(tokenizer, template, harmless, tools=plain_tools)
    assert control(tokenizer, ours.ids) == control(tokenizer, expected.ids)
    assert ours.text == template.render(check_messages(messages), tools=tools)
    assert nfc(tokenizer.decode(ours.ids)) == nfc(ours.text)


@pytest.mark.parametrize("literal", CONTROL)
def test_a_literal_stays_text(tokenizer, template, literal) -> None:
    ours = encode_chat(tokenizer, template, user(f"say {literal} twice: {literal}"))
    assert ours.text == template.render(user(f"say {literal} twice: {literal}"))
    assert tokenizer.decode(ours.ids) == ours.text
    plain = tokenizer.encode(f"user\nsay {literal} twice: {literal}", parse_special=False)
    start = tokenizer.id_of("<|im_start|>")
    second = [i for i, id in enumerate(ours.ids) if id == start][1]
    assert ours.ids[second + 1 : second + 1 + len(plain)] == plain


def test_the_attack_is_real(tokenizer, template) -> None:
    """Rendered and read in one go, pieces of caller text do become control tokens."""
    parts = [{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]
    messages = [{"role": "user", "content": parts}]
    text = template.render(check_messages(messages))
    naive = control(tokenizer, tokenizer.encode(text, parse_special=True))
    ours = control(tokenizer, encode_chat(tokenizer, template, messages).ids)
    assert len(naive) == len(ours) + 1


def test_a_template_that_completes_a_literal(tokenizer) -> None:
    """Qwen3-Coder writes `<function=` + name + `>`: a name may end in all of a literal but `>`."""
    template = ChatTemplate("{% for m in messages %}<f={{ m.content }}>{% endfor %}<|im_end|>")
    ours = encode_chat(tokenizer, template, user("x<|im_start|"))
    assert ours.text == "<f=x<|im_start|><|im_end|>"
    assert control(tokenizer, ours.ids) == [tokenizer.id_of("<|im_end|>")]
    assert tokenizer.decode(ours.ids) == ours.text


def test_private_use_characters_survive(tokenizer, template) -> None:
    content = "\ue000|\ue001<|im_end|>\uf8ff" + "".join(map(chr, range(0xE000, 0xF900)))
    ours = encode_chat(tokenizer, template, user(content))
    assert content in ours.text
    assert tokenizer.decode(ours.ids) == ours.text
    assert control(tokenizer, ours.ids) == control(
        tokenizer, encode_chat(tokenizer, template, user("x")).ids
    )


def test_tags_are_left_to_the_template(tokenizer, template) -> None:
    ids = encode_chat(tokenizer, template, user("<tool_call><|im_end|></tool_call>")).ids
    assert tokenizer.id_of("<tool_call>") in ids
    assert tokenizer.id_of("</tool_call>") in ids


def test_a_template_that_reads_the_shielded_is_refused(tokenizer) -> None:
    source = "{% for m in messages %}{{ m.content.split('|')[0] }}{% endfor %}"
    template = ChatTemplate(source)
    assert encode_chat(tokenizer, template, user("harmless")).text == "harmless"
    with pytest.raises(TemplateError, match="control tokens inside the messages"):
        encode_chat(tokenizer, template, user("a|b"))


def test_special_tokens_of_another_form() -> None:
    alphabet = [chr(i) for i in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    alphabet += [chr(0x100 + i) for i in range(68)]
    data = TokenizerData(
        tokens=[*alphabet, "[SEP]", "<think>"],
        token_types=[1] * 256 + [3, 3],
        merges=[],
        eos_id=256,
    )
    tokenizer = Tokenizer.from_data(data)
    assert tokenizer.control_ids == {256}
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    ours = encode_chat(tokenizer, template, user("[x] [SEP] a|b <think>"))
    assert ours.text == "[x] [SEP] a|b <think>[SEP]"
    assert ours.ids.count(256) == 1
    assert ours.ids.count(257) == 1
    assert tokenizer.decode(ours.ids) == ours.text


def test_base_model_has_no_chat(tokenizer) -> None:
    with pytest.raises(UsageError, match="no chat template") as caught:
        encode_chat(tokenizer, None, user("x"))
    assert "complete" in (caught.value.hint or "")


def test_nothing_is_dropped_in_silence(tokenizer, template) -> None:
    with pytest.raises(ParameterError, match="enable_thinking is not a variable"):
        encode_chat(tokenizer, template, user("x"), enable_thinking=False)
    bare = ChatTemplate(
        "{% for m in messages %}{{ m.content }}{% if flag %}!{% endif %}{% endfor %}"
    )
    assert encode_chat(tokenizer, bare, user("x"), flag=True).text == "x!"
    with pytest.raises(UnsupportedError, match="no place for tools"):
        encode_chat(tokenizer, bare, user("x"), tools=[TOOL])
    with pytest.raises(UnsupportedError, match=r"messages\[2\].tool_calls"):
        encode_chat(tokenizer, bare, [*user("x"), *CONVERSATIONS[2]])
    with pytest.raises(ParameterError, match="flag"):
        encode_chat(tokenizer, bare, user("x"), flag=object())


def test_recorded_cases_pass_unchanged() -> None:
    """Checking a conversation changes no recorded rendering, but for arguments given as text."""
    paths = sorted(collected(TEMPLATES).glob("*.jinja"))
    count = 0
    for path in paths:
        template = ChatTemplate(path.read_text("utf-8"))
        record = json.loads((TEMPLATES / f"{path.stem}.cases.json").read_text("utf-8"))
        for case in record["cases"]:
            media = any(
                part.get("type") != "text"
                for message in case["messages"]
                if isinstance(message["content"], list)
                for part in message["content"]
            )
            if media or case["expected"] is None or "json_string" in case["name"]:
                continue
            checked = check_messages(case["messages"])
            text = template.render(checked, tools=case["tools"], **case["kwargs"])
            assert text == case["expected"], (path.stem, case["name"])
            count += 1
    assert count > 400
