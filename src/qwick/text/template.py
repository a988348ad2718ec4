"""A checkpoint's chat template: real Jinja2 in a sandbox, equal to the reference renderer's output.

The environment is the one of transformers' `apply_chat_template` (utils/chat_template_utils.py):
trim_blocks, lstrip_blocks, loop controls, a `tojson` without ASCII or HTML escaping,
`raise_exception`, `strftime_now`, `{% generation %}` blocks, `tools`/`documents` None when absent.

A template is data of a stranger. The sandbox denies Python's internals and mutation of the
messages, and limits `range`; on top, this file limits the source, the output, and what `*`, `**`
and `%` may build. What is left is time and memory spent in loops and filters (nested loops,
doubling with `~`): no in-process limit exists for those; a server renders where it can be killed.

Knows nothing of token ids or of what a message may contain; chat.py does.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qwick.errors import FormatError, TemplateError
from qwick.values import check_kind, check_switch

if TYPE_CHECKING:
    from jinja2.parser import Parser
    from jinja2.runtime import Context, Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["ChatTemplate"]

OWN = frozenset({"messages", "tools", "add_generation_prompt"})  # parameters of `render`

MAX_SOURCE = 1 << 20  # characters; the largest template of the family has 9,000
MAX_OUTPUT = 1 << 26  # characters; sixteen times what a context of a million tokens holds


class ChatTemplate:
    """A compiled template; threads may share one.

    `variables` are the names it takes from its caller ("messages", "tools", "enable_thinking" ...),
    `options` those of them that `render` takes as keywords.
    Raises FormatError when the source is no template: too long, or a syntax error.
    """

    def __init__(self, source: str) -> None:
        from jinja2 import meta

        check_kind("source", source, str, "the text of a template")
        if len(source) > MAX_SOURCE:
            raise FormatError(
                f"the chat template has {len(source)} characters; at most {MAX_SOURCE} are read"
            )
        environment = _environment()
        try:
            names = meta.find_undeclared_variables(environment.parse(source))
            self.variables = frozenset(names) - environment.globals.keys() - {"self"}
            self._template = environment.from_string(source)
        except Exception as error:  # whatever a stranger's source makes the compiler raise
            raise FormatError(f"the chat template does not compile: {_reason(error)}") from error
        self.options = self.variables - OWN
        self.source = source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """Return the prompt's text; `kwargs` are the template's own variables.

        What is in messages, tools and kwargs is not checked here. Raises ParameterError for what is
        no list, TemplateError when the template refuses the messages (its `raise_exception`), fails
        on their shape, or writes too much.
        """
        check_switch("add_generation_prompt", add_generation_prompt)
        check_kind("messages", messages, (list, tuple), "a list of messages")
        check_kind("tools", tools, (list, tuple, type(None)), "a list of tools, or none")
        values = {"documents": None, **kwargs}
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(
                messages=messages,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                **values,
            ):
                size += len(piece)
                if size > MAX_OUTPUT:
                    raise TemplateError(
                        f"the chat template wrote more than {MAX_OUTPUT} characters",
                        hint="shorten the messages, or use another template",
                    )
                pieces.append(piece)
        except TemplateError:
            raise
        except Exception as error:  # a template can make Python raise anything
            raise TemplateError(
                f"the chat template cannot render these messages: {_reason(error)}",
                hint="the template comes with the checkpoint; check roles, order and tool calls",
            ) from error
        return "".join(pieces)


def _reason(error: Exception) -> str:
    """Return an error's own words in at most 300 characters, with its kind if it has none."""
    words = str(error).strip() or type(error).__name__
    return words if len(words) <= 300 else words[:300] + " ..."


def _raise_exception(message: object) -> None:
    from jinja2 import TemplateRuntimeError

    raise TemplateRuntimeError(str(message))


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja2's own `tojson` escapes `<`, `>`, `&` and quotes for HTML; models never saw that."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _check_operands(operator: str, left: Any, right: Any) -> None:
    """Refuse `*`, `**` and `%` that would build a text, list or number out of all proportion."""
    from jinja2.exceptions import SecurityError

    too_large = False
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        too_large = left.bit_length() * right > 4096
    elif operator == "*":
        for thing, times in ((left, right), (right, left)):
            if isinstance(times, int) and hasattr(thing, "__len__"):
                too_large |= len(thing) * times > MAX_OUTPUT
        if isinstance(left, int) and isinstance(right, int):
            too_large |= left.bit_length() + right.bit_length() > 4096
    elif operator == "%" and isinstance(left, str):
        too_large = re.search(r"%[^%a-zA-Z]*(\d{6}|\*)", left) is not None
    if too_large:
        raise SecurityError(f"the result of {operator!r} would be too large")


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    """Build the environment that all templates share (it holds no state of a rendering)."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        # An operator that is listed here is not folded by the compiler either.
        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            _check_operands(operator, left, right)
            return super().call_binop(context, operator, left, right)

    class Generation(Extension):
        """`{% generation %}` ... `{% endgeneration %}` marks assistant text; renders as is."""

        tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as a plain set)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Macro) -> str:
            return str(caller())

    environment = Bounded(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment
