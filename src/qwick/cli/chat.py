"""`qwick chat`: a conversation in the terminal.

The verb, and the loop: read a text, obey the command or get a reply, keep both. Commands are obeyed
in chat_commands.py, replies fetched in chat_reply.py.

Where standard input is no terminal its lines are what would have been typed. Nobody can answer an
error or interrupt a reply there, so an error ends the chat with its exit code, as Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwick import settings
from qwick.cli.chat_commands import Command, Message, obey, read_text
from qwick.cli.chat_session import Session, Turn, path_of, read_session
from qwick.cli.load import load, load_options
from qwick.cli.offline import offline_option
from qwick.cli.sampling import checked, sampling_of, sampling_options_but
from qwick.cli.show import counted
from qwick.cli.stdin import valid_text
from qwick.errors import (
    ContextLengthError,
    EngineError,
    ParameterError,
    QwickError,
    ResourceError,
    TemplateError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from qwick.cli.chat_input import Reader
    from qwick.cli.chat_reply import Interrupts, Outcome
    from qwick.cli.chat_screen import Screen
    from qwick.engine.request import Sampling
    from qwick.llm import Qwen

__all__ = ["Chat", "chat"]

_SO_FAR = "what was answered so far is kept; /retry asks again, /undo forgets it"
_ELSEWHERE = "/save FILE keeps the conversation; `qwick chat --load FILE` goes on with it"


@click.command(short_help="Hold a conversation.")
@click.argument("model", required=False)
@click.option("--system", metavar="TEXT", help="The system message.")
@click.option("--load", "file", metavar="FILE", help="Go on with what /save wrote.")
@sampling_options_but("--logprobs")
@load_options
@offline_option
def chat(
    model: str | None,
    system: str | None,
    file: str | None,
    loading: dict[str, Any],
    **options: Any,
) -> None:
    """Hold a conversation with MODEL (a name, a folder or a .gguf file; without one: the default).

    Enter sends, Alt-Enter begins a line, and a text between two \"\"\" may have any lines. Ctrl-C
    stops a reply, Ctrl-D leaves. /help lists the commands. Lines that are piped in are taken one by
    one, up to the first error.
    """
    said = sampling_of(options)  # refuse a bad value before the model loads
    at = None if file is None else path_of(file)
    session = Session(model="") if at is None else read_session(at)
    session = dataclasses.replace(session, settings=checked({**session.settings, **said}))
    if system is not None:
        session = dataclasses.replace(session, system=valid_text("--system", system))
    history = settings.HISTORY.get()
    with load(model, loading, drafts=True) as qwen:
        from qwick.cli.chat_reply import Interrupts
        from qwick.cli.chat_screen import Screen

        screen, interrupts = Screen(), Interrupts()
        interactive = sys.stdin.isatty()
        reader = _reader(screen, history, interactive=interactive)
        talk = Chat(qwen, screen, interrupts, reader, interactive=interactive)
        with interrupts if interactive else contextlib.nullcontext():
            talk.take_over(session, at)
            talk.run()
    if talk.failure is not None:
        click.get_current_context().exit(talk.failure.exit_code)


def _reader(screen: Screen, history: Path | None, *, interactive: bool) -> Reader:
    from qwick.cli.chat_input import PROMPT, PlainReader, PromptReader

    if not (interactive and screen.terminal):
        return PlainReader(PROMPT if interactive else "")
    try:
        return PromptReader(history)
    except OSError as error:
        screen.note(f"what is typed is not kept: {history}: {error.strerror or error}")
        return PromptReader(None)


class Chat:
    """A conversation under way; `session` is what it holds, and is only ever replaced."""

    def __init__(
        self,
        qwen: Qwen,
        screen: Screen,
        interrupts: Interrupts,
        reader: Reader,
        *,
        interactive: bool = True,
    ) -> None:
        self.qwen = qwen
        self.screen = screen
        self.session = Session(model=qwen.name)
        self.file: Path | None = None  # where the conversation was saved or loaded
        self.leaving = False
        self.failure: QwickError | None = None  # what ended a chat that is not interactive
        self._interactive = interactive
        self._interrupts = interrupts
        self._reader = reader

    def run(self) -> None:
        """Read and answer until the user leaves; an error is shown, and the chat goes on."""
        if self._interactive:
            self.screen.figures(
                [
                    self.qwen.name,
                    f"context of {self.qwen.context:,} tokens",
                    "/help lists the commands",
                ]
            )
        while not (self.leaving or self.failure):
            try:
                with self._interrupts.reading():
                    text = self._reader.read()
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self.screen.note("(the line is given up; Ctrl-D or /exit leaves)")
            except EOFError:
                break
            except QwickError as error:
                self.complain(error)
            else:
                self.take(text)

    def take(self, text: str) -> None:
        """Obey or answer a text; errors of ours are shown."""
        try:
            found = read_text(valid_text("the text", text))
            if isinstance(found, Command):
                obey(self, found)
            elif isinstance(found, Message):
                self.send(found.text)
        except QwickError as error:
            self.complain(error)
        except Exception as error:
            if not self._interactive:
                raise
            self.complain(_fault(error))  # and go on: the conversation would be lost

    def complain(self, error: QwickError, *more: str | None) -> None:
        """Show an error and its ways out; where nobody can take one, the chat ends."""
        self.screen.complain(error, *more)
        if not self._interactive:
            self.failure = error

    def take_over(self, session: Session, file: Path | None) -> None:
        """Go on with another session; UsageError, and no change, if this model cannot."""
        taken = self.possible(dataclasses.replace(session, model=self.qwen.name))
        if session.model not in ("", self.qwen.name):
            self.screen.note(f"(the conversation was held with {session.model})")
        self.session = taken
        self.file = file

    # -- asking --------------------------------------------------------------------------------

    def send(self, user: str) -> None:
        """Answer `user` and keep both; where nothing was answered, nothing is kept."""
        kept = "the message is not part of the conversation"
        again = "; arrow up brings it back" if self._reader.recalls else ""
        self._ask(user, self.session, f"({kept}{again})")

    def retry(self) -> None:
        """Answer the last message anew; unless that comes to its end, the old answer stays."""
        *turns, last = self.session.turns
        before = dataclasses.replace(self.session, turns=tuple(turns))
        self._ask(last.user, before, "(the answer that was there stays)", whole=True)

    def _ask(self, user: str, before: Session, in_vain: str, *, whole: bool = False) -> None:
        """Answer `user` after the session `before`; say `in_vain` where nothing is kept of it.

        whole: an answer that did not come to its end is not kept either.
        """
        from qwick.cli.chat_input import quiet_keys
        from qwick.cli.chat_reply import ask

        messages, variables = before.messages(user), self.variables(before)
        try:
            with quiet_keys(paste=self.screen.terminal):
                outcome = ask(
                    self.qwen,
                    messages,
                    {**before.settings, **variables},
                    screen=self.screen,
                    interrupts=self._interrupts,
                )
        except QwickError as error:
            full, broken = isinstance(error, ContextLengthError), isinstance(error, EngineError)
            way_out = self._room_for(user, before) if full else _ELSEWHERE if broken else None
            self.complain(error, way_out)
            self.screen.note(in_vain)
            return
        kept = outcome.reply is not None or not (outcome.nothing or whole)
        if outcome.error is not None:
            self.complain(outcome.error, _SO_FAR if kept else None, _ELSEWHERE)
        if not kept:
            self.screen.note(in_vain)
            return
        turn = Turn(user, outcome.answer, outcome.thinking, outcome.reply is None)
        self.session = dataclasses.replace(before, turns=(*before.turns, turn))
        self.screen.figures(self._figures(outcome))

    # -- what this model can do ----------------------------------------------------------------

    def variables(self, session: Session) -> dict[str, Any]:
        """Return what the template is told."""
        from qwick.family import Thinking

        hybrid = self.qwen.texts.thinking is Thinking.HYBRID
        if session.think is None or not hybrid:
            return {}
        return {"enable_thinking": session.think}

    def possible(self, session: Session) -> Session:
        """Return the session if this model can hold it so.

        Raises UnsupportedError for thinking that cannot be switched so, ParameterError for settings
        beyond the context or the vocabulary, or that contradict the checkpoint's own, and what the
        template has against the messages.
        """
        from qwick.family import Thinking

        kind, name = self.qwen.texts.thinking, self.qwen.name
        if kind is Thinking.NONE and session.think is True:
            raise UnsupportedError(f"{name} never thinks", hint="use a model that does")
        if kind is Thinking.ALWAYS and session.think is False:
            raise UnsupportedError(f"{name} always thinks", hint="use a model that can do without")
        self.qwen.render(session.messages("?"), **self.variables(session))
        sampling = self.in_force(session)
        if "max_tokens" in session.settings and session.settings["max_tokens"] >= self.qwen.context:
            raise ParameterError(
                f"max_tokens is {sampling.max_tokens}; the context holds {self.qwen.context}, the "
                "conversation included",
                hint="set a smaller max_tokens, or start with a larger --ctx",
            )
        ids = (*sampling.stop_ids, *(id for id, _ in sampling.logit_bias))
        if ids and max(ids) >= self.qwen.tokenizer.n_tokens:
            raise ParameterError(
                f"a token id is {max(ids)}; allowed: 0 to {self.qwen.tokenizer.n_tokens - 1}"
            )
        return session

    def in_force(self, session: Session) -> Sampling:
        """Return the sampling of the next reply, as far as it does not depend on its prompt."""
        from qwick.family import Thinking

        kind = self.qwen.texts.thinking
        thinking = kind is Thinking.ALWAYS or (
            kind is Thinking.HYBRID and session.think is not False
        )
        return self.qwen.defaults.sampling(
            session.settings, thinking=thinking, prompt=0, room=self.qwen.context
        )

    def used(self, session: Session | None = None, user: str | None = None) -> int:
        """Return the tokens of a conversation, by default this one, as the model would see it."""
        session = session or self.session
        messages = session.messages(user)
        if not messages:
            return 0
        variables = self.variables(session)
        asked = user is not None
        try:
            return len(self.qwen.render_ids(messages, add_generation_prompt=asked, **variables))
        except TemplateError:
            if session.turns or asked:
                raise
            return 0  # a system message alone, which not every template can render

    # -- figures -------------------------------------------------------------------------------

    def _figures(self, outcome: Outcome) -> list[str]:
        parts: list[str] = []
        reply = outcome.reply
        context = self.qwen.context
        used = min(self.used(), context)  # what the template adds to a full one is not there yet
        if reply is not None:
            usage, timings = reply.usage, reply.timings
            parts.append(
                f"{counted(usage.completion_tokens, 'token')} at {timings.decode_tok_s:.1f} tok/s"
            )
            parts.append(f"first after {timings.ttft:.2f} s")
            parts.append(f"prompt of {usage.prompt_tokens}, {usage.cached_tokens} cached")
        parts.append(f"context {used:,} of {context:,}")
        if reply is None:
            parts.insert(0, "interrupted" if outcome.error is None else "broken off")
            if outcome.error is None:
                parts.append("what was said so far is kept; /undo forgets it")
        elif reply.finish_reason != "stop":
            parts.append(f"ended by {reply.finish_reason}")
            if reply.usage.total_tokens >= context:
                parts.append("the context is full: /drop or /clear makes room")
        return parts

    def _room_for(self, user: str, session: Session) -> str | None:
        """Return how many of the oldest turns to forget for a message that does not fit.

        None where that is not the way out: it would never fit, or another limit than the context
        is met.
        """
        turns, context = session.turns, self.qwen.context

        def fits(dropped: int, answer: int) -> bool:
            rest = dataclasses.replace(session, turns=turns[dropped:])
            return self.used(rest, user) + answer <= context

        wished = session.settings.get("max_tokens")
        for answer in (context // 8, 1) if wished is None else (wished,):
            if fits(len(turns), answer):
                break
        else:
            return None
        low, high = 0, len(turns)  # fits(high); fewer turns never take more
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle, answer) else (middle + 1, high)
        if high == 0:
            return None
        return f"/drop {high} forgets the oldest {high} of {counted(len(turns), 'turn')}"


def _fault(error: Exception) -> QwickError:
    if isinstance(error, MemoryError):
        return ResourceError("there is not enough memory for that", hint=_ELSEWHERE)
    return QwickError(
        f"qwick failed: {type(error).__name__}: {error}",
        hint=f"this is a fault in qwick; {_ELSEWHERE}",
    )
