"""Files that are there and cannot be read: each reason is told as it is, by its own error."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from formats.parts import cut
from formats.samples import CONFIG, arrays
from qwick.errors import FormatError, ModelNotFoundError, QwickError, ResourceError, UsageError
from qwick.formats.hf_folder import SINGLE
from qwick.formats.mapped import unreadable
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_folder

NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everyone may enter (pytest's own is for its user alone)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)
    shutil.rmtree(folder)


@contextmanager
def without_rights() -> Iterator[None]:
    """Rights are no obstacle to root: be nobody for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def limited(what: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def refused(path: Path, under: AbstractContextManager[None]) -> QwickError:
    with under:
        try:
            open_checkpoint(path)
        except QwickError as error:
            return error
    raise AssertionError("it was read")


def test_a_file_that_may_not_be_read(place: Path, honest: Path) -> None:
    path = place / "model.gguf"
    shutil.copy(honest, path)
    path.chmod(0)
    error = refused(path, without_rights())
    assert type(error) is UsageError
    assert error.message == f"{path}: it may not be read: Permission denied"
    assert "give this user the right" in (error.hint or "")


def test_a_file_in_a_folder_that_may_not_be_entered(place: Path, honest: Path) -> None:
    inner = place / "closed"
    inner.mkdir()
    shutil.copy(honest, inner / "model.gguf")
    write_folder(inner / "folder", CONFIG, arrays())
    inner.chmod(0)
    for path in (inner / "model.gguf", inner / "folder"):
        error = refused(path, without_rights())
        assert type(error) is UsageError
        assert "may not be read: Permission denied" in error.message


def test_a_part_that_may_not_be_read(honest: Path, place: Path) -> None:
    paths = cut(honest, (3, 1, 3)).write(place / "parts")
    (place / "parts").chmod(0o755)
    paths[1].chmod(0)
    error = refused(paths[0], without_rights())
    assert type(error) is UsageError
    assert error.message == f"{paths[1]}: it may not be read: Permission denied"


@pytest.mark.parametrize("name", ["config.json", SINGLE, "tokenizer_config.json"])
def test_one_file_of_a_folder_that_may_not_be_read(place: Path, name: str) -> None:
    write_folder(place / "m", CONFIG, arrays(), files={"tokenizer_config.json": "{}"})
    for path in (place / "m").iterdir():
        path.chmod(0o644)
    (place / "m").chmod(0o755)
    with without_rights():
        open_checkpoint(place / "m").close()
    (place / "m" / name).chmod(0)
    error = refused(place / "m", without_rights())
    assert type(error) is UsageError
    assert error.message.startswith(f"{place / 'm' / name}: it may not be read")


def test_a_folder_whose_files_may_be_listed_and_not_read(place: Path) -> None:
    write_folder(place / "m", CONFIG, arrays())
    (place / "m").chmod(0o444)
    error = refused(place / "m", without_rights())
    assert type(error) is UsageError, "it has a config.json, and nobody may say otherwise"


@pytest.mark.parametrize("name", ["config.json", SINGLE, "generation_config.json"])
def test_a_folder_where_a_file_should_be(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, CONFIG, arrays())
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(FormatError, match=rf"{name}: a folder stands where a file should be"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("none.gguf", ""),
        ("file/model.gguf", "Not a directory"),
        ("loop", "symbolic links"),
        ("x" * 300, "File name too long"),
        ("a\0b", "null"),
    ],
)
def test_nothing_there(tmp_path: Path, name: str, detail: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ModelNotFoundError, match=rf"no such file or folder.*{detail}"):
        open_checkpoint(tmp_path / name)


def test_no_memory_to_map_the_file(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: no bytes on the disk
    error = refused(path, limited(resource.RLIMIT_AS, 1 << 39))
    assert type(error) is ResourceError
    assert error.message == f"{path}: the system cannot read it: Cannot allocate memory"
    assert "memory" in (error.hint or "")


def test_no_file_left_to_open(honest: Path) -> None:
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    error = refused(honest, limited(resource.RLIMIT_NOFILE, number))
    assert type(error) is ResourceError
    assert error.message == f"{honest}: the system cannot read it: Too many open files"
    assert "ulimit -n" in (error.hint or "")


def test_a_disk_that_fails() -> None:
    """No disk fails on demand: what the system would say, told as it is."""
    error = unreadable(Path("m.gguf"), OSError(errno.EIO, os.strerror(errno.EIO)))
    assert type(error) is ResourceError
    assert str(error) == (
        "m.gguf: the system cannot read it: Input/output error "
        "(check the disk, or copy the file elsewhere)"
    )


def test_a_shards_name_that_no_disk_can_bear(tmp_path: Path) -> None:
    write_folder(tmp_path, CONFIG, arrays(), shards=2)
    index = tmp_path / "model.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace("model-00001-of-00002", "m" * 300))
    with pytest.raises(FormatError, match="is missing"):
        open_checkpoint(tmp_path)
