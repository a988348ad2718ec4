"""Ollama's store, made on disk as Ollama lays it out, and read in place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from formats.test_unreadable import without_rights
from hub.support import Recorder
from llm.small import write_small
from qwick import hub, settings
from qwick.cli.main import main
from qwick.errors import (
    DigestError,
    FormatError,
    ModelNotFoundError,
    ResourceError,
    UnsupportedError,
)
from qwick.llm import Qwen

KIND = "application/vnd.ollama.image."
Put = Callable[..., Path]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    (folder / "blobs").mkdir(parents=True)
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    monkeypatch.setenv("QWICK_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def put(models: Path) -> Put:
    """Return what writes a manifest with its blobs, and returns the manifest's path."""

    def write(
        *parts: str, weights: bytes = b"GGUF", others: tuple[str, ...] = (), **changes: object
    ) -> Path:
        digest = hashlib.sha256(weights).hexdigest()
        (models / "blobs" / f"sha256-{digest}").write_bytes(weights)
        layer = {
            "mediaType": f"{KIND}model",
            "digest": f"sha256:{digest}",
            "size": len(weights),
            **changes,
        }
        rest = [{"mediaType": f"{KIND}{kind}", "digest": "x", "size": 1} for kind in others]
        path = models.joinpath("manifests", *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": [*rest, layer]}))
        return path

    return write


def used(listener: Recorder) -> bool:
    """Open the model of Ollama's; whether its blob was hashed."""
    hub.resolve("ollama:qwen3", listener)
    return bool(listener.steps)


LIBRARY = ("registry.ollama.ai", "library")


def test_a_model_is_loaded_from_its_blob(put: Put, models: Path, tmp_path: Path) -> None:
    weights = write_small(tmp_path / "small.gguf").read_bytes()
    put(*LIBRARY, "small", "8b", weights=weights, others=("template", "params", "license"))
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*")}
    with Qwen.load("ollama:small:8b", threads=1) as qwen:
        assert qwen.complete("x", max_tokens=2).usage.completion_tokens >= 1
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*")} == before


def test_the_names_are_those_of_ollama(put: Put, models: Path) -> None:
    put(*LIBRARY, "qwen3", "latest")
    put(LIBRARY[0], "somebody", "thing", "q4")
    put("hf.co", "a", "b", "Q8_0")
    put("localhost:5000", "team", "own", "1.0")
    names = {"hf.co/a/b:Q8_0", "somebody/thing:q4", "qwen3:latest", "localhost:5000/team/own:1.0"}
    assert set(hub.ollama_models()) == names
    for name in (*names, "qwen3", "Qwen3:LATEST", "hf.co/a/b:q8_0"):  # the case is not minded
        assert hub.resolve(f"ollama:{name}").parent == models / "blobs"


@pytest.mark.parametrize(
    "name", ["none", "qwen3:8b", "../../etc/passwd", "a/../b", "qwen3:../x", "a/b/c/d", "x" * 300]
)
def test_what_is_not_there(put: Put, name: str) -> None:
    put(*LIBRARY, "qwen3", "latest")
    with pytest.raises(ModelNotFoundError, match="Ollama has no model") as caught:
        hub.ollama_path(name)
    assert caught.value.hint == "it has: qwen3:latest"


def test_no_ollama_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "none"))
    with pytest.raises(ModelNotFoundError) as caught:
        hub.resolve("ollama:qwen3")
    assert "OLLAMA_MODELS" in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["projector", "adapter"])
def test_what_has_more_than_a_model(put: Put, kind: str) -> None:
    put(*LIBRARY, "seeing", "latest", others=(kind,))
    with pytest.raises(UnsupportedError, match=f"a layer '{kind}'"):
        hub.ollama_path("seeing")


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "sha256:../../../../etc/passwd"},
        {"digest": "sha256:" + "A" * 64},
        {"digest": "sha256:" + "0" * 64},  # no such blob
        {"digest": 7},
        {"digest": None},
        {"size": 5},
        {"size": "4"},
        {"size": True},
    ],
)
def test_a_layer_that_cannot_be_right(put: Put, changes: dict[str, object]) -> None:
    put(*LIBRARY, "qwen3", "latest", **changes)
    with pytest.raises(FormatError):
        hub.ollama_path("qwen3")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"layers": 1}',
        '{"layers": [1]}',
        '{"layers": [], "layers": []}',
        '{"layers": ' + "[" * 5000,
        '{"x": "' + "y" * (1 << 17) + '"}',
    ],
)
def test_a_manifest_that_cannot_be_right(put: Put, text: str) -> None:
    put(*LIBRARY, "qwen3", "latest").write_text(text)
    with pytest.raises(FormatError):
        hub.ollama_path("qwen3")


def test_a_manifest_without_a_model(put: Put) -> None:
    put(*LIBRARY, "qwen3", "latest", mediaType=f"{KIND}license")
    with pytest.raises(UnsupportedError, match="0 layers of a model"):
        hub.ollama_path("qwen3")


# -- what is trusted -------------------------------------------------------------------------------


def test_a_blob_is_hashed_once_and_again_when_it_has_changed(put: Put, models: Path) -> None:
    put(*LIBRARY, "qwen3", "latest")
    blob = hub.resolve("ollama:qwen3", Recorder())
    assert not used(Recorder())
    os.utime(blob, ns=(1, 1))
    assert used(Recorder())
    assert not used(Recorder())
    (note,) = (models.parent / "home" / "ollama").iterdir()
    for text in ("", "[]", note.read_text().replace(str(models), "/elsewhere")):
        note.write_text(text)
        assert used(Recorder())


def test_a_blob_that_is_not_what_its_name_says(put: Put, models: Path) -> None:
    put(*LIBRARY, "qwen3", "latest")
    (blob,) = (models / "blobs").iterdir()
    blob.write_bytes(b"EVIL")
    for _ in range(2):
        with pytest.raises(DigestError, match=r"has the SHA-256 .* not the one") as caught:
            hub.resolve("ollama:qwen3", Recorder())
    assert hashlib.sha256(b"EVIL").hexdigest() in caught.value.message
    assert "ollama pull" in str(caught.value.hint)
    assert not (models.parent / "home").exists()


def test_a_store_that_cannot_be_written_is_no_obstacle(put: Put, models: Path) -> None:
    put(*LIBRARY, "qwen3", "latest")
    (models.parent / "home").write_text("a file where the folder should be")
    assert used(Recorder())
    assert used(Recorder())


# -- where it is -----------------------------------------------------------------------------------


def test_the_folder_of_the_service_where_there_is_none_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, service = tmp_path / ".ollama" / "models", tmp_path / "share" / "models"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr(settings, "OLLAMA_SERVICE", service)
    assert settings.OLLAMA.get() == own
    service.mkdir(parents=True)
    assert settings.OLLAMA.get() == service
    own.mkdir(parents=True)
    assert settings.OLLAMA.get() == own


@pytest.mark.parametrize("closed", [".", "manifests", "blobs"])
def test_a_folder_that_may_not_be_read(
    put: Put, models: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(*LIBRARY, "qwen3", "latest")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is for its user alone
        Path(folder).chmod(0o755)
        place = shutil.copytree(models, Path(folder) / "models")
        monkeypatch.setenv("OLLAMA_MODELS", str(place))
        (place / closed).chmod(0)
        for name in ("qwen3", "QWEN3") if closed != "blobs" else ("qwen3",):
            with without_rights(), pytest.raises(ResourceError, match="Permission denied") as it:
                hub.ollama_path(name)
            assert str(place) in it.value.message
            assert "OLLAMA_MODELS" in str(it.value.hint)
        if closed != "blobs":
            with without_rights(), pytest.raises(ResourceError, match="Permission denied"):
                hub.ollama_models()
        (place / closed).chmod(0o755)


def test_there_is_nothing_to_pull(put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    put(*LIBRARY, "qwen3", "8b")
    assert main(["models", "pull", "ollama:qwen3:8b"]) == UnsupportedError.exit_code
    told = capsys.readouterr().err
    assert "ollama:qwen3:8b is read in place" in told
    assert "there is nothing to pull" in told
    assert "qwick run ollama:qwen3:8b" in told
    assert hub.Store().find("ollama:qwen3:8b") is None
    with pytest.raises(ModelNotFoundError):
        hub.Store().remove("ollama:qwen3:8b")
