"""From a name of a repository to an answer: fetched from a server, verified, loaded, run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.repositories import Repositories
from llm.pooled import write_checkpoint
from llm.small import write_small
from qwick.llm import Qwen


@pytest.mark.parametrize("prefix", ["hf", "ms"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_name_answers_as_the_files_do(
    kind: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "folder":
        source = write_checkpoint(tmp_path / "own", "whole")
        files = {path.name: path.read_bytes() for path in source.iterdir()}
        # Code and pickles beside it are left where they are.
        files |= {"modeling_evil.py": b"raise SystemExit", "pytorch_model.bin": b"a pickle"}
    else:
        source = write_small(tmp_path / "own-Q8_0.gguf")
        files = {source.name: source.read_bytes()}
    with Qwen.load(source, threads=1) as qwen:
        expected = qwen.complete("the", max_tokens=6, temperature=0, ignore_eos=True)

    server = Repositories({"some/model": files})
    monkeypatch.setenv("QWICK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)  # read at its import
    monkeypatch.setenv("QWICK_SOURCE", prefix)
    try:
        with Qwen.load(f"{prefix}:some/model", threads=1) as qwen:
            found = qwen.complete("the", max_tokens=6, temperature=0, ignore_eos=True)
        asked = len(server.requests)
        assert not {"modeling_evil.py", "pytorch_model.bin"} & set(server.fetched())
        with Qwen.load(f"{prefix}:some/model", threads=1):  # stored: nobody is asked
            assert len(server.requests) == asked
    finally:
        server.close()
    assert (found.text, found.usage) == (expected.text, expected.usage)
