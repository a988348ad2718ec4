"""A GGUF file cut into parts by hand, byte by byte, so that tests can get any part of it wrong.

Independent of the `gguf` package's writer, whose files other tests read.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from formats.samples import I32, U16, gguf, pair, tensor, text
from qwick.formats.gguf import read_gguf
from qwick.formats.mapped import TensorInfo


@dataclass
class Part:
    """What one file will hold: pairs of metadata, split.* by name, tensors with their bytes."""

    pairs: list[bytes]
    split: dict[str, bytes]
    tensors: list[tuple[TensorInfo, memoryview]]
    more_pairs: int = 0  # in `pairs` beyond one each
    alignment: int = 32

    def write(self, path: Path) -> None:
        table, data, at = [], [], 0
        for info, stored in self.tensors:
            padding = bytes(-len(stored) % self.alignment)
            table.append(tensor(info.name, info.shape[::-1], info.type, at))
            data += [stored, padding]
            at += len(stored) + len(padding)
        pairs = [*self.pairs, *self.split.values()]
        head = gguf(pairs, table, n_pairs=len(pairs) + self.more_pairs)
        with path.open("wb") as file:
            file.write(head + bytes(-len(head) % self.alignment if data else 0))
            file.writelines(data)

    def put(self, key: str, kind: int, payload: bytes) -> None:
        self.split[key] = pair(key, kind, payload)


@dataclass
class Cut:
    """A model in parts that is not written yet."""

    parts: list[Part]
    stem: str = "model"
    names: dict[int, str] = field(default_factory=dict)  # for those that shall not have their own

    def write(self, folder: Path) -> list[Path]:
        folder.mkdir(exist_ok=True)
        count = len(self.parts)
        paths = []
        for n, part in enumerate(self.parts, 1):
            name = self.names.get(n, f"{self.stem}-{n:05}-of-{count:05}.gguf")
            paths.append(folder / name)
            part.write(paths[-1])
        return paths


def cut(path: Path, sizes: Sequence[int]) -> Cut:
    """Cut a file into parts of so many tensors each; the metadata go into the first."""
    file = read_gguf(path)
    infos = list(file.tensors.values())
    assert sum(sizes) == len(infos)
    raw = file.data
    n_pairs = struct.unpack_from("<Q", raw, 16)[0]
    first = infos[0]
    dims = struct.pack(f"<I{len(first.shape)}Q", len(first.shape), *first.shape[::-1])
    metadata = raw[24 : raw.rfind(text(first.name) + dims, 0, file.header_bytes)]
    parts, at = [], 0
    for n, size in enumerate(sizes):
        chosen = [(i, memoryview(raw)[i.start : i.start + i.size]) for i in infos[at : at + size]]
        numbers = {
            "split.no": pair("split.no", U16, struct.pack("<H", n)),
            "split.count": pair("split.count", U16, struct.pack("<H", len(sizes))),
            "split.tensors.count": pair("split.tensors.count", I32, struct.pack("<i", len(infos))),
        }
        parts.append(Part([] if n else [metadata], numbers, chosen, 0 if n else n_pairs - 1))
        at += size
    return Cut(parts)
