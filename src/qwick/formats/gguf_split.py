"""A GGUF model in several files, as llama.cpp's gguf-split cuts it: found, checked, in order.

Part n of m of NAME is the file NAME-0000n-of-0000m.gguf: a GGUF file of its own with some of the
tensors, and with split.no (n - 1), split.count (m) and split.tensors.count (of all parts together).
The model's metadata are those of part 1. Sources: llama.cpp's `tools/gguf-split/gguf-split.cpp` and
`src/llama-model-loader.cpp`. Names are taken as they are given, for in a cache of links the real
files bear other ones. Knows nothing of what metadata and tensors mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwick.errors import FormatError
from qwick.formats.gguf import MAX_TENSORS, GgufFile, Value, padded, read_gguf
from qwick.formats.mapped import damaged, exists

MAX_PARTS = (1 << 16) - 1  # split.count is a 16-bit number

_NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
_PIECE = re.compile(r"\.gguf[.-].")  # what follows says a, part1of2, split-a, ...
_JOIN = "if it is one of several pieces cut by bytes, join them in order: cat PIECE ... > NAME.gguf"
_MIXED = "these files are not parts of one model: fetch them again, all from one place"


@dataclass(frozen=True)
class PartName:
    """What a part's file name says: part `number` (from 1) of `count`."""

    stem: str
    number: int
    count: int

    def file(self, number: int) -> str:
        """Return the name of another part's file."""
        return f"{self.stem}-{number:05}-of-{self.count:05}.gguf"


def part_name(name: str) -> PartName | None:
    """Return what the name of a file says of it as a part; None for a name of another kind."""
    match = _NAME.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return None
    return PartName(match[1], int(match[2]), int(match[3]))


def part_in(folder: Path) -> Path | None:
    """Return a part of the one model in parts that `folder` holds, or None.

    None also where other GGUF or safetensors files lie beside it: then it is not clear which one is
    meant. Parts may be missing; `read_parts` says so.
    """
    if any(folder.glob("*.safetensors")):
        return None
    names = sorted(path.name for path in folder.glob("*.gguf"))
    found = [part_name(name) for name in names]
    models = {None if part is None else (part.stem, part.count) for part in found}
    return folder / names[0] if len(models) == 1 and None not in models else None


def read_parts(path: Path) -> list[GgufFile]:
    """Map and parse a GGUF file; if it is a part, all parts, in order.

    Raises as `read_gguf`, and FormatError when parts are missing or do not belong together, or when
    the name of a part does not follow the pattern.
    """
    try:
        file = read_gguf(path)
    except FormatError as error:
        if not _PIECE.search(path.name):
            raise
        raise FormatError(error.message, hint=_JOIN) from None
    # 0 is what gguf-split leaves in the file that it has joined.
    count = _number(file, "split.count", MAX_PARTS, absent=1)
    if count <= 1:
        return [file]
    number = _number(file, "split.no", count - 1) + 1
    name = part_name(path.name)
    if name is None or (name.number, name.count) != (number, count):
        raise damaged(
            path,
            f"it holds part {number} of {count}, but its name does not end in "
            f"-{number:05}-of-{count:05}.gguf",
            "give each part its name again, NAME-00001-of-00003.gguf and so on, in one folder",
        )
    paths = [path.with_name(name.file(n)) for n in range(1, count + 1)]
    _refuse_missing(path, paths)
    files = [file if n == number else read_gguf(paths[n - 1]) for n in range(1, count + 1)]
    total = _number(files[0], "split.tensors.count", MAX_TENSORS)
    for n, part in enumerate(files, 1):
        _check_numbers(part, n, count, total)
        if n > 1:
            _check_metadata(part, files[0])
            _check_alignment(part, files[0])
    _check_tensors(files, total)
    return files


def _number(file: GgufFile, key: str, most: int, *, absent: int | None = None) -> int:
    value = file.metadata.get(key, absent)
    if value is None:
        raise damaged(file.path, f"the metadata lack {key}, which each part of a model has")
    if type(value) is not int or not 0 <= value <= most:
        shown = repr(value) if isinstance(value, (int, float, str)) else "an array"
        raise damaged(file.path, f"{key} is {shown:.40}; 0 to {most} allowed")
    return value


def _refuse_missing(path: Path, paths: Sequence[Path]) -> None:
    missing = [part for part in paths if not exists(part)]
    if not missing:
        return
    names = ", ".join(part.name for part in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    raise damaged(
        path,
        f"{len(missing)} of {len(paths)} parts are missing from its folder: {names}{more}",
        f"fetch {missing[0].name} from where this part came from, into {path.absolute().parent}",
    )


def _check_numbers(part: GgufFile, number: int, count: int, total: int) -> None:
    """Compare what a part says of itself with its name and with the other parts."""
    wanted = {"split.no": number - 1, "split.count": count, "split.tensors.count": total}
    for key, value in wanted.items():
        found = _number(part, key, max(MAX_PARTS, MAX_TENSORS))
        if found != value:
            raise damaged(
                part.path, f"{key} is {found}; as part {number} of {count} it needs {value}", _MIXED
            )


def _check_metadata(part: GgufFile, first: GgufFile) -> None:
    """Parts may repeat metadata of part 1; other values, or more, are those of another model."""
    for key, value in part.metadata.items():
        if key.startswith("split.") or key == "general.alignment":
            continue
        if key not in first.metadata:
            if not key.startswith("general."):
                raise damaged(part.path, f"{key!r} stands here, and not in part 1", _MIXED)
        elif not _same(value, first.metadata[key]):
            raise damaged(part.path, f"{key!r} has another value here than in part 1", _MIXED)


def _same(one: Value, other: Value) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _check_alignment(part: GgufFile, first: GgufFile) -> None:
    """Refuse a part whose data may begin at either of two places.

    A part that does not state its alignment has 32, says llama.cpp. The `gguf` package's writer
    states one in part 1 alone and applies it to all. Only the length of the file can tell.
    """
    if "general.alignment" in part.metadata:
        return
    shift = padded(part.header_bytes, first.alignment) - padded(part.header_bytes, part.alignment)
    end = max((info.start + info.size for info in part.tensors.values()), default=0)
    if shift and end and end + shift <= len(part.data):
        raise damaged(
            part.path,
            f"general.alignment is {first.alignment} in part 1 and not stated here, so it is not "
            "clear where the tensors begin",
            "take another conversion of this model",
        )


def _check_tensors(files: Sequence[GgufFile], total: int) -> None:
    where: dict[str, str] = {}
    for file in files:
        for name in file.tensors:
            if name in where:
                raise damaged(
                    file.path, f"the tensor {name!r} is here and in {where[name]} too", _MIXED
                )
            where[name] = file.path.name
    if len(where) != total:
        raise damaged(
            files[0].path,
            f"the {len(files)} parts hold {len(where)} tensors; split.tensors.count is {total}",
            _MIXED,
        )
