"""Whatever anybody passes to a public function, there comes a result or one of our errors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import qwick
from qwick import errors, settings
from qwick.errors import QwickError, shown
from values.hostile import everything
from values.kinds import complaint, judge
from values.public import arguments_of, callables
from values.table import FIXED, INNER, MODULES, PLAIN, TABLE, UNCHECKED
from values.world import World

# Sound values that this world refuses: paths that lead nowhere, a machine without memory.
REFUSED = {
    ("llm.qwen.Qwen.load", "model"),
    *(("hub.ollama.ollama_path", argument) for argument in ("", "name")),
    ("formats.open.open_checkpoint", "path"),
    ("evaluate.perplexity.Scored.save", "path"),
    ("evaluate.perplexity.Scored.read", "path"),
    *(("machine.limits.measure", argument) for argument in ("", "megabytes", "memory")),
    *(("machine.probe.probe", argument) for argument in ("", "refresh", "cache", "memory")),
}
SOURCE = Path(qwick.__file__).parent
PUBLIC = callables(MODULES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from qwick.native import ops

    before = ops.threads()
    folder = tmp_path_factory.mktemp("values")
    with settings.HOME.changed(str(folder / "home")), settings.OFFLINE.changed("1"):
        made = World(folder)
        yield made
        made.close()
    ops.set_threads(before)


def test_every_public_name_is_in_the_table() -> None:
    known = set(TABLE) | PLAIN | UNCHECKED
    assert sorted(set(PUBLIC) - known) == []
    assert sorted(known - set(PUBLIC)) == [], "the table has what there is no longer"
    assert len(known) == len(TABLE) + len(PLAIN) + len(UNCHECKED)
    for name in PLAIN:  # classes, and methods of such
        assert inspect.isclass(PUBLIC[name]) or name.rpartition(".")[0] in PLAIN, name


def test_every_module_is_public_or_an_inner_part() -> None:
    for file in SOURCE.rglob("*.py"):
        parts = file.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        public = name in MODULES or any(m.startswith(f"{name}.") for m in MODULES)
        inner = any(name == part or name.startswith(f"{part}.") for part in INNER)
        assert public or inner, name


@pytest.mark.parametrize("name", TABLE)
def test_every_argument_is_in_the_table(name: str) -> None:
    told = set(TABLE[name].arguments) | set(FIXED.get(name, ()))
    assert set(arguments_of(PUBLIC[name])) - told == set()


@pytest.mark.parametrize("name", TABLE)
def test_sound_values(name: str, world: World) -> None:
    case = TABLE[name]
    calls = [("", {}), *((a, {a: v}) for a, kind in case.arguments.items() for v in kind.sound)]
    for argument, given in calls:
        found = case.call(world, **given)  # raises what is none of ours
        if isinstance(found, QwickError):
            assert (name, argument) in REFUSED, found
            assert complaint(found) is None


@pytest.mark.parametrize("name", TABLE)
def test_anything_else(name: str, world: World) -> None:
    problems = [
        f"{argument}={shown(value)}: {problem}"
        for argument in TABLE[name].arguments
        for value in everything()
        if (problem := judge(TABLE[name], world, argument, value)) is not None
    ]
    assert problems == []


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_survives_pickling(name: str) -> None:
    kind = getattr(errors, name)
    for hint in (None, "the way out"):
        error = kind("what is wrong; allowed: what is right", hint=hint)
        assert complaint(error) is None
        assert error.hint == (hint or kind.way_out)
        assert str(error) == (f"{error.message} ({error.hint})" if error.hint else error.message)
