"""`qwick models search|compare|series`: the published checkpoints of the family, offline."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.show import (
    json_option,
    markdown_option,
    print_json,
    print_markdown,
    print_pairs,
    print_table,
    print_wrapped,
)
from qwick.errors import ModelNotFoundError, ParameterError

if TYPE_CHECKING:
    from qwick.hub import Model

__all__ = ["compare", "in_catalog", "print_model", "search", "series", "unknown"]

TAGS = (
    *("coder", "math", "vl", "audio", "omni", "moe", "2507"),
    *("base", "instruct", "thinking", "embedding", "reranker"),
)
USES = ("commercial", "conditional", "research", "unknown")
_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_LONG_UNITS = {"k": 1 << 10, "m": 1 << 20}


@click.command()
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("--series", metavar="NAME", help="Of that series only: Qwen2.5-Coder.")
@click.option("--tag", "tags", multiple=True, type=click.Choice(TAGS), help="Of that kind only.")
@click.option("--license", "use", type=click.Choice(USES), help="Whose licence allows that.")
@click.option("--language", metavar="CODE", help="That name the language: hu, ISO 639.")
@click.option("--input", "kind", type=click.Choice(("text", "image", "video", "audio")))
@click.option("--format", "form", metavar="NAME", help="Published in that form: q4_k_m, awq.")
@click.option("--runs-here", is_flag=True, help="That qwick's own engine runs.")
@click.option("--min-params", metavar="SIZE", help="With at least so many parameters: 1.5B.")
@click.option("--max-params", metavar="SIZE", help="With at most so many parameters: 8B.")
@click.option("--context", metavar="TOKENS", help="With so long a native context: 32k.")
@json_option
@markdown_option
def search(as_json: bool, as_markdown: bool, **asked: Any) -> None:
    """List the published checkpoints of the family that have every WORD in their facts.

    A checkpoint of which a fact is not known fails every filter on that fact.
    """
    from qwick import hub
    from qwick.cli.facts import MODEL_HEADER, model_facts, model_row

    tests = _tests(asked)
    found = [m for m in hub.read_catalog().models.values() if all(test(m) for test in tests)]
    if as_json:
        print_json({"models": [model_facts(model) for model in found]})
    elif as_markdown:
        print_markdown(MODEL_HEADER, [model_row(model) for model in found])
    elif found:
        print_table(MODEL_HEADER, [model_row(model) for model in found], hang=True)
    else:
        click.echo("no published checkpoint is all that")


def _tests(asked: dict[str, Any]) -> list[Callable[[Model], bool]]:
    """Return what a checkpoint has to pass; raises for a value that no checkpoint could."""
    from qwick.cli.facts import license_use
    from qwick.hub import language_code

    tests: list[Callable[[Model], bool]] = []
    words, tags = [word.lower() for word in asked["words"]], asked["tags"]
    tests.append(lambda m: all(word in _text(m) for word in words))
    tests.append(lambda m: all(tag in (*m.tags, m.variant) for tag in tags))
    if asked["series"] is not None:
        name = _series_name(asked["series"])
        tests.append(lambda m: m.series == name)
    if asked["use"] is not None:
        use = "not known" if asked["use"] == "unknown" else asked["use"]
        tests.append(lambda m: license_use(m) == use)
    if asked["language"] is not None:
        code = language_code(asked["language"])
        tests.append(lambda m: m.languages is not None and m.languages.has(code) is True)
    if asked["kind"] is not None:
        tests.append(lambda m: asked["kind"] in m.inputs)
    if asked["form"] is not None:
        form = _format_name(asked["form"])
        tests.append(lambda m: m.format(form) is not None)
    if asked["runs_here"]:
        tests.append(lambda m: m.runs_here)
    if asked["min_params"] is not None:
        least = _number("--min-params", asked["min_params"], _UNITS)
        tests.append(lambda m: (m.parameters.total or 0) >= least)
    if asked["max_params"] is not None:
        most = _number("--max-params", asked["max_params"], _UNITS)
        tests.append(lambda m: (m.parameters.total or math.inf) <= most)
    if asked["context"] is not None:
        length = _number("--context", asked["context"], _LONG_UNITS)
        tests.append(lambda m: (m.context.native or 0) >= length)
    return tests


def _text(model: Model) -> str:
    """Return what the words of a search are looked up in."""
    from qwick.hub import uses_of

    parts = (model.id, model.repository, model.series, model.variant, *model.tags)
    return " ".join((*parts, *model.inputs, *uses_of(model), model.ollama or "")).lower()


def _number(name: str, text: str, units: dict[str, int]) -> float:
    from qwick.values import refused

    digits, unit = text.strip().lower(), 1
    if digits[-1:] in units:
        digits, unit = digits[:-1], units[digits[-1]]
    # float() would take digits of every script, and underscores.
    value = float(digits) * unit if re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", digits) else 0.0
    if not 1 <= value < math.inf:
        names = " ".join(units).upper() if "b" in units else " ".join(units)
        raise refused(name, text, f"a number above 0, with a unit or without: {names}")
    return value


def _format_name(text: str) -> str:
    """Return the name of a form that something is published in; ParameterError."""
    from qwick import hub
    from qwick.errors import shown

    names = sorted({form.name for m in hub.read_catalog().models.values() for form in m.formats})
    wanted = text.strip().lower()
    if wanted not in names:
        raise ParameterError(
            f"--format is {shown(text)}; allowed: {', '.join(names)}",
            hint="`qwick models show NAME` lists a checkpoint's",
        )
    return wanted


def _series_name(text: str) -> str:
    """Return the series of that name, upper and lower case alike; ModelNotFoundError."""
    import difflib

    from qwick import hub

    names = {one.name.lower(): one.name for one in hub.series_of(hub.read_catalog())}
    wanted = text.strip().lower()
    if wanted in names:
        return names[wanted]
    close = [names[name] for name in difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)]
    raise ModelNotFoundError(
        f"there is no series called {hub.shortened(text)!r}",
        hint=f"did you mean {' or '.join(close)}?" if close else "see `qwick models series`",
    )


def print_model(model: Model, *, as_markdown: bool = False) -> None:
    """Print what is known of a checkpoint: facts, formats, sampling, scores, sources."""
    from qwick import hub
    from qwick.cli.facts import sheet, sources_of, tables_of

    facts = sheet(model)
    sources = sources_of(hub.read_catalog(), [model])
    if as_markdown:
        click.echo(f"# {model.id}\n")
        print_markdown(("FACT", "VALUE"), facts)
    else:
        print_pairs(facts)
    for header, rows in (*tables_of(model), (("SOURCE", "STANDS FOR"), list(sources.items()))):
        click.echo()
        (print_markdown if as_markdown else print_table)(header, rows)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME NAME...")
@json_option
@markdown_option
def compare(names: tuple[str, ...], as_json: bool, as_markdown: bool) -> None:
    """Show published checkpoints side by side.

    Scores stand beside each other only where benchmark, setting and document are the same.
    """
    from qwick import hub
    from qwick.cli.facts import by_setting, compared, model_facts, side_by_side, sources_of

    models = _to_compare(names)
    (header, rows), alone = compared(models)
    sources = sources_of(hub.read_catalog(), models)
    if as_json:
        print_json(
            {
                "models": [model_facts(model) for model in models],
                "scores": [dict(zip(map(str.lower, header), row, strict=True)) for row in rows],
                "not_comparable": {
                    name: [
                        {"name": s.name, "setting": s.setting, "source": s.source} for s in scores
                    ]
                    for name, scores in alone.items()
                },
                "sources": dict(sources),
            }
        )
        return
    short = side_by_side(models)
    (print_markdown if as_markdown else print_table)(*short)
    click.echo()
    if rows and as_markdown:
        print_markdown(header, rows)
    elif rows:
        print_table(header, rows, repeated=(0, header.index("SETTING")))  # a row's name is both
    else:
        click.echo("No benchmark is published of two of them in the same setting and document.")
    for name, scores in alone.items():
        if scores:
            click.echo(f"\nNot comparable, of {name} alone in their setting and document:")
            for place, listed in by_setting(scores):
                if as_markdown:
                    click.echo(f"- {place}: {listed}")
                else:
                    print_wrapped("  ", f"{place}: {listed}")


def _to_compare(names: Sequence[str]) -> list[Model]:
    """Return the checkpoints of those names, each once; ParameterError for fewer than two."""
    from qwick.values import refused

    models = list({model.id: model for model in map(_known, names)}.values())
    allowed = "two checkpoints of the catalog, or more"
    if len(models) == 1 and len(names) > 1:
        raise ParameterError(
            f"all of the names are of the same checkpoint, {models[0].id}; allowed: {allowed}",
            hint="see `qwick models search` for others",
        )
    if len(models) < 2:
        raise refused("NAME", " ".join(names), allowed)
    return models


def _known(name: str) -> Model:
    model = in_catalog(name)
    if model is None:
        raise unknown(name)
    return model


def in_catalog(name: str) -> Model | None:
    """Return a checkpoint by its name, which may have a format behind it as for `pull`; or None."""
    from qwick import hub
    from qwick.hub.names import parse

    reference = parse(name)
    return hub.read_catalog().find(name if reference is None else reference.name)


def unknown(name: str) -> ModelNotFoundError:
    """Return the error for a name that the catalog does not have, with likely ones."""
    from qwick import hub

    close = hub.read_catalog().near(name)
    return ModelNotFoundError(
        f"there is no checkpoint called {hub.shortened(name)!r}",
        hint=f"did you mean {' or '.join(close)}?" if close else "see `qwick models search`",
    )


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@markdown_option
def series(names: Sequence[str], as_json: bool, as_markdown: bool) -> None:
    """Compare the series of the family: sizes, context, uses and strengths, from the facts."""
    from qwick import hub
    from qwick.cli.facts import SERIES_HEADER, series_facts, series_row

    wanted = [_series_name(name) for name in names]
    found = [one for one in hub.series_of(hub.read_catalog()) if not wanted or one.name in wanted]
    if as_json:
        print_json({"series": [series_facts(one) for one in found]})
    elif as_markdown:
        print_markdown(SERIES_HEADER, [series_row(one) for one in found])
    else:
        for one in found:
            print_pairs(list(zip(map(str.lower, SERIES_HEADER), series_row(one), strict=True)))
            click.echo()
