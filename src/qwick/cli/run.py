"""`qwick run`: one prompt in, the answer streamed out."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.answer import for_output, print_chunks
from qwick.cli.load import load, load_options
from qwick.cli.offline import offline_option
from qwick.cli.sampling import sampling_of, sampling_options
from qwick.cli.show import counted, json_option, print_json
from qwick.cli.stdin import read_all, valid_text
from qwick.cli.task import check_task, make_task, read_options, run_task, task_options
from qwick.errors import ModelNotFoundError, ParameterError, UsageError

if TYPE_CHECKING:
    from qwick.llm import Qwen, Reply

__all__ = ["run"]

PATH_BEGINNINGS = (os.sep, f".{os.sep}", f"..{os.sep}", f"~{os.sep}")


@click.command(short_help="Answer a prompt.")
@click.argument("words", nargs=-1, metavar="[MODEL] PROMPT")
@click.option("--system", metavar="TEXT", help="The system message.")
@sampling_options
@click.option(
    "--n", type=click.IntRange(1, 128), default=1, help="So many answers, with seeds one apart."
)
@load_options
@click.option(
    "--no-drafts",
    is_flag=True,
    help="One token per step, also where the text repeats itself; the answer is the same.",
)
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is: no template.")
@task_options
@offline_option
@json_option
def run(
    words: tuple[str, ...],
    system: str | None,
    n: int,
    loading: dict[str, Any],
    no_drafts: bool,
    raw: bool,
    task: str | None,
    task_given: tuple[str, ...],
    anyway: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer PROMPT with MODEL (a name, a folder or a .gguf file; without one: the default).

    What is piped in, or redirected from a file, is the prompt if PROMPT is left out or "-"; beside
    a PROMPT it is appended to that after an empty line. A single word is a MODEL if it is a known
    name or the path of one, and any word with a "/" in it is a path while text is piped in.
    """
    sampling = sampling_of(options)  # refuse a bad value before the model loads
    if "logprobs" in sampling and not as_json:
        raise UsageError("--logprobs are shown with --json only", hint="add --json")
    if raw and system is not None:
        raise UsageError(
            "--system has no place in a raw prompt", hint="leave out --raw or --system"
        )
    flags = {"--raw": raw, "--system": system is not None, "--n": n > 1, "--anyway": anyway}
    check_task(task, task_given, {**flags, "--logprobs": "logprobs" in sampling})
    given = read_options(task_given)  # which may be what is piped in
    model, prompt = split_words(words)
    asked = None if task is None else make_task(task, prompt, given)
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": valid_text("--system", system)})
    reply: Reply | None = None
    with load(model, loading, drafts=not no_drafts) as qwen:
        if asked is not None:
            reply = run_task(asked, qwen, sampling, anyway=anyway, as_json=as_json)
        elif n > 1:
            _run_choices(qwen, prompt if raw else messages, n, sampling, as_json=as_json)
        else:
            reply = _run_one(qwen, prompt if raw else messages, sampling, as_json=as_json)
    if reply is not None and sys.stderr.isatty():
        click.secho(_status(reply), err=True, dim=True)


def _run_one(
    qwen: Qwen, prompt: str | list[dict[str, str]], sampling: dict[str, Any], *, as_json: bool
) -> Reply:
    """Print the answer to one prompt, as it comes or as JSON."""
    if isinstance(prompt, str):
        stream = qwen.stream_complete(prompt, **sampling)
    else:
        stream = qwen.stream(prompt, **sampling)
    with stream:
        if not as_json:
            print_chunks(stream)
        reply = stream.read()
    if as_json:
        print_json(reply.to_dict())
    return reply


def _run_choices(
    qwen: Qwen,
    prompt: str | list[dict[str, str]],
    n: int,
    sampling: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Print several answers to one prompt, each below its number."""
    if isinstance(prompt, str):
        replies = qwen.complete_choices(prompt, n, **sampling)
    else:
        replies = qwen.choices(prompt, n, **sampling)
    if as_json:
        print_json({"choices": [reply.to_dict() for reply in replies]})
        return
    for i, reply in enumerate(replies, 1):
        click.echo(f"--- {i} of {n}\n{for_output(reply.text)}")


def split_words(words: tuple[str, ...]) -> tuple[str | None, str]:
    """Return (model or None, prompt) as the arguments and standard input give them."""
    if len(words) > 2:
        raise UsageError(
            f"{len(words)} arguments where a model and a prompt are expected",
            hint='put the prompt in quotes: qwick run "Write a haiku."',
        )
    if len(words) == 2:
        _check_model(*words)
        return words[0], _prompt(words[1])
    if len(words) == 1 and words[0] != "-":
        (word,) = words
        piped = _piped()
        if _names_a_model(word, piped=bool(piped and piped.strip())):
            if piped is None:
                raise UsageError(
                    f"{word} is a model, and there is no prompt", hint=f'qwick run {word} "..."'
                )
            return word, _not_empty(piped)
        return None, _joined(word, piped)
    if words or _is_piped():
        return None, _prompt("-")
    raise UsageError("there is no prompt", hint='qwick run "Write a haiku.", or pipe it in')


def _prompt(word: str) -> str:
    """Return the whole prompt: standard input if `word` is "-", else `word` and what is piped."""
    if word == "-":
        return _not_empty(read_all())
    return _joined(word, _piped())


def _joined(word: str, piped: str | None) -> str:
    prompt = _not_empty(word)
    return f"{prompt}\n\n{piped}" if piped and piped.strip() else prompt


def _not_empty(prompt: str) -> str:
    if not prompt.strip():
        raise ParameterError("the prompt is empty", hint='qwick run "Write a haiku."')
    return valid_text("the prompt", prompt)


def _is_piped() -> bool:
    """Whether standard input is a pipe, a socket or a file: not a terminal, not /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _piped() -> str | None:
    """Return the text of standard input where that is a pipe or a file, else None."""
    return read_all() if _is_piped() else None


def _check_model(model: str, prompt: str) -> None:
    """Raise ModelNotFoundError if the first of two words is neither a name nor there as a path."""
    from qwick import hub

    if hub.looks_like_path(model) or _exists(model) or hub.names_model(model):
        return
    close = hub.near_names(model)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif os.sep in model:
        hint = f"check the path, or write hf:{hub.shortened(model)} for a repository"
    else:
        words = hub.shortened(f"{model} {prompt}".replace('"', "'"))
        hint = f'if it belongs to the prompt, put that in quotes: qwick run "{words}"'
    raise ModelNotFoundError(f"there is no model called {hub.shortened(model)!r}", hint=hint)


def _names_a_model(word: str, *, piped: bool) -> bool:
    """Whether a single argument is a model; ModelNotFoundError for one that is not there.

    Words with a separator are a matter of doubt ("and/or"): with text piped in they are paths,
    else only if something is there or they begin like a path.
    """
    from qwick import hub

    if hub.names_model(word) or _exists(os.path.join(word, "config.json")):
        return True
    if os.path.isdir(word) and _holds_parts(word):
        return True
    if len(word.split()) != 1:  # a sentence, or the path of a file with blanks in its name
        return word.lower().endswith(".gguf") and _exists(word)
    path = word.lower().endswith(".gguf") or word.startswith(PATH_BEGINNINGS)
    if path or (os.sep in word and (piped or _exists(word))):
        _check_path(word)
        return True
    close = hub.near_names(word, cutoff=0.8)
    if close:
        raise ModelNotFoundError(
            f"there is no model called {word!r}", hint=f"did you mean {close[0]}?"
        )
    return False


def _holds_parts(folder: str) -> bool:
    """Whether a folder is a model: one GGUF in several parts, and no other."""
    from qwick.formats.gguf_split import part_in

    return part_in(Path(folder)) is not None


def _check_path(word: str) -> None:
    from qwick import hub

    if hub.existing_path(word) is None:
        raise ModelNotFoundError(
            f"there is no file or folder {hub.shortened(word)!r}",
            hint="check the path; if it is a prompt, name the model too: qwick run MODEL PROMPT",
        )


def _exists(path: str) -> bool:
    """Whether something is there; a name that cannot be looked up is most likely a prompt."""
    from qwick import hub

    try:
        return hub.existing_path(path) is not None
    except ModelNotFoundError:
        return False


def _status(reply: Reply) -> str:
    """Return the line of figures, and why the answer ended if not by itself."""
    usage, timings = reply.usage, reply.timings
    ended = "" if reply.finish_reason == "stop" else f" · ended by {reply.finish_reason}"
    return (
        f"{counted(usage.completion_tokens, 'token')} at {timings.decode_tok_s:.1f} tok/s · "
        f"prompt of {usage.prompt_tokens} at {timings.prefill_tok_s:.1f} tok/s · first token after "
        f"{timings.ttft:.2f} s{ended}"
    )
