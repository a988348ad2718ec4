"""YaRN that is asked for: the real engine, from a request to its logprobs, and the command.

The oracle is transformers, whose YaRN is asked for by its config.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.small import ARCH, STORED_TOKENIZER_DATA, random_tensors, write_small
from model.wild import Oracle, build
from qwick.cli.main import main
from qwick.errors import ContextLengthError, UnsupportedError
from qwick.llm import Qwen, Reply

NATIVE = 128
CONFIG = {**ARCH, "max_position_embeddings": NATIVE}
STRETCHED = {
    **{key: value for key, value in CONFIG.items() if key != "rope_theta"},
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": NATIVE,
        "rope_theta": ARCH["rope_theta"],
    },
}
SHORT = [(7 * i) % 256 for i in range(40)]
LONG = [(11 * i + 3) % 256 for i in range(190)]
ASKED: dict[str, Any] = {
    **{"temperature": 0, "repetition_penalty": 1.0, "ignore_eos": True},
    **{"max_tokens": 24, "logprobs": 0, "prompt_logprobs": 0},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("yarn") / "small.gguf"
    return write_small(path, max_position_embeddings=NATIVE)


@pytest.fixture(scope="module")
def native(checkpoint: Path) -> Iterator[Qwen]:
    with Qwen.load(checkpoint, kv="f32", prefix_reuse=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def stretched(checkpoint: Path) -> Iterator[Qwen]:
    with Qwen.load(checkpoint, kv="f32", prefix_reuse=False, yarn=2, ctx=2 * NATIVE) as loaded:
        yield loaded


def error(reply: Reply, prompt: list[int], config: dict[str, Any]) -> float:
    """Return by how much a logprob, of the prompt or the answer, is off transformers', at most."""
    assert reply.logprobs is not None
    assert reply.prompt_logprobs is not None
    ids = [*prompt, *reply.ids]
    logits = Oracle(build(config, random_tensors(CONFIG)), [np.array(ids)]).logits[0]
    logits = logits[:, : len(STORED_TOKENIZER_DATA.tokens or ())].astype(np.float64)  # no padding
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    ours = [one.logprob for one in (*reply.prompt_logprobs, *reply.logprobs) if one is not None]
    assert len(ours) == len(ids) - 1
    theirs = expected[np.arange(len(ids) - 1), ids[1:]]
    return float(np.abs(np.array(ours) - theirs).max())


def test_a_long_request_is_stretched(stretched: Qwen) -> None:
    reply = stretched.complete(LONG, **ASKED)
    assert error(reply, LONG, STRETCHED) < 1e-3
    assert error(reply, LONG, {**CONFIG, "max_position_embeddings": 2 * NATIVE}) > 0.1


def test_a_short_prompt_with_a_long_answer_is_stretched_from_its_beginning(
    stretched: Qwen, native: Qwen
) -> None:
    long_answer = {**ASKED, "max_tokens": NATIVE}
    reply = stretched.complete(SHORT, **long_answer)
    assert len(reply.ids) == NATIVE
    assert error(reply, SHORT, STRETCHED) < 1e-3
    with pytest.raises(ContextLengthError, match=f"the context holds {NATIVE}"):
        native.complete(SHORT, **long_answer)


def test_a_short_request_is_as_without(stretched: Qwen, native: Qwen) -> None:
    with_yarn, without = (qwen.complete(SHORT, **ASKED) for qwen in (stretched, native))
    assert with_yarn.ids == without.ids
    assert with_yarn.logprobs == without.logprobs
    assert with_yarn.prompt_logprobs == without.prompt_logprobs
    assert error(without, SHORT, CONFIG) < 1e-3
    assert error(without, SHORT, STRETCHED) > 0.1


def test_side_by_side_each_is_as_alone(stretched: Qwen, native: Qwen) -> None:
    prompts = [SHORT, LONG, SHORT[5:], LONG[7:]]
    before = stretched.engine.snapshot.stats.steps
    together = stretched.complete_batch(prompts, **ASKED)
    steps = stretched.engine.snapshot.stats.steps - before
    assert steps < 2 * ASKED["max_tokens"]  # shared: alone they take that many each
    for prompt, reply in zip(prompts, together, strict=True):
        fits = len(prompt) + ASKED["max_tokens"] <= NATIVE
        alone = (native if fits else stretched).complete(prompt, **ASKED)
        assert reply.ids == alone.ids
        assert error(reply, prompt, CONFIG if fits else STRETCHED) < 1e-3


def test_the_command(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The context is that of --ctx, and what needs it is refused without --yarn."""
    asked = ["run", str(checkpoint), "--raw", "--temperature", "0", "--ignore-eos", "--json"]
    text = "".join(map(chr, range(97, 122))) * 7  # a token each
    long = [*asked, "--max-tokens", "24", text]
    assert main([*long, "--yarn", "2", "--ctx", "256"]) == 0
    reply = json.loads(capsys.readouterr().out)
    with Qwen.load(checkpoint, yarn=2, ctx=256) as qwen:
        same = qwen.complete(text, temperature=0, ignore_eos=True, max_tokens=24)
    assert (reply["ids"], reply["usage"]["prompt_tokens"]) == (list(same.ids), 175)
    assert main(long) != 0
    assert "the context holds 128" in capsys.readouterr().err
    assert main([*long, "--ctx", "256"]) != 0
    refusal = capsys.readouterr().err
    assert "trained for 128 tokens" in refusal
    assert "--yarn 4" in refusal
    with pytest.raises(UnsupportedError, match="stretched to 256"):
        Qwen.load(checkpoint, yarn=2, ctx=257)
