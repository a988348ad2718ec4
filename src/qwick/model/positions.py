"""How a decoder tells positions apart, within the length it was trained for and beyond it.

The rotation (Su et al. 2021) and what the family does to it: YaRN, Qwen1's dynamic NTK and log-n
attention, dual chunk attention. Read, typed and strictly, from a config. Knows no weights and no
batches; `rope.py` makes tables of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwick import settings
from qwick.errors import ConfigError, UnsupportedError
from qwick.model.config import Config, refused_key
from qwick.native.ops import PAGE_SIZE

F64 = NDArray[np.float64]

MAX_POSITIONS = 1 << 27


@dataclass(frozen=True, slots=True)
class Rotations:
    """Which of a model's rotations a request gets: rotation i serves up to limits[i] positions.

    by_prompt: the prompt alone decides, and the answer keeps its rotation to the end of the
    context. Plain data, so that whoever submits can look.
    """

    limits: tuple[int, ...]
    by_prompt: bool = False

    def of(self, prompt: int, positions: int) -> int:
        """Return the rotation for a prompt, and for all positions that are promised."""
        need = prompt if self.by_prompt else positions
        return next(i for i, limit in enumerate(self.limits) if need <= limit)

    def reach(self, rotation: int) -> int:
        """Return how many positions a request with this rotation may fill."""
        return self.limits[-1] if self.by_prompt else self.limits[rotation]


@dataclass(frozen=True, slots=True)
class Yarn:
    """YaRN (Peng et al. 2023): slow components turn slower, quick ones as before, scores grow.

    original: positions before stretching. magnitude: what cosines and sines are multiplied by.
    """

    factor: float
    original: int
    beta_fast: float
    beta_slow: float
    magnitude: float
    whole: bool  # the bounds of the ramp are rounded to components

    def stretch(self, frequencies: F64, theta: float, head_dim: int) -> F64:
        """Return the stretched frequencies, F64[head_dim / 2]."""

        def component(turns: float) -> float:  # which one turns so often within `original`
            at = math.log(self.original / (turns * 2 * math.pi)) / math.log(theta)
            return head_dim * at / 2

        low, high = component(self.beta_fast), component(self.beta_slow)
        if self.whole:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        ramp = (np.arange(head_dim // 2) - low) / (high - low if high != low else 0.001)
        slowed = np.clip(ramp, 0.0, 1.0)
        stretched: F64 = frequencies * (slowed / self.factor + (1 - slowed))
        return stretched


@dataclass(frozen=True, slots=True)
class DynamicNtk:
    """Qwen1 beyond `original` positions: a larger base by the prompt's length, and log-n attention.

    ntk: base * alpha^(d / (d - 2)), alpha = 2^ceil(log2(length / original) + 1) - 1. log_n: a
    query at the 1-based position i is multiplied by log_original(i) where that is above 1. Source:
    modeling_qwen.py of Qwen/Qwen-7B, `get_ntk_alpha` and `logn_tensor`.
    """

    original: int
    ntk: bool
    log_n: bool


@dataclass(frozen=True, slots=True)
class DualChunk:
    """Dual chunk attention (An et al. 2024; the 1M models): no distance beyond what was trained.

    Keys turn by their place in a chunk of `chunk` positions. Queries meet those of their own chunk
    as ever, those of the chunk before from `chunk` positions on but at most at `farthest`, and all
    before as if at `farthest`. Beyond `original` positions scores grow as in YaRN (Qwen2.5-1M
    technical report, 2025, section 4).
    """

    chunk: int
    farthest: int
    original: int


@dataclass(frozen=True, slots=True)
class Positions:
    """theta: base of the rotation. native: trained for. longest: with what the config adds."""

    theta: float
    native: int
    longest: int
    scaling: Yarn | DynamicNtk | DualChunk | None = None

    def bears_yarn(self, *, first: bool) -> bool:
        """Return whether `with_yarn` may stretch these positions; first: of a Qwen1."""
        return not first and not isinstance(self.scaling, DualChunk)

    def rotations(self, context: int) -> Rotations:
        """Return the rotations of a model that is prepared for so many positions."""
        match self.scaling:
            case Yarn(original=original) if context > original:
                return Rotations((original, context))
            case DynamicNtk(original=original, ntk=True):
                doublings = max(0, math.ceil(math.log2(context / original)))
                limits = [min(original << i, context) for i in range(doublings + 1)]
                return Rotations(tuple(limits), by_prompt=True)
        return Rotations((context,))

    def frequencies(self, rotation: int, head_dim: int) -> F64:
        """Return how far each pair of components turns from a position to the next: radians."""
        theta = self.theta
        if isinstance(self.scaling, DynamicNtk) and rotation:
            alpha = 2 ** (rotation + 1) - 1
            theta *= alpha ** (head_dim / (head_dim - 2))
        half = head_dim // 2
        plain: F64 = theta ** -(np.arange(half, dtype=np.float64) / half)
        if isinstance(self.scaling, Yarn) and rotation:
            return self.scaling.stretch(plain, theta, head_dim)
        return plain

    def magnitude(self, rotation: int) -> float:
        """Return what cosines and sines are multiplied by."""
        return self.scaling.magnitude if isinstance(self.scaling, Yarn) and rotation else 1.0

    def query_scale(self, positions: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Return what each row's queries are multiplied by, F32[m]; None: nothing."""
        scaling = self.scaling
        if scaling is None or isinstance(scaling, Yarn) or not len(positions):
            return None
        if int(positions.max()) < scaling.original:
            return None
        seen = np.maximum(positions.astype(np.float64) + 1, scaling.original)
        if isinstance(scaling, DynamicNtk):
            if not scaling.log_n:
                return None
            return (np.log(seen) / math.log(scaling.original)).astype(np.float32)
        # YaRN grows queries and keys alike; here the queries take both, by what each row sees:
        # docs/decisions/0015.
        return ((0.1 * np.log(seen / scaling.original) + 1) ** 2).astype(np.float32)


def read_positions(config: Config, *, first: bool) -> Positions:
    """Read what a config says of positions; first: in the spelling of Qwen1's.

    Raises ConfigError for what is missing, wrong or not implemented.
    """
    theta, yarn = _rope(config)
    chunks = config.values.get("dual_chunk_attention_config")
    if first:
        if yarn is not None or chunks is not None:
            raise ConfigError(
                "the config of a Qwen1 asks for YaRN or dual chunks; allowed: neither"
            )
        return _qwen1(config, theta)
    trained = config.count("max_position_embeddings", MAX_POSITIONS)
    if chunks is not None and yarn is not None:
        raise ConfigError(
            "the config has rope_scaling and dual_chunk_attention_config; allowed: one"
        )
    if chunks is not None:
        return _dual_chunk(chunks, theta, trained)
    if yarn is None:
        return Positions(theta, trained, trained)
    if theta == 1.0:  # nothing would turn
        raise refused_key("rope_theta", theta, "allowed with yarn: numbers above 1")
    scaling = _yarn(Config(yarn), trained)
    longest = int(scaling.original * scaling.factor)
    if longest > MAX_POSITIONS:
        raise refused_key("factor", scaling.factor, f"allowed: up to {MAX_POSITIONS} positions")
    return Positions(theta, scaling.original, longest, scaling)


def _rope(config: Config) -> tuple[float, Mapping[str, Any] | None]:
    """Return the base of the rotation, from any spelling, and the table that asks for YaRN."""
    found: dict[str, float] = {}
    scaled: list[Mapping[str, Any]] = []
    for key in ("rope_scaling", "rope_parameters"):  # the second: transformers from 5.0
        table = config.values.get(key)
        if table is None:
            continue
        if not isinstance(table, Mapping):
            raise refused_key(key, table, "allowed: an object or null")
        kinds = [table[name] for name in ("rope_type", "type") if table.get(name) is not None]
        kind = kinds[0] if kinds else "default"
        if any(other != kind for other in kinds):
            kind = None
        read = {"rope_type", "type", "rope_theta"} | (_YARN if kind == "yarn" else set())
        if kind not in ("default", "yarn") or set(table) - read:
            raise refused_key(
                key,
                dict(table),
                "implemented: the plain rotation and yarn",
                hint=f"remove {key} to run within the native context",
            )
        if kind == "yarn":
            scaled.append({name: table[name] for name in _YARN if table.get(name) is not None})
        if "rope_theta" in table:
            found[key] = Config(table).number("rope_theta", 1.0, 1e12)
    if config.values.get("rope_theta") is not None or not found:
        found["rope_theta"] = config.number("rope_theta", 1.0, 1e12)
    if len(set(found.values())) > 1:
        raise ConfigError(
            "the config gives the base of the rotation more than once, and differently: "
            + ", ".join(f"{value:g} in {key}" for key, value in found.items())
        )
    if len(scaled) == 2 and scaled[0] != scaled[1]:
        raise ConfigError("the config gives rope_scaling and rope_parameters, which differ")
    return next(iter(found.values())), scaled[0] if scaled else None


_YARN = {
    *("factor", "original_max_position_embeddings", "attention_factor", "truncate"),
    *("beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
}


def _yarn(config: Config, trained: int) -> Yarn:
    """Read the table of a YaRN, by the formulas of transformers' `modeling_rope_utils.py`."""
    factor = config.number("factor", 1.0, settings.MAX_YARN)

    def growth(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0

    magnitude = growth(1.0)
    if config.values.get("attention_factor") is not None:
        magnitude = config.number("attention_factor", 1e-3, 1e3)
    elif config.values.get("mscale") and config.values.get("mscale_all_dim"):
        over, under = (config.number(key, 1e-3, 1e3) for key in ("mscale", "mscale_all_dim"))
        magnitude = growth(over) / growth(under)
    return Yarn(
        factor=factor,
        original=config.count("original_max_position_embeddings", MAX_POSITIONS, trained),
        beta_fast=config.number("beta_fast", 1e-3, 1e6, 32.0),
        beta_slow=config.number("beta_slow", 1e-3, 1e6, 1.0),
        magnitude=magnitude,
        whole=config.flag("truncate", True),
    )


def _qwen1(config: Config, theta: float) -> Positions:
    original = config.count("seq_length", MAX_POSITIONS)
    ntk, log_n = config.flag("use_dynamic_ntk", False), config.flag("use_logn_attn", False)
    if not ntk and not log_n:
        return Positions(theta, original, original)
    if original < 2:  # whose logarithm is the base of others
        raise refused_key("seq_length", original, "allowed with log-n attention: from 2")
    longest = max(original, config.count("max_position_embeddings", MAX_POSITIONS, original))
    return Positions(theta, original, longest, DynamicNtk(original, ntk, log_n))


def _dual_chunk(table: object, theta: float, longest: int) -> Positions:
    key = "dual_chunk_attention_config"
    if not isinstance(table, Mapping):
        raise refused_key(key, table, "allowed: an object or null")
    # Which keys a sparse attention may leave out: a matter of speed; all are met here.
    inert = {name for name in table if str(name).startswith("sparse_attention_")}
    known = {"chunk_size", "local_size", "original_max_position_embeddings"}
    if set(table) - known - inert:
        raise refused_key(key, sorted(map(str, table)), f"implemented: {', '.join(sorted(known))}")
    config = Config(table)
    size = config.count("chunk_size", MAX_POSITIONS, 8192)
    local = config.count("local_size", MAX_POSITIONS, 1024)
    chunk = size - local
    if chunk < 1 or chunk % PAGE_SIZE:
        raise refused_key(
            "chunk_size", size, f"allowed: local_size ({local}) and a multiple of {PAGE_SIZE} more"
        )
    original = config.count("original_max_position_embeddings", MAX_POSITIONS, longest)
    scaling = DualChunk(chunk, min(size, 2 * chunk - 1), original)
    return Positions(theta, min(original, longest), longest, scaling)


def with_yarn(values: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Return a config that asks for YaRN with this factor, as if its publisher had.

    Where the config does not say how many positions there were before, they are the largest power
    of two in max_position_embeddings: the family is trained on those (Qwen3's 40,960 are 32,768 and
    room for an answer). Raises UnsupportedError for a Qwen1 and where the config has another way to
    go beyond its length, ConfigError as `read_positions`.
    """
    first = values.get("model_type") == "qwen"
    if first or values.get("dual_chunk_attention_config") is not None:
        found = read_positions(Config(values), first=first)
        if not found.bears_yarn(first=first):
            raise _no_yarn(found)
    out, asked = dict(values), False
    for key in ("rope_scaling", "rope_parameters"):
        table = values.get(key)
        if isinstance(table, Mapping) and "yarn" in (table.get("rope_type"), table.get("type")):
            # A magnitude that was given belongs to the factor that was.
            rest = {name: value for name, value in table.items() if name != "attention_factor"}
            out[key], asked = {**rest, "factor": factor}, True
    if asked:
        return out
    trained = Config(values).count("max_position_embeddings", MAX_POSITIONS)
    out["rope_scaling"] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": 1 << (trained.bit_length() - 1),
    }
    return out


def _no_yarn(positions: Positions) -> UnsupportedError:
    native, longest = positions.native, positions.longest
    if longest > native:
        return UnsupportedError(
            f"this model has its own way beyond its native context of {native} tokens, up to "
            f"{longest}; there is no YaRN of it",
            hint="leave out --yarn; a larger context (--ctx) is all that its own way needs",
        )
    return UnsupportedError(
        f"this model has no way beyond its native context of {native} tokens; there is no YaRN "
        "of it",
        hint="leave out --yarn, and keep the context (--ctx) within that",
    )
