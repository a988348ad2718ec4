"""Every way in takes the same names: the library, the command line, a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.repositories import Repositories
from hub.support import Spawn, children
from llm.small import write_small
from qwick import settings
from qwick.errors import ModelNotFoundError
from qwick.hub import DEFAULT
from qwick.llm import Qwen
from qwick.server.models import named


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    with children() as start:
        yield start


@pytest.fixture
def hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repositories]:
    """A hub with a real model in parts, where new processes look, and an empty store."""
    (tmp_path / "parts").mkdir()
    write_small(tmp_path / "parts" / "small-Q8_0.gguf", name=None, part_tensors=8)
    files = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    server = Repositories({"some/small": files})
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("QWICK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


def test_run_fetches_a_model_in_parts_and_the_library_finds_it(
    hubs: Repositories, spawn: Spawn
) -> None:
    name = "hf:some/small:q8_0"
    process = spawn("-m", "qwick", "run", name, "x", "--max-tokens", "2")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert sorted(hubs.fetched()) == sorted(hubs.repositories["some/small"])
    with settings.OFFLINE.changed("1"), Qwen.load(name, threads=1) as qwen:
        assert qwen.complete("x", max_tokens=2).usage.completion_tokens >= 1
    listed = spawn("-m", "qwick", "models", "list")
    out, err = listed.communicate(timeout=60)
    rows = [line.split()[0] for line in out.splitlines()[1:]]
    assert rows == [DEFAULT, "some/small:q8_0"], err


def test_pull_takes_a_revision_and_a_source(hubs: Repositories, spawn: Spawn) -> None:
    process = spawn("-m", "qwick", "models", "pull", "hf:some/small", "--revision", "v1")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "some--small@v1" in out
    assert hubs.requests[0][0].startswith("/api/models/some/small/revision/v1?")
    count = len(hubs.requests)
    other = spawn("-m", "qwick", "models", "pull", "hf:some/small", "--source", "ms")
    _, err = other.communicate(timeout=60)
    assert (other.returncode, len(hubs.requests)) == (2, count)
    assert "allowed: hf" in err


def test_a_server_names_its_models(hubs: Repositories) -> None:
    assert named(["qwen3-8b:q4_k_m", "mine=hf:a/b", "ollama:qwen3:8b", f"{DEFAULT}:q4_k_m"]) == [
        ("qwen3-8b:q4_k_m", "qwen3-8b:q4_k_m"),
        ("mine", "hf:a/b"),
        ("ollama:qwen3:8b", "ollama:qwen3:8b"),
        (DEFAULT, f"{DEFAULT}:q4_k_m"),
    ]
    with pytest.raises(ModelNotFoundError) as caught:
        named(["qwen3-8bb"])
    assert "qwen3-8b" in str(caught.value.hint)
