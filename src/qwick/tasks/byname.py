"""Tasks by name, with options as text: what the command line has."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwick.errors import ParameterError, shown
from qwick.tasks import asking, documents
from qwick.tasks.task import Task
from qwick.text.tokenizer import check_text
from qwick.values import check_kind

__all__ = ["TASKS", "ByName", "named"]

TEXT, TEXTS, NUMBER, JSON = "a text", "texts, one an option", "a whole number", "JSON"


@dataclass(frozen=True, slots=True)
class ByName:
    """A task: what makes it, what the prompt is to it, its options and of which kind they are."""

    make: Callable[..., Task[Any]]
    prompt: str
    options: Mapping[str, str]
    needs: tuple[str, ...] = ()  # options that cannot be left out


TASKS: Mapping[str, ByName] = {
    "steps": ByName(asking.steps, "question", {}),
    "math": ByName(asking.math, "problem", {}),
    "code": ByName(asking.code, "request", {"language": TEXT, "constraints": TEXTS}),
    "fill": ByName(asking.fill, "before", {"after": TEXT}, ("after",)),
    "languages": ByName(asking.languages, "question", {"languages": TEXTS}, ("languages",)),
    "translate": ByName(asking.translate, "text", {"to": TEXT, "source": TEXT}, ("to",)),
    "tutor": ByName(asking.tutor, "question", {"subject": TEXT, "level": TEXT, "history": JSON}),
    "support": ByName(
        asking.support, "message", {"company": TEXT, "knowledge": TEXT, "history": JSON}
    ),
    "summarise": ByName(
        documents.summarise, "document", {"about": TEXT, "tokens": NUMBER, "chunk": NUMBER}
    ),
    "ask": ByName(
        documents.ask,
        "question",
        {"document": TEXT, "tokens": NUMBER, "chunk": NUMBER},
        ("document",),
    ),
    "extract": ByName(asking.extract, "text", {"schema": JSON, "instructions": TEXT}, ("schema",)),
}


def named(name: str, prompt: str, options: Sequence[tuple[str, str]] = ()) -> Task[Any]:
    """Return a task by its name, its options as (name, text); those that take texts may repeat.

    Raises ParameterError with the likely names for one that is unknown.
    """
    check_kind("name", name, str, "the name of a task")
    if name not in TASKS:
        raise _unknown(f"there is no task {shown(name)}", name, TASKS)
    task = TASKS[name]
    check_kind("options", options, (list, tuple), "a list of (name, text)")
    given: dict[str, Any] = {}
    for pair in options:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise ParameterError(f"an entry of options is {shown(pair)}; allowed: (name, text)")
        option = check_text(pair[0], "the name of an option")
        if option not in task.options:
            raise _unknown(f"the task {name} has no option {shown(option)}", option, task.options)
        _put(given, option, check_text(pair[1], option), task.options[option])
    missing = [option for option in task.needs if option not in given]
    if missing:
        raise ParameterError(
            f"the task {name} needs the option {missing[0]}; allowed: {task.options[missing[0]]}",
            hint=f"--task-option {missing[0]}=...",
        )
    return task.make(**{task.prompt: prompt, **given})


def _put(given: dict[str, Any], option: str, text: str, kind: str) -> None:
    if kind == TEXTS:
        given.setdefault(option, []).append(text)
        return
    if option in given:
        raise ParameterError(f"{option} is given twice; allowed: once")
    if kind == NUMBER:
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise ParameterError(f"{option} is {shown(text)}; allowed: {kind}")
        given[option] = int(text)
    elif kind == JSON:
        try:
            given[option] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ParameterError(
                f"{option} is {shown(text)}, which is no JSON: {error}; allowed: JSON"
            ) from None
    else:
        given[option] = text


def _unknown(message: str, name: str, known: Mapping[str, Any]) -> ParameterError:
    close = difflib.get_close_matches(name[:64], known, n=1)
    likely = f"did you mean {close[0]}? " if close else ""
    return ParameterError(message, hint=f"{likely}known: {', '.join(known) or 'none'}")
