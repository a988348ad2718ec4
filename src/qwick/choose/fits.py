"""Whether a checkpoint of the catalog can run here, told before it is fetched, and the nearest.

Only what certainly cannot is refused: with the shortest context, and experts in a file. Knows
nothing about networks; what is stored already is judged by its own file (`choose.memory`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qwick.choose.contexts import plain, reach, stretch
from qwick.choose.devices import DEVICES
from qwick.choose.memory import LEAST_CONTEXT
from qwick.choose.quality import BEARABLE, FORMAT_LOSS
from qwick.choose.runtimes import Way, qwick_options, ways_of
from qwick.choose.sizes import Parts, available_text, needed_text, parts_of
from qwick.errors import ParameterError, ResourceError
from qwick.hub import Catalog, Format, Model, shape_of
from qwick.values import check_kind, whole

__all__ = ["Fit", "check_fits", "nearest"]

TALKING = ("instruct", "thinking")  # variants that stand for each other


@dataclass(frozen=True, slots=True)
class Fit:
    """A checkpoint in a format that fits."""

    model: Model
    way: Way
    parts: Parts

    options: tuple[str, ...]  # that the command line takes beside the name, but for --ctx

    @property
    def command(self) -> str:
        """How it is named on the command line, with the options that it takes."""
        return " ".join([f"{self.model.id}:{self.way.form.name}", *self.options])


def check_fits(
    model: Model,
    form: Format,
    room: int,
    catalog: Catalog,
    *,
    context: int | None = None,
    quantize: str | None = None,
    stretched: bool = False,
) -> None:
    """Raise ResourceError, which names the nearest that fits, for what cannot run in `room` bytes.

    ParameterError: more context than it has, unless stretched (`--yarn`).

    context: tokens that are asked for; None: as few as need be. A checkpoint of unknown size, or
    one that qwick does not run, passes: loading it will tell.
    """
    check_kind("model", model, Model, "a Model of the catalog")
    check_kind("form", form, Format, "a Format of the model")
    room = whole("room", room, 0, 1 << 62)
    length = LEAST_CONTEXT if context is None else context
    if model.runs_here and not stretched and 0 < plain(model) < length:
        raise ParameterError(
            f"{model.id} has {plain(model):,} tokens of context, and {length:,} are asked for",
            hint=_beyond(model, length, room, catalog),
        )
    parts = parts_of(model, form, length, quantize=quantize) if model.runs_here else None
    if parts is None or _least(model, parts) <= room:
        return
    found = nearest(model, room, catalog, length)
    if found is None:
        hint = "see `qwick recommend` for machines that would do (--device)"
    else:
        hint = f"the nearest that fits: {found.command}, in {needed_text(found.parts.total)}"
    raise ResourceError(
        f"{model.id}:{form.name} takes {needed_text(_least(model, parts))} of memory with a "
        f"context of {length:,} tokens, and {available_text(room)} are available",
        hint=hint,
    )


def _beyond(model: Model, context: int, room: int, catalog: Catalog) -> str:
    """Return the ways out for more context than a checkpoint has by itself."""
    ways = ["a shorter --ctx"]
    if context <= reach(model, "qwick"):
        ways.append(f"--yarn {stretch(model, context)}")
    found = nearest(model, room, catalog, context)
    if found is not None and found.model.id != model.id:
        ways.append(f"{found.command}, in {needed_text(found.parts.total)}")
    return "; or ".join(ways)


def nearest(model: Model, room: int, catalog: Catalog, context: int = LEAST_CONTEXT) -> Fit | None:
    """Return the nearest checkpoint and format that fit: the same, else the largest of its kind.

    Its kind is its series, then its generation, of its variant or one that stands for it; for what
    thinks, those that think come first. None: nothing fits.
    """
    check_kind("model", model, Model, "a Model of the catalog")
    check_kind("catalog", catalog, Catalog, "a Catalog")
    room, context = whole("room", room, 0, 1 << 62), whole("context", context, 1, 1 << 40)
    variants = TALKING if model.variant in TALKING else (model.variant,)
    alike = [
        one
        for one in catalog.models.values()
        if one.variant in variants and reach(one, "qwick") >= context
    ]
    series = [one for one in alike if one.series == model.series]
    thinkers = [one for one in alike if _thinks(model) and _thinks(one)]
    kinds = (
        [one for one in alike if one.id == model.id],
        [one for one in series if one in thinkers],
        [one for one in thinkers if _plain(one)],
        series,
        [one for one in alike if one.generation == model.generation and _plain(one)],
        [one for one in alike if _plain(one)],
    )
    for kind in kinds:
        fits = [fit for one in kind if one.runs_here for fit in _fits(one, room, context)]
        if fits:
            return max(fits, key=_rank)
    return None


def _rank(fit: Fit) -> tuple[int, float]:
    return fit.model.parameters.total or 0, -FORMAT_LOSS[fit.way.rounded]


def _thinks(model: Model) -> bool:
    return model.thinking in ("hybrid", "only")


def _plain(model: Model) -> bool:
    """Whether a checkpoint is for everything."""
    return not set(model.tags) & {"coder", "math"}


def _fits(model: Model, room: int, context: int) -> Iterator[Fit]:
    for way in ways_of(model, DEVICES["desktop"]):  # any processor: the same ways
        parts = parts_of(model, way.form, context, quantize=way.quantize)
        if parts is not None and parts.total <= room and FORMAT_LOSS[way.rounded] <= BEARABLE:
            told = qwick_options(model, way, context)
            options = [word for word in told if word not in ("--ctx", str(context))]
            yield Fit(model, way, parts, tuple(options))


def _least(model: Model, parts: Parts) -> int:
    """Return the bytes without which it cannot run: of experts those of one layer."""
    shape = shape_of(model)
    if shape is None or not shape.routed:
        return parts.total
    idle = shape.routed * (shape.layers - 1) // shape.layers
    return parts.total - int(parts.weights * idle / shape.total)
