"""The memory of a decoder's sequences: pages of keys and values.

A page holds PAGE_SIZE tokens of every layer. Which sequence owns which page is the engine's
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwick.errors import ResourceError
from qwick.model.arch import KV_DTYPES, Arch
from qwick.native.ops import PAGE_SIZE


def page_bytes(arch: Arch, kinds: Sequence[str]) -> int:
    """Bytes of one page in all layers, keys and values; kinds: what `Arch.kv_kinds` says."""
    return PAGE_SIZE * arch.kv_bytes(kinds)


class KVCache:
    """`keys[layer]`, `values[layer]`: [pages, *Arch.kv_page_shapes], filled by `ops.rope_store`.

    The memory is virtual until a page is first written.
    """

    def __init__(self, arch: Arch, pages: int, kinds: Sequence[str]) -> None:
        self.pages = pages
        self.keys: list[NDArray[Any]] = []
        self.values: list[NDArray[Any]] = []
        try:
            for kind in kinds:
                key, value = arch.kv_page_shapes(kind)
                self.keys.append(np.zeros((pages, *key), KV_DTYPES[kind]))
                self.values.append(np.zeros((pages, *value), KV_DTYPES[kind]))
        except MemoryError:
            raise ResourceError(
                f"the KV cache needs {pages * page_bytes(arch, kinds):,} bytes "
                f"for {pages:,} pages, which this machine does not give",
                hint="ask for a shorter context",
            ) from None
