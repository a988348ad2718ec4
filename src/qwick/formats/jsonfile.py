"""JSON files of a checkpoint folder, read strictly: bounded, UTF-8, no duplicate keys, no NaN.

Knows nothing of what the files mean.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from qwick.errors import FormatError, shown
from qwick.formats.mapped import check_regular, damaged, read_file

MAX_JSON = 1 << 28  # the largest tokenizer.json of the family is 11 MB
# Of what becomes Python objects here, which may take 25 times the text's memory ("[[],[],...").
MAX_PARSED = 1 << 21  # 13 times the largest header of the family
MAX_DEPTH = 64  # so that whoever quotes a value in a message cannot run out of stack


def read_text(path: Path, limit: int = MAX_JSON) -> str:
    """Return a file's UTF-8 text.

    Raises as `check_regular`, and FormatError when it is longer than `limit` bytes or no UTF-8.
    """
    size = check_regular(path)
    if size > limit:
        raise damaged(path, f"{size} bytes; the limit for this file is {limit}")
    try:
        return read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, f"not UTF-8 at byte {error.start}: {error.reason}") from None


def read_object(path: Path, limit: int = MAX_PARSED) -> dict[str, Any]:
    """Return the JSON object in a file of at most `limit` bytes.

    Raises as `read_text`, and FormatError for other content.
    """
    return parse_object(path, read_text(path, limit), "the file")


def parse_object(path: Path, text: str, what: str) -> dict[str, Any]:
    """Parse `text`, which came from `path`, as one JSON object."""
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite
        )
    except RecursionError:
        raise damaged(path, f"{what} nests too deeply for JSON") from None
    except FormatError as error:
        raise damaged(path, f"{what}: {error.message}") from None
    except ValueError as error:
        raise damaged(path, f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise damaged(path, f"{what} holds a JSON {type(value).__name__}; an object is wanted")
    if _deeper(value, MAX_DEPTH):
        raise damaged(path, f"{what} nests deeper than {MAX_DEPTH}")
    return value


def _deeper(value: dict[str, Any], limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [it for items in inner for it in items if isinstance(it, (dict, list))]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise FormatError(f"the key {shown(key)} occurs twice")
            seen.add(key)
    return out


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise FormatError(f"the number {text:.40} is beyond float64")
    return value


def _constant(text: str) -> NoReturn:
    raise FormatError(f"{text} is no JSON number")
