"""The chat templates of the family: every recorded rendering byte for byte, and hostile ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from qwick.errors import FormatError, TemplateError, UsageError
from qwick.text.template import ChatTemplate

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
RECORDED = 37


def test_all_are_there() -> None:
    if not NAMES:
        if os.environ.get("CI"):
            pytest.fail(f"{FOLDER} holds no template; CI may not skip this test")
        pytest.skip(f"{FOLDER} holds no template")
    assert len(NAMES) == RECORDED


@pytest.mark.parametrize("name", NAMES or [pytest.param(None, marks=pytest.mark.skip("no files"))])
def test_every_case(name: str) -> None:
    """`expected` null means that the reference renderer raises; so must we, our own way."""
    source = (FOLDER / f"{name}.jinja").read_bytes()
    record = json.loads((FOLDER / f"{name}.cases.json").read_text("utf-8"))
    assert hashlib.sha256(source).hexdigest() == record["sha256"]
    assert len(record["cases"]) >= 7
    template = ChatTemplate(source.decode("utf-8"))
    for case in record["cases"]:
        try:
            text = template.render(case["messages"], tools=case["tools"], **case["kwargs"])
        except TemplateError:
            text = None
        assert text == case["expected"], case["name"]


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
