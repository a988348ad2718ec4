"""Every option and argument of every verb, with texts of every kind: an answer, or two lines."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from llm.small import write_small
from qwick import errors, settings
from qwick.cli.main import main
from qwick.cli.main import qwick as command_line

TEXTS = (
    *("", " ", "x", "nan", "inf", "-inf", "1e400", "-1", "0", "1", "1.5", "2", "True", "None"),
    *(
        "9" * 400,
        "9" * 5000,
        "-" + "9" * 400,
        "0x10",
        "1_0",
        "٣",
        "1,2",
        "1=",
        "=1",
        "1=nan",
        "a=b",
    ),
    *(
        "\udcff",
        "\0",
        "a\0b",
        "\ud800",
        "é",
        "\n",
        "x" * 5000,
        "..",
        "/",
        "~",
        "~nobody/x",
        "-",
        "--",
    ),
    *(
        "--help",
        "--no-such",
        "-x",
        "@x",
        "%s",
        "{}",
        "\x1b[31m",
        "[bold]",
        "/dev/null",
        "/proc/1/mem",
    ),
)
CODES = {0, 2, *(getattr(errors, name).exit_code for name in errors.__all__)} - {1}


def commands(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every verb with its words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*words, name))
    yield words, command


def cases() -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Yield the words of a verb, and one of its options, or None for its arguments."""
    for words, command in commands(command_line):
        yield words, None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
                yield words, max(parameter.opts, key=len)


CASES = [pytest.param(words, option, id=f"{' '.join(words)} {option}") for words, option in cases()]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values")
    return write_small(folder / "a.gguf", max_position_embeddings=96)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from qwick.native import ops

    before = ops.threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(settings.HOME.name, str(tmp_path / "home"))
    monkeypatch.setenv(settings.OFFLINE.name, "1")
    monkeypatch.setenv(settings.STATE.name, str(tmp_path / "state"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    yield
    ops.set_threads(before)


def check(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = main(arguments)
    told = capsys.readouterr().err
    shown = repr(arguments)[:200]
    assert code in CODES, f"{shown}: {code} {told}"
    assert "Traceback" not in told, shown
    assert "qwick failed" not in told, shown
    if code:
        lines = told.splitlines()
        assert re.match("error: .", lines[0]), shown
        assert any(line.startswith("hint: ") for line in lines) or "allowed:" in told, told[:500]
        assert len(told) < 2000, f"{shown}: {len(told)} characters"


@pytest.mark.parametrize(("words", "option"), CASES)
def test_any_text(
    words: tuple[str, ...],
    option: str | None,
    small: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # `run` answers; the others meet a model or a file that is not there once options are read.
    rest = {
        "run": [str(small), "hi", "--max-tokens", "2"],
        "jobs": ["out"] if option is None else ["in", "out"],
        "bench": ["/nowhere/x.gguf"],
        "serve": ["/nowhere/x.gguf"],
    }
    more = rest.get(words[0], []) if words else []
    for text in TEXTS:
        if option is None:
            if words not in ((), ("models",), ("run",), ("bench",), ("serve",)) or text.startswith(
                "-"
            ):
                check([*words, text, *more], capsys)
            continue
        if option == "--threads" and text.isdigit() and 8 < int(text[:5]) <= settings.MAX_THREADS:
            continue
        before = [] if words else [option, text]
        check([*before, *words, *([option, text] if words else []), *more], capsys)
        check([*words, f"{option}={text}", *more], capsys)


@pytest.mark.parametrize("setting", settings.ALL, ids=lambda s: s.name)
@pytest.mark.parametrize("words", [["doctor"], ["models", "list"], ["run"]], ids=" ".join)
def test_any_variable(
    setting: settings.Setting[object],
    words: list[str],
    small: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = [str(small), "hi", "--max-tokens", "1"] if words == ["run"] else []
    for text in TEXTS:
        if "\0" in text or "\ud800" in text:  # no environment holds them
            continue
        monkeypatch.setenv(setting.name, text)
        if words == ["doctor"]:  # tells of bad settings as its report, and exits with 1 or 8
            assert main([*words, "--json"]) in (0, 1, 8)
            capsys.readouterr()
        else:
            check([*words, *more], capsys)
