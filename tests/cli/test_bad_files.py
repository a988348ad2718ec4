"""`qwick run` with damaged files, stores that fail and memory that is short: a line, never a fault.

With a whole random checkpoint of 100 kB, so that each is a matter of milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.conftest import Run
from llm.small import write_small
from qwick.choose import memory
from qwick.cli.main import main
from qwick.hub import CATALOG, DEFAULT
from qwick.machine.cpu import Memory

pytestmark = pytest.mark.usefixtures("same_threads", "nothing_piped")


@pytest.fixture
def nothing_piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("sound") / "sound.gguf")


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return a function that runs `qwick run ARGUMENTS Hi`: exit code, and the error's lines."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        code = main(["run", "--max-tokens", "1", *map(str, arguments), "Hi"])
        told = capsys.readouterr()
        lines = told.err.splitlines()
        if code == 0:
            assert lines == []
        else:
            assert told.out == ""
            assert [line.split(":")[0] for line in lines] in (["error"], ["error", "hint"])
        return code, told.err

    return run


Ask = Callable[..., tuple[int, str]]


def test_the_sound_file_answers(ask: Ask, sound: Path) -> None:
    assert ask(sound) == (0, "")


@pytest.mark.parametrize("part", [0, 1e-5, 4e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.9, 0.99999])
def test_a_truncated_file(ask: Ask, sound: Path, tmp_path: Path, part: float) -> None:
    raw = sound.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(raw[: int(part * len(raw))])
    code, err = ask(path)
    assert code == 4
    assert str(path) in err


def test_a_byte_that_has_changed(ask: Ask, sound: Path, tmp_path: Path) -> None:
    """Anything may come of it but a fault: mostly a refusal, or an answer if it does not matter."""
    raw = sound.read_bytes()
    path = tmp_path / "changed.gguf"
    dice = random.Random(5)
    codes = []
    for _ in range(150):
        changed = bytearray(raw)
        changed[dice.randrange(4, 9000)] ^= 1 << dice.randrange(8)  # header, vocabulary, table
        path.write_bytes(changed)
        codes.append(ask(path)[0])
    assert set(codes) <= {0, 2, 4, 6, 7}  # 7: the weights make NaN
    assert codes.count(4) > 10


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    write_small(tmp_path / "m.gguf", part_tensors=9)
    return sorted(tmp_path.glob("m-0000?-of-00003.gguf"))


def test_a_model_in_parts(ask: Ask, parts: list[Path]) -> None:
    for path in (*parts, parts[0].parent):
        assert ask(path) == (0, "")
    raw = parts[2].read_bytes()
    parts[2].write_bytes(raw[: len(raw) // 2])
    code, err = ask(parts[0])
    assert code == 4
    assert f"error: {parts[2]}: " in err
    assert "the file ends at byte" in err
    parts[2].unlink()
    code, err = ask(parts[0].parent)
    assert code == 4
    assert f"error: {parts[0]}: 1 of 3 parts are missing from its folder: {parts[2].name}" in err
    assert f"hint: fetch {parts[2].name} from where this part came from" in err


def test_parts_of_two_models(ask: Ask, parts: list[Path], tmp_path: Path) -> None:
    """Where the metadata do not tell, the shapes do."""
    (tmp_path / "other").mkdir()
    other = write_small(tmp_path / "other" / "m.gguf", part_tensors=9, intermediate_size=64)
    (other.parent / parts[1].name).replace(parts[1])
    code, err = ask(parts[0])
    assert code == 4
    assert "has the shape" in err
    assert "expected" in err


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        (b"GGUF", b"GGUX", 4, "not a GGUF file"),
        (b"GGUF\x03", b"GGUF\x09", 2, "version 9; supported: 2, 3"),
        (b"qwen2", b"llama", 2, "'llama' is not supported; known: qwen, qwen2, qwen2moe"),
    ],
)
def test_another_kind_of_file(
    ask: Ask, sound: Path, tmp_path: Path, old: bytes, new: bytes, code: int, said: str
) -> None:
    raw = sound.read_bytes()
    assert old in raw
    (tmp_path / "a.gguf").write_bytes(raw.replace(old, new, 1))
    found, err = ask(tmp_path / "a.gguf")
    assert found == code
    assert said in err


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        (None, 4, "has no config.json"),
        ("", 4, "config.json"),
        ('{"a":', 4, "not valid JSON"),
        ("{}", 4, "lacks model_type"),
        (json.dumps({"model_type": "llama"}), 2, "'llama' is not supported"),
        (json.dumps({"model_type": "qwen2"}), 4, "no weights"),
    ],
)
def test_a_folder_that_is_no_checkpoint(
    ask: Ask, tmp_path: Path, config: str | None, code: int, said: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    found, err = ask(tmp_path)
    assert found == code
    assert said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ctx", "8"], "the context holds 8"),
        (["--ctx", "100000"], "the model was trained for 512"),
        (["--max-tokens", "5000"], "max_tokens is 5000"),
    ],
)
def test_more_than_the_context_holds(
    ask: Ask, sound: Path, arguments: list[str], said: str
) -> None:
    code, err = ask(*arguments, sound)
    assert code == 2
    assert said in err


@pytest.mark.parametrize("limited_by", ["machine", "cgroup"])
def test_more_than_memory_holds(
    ask: Ask, sound: Path, monkeypatch: pytest.MonkeyPatch, limited_by: str
) -> None:
    monkeypatch.setattr(memory, "read_memory", lambda: Memory(1 << 34, 80 << 20, limited_by))
    code, err = ask("--ctx", "512", sound)
    assert code == 6
    assert "needs" in err
    assert "0.08 GB" in err
    assert ("control group" in err) == (limited_by == "cgroup")


def test_a_file_that_may_not_be_read(ask: Ask, sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    assert ask(path)[0] == 4
    if os.geteuid() != 0:  # the superuser may read everything
        shutil.copy(sound, tmp_path / "locked.gguf")
        (tmp_path / "locked.gguf").chmod(0)
        code, err = ask(tmp_path / "locked.gguf")
        assert code == 3
        assert "Permission denied" in err


# -- the store -------------------------------------------------------------------------------------


def test_offline_with_an_empty_store(qwick: Run, tmp_path: Path) -> None:
    done = qwick("run", "Hi", QWICK_HOME=str(tmp_path), QWICK_OFFLINE="1")
    assert (done.returncode, done.stdout) == (5, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {DEFAULT} is not in the store {tmp_path}")
    assert "unset QWICK_OFFLINE" in second


def test_offline_with_a_damaged_file(qwick: Run, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / DEFAULT / CATALOG[DEFAULT].main
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF, but nothing else")
    done = qwick("run", "Hi", QWICK_HOME=str(tmp_path), QWICK_OFFLINE="1")
    assert (done.returncode, done.stdout) == (5, "")
    assert "damaged" in done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: ")


def test_no_source_can_be_reached(qwick: Run, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"  # the discard port, where nobody listens
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    hub = {
        "HF_ENDPOINT": nowhere,
        "MODELSCOPE_ENDPOINT": nowhere,
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "*",
        "no_proxy": "*",
    }
    done = qwick("run", "Hi", QWICK_HOME=str(tmp_path), QWICK_OFFLINE="0", **hub, **pip)
    assert (done.returncode, done.stdout) == (5, "")
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: no source could deliver")
    assert "Connection refused" in error
    assert hint.startswith("hint: check the network")
    assert [p for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()] == []


def test_a_store_that_cannot_be_written(qwick: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = qwick("run", "Hi", QWICK_HOME=str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (6, "")
    error, hint = done.stderr.splitlines()
    assert error == f"error: the store {tmp_path / 'file'} cannot be written: Not a directory"
    assert "QWICK_HOME" in hint
