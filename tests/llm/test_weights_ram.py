"""Experts larger than the memory for weights: asked for, or because memory is short."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm.small import write_small
from qwick import settings
from qwick.choose import memory
from qwick.cli.main import main
from qwick.errors import ParameterError, ResourceError
from qwick.hub.listener import SilentListener
from qwick.llm import Qwen
from qwick.llm.load import Options
from qwick.machine.cpu import Memory
from qwick.values import size_in_bytes

EXPERTS: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "norm_topk_prob": True,
    "hidden_size": 64,
    "head_dim": 32,
    "num_hidden_layers": 4,
}
PROMPT = "The quick brown fox jumps over the lazy dog, and then"
ASKED: dict[str, Any] = {"max_tokens": 12, "temperature": 0}


class Heard(SilentListener):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("experts") / "experts.gguf", **EXPERTS)


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> str:
    with Qwen.load(checkpoint) as qwen:
        return qwen.complete(PROMPT, **ASKED).text


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    with settings.HOME.changed(str(tmp_path / "home")):
        yield tmp_path / "home"


@pytest.mark.parametrize("own_process", [False, True])
def test_a_bound_on_weights(checkpoint: Path, expected: str, home: Path, own_process: bool) -> None:
    for start in range(2):
        heard = Heard()
        with Qwen.load(
            checkpoint, weights_ram="5 MB", own_process=own_process, listener=heard
        ) as qwen:
            assert qwen.complete(PROMPT, **ASKED).text == expected
            use = qwen.engine.snapshot.experts
        if not own_process:
            assert use is not None
            assert use.held <= (use.budget or 0) < 5 * 10**6
            assert use.misses > 0
            assert any("packing the experts" in text for text in heard.notices) == (start == 0)
            assert not any("do not fit" in text for text in heard.notices)
    assert len(list((home / "experts").iterdir())) == 1


def test_enough_for_all_needs_no_file(checkpoint: Path, expected: str, home: Path) -> None:
    with Qwen.load(checkpoint, weights_ram=1 << 30) as qwen:
        assert qwen.complete(PROMPT, **ASKED).text == expected
        use = qwen.engine.snapshot.experts
    assert use is not None
    assert use.budget is None
    assert use.rows > 0
    assert not (home / "experts").exists()


def test_too_little_is_refused_with_what_works(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        Qwen.load(checkpoint, weights_ram="1MiB")
    message = caught.value.message
    assert "weights_ram is 1,048,576 bytes; allowed: from" in message
    least = int(message.split("from ")[1].split(" bytes")[0].replace(",", ""))
    with Qwen.load(checkpoint, weights_ram=least) as qwen:
        assert qwen.complete(PROMPT, **ASKED).text
    with pytest.raises(ParameterError):
        Qwen.load(checkpoint, weights_ram=least - 1)
    dense = write_small(tmp_path / "dense.gguf")
    with pytest.raises(ParameterError, match=r"only experts can stay in a file"):
        Qwen.load(dense, weights_ram=10_000)
    with Qwen.load(dense, weights_ram="1GB") as qwen:
        assert qwen.engine.snapshot.experts is None


def test_memory_that_is_short(
    checkpoint: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that has not enough for all weights says so once, and answers the same."""
    scratch = memory.plan_memory  # what a plan with all in memory needs
    needed: list[int] = []

    def planned(*args: Any, **given: Any) -> memory.MemoryPlan:
        whole = scratch(*args, **{**given, "context": 512})
        needed.append(whole.needed)
        return scratch(*args, **given, memory=Memory(1 << 34, whole.needed - 3_000_000, "machine"))

    monkeypatch.setattr(memory, "plan_memory", planned)
    heard = Heard()
    with Qwen.load(checkpoint, ctx=128, listener=heard) as qwen:
        assert qwen.complete(PROMPT, **ASKED).text == expected
        use = qwen.engine.snapshot.experts
    assert use is not None
    assert use.budget is not None
    assert sum("do not fit into memory" in text for text in heard.notices) == 1
    with pytest.raises(ResourceError, match="the model needs"):
        Qwen.load(write_small(checkpoint.with_name("dense.gguf"), **{**DENSE}), ctx=512)


DENSE = {"hidden_size": 128, "intermediate_size": 4096}


@pytest.mark.parametrize(
    "bad", ["", "2 apples", "GB", "nan", "-1GB", "0", "٨GB", "1_0GB", 0, -5, 1.5, True, b"1"]
)
def test_what_is_no_size(checkpoint: Path, bad: Any) -> None:
    with pytest.raises(ParameterError, match="weights_ram is"):
        Qwen.load(checkpoint, weights_ram=bad)
    with pytest.raises(ParameterError, match="weights_ram is"):
        Options(weights_ram=bad)


def test_sizes() -> None:
    texts = {"2GB": 2 * 10**9, "2 GiB": 1 << 31, "1.5mb": 1_500_000, "7": 7, " 8 tb ": 8 * 10**12}
    assert {text: size_in_bytes("x", text) for text in texts} == texts
    assert size_in_bytes("x", 12) == 12


def test_the_command_line(
    checkpoint: Path, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["run", str(checkpoint), PROMPT, "--raw", "--max-tokens", "12", "--temperature", "0"]
    assert main([*asked, "--weights-ram", "5MB"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == expected.rstrip("\n")
    assert main([*asked, "--weights-ram", "much"]) == 2
    assert "--weights-ram is 'much'; allowed" in capsys.readouterr().err
    bench = ["bench", str(checkpoint), "-p", "16", "-n", "4", "-b", "0", "-r", "1", "--json"]
    assert main([*bench, "--weights-ram", "5MB"]) == 0
    use = json.loads(capsys.readouterr().out)["experts"]
    assert use["experts"] == 16
    assert 0 < use["held"] <= use["budget"]
    assert use["hits"] + use["misses"] == use["taken"]
