"""The real default checkpoint through the whole API; slow parts are few and short."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwick.choose.memory import plan_memory
from qwick.errors import ContextLengthError, ParameterError, UnsupportedError
from qwick.formats.open import open_checkpoint
from qwick.llm import Qwen
from qwick.model.decoder import Decoder
from qwick.model.load import kv_kinds

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def qwen(default_checkpoint: Path) -> Iterator[Qwen]:
    with Qwen.load(default_checkpoint, ctx=2048) as loaded:
        yield loaded


def test_it_answers(qwen: Qwen) -> None:
    stream = qwen.stream("What is the capital of France?", temperature=0, max_tokens=16)
    text = "".join(chunk.text for chunk in stream)
    assert "Paris" in text
    assert stream.reply.text == text
    assert stream.reply.finish_reason == "stop", "the stop ids of the checkpoint end the answer"
    assert "<|im_end|>" not in text
    json.dumps(stream.reply.to_dict())


def test_a_batch_answers_like_one_by_one(qwen: Qwen) -> None:
    prompts = ["Count from one to five.", "Name three colours.", "Write 2 + 2 in Python."]
    asked = {"seed": 5, "max_tokens": 8}  # in namespaces, so that each is computed whole
    together = qwen.chat_batch(prompts, namespace="together", **asked)
    alone = [qwen.chat(p, namespace=f"alone {i}", **asked) for i, p in enumerate(prompts)]
    # Other batches round otherwise, so a near tie may fall differently: not all of them.
    same = sum(a.ids == b.ids for a, b in zip(together, alone, strict=True))
    assert same >= 2
    again = qwen.chat_batch(prompts, namespace="again", **asked)
    assert [r.ids for r in again] == [r.ids for r in together]


def test_raw_prompts_and_fill_in_the_middle(qwen: Qwen) -> None:
    reply = qwen.complete(
        "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n<|fim_middle|>",
        temperature=0,
        max_tokens=8,
    )
    assert "a + b" in reply.text


def test_stop_strings_on_real_text(qwen: Qwen) -> None:
    reply = qwen.chat("Count from 1 to 9, with commas.", temperature=0, max_tokens=30, stop=["4"])
    whole = qwen.tokenizer.decode(reply.ids)
    assert reply.text == whole[: whole.index("4")], "all before the stop, the blank too"
    assert reply.text.rstrip(" ").endswith("3,")
    assert (reply.finish_reason, reply.stop) == ("stop", "4")


def test_perplexity_tells_sense_from_nonsense(qwen: Qwen) -> None:
    sense = "def add(a, b):\n    return a + b\n"
    nonsense = "b(:) dnreute add,+ a fed a\n b"
    assert 1 < qwen.perplexity(sense) < 10 < 50 < qwen.perplexity(nonsense)


def test_defaults_come_from_the_family_as_a_gguf_has_none(qwen: Qwen) -> None:
    s = qwen.defaults.sampling({}, thinking=False, prompt=9, room=9)
    assert (s.temperature, s.top_p, s.top_k, s.repetition_penalty) == (0.7, 0.8, 20, 1.1)
    assert len(s.stop_ids) == 2


def test_the_weights_take_the_memory_that_the_plan_said(
    qwen: Qwen, default_checkpoint: Path
) -> None:
    """Packing keeps sizes; the embedding is not packed but read from the mapped file."""
    model = qwen._engine._loop.engine.model
    assert isinstance(model, Decoder)
    with open_checkpoint(default_checkpoint) as checkpoint:
        stored = sum(tensor.data.nbytes for tensor in checkpoint.tensors.values())
        kinds = kv_kinds(checkpoint, "auto")
        assert kinds == model.kv_kinds
        uneven = [i for i, kind in enumerate(kinds) if kind == "bf16"]
        assert uneven == [0, 1, 2, 4, 8], "the layers with large key biases"
        plan = plan_memory(
            checkpoint.config, stored, rows=576, logit_rows=64, context=2048, kv_kinds=kinds
        )
    packed = sum(linear.weight.bytes for linear in model.linears)
    vectors = sum(linear.bias.nbytes for linear in model.linears if linear.bias is not None)
    mapped = model.weights.embedding.data.nbytes
    assert packed + vectors + mapped == pytest.approx(plan.weights, rel=0.02)
    assert packed + mapped > 0.99 * stored, "nothing was forgotten in the count"


def test_what_cannot_be(qwen: Qwen, default_checkpoint: Path) -> None:
    assert qwen.context == 2048
    with pytest.raises(ContextLengthError, match="context holds 2048"):
        qwen.complete("word " * 3000)
    with pytest.raises(UnsupportedError, match="trained for"):
        Qwen.load(default_checkpoint, ctx=10**7)
    for bad in ({"ctx": 0}, {"threads": 0}, {"threads": True}, {"kv": "int3"}):
        with pytest.raises(ParameterError, match="allowed"):
            Qwen.load(default_checkpoint, **bad)  # type: ignore[arg-type]
