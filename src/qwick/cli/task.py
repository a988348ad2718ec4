"""`qwick run --task NAME`: what a model is asked to do, with the parsed answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.answer import for_output, print_chunks
from qwick.cli.show import print_json
from qwick.cli.stdin import MOST_INPUT, check_size, read_all, valid_text
from qwick.errors import ParameterError, UnsupportedError, UsageError, shown

if TYPE_CHECKING:
    from qwick.llm import Qwen, Reply
    from qwick.tasks import Answer, Found, Task

__all__ = ["check_task", "make_task", "read_options", "run_task", "task_options"]


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --task, --task-option and --anyway to a click command."""
    command = click.option(
        "--anyway",
        is_flag=True,
        help="Do the task with a model that is not made for it too.",
    )(command)
    command = click.option(
        "--task-option",
        "task_given",
        multiple=True,
        metavar="NAME=VALUE",
        help="Of the task; @FILE is the text of a file, @- what is piped in. May be repeated.",
    )(command)
    return click.option(
        "--task",
        metavar="NAME",
        help="PROMPT is for a task: steps, math, code, fill, languages, translate, tutor, "
        "support, summarise, ask, extract.",
    )(command)


def check_task(task: str | None, given: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse what does not go with a task, and options of one where there is none.

    options: other options by name, as given.
    """
    if task is None:
        for name, value in (("--task-option", given), ("--anyway", options["--anyway"])):
            if value:
                raise UsageError(f"{name} goes with --task only", hint="add --task NAME")
        return
    for name in ("--raw", "--system", "--n", "--logprobs"):
        if options[name]:
            raise UsageError(
                f"{name} does not go with --task", hint="the task makes the whole prompt"
            )


def read_options(given: Sequence[str]) -> list[tuple[str, str]]:
    """Return the options of a task as (name, text), with the texts of files that they name."""
    return [_option(text) for text in given]


def make_task(name: str, prompt: str, given: Sequence[tuple[str, str]]) -> Task[Any]:
    """Return the task; raises what is wrong with its options."""
    from qwick.tasks import named

    return named(name, prompt, given)


def run_task(
    task: Task[Any], qwen: Qwen, sampling: Mapping[str, Any], *, anyway: bool, as_json: bool
) -> Reply | None:
    """Do it and print what comes of it; return the reply of a task of one prompt."""
    try:
        if as_json:
            answer = task.run(qwen, anyway=anyway, **sampling)
            print_json({"task": task.name, **answer.to_dict()})
            return None
        if not task.streams or task.name == "extract":
            answer = task.run(qwen, anyway=anyway, **sampling)
        else:
            with task.stream(qwen, anyway=anyway, **sampling) as stream:
                print_chunks(stream)
            answer = stream.answer
    except UnsupportedError as error:
        if error.hint is not None:  # in the words of the command line
            error.hint = error.hint.replace("anyway=True", "--anyway")
        raise
    _print(task, answer)
    for trouble in answer.troubles:
        click.echo(f"note: {for_output(trouble)}", err=True)
    return answer.replies[0] if task.streams else None


def _print(task: Task[Any], answer: Answer[Any]) -> None:
    """Print a result that was not streamed, or what was read out of one that was."""
    value = answer.value
    if task.name == "extract":
        print_json(value)
    elif task.name == "languages":
        for language, text in value.items():
            click.echo(f"--- {for_output(language)}\n{for_output(text)}")
    elif task.name == "summarise":
        click.echo(for_output(value.text))
    elif task.name == "ask":
        click.echo(for_output(_found(value)))
    elif task.name in ("math", "steps") and value.answer is not None:
        click.echo(f"\nanswer: {for_output(value.answer)}")


def _found(found: Found) -> str:
    if not found.found:
        return "The document does not say."
    lines = []
    for statement in found.statements:
        places = []
        for source in statement.sources:
            first, last = source.first_line, source.last_line
            page = "" if source.page is None else f"page {source.page}, "
            rows = f"line {first}" if first == last else f"lines {first} to {last}"
            places.append(page + rows)
        lines.append(f"{statement.text} [{'; '.join(places)}]")
    return "\n".join(lines)


def _option(text: str) -> tuple[str, str]:
    """Return the name and the value of --task-option."""
    name, equals, value = valid_text("--task-option", text).partition("=")
    if not equals or not name:
        raise ParameterError(f"--task-option is {shown(text)}; allowed: NAME=VALUE")
    if value == "@-":
        return name, read_all()
    if value.startswith("@@"):
        return name, value[1:]
    return name, _file(value[1:]) if value.startswith("@") else value


def _file(path: str) -> str:
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(MOST_INPUT + 1)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"the file {shown(path)} of --task-option cannot be read: {reason}",
            hint="@@ at the beginning stands for a single @",
        ) from None
    check_size(path, len(data))
    return valid_text(path, data.decode("utf-8", "surrogateescape"))
