"""`qwick bench`: speed on this machine, beside what the machine's memory and arithmetic allow."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.fit import check_fits_here
from qwick.cli.load import load_options
from qwick.cli.offline import offline_option
from qwick.cli.progress import listening
from qwick.cli.show import json_option, print_json, size_text
from qwick.cli.visible import one_line

if TYPE_CHECKING:
    from qwick.evaluate.speed import Measured
    from qwick.machine.limits import Limits
    from qwick.model.expert_use import ExpertUse


def _numbers(most: int) -> Callable[[click.Context, click.Parameter, str], tuple[int, ...]]:
    """Return what reads numbers from 1 to `most`, with commas between; "0" or nothing is none."""

    def read(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
        parts = [part.strip() for part in value.split(",")]
        if parts in (["0"], [""]):
            return ()
        if not all(re.fullmatch("[0-9]{1,9}", part) and 1 <= int(part) <= most for part in parts):
            allowed = f"whole numbers from 1 to {most}, separated by commas, or 0 for none"
            raise click.BadParameter(f"{value!r}; allowed: {allowed}", ctx, param)
        return tuple(int(part) for part in parts)

    return read


_lengths = _numbers(1 << 20)
_streams = _numbers(512)


@click.command(short_help="Measure speed beside the machine's limits.")
@click.argument("model", required=False)
@click.option("--prompt", "-p", callback=_lengths, default="512", help="Prompt lengths [512].")
@click.option("--generate", "-n", callback=_lengths, default="128", help="Answer lengths [128].")
@click.option("--batch", "-b", callback=_streams, default="8,32", help="Streams at once [8,32].")
@click.option("--repeat", "-r", type=click.IntRange(1, 100), default=3, help="Repetitions [3].")
@load_options
@click.option("--profile", is_flag=True, help="Show each kernel's time, GB/s and GFLOP/s.")
@offline_option
@json_option
def bench(
    model: str | None,
    prompt: tuple[int, ...],
    generate: tuple[int, ...],
    batch: tuple[int, ...],
    repeat: int,
    loading: dict[str, Any],
    profile: bool,
    as_json: bool,
) -> None:
    """Time prompts (pp), one stream (tg) and batches of MODEL (a name, folder or .gguf file).

    Best of the repetitions after a warm-up, random ids, greedy. GB/s and GOP/s count the weights
    alone; "of limit" is the time that the machine's measured bandwidth and arithmetic would allow,
    divided by the time taken.
    """
    from qwick import hub
    from qwick.evaluate.speed import Plan, measure
    from qwick.formats.open import open_checkpoint
    from qwick.llm.load import Options, load
    from qwick.machine import limits
    from qwick.model.decoder import Decoder
    from qwick.native import ops

    wanted = max([*prompt, *generate, 64]) + 2
    with listening() as listener:
        check_fits_here(model, loading)
        path = hub.resolve(model, listener)
        if loading["yarn"] is None:
            loading["ctx"] = loading["ctx"] or wanted
        loaded = load(path, Options(**loading), listener)
    decoder = loaded.model
    assert isinstance(decoder, Decoder)
    with open_checkpoint(path) as checkpoint:
        size, parts = checkpoint.size_bytes, len(checkpoint.files)
        parameters = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    if not as_json:
        click.echo("measuring the machine ...", err=True)
    machine = limits.measure()
    report: dict[str, Any] = {
        "model": loaded.texts.name,
        "file": path.name,
        "parts": parts,
        "size_bytes": size,
        "parameters": parameters,
        "engine": "qwick",
        "isa": ops.isa(),
        "threads": ops.threads(),
        "bandwidth": machine.bandwidth,
        "peak": machine.peak,
        "tests": [],
    }
    plan = Plan(prompt, generate, batch, repeat, profile)
    if not as_json:
        _print_head(report)
    tell = None if as_json else (lambda test: click.echo(f"{test} ...\r", err=True, nl=False))
    for test in measure(decoder, loaded.texts.tokenizer.n_tokens, plan, tell):
        row = _row(test, machine)
        report["tests"].append(row)
        if not as_json:
            _print_row(report, row)
            _print_kernels(row)
    use = decoder.expert_use
    report["experts"] = None if use is None else use.to_dict()
    if as_json:
        print_json(report)
    elif use is not None:
        click.echo(_experts_text(use))


def _row(test: Measured, machine: Limits) -> dict[str, Any]:
    best = min(test.seconds)
    least = machine.seconds(bytes_read=test.bytes_read, operations=test.operations)
    return {
        "test": test.test,
        "tokens_per_second": test.rate,
        "median_tokens_per_second": test.median_rate,
        "seconds": list(test.seconds),
        "bytes_per_second": test.bytes_read / best,
        "operations_per_second": test.operations / best,
        "fraction_of_limit": least / best,
        "python_share": test.python_share,
        "kernels": [
            {
                "name": kernel.name,
                "calls": kernel.calls,
                "seconds": kernel.seconds,
                "share": kernel.seconds / sum(test.seconds),
                "bytes_per_second": kernel.bytes / kernel.seconds,
                "operations_per_second": kernel.operations / kernel.seconds,
            }
            for kernel in test.kernels
        ],
    }


def _experts_text(use: ExpertUse) -> str:
    text = (
        f"experts: {use.per_call:.1f} of {use.experts} read per layer and step, the busiest has "
        f"{use.busiest:.1%} of its layer's rows"
    )
    if use.budget is None:
        return text
    found = use.hits / max(1, use.hits + use.misses)
    return (
        f"{text}; {size_text(use.held)} of them in memory, {found:.1%} found there, "
        f"{size_text(use.read)} brought in"
    )


_LINE = "| {:<28} | {:>9} | {:>8} | {:<18} | {:>7} | {:>8} | {:>9} | {:>7} | {:>7} | {:>8} |"


def _print_head(report: dict[str, Any]) -> None:
    bandwidth, peak = report["bandwidth"] / 1e9, report["peak"] / 1e9
    kernels = f"{report['isa']}, {report['threads']} threads"
    click.echo(f"machine: reads {bandwidth:.1f} GB/s, multiplies {peak:.0f} GOP/s ({kernels})")
    head = (
        "model",
        "size",
        "params",
        "engine",
        "threads",
        "test",
        "t/s",
        "GB/s",
        "GOP/s",
        "of limit",
    )
    click.echo(_LINE.format(*head))
    click.echo(_LINE.format(*("-" * n for n in (28, 9, 8, 18, 7, 8, 9, 7, 7, 8))))


def _print_row(report: dict[str, Any], row: dict[str, Any]) -> None:
    click.echo(
        _LINE.format(
            one_line(report["model"])[:28],
            size_text(report["size_bytes"]),
            f"{report['parameters'] / 1e6:.0f} M",
            f"qwick {report['isa']}",
            report["threads"],
            row["test"],
            f"{row['tokens_per_second']:.1f}",
            f"{row['bytes_per_second'] / 1e9:.1f}",
            f"{row['operations_per_second'] / 1e9:.0f}",
            f"{row['fraction_of_limit']:.0%}",
        )
    )


def _print_kernels(row: dict[str, Any]) -> None:
    """Print where a test's time went; what is missing from 100 % was spent outside the kernels."""
    for kernel in row["kernels"]:
        click.echo(
            f"    {kernel['name']:<36} {kernel['share']:>6.1%} {kernel['calls']:>7} calls "
            f"{kernel['seconds'] / kernel['calls'] * 1e6:>10.1f} us "
            f"{kernel['bytes_per_second'] / 1e9:>7.1f} GB/s "
            f"{kernel['operations_per_second'] / 1e9:>7.1f} GFLOP/s"
        )
