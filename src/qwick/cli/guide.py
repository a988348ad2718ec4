"""`qwick` alone on a terminal: what for, a recommendation, and a chat with what was chosen.

Asks, shows what `qwick recommend` says in short, and starts `qwick chat` as it would be typed.
Keeps nothing but what the store and the machine's figures are. Imports nothing heavy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

from qwick.cli.main import complain
from qwick.cli.recommend import (
    commands,
    languages_in,
    lines,
    machine_texts,
    row,
    talks,
    this_machine,
)
from qwick.cli.show import print_table, print_wrapped, size_text
from qwick.cli.stdin import read_line
from qwick.errors import (
    DigestError,
    DownloadError,
    ModelNotFoundError,
    ParameterError,
    RequestCancelled,
    ResourceError,
    UsageError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from qwick.choose.recommend import Ask, Option
    from qwick.choose.tasks import Task
    from qwick.hub import Catalog, Store

__all__ = ["Choice", "chosen", "guide", "proposed", "startable", "stored_first", "without_network"]

T = TypeVar("T")

TASKS = (  # those that most people come with; the others are taken by name
    "chat",
    "code",
    "math",
    "reasoning",
    "translate",
    "documents",
    "summarize",
    "writing",
    "vision",
)
SPEAKING = ("translate", "multilingual")  # where the languages decide
TRIES = 5  # answers to one question that nobody can read, before it is given up
LEAVE = ("q", "quit", "exit")
MOST = 1000  # checkpoints that are ranked where only what is stored can be started
COLUMNS = ("", "CHECKPOINT", "FORMAT", "RUNTIME", "MEMORY", "TOKENS/S", "DOWNLOAD")
ELSEWHERE = "free some space, or set QWICK_HOME to a folder on another disk"


@dataclass(frozen=True, slots=True)
class Choice:
    """A line of the table."""

    option: Option
    name: str  # as `qwick chat` takes it
    stored: bool
    chats: bool  # whether `qwick chat` can start it

    @property
    def arguments(self) -> list[str]:
        """What stands behind `qwick chat`."""
        return [self.name, *self.option.arguments]

    def fits(self, free: int) -> bool:
        """Whether there is room on the disk for what has to be fetched."""
        return self.stored or self.option.download <= free


def guide(ctx: click.Context) -> None:
    """Ask, recommend and start a chat; `q` and Ctrl-D leave with exit code 0, Ctrl-C with 130."""
    try:
        _guide(ctx)
    except EOFError:
        click.echo("\nGoodbye. `qwick` asks again, `qwick --help` lists the commands.")
    except KeyboardInterrupt:
        click.echo(
            "\nStopped. `qwick` asks again, `qwick --help` lists the commands. What was fetched is "
            "kept: the next time goes on with it."
        )
        ctx.exit(RequestCancelled.exit_code)


def _guide(ctx: click.Context) -> None:
    click.echo("qwick runs the Qwen models on the processor of this machine. (q leaves)")
    device, machine = this_machine(refresh=False)
    task = _asked_task()
    codes = _asked_languages() if task.name in SPEAKING else ()
    from qwick.choose.recommend import Ask

    ask = Ask(task, device, languages=codes)
    click.echo()
    for text in machine_texts(ask, machine):
        print_wrapped("", text)
    choices = _recommended(ask)
    again = " ".join(["qwick recommend --task", task.name, *_languages_option(codes)])
    click.echo(f"`{again}` tells more of them.")
    while True:
        choice = _asked_choice(choices)
        if not choice.chats:
            _tell_command(ask, choice)
            return
        try:
            _start(ctx, choice)
            return
        except (DownloadError, ModelNotFoundError, DigestError, ResourceError) as error:
            others = [one for one in choices if one.chats and one is not choice]
            choices = stored_first(others)  # the network that failed may be gone
            if not choices:
                raise
            complain(error.message, error.hint)
        click.echo("\nThat did not start. What else there is:\n")
        _print(choices)


# -- the questions ---------------------------------------------------------------------------------


def _asked(question: str, read: Callable[[str], T]) -> T:
    """Ask until `read` takes the answer; EOFError for one that means to leave.

    Raises UsageError after so many answers that `read` refused with ParameterError.
    """
    for _ in range(TRIES):
        click.echo(question, nl=False)
        try:
            answer = read_line().strip()
            if answer.lower() in LEAVE:
                raise EOFError
            return read(answer)
        except UsageError as error:  # also for bytes that are no text
            complain(error.message, error.hint)
    raise UsageError(
        f"{TRIES} answers could not be used",
        hint="`qwick recommend --help` and `qwick chat --help` say what can be asked without a "
        "conversation",
    )


def _asked_task() -> Task:
    from qwick.choose.tasks import TASKS as KNOWN
    from qwick.choose.tasks import task_named

    click.echo("\nWhat for?\n")
    for number, name in enumerate(TASKS, 1):
        print_wrapped(f"  {number}  {name.ljust(10)} ", KNOWN[name].title)
    print_wrapped("  or    ", ", ".join(name for name in KNOWN if name not in TASKS))
    click.echo()

    def read(answer: str) -> Task:
        if answer.isdecimal() and 1 <= int(answer[:9]) <= len(TASKS):
            answer = TASKS[int(answer) - 1]
        return task_named(answer or TASKS[0])

    return _asked(f"A number or a name (Enter: {TASKS[0]}): ", read)


def _asked_languages() -> tuple[str, ...]:
    return _asked(
        "Which languages? Codes such as hu,cs (Enter: none in particular): ", languages_in
    )


def _languages_option(codes: Sequence[str]) -> list[str]:
    return ["--languages", ",".join(codes)] if codes else []


def _asked_choice(choices: Sequence[Choice]) -> Choice:
    """Ask which one; what is free on the disk is told before."""
    home, free = _disk()
    first = proposed(choices, free)
    if not any(choice.chats for choice in choices):
        question = f"Whose command shall be shown? (Enter: {first + 1}): "
    elif choices[first].stored:
        question = f"Which one shall be started? (Enter: {first + 1}, which is stored): "
    else:
        click.echo(f"\n{size_text(free)} are free on the disk of the store, {home}.")
        size = size_text(choices[first].option.download)
        question = f"Which one shall be fetched and started? (Enter: {first + 1}, {size}): "
    return _asked(question, lambda answer: chosen(answer or str(first + 1), choices, free))


def proposed(choices: Sequence[Choice], free: int) -> int:
    """Return the index of the first that can be started with so many bytes free; else 0."""
    good = (i for i, one in enumerate(choices) if one.chats and one.fits(free))
    return next(good, 0)


def chosen(answer: str, choices: Sequence[Choice], free: int) -> Choice:
    """Return the choice of that number or name.

    Raises ParameterError for one that is not there, or that the disk has no room for while it has
    for another; ResourceError where it has for none.
    """
    numbers = {str(i): one for i, one in enumerate(choices, 1)}
    names = {name: one for one in reversed(choices) for name in (one.option.model.id, one.name)}
    choice = numbers.get(answer) or names.get(answer.lower())
    if choice is None:
        raise ParameterError(
            f"the choice is {answer!r:.80}; allowed: a number from 1 to {len(choices)}, or a name "
            "of the table"
        )
    if not choice.chats or choice.fits(free):  # what is not started is not fetched
        return choice
    text = (
        f"{choice.name} takes {size_text(choice.option.download)} on the disk, and "
        f"{size_text(free)} are free"
    )
    smaller = [number for number, one in numbers.items() if one.chats and one.fits(free)]
    if not smaller:
        raise ResourceError(text, hint=ELSEWHERE)
    raise ParameterError(text, hint=f"there is room for {' and '.join(smaller)}; or {ELSEWHERE}")


def _disk() -> tuple[Path, int]:
    """Return the store's home, and the bytes that are free on its disk."""
    from qwick import hub

    home = hub.Store().home
    there = next(path for path in (home, *home.parents) if path.is_dir())
    return home, shutil.disk_usage(there).free


# -- what is offered -------------------------------------------------------------------------------


def _recommended(ask: Ask) -> list[Choice]:
    """Show what is recommended, and return it; ResourceError or UnsupportedError: there is none."""
    from qwick import hub
    from qwick.choose.recommend import LIKES, recommend
    from qwick.cli.recommend import error_of
    from qwick.hub.store import offline

    catalog = hub.read_catalog()
    found = recommend(ask, catalog, MOST if offline() else LIKES)
    stored = startable(hub.Store())
    if offline():
        choices = without_network(ask, found.options, stored)[:LIKES]
    else:
        choices = [_choice(option, ask.task, stored) for option in found.options]
    if not any(choice.name == hub.DEFAULT for choice in choices) and (
        hub.DEFAULT in stored or not stored
    ):
        choices += [_choice(option, ask.task, stored) for option in _small(ask, catalog)]
    if found.refusal is not None:
        error = error_of(found.refusal)
        if not choices:
            raise error
        complain(error.message, error.hint)
    if offline():
        choices = [choice for choice in choices if choice.stored or not choice.chats]
        if not choices:
            raise ResourceError(
                f"nothing that would do is stored, and {offline()} forbids fetching it",
                hint="allow it, or see `qwick models list` for what is stored",
            )
        if any(choice.chats for choice in choices):
            click.echo("\nOffline: only what is stored can be started.")
    click.echo()
    _print(choices)
    if found.options and choices[0].option is found.options[0]:
        best = choices[0].option
        click.echo(f"\n1 is first because of this ({best.model.series}):")
        for label, text in lines(ask, best):
            if label not in ("memory", "start"):
                print_wrapped(f"   {label.ljust(9)} ", text)
    if choices[-1].name == hub.DEFAULT:
        how = "starts at once" if choices[-1].stored else "is quickly fetched"
        click.echo(f"{len(choices)} is small and {how}: good for a first look.")
    return choices


def startable(store: Store) -> set[str]:
    """Return the names of what nothing has to be fetched for: every file is there."""
    from qwick.hub.store import WHOLE

    return {one.entry.name for one in store.list() if one.state in WHOLE}


def without_network(ask: Ask, options: Sequence[Option], stored: set[str]) -> list[Choice]:
    """Return what of `options`, the best first, needs no fetching, each in a format that is stored.

    What is only told a command for stays, too, behind what is stored: nothing is fetched here.
    """
    from qwick.choose.recommend import options_of

    found = []
    for best in options:
        choices = [_choice(best, ask.task, stored)]
        if not choices[0].stored:
            others = (one for one in options_of(best.model, ask) if one.parts.total <= ask.room)
            ranked = sorted(others, key=lambda one: -one.worth)
            choices += [_choice(one, ask.task, stored) for one in ranked]
        there = [one for one in choices if one.stored]
        found += there[:1] or [one for one in choices[:1] if not one.chats]
    return stored_first(found)


def stored_first(choices: Sequence[Choice]) -> list[Choice]:
    """Return the same, what needs no network before the others."""
    return sorted(choices, key=lambda choice: not choice.stored)


def _small(ask: Ask, catalog: Catalog) -> list[Option]:
    """Return the default checkpoint as the store has it, where it can do the task and fits."""
    from qwick import hub
    from qwick.choose.recommend import options_of

    model = catalog.find(hub.DEFAULT)
    if model is None or ask.task.input not in model.inputs or not talks(model, ask.task):
        return []
    options = [one for one in options_of(model, ask) if _reference(one) == hub.DEFAULT]
    return [one for one in options if one.parts.total <= ask.room]


def _choice(option: Option, task: Task, stored: set[str]) -> Choice:
    name = _reference(option)
    chats = option.way.runtime == "qwick" and talks(option.model, task)
    return Choice(option, name, name in stored, chats)


def _reference(option: Option) -> str:
    """Return the name by which the store knows it, or the one of the catalog."""
    from qwick import hub

    entry = hub.Store().find(option.name)
    return option.name if entry is None else entry.name


def _print(choices: Sequence[Choice]) -> None:
    table = []
    for number, choice in enumerate(choices, 1):
        cells = row(number, choice.option)
        if choice.stored:
            cells["DOWNLOAD"] = "stored"
        table.append([cells[column] for column in COLUMNS])
    print_table(COLUMNS, table)


# -- the start -------------------------------------------------------------------------------------


def _tell_command(ask: Ask, choice: Choice) -> None:
    way = choice.option.way
    if way.runtime == "qwick":
        why = "is not made for conversations"
    else:
        why = f"is not run by qwick, but by {way.runtime}, which has to be installed"
    click.echo(f"\n{choice.option.model.id} {why}. This starts it:")
    for command in commands(ask, choice.option):
        click.echo(f"  {command}")


def _start(ctx: click.Context, choice: Choice) -> None:
    """Run `qwick chat` with the choice, which fetches what the store lacks."""
    from qwick.cli.chat import chat

    for caution in choice.option.cautions:
        print_wrapped("mind: ", caution)
    if not choice.stored:
        click.echo(
            f"\nFetching {choice.name}, {size_text(choice.option.download)}; Ctrl-C stops that, "
            "and the command below goes on with it."
        )
    click.echo(f"\nNext time: qwick chat {' '.join(choice.arguments)}\n")
    with chat.make_context("chat", list(choice.arguments), parent=ctx) as inner:
        chat.invoke(inner)
