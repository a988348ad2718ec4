"""Which files of a repository make the checkpoint that is wanted.

A GGUF file, or all parts of one; or the files of a folder that qwick reads, by an explicit list:
never pickles, never code. Knows nothing about networks or what is inside the files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qwick.errors import DigestError, ModelNotFoundError, UnsupportedError
from qwick.hub.entries import MOST_FILES, PinnedFile, shortened
from qwick.hub.names import WHOLE_FOLDER, Wanted, bits_of
from qwick.hub.sources import Listing

__all__ = ["Choice", "choose"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Of a Hugging Face folder: config, tokenizer, template, and the weights with their index.
FOLDER = frozenset(
    (
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
        *("qwen.tiktoken", "chat_template.jinja", "chat_template.json", "1_Pooling/config.json"),
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
        *("quantize_config.json", INDEX, "LICENSE"),
    )
)
PARTS = re.compile(r"(model(?:\.safetensors)?)-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
MOST_NAMED = 6  # files that are named as left out

_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE)
_LABEL = re.compile(r"[.-]((?:UD-)?(?:I?Q|TQ)\d\w*|MXFP4\w*|BF16|FP?16|FP?32)\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of a checkpoint, and what of the repository was left out."""

    files: tuple[PinnedFile, ...]
    left_out: tuple[str, ...]  # only where a folder is taken; nobody expects all GGUF files


def choose(listing: Listing, wanted: Wanted) -> Choice:
    """Return the files that are wanted of those that a hub lists.

    Raises ModelNotFoundError when they are not among them, with what is, DigestError when the hub's
    word differs from the catalog's, and UnsupportedError when they are too many.
    """
    if wanted.files:
        return Choice(_as_known(listing, wanted), ())
    choice = _chosen(listing, wanted)
    if len(choice.files) > MOST_FILES:
        raise UnsupportedError(
            f"{wanted.name} would be {len(choice.files):,} files of {listing.repository}; qwick "
            f"stores at most {MOST_FILES:,} of one checkpoint",
            hint="take another format or repository of this model",
        )
    return choice


def _chosen(listing: Listing, wanted: Wanted) -> Choice:
    packed = _packed(listing.files)
    pick = wanted.pick
    if wanted.container in (None, "gguf"):
        if pick is not None:
            named = [path for path in packed if pick in (path, path.rpartition("/")[2])]
            labelled = [path for path in packed if _label(path) == pick.lower()]
            if named or labelled:
                return Choice(packed[min(named or labelled, key=len)], ())
        elif packed:
            return Choice(packed[_suits_most(packed)], ())
    folder = pick is None or pick.lower() in WHOLE_FOLDER
    if wanted.container != "gguf" and (wanted.container or folder):
        listed = {file.path for file in listing.files}
        weights = _weights(listed)
        if weights and "config.json" in listed:
            chosen = weights | FOLDER
            if weights == {SINGLE} and any(map(PARTS.fullmatch, listed)):
                chosen -= {INDEX}  # it is of the parts, of which some are missing
            files = tuple(file for file in listing.files if file.path in chosen)
            return Choice(files, tuple(f.path for f in listing.files if f.path not in chosen))
    raise _not_there(listing, wanted, packed)


def _weights(listed: Collection[str]) -> frozenset[str]:
    """Return the paths of one whole set of safetensors weights; empty where none is listed.

    Where there are several, the one that the reader of a folder opens: the parts if there is an
    index, else the single file.
    """
    sets = _sets(listed)
    whole = [paths for (_, count), paths in sets.items() if _is_whole(paths, count)]
    if whole and (INDEX in listed or SINGLE not in listed):
        return frozenset(whole[0].values())
    return frozenset((SINGLE,)) if SINGLE in listed else frozenset()


def _sets(listed: Collection[str]) -> dict[tuple[str, int], dict[int, str]]:
    """Return the weights in parts: by their name and how many they are, each by its number."""
    sets: dict[tuple[str, int], dict[int, str]] = {}
    for path in sorted(listed):
        found = PARTS.fullmatch(path)
        if found is not None:
            sets.setdefault((found[1], int(found[3])), {})[int(found[2])] = path
    return sets


def _is_whole(numbers: Collection[int], count: int) -> bool:
    """Whether they are the numbers 1 to `count`, each once."""
    return len(numbers) == count and min(numbers) == 1 and max(numbers) == count


def _packed(files: Sequence[PinnedFile]) -> dict[str, tuple[PinnedFile, ...]]:
    """Return the GGUF models that are whole, each by the path of its first file."""
    whole: dict[str, tuple[PinnedFile, ...]] = {}
    parts: dict[tuple[str, int], dict[int, PinnedFile]] = {}
    for file in files:
        name = file.path.rpartition("/")[2].lower()
        if not name.endswith(".gguf") or "mmproj" in name:  # the part that sees images
            continue
        split = _PART.fullmatch(file.path)
        if split is None:
            whole[file.path] = (file,)
        else:
            parts.setdefault((split[1], int(split[3])), {})[int(split[2])] = file
    for (_, count), found in parts.items():
        if _is_whole(found, count):
            whole[found[1].path] = tuple(found[number] for number in sorted(found))
    return whole


def _label(path: str) -> str:
    """Return how the weights of a GGUF file are stored, by its name; "" if that does not say."""
    split = _PART.fullmatch(path)
    found = _LABEL.search(f"{split[1]}.gguf" if split else path)
    return found[1].lower() if found else ""


def _suits_most(packed: dict[str, tuple[PinnedFile, ...]]) -> str:
    """Return q4_k_m, else the smallest of at least 4 bits a weight, else the largest of all."""

    def rank(path: str) -> tuple[bool, bool, int]:
        size = sum(file.size for file in packed[path])
        enough = bits_of(_label(path)) >= 4
        return _label(path) != "q4_k_m", not enough, size if enough else -size

    return min(packed, key=rank)


def _as_known(listing: Listing, wanted: Wanted) -> tuple[PinnedFile, ...]:
    """Return the files that the catalog knows, as the hub has them; DigestError if it differs."""
    listed = {file.path: file for file in listing.files}
    found = []
    for known in wanted.files:
        file = listed.get(known.path)
        if file is None:
            raise ModelNotFoundError(
                f"{listing.repository} has no file {known.path} any more",
                hint=f"see {listing.repository} on the hub, and name a file of it",
            )
        if known.size not in (None, file.size) or known.sha256 not in (None, file.sha256):
            raise DigestError(
                f"the hub has {file.path} with {file.size:,} bytes and the {file.kind} "
                f"{file.digest}, the catalog with {known.size or file.size:,} and {known.sha256}",
                hint=f"if it was published anew, say so: {wanted.base}@{listing.revision}:"
                f"{wanted.pick}",
            )
        found.append(file)
    return tuple(found)


def _not_there(
    listing: Listing, wanted: Wanted, packed: dict[str, tuple[PinnedFile, ...]]
) -> ModelNotFoundError:
    formats = sorted({_label(path) or path for path in packed})
    listed = {file.path for file in listing.files}
    if _weights(listed):
        formats.append("safetensors")
    sets = {} if formats else _sets(listed)
    if sets:
        (_, count), found = max(sets.items(), key=lambda item: len(item[1]))
        return ModelNotFoundError(
            f"{listing.repository} has {len(found):,} of the {count:,} parts of its weights at "
            f"{listing.revision}",
            hint="take another revision or repository, or ask its publisher for the rest",
        )
    what = f"no {shortened(wanted.pick)}" if wanted.pick else "nothing that qwick reads"
    known = ", ".join(formats[:20]) or "neither whole GGUF files nor a safetensors folder"
    return ModelNotFoundError(
        f"{listing.repository} has {what} at {listing.revision}", hint=f"it has: {known}"
    )
