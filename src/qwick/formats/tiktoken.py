"""A vocabulary in tiktoken's form (`qwen.tiktoken`, of Qwen1): lines of a token in base64, a rank.

Such a file names tokens but not how each was merged; that is found here by merging its bytes with
the tokens of lower rank, as its own tokenizer would. Knows nothing of texts or of control tokens.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from qwick.formats.jsonfile import read_text
from qwick.formats.mapped import damaged

MAX_VOCABULARY = 1 << 24  # bytes of the file; Qwen1's is 2.6 MB
MAX_WORK = 1 << 26  # sum of the squared lengths of all tokens; Qwen1's is 8 million

# The alphabet of byte-level BPE (GPT-2's encoder.py, bytes_to_unicode).
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_LETTERS = {byte: chr(byte) for byte in _PRINTABLE}
_LETTERS.update({byte: chr(256 + place) for place, byte in enumerate(_OTHERS)})


def read_vocabulary(path: Path) -> tuple[list[str], list[str]]:
    """Return tokens by rank and merges "left right", best first, in the alphabet of byte-level BPE.

    Raises FormatError for what is no such file: other lines, ranks that do not run from 0, a token
    twice, a byte without a token, a token that is not made of two others.
    """
    ranks = _ranks(path)
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise damaged(path, f"there is no token for the byte {missing[0]}")
    if sum(len(token) ** 2 for token in ranks) > MAX_WORK:
        raise damaged(path, f"tokens are too long; the sum of their squares may reach {MAX_WORK}")
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = _parts(ranks, token, rank)
            if len(parts) != 2:
                raise damaged(path, f"the token of rank {rank} is not made of two others")
            merges.append(" ".join(map(_spelled, parts)))
    return [_spelled(token) for token in ranks], merges


def _ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_text(path, MAX_VOCABULARY).splitlines()):
        encoded, _, rank = line.partition(" ")
        try:
            token = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):  # ValueError: not ASCII
            token = b""
        if not token or rank != str(number):
            raise damaged(
                path, f"line {number + 1} is {line!r:.60}; a token in base64 and {number} wanted"
            )
        if token in ranks:
            raise damaged(path, f"line {number + 1} has the token of line {ranks[token] + 1}")
        ranks[token] = number
    return ranks


def _parts(ranks: dict[bytes, int], token: bytes, below: int) -> list[bytes]:
    """Merge a token's bytes, the best pair first, by tokens of a rank below its own."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best, at = below, -1
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1], below)
            if rank < best:
                best, at = rank, i
        if at < 0:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _spelled(token: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in token)
