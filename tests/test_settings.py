"""The settings: what each variable may say, and errors that name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwick import settings
from qwick.errors import ParameterError, shown
from qwick.settings import Setting


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        (settings.THREADS, "1", 1),
        (settings.THREADS, "1024", 1024),
        (settings.THREADS, "", None),
        (settings.ISA, "scalar", "scalar"),
        (settings.ISA, "", None),
        (settings.OFFLINE, "YES", True),
        (settings.OFFLINE, "0", False),
        (settings.OFFLINE, "", False),
        (settings.HOME, "/some/where", Path("/some/where")),
        (settings.HOME, "~/store", Path("/home/of/test/store")),
        (settings.HOME, "", Path("/cache/of/test/qwick")),
        (settings.HISTORY, "~/typed", Path("/home/of/test/typed")),
        (settings.HISTORY, "None", None),
        (settings.HISTORY, "", Path("/state/of/test/qwick/chat-history")),
    ],
)
def test_values(
    setting: Setting[object], text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of/test")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache/of/test")
    monkeypatch.setenv("XDG_STATE_HOME", "/state/of/test")
    monkeypatch.setenv(setting.name, text)
    assert setting.get() == value
    assert setting.is_set == bool(text)
    monkeypatch.delenv(setting.name)
    assert setting.get() == setting.default()
    assert not setting.is_set


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        *((settings.THREADS, t) for t in ("0", "-1", "1025", "5000", "x", "2.0", "9" * 5000)),
        *((settings.OFFLINE, t) for t in ("maybe", "2", " ")),
        (settings.HOME, "~no such user/x"),
        (settings.HISTORY, "~no such user/x"),
    ],
)
def test_bad_values_are_told_with_the_variable_and_what_is_allowed(
    setting: Setting[object], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting.name, text)
    with pytest.raises(ParameterError) as caught:
        setting.get()
    assert f"{setting.name} is {shown(text)}; allowed: {setting.allowed}" in caught.value.message


def test_the_limit_is_the_kernels_own() -> None:
    from qwick.native import ops

    before = ops.threads()
    with pytest.raises(ValueError, match="threads"):
        ops.set_threads(settings.MAX_THREADS + 1)
    assert ops.threads() == before


def test_a_child_has_this_environment_and_the_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWICK_ISA", "scalar")
    found = settings.child_environment(QWICK_THREADS="2")
    assert (found["QWICK_ISA"], found["QWICK_THREADS"]) == ("scalar", "2")
