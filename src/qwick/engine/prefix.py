"""The keys under which full pages of keys and values are found again.

What lies in a page depends on every id up to its end and on nothing else but what the namespace
stands for. So its key is a chain: a digest of the key of the page before it and of its own ids,
which begins with the digest of the namespace. Equal keys mean equal prefixes as far as BLAKE2b (RFC
7693) with 256 bits has no collision; nobody knows one. Knows ids; no pages, no requests.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

KEY_BYTES = 32
# BLAKE2's personalisation: a namespace can never give the digest of a page.
_ROOT = b"qwick-root"
_PAGE = b"qwick-page"


def root_key(namespace: str, rotation: int = 0) -> bytes:
    """Return the key before the first page; another namespace or rotation, another chain.

    Whatever else comes to decide what keys and values a token has (an adapter, the digest of an
    image) enters here, length first, so that two texts never run into one.
    """
    name = namespace.encode()
    parts = len(name).to_bytes(8, "little") + name + rotation.to_bytes(8, "little")
    return blake2b(parts, digest_size=KEY_BYTES, person=_ROOT).digest()


def extend_keys(keys: list[bytes], root: bytes, ids: list[int], pages: int, page_size: int) -> None:
    """Add to `keys` those that it lacks of the first `pages` pages of `ids`, all of them full.

    Page j holds ids[j * page_size : (j + 1) * page_size]. About 1.5 microseconds a page of 32.
    """
    known = len(keys)
    if known >= pages:
        return
    fresh = array("i", ids[known * page_size : pages * page_size])
    data, width = memoryview(fresh).cast("B"), page_size * fresh.itemsize
    key = keys[-1] if keys else root
    for start in range(0, len(data), width):
        hasher = blake2b(key, digest_size=KEY_BYTES, person=_PAGE)
        hasher.update(data[start : start + width])
        key = hasher.digest()
        keys.append(key)
