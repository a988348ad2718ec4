"""`qwick run`: one prompt in, the answer streamed out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.progress import fetching
from qwick.cli.show import json_option, print_json
from qwick.errors import ModelNotFoundError, ParameterError, UsageError

if TYPE_CHECKING:
    from qwick.llm import Qwen, Reply

__all__ = ["run"]


@click.command(short_help="Answer a prompt.")
@click.argument("words", nargs=-1, metavar="[MODEL] PROMPT")
@click.option("--system", metavar="TEXT", help="The system message.")
@click.option("--temperature", type=float, help="0 is greedy; default: the checkpoint's own.")
@click.option("--max-tokens", type=int, help="Longest answer; default: what the context holds.")
@click.option("--seed", type=int, help="The same seed gives the same answer.")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Kernel threads; default: the cores that may be used.",
)
@click.option(
    "--ctx", type=click.IntRange(1), help="Context in tokens; default: what model and memory allow."
)
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is: no template, no streaming.")
@json_option
def run(
    words: tuple[str, ...],
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    threads: int | None,
    ctx: int | None,
    raw: bool,
    as_json: bool,
) -> None:
    """Answer PROMPT with MODEL (a name, a folder or a .gguf file; without one: the default).

    PROMPT is read from standard input when it is "-", or when it is left out and input is piped.
    """
    from qwick.engine.request import Sampling

    options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    sampling: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    Sampling(**sampling)  # refuse a bad value before the model loads
    if raw and system is not None:
        raise UsageError(
            "--system has no place in a raw prompt", hint="leave out --raw or --system"
        )
    model, prompt = split_words(words)
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": valid_text("--system", system)})
    with _load(model, threads, ctx) as qwen:
        if not (raw or as_json):
            reply = _stream(qwen, messages, sampling)
        else:
            reply = qwen.complete(prompt, **sampling) if raw else qwen.chat(messages, **sampling)
            if as_json:
                print_json(reply.to_dict())
            else:
                click.echo(reply.text)
    if sys.stderr.isatty():
        click.secho(_status(reply), err=True, dim=True)


def split_words(words: tuple[str, ...]) -> tuple[str | None, str]:
    """Return (model or None, prompt) as the arguments and standard input give them."""
    if len(words) > 2:
        raise UsageError(
            f"{len(words)} arguments where a model and a prompt are expected",
            hint='put the prompt in quotes: qwick run "Write a haiku."',
        )
    piped = not sys.stdin.isatty()
    if len(words) == 2:
        model, prompt = words
        return model, _prompt(prompt)
    if len(words) == 0:
        if piped:
            return None, _prompt("-")
        raise UsageError("there is no prompt", hint='qwick run "Write a haiku.", or pipe it in')
    (word,) = words
    if not _names_a_model(word):
        return None, _prompt(word)
    if piped:
        return word, _prompt("-")
    raise UsageError(f"{word} is a model, and there is no prompt", hint=f'qwick run {word} "..."')


def valid_text(name: str, text: str) -> str:
    """Return `text`; UsageError when its bytes were not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name} is not valid UTF-8 (at character {error.start})",
            hint="convert it, for instance with iconv -t utf-8",
        ) from None
    return text


def _prompt(word: str) -> str:
    """Return the prompt, from standard input when `word` is "-" (one last line end is cut off)."""
    if word == "-":
        word = sys.stdin.buffer.read().decode("utf-8", "surrogateescape").removesuffix("\n")
    if not word.strip():
        raise ParameterError("the prompt is empty", hint='qwick run "Write a haiku."')
    return valid_text("the prompt", word)


def _names_a_model(word: str) -> bool:
    """Whether a single argument is a model; ModelNotFoundError when it is a misspelt name."""
    from qwick import hub

    if hub.find(word) is not None or word.lower().endswith(".gguf"):
        return True
    try:
        if (Path(word) / "config.json").is_file():
            return True
    except (OSError, ValueError):  # too long for a path, or with a NUL: a prompt
        return False
    close = hub.near(word, cutoff=0.8)
    if close and len(word.split()) == 1:
        raise ModelNotFoundError(
            f"there is no model called {word!r}", hint=f"did you mean {close[0]}?"
        )
    return False


def _load(model: str | None, threads: int | None, ctx: int | None) -> Qwen:
    """Return the loaded model, fetched with a progress bar when the store lacks it."""
    from qwick import hub

    with fetching() as listener:
        path = hub.resolve(model, listener)
    from qwick.llm import Qwen  # after the model's name is known to be right

    return Qwen.load(path, threads=threads, ctx=ctx)


def _stream(qwen: Qwen, messages: list[dict[str, str]], sampling: dict[str, Any]) -> Reply:
    """Write the answer as it comes, and a line end after it; return the whole reply."""
    last = "\n"
    with qwen.stream(messages, **sampling) as stream:
        try:
            for chunk in stream:
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
                last = chunk.text[-1:] or last
        finally:
            if last != "\n":
                sys.stdout.write("\n")
                sys.stdout.flush()
    return stream.reply


def _status(reply: Reply) -> str:
    """Return the line of figures, and why the answer ended if not by itself."""
    usage, timings = reply.usage, reply.timings
    ended = "" if reply.finish_reason == "stop" else f" · ended by {reply.finish_reason}"
    return (
        f"{usage.completion_tokens} tokens at {timings.decode_tok_s:.1f} tok/s · prompt of "
        f"{usage.prompt_tokens} at {timings.prefill_tok_s:.1f} tok/s · first token after "
        f"{timings.ttft:.2f} s{ended}"
    )
