"""Names, folders and files become paths; everything else a clear refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.support import CONTENT, Recorder, entry_of
from qwick import hub
from qwick.errors import ModelNotFoundError
from qwick.hub import CATALOG, DEFAULT, Store
from qwick.hub.entries import find, near


def test_a_name_an_alias_and_another_case(store: Store) -> None:
    for name in ("tiny", "TINY", "some/tiny", " Some/Tiny "):
        assert hub.resolve(name, Recorder(), store=store).read_bytes() == CONTENT


def test_a_callers_own_entry_is_found_whatever_its_case() -> None:
    entry = entry_of(name="Tiny")
    assert find("tiny", {"Tiny": entry}) is find("TINY", {"Tiny": entry}) is entry
    assert near("tinny", {"Tiny": entry}) == ["Tiny"]


def test_a_file_and_a_folder(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for model, path in [
        (str(file), file),
        (file, file),
        ("~/a.gguf", file),
        ("a.gguf", Path("a.gguf")),
        ("folder", Path("folder")),
        ("./folder", Path("folder")),
    ]:
        assert hub.resolve(model, store=store) == path


def test_a_name_wins_over_a_folder_unless_written_as_a_path(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert hub.resolve("tiny", Recorder(), store=store) == store.path(store.entry("tiny"))
    assert hub.resolve("./tiny", store=store) == Path("tiny")
    assert hub.resolve(Path("tiny"), store=store) == Path("tiny")


@pytest.mark.parametrize("model", ["./none", "none.gguf", "~/none", "/none/at/all", Path("none")])
def test_a_path_that_is_not_there(store: Store, model: str | Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no file or folder"):
        hub.resolve(model, store=store)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("~no such user/x.gguf", "home directory"),
        ("x/" * 3000 + "y", "File name too long"),
        (Path("x" * 300), "File name too long"),
    ],
)
def test_a_path_that_cannot_be_looked_up(store: Store, model: str | Path, reason: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"no file or folder .*{reason}") as caught:
        hub.resolve(model, store=store)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("name", "hint"), [("tinny", "did you mean tiny?"), ("", "names are those of `qwick models")]
)
def test_an_unknown_name(store: Store, name: str, hint: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no model called") as caught:
        hub.resolve(name, store=store)
    assert str(caught.value.hint).startswith(hint)
    assert caught.value.exit_code == 3


def test_the_catalogue_is_consistent() -> None:
    assert DEFAULT in CATALOG
    for name, entry in CATALOG.items():
        assert name == entry.name == entry.name.lower()
        assert "/" not in name
        for file in entry.files:
            assert len(bytes.fromhex(file.sha256 or "")) == 32
            assert file.wheels is None or sum(file.wheels.sizes) == file.size
        for spelling in (name, *entry.aliases):
            assert find(spelling) is entry


@pytest.mark.parametrize(
    "typo",
    ["qwen2.5-coder-0.5b", "qwen2.5-codr-0.5b-instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct-"],
)
def test_typos_find_the_default(typo: str) -> None:
    assert near(typo) == [DEFAULT]


def test_nonsense_finds_nothing() -> None:
    assert near("zzzz") == []


def test_the_default_checkpoint_is_the_published_file(default_checkpoint: Path) -> None:
    assert default_checkpoint.stat().st_size == CATALOG[DEFAULT].size
    assert default_checkpoint.read_bytes()[:4] == b"GGUF"
