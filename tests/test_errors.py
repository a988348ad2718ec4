"""Every raise in the source: one of our errors, with a way out, and told of in the reference.

Reads the syntax trees of the package, so a message cannot be added, changed or dropped without
docs/reference/errors.md. A message is compared as its template: … stands for what varies.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import qwick
from qwick import errors

SOURCE = Path(qwick.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs/reference/errors.md").read_text("utf-8")
OURS = set(errors.__all__)
FREE = "…"
# Words that are a way out within a message.
ALLOWED = ("allowed", "must be", "known:", "it reads:")
# What else is raised, and where; see "Other exceptions" in the reference.
OTHERS = {
    "AssertionError": {"engine/engine.py", "engine/pages.py", "engine/scheduler.py"},
    "AttributeError": {"__init__.py"},
    "ConnectionResetError": {"server/sending.py", "server/guard.py"},
    "EOFError": {"cli/guide.py", "cli/stdin.py"},
    "KeyboardInterrupt": {"cli/chat_reply.py"},
    "NoLocksError": {"hub/locks.py"},
    "NotADirectoryError": {"hub/disk.py"},
    "OSError": {"cli/chat_input.py", "evaluate/sandbox_child.py", "hub/wheels.py"},
    "PydanticCustomError": {"server/openai/bodies.py"},
    "RuntimeError": {"cli/chat_session.py"},
    "SecurityError": {"text/template.py"},
    "NotThereError": {"hub/modelscope.py"},
    "SourceError": {
        *("hub/huggingface.py", "hub/listings.py", "hub/modelscope.py", "hub/partial.py"),
        *("hub/transfer.py", "hub/wheels.py"),
    },
    "StopAsyncIteration": {"llm/stream.py"},
    "StopIteration": {"llm/stream.py"},
    "SystemExit": {"cli/chat_reply.py", "cli/monitor.py"},
    "TemplateRuntimeError": {"text/template.py"},
    "TypeError": {"native/ops.py"},
    "ValueError": {
        "cli/sampling.py",
        "engine/draft.py",
        "engine/pages.py",
        "hub/catalog.py",
        "hub/manifest.py",
        "server/keyfile.py",
        "settings.py",
        "text/tools/values.py",
    },
    "WrongBytesError": {"hub/partial.py"},
    "_BusyError": {"hub/upkeep.py"},
    "click.BadParameter": {"cli/bench.py"},
    "click.UsageError": {"cli/main.py"},
    "click.exceptions.Exit": {"cli/doctor.py", "cli/jobs.py", "cli/recommend.py"},
    "httpx.RemoteProtocolError": {"hub/transfer.py"},
}


@dataclass(frozen=True)
class Made:
    """An error of ours, made somewhere in the source."""

    kind: str
    message: str
    hint: str | None  # None: none of its own
    where: str


def template(node: ast.expr) -> str:
    """Return a text with … for what varies."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return FREE


def squeezed(text: str) -> str:
    return re.sub(f"{FREE}+", FREE, text)


TREES = {
    path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted(SOURCE.rglob("*.py"))
}


def made() -> Iterator[Made]:
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id in OURS:
                hints = [k.value for k in node.keywords if k.arg == "hint"]
                hint = squeezed(template(hints[0])) if hints else None
                text = squeezed(template(node.args[0]))
                yield Made(node.func.id, text, hint, f"{file}:{node.lineno}")


MADE = list(made())


def raised() -> Iterator[tuple[str, str]]:
    """Yield what each raise names, and its file; a bare raise passes on what was caught."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                thing = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                yield ast.unparse(thing), file


def makers() -> set[str]:
    """Return the functions that say they return one of ours, or one that is listed."""
    return {
        node.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and set(ast.unparse(node.returns or node).split(" | ")) <= {*OURS, "BadLogitsError"}
    }


def test_every_raise_is_one_of_ours_or_listed() -> None:
    others: dict[str, set[str]] = {}
    # Variables that hold one of ours: an error of an event, a failure that was kept.
    held = {"failures[0]", "missing", "wrong", "event", "piece", "visit.end", "found.error"}
    again = {"self._failure[1].again"}
    ours = {*OURS, *held, *again, *makers()}
    for name, file in raised():
        if name in ours or name.removeprefix("self.") in ours:
            continue
        if name.startswith(("event.error or ", "self._failure or ")):
            continue
        others.setdefault(name, set()).add(file)
    assert others == OTHERS


def test_every_exception_that_is_not_ours_is_told_of() -> None:
    told = PAGE.split("## Other exceptions\n")[1]
    for name in OTHERS:
        assert f"`{name.rpartition('.')[2]}`" in told, name


@pytest.mark.parametrize("one", MADE, ids=lambda one: one.where)
def test_every_error_has_a_way_out(one: Made) -> None:
    own = one.hint is not None or getattr(errors, one.kind).way_out is not None
    assert own or any(words in one.message for words in ALLOWED), one.message


def sections() -> dict[str, dict[str, str]]:
    """Return the reference's messages with their ways out, by class."""
    found: dict[str, dict[str, str]] = {}
    part = PAGE.split("## Messages\n")[1].split("\n## ")[0]
    for section in part.split("\n### ")[1:]:
        name, _, body = section.partition("\n")
        rows = re.findall(r"^\| `(.+?)` \| (.*) \|$", body, re.MULTILINE)
        assert len(dict(rows)) == len(rows), name
        found[name.strip("`")] = dict(rows)
    return found


def pattern(message: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, message.split(FREE))), re.DOTALL)


def fixed(message: str) -> int:
    return len(re.sub(r"[^a-z]", "", message))


def told(hint: str) -> str:
    """Return a hint as the reference has it: one that is made elsewhere depends on the case."""
    return hint if fixed(hint) > 3 else FREE


def test_the_reference_has_every_message() -> None:
    page = sections()
    assert set(page) <= OURS
    for one in MADE:
        if fixed(one.message) < 4:  # passes on what another part says
            continue
        hits = [m for m in page.get(one.kind, {}) if pattern(m).fullmatch(one.message)]
        assert hits, f"{one.kind} lacks: {one.message} ({one.where})"


def test_the_reference_has_no_message_that_is_gone() -> None:
    for kind, messages in sections().items():
        for message, way_out in messages.items():
            assert fixed(message) >= 4, message
            hits = [m for m in MADE if m.kind == kind and pattern(message).fullmatch(m.message)]
            assert hits, f"{kind}: {message}"
            same = {told(m.hint) for m in hits if m.message == message and m.hint}
            assert not same or way_out in same, f"{kind}: {message}: {way_out} is none of {same}"


def test_the_reference_has_the_ways_out_of_the_classes() -> None:
    for kind in sections():
        way_out = getattr(errors, kind).way_out
        if way_out is not None:
            assert f"without a hint of its own: {way_out}" in PAGE, kind
