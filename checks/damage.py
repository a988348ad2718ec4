"""Ways to damage a file: a GGUF file's pieces, JSON, bytes, and the files of a folder.

Everything follows from the random numbers given. Knows nothing of checkpoints or of who reads them.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from formats.samples import gguf, pair, tensor, text

Files = dict[str, bytes | None]  # by name; None: a folder; b"-> NAME": a link


NUMBERS = (0, 1, 2, 3, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53)
NUMBERS += (2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)
BAD_TEXT = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\0", b"", b"../x", b"{{")
FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "B",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9


# -- GGUF taken apart ------------------------------------------------------------------------------

Pair = tuple[bytes, int, bytes]  # key, type, payload
Entry = tuple[bytes, tuple[int, ...], int, int]  # name, dimensions, type, offset


@dataclass
class Parts:
    """A GGUF file in pieces, each of which can be damaged by itself."""

    pairs: list[Pair]
    tensors: list[Entry]
    data: bytes

    @classmethod
    def of(cls, raw: bytes) -> Parts:
        """Take a sound file apart."""
        at = 24

        def number(layout: str) -> Any:
            nonlocal at
            value = struct.unpack_from("<" + layout, raw, at)[0]
            at += struct.calcsize("<" + layout)
            return value

        def string() -> bytes:
            nonlocal at
            size = number("Q")
            at += size
            return raw[at - size : at]

        def step(kind: int) -> None:
            if kind == STRING:
                string()
            elif kind == ARRAY:
                item = number("I")
                for _ in range(number("Q")):
                    step(item)
            else:
                number(FORMATS[kind])

        n_tensors, n_pairs = struct.unpack_from("<QQ", raw, 8)
        pairs: list[Pair] = []
        for _ in range(n_pairs):
            key, kind = string(), number("I")
            start = at
            step(kind)
            pairs.append((key, kind, raw[start:at]))
        tensors: list[Entry] = []
        for _ in range(n_tensors):
            name = string()
            dims = tuple(number("Q") for _ in range(number("I")))
            tensors.append((name, dims, number("I"), number("Q")))
        return cls(pairs, tensors, raw[-(-at // 32) * 32 :])

    def bytes(self, rng: random.Random | None) -> bytes:
        """Return the file; with an `rng`, now and then with wrong counts."""
        pairs = [pair(*item) for item in self.pairs]
        table = []
        for name, dims, kind, offset in self.tensors:
            entry = tensor("", dims, kind, offset)
            table.append(text(name) + entry[8:])
        counts = [
            rng.choice([len(of) + 1, *NUMBERS]) if rng and rng.random() < 0.03 else len(of)
            for of in (pairs, table)
        ]
        return gguf(pairs, table, self.data, n_pairs=counts[0], n_tensors=counts[1])


def some_value(rng: random.Random, depth: int = 0) -> tuple[int, bytes]:
    """Return a GGUF value of any type, mostly absurd."""
    kind = rng.choice([*FORMATS, STRING, ARRAY, rng.choice([13, 99, 2**32 - 1])])
    if kind == STRING:
        return kind, text(rng.choice([*BAD_TEXT, b"x" * rng.choice([1, 300, 5000])]))
    if kind == ARRAY:
        count = rng.choice([0, 1, 2, rng.randrange(2000), rng.choice(NUMBERS)])
        item, payload = some_value(rng, depth + 1) if depth < 8 else (0, b"")
        return kind, struct.pack("<IQ", item, count) + payload * min(
            count, 2000 if depth < 2 else 1
        )
    if kind in (6, 12):
        value = rng.choice([0.0, -1e-6, 1e30, float("nan"), float("inf"), 1e-45])
        return kind, struct.pack("<" + FORMATS[kind], value)
    size = struct.calcsize(FORMATS.get(kind, "Q"))
    return kind, rng.choice(NUMBERS).to_bytes(8, "little")[:size]


def damage_gguf(parts: Parts, rng: random.Random) -> None:
    """Change a pair or an entry of the table into something that may not stand there."""
    pairs, tensors = parts.pairs, parts.tensors
    what = rng.randrange(8)
    if what < 3 and pairs:
        at = rng.randrange(len(pairs))
        pairs[at] = (pairs[at][0], *some_value(rng))
    elif what == 3 and pairs:
        key, kind, payload = rng.choice(pairs)
        if kind in FORMATS:  # the same type, another number
            size = len(payload)
            payload = rng.choice(NUMBERS).to_bytes(8, "little")[:size].ljust(size, b"\0")
            pairs[:] = [(k, t, payload if k == key else p) for k, t, p in pairs]
    elif what == 4 and pairs:
        at, to = rng.randrange(len(pairs)), rng.randrange(len(pairs))
        change = rng.randrange(4)
        if change == 0:
            del pairs[at]
        elif change == 1:
            pairs.insert(to, pairs[at])
        elif change == 2:
            pairs[at] = (pairs[to][0], *pairs[at][1:])
        else:
            pairs[at] = (pairs[at][0] + rng.choice(BAD_TEXT), *pairs[at][1:])
    elif tensors:
        at = rng.randrange(len(tensors))
        name, dims, kind, offset = tensors[at]
        change = rng.randrange(6)
        if change == 0:
            dims = tuple(rng.choice([d, rng.choice(NUMBERS)]) for d in dims) * rng.choice([1, 1, 3])
        elif change == 1:
            kind = rng.choice([*range(40), 2**32 - 1])
        elif change == 2:
            offset = rng.choice([*NUMBERS, offset + 32, rng.choice(tensors)[3], offset // 2])
        elif change == 3:
            name = rng.choice([*BAD_TEXT, rng.choice(tensors)[0], name + b"\xff", b"blk.99999.x"])
        elif change == 4:
            dims = dims[::-1]
        tensors[at] = (name, dims, kind, offset)
        if change == 5:
            del tensors[at]


# -- JSON ------------------------------------------------------------------------------------------

DEEP = "@deep@"
ABSURD: tuple[Any, ...] = (
    *(0, 1, -1, 2, 17, 2**31, 2**32 - 1, 2**53, 2**63, -(2**63), 2**64, 10**400, 1.5, -1e-6, 1e308),
    *(float("nan"), float("inf"), None, True, False, "", "x", "qwen3", "\ud800", "\0", "../x"),
    *([], {}, [[]], [{}], {"a": None}, "a" * 5000, [0] * 3000, DEEP, DEEP),
    *("model.safetensors.index.json", "model-00001-of-00002.safetensors", "config.json", "BF16"),
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of everything inside."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def damage_json(raw: bytes, rng: random.Random) -> bytes:
    """Put absurd values, doubled keys and depth into a JSON text."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    top = [(value, key) for key in value] if isinstance(value, dict) else []
    places = list(_places(value))
    if not places:
        return raw
    # What stands at the top is few and matters; a vocabulary is long.
    within, key = rng.choice(top if top and rng.random() < 0.4 else places)
    what = rng.randrange(6)
    if what == 0:
        del within[key]
    elif what == 1 and isinstance(within, dict):
        within[rng.choice([key + "x", *map(str, NUMBERS), "", "\ud800"])] = within[key]
    elif what == 2:
        other, there = rng.choice(places)
        within[key] = json.loads(json.dumps(other.get(there) if isinstance(other, dict) else 0))
    elif what == 3 and type(within[key]) is int:
        within[key] = rng.choice([within[key] + 1, within[key] - 1, -within[key], *NUMBERS])
    else:
        within[key] = rng.choice(ABSURD)
    deep = rng.choice([10, 100, 500, 900, 960, 980, 990, 1000, 5000, 100_000])
    opened, closed = rng.choice([("[", "]"), ('{"a":', "}")])
    nested = opened * deep + "1" + closed * deep
    try:
        out = json.dumps(value, ensure_ascii=rng.random() < 0.5).replace(f'"{DEEP}"', nested)
    except RecursionError:  # it is deep already
        return raw
    if rng.random() < 0.1 and out.startswith('{"'):
        out = out.replace("{", '{"hidden_size": 1, ', rng.choice([1, 2]))  # perhaps a second time
    return out.encode("utf-8", "surrogatepass")


def damage_safetensors(raw: bytes, rng: random.Random) -> bytes:
    """Damage the header, and state its length right, so that the damage is met."""
    length = int.from_bytes(raw[:8], "little")
    header = damage_json(raw[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]


# -- bytes and folders -----------------------------------------------------------------------------


def damage_bytes(raw: bytes, rng: random.Random, header: int) -> bytes:
    """Flip, overwrite, cut, repeat: mostly in the first `header` bytes."""
    if not raw:
        return b"\0"
    out = bytearray(raw)
    at = rng.randrange(min(len(raw), header))
    what = rng.randrange(7)
    if what == 0:
        for _ in range(rng.randrange(1, 4)):
            out[rng.randrange(min(len(raw), header))] ^= 1 << rng.randrange(8)
    elif what == 1:
        size = rng.choice([1, 2, 4, 8])
        out[at : at + size] = rng.choice(NUMBERS).to_bytes(8, "little")[:size]
    elif what == 2:
        del out[rng.choice([at, len(raw) - 1, rng.randrange(len(raw))]) :]
    elif what == 3:
        del out[at : at + rng.randrange(1, 64)]
    elif what == 4:
        out[at:at] = rng.choice(BAD_TEXT) * rng.choice([1, 1, 100])
    elif what == 5:
        size = rng.randrange(1, 64)
        to = rng.randrange(min(len(raw), header))
        out[at:at] = out[to : to + size]
    else:
        out[at : at + rng.randrange(1, 32)] = rng.choice([b"\0", b"\xff"]) * rng.randrange(1, 32)
    return bytes(out)


def damage_folder(files: Files, rng: random.Random) -> None:
    """Lose, swap, link and misplace whole files: also to themselves and to each other."""
    one, other = rng.choice(list(files)), rng.choice(list(files))
    what = rng.randrange(6)
    if what == 0:
        del files[one]
    elif what == 1:
        files[one], files[other] = files[other], files[one]
    elif what == 2:
        files[one] = f"-> {other}".encode()  # perhaps to itself, perhaps in a circle
    elif what == 3:
        files[one] = None
    elif what == 4:
        files[one] = rng.choice([b"", b"{}", b"GGUF", b"[" * 5000, b"\0" * 100, b"null", b'"x"'])
    else:
        files[one] = files[other]
