"""A small checkpoint, wheels that carry it, and a listener that remembers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import qwick
from checks.hub_server import HubServer
from qwick.hub import Entry, Listener
from qwick.hub.entries import PinnedFile, Place, Wheels
from qwick.settings import child_environment

__all__ = [
    "CONTENT",
    "FILE",
    "PARTS",
    "WHEELS",
    "HubServer",
    "Recorder",
    "Spawn",
    "children",
    "entry_of",
    "make_wheel",
]

Spawn = Callable[..., "subprocess.Popen[str]"]

CONTENT = np.random.default_rng(7).bytes(5 << 20)


PARTS = (CONTENT[: 3 << 20], CONTENT[3 << 20 :])
WHEELS = Wheels(
    "qwick-test-part",
    "0.9.0",
    tuple(map(len, PARTS)),
    tuple(hashlib.sha256(part).hexdigest() for part in PARTS),
)


@contextmanager
def children() -> Iterator[Spawn]:
    """Give what starts Python with some arguments, and end at last whatever it has started."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, *arguments],
            **dict.fromkeys(("stdin", "stdout", "stderr"), pipe),
            text=True,
            env=child_environment(PYTHONPATH=str(Path(qwick.__file__).parents[1])),
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


def entry_of(content: bytes = CONTENT, **changes: object) -> Entry:
    """The entry of one file; `changes` are those of the file or of the entry."""
    fields: dict[str, object] = {
        "path": "tiny.gguf",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    of_file = {"path", "size", "sha256", "blob", "wheels"}
    fields |= {name: value for name, value in changes.items() if name in of_file}
    rest = {name: value for name, value in changes.items() if name not in of_file}
    entry: dict[str, object] = {
        "name": "tiny",
        "title": "Tiny",
        "author": "Somebody",
        "license": "Apache-2.0",
        "places": (Place("hf", "some/tiny", "main"),),
        "files": (PinnedFile(**fields),),  # type: ignore[arg-type]
        "aliases": ("some/tiny",),
    }
    return Entry(**{**entry, **rest})  # type: ignore[arg-type]


FILE = entry_of().files[0]


class Recorder(Listener):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.notices: list[str] = []

    def progress(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))

    def notice(self, text: str) -> None:
        self.notices.append(text)


def make_wheel(folder: Path, number: int, content: bytes, member: str | None = None) -> Path:
    name = f"qwick_test_part{number}"
    info = f"{name}-0.9.0.dist-info"
    path = folder / f"{name}-0.9.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(member or f"{name}/data/part{number:02d}.bin", content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.9.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path
