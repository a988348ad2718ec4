"""A chat over a model whose answers are written down: what is kept, shown and refused."""

from __future__ import annotations

import os
import signal
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.talk import Lines, Talk
from cli.test_values import TEXTS
from qwick.cli.chat import Chat
from qwick.cli.chat_commands import COMMANDS
from qwick.cli.chat_reply import Interrupts, ask
from qwick.cli.chat_screen import DIM, PLAIN, fitted
from qwick.cli.chat_session import Session, Turn, read_session, write_session
from qwick.cli.visible import visible
from qwick.errors import FormatError, UnsupportedError, UsageError
from qwick.llm.reply import Chunk

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
THOUGHT = "<think>\nWell.\n</think>\n\nYes."


def turns(talk: Talk) -> list[tuple[str, str]]:
    return [(turn.user, turn.answer) for turn in talk.chat.session.turns]


def state(talk: Talk) -> tuple[Session, Path | None]:
    return talk.chat.session, talk.chat.file


# -- replies ---------------------------------------------------------------------------------------


def test_a_conversation_is_kept_shown_exactly_and_reused() -> None:
    answer = "  Hello,\n\n\tyou.  "
    with Talk([answer, "Again.\n"]) as talk:
        shown = talk.say("Hi")
        assert shown.startswith(f"{answer}\n")
        assert "prompt of 21, 0 cached" in shown
        shown = talk.say("More")
        assert shown.startswith("Again.\n8 tokens")
        asked, cached = (
            int(n) for n in shown.split("prompt of ")[1].split(" cached")[0].split(",")
        )
        assert 0 < cached < asked
        assert cached % 16 == 0, "whole pages of the first turn"
        assert turns(talk) == [("Hi", answer), ("More", "Again.\n")]
        used = len(talk.qwen.render_ids(talk.chat.session.messages(), add_generation_prompt=False))
        assert f"context {used} of 512" in shown


def test_the_system_message_and_settings_are_those_of_the_next_reply() -> None:
    with Talk(["1234567890", "1"]) as talk:
        talk.say("/set max_tokens 3")
        talk.say("/set system Be brief.")
        assert "ended by length" in talk.say("Count")
        assert turns(talk) == [("Count", "123")]
        assert talk.chat.session.messages()[0] == {"role": "system", "content": "Be brief."}
        rendered = talk.qwen.render(talk.chat.session.messages())
        seen = b"".join(b.ids.tobytes() for b in talk.model.batches)
        for text in ("Be brief.", "Count"):
            assert text in rendered
            ids = talk.qwen.tokenizer.encode(text, parse_special=False)
            assert b"".join(i.to_bytes(4, "little") for i in ids) in seen


def test_ctrl_c_keeps_the_beginning_and_frees_the_engine() -> None:
    with Talk(["A long answer " * 20, "Short."]) as talk:
        talk.interrupt(12)
        shown = talk.say("Go")
        (turn,) = talk.chat.session.turns
        assert turn.interrupted
        assert turn.answer == "A long answe"
        assert "interrupted · " in shown
        assert "what was said so far is kept; /undo forgets it" in shown
        talk.say("And now?")
        assert talk.qwen.stats.finished["cancelled"] == 1
        assert turns(talk)[1] == ("And now?", "Short.")
        assert "(interrupted)" in talk.say("/show history")
        assert talk.chat.session.messages()[1] == {"role": "assistant", "content": turn.answer}


def test_ctrl_c_before_the_first_word_takes_the_message_back() -> None:
    with Talk(["Never said", "Said"]) as talk:
        talk.interrupt(0)
        shown = talk.say("Go")
        assert "the message is not part of the conversation; arrow up brings it back" in shown
        assert turns(talk) == []
        talk.say("Go")
        assert turns(talk) == [("Go", "Said")]


def test_ctrl_c_twice_and_at_any_other_moment_does_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Talk(["abcdefgh" * 9, "x"]) as talk:
        talk.interrupt(5, times=2)
        talk.say("Go")
        os.kill(os.getpid(), signal.SIGINT)
        assert "/help" in talk.say("/help")
        talk.say("On")
        assert turns(talk)[1] == ("On", "x")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("token", [0, 4])
def test_an_engine_that_fails_leaves_the_chat_usable(token: int) -> None:
    def fail() -> None:
        raise ValueError("a broken kernel")

    with Talk(["Hello there", "Fine."]) as talk:
        talk.model.before[token] = fail
        shown = talk.say("Hi")
        assert "error: request 0 failed after" in shown
        assert "a broken kernel" in shown
        assert "/save FILE keeps the conversation" in shown
        if token == 0:
            assert "the message is not part of the conversation" in shown
            assert turns(talk) == []
        else:
            assert "/retry asks again" in shown
            assert turns(talk) == [("Hi", "Hell")]
            assert talk.chat.session.turns[0].interrupted
        talk.say("Again")
        assert turns(talk)[-1] == ("Again", "Fine.")


def test_an_engine_that_died_leaves_the_conversation(tmp_path: Path) -> None:
    with Talk(["One.", ""]) as talk:
        talk.say("Hi")
        talk.qwen.close()
        shown = talk.say("More")
        assert "error: the engine is closed" in shown
        assert "/save FILE keeps the conversation" in shown
        assert "saved to" in talk.say(f"/save {tmp_path / 'chat.json'}")
        assert "1 turn (/show history)" in talk.say("/show")
    assert read_session(tmp_path / "chat.json").turns == (Turn("Hi", "One."),)


# -- the context -----------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_the_way_out() -> None:
    with Talk(["a" * 30] * 8, context=192) as talk:
        for i in range(3):
            talk.say(f"{i}" * 5)
        before = state(talk)
        talk.model.next_answer()
        talk.chat.take("x" * 40)
        shown = talk.out.getvalue()
        assert "error: the prompt has 227 tokens; the context holds 192" in shown
        assert "hint: /drop 2 forgets the oldest 2 of 3 turns" in shown
        assert state(talk) == before
        assert "1 turn left" in talk.say("/drop 2")
        assert turns(talk) == [("22222", "a" * 30)]
        talk.say("x" * 40)
        assert len(turns(talk)) == 2


def test_a_message_that_never_fits_has_no_such_hint() -> None:
    with Talk(["", ""], context=192) as talk:
        assert "/drop" not in talk.say("x" * 400)
        assert "shorten the prompt" in talk.out.getvalue()


def test_an_answer_that_fills_the_context_says_so() -> None:
    with Talk(["a" * 500], context=128) as talk:
        shown = talk.say("Go")
        assert "context 128 of 128 · ended by length" in shown
        assert "the context is full: /drop or /clear makes room" in shown


def test_room_is_made_for_as_long_an_answer_as_was_asked_for() -> None:
    with Talk(["a" * 30] * 8, context=192) as talk:
        for i in range(2):
            talk.say(f"{i}" * 5)
        talk.say("/set max_tokens 100")
        assert "/drop 1 forgets the oldest 1 of 2 turns" in talk.say("Hi")
        talk.say("/drop 1")
        assert len(turns(talk)) == 1
        assert "ended by length" not in talk.say("Hi")
        talk.say("/undo")
        assert "max_tokens is 192; the context holds 192" in talk.say("/set max_tokens 192")
        assert talk.chat.session.settings == {"max_tokens": 100}


# -- thinking --------------------------------------------------------------------------------------


def test_thinking_is_told_from_the_answer_and_dimmed() -> None:
    with Talk([THOUGHT], family="qwen3", template=THINKING, styled=True) as talk:
        shown = talk.say("Sure?")
        assert f"{DIM}W{PLAIN}" in shown
        assert shown.replace(DIM, "").replace(PLAIN, "").startswith("Well.\n\nYes.\n")
        (turn,) = talk.chat.session.turns
        assert (turn.thinking, turn.answer) == ("Well.", "Yes.")
        assert talk.chat.session.messages()[1]["reasoning_content"] == "Well."


def test_without_colour_thinking_is_marked() -> None:
    with Talk([THOUGHT], family="qwen3", template=THINKING) as talk:
        assert talk.say("Sure?").startswith("[thinking]\nWell.\n[answer]\nYes.\n")


def test_a_model_that_never_thinks_is_shown_as_it_is() -> None:
    with Talk([THOUGHT]) as talk:
        assert talk.say("Sure?").startswith(f"{THOUGHT}\n")
        assert turns(talk) == [("Sure?", THOUGHT)]


def test_switching_thinking() -> None:
    with Talk([THOUGHT, "Yes."], family="qwen3", template=THINKING) as talk:
        assert "think is on (the default)" in talk.say("/set think")
        assert "think is off" in talk.say("/set think off")
        assert talk.say("Sure?").startswith(f"{THOUGHT}\n"), "the template closed the block"
        assert "</think>" in bytes(talk.model.batches[0].ids.tolist()[-11:]).decode()
        assert "think is on" in talk.say("/think on")
        assert talk.say("/think") == "think is on\n"
        assert "think is 'perhaps'; allowed: on, off, default" in talk.say("/set think perhaps")
        assert talk.chat.session.think is True


@pytest.mark.parametrize(
    ("family", "template", "wish", "said"),
    [
        ("qwen2.5", None, "on", "small never thinks"),
        ("qwen3-thinking-2507", THINKING, "off", "small always thinks"),
        ("qwen3", None, "off", "has no such switch"),
    ],
)
def test_thinking_that_cannot_be_switched_is_refused(
    family: str, template: str | None, wish: str, said: str
) -> None:
    more = {} if template is None else {"template": template}
    with Talk(family=family, **more) as talk:
        before = state(talk)
        for command in (f"/think {wish}", f"/set think {wish}"):
            assert said in talk.say(command)
        assert state(talk) == before


# -- commands --------------------------------------------------------------------------------------


def test_set_says_what_holds() -> None:
    with Talk() as talk:
        assert talk.say("/set temperature") == "temperature is 0.7 (the default)\n"
        assert talk.say("/set temperature 0.2") == "temperature is 0.2\n"
        assert "settings  temperature=0.2" in talk.say("/show")
        assert talk.say("/set temperature default") == "temperature is 0.7 (the default)\n"
        assert talk.chat.session.settings == {}
        assert talk.say('/set system """Two\nlines."""') == "system is 'Two\\nlines.'\n"
        assert talk.say("/show system") == "Two\nlines.\n"
        talk.say("/set system default")
        assert talk.chat.session.system is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/set temperature hot", "temperature is 'hot'; allowed: a number"),
        ("/set tempreature 1", "did you mean temperature?"),
        ("/set tempreature", "did you mean temperature?"),
        ("/set stop_ids 261", "a token id is 261; allowed: 0 to 260"),
        ("/set logit_bias 999=1", "a token id is 999; allowed: 0 to 260"),
        ("/show nothing", "known: settings, system, history"),
        ("/undo", "the conversation has 0 turns"),
        ("/retry", "the conversation has 0 turns"),
        ("/drop", "the conversation has 0 turns"),
        ("/drop -1", "N is '-1'; allowed: whole numbers from 1"),
        ("/drop ²", "N is '²'"),
        ("/clear all", "/clear takes nothing more, and there is 'all'"),
        ("/save", "/save needs a file the first time"),
        ("/load", "/load needs a file"),
        ("/load /nowhere/x.json", "/nowhere/x.json: no such file"),
        ("/nonsense", "there is no command '/nonsense'"),
        ("a\udcff", "the text is not valid UTF-8"),
    ],
)
def test_what_cannot_be_obeyed_changes_nothing(line: str, said: str) -> None:
    with Talk([""]) as talk:
        before = state(talk)
        shown = talk.say(line)
        assert "error: " in shown
        assert said in shown
        assert state(talk) == before


def test_help_names_everything() -> None:
    with Talk() as talk:
        shown = talk.say("/help")
    for word in ("/set", "/retry", "/exit", "Alt-Enter", '"""', "Ctrl-C"):
        assert word in shown


def test_undo_retry_and_clear() -> None:
    with Talk(["One.", "Two.", "Three."]) as talk:
        talk.say("1")
        talk.say("2")
        assert "1 turn left" in talk.say("/undo")
        assert turns(talk) == [("1", "One.")]
        talk.say("/retry")
        assert turns(talk) == [("1", "Three.")]
        talk.say("/set temperature 0")
        assert "0 turns left" in talk.say("/clear")
        assert turns(talk) == []
        assert talk.chat.session.settings == {"temperature": 0.0}


def test_a_retry_in_vain_keeps_the_old_answer() -> None:
    with Talk(["One.", "Two."]) as talk:
        talk.say("1")
        talk.interrupt(0)
        assert "the answer that was there stays" in talk.say("/retry")
        assert turns(talk) == [("1", "One.")]


def test_saving_and_loading(tmp_path: Path) -> None:
    file, other = tmp_path / "a chat.json", tmp_path / "other.json"
    other.write_text("mine")
    with Talk(["One.", "Two."]) as talk:
        talk.say("1")
        talk.say("/set temperature 0")
        assert talk.say(f"/save {file}") == f"saved to {file}\n"
        first = talk.chat.session
        talk.say("2")
        assert "is there already" in talk.say(f"/save {other}")
        assert talk.say("/save") == f"saved to {file} (overwritten)\n"
        assert read_session(file) == talk.chat.session
        assert talk.say(f"/save --force {other}") == f"saved to {other} (overwritten)\n"
        talk.say("/clear")
        write_session(first, file, overwrite=True)
        assert talk.say(f"/load {file}").startswith("loaded 1 turn: ")
        assert talk.chat.session == first
        assert f"file      {file}" in talk.say("/show")
        talk.say("/clear")
        assert "is there already" in talk.say(f"/save {file}"), "another conversation's file"
        assert read_session(file) == first


def test_loading_what_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    with Talk(["One."]) as talk:
        talk.say("1")
        before = state(talk)
        write_session(Session("small", think=True), file)
        assert "small never thinks" in talk.say(f"/load {file}")
        file.write_text(file.read_text()[:-5])
        assert "error: " in talk.say(f"/load {file}")
        write_session(Session("x", settings={"stop_ids": (999,)}), file, overwrite=True)
        assert "a token id is 999" in talk.say(f"/load {file}")
        assert state(talk) == before


def test_a_conversation_of_another_model_is_told(tmp_path: Path) -> None:
    write_session(Session("other", turns=(Turn("Hi", "Yo"),)), tmp_path / "chat.json")
    with Talk() as talk:
        assert "held with other" in talk.say(f"/load {tmp_path / 'chat.json'}")
        assert talk.chat.session.model == "small"


# -- the loop --------------------------------------------------------------------------------------


def loop(talk: Talk, *texts: str | BaseException) -> str:
    chat = Chat(talk.qwen, talk.chat.screen, talk.interrupts, Lines(texts))
    chat.run()
    return talk.out.getvalue()


def test_the_loop_ends_with_exit_or_the_end_of_input() -> None:
    with Talk() as talk:
        shown = loop(talk, "", "  ", KeyboardInterrupt(), "/exit", "/help")
        assert shown.startswith("small · context of 512 tokens · /help lists the commands\n")
        assert "(the line is given up" in shown
        assert "/retry" not in shown, "nothing is read after /exit"
        assert loop(talk).count("small · context") == 2


def test_a_base_model_is_refused() -> None:
    with pytest.raises(UsageError, match="no chat template"):
        Talk(template=None)


# -- the screen ------------------------------------------------------------------------------------


def test_control_characters_are_shown_as_signs() -> None:
    assert visible("a\tb\nc\x1b[2J\r\x7f\x9b\x00é🙂") == "a\tb\nc␛[2J␍␡\ufffd␀é🙂"
    assert (
        visible("\u202eevil\u2066 \u2028 \u200fשלום 千问")
        == "\ufffdevil\ufffd \ufffd \u200fשלום 千问"  # a mark of the text's own direction stays
    )
    with Talk(["\x1b]0;title\x07"]) as talk:
        assert "\x1b" not in talk.say("Hi")
        assert turns(talk) == [("Hi", "\x1b]0;title\x07")], "kept as it came"
        assert "\x1b" not in talk.say("/show history")


def test_figures_fit_the_width() -> None:
    parts = ["aaaa", "bbbb", "cccc"]
    assert fitted(parts, 80) == "aaaa · bbbb · cccc"
    assert fitted(parts, 11) == "aaaa · bbbb\ncccc"
    assert fitted(parts, 3) == "aaaa\nbbbb\ncccc"


def test_errors_are_the_ones_of_the_tree() -> None:
    with Talk() as talk:
        with pytest.raises(UnsupportedError):
            talk.chat.take_over(Session("small", think=True), None)
        with pytest.raises(FormatError):
            talk.chat.take_over(read_session(Path(__file__)), None)


# -- what would lose the conversation --------------------------------------------------------------

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
NO_SYSTEM_ALONE = (
    "{% if messages[-1].role == 'system' %}{{ raise_exception('no user') }}{% endif %}" + THINKING
)


@pytest.mark.parametrize("file", ["/", "/" + "x" * 300, "x" * 5000, "/dev/null", "/proc/1/x", "."])
def test_saving_where_nothing_can_be_written_is_refused(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Talk(["One."]) as talk:
        talk.say("1")
        for command in (f"/save {file}", f"/save --force {file}"):
            assert talk.say(command).startswith("error: ")
        assert turns(talk) == [("1", "One.")]
        assert talk.chat.file is None
    assert os.listdir(tmp_path) == []


def test_a_fault_is_told_and_the_conversation_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with Talk(["One."]) as talk:
        talk.say("1")
        for error, said in ((KeyError("x"), "qwick failed: KeyError"), (MemoryError(), "memory")):
            monkeypatch.setattr("qwick.cli.chat_commands.write_session", raiser(error))
            shown = talk.say("/save x")
            assert said in shown
            assert "/save FILE keeps the conversation" in shown
        assert turns(talk) == [("1", "One.")]


def raiser(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_system_message_that_the_template_refuses_is_not_taken() -> None:
    with Talk(["One."], template=NO_SYSTEM) as talk:
        talk.say("1")
        before = state(talk)
        assert "no system" in talk.say("/set system Be brief.")
        assert state(talk) == before
        assert "0 turns left" in talk.say("/undo")


def test_a_system_message_alone_need_not_be_rendered() -> None:
    with Talk(["One."], template=NO_SYSTEM_ALONE) as talk:
        assert "system is 'Be brief.'" in talk.say("/set system Be brief.")
        talk.say("1")
        assert "0 turns left" in talk.say("/clear")
        assert talk.chat.session.system == "Be brief."
        assert "context" in talk.say("/show")


def test_a_command_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Talk(["One.", "Two."]) as talk:
        talk.say("1")
        talk.say("2")
        before = state(talk)
        with monkeypatch.context() as patched:
            patched.setattr(talk.qwen, "render_ids", raiser(UsageError("it fails")))
            for command in ("/undo", "/drop"):
                assert "it fails" in talk.say(command)
        assert state(talk) == before


def test_a_retry_that_is_stopped_keeps_the_old_answer() -> None:
    with Talk(["A whole good answer.", "Another one."]) as talk:
        talk.say("1")
        talk.interrupt(3)
        shown = talk.say("/retry")
        assert "the answer that was there stays" in shown
        assert "what was said so far is kept" not in shown
        assert turns(talk) == [("1", "A whole good answer.")]


def test_no_turns_are_to_be_dropped_where_another_limit_is_met() -> None:
    with Talk(["One.", "Two."], generation={"max_length": 60}) as talk:
        talk.say("1")
        shown = talk.say("x" * 80)
        assert "max_length=60" in shown
        assert "/drop 0" not in shown


def test_what_a_model_does_anyway_is_not_kept_as_a_wish() -> None:
    with Talk(family="qwen2.5") as talk:
        assert talk.say("/think off") == "think is never (this model)\n"
        assert talk.chat.session.think is None
    with Talk(family="qwen2.5", template=THINKING) as talk:  # what a fine-tune learned to do
        assert talk.say("/think off") == "think is off\n"
    with Talk(family="qwen3-thinking-2507", template=THINKING) as talk:
        assert talk.say("/think on") == "think is always (this model)\n"
        assert talk.chat.session.think is None


def test_names_and_values_may_be_parted_by_any_blanks(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    with Talk() as talk:
        assert talk.say("/set temperature\t0.5") == "temperature is 0.5\n"
        assert talk.say('/set system\n"""You\nand I"""') == "system is 'You\\nand I'\n"
        file.touch()
        assert talk.say(f"/save --force\t{file}") == f"saved to {file} (overwritten)\n"


class LastPiece:
    """A stream whose last piece comes as Ctrl-C does."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def __enter__(self) -> LastPiece:
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def __iter__(self) -> Iterator[Any]:
        for text in ("abc", "X"):
            self._interrupts.asked = text == "X"
            yield Chunk(text)

    reply = "the reply"


def test_an_answer_whose_last_piece_came_with_ctrl_c_is_not_whole() -> None:
    with Talk() as talk:
        qwen: Any = types.SimpleNamespace(stream=lambda *_, **__: LastPiece(talk.interrupts))
        outcome = ask(qwen, [], {}, screen=talk.chat.screen, interrupts=talk.interrupts)
        assert (outcome.answer, outcome.reply) == ("abc", None)


@pytest.mark.parametrize("name", COMMANDS)
def test_any_text_behind_a_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Talk() as talk:
        for text in (
            *TEXTS,
            *(f"{field} {text}" for field in ("system", "seed") for text in TEXTS),
        ):
            shown = talk.say(f"/{name} {text}")
            assert "qwick failed" not in shown, (name, text)
            assert "Traceback" not in shown, (name, text)
