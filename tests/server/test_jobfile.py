"""The files of a batch: nothing is asked twice, nothing lost, nothing of anybody else's touched."""

from __future__ import annotations

import json
import os
import tracemalloc
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwick.errors import ResourceError, UsageError
from qwick.server import jobfile
from qwick.server.jobfile import Answers, Done, Requests, check_apart


def request(custom_id: Any, **changes: Any) -> str:
    url = "/v1/completions"
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {}, **changes})


def answer(custom_id: str | None, status: int = 200, line: int | None = None) -> bytes:
    found: dict[str, Any] = {"id": "batch_req_1", "custom_id": custom_id}
    if line is None:
        found.update(response={"status_code": status, "request_id": "1", "body": {}}, error=None)
    else:
        found.update(response=None, error={"code": "invalid_line", "message": "x", "line": line})
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def left(requests: Requests, answers: Answers) -> list[tuple[int, str | None]]:
    return [(line.number, line.custom_id) for line in requests.lines(Done(answers.digests))]


# -- requests -------------------------------------------------------------------------------------


def test_lines_are_told_apart(tmp_path: Path) -> None:
    path = written(
        tmp_path / "in", request("a"), "", "no json", request(""), request(5), "[]", request("b")
    )
    requests = Requests(path)
    assert requests.count == 6
    with Answers(tmp_path / "out") as answers:
        found = left(requests, answers)
    assert found == [(1, "a"), (3, None), (4, None), (5, None), (6, None), (7, "b")]


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"  \r\n"],
)
def test_a_file_of_nothing_has_no_lines(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "in"
    path.write_bytes(data)
    assert Requests(path).count == 0


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text(f"{request('a')}\r\n{request('b')}")
    assert Requests(path).count == 2


def test_a_custom_id_that_two_lines_have_is_named_with_them(tmp_path: Path) -> None:
    path = written(
        tmp_path / "in", request("a"), request("b"), "", request("a"), request("c"), request("a")
    )
    with pytest.raises(UsageError) as failure:
        Requests(path)
    assert "1 custom_id more than once: 'a' on the lines 1, 4, 6" in failure.value.message


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: os.mkfifo(path), "no plain file"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, make: Any, reason: str) -> None:
    make(tmp_path / "in")
    with pytest.raises(UsageError, match=reason):
        Requests(tmp_path / "in")


@pytest.mark.parametrize("change", ["other", "shorter", "longer"])
def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path, change: str) -> None:
    path = written(tmp_path / "in", *(request(f"r{i}") for i in range(5)))
    requests = Requests(path)
    lines = path.read_text().splitlines()
    if change == "longer":  # what is added later is for the next run
        written(path, *lines, request("new"))
        with Answers(tmp_path / "out") as answers:
            assert len(left(requests, answers)) == 5
        return
    written(path, *([request("x"), *lines[1:]] if change == "other" else lines[:3]))
    with Answers(tmp_path / "out") as answers, pytest.raises(UsageError, match="was changed"):
        left(requests, answers)


def test_a_line_without_end_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobfile, "MOST_LINE", 1000)
    path = written(tmp_path / "in", request("a"), "x" * 5_000_000, request("b"), "y" * 1000)
    list(Requests(written(tmp_path / "small", request("a"))).lines(Done(array("Q"))))  # imports
    tracemalloc.start()
    requests = Requests(path)
    with Answers(tmp_path / "out") as answers:
        found = list(requests.lines(Done(answers.digests)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(line.number, line.too_long) for line in found] == [
        *((1, False), (2, True), (3, False)),
        (4, False),  # exactly as long as it may be
    ]
    assert peak < 1_000_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    count = 3000
    padding = "x" * 300
    with (tmp_path / "in").open("w") as file:
        for i in range(count):
            file.write(request(f"r{i}", body={"prompt": padding}) + "\n")
    with (tmp_path / "out").open("wb") as out:
        for i in range(0, count, 2):
            out.write(answer(f"r{i}"))
    np.unique(np.arange(3))  # whose import takes a megabyte
    tracemalloc.start()
    requests = Requests(tmp_path / "in")
    with Answers(tmp_path / "out") as answers:
        done = Done(answers.digests)
        total = sum(1 for _ in requests.lines(done))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (requests.count, total, requests.left(done)) == (count, count // 2, count // 2)
    assert peak < 300_000 + 80 * count, "the file alone has 400 bytes a line"


# -- answers --------------------------------------------------------------------------------------


def test_what_is_answered_is_taken_up(tmp_path: Path) -> None:
    path = written(tmp_path / "in", request("a"), "no json", request("b"), request("\ud800"))
    out = tmp_path / "out"
    with Answers(out) as answers:
        assert len(left(Requests(path), answers)) == 4
        for line in (answer("a"), answer(None, line=2), answer("b", 400), answer("\ud800")):
            answers.write(line)
    before = out.read_bytes()
    with Answers(out) as again:
        assert left(Requests(path), again) == []
        assert again.failed == 2
    assert out.read_bytes() == before
    other = written(tmp_path / "other", request("a"), request("line 2"), request("c"))
    with Answers(out) as again:
        assert [custom_id for _, custom_id in left(Requests(other), again)] == ["line 2", "c"]


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    out = tmp_path / "out"
    torn = answer("b")
    for end in (*range(0, len(torn), 7), len(torn) - 1):
        for tail in (b"", b"\0" * 9):
            out.write_bytes(answer("a") + torn[:end] + tail)
            with Answers(out) as answers:
                assert list(answers.digests) == [jobfile.digest_of("a", 1)]
                answers.write(torn)
            assert out.read_bytes() == answer("a") + torn


@pytest.mark.parametrize(
    "data",
    [
        b"Dear diary,",
        b"Dear diary,\n",
        b'{"id":"x"}\n',
        b"{}\n",
        b"\n",
        b'{"id":"batch_req_1","custom_id":"a","response":7,"error":null}\n',
        b'{"id":"batch_req_1","custom_id":"a","response":{},"error":null}\n',
        answer("a") + b"torn" + answer("b"),
        answer("a") + b"my own notes",
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_file_that_is_not_ours_is_left_as_it_is(tmp_path: Path, data: bytes) -> None:
    out = tmp_path / "out"
    out.write_bytes(data)
    with pytest.raises(UsageError, match="is no answer of a batch, and is left as it is"):
        Answers(out)
    assert out.read_bytes() == data


def test_only_one_process_writes(tmp_path: Path) -> None:
    with Answers(tmp_path / "out"), pytest.raises(ResourceError, match="by another process"):
        Answers(tmp_path / "out")
    Answers(tmp_path / "out").__exit__()


@pytest.mark.parametrize("where", ["/dev/null", "/nowhere/out", "/"])
def test_what_cannot_be_written_is_refused(where: str) -> None:
    with pytest.raises(UsageError):
        Answers(Path(where))


def test_the_files_must_differ(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    check_apart([one, other])
    with pytest.raises(UsageError, match="the same file"):
        check_apart([one, other, tmp_path / "a"])
    one.touch()
    other.symlink_to(one)
    with pytest.raises(UsageError, match="the same file"):
        check_apart([one, other])


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:10]))
    with Answers(tmp_path / "out") as answers:
        answers.write(answer("a"))
    assert (tmp_path / "out").read_bytes() == answer("a")
