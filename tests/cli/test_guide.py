"""`qwick` alone: a few questions in a real terminal, a recommendation, and a chat."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cli.conftest import Run, environment
from cli.terminal import SHELL, Terminal
from hub.support import entry_of
from qwick.choose.devices import device_named
from qwick.choose.recommend import Ask, recommend
from qwick.choose.tasks import TASKS, task_named
from qwick.cli import guide
from qwick.cli.guide import Choice, chosen, proposed
from qwick.cli.recommend import machine_texts
from qwick.errors import ParameterError, ResourceError
from qwick.hub import DEFAULT, PinnedFile, Store, read_catalog

QWICK = f"{sys.executable} -m qwick"
TASK = r"Enter: chat\): $"
LANGUAGES = r"Enter: none in particular\): $"
WHICH = r"\(Enter: \d, [^)]*\): $"
READY = r"/help lists the commands\s+>>> ?$"


@pytest.fixture
def terminal(tmp_path: Path, stocked_home: Path) -> Iterator[Terminal]:
    """A terminal whose store has the default checkpoint, and hubs that nobody answers for."""
    changes = {"QWICK_HISTORY": str(tmp_path / "history"), "QWICK_HOME": str(stocked_home)}
    nobody = dict.fromkeys(("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"), "http://127.0.0.1:9")
    with Terminal(environment(**changes, **nobody, QWICK_OFFLINE="0")) as terminal:
        yield terminal


def number_of(name: str, shown: str) -> str:
    """The number of a checkpoint in the last table."""
    return re.findall(rf"^(\d)  {re.escape(name)} ", shown, re.MULTILINE)[-1]


@pytest.mark.parametrize("arguments", [(), ("--debug",)])
def test_without_a_terminal_the_help_is_printed(qwick: Run, arguments: tuple[str, ...]) -> None:
    done = qwick(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: qwick ")


@pytest.mark.model
def test_from_the_questions_to_an_answer(terminal: Terminal) -> None:
    """Piped, help; then nonsense, a download that cannot be, the stored checkpoint, an answer."""
    assert "Usage: qwick " in terminal.enter(f"{QWICK} | cat", SHELL)
    shown = terminal.enter(QWICK, TASK)
    assert "measuring this machine" in shown
    assert "task is 'zzz'" in terminal.enter("zzz", TASK)
    assert "did you mean translate?" in terminal.enter("translat", TASK)
    terminal.enter("translation", LANGUAGES)
    assert "language is 'hungarian'" in terminal.enter("hungarian", LANGUAGES)
    shown = terminal.enter("hu", WHICH)
    assert re.search(r"this machine: .*\n.* for the model; reads .* \(measured", shown)
    assert "1 is first because" in shown
    assert "in hu" in shown
    assert "`qwick recommend --task translate --languages hu`" in shown
    assert re.search(rf"^\d  {DEFAULT} .* stored$", shown, re.MULTILINE)
    assert "are free on the disk" in shown
    assert "allowed: a number from 1 to" in terminal.enter("99", WHICH)

    other = re.findall(r"^(\d)  (?!qwen2\.5-coder-0\.5b)\S+ .* qwick .*[MG]B$", shown, re.MULTILINE)
    assert other, "nothing was recommended that has to be fetched"
    shown = terminal.enter(other[-1], WHICH)
    assert re.search(r"\nNext time: qwick chat \S+:\S+", shown)
    assert "\nerror: " in shown
    assert "That did not start. What else there is:" in shown

    shown = terminal.enter(number_of(DEFAULT, shown), READY)
    assert f"Next time: qwick chat {DEFAULT}\n" in shown
    said = terminal.enter("What is 2 + 3? Only the number.", r"tok/s · [^>]*\n>>> ?$")
    assert re.search(r"\S\s+\d+ tokens? at \d", said)  # drawn, so not always right
    terminal.enter("/exit", SHELL)
    terminal.enter("echo left with $?", "left with 0")


@pytest.mark.model
def test_every_question_can_be_left(terminal: Terminal) -> None:
    for asked in (1, 2, 3):
        for key, code, said in (("C-c", 130, "Stopped."), ("C-d", 0, "Goodbye."), ("q", 0, None)):
            command = f"{QWICK}; echo {asked} left by {key} with $?"
            terminal.enter(command, TASK)
            if asked > 1:
                terminal.enter("multilingual", LANGUAGES)
            if asked > 2:
                terminal.press("Enter")
                terminal.wait_for(WHICH)
            terminal.press(*([key] if said else [key, "Enter"]))
            shown = terminal.wait_for(f"{asked} left by {key} with {code}{SHELL}", after=command)
            assert (said or "Goodbye.") in shown
            assert "error" not in shown
    terminal.enter(QWICK, TASK)
    for _ in range(guide.TRIES - 1):
        terminal.enter("nonsense", TASK)
    assert "answers could not be used" in terminal.enter("nonsense", SHELL)
    terminal.enter("echo left with $?", "left with 2")


@pytest.mark.model
def test_offline_only_what_is_stored_is_offered(terminal: Terminal) -> None:
    terminal.enter(f"QWICK_OFFLINE=1 {QWICK}", TASK)
    shown = terminal.enter("chat", WHICH)
    assert "Offline: only what is stored can be started." in shown
    assert number_of(DEFAULT, shown) == "1"
    assert "which is stored" in shown
    assert "1 is first because" not in shown
    terminal.enter("q", SHELL)


@pytest.mark.model
def test_what_does_not_converse_gets_a_command(terminal: Terminal) -> None:
    terminal.enter(QWICK, TASK)
    terminal.enter("embedding", r"Whose command shall be shown\? \(Enter: 1\): $")
    shown = terminal.enter("1", SHELL)
    assert "is not made for conversations. This starts it:" in shown
    assert "  qwick serve qwen3-embedding-" in shown


def choices(*stored: str) -> list[Choice]:
    """What is recommended for a laptop, as the guide offers it."""
    found = recommend(Ask(task_named("chat"), device_named("laptop")), read_catalog())
    options = sorted(found.options, key=lambda one: -one.download)
    assert options[0].download > options[-1].download
    return [Choice(one, one.name, one.name in stored, True) for one in options]


def test_what_the_disk_has_no_room_for_is_refused_with_what_it_has() -> None:
    offered = choices()
    large, small = offered[0], offered[-1]
    enough = large.option.download
    assert chosen("1", offered, enough) is large
    assert chosen(large.option.model.id.upper(), offered, enough) is large
    assert proposed(offered, enough) == 0
    with pytest.raises(ParameterError, match=r"on the disk, and .* are free") as refused:
        chosen("1", offered, small.option.download)
    assert str(len(offered)) in (refused.value.hint or "")
    assert offered[proposed(offered, small.option.download)].fits(small.option.download)
    with pytest.raises(ResourceError, match="are free"):
        chosen("1", offered, 0)
    offered = choices(large.name)
    assert chosen("1", offered, 0) is offered[0], "what is stored needs no room"
    assert proposed(offered, 0) == 0


def test_offline_what_is_stored_is_found_wherever_it_ranks() -> None:
    """Also in another format than the best, and behind what is recommended."""
    ask = Ask(task_named("chat"), device_named("laptop"))
    options = recommend(ask, read_catalog(), guide.MOST).options
    last = options[-1]
    assert len(options) > 3
    [choice] = guide.without_network(ask, options, {last.name})
    assert (choice.name, choice.stored) == (last.name, True)
    first = options[0].model
    other = (
        f"{first.id}:{next(f.name for f in first.formats if f.name != options[0].way.form.name)}"
    )
    found = guide.without_network(ask, options, {last.name, other})
    assert [choice.name for choice in found] == [other, last.name]
    assert guide.without_network(ask, options, set()) == []


def test_offline_commands_are_told_behind_what_is_stored() -> None:
    sight = Ask(task_named("vision"), device_named("laptop"))
    options = recommend(sight, read_catalog(), guide.MOST).options
    told = guide.without_network(sight, options, set())
    assert [choice.option for choice in told] == list(options)
    ask = Ask(task_named("embedding"), device_named("laptop"))
    options = recommend(ask, read_catalog(), guide.MOST).options
    found = guide.without_network(ask, options, {options[-1].name})
    assert [choice.option for choice in found] == [options[-1], *options[:-1]]


def test_only_what_is_whole_counts_as_stored(tmp_path: Path) -> None:
    files = tuple(PinnedFile(name, 4, "0" * 64) for name in ("a", "b"))
    store = Store(tmp_path, catalog={"tiny": entry_of(files=files)})
    for file, whole in zip(files, (set(), {"tiny"}), strict=True):
        path = store.file_path(store.entry("tiny"), file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")
        assert guide.startable(store) == whole


def test_what_is_stored_comes_before_what_cannot_be_fetched() -> None:
    names = [one.name for one in choices()]
    ordered = guide.stored_first(choices(names[-1]))
    assert [one.name for one in ordered] == [names[-1], *names[:-1]]
    assert proposed(ordered, 1 << 60) == 0


def test_texts_wrap_on_a_narrow_terminal(tmp_path: Path) -> None:
    with Terminal(environment(QWICK_HOME=str(tmp_path), QWICK_OFFLINE="0")) as terminal:
        command = f"COLUMNS=50 {QWICK}"
        terminal.enter(command, TASK)
        terminal.enter("", WHICH)
        asked, _, answered = terminal.seen().partition("What for?")[2].partition("Enter: chat): ")
        told = answered.partition("RUNTIME")[0].splitlines()[1:-1]
        assert any("this machine" in line for line in told)
        assert max(map(len, [*asked.splitlines()[:-1], *told])) <= 50
        terminal.enter("q", SHELL)
        command = f"COLUMNS=50 {QWICK} recommend documents --device laptop"
        shown = terminal.enter(command, SHELL)
        first, second = shown.strip().splitlines()[:2]
        assert first.startswith("for      ")
        assert second.startswith("         ")
        assert max(len(first), len(second)) <= 50


def test_how_to_measure_anew_is_told_as_it_is_typed() -> None:
    busy = replace(device_named("laptop"), measured=True, busy=True)
    told = machine_texts(Ask(task_named("chat"), busy), None)
    assert "`qwick recommend --refresh` measures anew" in told[1]


def test_the_tasks_that_are_listed_are_known() -> None:
    assert set(guide.TASKS) < set(TASKS)
    assert set(guide.SPEAKING) < set(TASKS)
    assert len(set(guide.TASKS)) <= 9
