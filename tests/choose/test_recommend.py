"""What is recommended, whatever is asked: it fits, is quick enough, may be used, is explained."""

from __future__ import annotations

import itertools

import pytest

from qwick.choose.devices import DEVICES, device_named
from qwick.choose.recommend import COVERED, Ask, recommend
from qwick.choose.tasks import TASKS, task_named
from qwick.errors import ParameterError
from qwick.hub import read_catalog

CATALOG = read_catalog()
PLACES = ("phone", "pi5", "laptop", "server", "rtx4090", "h100x8")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("license_", ["any", "commercial"])
def test_options_keep_what_was_asked(place: str, license_: str) -> None:
    for task in TASKS.values():
        ask = Ask(task, device_named(place), license=license_)
        found = recommend(ask, CATALOG)
        assert (found.refusal is None) == bool(found.options)
        worths = [option.worth for option in found.options]
        assert worths == sorted(worths, reverse=True)
        assert len({option.model.id for option in found.options}) == len(worths)
        for option in found.options:
            assert option.parts.total <= ask.room
            assert option.model.generation in COVERED
            assert option.model.variant in task.variants
            assert task.input in option.model.inputs
            assert option.speed.decode > 0
            assert max(option.model.context.native or 0, option.model.context.extended or 0) > 0
            if license_ == "commercial":
                assert option.model.license is not None
                assert option.model.license.use != "research"
            if option.model.license is None or option.model.license.use != "commercial":
                assert option.cautions


def test_more_memory_never_makes_the_choice_worse() -> None:
    for task, gigabytes in itertools.product(("chat", "code", "math"), (2, 4, 8, 16)):
        small, large = (
            recommend(Ask(TASKS[task], DEVICES["desktop"], memory=size * 10**9), CATALOG)
            for size in (gigabytes, 2 * gigabytes)
        )
        assert large.options[0].worth >= small.options[0].worth


def test_refusals_name_what_would_do() -> None:
    chat, laptop = TASKS["chat"], DEVICES["laptop"]
    small = recommend(Ask(chat, laptop, memory=10**8), CATALOG).refusal
    assert small is not None
    assert small.nearest is not None
    assert small.nearest.parts.total > 10**8
    assert small.nearest.name in small.message
    quick = recommend(Ask(chat, laptop, min_speed=10_000), CATALOG).refusal
    assert quick is not None
    assert quick.cause == "speed"
    assert quick.nearest is not None
    again = recommend(Ask(chat, laptop, min_speed=int(quick.nearest.speed.decode)), CATALOG)
    assert again.refusal is None  # the hint leads somewhere


def test_one_size_up_is_out_of_reach() -> None:
    found = recommend(Ask(TASKS["chat"], DEVICES["laptop"], memory=4 * 10**9), CATALOG)
    assert found.larger is not None
    larger, best = found.larger.option, found.options[0]
    assert (larger.model.parameters.total or 0) > (best.model.parameters.total or 0)
    assert larger.parts.total > 4 * 10**9
    assert "there are 4.0 GB" in found.larger.obstacle


def test_newer_generations_only_where_asked() -> None:
    ask = Ask(TASKS["chat"], DEVICES["rtx4090"], newer=True)
    found = recommend(ask, CATALOG, 50)
    newer = [option for option in found.options if option.model.generation not in COVERED]
    assert newer
    assert all(option.way.runtime != "qwick" for option in newer)


def test_what_cannot_be_asked() -> None:
    chat, laptop = TASKS["chat"], DEVICES["laptop"]
    for wrong in (
        {"memory": 0},
        {"min_speed": -1.0},
        {"context": 0},
        {"license": "mine"},
        {"languages": "hu"},
        {"newer": 1},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            Ask(chat, laptop, **wrong)  # type: ignore[arg-type]


def test_names_of_tasks() -> None:
    assert task_named(" OCR ").name == "vision"
    with pytest.raises(ParameterError, match="allowed: chat") as caught:
        task_named("cod")
    assert caught.value.hint == "did you mean code?"
    names = [name for task in TASKS.values() for name in (task.name, *task.aliases)]
    assert len(set(names)) == len(names)
