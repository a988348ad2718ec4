"""The chat templates of the family: every recorded rendering byte for byte, and hostile ones."""

from __future__ import annotations

import hashlib
import json

import pytest

from collected import TEMPLATES, collected
from llm.small import TOKENIZER
from qwick.errors import FormatError, TemplateError, UnsupportedError, UsageError
from qwick.family import FAMILIES, Family, Thinking, ToolFormat, family_of
from qwick.text.chat import encode_chat
from qwick.text.published import published_template
from qwick.text.template import ChatTemplate

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
RECORDED = 37


def test_all_are_there() -> None:
    collected(TEMPLATES)
    assert len(NAMES) == RECORDED


@pytest.mark.parametrize("name", NAMES or ["qwen3"])
def test_every_case(name: str) -> None:
    """`expected` null means that the reference renderer raises; so must we, our own way."""
    source = collected(TEMPLATES / f"{name}.jinja").read_bytes()
    record = json.loads(collected(TEMPLATES / f"{name}.cases.json").read_text("utf-8"))
    assert hashlib.sha256(source).hexdigest() == record["sha256"]
    assert len(record["cases"]) >= 7
    template = ChatTemplate(source.decode("utf-8"))
    for case in record["cases"]:
        try:
            text = template.render(case["messages"], tools=case["tools"], **case["kwargs"])
        except TemplateError:
            text = None
        assert text == case["expected"], case["name"]


@pytest.mark.parametrize("name", NAMES or ["qwen3"])
def test_every_case_as_a_conversation(name: str) -> None:
    """The same through the checks that a caller's messages pass.

    Two kinds differ. Arguments in JSON text reach every template as the object that they are, in
    which form it was trained: left as text they would be quoted a second time by some, and others
    raise. Pictures and sounds are refused by name: no checkpoint that runs here takes any.
    """
    record = json.loads(collected(TEMPLATES / f"{name}.cases.json").read_text("utf-8"))
    template = ChatTemplate(collected(TEMPLATES / f"{name}.jinja").read_text("utf-8"))
    for case in record["cases"]:
        messages, given = case["messages"], {**case["kwargs"], "tools": case["tools"]}
        expected = case["expected"]
        if case["name"] == "tools_arguments_as_json_string":
            function = messages[1]["tool_calls"][0]["function"]
            text = function["arguments"]
            function["arguments"] = json.loads(text)
            expected = template.render(messages, **given)
            function["arguments"] = text
        parts = [p for m in messages if isinstance(m["content"], list) for p in m["content"]]
        if any(part["type"] != "text" for part in parts):
            with pytest.raises(UnsupportedError, match=r"content\[\d\]\.type is '(image|audio)'"):
                encode_chat(TOKENIZER, template, messages, **given)
        elif expected is None:
            with pytest.raises(TemplateError):
                encode_chat(TOKENIZER, template, messages, **given)
        else:
            prompt = encode_chat(TOKENIZER, template, messages, **given)
            assert prompt.text == expected, case["name"]


# -- templates for checkpoints without one ---------------------------------------------------

# What each family's is among the recorded ones. (None is recorded for Qwen2-Math.)
RECORDED_AS = {
    **dict.fromkeys(("qwen", "qwen1.5", "codeqwen1.5", "qwen2"), "qwen2-instruct"),
    **dict.fromkeys(("qwen2.5", "qwen2.5-coder"), "qwen2.5-instruct"),
    "qwen2.5-1m": "qwen2.5-base",
    "qwen2.5-math": "qwen2.5-math-instruct",
    "qwq-preview": "qwq-32b-preview",
    "qwq": "qwq-32b",
    **{
        name: name
        for name in ("qwen3", "qwen3-instruct-2507", "qwen3-thinking-2507", "qwen3-coder")
    },
}
# What asks a question of its own, and whose files bring a template where one is needed.
WITHOUT = ("qwen3guard-gen", "qwen3-embedding", "qwen3-reranker")
CHATS = [family for family in FAMILIES.values() if family.name not in WITHOUT]


def test_published_templates_are_the_recorded_ones() -> None:
    for family, name in RECORDED_AS.items():
        source = published_template(FAMILIES[family])
        assert source == collected(TEMPLATES / f"{name}.jinja").read_bytes().decode("utf-8"), family
    assert {*RECORDED_AS, "qwen2-math", *WITHOUT} == {*FAMILIES}


@pytest.mark.parametrize("family", CHATS, ids=lambda family: family.name)
def test_a_published_template_does_what_its_family_says(family: Family) -> None:
    source = published_template(family)
    assert source is not None
    template = ChatTemplate(source)
    text = template.render([{"role": "user", "content": "Hi."}])
    said = "" if family.system_prompt is None else family.system_prompt
    system = f"<|im_start|>system\n{said}<|im_end|>\n" if said else ""
    opened = "<think>\n" if family.thinking is Thinking.ALWAYS else ""
    question = "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
    assert text == f"{system}{question}{opened}"
    assert ("enable_thinking" in template.variables) is (family.thinking is Thinking.HYBRID)
    told = family.tools in (ToolFormat.HERMES, ToolFormat.XML) or family.name == "qwen2.5-math"
    assert ("tools" in template.variables) is told
    assert ("<function=" in source) is (family.tools is ToolFormat.XML)


def test_none_is_published_for_base_models_and_what_makes_its_own_question() -> None:
    for config, name in (("qwen2", "Qwen2.5-7B"), ("qwen3", "Qwen3-8B-Base")):
        assert published_template(family_of({"model_type": config}, name)) is None
    assert all(published_template(FAMILIES[name]) is None for name in WITHOUT)


# -- the renderer ----------------------------------------------------------------------------


def test_raise_exception_keeps_the_words() -> None:
    template = ChatTemplate("{{ raise_exception('No user query found in messages.') }}")
    with pytest.raises(UsageError, match="No user query found") as caught:
        template.render([])
    assert "{" not in str(caught.value)


def test_variables() -> None:
    template = ChatTemplate(
        "{% set x = 1 %}{{ messages }}{% if enable_thinking %}{{ x }}{% endif %}"
    )
    assert template.variables == {"messages", "enable_thinking"}


def test_tojson_escapes_nothing() -> None:
    template = ChatTemplate("{{ messages | tojson }}")
    assert template.render([{"content": "<é&'中>"}]) == '[{"content": "<é&\'中>"}]'


def test_tools_and_documents_are_none() -> None:
    template = ChatTemplate("{{ tools is none }} {{ documents is none }} {{ other is defined }}")
    assert template.render([]) == "True True False"


def test_generation_blocks_render_as_they_are() -> None:
    source = "{% for m in messages %}{% generation %}<{{ m }}>{% endgeneration %}{% endfor %}"
    assert ChatTemplate(source).render(["a", "b"]) == "<a><b>"


def test_loop_controls_and_trimming() -> None:
    stop = "    {% if m == 'b' %}{% break %}{% endif %}\n"
    source = "{% for m in messages %}\n" + stop + "{{ m }}\n{% endfor %}\n"
    assert ChatTemplate(source).render(["a", "b", "c"]) == "a\n"


def test_strftime_now() -> None:
    assert ChatTemplate("{{ strftime_now('%%') }}").render([]) == "%"


@pytest.mark.parametrize("source", ["{% for %}", "{{", "{% unknown %}", "x" * (2 << 20), "{{ ("])
def test_no_template(source: str) -> None:
    with pytest.raises(FormatError, match="chat template"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{% for i in range(1000000) %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ 10000000000 * 'a' }}",
        "{{ 9 ** 999999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{% for i in range(90000) %}{{ 'a' * 10000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 1 // 0 }}",
        "{{ messages.nothing.more }}",
        "{{ undefined_function() }}",
        "{% include 'x' %}",
    ],
)
def test_hostile(source: str) -> None:
    message = {"role": "user", "content": "hello"}
    with pytest.raises(TemplateError):
        ChatTemplate(source).render([message])
    assert message == {"role": "user", "content": "hello"}


def test_modest_arithmetic_is_allowed() -> None:
    source = "{{ 'ab' * 3 }} {{ 2 ** 10 }} {{ 7 % 4 }} {{ '%05.1f|%s' % (1, 'x') }} {{ 6 * 7 }}"
    assert ChatTemplate(source).render([]) == "ababab 1024 3 001.0|x 42"
