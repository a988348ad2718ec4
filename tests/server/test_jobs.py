"""`qwick jobs` as users run it, with the default checkpoint: every line once, killed or not.

Bodies are read into the official client's types, and compared with what a live server sends.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from cli.conftest import environment, read_terminal
from llm.pooled import write_checkpoint
from qwick.cli.main import main
from qwick.llm import Qwen
from server.live import MODEL, Server

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("default_checkpoint")]

SOME_FAILED = 11
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
NUMBER = {
    "type": "json_schema",
    "json_schema": {
        "name": "n",
        "schema": {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": False,
        },
    },
}


def line(custom_id: Any, url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 6}
    if url == CHAT:
        asked["messages"] = [{"role": "user", "content": f"Say {custom_id}."}]
    else:
        asked["prompt"] = f"Say {custom_id}."
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**asked, **body}}


def write(path: Path, lines: list[Any]) -> Path:
    texts = (one if isinstance(one, str) else json.dumps(one) for one in lines)
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "qwick", "jobs", "--ctx", "1024", *map(str, arguments)]


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=300, env=environment()
    )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def by_id(path: Path) -> dict[Any, dict[str, Any]]:
    found = read(path)
    assert len({one["id"] for one in found}) == len(found)
    return {one["custom_id"]: one for one in found}


GOOD = [
    line("chat"),
    line("json", response_format=NUMBER, max_tokens=24),
    line("two", n=2, seed=3, temperature=0.9),
    line("logprobs", logprobs=True, top_logprobs=2),
    line("inert", metadata={"a": "b"}),
    line("é🙂"),
    line("completion", COMPLETION),
    line("echo", COMPLETION, echo=True),
    line("several", COMPLETION, prompt=["One", "Two"]),
    line("fill", COMPLETION, prompt="def f(x):\n    return ", suffix="\n\nf(1)\n"),
]
BAD_BODIES = {
    "temperature": (line("temperature", temperature=9), 400, "temperature"),
    "field": (line("field", nonsense=1), 400, "nonsense"),
    "stream": (line("stream", stream=True), 400, "stream"),
    "model": (line("model", model="gpt-4o"), 404, "model"),
    "long": (line("long", messages=[{"role": "user", "content": "word " * 2000}]), 400, "messages"),
    "schema": (
        line("schema", guided_json={"type": "y"}),
        400,
        "guided_json",
    ),
    "many": (line("many", n=17), 400, None),
    "nan": (line("nan", temperature=float("nan")), 400, "temperature"),
}
BAD_LINES: list[tuple[Any, str]] = [
    ("no json", "no JSON"),
    ("[1]", "no JSON object"),
    ("[" * 5000, "levels"),
    ({k: v for k, v in line("x").items() if k != "custom_id"}, "custom_id is missing"),
    (line(7), "custom_id is 7"),
    (line("\ud800"), "hex escape"),
    (line("y" * 600), "custom_id is 'yyy"),
    ({**line("method"), "method": "GET"}, "method is 'GET'"),
    (line("images", "/v1/images"), "url is '/v1/images'; allowed: /v1/chat/completions, /v1/comp"),
    ({**line("more"), "more": 1}, "more is no field"),
    ({**line("body"), "body": "x"}, "body is 'x'"),
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Requests of every kind, with their answers and errors in two files."""
    folder = tmp_path_factory.mktemp("jobs")
    lines = [*GOOD, *(one[0] for one in BAD_BODIES.values()), *(one[0] for one in BAD_LINES), ""]
    source = write(folder / "in.jsonl", lines)
    done = run(source, folder / "out.jsonl", "--errors", folder / "errors.jsonl", "--json")
    assert done.returncode == SOME_FAILED, done.stderr
    told = json.loads(done.stdout)
    failed = len(BAD_BODIES) + len(BAD_LINES)
    assert (told["lines"], told["answered"]) == (len(GOOD) + failed, len(GOOD) + failed)
    assert (told["failed"], told["earlier"], told["left"]) == (failed, 0, 0)
    assert told["tokens"] > 20
    return source, folder / "out.jsonl", folder / "errors.jsonl"


def test_good_lines_have_bodies_of_the_official_client(mixed: tuple[Path, Path, Path]) -> None:
    found = by_id(mixed[1])
    assert set(found) == {one["custom_id"] for one in GOOD}
    for asked in GOOD:
        one = found[asked["custom_id"]]
        assert list(one) == ["id", "custom_id", "response", "error"]
        assert one["error"] is None
        response = one["response"]
        assert response["status_code"] == 200
        kind = ChatCompletion if asked["url"] == CHAT else Completion
        body = kind.model_validate(response["body"], strict=True)
        assert response["request_id"] in body.id
        assert body.model == MODEL
        assert body.usage is not None
        assert body.usage.completion_tokens >= 1
    assert json.loads(found["json"]["response"]["body"]["choices"][0]["message"]["content"])
    assert len(found["two"]["response"]["body"]["choices"]) == 2
    assert len(found["several"]["response"]["body"]["choices"]) == 2
    assert found["echo"]["response"]["body"]["choices"][0]["text"].startswith("Say echo.")
    assert found["inert"]["response"]["headers"] == {"x-qwick-inert": "metadata"}


def test_embeddings_and_rankings_are_those_of_python(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    folder = write_checkpoint(tmp_path / "judge", "whole")
    texts = ["The capital of France is Paris.", "x"]
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "vectors": ("/v1/embeddings", {"input": texts}),
        "short": ("/v1/embeddings", {"input": texts[0], "dimensions": 32}),
        "ranked": ("/v1/rerank", {"query": "Paris", "documents": texts}),
        "stream": ("/v1/embeddings", {"input": "x", "stream": True}),
        "bare": ("/v1/rerank", {"query": "Paris", "documents": []}),
    }
    lines = [
        {"custom_id": name, "method": "POST", "url": url, "body": {"model": "judge", **body}}
        for name, (url, body) in bodies.items()
    ]
    source = write(tmp_path / "in.jsonl", lines)
    made = command(source, tmp_path / "out.jsonl", "--model", f"judge={folder}")
    made[made.index("--ctx") + 1] = "640"
    done = subprocess.run(made, capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == SOME_FAILED, done.stderr
    # Nothing was generated, so there is no rate.
    assert done.stdout == f"5 of 5 lines answered, 2 with an error · {tmp_path / 'out.jsonl'}\n"
    found = {name: one["response"] for name, one in by_id(tmp_path / "out.jsonl").items()}
    assert {name for name, one in found.items() if one["status_code"] == 400} == {"stream", "bare"}
    with Qwen.load(folder, ctx=640) as qwen:
        expected, ranked = qwen.embed(texts), qwen.rerank("Paris", texts)
    listed = CreateEmbeddingResponse.model_validate(found["vectors"]["body"])
    assert np.allclose([row.embedding for row in listed.data], expected, atol=1e-6)
    (short,) = CreateEmbeddingResponse.model_validate(found["short"]["body"]).data
    assert len(short.embedding) == 32
    results = found["ranked"]["body"]["results"]
    assert [(row["index"], row["document"]["text"]) for row in results] == [
        (row.index, row.document) for row in ranked
    ]
    scores = [row["relevance_score"] for row in results]
    assert scores == pytest.approx([row.score for row in ranked], abs=1e-6)


def test_bad_bodies_have_the_error_of_the_server(mixed: tuple[Path, Path, Path]) -> None:
    found = by_id(mixed[2])
    for name, (_, status, parameter) in BAD_BODIES.items():
        one = found[name]
        assert one["error"] is None
        assert one["response"]["status_code"] == status, one
        error = one["response"]["body"]["error"]
        assert error["param"] == parameter, error
        assert error["message"]


def test_bad_lines_have_an_error_that_names_them(mixed: tuple[Path, Path, Path]) -> None:
    found = [one for one in read(mixed[2]) if one["response"] is None]
    assert len(found) == len(BAD_LINES)
    first = len(GOOD) + len(BAD_BODIES) + 1
    for one in found:
        error = one["error"]
        assert error["code"] == "invalid_line"
        _, message = BAD_LINES[error["line"] - first]
        assert error["message"].startswith(f"line {error['line']}: ")
        assert message in error["message"]
    assert Counter(one["error"]["line"] for one in found).most_common(1)[0][1] == 1


def test_a_second_run_asks_nothing_again(mixed: tuple[Path, Path, Path]) -> None:
    source, out, errors = mixed
    before = out.read_bytes(), errors.read_bytes()
    done = run(source, out, "--errors", errors)
    assert done.returncode == SOME_FAILED, done.stderr
    assert "earlier" in done.stdout
    assert (out.read_bytes(), errors.read_bytes()) == before


def test_bodies_are_those_of_a_live_server(mixed: tuple[Path, Path, Path], server: Server) -> None:
    def plain(body: dict[str, Any]) -> dict[str, Any]:
        inconstant = ("id", "created", "timings")
        found = {name: value for name, value in body.items() if name not in inconstant}
        if "usage" in found:
            found["usage"] = {**found["usage"], "prompt_tokens_details": None}
        return found

    found = {**by_id(mixed[1]), **by_id(mixed[2])}
    asked = [one for one in GOOD if one["custom_id"] in ("chat", "json", "two", "several", "fill")]
    asked += [BAD_BODIES[name][0] for name in ("temperature", "field", "schema", "many")]
    with server.client() as client:
        for one in asked:
            answer = client.post(one["url"], json=one["body"])
            response = found[one["custom_id"]]["response"]
            assert answer.status_code == response["status_code"]
            assert plain(answer.json()) == plain(response["body"]), one["custom_id"]


def test_killed_at_any_moment_each_line_is_answered_once(tmp_path: Path) -> None:
    names = [f"r{i}" for i in range(30)]
    source = write(tmp_path / "in.jsonl", [line(name, model="gpt-4o") for name in names])
    out = tmp_path / "out.jsonl"
    arguments = (source, out, "--places", "4", "--model", f"gpt-4o={MODEL}")
    for answered in (1, 12):
        process = subprocess.Popen(
            command(*arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        while not (out.exists() and out.read_bytes().count(b"\n") >= answered):
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert len(read(out)) < len(names)
        with out.open("ab") as file:  # as a kill amid a write, or a loss of power, leaves it
            file.write(b'{"id":"batch_req_torn","custom_id":"r29","response":{"sta')
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(r"30 of 30 lines answered \(\d+ earlier\), 0 with an error", done.stdout)
    assert sorted(one["custom_id"] for one in read(out)) == sorted(names)
    for one in read(out):
        assert one["response"]["status_code"] == 200
        assert one["response"]["body"]["model"] == "gpt-4o"


def test_progress_is_shown_and_ctrl_c_finishes_what_is_under_way(tmp_path: Path) -> None:
    names = [f"r{i}" for i in range(2000)]
    source = write(tmp_path / "in.jsonl", [line(name) for name in names])
    out = tmp_path / "out.jsonl"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(source, out, "--places", "6"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=environment(TERM="xterm", COLUMNS="100"),
    )
    os.close(theirs)
    seen = b""
    while b"tok/s" not in seen:  # once it has taken two seconds
        seen += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    seen += read_terminal(ours).encode()
    assert process.stdout is not None
    stdout = process.stdout.read()
    assert process.wait(60) == 130
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode(errors="replace"))
    assert "Traceback" not in text
    assert re.search(r"answering .*\d+/2000 +0 failed · \d+ tok/s", text), text
    assert re.search(r"finishing \d answers?; Ctrl-C again drops them", text), text
    found = read(out)
    assert f"{2000 - len(found):,} lines left; run it again to go on" in text
    assert stdout.startswith(f"{len(found):,} of 2,000 lines answered, 0 with an error")
    assert re.search(r"with an error · [1-9]\d* tok/s · ", stdout), stdout
    assert len({one["custom_id"] for one in found}) == len(found)


def test_a_second_ctrl_c_drops_what_is_under_way(tmp_path: Path) -> None:
    endless = [line(f"r{i}", ignore_eos=True, max_tokens=900) for i in range(4)]
    source = write(tmp_path / "in.jsonl", [line("short"), *endless])
    out = tmp_path / "out.jsonl"
    process = subprocess.Popen(
        command(source, out), stderr=subprocess.PIPE, text=True, env=environment()
    )
    while not (out.exists() and out.read_bytes().count(b"\n") >= 1):
        assert process.poll() is None
        time.sleep(0.002)
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    for told in process.stderr:
        if "finishing 4 answers" in told:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [one["custom_id"] for one in read(out)] == ["short"]


def test_what_cannot_be_is_refused_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = write(tmp_path / "twice.jsonl", [line("a"), line("b"), line("a")])
    source = write(tmp_path / "in.jsonl", [line("a")])
    out = tmp_path / "out.jsonl"
    for arguments, code, message in (
        ((twice, out), 2, "'a' on the lines 1, 3"),
        ((source, source), 2, "the same file"),
        ((source, out, "--errors", out), 2, "the same file"),
        ((tmp_path / "none", out), 2, "No such file"),
        (("-", out), 2, "allowed: the path of a file"),
        ((source, out, "--model", "no-such-model"), 3, "no model called"),
    ):
        assert main(["jobs", *map(str, arguments)]) == code
        told = capsys.readouterr().err
        assert message in told
        assert "hint: " in told
    assert not out.exists()
