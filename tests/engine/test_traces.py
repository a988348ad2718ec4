"""Random traces in short, and that what they look for would be found: `checks/engine_traces.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from checks.engine_traces import run
from qwick.engine import scheduler
from qwick.engine.pages import PagePool
from qwick.engine.prefix import extend_keys
from qwick.engine.scheduler import State

TRACES = 150


def test_traces_hold_and_are_not_empty() -> None:
    found = run(0, TRACES, progress=False)
    assert found["failures"] == {}
    assert found["never"] == []


def forgets_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    free: Callable[..., None] = PagePool.free
    monkeypatch.setattr(PagePool, "free", lambda self, pages: free(self, pages[:-1]))


def frees_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    free: Callable[..., None] = PagePool.free
    monkeypatch.setattr(PagePool, "free", lambda self, pages: free(self, [*pages, *pages[:1]]))


def ignores_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that do not tell sequences of one length apart."""

    def keys_of(keys: Any, root: bytes, ids: Any, *rest: Any) -> None:
        extend_keys(keys, root, [0] * len(ids), *rest)

    monkeypatch.setattr(scheduler, "extend_keys", keys_of)


def forgets_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    remove: Callable[..., None] = State.remove

    def only_running(self: State, sequence: Any, **more: Any) -> None:
        if sequence not in self.waiting:
            remove(self, sequence, **more)

    monkeypatch.setattr(State, "remove", only_running)


def keeps_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "drop_drafts", lambda self, step: None)


@pytest.mark.parametrize(
    "mutant",
    [forgets_a_page, frees_twice, ignores_ids, forgets_those_who_wait, keeps_drafts],
    ids=lambda mutant: mutant.__name__,
)
def test_mutants_are_caught(
    monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mutant(monkeypatch)
    assert run(0, 40, progress=False)["failures"]
