"""GGUF models in several parts: found by any of them, read as one, refused when they do not fit."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import gguf as reference
import numpy as np
import pytest

from formats.parts import Cut, cut
from formats.samples import (
    ARRAY,
    CONFIG,
    STRING,
    TOKENIZER,
    U16,
    U32,
    U64,
    arrays,
    pair,
    strings,
    text,
)
from qwick.errors import ConfigError, FormatError, ParameterError
from qwick.formats.gguf import read_gguf
from qwick.formats.gguf_split import PartName, part_in, part_name
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_folder, write_gguf
from qwick.quant.types import StoredType

SIZES = (3, 1, 3)


def same(path: Path, whole: Path) -> None:
    """What is opened by `path` is what `whole` holds, byte for byte."""
    with open_checkpoint(path) as found, open_checkpoint(whole) as wanted:
        assert found.config == wanted.config
        assert found.tokenizer == wanted.tokenizer
        assert (found.chat_template, found.license) == (wanted.chat_template, wanted.license)
        assert set(found.tensors) == set(wanted.tensors)
        for name, tensor in wanted.tensors.items():
            ours = found.tensors[name]
            assert (ours.name, ours.type, ours.shape) == (name, tensor.type, tensor.shape)
            assert ours.mapped
            assert not ours.data.flags.writeable
            np.testing.assert_array_equal(ours.data, tensor.data)


# -- found and read --------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [SIZES, (0, 7), (0, 3, 0, 4), (1,) * 7], ids=str)
def test_any_part_opens_the_whole(honest: Path, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """A first part without tensors is what gguf-split --no-tensor-first-split writes."""
    paths = cut(honest, sizes).write(tmp_path)
    for path in (*paths, tmp_path):
        same(path, honest)
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.files == tuple(paths)
            assert checkpoint.size_bytes == sum(p.stat().st_size for p in paths)
            assert checkpoint.name == "Honest"


def test_what_the_gguf_package_writes(honest: Path, tmp_path: Path) -> None:
    types = {"model.layers.0.mlp.down_proj.weight": StoredType.Q8_0}
    given = {
        "tokenizer": TOKENIZER,
        "chat_template": "{{ messages }}",
        "metadata": {"general.license": "apache-2.0"},
    }
    by_count = write_gguf(tmp_path / "n.gguf", CONFIG, arrays(), types, part_tensors=3, **given)  # type: ignore[arg-type]
    by_bytes = write_gguf(tmp_path / "b.gguf", CONFIG, arrays(), types, part_bytes=1500, **given)  # type: ignore[arg-type]
    assert [p.name for p in by_count] == [f"n-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert len(by_bytes) > 3
    for paths in (by_count, by_bytes):
        theirs = [t for path in paths for t in reference.GGUFReader(path).tensors]
        assert [t.name for t in theirs] == list(read_gguf(honest).tensors)
        whole = read_gguf(honest)
        for tensor in theirs:
            info = whole.tensors[tensor.name]
            raw = whole.data[info.start : info.start + info.size]
            assert tensor.data.tobytes() == raw
        for path in paths:
            same(path, honest)
        with open_checkpoint(paths[1]) as checkpoint:
            assert checkpoint.name == paths[0].name.split("-")[0], (
                "what is left of the files' names"
            )


def test_the_writer_leaves_a_small_model_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    assert write_gguf(path, CONFIG, arrays(), part_tensors=7, part_bytes=1 << 20) == [path]
    assert open_checkpoint(path).files == (path,)
    for limit in ("part_tensors", "part_bytes"):
        with pytest.raises(ParameterError, match=rf"{limit} is -1; allowed: 0"):
            write_gguf(path, CONFIG, arrays(), **{limit: -1})  # type: ignore[arg-type]


def test_parts_that_repeat_the_metadata(honest: Path, tmp_path: Path) -> None:
    """Numbers, texts, arrays of numbers and of texts: the same again does no harm."""
    made = cut(honest, SIZES)
    made.parts[1].pairs = made.parts[0].pairs
    made.parts[1].more_pairs = made.parts[0].more_pairs
    made.parts[2].pairs = [
        pair("general.note", STRING, text("of part 3 alone")),
        pair("qwen3.embedding_length", U64, struct.pack("<Q", 32)),  # the same number, wider
    ]
    for path in made.write(tmp_path):
        same(path, honest)


def test_names_are_taken_as_given_and_not_those_of_the_files_behind_links(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of the Hugging Face hub: snapshots of links to blobs named by digests."""
    paths = cut(honest, SIZES).write(tmp_path / "snapshot")
    (tmp_path / "blobs").mkdir()
    for n, path in enumerate(paths):
        blob = path.rename(tmp_path / "blobs" / f"{n:064x}")
        path.symlink_to(Path("..") / "blobs" / blob.name)
    for path in (*paths, tmp_path / "snapshot"):
        same(path, honest)
    monkeypatch.chdir(tmp_path / "snapshot")
    same(Path(paths[2].name), honest)
    same(Path(), honest)
    (tmp_path / "link.gguf").symlink_to(paths[0])
    with pytest.raises(FormatError, match=r"part 1 of 3, but its name does not end in -00001-of-0"):
        open_checkpoint(tmp_path / "link.gguf")
    (tmp_path / "blobs" / f"{1:064x}").unlink()
    with pytest.raises(FormatError, match=r"1 of 3 parts are missing.*model-00002-of-00003\.gguf"):
        open_checkpoint(paths[0])


@pytest.mark.parametrize("count", [0, 1])
def test_a_whole_file_that_says_so(honest: Path, tmp_path: Path, count: int) -> None:
    """0 is what gguf-split --merge writes, so that nobody merges its file once more."""
    made = cut(honest, (7,))
    made.parts[0].put("split.count", U16, struct.pack("<H", count))
    made.names[1] = "any.gguf"
    (path,) = made.write(tmp_path)
    same(path, honest)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.files == (path,)
    same(path.rename(tmp_path / "any-00001-of-00001.gguf"), honest)
    same(tmp_path, honest)


def test_names_of_parts() -> None:
    found = part_name("a-00002-of-00003-00002-of-00014.gguf")
    assert found == PartName("a-00002-of-00003", 2, 14)
    assert found.file(11) == "a-00002-of-00003-00011-of-00014.gguf"
    for name in [
        "a.gguf",
        "-00001-of-00002.gguf",
        "a-0001-of-0002.gguf",
        "a-00001-of-00002.gguf.part",
        "a-00001-of-00002.GGUF",
        "a-00003-of-00002.gguf",
        "a-00000-of-00002.gguf",
        "a-٠٠٠٠١-of-00002.gguf",
        "a-00001-of-00002.gguf\n",
    ]:
        assert part_name(name) is None, name


# -- folders ---------------------------------------------------------------------------------------


def test_a_folder_that_does_not_say_which_model(honest: Path, tmp_path: Path) -> None:
    made = cut(honest, SIZES)
    first = made.write(tmp_path)[0]
    assert part_in(tmp_path) == first
    made.stem = "other"
    others = made.write(tmp_path)
    assert part_in(tmp_path) is None
    with pytest.raises(ConfigError, match=r"no config\.json .give the file: .*model-00001-of"):
        open_checkpoint(tmp_path)
    for path in others:
        path.unlink()
    shutil.copy(honest, tmp_path / "projector.gguf")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        open_checkpoint(tmp_path)
    same(first, honest)


def test_a_folder_of_safetensors_stays_one(honest: Path, tmp_path: Path) -> None:
    cut(honest, SIZES).write(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    same(tmp_path, honest)
    write_folder(tmp_path, CONFIG, arrays())
    assert open_checkpoint(tmp_path).format == "safetensors"


def test_a_folder_of_some_parts(honest: Path, tmp_path: Path) -> None:
    paths = cut(honest, SIZES).write(tmp_path)
    paths[0].unlink()
    with pytest.raises(FormatError, match=r"1 of 3 parts are missing .*model-00001-of-00003"):
        open_checkpoint(tmp_path)


# -- parts that do not fit -------------------------------------------------------------------------


def number(
    key: str, part: int, value: int, kind: int = U16, form: str = "<H"
) -> Callable[..., None]:
    return lambda made: made.parts[part].put(key, kind, struct.pack(form, value))


def without(key: str, part: int) -> Callable[..., None]:
    return lambda made: made.parts[part].split.pop(key)


def says(part: int, key: str, kind: int, payload: bytes) -> Callable[..., None]:
    return lambda made: made.parts[part].pairs.append(pair(key, kind, payload))


def twice(made: Cut) -> None:
    made.parts[2].tensors.append(made.parts[0].tensors[0])


def lost(made: Cut) -> None:
    del made.parts[1].tensors[0]


def swapped(made: Cut) -> None:
    made.parts[0], made.parts[1] = made.parts[1], made.parts[0]


def renamed(name: str) -> Callable[..., None]:
    return lambda made: made.names.update({1: name})


ONE, TWO, THREE = (f"model-0000{n}-of-00003.gguf" for n in (1, 2, 3))
# change, the part that is opened, the file that the error names, what it says
FAULTS: dict[str, tuple[Callable[[Cut], object], int, str, str]] = {
    "count too large": (
        number("split.count", 0, 2**63, U64, "<Q"),
        0,
        ONE,
        r"is 92233\d+; 0 to 65535",
    ),
    "count negative": (number("split.count", 0, -1, 11, "<q"), 0, ONE, r"split.count is -1; 0 to"),
    "count a text": (
        lambda made: made.parts[0].put("split.count", STRING, text("3")),
        0,
        ONE,
        r"split.count is '3'; 0 to 65535 allowed",
    ),
    "count an array": (
        lambda made: made.parts[0].put("split.count", ARRAY, strings(["3"])),
        0,
        ONE,
        r"split.count is an array",
    ),
    "count true": (
        lambda made: made.parts[0].put("split.count", 7, b"\1"),
        0,
        ONE,
        r"split.count is True",
    ),
    "the largest count": (
        number("split.count", 0, 65535),
        0,
        ONE,
        r"part 1 of 65535, but its name does not end in -00001-of-65535\.gguf",
    ),
    "count of the part opened": (number("split.count", 1, 4), 1, TWO, r"part 2 of 4, but its name"),
    "count of another part": (
        number("split.count", 1, 4),
        0,
        TWO,
        r"split.count is 4; as part 2 of 3 it needs 3 .*fetch them again",
    ),
    "another part whole": (number("split.count", 2, 1), 0, THREE, r"split.count is 1; as part 3"),
    "no count in another": (
        without("split.count", 1),
        0,
        TWO,
        r"lack split.count, which each part",
    ),
    "no number": (without("split.no", 0), 0, ONE, r"metadata lack split.no"),
    "no number in another": (without("split.no", 2), 0, THREE, r"metadata lack split.no"),
    "no total": (without("split.tensors.count", 0), 0, ONE, r"metadata lack split.tensors.count"),
    "number beyond the count": (number("split.no", 0, 3), 0, ONE, r"split.no is 3; 0 to 2 allowed"),
    "number of the part opened": (number("split.no", 0, 1), 0, ONE, r"part 2 of 3, but its name"),
    "number of another part": (
        number("split.no", 2, 1),
        0,
        THREE,
        r"split.no is 1; as part 3 of 3",
    ),
    "parts swapped": (swapped, 2, ONE, r"split.no is 1; as part 1 of 3 it needs 0"),
    "parts swapped, opened": (swapped, 0, ONE, r"it holds part 2 of 3, but its name"),
    "total": (number("split.tensors.count", 0, 8), 1, TWO, r"tensors.count is 7; .* it needs 8"),
    "total too large": (
        number("split.tensors.count", 0, 2**31, U32, "<I"),
        0,
        ONE,
        r"split.tensors.count is 2147483648; 0 to 65536 allowed",
    ),
    "a tensor lost": (lost, 0, ONE, r"3 parts hold 6 tensors; split.tensors.count is 7"),
    "a tensor twice": (twice, 0, THREE, rf"'token_embd.weight' is here and in {ONE} too"),
    "another architecture": (
        says(1, "general.architecture", STRING, text("qwen2")),
        0,
        TWO,
        r"'general.architecture' has another value here than in part 1",
    ),
    "another name": (
        says(2, "general.name", STRING, text("Other")),
        0,
        THREE,
        r"'general.name' has another value",
    ),
    "another size": (
        says(1, "qwen3.embedding_length", U32, struct.pack("<I", 64)),
        2,
        TWO,
        r"'qwen3.embedding_length' has another value",
    ),
    "another vocabulary": (
        says(1, "tokenizer.ggml.tokens", ARRAY, strings(["a"] * 7)),
        0,
        TWO,
        r"'tokenizer.ggml.tokens' has another value",
    ),
    "other token types": (
        says(1, "tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ7i", 5, 7, *[1] * 7)),
        0,
        TWO,
        r"'tokenizer.ggml.token_type' has another value",
    ),
    "more metadata": (
        says(1, "qwen3.rope.scaling.type", STRING, text("yarn")),
        0,
        TWO,
        r"'qwen3.rope.scaling.type' stands here, and not in part 1",
    ),
    "no pattern": (renamed("model.gguf"), 0, "model.gguf", r"part 1 of 3, but its name does not"),
    "another pattern": (renamed("model-1-of-3.gguf"), 0, "model-1-of-3.gguf", r"-00001-of-00003"),
    "another count in the name": (
        renamed("model-00001-of-00004.gguf"),
        0,
        "model-00001-of-00004.gguf",
        r"part 1 of 3, but its name does not end in -00001-of-00003.gguf .give each part its name",
    ),
    "another stem": (
        renamed("other-00001-of-00003.gguf"),
        1,
        TWO,
        rf"1 of 3 parts are missing from its folder: {ONE} .fetch {ONE} from where",
    ),
    "another stem, opened": (
        renamed("other-00001-of-00003.gguf"),
        0,
        "other-00001-of-00003.gguf",
        r"2 of 3 parts are missing from its folder: other-00002.*, other-00003-of-00003\.gguf",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_parts_that_do_not_fit(honest: Path, tmp_path: Path, case: str) -> None:
    change, opened, named, message = FAULTS[case]
    made = cut(honest, SIZES)
    change(made)
    paths = made.write(tmp_path)
    with pytest.raises(FormatError, match=message) as caught:
        open_checkpoint(paths[opened])
    assert caught.value.message.startswith(f"{tmp_path / named}: ")
    assert caught.value.hint


def test_parts_that_are_missing(honest: Path, tmp_path: Path) -> None:
    paths = cut(honest, (1,) * 7).write(tmp_path)
    for path in (paths[1], paths[2], paths[4], paths[6]):
        path.unlink()
    with pytest.raises(FormatError) as caught:
        open_checkpoint(paths[5])
    names = ", ".join(f"model-0000{n}-of-00007.gguf" for n in (2, 3, 5))
    assert caught.value.message == (
        f"{paths[5]}: 4 of 7 parts are missing from its folder: {names} and 1 more"
    )
    assert caught.value.hint == (
        f"fetch model-00002-of-00007.gguf from where this part came from, into {tmp_path}"
    )


def test_as_many_parts_as_a_number_can_say(honest: Path, tmp_path: Path) -> None:
    made = cut(honest, SIZES)
    number("split.count", 0, 65535)(made)
    made.names[1] = "m-00001-of-65535.gguf"
    path = made.write(tmp_path)[0]
    with pytest.raises(FormatError, match=r"65534 of 65535 parts are missing .* and 65531 more"):
        open_checkpoint(path)
