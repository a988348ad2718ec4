"""`qwick jobs`: a file of requests in, a file of answers out, in OpenAI's batch format."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.load import load, load_options
from qwick.cli.offline import offline_option
from qwick.cli.progress import Counter
from qwick.cli.show import counted, json_option, print_json
from qwick.errors import RequestCancelled, UsageError

if TYPE_CHECKING:
    from qwick.llm import Qwen
    from qwick.server.jobs import Jobs, Tally

__all__ = ["jobs"]

SOME_FAILED = 11  # the exit code when every line has an answer, and some of them are errors
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@click.command(short_help="Answer a file of requests.")
@click.argument("requests", metavar="IN.JSONL")
@click.argument("answers", metavar="OUT.JSONL")
@click.option(
    "--model",
    metavar="[NAME=]MODEL",
    help="A name, a folder or a file, and what the requests call it; default: the default model.",
)
@click.option("--errors", metavar="FILE", help="Write answers that are errors to FILE.")
@click.option(
    "--places",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="Requests that are computed at once.",
)
@load_options
@click.option("--no-drafts", is_flag=True, help="One token per step; the answers are the same.")
@offline_option
@json_option
def jobs(
    requests: str,
    answers: str,
    model: str | None,
    errors: str | None,
    places: int,
    loading: dict[str, Any],
    no_drafts: bool,
    as_json: bool,
) -> None:
    """Answer the requests in IN.JSONL, a line each, and append the answers to OUT.JSONL as they
    are done: OpenAI's batch format, with /v1/chat/completions, /v1/completions, /v1/embeddings and
    /v1/rerank.

    A run that was cut off, however, goes on where it was when it is started again. Ctrl-C finishes
    what is under way; a second one drops it. Exit code: 0 if all went well, 11 if some lines got
    errors, which stand in OUT.JSONL.
    """
    from qwick.server.jobfile import Answers, Requests, check_apart
    from qwick.server.jobs import Jobs
    from qwick.server.models import named

    paths = [Path(_path(name, "IN.JSONL, OUT.JSONL")) for name in (requests, answers)]
    if errors is not None:
        paths.append(Path(_path(errors, "--errors")))
    check_apart(paths)
    ((served, source),) = named([] if model is None else [model])
    asked = Requests(paths[0])
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(Answers(path)) for path in paths[1:]]
        run = Jobs(
            asked,
            files[0],
            files[1] if errors is not None else None,
            served=served,
            places=places,
        )
        begun = time.monotonic()
        if run.tally.answered < run.tally.lines:
            with load(source, loading, drafts=not no_drafts) as qwen:
                begun = time.monotonic()
                _run(run, qwen)
        _report(run.tally, time.monotonic() - begun, answers, as_json=as_json)


def _path(text: str, name: str) -> str:
    if not text or "\0" in text or text == "-":
        raise UsageError(
            f"{name} is {text!r:.60}; allowed: the path of a file", hint="a run is taken up from it"
        )
    return text


def _run(run: Jobs, qwen: Qwen) -> None:
    import asyncio

    begun = time.monotonic()

    def tell(tally: Tally) -> None:
        rate = _rate(tally, time.monotonic() - begun)
        counter.tell(tally.answered, f"{tally.failed:,} failed{rate}")

    async def answer() -> None:
        with _heard(run):
            await run.run(qwen, tell)

    with Counter("answering", run.tally.lines, run.tally.answered) as counter:
        asyncio.run(answer())


@contextlib.contextmanager
def _heard(run: Jobs) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop the run in good order within the block."""
    import asyncio

    loop = asyncio.get_running_loop()

    def stop() -> None:
        run.stop()
        if run.under_way:
            click.echo(
                f"finishing {counted(run.under_way, 'answer')}; Ctrl-C again drops them", err=True
            )

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def _rate(tally: Tally, seconds: float) -> str:
    """Return the tokens a second, to be added to a line; nothing where none are generated."""
    return f" · {tally.tokens / max(seconds, 1e-9):.0f} tok/s" if tally.tokens else ""


def _report(tally: Tally, seconds: float, path: str, *, as_json: bool) -> None:
    """Say how it went, and exit with what that means."""
    left = tally.lines - tally.answered
    if as_json:
        found: dict[str, Any] = {
            "lines": tally.lines,
            "answered": tally.answered,
            "failed": tally.failed,
            "earlier": tally.earlier,
            "left": left,
            "tokens": tally.tokens,
            "seconds": round(seconds, 3),
        }
        print_json(found)
    else:
        earlier = f" ({tally.earlier:,} earlier)" if tally.earlier else ""
        click.echo(
            f"{tally.answered:,} of {counted(tally.lines, 'line')} answered{earlier}, "
            f"{tally.failed:,} with an error{_rate(tally, seconds)} · {path}"
        )
    if left:
        click.echo(f"{counted(left, 'line')} left; run it again to go on", err=True)
        raise click.exceptions.Exit(RequestCancelled.exit_code)
    if tally.failed:
        raise click.exceptions.Exit(SOME_FAILED)
