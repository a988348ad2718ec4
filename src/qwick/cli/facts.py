"""The catalog's facts as texts, tables and plain values: for a terminal, Markdown and JSON.

Knows nothing of commands: catalog.py has those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwick.hub import Catalog, Format, Model, Score, Series

__all__ = [
    "MODEL_HEADER",
    "SERIES_HEADER",
    "by_setting",
    "compared",
    "count_text",
    "length_text",
    "license_use",
    "model_facts",
    "model_row",
    "series_facts",
    "series_row",
    "sheet",
    "side_by_side",
    "sources_of",
    "tables_of",
]

NOT_KNOWN = "not known"
MODEL_HEADER = ("NAME", "SIZE", "ACTIVE", "CONTEXT", "INPUT", "THINKING", "LICENCE", "HERE")
SERIES_HEADER = (
    *("SERIES", "RELEASED", "SIZES", "CONTEXT", "INPUT", "LICENCE", "HERE"),
    *("USES", "STRENGTHS", "PUBLISHED OF THE LARGEST"),
)
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def count_text(count: float | None) -> str:
    """Return a large number in three digits: 494M, 7.62B, 36T."""
    if count is None:
        return NOT_KNOWN
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if count >= limit * 0.9995:
            return f"{count / limit:#.3g}".rstrip("0").rstrip(".") + unit
    return f"{count:.0f}"


def length_text(tokens: int | None) -> str:
    """Return a number of tokens: 32k is 32768, 1.01M is 1010000."""
    if tokens is None:
        return NOT_KNOWN
    if tokens % 1024 == 0 and tokens < 1 << 20:
        return f"{tokens // 1024}k"
    if tokens % (1 << 20) == 0:
        return f"{tokens >> 20}M"
    return f"{tokens / 10**6:.3g}M" if tokens >= 10**6 else f"{tokens / 1000:.4g}k"


def license_use(model: Model) -> str:
    """Return what its licence allows in a word; an unknown licence is never commercial."""
    return model.license.use if model.license is not None else NOT_KNOWN


def _context(native: int | None, extended: int | None) -> str:
    """Return the native length, and in brackets to what the publisher stretches it."""
    if native is None or extended is None or extended <= native:
        return length_text(native)
    return f"{length_text(native)} ({length_text(extended)})"


def model_row(model: Model) -> tuple[str, ...]:
    """Return a checkpoint as a row under MODEL_HEADER."""
    total, active = model.parameters.total, model.parameters.active
    return (
        model.id,
        count_text(total),
        count_text(active) if model.experts else "all",
        _context(model.context.native, model.context.extended),
        " ".join(model.inputs),
        model.thinking,
        license_use(model),
        "yes" if model.runs_here else "no",
    )


def model_facts(model: Model) -> dict[str, Any]:
    """Return all facts of a checkpoint as plain values for JSON; None is not known."""
    from dataclasses import asdict

    from qwick.hub import uses_of

    stated, languages = model.parameters, model.languages
    kind = model.license
    return {
        **{"id": model.id, "repository": model.repository, "page": model.page},
        **{"modelscope": model.modelscope, "ollama": model.ollama, "series": model.series},
        **{"generation": model.generation, "variant": model.variant, "tags": list(model.tags)},
        **{"base": model.base, "released": model.released, "uses": list(uses_of(model))},
        "license": None if kind is None else asdict(kind),
        **{"license_use": license_use(model), "license_source": model.license_source},
        "parameters": asdict(stated),
        "config": dict(model.config),
        "context": {
            **{"native": model.context.native, "extended": model.context.extended},
            **{"method": model.context.method, "most_output": dict(model.context.most_output)},
        },
        **{"inputs": list(model.inputs), "outputs": list(model.outputs)},
        "languages": None if languages is None else asdict(languages),
        **{"thinking": model.thinking, "tools": model.tools, "runs_here": model.runs_here},
        "sampling": {mode: dict(said) for mode, said in model.sampling.items()},
        "system_prompt": model.system_prompt,
        "scores": [asdict(score) for score in model.scores],
        "formats": [asdict(form) | {"size": form.size} for form in model.formats],
        **{"notes": model.notes, "sources": list(model.sources)},
    }


def sheet(model: Model) -> list[tuple[str, str]]:
    """Return what is known of a checkpoint as names and texts, one a line."""
    from qwick.hub import uses_of

    stated, context, languages = model.parameters, model.context, model.languages
    size = count_text(stated.total)
    if stated.non_embedding is not None:
        size += f" ({count_text(stated.non_embedding)} of the text part without embeddings)"
    if stated.basis is not None:
        size += f"; {stated.basis}"
    lengths = length_text(context.native)
    if context.extended is not None:
        lengths += f"; to {length_text(context.extended)}: {context.method}"
    trained = count_text(stated.training_tokens)
    if stated.training_source is not None:
        trained += f" tokens ({stated.training_source})"
    spoken = NOT_KNOWN
    if languages is not None:
        more = "" if languages.complete or not languages.codes else " and more"
        named = f": {' '.join(languages.codes)}{more}" if languages.codes else ""
        spoken = f"{languages.note or languages.count or NOT_KNOWN}{named}"
    return [
        *(("name", model.id), ("series", f"{model.series}, {model.variant}")),
        *(("uses", ", ".join(uses_of(model))), ("released", model.released or NOT_KNOWN)),
        ("parameters", size),
        ("active", count_text(stated.active) if model.experts else "all"),
        *(("trained on", trained), ("context", lengths)),
        ("input", f"{' '.join(model.inputs)}; output: {' '.join(model.outputs)}"),
        *(("languages", spoken), ("thinking", model.thinking)),
        ("tools", model.tools or NOT_KNOWN),
        ("licence", _license_text(model)),
        ("runs here", "yes" if model.runs_here else "no: not among what qwick's engine computes"),
        *(("page", model.page), ("modelscope", model.modelscope or "not there")),
        ("ollama", model.ollama or NOT_KNOWN),
        *((("notes", model.notes),) if model.notes else ()),
    ]


def _license_text(model: Model) -> str:
    kind = model.license
    if kind is None:
        return f"{NOT_KNOWN}: read it on the page before any use"
    condition = f" ({kind.condition})" if kind.condition else ""
    return f"{kind.title}: {kind.use}{condition}; source: {model.license_source or NOT_KNOWN}"


def formats_table(model: Model) -> Table:
    """Return the published forms of a checkpoint."""
    from qwick.cli.show import size_text

    def row(form: Format) -> tuple[str, ...]:
        size = size_text(form.size) if form.size is not None else NOT_KNOWN
        whose = "the family's own" if form.official else "others'"
        return (form.name, form.container, size, str(form.parts), form.repository, whose)

    header = ("FORMAT", "CONTAINER", "SIZE", "FILES", "REPOSITORY", "WHOSE")
    return header, [row(form) for form in model.formats]


def sampling_table(model: Model) -> Table:
    """Return the recommended sampling by mode."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty")
    used = [name for name in names if any(name in said for said in model.sampling.values())]
    rows = [
        (mode, *(f"{said[n]:g}" if n in said else "-" for n in used), said["source"])
        for mode, said in model.sampling.items()
    ]
    return ("SAMPLING", *(name.upper() for name in used), "SOURCE"), rows


def scores_table(model: Model) -> Table:
    """Return the published results, each with its setting and source."""
    rows = [(s.name, f"{s.value:g}", s.setting, s.source) for s in model.scores]
    return ("BENCHMARK", "SCORE", "SETTING", "SOURCE"), rows


def tables_of(model: Model) -> list[Table]:
    """Return the tables that follow the sheet of a checkpoint, without empty ones."""
    made = (formats_table(model), sampling_table(model), scores_table(model))
    return [(header, rows) for header, rows in made if rows]


def side_by_side(models: Sequence[Model]) -> Table:
    """Return the facts of several checkpoints in short, a column each."""
    rows = zip(*(_in_short(model) for model in models), strict=True)
    return ("", *(model.id for model in models)), [
        (row[0][0], *(text for _, text in row)) for row in rows
    ]


def _in_short(model: Model) -> list[tuple[str, str]]:
    languages, (_, size, active, context, inputs, thinking, use, here) = (
        model.languages,
        model_row(model),
    )
    spoken = NOT_KNOWN
    if languages is not None and (languages.count or languages.codes):
        spoken = f"{languages.count or len(languages.codes)}, {len(languages.codes)} named"
    return [
        *(("series", model.series), ("variant", model.variant)),
        *(("released", model.released or NOT_KNOWN), ("parameters", size), ("active", active)),
        *(("trained on", count_text(model.parameters.training_tokens)), ("context", context)),
        *(("input", inputs), ("languages", spoken), ("thinking", thinking)),
        *(("licence", use), ("runs here", here)),
        ("formats", " ".join(dict.fromkeys(form.name for form in model.formats))),
    ]


def compared(models: Sequence[Model]) -> tuple[Table, dict[str, list[Score]]]:
    """Return the results that compare, and for each checkpoint those that do not.

    A result compares with one of the same name, setting and document, and with no other.
    """
    found: dict[tuple[str, str, str], dict[str, Score]] = {}
    for model in models:
        for score in model.scores:
            if score.document:
                place = (score.name, score.setting, score.document)
                found.setdefault(place, {}).setdefault(model.id, score)
    shared = {place: scores for place, scores in found.items() if len(scores) > 1}
    rows = []
    for (name, setting, _), scores in shared.items():
        values = (f"{scores[m.id].value:g}" if m.id in scores else "-" for m in models)
        rows.append((name, *values, setting, _one_source(list(scores.values()))))
    alone = {
        model.id: [s for s in model.scores if (s.name, s.setting, s.document) not in shared]
        for model in models
    }
    header = ("BENCHMARK", *(model.id for model in models), "SETTING", "SOURCE")
    return (header, rows), alone


def _one_source(scores: Sequence[Score]) -> str:
    """Return where results of one document stand: the document once, and each place in it."""
    document = scores[0].document
    places = dict.fromkeys(score.source[len(document) :].strip(" ,") for score in scores)
    return f"{document} {', '.join(filter(None, places))}".rstrip()


def by_setting(scores: Iterable[Score]) -> list[tuple[str, str]]:
    """Return the names of results by their setting and document: what stands beside what."""
    found: dict[str, dict[str, None]] = {}
    for score in scores:
        place = f"{score.setting}, {score.document or score.source}"
        found.setdefault(place, {})[score.name] = None
    return [(place, ", ".join(names)) for place, names in found.items()]


def series_row(series: Series) -> tuple[str, ...]:
    """Return a series as a row under SERIES_HEADER."""
    released, context, headline = series.released, series.context, series.headline
    months, lengths, shown = NOT_KNOWN, NOT_KNOWN, "none"
    if released is not None:
        months = released[0] if released[0] == released[1] else f"{released[0]} to {released[1]}"
    if context is not None:
        least, most, extended = context
        lengths = _context(most, extended)
        if least < most:
            lengths = f"{length_text(least)} to {lengths}"
    if headline is not None:
        model, score = headline
        shown = f"{score.name} {score.value:g} ({model.id}, {score.setting}; {score.source})"
    return (
        *(series.name, months),
        " ".join(dict.fromkeys(map(count_text, series.sizes))) or NOT_KNOWN,
        lengths,
        " ".join(series.inputs),
        ", ".join(dict.fromkeys(license_use(model) for model in series.models)),
        _some(model.runs_here for model in series.models),
        *(", ".join(series.uses), ", ".join(series.strengths), shown),
    )


def _some(flags: Iterable[bool]) -> str:
    found = set(flags)
    return "yes" if found == {True} else "no" if found == {False} else "some"


def series_facts(series: Series) -> dict[str, Any]:
    """Return what a series offers as plain values for JSON."""
    from dataclasses import asdict

    headline = series.headline
    return {
        **{"name": series.name, "models": [model.id for model in series.models]},
        "released": None if series.released is None else list(series.released),
        "sizes": list(series.sizes),
        "context": None if series.context is None else list(series.context),
        **{"inputs": list(series.inputs), "thinking": list(series.thinking)},
        "licenses": list(dict.fromkeys(license_use(model) for model in series.models)),
        "run_here": [model.id for model in series.models if model.runs_here],
        **{"uses": list(series.uses), "strengths": list(series.strengths)},
        "headline": headline and {"model": headline[0].id, **asdict(headline[1])},
    }


def sources_of(catalog: Catalog, models: Iterable[Model]) -> Mapping[str, str]:
    """Return what the short names of sources stand for that the facts of `models` use."""
    said = {score.source for model in models for score in model.scores}
    said |= {source for model in models for source in model.sources}
    words = {word.strip(".,;:()") for text in said for word in text.split()}
    return {short: long for short, long in catalog.sources.items() if short in words}
