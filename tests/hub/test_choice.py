"""Which files of a list make a checkpoint, and what of a hub's list is believed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.repositories import COMMIT
from hub.support import entry_of
from qwick.errors import ModelNotFoundError, UnsupportedError
from qwick.hub import PinnedFile, Place, read_catalog
from qwick.hub.choice import Choice, choose
from qwick.hub.entries import MOST_FILES
from qwick.hub.listings import MOST_FILES as MOST_FILES_LISTED
from qwick.hub.listings import MOST_SIZE, files_of
from qwick.hub.manifest import NAME, read_manifest, write_manifest
from qwick.hub.names import parse, want
from qwick.hub.sources import Listing, SourceError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
REST = ("config.json", "merges.txt")


def chosen(paths: Iterable[str], name: str = "some/thing") -> Choice:
    """Return what is chosen of a repository of these files."""
    files = tuple(PinnedFile(path, 1, "0" * 64) for path in paths)
    return choose(Listing("hf", "some/thing", COMMIT, None, files), want(name, read_catalog()))


@pytest.mark.parametrize("name", ["some/thing", "some/thing:safetensors"])
@pytest.mark.parametrize("part", [FIRST, SECOND])
@pytest.mark.parametrize("others", [(), (INDEX,), ("model-00002-of-00003.safetensors",)])
def test_weights_of_which_a_part_is_missing_are_no_checkpoint(
    name: str, part: str, others: tuple[str, ...]
) -> None:
    with pytest.raises(ModelNotFoundError, match="has 1 of the 2 parts of its weights") as caught:
        chosen([*REST, part, *others], name)
    assert "another revision" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("listed", "taken"),
    [
        ((SINGLE,), (SINGLE,)),
        ((SINGLE, INDEX), (SINGLE, INDEX)),  # which may name the one file
        ((FIRST, SECOND), (FIRST, SECOND)),
        ((FIRST, SECOND, INDEX), (FIRST, SECOND, INDEX)),
        ((FIRST, SECOND, SINGLE, INDEX), (FIRST, SECOND, INDEX)),
        ((FIRST, SECOND, SINGLE), (SINGLE,)),
        ((FIRST, SINGLE, INDEX), (SINGLE,)),
        (("model-00001-of-00003.safetensors", FIRST, SECOND), (FIRST, SECOND)),
        (("model.safetensors-00001-of-00001.safetensors",),) * 2,
    ],
)
def test_of_all_weights_one_whole_set_is_taken(
    listed: tuple[str, ...], taken: tuple[str, ...]
) -> None:
    choice = chosen([*listed, *REST])
    assert {file.path for file in choice.files} == {*taken, *REST}
    assert set(choice.left_out) == set(listed) - set(taken)


@pytest.mark.parametrize("pick", ["bf16", "BF16", "Safetensors", "SAFETENSORS"])
def test_a_folder_is_meant_in_whatever_case(pick: str) -> None:
    choice = chosen([SINGLE, *REST, "thing-Q8_0.gguf"], f"Foo/Folder:{pick}")
    assert {file.path for file in choice.files} == {SINGLE, *REST}


def test_a_list_of_parts_without_end_takes_no_time() -> None:
    numbers = range(20_000)
    paths = [f"{n}-00001-of-{99_999 - n:05d}.gguf" for n in numbers]
    paths += [f"model-00001-of-{99_999 - n:05d}.safetensors" for n in numbers]
    before = time.process_time()
    with pytest.raises(ModelNotFoundError, match=r"has 1 of the .* parts"):
        chosen(paths)
    assert time.process_time() - before < 5.0  # 0.3 s; to count up to each number, 30 s


def test_what_is_chosen_can_be_written_down_and_read(tmp_path: Path) -> None:
    paths = [f"{'x' * 180}-{n:05d}-of-{MOST_FILES:05d}.gguf" for n in range(1, MOST_FILES + 1)]
    files = tuple(replace(file, size=MOST_SIZE) for file in chosen(paths).files)
    entry = entry_of(name="some/thing", title="\U0001f600" * 300, files=files)
    path = tmp_path / entry.folder / NAME
    path.parent.mkdir()
    write_manifest(path, entry)
    found = read_manifest(path)
    assert found is not None
    assert found.files == files
    assert len(found.files) == MOST_FILES
    assert len(found.files[0].path) == 200


def test_more_files_than_can_be_written_down_are_refused(tmp_path: Path) -> None:
    count = MOST_FILES + 1
    paths = [f"x-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)]
    with pytest.raises(UnsupportedError, match=r"4,001 files of some/thing; .* at most 4,000"):
        chosen(paths)
    files = tuple(PinnedFile(path, 1, "0" * 64) for path in paths)
    entry = entry_of(name="some/thing", files=files)
    path = tmp_path / entry.folder / NAME
    path.parent.mkdir()
    write_manifest(path, entry)
    assert read_manifest(path) is None  # rather than some of them


@pytest.mark.parametrize(
    ("repository", "revision", "good"),
    [
        ("a/b", "v+1", True),
        ("A.b-c_d/e", "refs/pr/1", True),
        ("a/..", "main", False),
        ("../b", "main", False),
        ("é/b", "main", False),
        ("a/b/c", "main", False),
        ("a/b", "../main", False),
        ("a/b", "é", False),
        ("a/b", "a//b", False),
    ],
)
def test_a_manifest_names_what_a_reference_can(
    repository: str, revision: str, good: bool, tmp_path: Path
) -> None:
    entry = entry_of(name="some/thing", places=(Place("ms", repository, revision),), aliases=())
    path = tmp_path / entry.folder / NAME
    path.parent.mkdir()
    write_manifest(path, entry)
    assert read_manifest(path) == (entry if good else None)
    assert (parse(f"ms:{repository}@{revision}") is not None) == good


# -- the lists -------------------------------------------------------------------------------------


def read(item: dict[str, Any]) -> PinnedFile:
    return PinnedFile(item["path"], item["size"], item["digest"] * 64)


def test_a_file_that_is_listed_twice_counts_once() -> None:
    a, b = ({"path": path, "size": 1, "digest": "0"} for path in "ab")
    assert files_of([a, b, dict(a), b], read) == (read(a), read(b))


@pytest.mark.parametrize("change", [{"size": 2}, {"digest": "1"}])
def test_a_list_that_says_two_things_of_one_file_is_refused(change: dict[str, object]) -> None:
    item = {"path": "a", "size": 1, "digest": "0"}
    with pytest.raises(SourceError, match="it lists a twice"):
        files_of([item, {**item, "path": "b"}, {**item, **change}], read)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([None] * (MOST_FILES_LISTED + 1), "it lists more than 100,000 files"),
        ({}, "it sends no list of files"),
        (None, "it sends no list of files"),
    ],
    ids=["too long", "an object", "nothing"],
)
def test_what_is_no_list_of_files(items: object, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        files_of(items, read)
    assert files_of([None] * MOST_FILES_LISTED, read) == ()
