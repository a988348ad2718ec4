"""From a name of a repository to an answer: fetched from a server, verified, loaded, run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub.repositories import Repositories
from llm.pooled import write_checkpoint
from llm.small import write_small
from qwick.llm import Qwen
from qwick.settings import child_environment


@pytest.mark.parametrize(("kind", "hub"), [("folder", "hf"), ("file", "hf"), ("folder", "ms")])
def test_a_name_answers_as_the_files_do(kind: str, hub: str, tmp_path: Path) -> None:
    if kind == "folder":
        source = write_checkpoint(tmp_path / "own", "whole")
        files = {path.name: path.read_bytes() for path in source.iterdir()}
        # Code and pickles beside it are left where they are.
        files |= {"modeling_evil.py": b"raise SystemExit", "pytorch_model.bin": b"a pickle"}
    else:
        source = write_small(tmp_path / "own-Q8_0.gguf")
        files = {source.name: source.read_bytes()}
    with Qwen.load(source, threads=1) as qwen:
        expected = qwen.complete("the", max_tokens=6, temperature=0)

    server = Repositories({"some/model": files})
    environment = child_environment()
    environment.update(QWICK_HOME=str(tmp_path / "home"), QWICK_SOURCE=hub)
    environment.update(HF_ENDPOINT=server.endpoint, MODELSCOPE_ENDPOINT=server.endpoint)
    environment.pop("QWICK_OFFLINE", None)

    def answer() -> str:
        words = ["run", f"{hub}:some/model", "the", "--max-tokens", "6", "--temperature", "0"]
        done = subprocess.run(
            [sys.executable, "-m", "qwick", *words, "--raw", "--json", "--threads", "1"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        text: str = json.loads(done.stdout)["text"]
        return text

    try:
        assert answer() == expected.text
        asked = len(server.requests)
        assert asked > 1
        assert not {"modeling_evil.py", "pytorch_model.bin"} & set(server.fetched())
        assert answer() == expected.text
        assert len(server.requests) == asked  # stored: nobody is asked
    finally:
        server.close()
