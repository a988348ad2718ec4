"""Checkpoints of any repository, from servers that speak as the hubs do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hub.repositories import COMMIT, Repositories
from hub.support import Recorder, Spawn, children
from qwick import hub, settings
from qwick.errors import DigestError, DownloadError, ModelNotFoundError, ParameterError
from qwick.hub import Store
from qwick.hub.huggingface import HubSource
from qwick.hub.modelscope import ModelScopeSource

CHANCE = np.random.default_rng(11)
PARTS = [CHANCE.bytes(200_000) for _ in range(3)]
SPLIT = {f"Q8/big-Q8_0-0000{n}-of-00003.gguf": data for n, data in enumerate(PARTS, 1)}
FOLDER = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer.json": b"{}",
    "merges.txt": b"#version\n" * 1000,
    "model-00001-of-00002.safetensors": CHANCE.bytes(150_000),
    "model-00002-of-00002.safetensors": CHANCE.bytes(100_000),
    "model.safetensors.index.json": b'{"weight_map": {}}',
}
NOT_TAKEN = {
    "pytorch_model.bin": b"a pickle",
    "modeling_evil.py": b"import os",
    "optimizer.pt": b"x",
    "args.pickle": b"x",
    "README.md": b"# Words",
}
GGUF = CHANCE.bytes(300_000)
FILES = {
    "some/split": SPLIT,
    "some/folder": {**NOT_TAKEN, **FOLDER},
    "some/gguf": {"a-Q4_K_M.gguf": GGUF, "a-Q8_0.gguf": GGUF[::-1], "mmproj-a-f16.gguf": b"x"},
    "Qwen/Qwen2.5-0.5B-Instruct-GGUF": {"qwen2.5-0.5b-instruct-q8_0.gguf": GGUF},
    "Qwen/Qwen3-0.6B-GGUF": {"Qwen3-0.6B-Q8_0.gguf": GGUF},
}


@pytest.fixture
def hubs() -> Iterator[Repositories]:
    server = Repositories(FILES)
    yield server
    server.close()


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    with children() as start:
        yield start


@pytest.fixture
def open_store(hubs: Repositories, tmp_path: Path) -> Callable[[], Store]:
    """Make a store of no catalogue that fetches from both hubs of the server."""
    sources = [HubSource(hubs.endpoint), ModelScopeSource(hubs.endpoint)]
    return lambda: Store(tmp_path / "home", catalog={}, sources=sources)


def stored(store: Store, name: str) -> dict[str, bytes]:
    """Return the files of a checkpoint of the store, by their paths."""
    entry = store.entry(name)
    return {file.path: store.file_path(entry, file).read_bytes() for file in entry.files}


@pytest.mark.parametrize("prefix", ["hf:", "ms:"])
def test_a_split_model_is_pulled_once_and_known_from_then_on(
    open_store: Callable[[], Store], hubs: Repositories, prefix: str, recorder: Recorder
) -> None:
    name = f"{prefix}some/split:q8_0"
    path = open_store().pull(name, recorder)
    assert path.name == "big-Q8_0-00001-of-00003.gguf"
    assert hubs.fetched() == list(SPLIT)
    assert stored(open_store(), name) == SPLIT
    steps = [done for what, done, total in recorder.steps if total == sum(map(len, PARTS))]
    assert len(steps) == len(recorder.steps)
    assert steps == sorted(steps)
    assert steps[-1] == sum(map(len, PARTS))
    count = len(hubs.requests)
    with settings.OFFLINE.changed("1"):
        assert open_store().pull(name, Recorder()) == path
    (one,) = open_store().list()
    assert (one.state, one.path, one.entry.size) == ("stored", path, 600_000)
    assert one.entry.places[0].revision == (COMMIT if prefix == "hf:" else "master")
    assert hub.verify(open_store(), name, Recorder()).verdict == "ok"
    assert hub.prune(open_store()).freed == 0
    assert [row.state for row in hub.usage(open_store()).checkpoints] == ["stored"]
    assert len(hubs.requests) == count
    assert open_store().remove(name) > 600_000
    assert open_store().list() == []


def test_every_file_is_fetched_at_the_commit_of_the_list(
    open_store: Callable[[], Store], hubs: Repositories
) -> None:
    open_store().pull("hf:some/split@v1.0:q8_0", Recorder())
    first, *rest = [path for path, _ in hubs.requests]
    assert first == "/api/models/some/split/revision/v1.0?blobs=true"
    assert rest == [f"/some/split/resolve/{COMMIT}/{path}" for path in SPLIT]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("hf:some/gguf@v1:q4_k_m", "hf:some/gguf@V1:q4_k_m"),
        ("hf:some/gguf:a-Q4_K_M.gguf", "hf:some/gguf:A-Q4_K_M.gguf"),
        ("ms:some/gguf@v1", "ms:Some/gguf@v1"),
    ],
    ids=["revision", "file", "repository"],
)
def test_another_case_of_what_has_one_is_another(
    open_store: Callable[[], Store], hubs: Repositories, first: str, second: str
) -> None:
    files = {"a-Q4_K_M.gguf": GGUF, "A-Q4_K_M.gguf": GGUF[::-1]}
    hubs.repositories |= {"some/gguf": files, "Some/gguf": {"a-Q4_K_M.gguf": GGUF[::-1]}}
    one, count = open_store().pull(first, Recorder()), len(hubs.requests)
    other = open_store().pull(second, Recorder())
    assert len(hubs.requests) == count + 2  # the list and the file
    assert other != one
    assert (other.read_bytes() == GGUF) == ("@V1" in second)
    assert len(open_store().list()) == 2
    assert open_store().pull(first.replace("q4_k_m", "Q4_K_M"), Recorder()) == one
    assert len(hubs.requests) == count + 2  # formats are one in any case


@pytest.mark.parametrize("prefix", ["hf:", "ms:"])
def test_a_folder_holds_what_is_listed_and_nothing_that_could_run(
    open_store: Callable[[], Store], hubs: Repositories, prefix: str, recorder: Recorder
) -> None:
    path = open_store().pull(f"{prefix}some/folder", recorder)
    assert sorted(hubs.fetched()) == sorted(FOLDER)
    assert stored(open_store(), f"{prefix}some/folder") == FOLDER
    assert path.is_dir()
    assert not {p.suffix for p in path.rglob("*")} & {".bin", ".py", ".pt", ".pickle"}
    said, whose = recorder.notices[:2]
    assert "left out" in said
    assert ("modelscope.cn/models/" in whose) == (prefix == "ms:")
    assert ("apache-2.0" in whose) == (prefix == "hf:")
    assert all(name in said for name in NOT_TAKEN)


@pytest.mark.parametrize(
    "spoilt", ["model-00002-of-00002.safetensors", "merges.txt"], ids=["SHA-256", "git's"]
)
def test_a_wrong_digest_fetches_only_the_bad_file_again(
    open_store: Callable[[], Store], hubs: Repositories, spoilt: str, recorder: Recorder
) -> None:
    hubs.spoilt = {spoilt: FOLDER[spoilt][:-1] + b"?"}
    open_store().pull("some/folder", recorder)
    assert stored(open_store(), "some/folder") == FOLDER
    counts = {path: hubs.fetched().count(path) for path in FOLDER}
    assert counts == {path: 2 if path == spoilt else 1 for path in FOLDER}
    assert sum("fetching them once more" in text for text in recorder.notices) == 1


def test_a_file_that_rots_is_found_and_fetched_alone(
    open_store: Callable[[], Store], hubs: Repositories
) -> None:
    folder = open_store().pull("some/folder", Recorder())
    (folder / "merges.txt").write_bytes(b"x" * len(FOLDER["merges.txt"]))
    checked = hub.verify(open_store(), "some/folder", Recorder())
    bad = [one.file.path for one in checked.files if one.verdict == "damaged"]
    assert (checked.verdict, bad) == ("damaged", ["merges.txt"])
    hubs.requests.clear()
    open_store().pull("some/folder", Recorder())
    assert hubs.fetched() == ["merges.txt"]
    assert stored(open_store(), "some/folder") == FOLDER


def test_a_pull_goes_on_with_the_file_it_stopped_at_and_the_same_commit(
    open_store: Callable[[], Store], hubs: Repositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwick.hub.transfer.RECONNECTS", 0)
    hubs.cuts = [200_000, 120_000]  # the second part breaks
    with pytest.raises(DownloadError, match="120,000 bytes that arrived are kept"):
        open_store().pull("hf:some/split:q8_0", Recorder())
    (one,) = open_store().list()
    assert one.state == "incomplete"
    hubs.requests.clear()
    open_store().pull("hf:some/split:q8_0", Recorder())
    assert [ranged for _, ranged in hubs.requests] == ["bytes=120000-", None]
    assert hubs.fetched() == list(SPLIT)[1:]  # no list of files: it is written down
    assert stored(open_store(), "hf:some/split:q8_0") == SPLIT


@pytest.mark.parametrize("prefix", ["hf:", "ms:"])
def test_a_cut_at_every_tenth_costs_not_a_byte(
    open_store: Callable[[], Store], hubs: Repositories, prefix: str
) -> None:
    name, size = f"{prefix}some/gguf:q4_k_m", len(GGUF)
    for tenth in range(1, 10):
        before = hubs.sent
        hubs.cuts = [size * tenth // 10]
        path = open_store().pull(name, Recorder())
        assert path.read_bytes() == GGUF
        assert hubs.sent - before == size
        assert hubs.requests[-1][1] == f"bytes={size * tenth // 10}-"
        open_store().remove(name)


def test_a_redirect_to_another_host_resumes_there_and_takes_no_token_along(
    open_store: Callable[[], Store], hubs: Repositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hubs.cdn = Repositories(FILES)
    try:
        hubs.cdn.cuts = [100_000]
        assert open_store().pull("hf:some/gguf:q4_k_m", Recorder()).read_bytes() == GGUF
        assert hubs.cdn.requests[-1][1] == "bytes=100000-"
        assert hubs.tokens == ["Bearer hf_secret"] * 3
        assert hubs.cdn.tokens == [None, None]
        hubs.cdn.refusals = {"Q8_0": (403, {}, 9)}
        with pytest.raises(DownloadError, match="where it keeps the file, answered 403"):
            open_store().pull("hf:some/gguf:q8_0", Recorder())
        hubs.tokens.clear()
        open_store().remove("some/gguf:q4_k_m")
        open_store().pull("ms:some/gguf:q4_k_m", Recorder())
        assert set(hubs.tokens) == {None}
    finally:
        hubs.cdn.close()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "said", "hint"),
    [
        (401, "GatedRepo", "accepted its licence", "HF_TOKEN"),
        (403, "GatedRepo", "accepted its licence", "/some/gguf"),
        (403, "", r"some/gguf was refused \(403\)", "if it has a licence to accept: accept"),
        (418, "", "answered 418", "check the network"),
    ],
)
def test_a_refused_repository_says_what_to_do(
    open_store: Callable[[], Store],
    hubs: Repositories,
    status: int,
    code: str,
    said: str,
    hint: str,
) -> None:
    hubs.refusals = {"/some/gguf": (status, {"X-Error-Code": code}, 9)}
    with pytest.raises(DownloadError, match=said) as caught:
        open_store().pull("hf:some/gguf", Recorder())
    assert hint in str(caught.value.hint)
    assert ("accepted its licence" in caught.value.message) == (code == "GatedRepo")
    assert len(hubs.requests) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:some/none", "no repository some/none.*401"),
        ("ms:some/none", "no repository some/none.*404"),
        ("hf:some/gguf:q2_k", "some/gguf has no q2_k at c"),
        ("hf:some/gguf:nothing.gguf", "has no nothing.gguf"),
        ("hf:some/split:Q8/big-Q8_0-00002-of-00003.gguf", "has no Q8/big"),  # opened by its first
    ],
)
def test_what_is_not_there(open_store: Callable[[], Store], name: str, said: str) -> None:
    with pytest.raises(ModelNotFoundError, match=said) as caught:
        open_store().pull(name, Recorder())
    assert caught.value.hint


def test_a_revision_that_is_not_there(open_store: Callable[[], Store], hubs: Repositories) -> None:
    hubs.refusals = {"/revision/": (404, {"X-Error-Code": "RevisionNotFound"}, 1)}
    with pytest.raises(ModelNotFoundError, match="has no revision v9"):
        open_store().pull("hf:some/gguf@v9", Recorder())


def test_a_file_that_has_gone_since_the_list(
    open_store: Callable[[], Store], hubs: Repositories
) -> None:
    hubs.refusals = {"/resolve/": (404, {"X-Error-Code": "EntryNotFound"}, 1)}
    with pytest.raises(DownloadError, match=r"some/gguf has no file a-Q4_K_M.gguf"):
        open_store().pull("hf:some/gguf", Recorder())


@pytest.mark.parametrize("where", ["/revision/", "/resolve/"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(
    open_store: Callable[[], Store],
    hubs: Repositories,
    where: str,
    status: int,
    recorder: Recorder,
) -> None:
    hubs.refusals = {where: (status, {"Retry-After": "0"} if status == 429 else {}, 2)}
    assert open_store().pull("hf:some/gguf", recorder).read_bytes() == GGUF
    assert sum(f"{status}" in text and "asking again" in text for text in recorder.notices) == 2


def test_a_wait_that_is_too_long_is_not_waited(
    open_store: Callable[[], Store], hubs: Repositories
) -> None:
    hubs.refusals = {"/revision/": (429, {"Retry-After": "3600"}, 9)}
    with pytest.raises(DownloadError, match=r"429 .*ask again in 3,600 s"):
        open_store().pull("hf:some/gguf", Recorder())
    assert len(hubs.requests) == 1


def test_a_list_that_is_hostile_or_none(
    open_store: Callable[[], Store], hubs: Repositories
) -> None:
    evil = {"../evil-Q4_K_M.gguf": GGUF, "incoming/e-Q4_K_M.gguf": GGUF, "/etc/x-q4_0.gguf": GGUF}
    hubs.repositories["some/evil"] = {**evil, ".hidden/a-q8_0.gguf": GGUF, "a\nb-q8_0.gguf": GGUF}
    for prefix in ("hf:", "ms:"):
        with pytest.raises(ModelNotFoundError, match="nothing that qwick reads"):
            open_store().pull(f"{prefix}some/evil", Recorder())
    assert hubs.fetched() == []
    hubs.repositories = {}
    hubs.refusals = {"/api/": (200, {}, 9)}  # with nothing in it
    with pytest.raises(DownloadError, match="no JSON"):
        open_store().pull("hf:some/gguf", Recorder())


@pytest.mark.parametrize("said", ["\x1b]0;evil\x07", "a\u202eb", "\x9b2J", "a\nb"])
def test_what_modelscope_says_cannot_steer_a_terminal(
    open_store: Callable[[], Store],
    hubs: Repositories,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    recorder: Recorder,
) -> None:
    answers = [{"Code": 400, "Message": "the model is not open"}, {"Code": 400, "Message": said}]
    monkeypatch.setattr(hubs, "modelscope", lambda files: answers.pop())
    with pytest.raises(ModelNotFoundError, match="master: no list of files"):
        open_store().pull("ms:some/gguf", recorder)
    assert not any(said in text for text in recorder.notices)
    with pytest.raises(ModelNotFoundError, match="master: the model is not open"):
        open_store().pull("ms:some/gguf", recorder)


# -- the family's catalog --------------------------------------------------------------------------


def test_where_the_hub_fails_modelscope_has_the_same_repository(
    open_store: Callable[[], Store], hubs: Repositories, recorder: Recorder
) -> None:
    hubs.refusals = {"/api/models/": (503, {}, 99), "/resolve/": (503, {}, 99)}
    path = open_store().pull("qwen2.5-0.5b-instruct:q8_0", recorder)
    assert path.read_bytes() == GGUF
    assert any("asking again" in text for text in recorder.notices)
    entry = open_store().entry("Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0")
    assert (entry.name, entry.author) == ("qwen2.5-0.5b-instruct:q8_0", "Qwen team, Alibaba Cloud")
    hubs.refusals["/api/models/"] = (200, {}, 0)
    open_store().remove(entry.name)
    open_store().pull("qwen2.5-0.5b-instruct:q8_0", Recorder())  # listed there, fetched here
    assert [p for p, _ in hubs.requests][-1].startswith("/api/v1/models/Qwen/")


def test_a_stranger_on_modelscope_is_not_asked(
    open_store: Callable[[], Store], hubs: Repositories
) -> None:
    hubs.refusals = {"/api/models/": (503, {}, 99)}
    with pytest.raises(DownloadError, match="503"):
        open_store().pull("some/gguf", Recorder())
    assert not any(path.startswith("/api/v1/") for path, _ in hubs.requests)


def test_the_hub_must_agree_with_the_catalog(
    open_store: Callable[[], Store], hubs: Repositories, recorder: Recorder
) -> None:
    name = "qwen3-0.6b:q8_0"  # whose commit, size and digest the catalog has
    with pytest.raises(DownloadError, match="offers 300000 bytes instead of 639446688"):
        open_store().pull(name, recorder)
    hubs.repositories["Qwen/Qwen3-8B-GGUF"] = {"Qwen3-8B-Q4_K_M.gguf": GGUF}
    with pytest.raises(DigestError, match=r"300,000 bytes .* the catalog with 5,027,783,488") as it:
        open_store().pull("qwen3-8b", Recorder())
    named = f"qwen3-8b@{COMMIT}:q4_k_m"
    assert named in str(it.value.hint)
    assert open_store().pull(named, Recorder()).read_bytes() == GGUF


def test_a_source_can_be_forced(hubs: Repositories, tmp_path: Path) -> None:
    with settings.SOURCE.changed("ms"), settings.MODELSCOPE.changed(hubs.endpoint):
        Store(tmp_path).pull("qwen2.5-0.5b-instruct:q8_0", Recorder())
    assert len(hubs.requests) == 2
    assert all(path.startswith("/api/v1/") for path, _ in hubs.requests)
    with settings.SOURCE.changed("pip"), pytest.raises(ParameterError, match="hf or ms"):
        Store(tmp_path).pull("qwen2.5-1.5b-instruct:q8_0", Recorder())


def test_offline_a_bare_name_takes_the_format_that_is_stored(
    open_store: Callable[[], Store], recorder: Recorder
) -> None:
    path = open_store().pull("qwen2.5-0.5b-instruct:q8_0", Recorder())
    with settings.OFFLINE.changed("1"):
        assert open_store().pull("qwen2.5-0.5b-instruct", recorder) == path
        with pytest.raises(DownloadError, match="QWICK_OFFLINE"):
            open_store().pull("qwen2.5-0.5b-instruct:q4_0", Recorder())
        with pytest.raises(DownloadError, match="QWICK_OFFLINE"):
            open_store().pull("some/gguf", Recorder())
    assert any("offline: qwen2.5-0.5b-instruct:q8_0" in text for text in recorder.notices)


# -- manifests and processes -----------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "path", "schema", "digest", "name"])
def test_a_manifest_that_cannot_be_right_is_no_manifest(
    open_store: Callable[[], Store], damage: str
) -> None:
    path = open_store().pull("some/gguf", Recorder())
    written = path.parent / "qwick.json"
    values = json.loads(written.read_text())
    if damage == "path":
        values["files"][0]["path"] = "../../../evil.gguf"
    elif damage == "schema":
        values["schema"] = 99
    elif damage == "digest":
        values["files"][0]["sha256"] = "../x"
    elif damage == "name":
        values["name"] = "another"
    text = json.dumps(values)
    written.write_text(text[:-10] if damage == "cut" else text)
    assert open_store().list() == []
    assert {item.kind for item in hub.prune(open_store()).deleted} <= {"stale lock"}
    assert path.exists()  # it may be another version's


def test_two_processes_share_one_download(
    spawn: Spawn, hubs: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hubs.endpoint)
    monkeypatch.setenv("QWICK_HOME", str(tmp_path))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    hubs.rate = 400_000  # bytes a second, so that the other one comes meanwhile
    first, second = (spawn("-m", "qwick", "models", "pull", "hf:some/split:q8_0") for _ in "12")
    told = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], told
    assert told[0][0] == told[1][0] != ""
    assert hubs.fetched() == list(SPLIT)
    assert sum("waiting for it" in err for _, err in told) == 1
