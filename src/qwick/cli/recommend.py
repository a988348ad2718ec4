"""`qwick recommend`: which Qwen, in which format, for a task and a machine, and how fast."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.show import json_option, print_json, print_table, print_wrapped, size_text
from qwick.errors import ParameterError, QwickError, ResourceError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from qwick.choose.devices import Device
    from qwick.choose.recommend import Ask, Larger, Option, Recommendation, Refusal
    from qwick.choose.speed import Speed
    from qwick.choose.tasks import Task
    from qwick.hub import Model, Score
    from qwick.machine.gpu import Gpu
    from qwick.machine.probe import Machine

__all__ = [
    "commands",
    "error_of",
    "languages_in",
    "lines",
    "machine_texts",
    "recommend",
    "row",
    "talks",
    "this_machine",
]

# As the family's cards count: 32k is 32,768 tokens, 1m a million.
_THOUSANDS = {"": 1, "k": 1024, "m": 1_000_000}


class _Lists(click.Command):
    """A command whose help ends with the tasks and the devices; they are read for that alone."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them."""
        from qwick.choose.devices import DEVICES
        from qwick.choose.tasks import TASKS

        with formatter.section("Tasks"):
            formatter.write_dl([(task.name, task.title) for task in TASKS.values()])
        with formatter.section("Devices"):
            several = "several of a graphics card, here eight"
            named = [(device.name, device.title) for device in DEVICES.values()]
            formatter.write_dl([("this", "this machine, measured"), *named, ("h100x8", several)])


@click.command(cls=_Lists, short_help="Say which Qwen fits a task and a machine, and how fast.")
@click.argument("word", required=False, metavar="[TASK]")
@click.option("--task", metavar="TASK", help="The same as TASK; without either: chat.")
@click.option(
    "--device", default="this", metavar="NAME", help="this, laptop, phone, pi5, h100x8 ..."
)
@click.option("--memory", metavar="SIZE", help="What the model may take, such as 8GB.")
@click.option("--min-speed", type=float, metavar="TOK/S", help="Least tokens per second.")
@click.option("--context", metavar="TOKENS", help="Longest conversation or document, such as 32k.")
@click.option("--languages", metavar="CODES", help="Languages it must know: hu,cs.")
@click.option("--license", "license_", default="any", help="any, or commercial.")
@click.option("--newer", is_flag=True, help="Generations that only other runtimes run, too.")
@click.option("--most", default=3, type=click.IntRange(1, 50), help="Checkpoints to show.")
@click.option("--refresh", is_flag=True, help="Measure this machine anew.")
@json_option
def recommend(
    word: str | None,
    task: str | None,
    device: str,
    memory: str | None,
    min_speed: float | None,
    context: str | None,
    languages: str | None,
    license_: str,
    newer: bool,
    most: int,
    refresh: bool,
    as_json: bool,
) -> None:
    """Say which checkpoint, format and runtime fit a task and a machine, and why.

    Nothing is fetched. This machine is measured once, which takes a second or two. Exit code 6:
    nothing fits or is quick enough; 2: nothing is made for it, or may be used so.
    """
    from qwick.choose.recommend import Ask
    from qwick.choose.recommend import recommend as find
    from qwick.hub import read_catalog
    from qwick.values import size_in_bytes

    wanted, machine = _task(word, task), None
    codes, length = languages_in(languages), _tokens(context)
    room = None if memory is None else size_in_bytes("memory", memory)
    if device.strip().lower() == "this":
        chosen, machine = this_machine(refresh)
    else:
        from qwick.choose.devices import device_named

        chosen = device_named(device)
    ask = Ask(wanted, chosen, room, min_speed, length, codes, license_.strip().lower(), newer)
    found = find(ask, read_catalog(), most)
    if as_json:
        print_json(_facts(found, machine))
    elif found.refusal is None:
        _print(found, machine)
    if found.refusal is not None:
        error = error_of(found.refusal)
        if not as_json:
            raise error
        raise click.exceptions.Exit(error.exit_code)


def _task(word: str | None, option: str | None) -> Task:
    """Return the task that is named, once or twice alike; UsageError for two of them."""
    from qwick.choose.tasks import task_named

    named = [task_named(name) for name in (word, option) if name is not None]
    if len(named) == 2 and named[0] is not named[1]:
        raise UsageError(
            f"two tasks are given, {named[0].name} and {named[1].name}",
            hint="ask for one: qwick recommend TASK",
        )
    return named[0] if named else task_named("chat")


def this_machine(refresh: bool) -> tuple[Device, Machine]:
    """Return this machine as a device; measuring it is told on standard error."""
    from qwick.choose.devices import this_device
    from qwick.machine.cpu import read_memory
    from qwick.machine.probe import cached, probe

    if sys.stderr.isatty() and (refresh or cached() is None):  # a script wants errors there alone
        click.echo("measuring this machine ...", err=True)
    machine = probe(refresh)
    return this_device(machine, read_memory()), machine


def _tokens(text: str | None) -> int | None:
    """Return a number of tokens: 8192, 32k, 1m; ParameterError."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,12})([km]?)", text.strip().lower().replace(",", ""))
    if match is None or int(match[1]) == 0:
        raise ParameterError(
            f"context is {text!r:.80}; allowed: a number of tokens, such as 8192, 32k or 1m"
        )
    return int(match[1]) * _THOUSANDS[match[2]]


def languages_in(text: str | None) -> tuple[str, ...]:
    """Return the codes of languages, as the catalog writes them; ParameterError."""
    from qwick.hub import language_code

    codes = (language_code(code) for code in (text or "").split(",") if code.strip())
    return tuple(dict.fromkeys(codes))


def error_of(refusal: Refusal) -> QwickError:
    """Return a refusal as an error: of this machine, or of what was asked."""
    kind = ResourceError if refusal.cause in ("memory", "speed") else UnsupportedError
    return kind(refusal.message, hint=refusal.hint)


def _print(found: Recommendation, machine: Machine | None) -> None:
    """Print the answer for people."""
    ask = found.ask
    tokens = f"{ask.length:,} token{'s' if ask.length > 1 else ''}"
    print_wrapped("for      ", f"{ask.task.title}, {tokens} of context")
    for number, text in enumerate(machine_texts(ask, machine)):
        print_wrapped(f"{'' if number else 'on':8} ", text)
    click.echo()
    rows = [row(number, option) for number, option in enumerate(found.options, 1)]
    print_table(tuple(rows[0]), [tuple(one.values()) for one in rows])
    for number, option in enumerate(found.options, 1):
        click.echo()
        click.echo(f"{number}. {option.model.id}, {_format(option)}, by {option.way.runtime}")
        for label, text in lines(ask, option):
            lead = f"   {label.ljust(9)} "
            if label == "start":  # a command is copied: whole
                click.echo(lead + text)
            else:
                print_wrapped(lead, text)
    if found.larger is not None:
        click.echo()
        print_wrapped("one size up: ", _larger_text(found.larger))
    if found.unsized:
        click.echo()
        print_wrapped("not ranked, for what they take is not known: ", ", ".join(found.unsized))


def machine_texts(ask: Ask, machine: Machine | None) -> list[str]:
    """Return what is told of the device: its name, what it can do, and each graphics card."""
    device = ask.device
    figures = (
        f"{size_text(ask.room)} for the model; reads {device.bandwidth / 1e9:,.0f} GB/s, "
        f"multiplies {device.products / 1e9:,.0f} GOP/s"
    )
    cards = () if machine is None else machine.gpus
    return [
        device.title,
        f"{figures} ({_source_text(device)})",
        *(_card_text(card) for card in cards),
    ]


def _source_text(device: Device) -> str:
    if not device.measured:
        return "typical"
    if device.busy:
        again = "`qwick recommend --refresh` measures anew"
        return f"measured while other programs computed: {again}"
    return "measured"


def _card_text(card: Gpu) -> str:
    from qwick.choose.devices import card_named

    known = None if card.memory is None else card_named(card.name, card.memory)
    if known is None:
        return f"and {card.name}: --device and the name of a card like it rank for that"
    return f"and {card.name}: --device {known.name} ranks for that"


def row(number: int, option: Option) -> dict[str, str]:
    """Return the cells of an option in a table, by the heads of their columns."""
    spread = option.speed.spread
    low, high = option.rate * (1 - spread), option.rate * (1 + spread)
    first = "{} to {} s".format(*map(_figure, option.speed.first_range))
    return {
        "": str(number),
        "CHECKPOINT": option.model.id,
        "FORMAT": _format(option),
        "RUNTIME": option.way.runtime,
        "MEMORY": size_text(option.parts.total),
        "TOKENS/S": f"{_figure(low)} to {_figure(high)}",
        "FIRST TOKEN": first,
        "DOWNLOAD": size_text(option.download),
    }


def lines(ask: Ask, option: Option) -> list[tuple[str, str]]:
    """Return what is told of one option, as labels and texts."""
    from qwick.choose.quality import language_evidence

    parts, speed = option.parts, option.speed
    told = [
        (
            "memory",
            f"{size_text(parts.weights)} weights + {size_text(parts.kv)} keys and values of "
            f"{ask.length:,} tokens + {size_text(parts.scratch)} besides",
        ),
        ("speed", f"{_speed_text(ask, speed)}; give or take {speed.spread:.0%}"),
    ]
    told += [("why", reason) for reason in option.reasons]
    told += [("mind", caution) for caution in option.cautions]
    scores = [_score_text(score) for score in option.evidence]
    told += [("score", text) for text in scores or ["none in the catalog"]]
    for code in ask.languages:
        found = [_score_text(score) for score in language_evidence(option.model, code)]
        told += [("in " + code, text) for text in found[:2] or ["none published"]]
    told += [("start", command) for command in commands(ask, option)]
    return told


def _speed_text(ask: Ask, speed: Speed) -> str:
    if not ask.task.tokens_out:
        return (
            f"texts are read at {_figure(speed.prefill)} tokens/s: one of {speed.prompt:,} in "
            f"{_figure(speed.first)} s"
        )
    return (
        f"{_figure(speed.decode)} tokens/s after a prompt of {speed.prompt:,}, which is read at "
        f"{_figure(speed.prefill)} tokens/s"
    )


def commands(ask: Ask, option: Option) -> list[str]:
    """Return the commands that start it."""
    from qwick.choose.runtimes import llama_options, vllm_options

    way, model, length = option.way, option.model, ask.length
    if way.runtime == "qwick":
        # What does not converse is served: it embeds, ranks, or completes for an editor.
        verb = "chat" if talks(model, ask.task) else "serve"
        return [" ".join(["qwick", verb, option.name, *option.arguments])]
    if way.runtime == "ollama":
        return [f"ollama run {model.ollama}"]
    if way.runtime == "llama.cpp":
        source = f"{way.form.repository}:{way.form.name.upper()}"
        return [" ".join(["llama-server -hf", source, *llama_options(model, length)])]
    if way.runtime == "vllm":
        told = vllm_options(model, way.form, ask.device, length, option.parts.total)
        return [" ".join(["vllm serve", way.form.repository, *told])]
    return [f"transformers serve {way.form.repository}"]


def talks(model: Model, task: Task) -> bool:
    """Whether a conversation is what the task wants and the checkpoint was trained for."""
    conversation = task.tokens_out and task.input == "text" and task.name != "fim"
    return conversation and model.variant in ("instruct", "thinking")


def _larger_text(larger: Larger) -> str:
    option = larger.option
    gains = [
        f"{mine.name} {mine.value:g} to {theirs.value:g} ({mine.setting}; {mine.source})"
        for mine, theirs in larger.gains[:3]
    ]
    gained = f"; it would gain: {', '.join(gains)}" if gains else ""
    return f"{option.model.id}, {_format(option)}: {larger.obstacle}{gained}"


def _format(option: Option) -> str:
    if option.way.quantize is None:
        return option.way.form.name
    return f"{option.way.form.name} to {option.way.quantize}"


def _score_text(score: Score) -> str:
    return f"{score.name} {score.value:g} ({score.setting}; {score.source})"


def _figure(value: float) -> str:
    """Return a figure with as many digits as a prediction has."""
    if value >= 100:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _facts(found: Recommendation, machine: Machine | None) -> dict[str, Any]:
    """Return the answer as plain values."""
    ask, refusal, larger = found.ask, found.refusal, found.larger
    return {
        "task": ask.task.name,
        "device": {
            "name": ask.device.name,
            "title": ask.device.title,
            "memory": ask.room,
            "bandwidth": ask.device.bandwidth,
            "products": ask.device.products,
            "products_wide": ask.device.wide,
            "measured": ask.device.measured,
            "busy": ask.device.busy,
        },
        "machine": None if machine is None else machine.to_dict(),
        "context": ask.length,
        "languages": list(ask.languages),
        "license": ask.license,
        "min_speed": ask.min_speed,
        "unsized": list(found.unsized),
        "options": [_option_facts(ask, option) for option in found.options],
        "larger": None
        if larger is None
        else {
            **_option_facts(ask, larger.option),
            "obstacle": larger.obstacle,
            "gains": [
                {**_score_facts(mine), "larger": theirs.value} for mine, theirs in larger.gains
            ],
        },
        "refusal": None
        if refusal is None
        else {
            "cause": refusal.cause,
            "message": refusal.message,
            "hint": refusal.hint,
            "nearest": None if refusal.nearest is None else _option_facts(ask, refusal.nearest),
        },
    }


def _option_facts(ask: Ask, option: Option) -> dict[str, Any]:
    from qwick.choose.quality import language_evidence

    parts, speed, way = option.parts, option.speed, option.way
    return {
        "id": option.model.id,
        "name": option.name,
        "format": way.form.name,
        "repository": way.form.repository,
        "quantize": way.quantize,
        "runtime": way.runtime,
        "other_runtimes": list(way.others),
        "memory": {
            "weights": parts.weights,
            "kv": parts.kv,
            "scratch": parts.scratch,
            "total": parts.total,
        },
        "download": option.download,
        "speed": {
            "decode": speed.decode,
            "decode_range": list(speed.decode_range),
            "prefill": speed.prefill,
            "ttft": speed.first,
            "ttft_range": list(speed.first_range),
            "prompt": speed.prompt,
            "rate": option.rate,
        },
        "worth": option.worth,
        "license": None if option.model.license is None else option.model.license.id,
        "reasons": list(option.reasons),
        "cautions": list(option.cautions),
        "scores": [_score_facts(score) for score in option.evidence],
        "languages": {
            code: [_score_facts(score) for score in language_evidence(option.model, code)]
            for code in ask.languages
        },
        "commands": commands(ask, option),
    }


def _score_facts(score: Score) -> dict[str, Any]:
    return {
        "name": score.name,
        "value": score.value,
        "setting": score.setting,
        "source": score.source,
    }
