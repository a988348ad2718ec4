"""Which checkpoint, in which format, by which runtime: the ranking behind `qwick recommend`.

Everything that can be told without a network, a file or torch. What cannot be met is refused by
name, with the nearest that could. Prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from qwick.choose.contexts import reach, stretch
from qwick.choose.devices import Device
from qwick.choose.memory import DEFAULT_CONTEXT
from qwick.choose.quality import (
    BEARABLE,
    FORMAT_LOSS,
    STRETCHED,
    evidence,
    gain_of_languages,
    quality,
    side_by_side,
)
from qwick.choose.reasons import cautions_of, place_of, reasons_of
from qwick.choose.runtimes import Way, qwick_options, ways_of
from qwick.choose.sizes import Parts, available_text, needed_text, parts_of, stored_bytes
from qwick.choose.speed import Speed, predict
from qwick.choose.tasks import Task
from qwick.hub import Catalog, Model, Score, Shape, shape_of
from qwick.values import check_kind, check_switch, real, refused, whole

__all__ = ["Ask", "Larger", "Option", "Recommendation", "Refusal", "options_of", "recommend"]

LICENSES = ("any", "commercial")
# In doublings of worth; what half of the comfortable speed costs is the task's (`Task.slow`).
LATE = 0.4  # that each doubling of the task's patience with the first token costs
QUICK, MOST_QUICK = 0.05, 5.0  # that each doubling above the comfortable speed gains, of so many
FETCHED = 0.3  # that each doubling of what is fetched over what is kept in memory costs
UNOFFICIAL = 0.05  # that files which others have made cost
FULL, NEARLY_FULL = 0.1, 0.7  # that a card costs which is full from this share on: for one request
LIKES = 3  # options that are shown
# What qwick covers. Newer ones are in the catalog, and are recommended only where asked for.
COVERED = ("Qwen", "Qwen1.5", "Qwen2", "Qwen2.5", "Qwen3", "Qwen3-VL", "Qwen3-Omni")
MOST_CONTEXT = 1 << 40


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants; None and empty mean no wish."""

    task: Task
    device: Device
    memory: int | None = None  # bytes, instead of the device's
    min_speed: float | None = None  # tokens per second: written, or read if nothing is written
    context: int | None = None  # tokens
    languages: tuple[str, ...] = ()  # ISO 639-1 codes
    license: str = "any"  # or commercial
    newer: bool = False  # generations that qwick itself does not cover, too

    def __post_init__(self) -> None:
        """Raise ParameterError for what cannot be asked."""
        check_kind("task", self.task, Task, "a Task, as task_named returns one")
        check_kind("device", self.device, Device, "a Device, as device_named returns one")
        if self.memory is not None:
            whole("memory", self.memory, 1, 1 << 62)
        if self.min_speed is not None:
            real("min_speed", self.min_speed, 0.0, 1e6)
        if self.context is not None:
            whole("context", self.context, 1, MOST_CONTEXT)
        codes = self.languages
        if not isinstance(codes, tuple) or not all(isinstance(c, str) and c for c in codes):
            raise refused("languages", codes, "a tuple of ISO 639-1 codes, such as hu")
        if not isinstance(self.license, str) or self.license not in LICENSES:
            raise refused("license", self.license, " or ".join(LICENSES))
        check_switch("newer", self.newer)

    @property
    def room(self) -> int:
        """Bytes that the model may take."""
        return self.device.memory if self.memory is None else self.memory

    @property
    def length(self) -> int:
        """Tokens of context."""
        return self.task.context if self.context is None else self.context

    @property
    def prompt(self) -> int:
        """Tokens of prompt that the times are told for."""
        if self.context is not None and self.context > self.task.context:
            return self.context // 2
        return max(1, min(self.task.prompt, self.length // 2))


@dataclass(frozen=True, slots=True)
class Option:
    """One way to do it: a checkpoint in a format by a runtime."""

    model: Model
    way: Way
    parts: Parts  # of memory, with the context full
    download: int  # bytes
    speed: Speed
    rate: float  # tokens per second that count: written, or read where nothing is written
    worth: float  # in doublings of size, what is slow or rounded taken off
    reasons: tuple[str, ...]
    cautions: tuple[str, ...]
    evidence: tuple[Score, ...]
    arguments: tuple[str, ...]  # what `qwick chat` or `serve` must be told beside the name

    @property
    def name(self) -> str:
        """The checkpoint and format as `qwick models pull` takes them."""
        return f"{self.model.id}:{self.way.form.name}"

    @property
    def full_name(self) -> str:
        """The same with what is done to the weights while they are loaded."""
        return f"{self.name} --quantize {self.way.quantize}" if self.way.quantize else self.name


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing will do, and what is nearest."""

    cause: str  # task, size, license, context, memory or speed
    message: str
    hint: str
    nearest: Option | None


@dataclass(frozen=True, slots=True)
class Larger:
    """The next checkpoint up in the same series, which is out of reach."""

    option: Option
    obstacle: str  # what it would take
    gains: tuple[tuple[Score, Score], ...]  # of the first option and of it, comparable ones


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer: options, the best first, or a refusal."""

    ask: Ask
    options: tuple[Option, ...]
    larger: Larger | None  # None: there is none, or it is the first option already
    refusal: Refusal | None
    unsized: tuple[str, ...] = ()  # checkpoints made for it whose size nobody can tell


def recommend(ask: Ask, catalog: Catalog, most: int = LIKES) -> Recommendation:
    """Return what to use, each checkpoint in its best format only, the best first."""
    check_kind("ask", ask, Ask, "an Ask")
    check_kind("catalog", catalog, Catalog, "a Catalog")
    most = whole("most", most, 1, 1000)
    models: Sequence[Model] = [m for m in catalog.models.values() if _does(m, ask)]
    if not models:
        text = f"no checkpoint takes {ask.task.input} and does {ask.task.name}"
        return _refused(ask, "task", text, "", None)
    unsized = tuple(m.id for m in models if not _sized(m, ask) and _licensed(m, ask))
    for cause, fits, refuse in _CONDITIONS:
        left = [model for model in models if fits(model, ask)]
        if not left:
            return refuse(ask, cause, models)
        models = left
    options = [option for model in models for option in options_of(model, ask)]
    if not options:
        return _no_size(ask, "size", models)
    return replace(_ranked(ask, options, most), unsized=unsized)


def _does(model: Model, ask: Ask) -> bool:
    """Whether a checkpoint is made for the task, of a generation that is asked for."""
    task = ask.task
    if model.generation not in COVERED and not ask.newer:
        return False
    if model.variant not in task.variants or task.input not in model.inputs:
        return False
    if task.wanted and not any(model.id.startswith(name) for name in task.wanted):
        return False
    native = model.generation >= "Qwen3.5"  # all of them see
    if task.input == "text" and model.inputs != ("text",) and not native:
        return False
    # Their cards say: for mathematics only.
    return "math" not in model.tags or "math" in task.worth


def _licensed(model: Model, ask: Ask) -> bool:
    """Whether the licence allows what is asked; one that is not confirmed allows nothing."""
    if ask.license == "any":
        return True
    return model.license is not None and model.license.use in ("commercial", "conditional")


def _sized(model: Model, ask: Ask) -> bool:
    return shape_of(model) is not None and quality(model, ask.task) is not None


def _long_enough(model: Model, ask: Ask) -> bool:
    return _longest(model, ask) >= ask.length


def _longest(model: Model, ask: Ask) -> int:
    """Return the longest context that one of the runtimes of the device can give it."""
    runtimes = {way.runtime for way in ways_of(model, ask.device)}
    return max((reach(model, runtime) for runtime in runtimes), default=0)


def _no_license(ask: Ask, cause: str, models: Sequence[Model]) -> Recommendation:
    names = ", ".join(model.id for model in models[-4:])
    text = f"no checkpoint for {ask.task.name} has a licence confirmed to allow commercial use"
    hint = f"without --license commercial there are {names}: read their licences first"
    return _refused(ask, cause, text, hint, None)


def _no_size(ask: Ask, cause: str, models: Sequence[Model]) -> Recommendation:
    names = ", ".join(model.id for model in models[-4:])
    text = f"the sizes of what remains for {ask.task.name} are not published: {names}"
    return _refused(ask, cause, text, "see `qwick models show` for what is known of them", None)


def _too_long(ask: Ask, cause: str, models: Sequence[Model]) -> Recommendation:
    longest = max(models, key=lambda model: _longest(model, ask))
    most = _longest(longest, ask)
    text = f"no checkpoint for {ask.task.name} is documented for {ask.length:,} tokens"
    return _refused(ask, cause, text, f"{longest.id} is, for {most:,} (--context {most})", None)


Refuse = Callable[[Ask, str, Sequence[Model]], Recommendation]
# In this order: what stands in the way is the first that nothing passes.
_CONDITIONS: tuple[tuple[str, Callable[[Model, Ask], bool], Refuse], ...] = (
    ("size", _sized, _no_size),
    ("license", _licensed, _no_license),
    ("context", _long_enough, _too_long),
)


def _refused(
    ask: Ask, cause: str, message: str, hint: str, nearest: Option | None
) -> Recommendation:
    return Recommendation(ask, (), None, Refusal(cause, message, hint, nearest))


def options_of(model: Model, ask: Ask) -> Iterator[Option]:
    """Yield every way to run a checkpoint on the device, whether it fits or not."""
    check_kind("model", model, Model, "a Model of the catalog")
    check_kind("ask", ask, Ask, "an Ask")
    shape = shape_of(model)
    worth = quality(model, ask.task)
    if shape is None or worth is None:  # not after _sized
        return
    for way in ways_of(model, ask.device):
        if reach(model, way.runtime) < ask.length:
            continue
        option = _option(model, shape, worth, way, ask)
        if option is not None:
            yield option


def _option(model: Model, shape: Shape, worth: float, way: Way, ask: Ask) -> Option | None:
    parts = parts_of(model, way.form, ask.length, quantize=way.quantize, runtime=way.runtime)
    stored = stored_bytes(model, way.form)
    if parts is None or stored is None:
        return None
    speed = predict(
        shape,
        ask.device,
        weights=parts.weights,
        kv_per_token=parts.kv / ask.length,
        prompt=ask.prompt,
        runtime=way.reached,
    )
    rate = speed.decode if ask.task.tokens_out else speed.prefill
    worth += gain_of_languages(model, ask.languages) - FORMAT_LOSS[way.rounded]
    worth += 0.0 if way.form.official else -UNOFFICIAL
    worth -= FETCHED * max(0.0, math.log2(stored.size / parts.weights))
    worth += STRETCHED if stretch(model, ask.length) else 0.0
    comfort = math.log2(rate / ask.task.comfortable)
    worth += QUICK * min(comfort, MOST_QUICK) if comfort > 0 else ask.task.slow * comfort
    worth -= LATE * max(0.0, math.log2(speed.first / ask.task.patience))
    if ask.device.kind == "gpu" and parts.total > NEARLY_FULL * ask.room:
        worth -= FULL
    named = ask.context is not None or ask.length > DEFAULT_CONTEXT
    return Option(
        model,
        way,
        parts,
        stored.size + _beside(shape, way),
        speed,
        rate,
        worth,
        reasons_of(model, ask),
        cautions_of(model, way, speed, ask),
        evidence(model, ask.task),
        qwick_options(model, way, ask.length if named else None),
    )


def _beside(shape: Shape, way: Way) -> int:
    """Return the bytes of the encoders that come in a file of their own, in 16 bits."""
    return 2 * (shape.vision + shape.audio) if way.form.container == "gguf" else 0


def _ranked(ask: Ask, options: Sequence[Option], most: int) -> Recommendation:
    """Return those that fit and are quick enough, the best format of each checkpoint."""
    fitting = [one for one in options if one.parts.total <= ask.room]
    if not fitting:
        least = min(options, key=lambda one: one.parts.total)
        text = (
            f"nothing fits: {ask.task.name} with {ask.length:,} tokens of context takes at least "
            f"{needed_text(least.parts.total)} ({least.full_name}), and there are "
            f"{available_text(ask.room)}"
        )
        shorter = least.parts.total - least.parts.kv < ask.room
        hint = "a shorter --context, or more memory" if shorter else "more memory, or --device"
        return _refused(ask, "memory", text, hint, least)
    precise = [one for one in fitting if FORMAT_LOSS[one.way.rounded] <= BEARABLE]
    fitting = precise or fitting
    quick = [one for one in fitting if _quick(one, ask)]
    if not quick:
        fastest = max(fitting, key=lambda one: one.rate)
        text = (
            f"nothing is that fast: of what fits in {available_text(ask.room)}, "
            f"{fastest.full_name} comes nearest, with {fastest.rate:.1f} of {ask.min_speed:g} "
            "tokens per second"
        )
        hint = f"--min-speed {math.floor(fastest.rate)}, or a faster machine"
        return _refused(ask, "speed", text, hint, fastest)
    best: dict[str, Option] = {}
    for one in sorted(quick, key=lambda one: -one.worth):
        best.setdefault(one.model.id, one)
    ranked = tuple(best.values())
    chosen = tuple(
        replace(one, reasons=(place_of(one, ranked, ask.task), *one.reasons)) for one in ranked
    )
    return Recommendation(ask, chosen[:most], _larger(ask, chosen[0], options), None)


def _quick(option: Option, ask: Ask) -> bool:
    return ask.min_speed is None or option.rate >= ask.min_speed


def _larger(ask: Ask, best: Option, options: Sequence[Option]) -> Larger | None:
    """Return the next larger checkpoint of the generation, in the format that takes least."""
    size, worth = best.model.parameters.total or 0, quality(best.model, ask.task) or 0.0
    better = [
        one
        for one in options
        if (one.model.parameters.total or 0) > size
        and (quality(one.model, ask.task) or 0.0) > worth
        and one.model.generation == best.model.generation
        and FORMAT_LOSS[one.way.rounded] <= BEARABLE
    ]
    reached = {one.model.id for one in better if one.parts.total <= ask.room and _quick(one, ask)}
    better = [one for one in better if one.model.id not in reached]
    if not better:
        return None

    option = min(
        better,
        key=lambda one: (
            _kind(one.model) != _kind(best.model),
            one.model.parameters.total or 0,
            one.parts.total,
        ),
    )
    if option.parts.total > ask.room:
        there = available_text(ask.room)
        obstacle = f"it takes {needed_text(option.parts.total)}, and there are {there}"
    else:
        verb = "writes" if ask.task.tokens_out else "reads"
        obstacle = f"it {verb} {option.rate:.1f} tokens per second"
    return Larger(option, obstacle, side_by_side(best.model, option.model, ask.task))


def _kind(model: Model) -> tuple[str, frozenset[str]]:
    """Return what a larger one should be, too: a coder, of the same revision, thinking or not."""
    return model.variant, frozenset(model.tags) - {"moe"}
