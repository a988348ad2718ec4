"""The `qwick` command: finds the verb, and turns every error into a line and an exit code.

Imports nothing heavy: `qwick --help` must stay quick. A verb lives in a module of its own, loaded
when it is asked for. Knows nothing about models.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from qwick.cli.visible import visible
from qwick.errors import QwickError, RequestCancelled, ResourceError, UsageError

__all__ = ["complain", "main"]

# verb -> module; the module holds a click command of the verb's name. Shown in this order.
VERBS = {
    "recommend": "qwick.cli.recommend",
    "run": "qwick.cli.run",
    "chat": "qwick.cli.chat",
    "jobs": "qwick.cli.jobs",
    "serve": "qwick.cli.serve",
    "keys": "qwick.cli.keys",
    "monitor": "qwick.cli.monitor",
    "models": "qwick.cli.models",
    "bench": "qwick.cli.bench",
    "doctor": "qwick.cli.doctor",
}

MOST_SHOWN = 1500  # characters of an error
BROKEN_PIPE = 141  # 128 + SIGPIPE: what a shell reports for a program that the signal ended
NO_OUTPUT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
}  # of what a write to standard output may meet


class Verbs(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the verb's command, or None."""
        if cmd_name not in VERBS:
            return None
        command = getattr(import_module(VERBS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; an unknown one is refused with the likely ones."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], VERBS, n=1)
            likely = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(VERBS)}"
            raise click.UsageError(f"there is no command {args[0]!r}{likely}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from qwick import __version__

        click.echo(f"qwick {__version__}")
        ctx.exit()


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def qwick(ctx: click.Context, debug: bool) -> None:
    """Run the Qwen models, quickly, on the machine you have.

    Without a command, on a terminal: a few questions, a recommendation, and a chat.
    """
    if ctx.invoked_subcommand is not None:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        click.echo(ctx.get_help())
        return
    from qwick.cli.guide import guide

    guide(ctx)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; arguments default to the process's own."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    writable = sys.stdout is not None
    _open_streams()
    # NumPy would start threads for matrix products, of which there are none here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        if not writable:
            raise UsageError("standard output is closed", hint="redirect it, if only to /dev/null")
        code = _invoke(list(args))  # click eats the list
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "qwick"
        complain(error.format_message(), f"see `{path} --help`")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return RequestCancelled.exit_code
    except QwickError as error:
        _trace(args)
        complain(error.message, error.hint)
        return error.exit_code
    except MemoryError:
        return _out_of_memory(args)
    except ImportError as error:
        # What the loader of shared objects says when ulimit -v is too small for another one.
        if "failed to map" in str(error) or "annot allocate memory" in str(error):
            return _out_of_memory(args)
        return _fault(args, error)
    except OSError as error:
        if error.errno not in NO_OUTPUT or error.filename is not None:
            return _fault(args, error)
        _trace(args)  # the parts of qwick that write files say themselves what they could not write
        _drop_output()
        complain(f"the output cannot be written: {error.strerror}", "redirect it elsewhere")
        return ResourceError.exit_code
    except Exception as error:
        return _fault(args, error)


def _open_streams() -> None:
    """Make the three standard streams usable: a closed one becomes /dev/null."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            # An answer may hold characters that the terminal's encoding lacks: show a substitute.
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """Lead what is still in buffers nowhere, for Python would complain once more as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _out_of_memory(args: list[str]) -> int:
    _trace(args)
    complain("not enough memory", "choose a smaller model or context (--ctx)")
    return ResourceError.exit_code


def _fault(args: list[str], error: Exception) -> int:
    """Show an error that qwick did not raise on purpose, and return its exit code."""
    _trace(args)
    complain(
        f"qwick failed: {type(error).__name__}: {error}",
        "this is a fault in qwick; `qwick --debug ...` shows where",
    )
    return 1


def _invoke(args: list[str]) -> int:
    try:
        with qwick.make_context("qwick", args) as ctx:
            qwick.invoke(ctx)
    except click.exceptions.Exit as left:
        return left.exit_code
    return 0


def _trace(args: list[str]) -> None:
    """Show the traceback of the error being handled when --debug stands before the verb."""
    before = args[: next((i for i, a in enumerate(args) if not a.startswith("-")), len(args))]
    if "--debug" in before:
        traceback.print_exc()


def complain(message: str, hint: str | None) -> None:
    """Show an error on standard error: a line, and its way out on another one."""
    line = " ".join(message.splitlines())
    if len(line) > MOST_SHOWN:  # a whole text was given where a word belongs
        line = f"{line[: MOST_SHOWN // 2]} ... {line[-MOST_SHOWN // 2 :]}"
    click.echo(f"error: {visible(line)}", err=True)
    if hint:
        click.echo(f"hint: {visible(hint)}", err=True)
