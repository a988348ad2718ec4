"""`qwick run` with the real default checkpoint, as users run it."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Run, environment, read_terminal
from llm.small import write_small
from qwick.cli.main import BROKEN_PIPE
from qwick.cli.visible import visible
from qwick.engine.request import Sampling

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("default_checkpoint")]

GREEDY = ("--temperature", "0", "--ctx", "512")


def start(*arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "qwick", "run", *GREEDY, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment(),
    )


def test_an_answer_and_its_json_agree(qwick: Run) -> None:
    prompt = ("What is the capital of France? Answer with one word.",)
    done = qwick("run", *GREEDY, *prompt)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Paris" in done.stdout
    assert done.stdout.endswith("\n")
    found = json.loads(qwick("run", *GREEDY, "--json", "-", stdin=prompt[0] + "\n").stdout)
    assert found["text"] == done.stdout.removesuffix("\n")
    assert found["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] >= 1
    assert found["timings"]["ttft"] > 0


def test_the_system_message_and_max_tokens_are_honoured(qwick: Run) -> None:
    arguments = ("run", *GREEDY, "--json", "--max-tokens", "5", "Who are you?")
    plain = json.loads(qwick(*arguments).stdout)
    system = json.loads(qwick(*arguments, "--system", "You are a pirate named Blackbeard.").stdout)
    assert plain["usage"]["prompt_tokens"] != system["usage"]["prompt_tokens"]
    for found in (plain, system):
        assert found["finish_reason"] == "length"
        assert found["usage"]["completion_tokens"] == 5


def test_every_field_of_sampling_has_its_option(qwick: Run) -> None:
    text = qwick("run", "--help").stdout
    for field in dataclasses.fields(Sampling):
        if field.name != "stop_ids":  # ids of a tokenizer that the shell does not know
            assert f"--{field.name.replace('_', '-')}" in text


def test_options_of_sampling_reach_the_engine(qwick: Run) -> None:
    fields = ("--min-tokens", "3", "--logit-bias", "17=100", "--stop", "never", "--logprobs", "1")
    arguments = ("run", *GREEDY, *fields, "--max-tokens", "4", "--json", "Hi")
    found = json.loads(qwick(*arguments).stdout)
    assert found["ids"] == [17] * 4
    assert len(found["logprobs"]) == 4
    both = json.loads(qwick(*arguments, "--n", "2", "--seed", "5").stdout)
    assert [choice["ids"] for choice in both["choices"]] == [[17] * 4] * 2
    assert [choice["seed"] for choice in both["choices"]] == [5, 6]
    loop = ("--loop-detection", "--ignore-eos", "--logit-bias", "17=100", "--max-tokens", "300")
    found = json.loads(qwick("run", *GREEDY, *loop, "--json", "Hi").stdout)
    assert (found["finish_reason"], len(found["ids"])) == ("repetition", 256)


def test_bad_options_of_sampling_are_named(qwick: Run) -> None:
    for option, value, part in (
        ("--logit-bias", "x=1", "--logit-bias is 'x=1'; allowed: ID=BIAS"),
        ("--logit-bias", "5", "--logit-bias is '5'"),
        ("--logit-bias", "5=nan", "logit_bias of id 5 is nan"),
        ("--frequency-penalty", "3", "frequency_penalty is 3"),
        ("--logit-bias", "151936=1", "an id in logit_bias is 151936; allowed: 0 to"),
    ):
        done = qwick("run", *GREEDY, option, value, "Hi")
        assert done.returncode == 2
        assert part in done.stderr


def test_a_raw_prompt_is_continued(qwick: Run) -> None:
    done = qwick(
        "run",
        *GREEDY,
        "--raw",
        "--max-tokens",
        "12",
        "def add(a, b):\n    return",
        "--threads",
        "1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.lstrip().startswith("a + b")
    refused = qwick("run", "--raw", "--system", "x", "Hi")
    assert refused.returncode == 2
    assert "--system" in refused.stderr


def test_without_drafts_the_answer_is_the_same(qwick: Run) -> None:
    arguments = (
        "run",
        *GREEDY,
        "--json",
        "--raw",
        "--max-tokens",
        "24",
        "red blue green" + " red blue green" * 4,
    )
    drafted, plain = (
        json.loads(qwick(*arguments, *more).stdout) for more in ((), ("--no-drafts",))
    )
    assert drafted["ids"] == plain["ids"]
    assert drafted["timings"]["accepted"] > 0
    assert plain["timings"]["drafted"] == 0


def test_what_is_piped_in_is_part_of_the_prompt(qwick: Run) -> None:
    prompt = "Which animal does this text name? Answer with one word."
    done = qwick("run", *GREEDY, "--max-tokens", "16", prompt, stdin="A giraffe stood there.\n")
    assert done.returncode == 0, done.stderr
    assert "giraffe" in done.stdout.lower()


@pytest.mark.parametrize("arguments", [(), ("--raw",)])
def test_ctrl_c_stops_cleanly(arguments: tuple[str, ...]) -> None:
    process = start(*arguments, "Write a long story about the sea.")
    assert process.stdout is not None
    first = process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(first) == 5
    assert rest.endswith(b"\n")
    assert err == b""


def test_a_reader_that_leaves_stops_it() -> None:
    process = start("Write a long story about the sea.")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(5)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) == BROKEN_PIPE


def test_a_terminal_gets_a_status_line() -> None:
    ours, theirs = pty.openpty()
    process = start("--max-tokens", "3", "Hi", stderr=theirs)
    os.close(theirs)
    line = read_terminal(ours)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert "3 tokens at" in line
    assert "tok/s" in line
    assert "ended by length" in line


def test_a_prompt_that_is_too_long(qwick: Run) -> None:
    done = qwick("run", "--ctx", "64", "-", stdin="word " * 100)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "64" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("kind", ["cut", "rubbish", "empty", "folder"])
def test_a_damaged_checkpoint(
    qwick: Run, default_checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.gguf"
    if kind == "folder":
        path.mkdir()
    else:
        with default_checkpoint.open("rb") as file:
            start_of_it = file.read(1 << 20)
        path.write_bytes({"cut": start_of_it, "rubbish": start_of_it[::-1], "empty": b""}[kind])
    done = qwick("run", str(path), "Hi")
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert str(path) in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_control_characters_reach_a_pipe_and_no_terminal(tmp_path: Path) -> None:
    model = write_small(tmp_path / "small.gguf")
    words = [
        "--raw",
        "--ignore-eos",
        "--logit-bias",
        "27=100",
        "--max-tokens",
        "3",
        str(model),
        "x",
    ]
    process = start(*words)
    exact, _ = process.communicate(timeout=60)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "qwick", "run", *GREEDY, *words], stdout=theirs, env=environment()
    ):
        os.close(theirs)
        shown = read_terminal(ours)
    (char,) = set(exact.decode().strip())
    assert not char.isprintable()
    assert char not in shown
    assert visible(char) in shown


def test_log_probabilities_need_json(qwick: Run) -> None:
    done = qwick("run", "--logprobs", "3", "Hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --logprobs are shown with --json only\nhint: add --json\n"


def test_an_id_ends_an_answer(qwick: Run) -> None:
    words = ("run", *GREEDY, "--json", "--max-tokens", "8", "Count from 1 to 5.")
    ids = json.loads(qwick(*words).stdout)["ids"]
    ended = json.loads(qwick(*words, "--stop-ids", str(ids[3]), "--stop-ids", "1").stdout)
    assert ended["ids"] == ids[: ids.index(ids[3])]
    assert ended["finish_reason"] == "stop"
