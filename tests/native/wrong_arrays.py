"""The child of test_values.py: every function of `ops` with arguments that do not fit."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qwick.errors import QwickError
from qwick.native import ops

GUARD = 64  # elements on both sides of an output
MARK = 77
REFUSED = (TypeError, ValueError, IndexError)


def guarded(*shape: int, dtype: Any = np.float32) -> Any:
    """Return an array that lies between guards."""
    size = math.prod(shape)
    whole = np.full(size + 2 * GUARD, MARK, dtype)
    view = whole[GUARD : GUARD + size].reshape(shape)
    view[...] = 0
    return view


def guards_hold(view: Any) -> bool:
    base = view
    while isinstance(base.base, np.ndarray):
        base = base.base
    ends = np.concatenate([base[:GUARD], base[-GUARD:]])
    return bool((ends == MARK).all())


def zeros(*shape: int, dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


def packed(n: int, k: int) -> ops.Packed:
    return ops.pack([("f32", np.zeros(4 * n * k, np.uint8), n, k)])


WEIGHTS = packed(64, 32)
PAIR = ops.pack([("f32", np.zeros(4 * 64 * 32, np.uint8), 64, 32)] * 2)
DOWN = packed(32, 64)
EXPERTS = ops.Experts([(PAIR, DOWN)] * 3)
D, HEADS, KV_HEADS, PAGES = 32, 2, 1, 3
WIDTH = (HEADS + 2 * KV_HEADS) * D


def sound() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return calls that fit, made anew each time."""
    kv = {
        "keys": guarded(PAGES, KV_HEADS, D, ops.PAGE_SIZE),
        "values": guarded(PAGES, KV_HEADS, ops.PAGE_SIZE, D),
    }
    ids = zeros(2, dtype=np.int32)
    return {
        "matmul": (
            ops.matmul,
            {"x": zeros(2, 32), "w": WEIGHTS, "out": guarded(2, 64), "bias": zeros(64)},
        ),
        "matmul_argmax": (
            ops.matmul_argmax,
            {"x": zeros(2, 32), "w": WEIGHTS, "columns": 60, "out": guarded(2, dtype=np.int32)},
        ),
        "mlp": (
            ops.mlp,
            {"x": zeros(2, 32), "gate_up": PAIR, "down": DOWN, "out": guarded(2, 32)},
        ),
        "experts": (
            ops.experts,
            {
                "x": zeros(2, 32),
                "logits": zeros(2, 3),
                "of": EXPERTS,
                "top": 2,
                "out": guarded(2, 32),
                "renormalize": True,
            },
        ),
        "Experts": (ops.Experts, {"parts": [(PAIR, DOWN)], "shared": False}),
        "unpack": (ops.unpack, {"w": WEIGHTS}),
        "exact_rows": (ops.exact_rows, {"w": WEIGHTS}),
        "set_next": (WEIGHTS.set_next, {"following": DOWN, "pairs": False}),
        "gather_rows": (
            ops.gather_rows,
            {
                "stored": "f32",
                "data": zeros(4 * 8 * 32, dtype=np.uint8),
                "n": 8,
                "ids": ids,
                "out": guarded(2, 32),
            },
        ),
        "add_rms_norm": (
            ops.add_rms_norm,
            {
                "x": guarded(2, 32),
                "delta": zeros(2, 32),
                "weight": zeros(32),
                "eps": 1e-6,
                "out": guarded(2, 32),
            },
        ),
        "rope_store": (
            ops.rope_store,
            {
                "qkv": guarded(2, WIDTH),
                "heads": HEADS,
                "cos": zeros(40, D // 2),
                "sin": zeros(40, D // 2),
                "positions": ids,
                "slots": ids,
                "norms": (zeros(D), zeros(D)),
                "eps": 1e-6,
                **kv,
            },
        ),
        "attention": (
            ops.attention,
            {
                "qkv": zeros(2, WIDTH),
                "heads": HEADS,
                **kv,
                "pages": zeros(1, 2, dtype=np.int32),
                "starts": np.array([0, 2], np.int32),
                "positions": ids,
                "out": guarded(2, HEADS * D),
                "sums": guarded(2, HEADS),
            },
        ),
        "rotate": (
            ops.rotate,
            {
                "qkv": guarded(2, WIDTH),
                "heads": HEADS,
                "cos": zeros(40, D // 2),
                "sin": zeros(40, D // 2),
                "positions": ids,
                "norm": zeros(D),
                "eps": 1e-6,
            },
        ),
        "pack": (ops.pack, {"parts": [("f32", zeros(4 * 64, dtype=np.uint8), 2, 32)]}),
        "Bpe": (
            lambda a, b, c, d: ops.Bpe(a, b, c, d),
            {
                "a": zeros(0, dtype=np.uint8),
                "b": zeros(0, dtype=np.int64),
                "c": zeros(0, dtype=np.uint8),
                "d": zeros(0, dtype=np.int64),
            },
        ),
        "set_threads": (ops.set_threads, {"count": 2}),
        "force": (ops.force, {"name": ops.isa()}),
        "profile": (ops.profile, {"on": False}),
    }


def strange_arrays(like: Any) -> Iterator[Any]:
    """Yield arrays that are not as `like` is: type, shape, order, rights, contents."""
    for dtype in ("f2", "f8", "i1", "u1", "i4", "u4", "i8", ">f4", ">i4", "c8", "?", "S4", "O"):
        yield np.zeros(like.shape, dtype)
    yield np.zeros(like.shape, "f4")
    for axis in range(like.ndim):
        for more in (-1, 1):
            shape = list(like.shape)
            shape[axis] = max(0, shape[axis] + more)
            yield np.zeros(shape, like.dtype)
        shape = list(like.shape)
        shape[axis] = 0
        yield np.zeros(shape, like.dtype)
        shape = [0] * like.ndim
        shape[axis] = 2**33  # no memory behind it, but a length beyond 32 bits
        if like.ndim > 1:
            yield np.zeros(shape, like.dtype)
        yield np.repeat(like, 2, axis)[(slice(None),) * axis + (slice(None, None, 2),)]
        yield np.flip(like, axis)
    yield np.zeros((), like.dtype)
    yield np.zeros((1, *like.shape), like.dtype)
    yield like.ravel()
    yield np.asfortranarray(like)
    fixed = like.copy()
    fixed.flags.writeable = False
    yield fixed
    odd = np.zeros(like.nbytes + 1, np.uint8)[1:]  # not aligned
    yield odd.view(like.dtype).reshape(like.shape)
    yield np.broadcast_to(np.zeros(1, like.dtype), like.shape)
    if like.dtype.kind == "i":
        for value in (-1, -(2**31), 2**31 - 1, 1 << 20, 40, 96):
            yield np.full(like.shape, value, like.dtype)
    if like.dtype.kind == "f":
        for value in (math.nan, math.inf, 3e38):
            yield np.full(like.shape, value, like.dtype)


def must_be_refused(other: Any, like: Any, argument: str) -> bool:
    """Whether an array is of a kind that no kernel may take in the place of `like`."""
    flags = other.flags
    return bool(
        (other.dtype, other.ndim) != (like.dtype, like.ndim)
        or not (flags.c_contiguous and flags.aligned)
        or (argument == "out" and not flags.writeable)
    )


ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 3, 2**31, 2**63, 2**64, 10**30, -(2**31), 1.5, math.nan, math.inf, ""),
    *("f32", "q4_k", "\ud800", "\0", "x" * 1000, b"x", [], (), {}, [[]], [1, 2], object(), int),
    *([None], [("f32", None, 1, 1)], [("f32", np.zeros(3, np.uint8), 1, 1)], (None, None)),
    *([("q9", np.zeros(4, np.uint8), 1, 1)], [("f32", np.zeros(4, np.uint8), -1, -1)]),
    *([("f32", np.zeros(4, np.uint8), 2**31 - 1, 2**31 - 1)], [("q8_0", np.zeros(34, np.uint8))]),
    *([("f32", np.zeros(0, np.uint8), 0, 0)], [("f32", np.zeros(0, np.uint8), 0, 32)]),
)


def main() -> None:
    """Try all of it; print how many calls were refused and how many went through."""
    refused = passed = 0
    taken: list[str] = []
    for name, (_, arguments) in sound().items():
        function, given = sound()[name]
        function(**given)
        for argument, value in arguments.items():
            others = list(strange_arrays(value)) if isinstance(value, np.ndarray) else []
            for other in (*others, *ODD, WEIGHTS):
                function, given = sound()[name]
                arrays = [a for a in given.values() if isinstance(a, np.ndarray)]
                outputs = [a for a in arrays if a.base is not None]
                call = {**given, argument: other}
                if name == "Bpe":
                    call = dict(zip("abcd", call.values(), strict=True))
                try:
                    function(**call)
                    passed += 1
                    wrong = isinstance(other, np.ndarray) and isinstance(value, np.ndarray)
                    if wrong and must_be_refused(other, value, argument):
                        taken.append(f"{name}({argument}={other.dtype}{other.flags})")
                except REFUSED:
                    refused += 1
                except QwickError:  # ops.force
                    refused += 1
                except BaseException as error:
                    print(f"{name}({argument}={other!r:.200}): {error!r}", file=sys.stderr)
                    raise
                for output in outputs:
                    assert guards_hold(output), f"{name}({argument}={other!r:.200}) wrote beyond"
    print(refused, "refused,", passed, "passed")
    assert not taken, taken
