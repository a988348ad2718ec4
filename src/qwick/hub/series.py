"""The catalog by series: what each line of models offers, told by the facts of its members.

Nothing here is an opinion: uses and strengths follow from tags, inputs, lengths and published
scores by the tables below. Knows nothing about machines or how a comparison is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qwick.hub.catalog import Catalog, Model, Score
from qwick.values import check_kind

__all__ = ["Series", "series_of", "uses_of"]

# What a checkpoint is for, by what it is: the first that fits wins.
_KINDS: tuple[tuple[Callable[[Model], bool], tuple[str, ...]], ...] = (
    (lambda m: m.variant == "embedding", ("search", "retrieval", "clustering")),
    (lambda m: m.variant == "reranker", ("ranking what a search has found",)),
    (lambda m: "omni" in m.tags, ("speech", "sound", "images and video")),
    (lambda m: "audio" in m.inputs, ("speech", "sound")),
    (lambda m: "image" in m.inputs, ("images and video", "documents as images", "chat")),
    (lambda m: "coder" in m.tags, ("code",)),
    (lambda m: "math" in m.tags, ("mathematics",)),
    (lambda m: True, ("chat", "text", "translation")),
)
_LONG = 200_000  # tokens of native context, from which on it is told as a strength
# The benchmarks by which a use is judged: tag, variant or input, and those it is looked up in, the
# most telling first.
_JUDGES = {
    "embedding": ("mteb_multilingual", "mteb_english"),
    "image": ("mmmu", "docvqa"),
    "coder": ("swe_bench_verified", "humaneval", "livecodebench"),
    "math": ("math", "math_500", "gsm8k"),
    "": ("mmlu_pro", "gpqa", "mmlu_redux", "mmlu"),
}


def uses_of(model: Model) -> tuple[str, ...]:
    """Return what a checkpoint is for, by its tags, inputs and thinking."""
    check_kind("model", model, Model, "a Model of the catalog")
    uses = next(uses for fits, uses in _KINDS if fits(model))
    if model.variant == "base":
        return ("further training", *uses[:1])
    return (*uses, "reasoning") if model.thinking != "none" and "reasoning" not in uses else uses


@dataclass(frozen=True)
class Series:
    """One line of models, such as Qwen2.5-Coder."""

    name: str
    models: tuple[Model, ...]  # by size, the smallest first

    @property
    def released(self) -> tuple[str, str] | None:
        """The months of the first and the last; None where neither is known."""
        months = sorted(model.released for model in self.models if model.released)
        return (months[0], months[-1]) if months else None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of parameters, ascending, each once; what is not known is not among them."""
        return tuple(sorted({m.parameters.total for m in self.models if m.parameters.total}))

    @property
    def context(self) -> tuple[int, int, int] | None:
        """The shortest and the longest native context, and the longest documented, in tokens."""
        native = [m.context.native for m in self.models if m.context.native]
        extended = [m.context.extended for m in self.models if m.context.extended]
        return (min(native), max(native), max(native + extended)) if native else None

    @property
    def inputs(self) -> tuple[str, ...]:
        """What its members take, in the order text, image, video, audio."""
        kinds = {kind for model in self.models for kind in model.inputs}
        return tuple(kind for kind in ("text", "image", "video", "audio") if kind in kinds)

    @property
    def thinking(self) -> tuple[str, ...]:
        """The kinds of thinking of its members: none, hybrid, only."""
        kinds = {model.thinking for model in self.models}
        return tuple(kind for kind in ("none", "hybrid", "only") if kind in kinds)

    @property
    def uses(self) -> tuple[str, ...]:
        """What its members are for, base checkpoints last."""
        ordered = sorted(self.models, key=lambda model: model.variant == "base")
        return tuple(dict.fromkeys(use for model in ordered for use in uses_of(model)))

    @property
    def headline(self) -> tuple[Model, Score] | None:
        """The largest member with a result that says much of its use, and that result.

        None where no result is published. Two series compare by it only where benchmark and
        setting are the same.
        """
        traits = {trait for m in self.models for trait in (*m.tags, *m.inputs, m.variant)}
        kind = next((kind for kind in _JUDGES if kind in traits), "")
        for model in reversed(self.models):
            for key in (*_JUDGES[kind], *_JUDGES[""]):
                # What is said of the base of a chat model is not said of the model.
                found = [
                    score
                    for score in model.scored(key)
                    if model.variant == "base" or not score.setting.startswith("base")
                ]
                if found:
                    return model, max(found, key=lambda score: score.value)
        return None

    @property
    def strengths(self) -> tuple[str, ...]:
        """What its facts speak for: long context, languages, thinking, few active weights."""
        found = []
        if self.context and self.context[1] >= _LONG:
            found.append("long context")
        counts = [m.languages.count or 0 for m in self.models if m.languages]
        if max(counts, default=0) >= 100:
            found.append(f"{max(counts)} languages")
        trained = [m.thinking for m in self.models if m.variant != "base"]
        if any(thinking != "none" for thinking in trained):
            how = "think when told to" if "hybrid" in trained else "think"
            found.append(how if "none" not in trained else f"some {how}")
        shares = [
            m.parameters.active / m.parameters.total
            for m in self.models
            if m.experts and m.parameters.active and m.parameters.total
        ]
        if shares:
            found.append(f"{100 * min(shares):.0f} % of the weights for a token")
        if any(m.tools for m in self.models):
            found.append("call tools")
        return tuple(found)


def series_of(catalog: Catalog) -> tuple[Series, ...]:
    """Return the series of a catalog, in the order of their first members."""
    check_kind("catalog", catalog, Catalog, "a Catalog")
    groups: dict[str, list[Model]] = {}
    for model in catalog.models.values():
        groups.setdefault(model.series, []).append(model)
    return tuple(Series(name, _by_size(models)) for name, models in groups.items())


def _by_size(models: Iterable[Model]) -> tuple[Model, ...]:
    return tuple(sorted(models, key=lambda model: model.parameters.total or 0))
