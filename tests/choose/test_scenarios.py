"""Written scenarios: what somebody who knows the family would answer, asked of the recommender."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwick.choose.devices import device_named
from qwick.choose.quality import BEARABLE, FORMAT_LOSS
from qwick.choose.recommend import Ask, recommend
from qwick.choose.tasks import task_named
from qwick.hub import read_catalog
from qwick.values import size_in_bytes

SCENARIOS = json.loads((Path(__file__).parent / "scenarios.json").read_text("utf-8"))["scenarios"]


def asked(fields: dict[str, Any]) -> Ask:
    memory = fields.get("memory")
    return Ask(
        task_named(fields["task"]),
        device_named(fields["device"]),
        memory=None if memory is None else size_in_bytes("memory", memory),
        min_speed=fields.get("min_speed"),
        context=fields.get("context"),
        languages=tuple(fields.get("languages", ())),
        license=fields.get("license", "any"),
    )


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s["title"].replace(" ", "-"))
def test_scenario(scenario: dict[str, Any]) -> None:
    found = recommend(asked(scenario["ask"]), read_catalog())
    if "refused" in scenario:
        assert found.options == ()
        assert found.refusal is not None
        assert found.refusal.cause == scenario["refused"]
        assert found.refusal.hint
        return
    assert found.refusal is None, found.refusal
    first = found.options[0]
    assert first.model.id in scenario["acceptable"]
    assert first.parts.total <= found.ask.room
    assert first.rate >= (found.ask.min_speed or 0)
    assert first.model.context.longest >= found.ask.length
    assert first.reasons
    assert FORMAT_LOSS[first.way.rounded] <= BEARABLE


def test_there_are_enough() -> None:
    assert len(SCENARIOS) >= 30
    known = read_catalog().models
    assert all(name in known for one in SCENARIOS for name in one["acceptable"])
