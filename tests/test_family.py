"""The family table against published names, and its own consistency."""

from __future__ import annotations

import pytest

from qwick.errors import UnsupportedError
from qwick.family import FAMILIES, Thinking, ToolFormat, family_of

NAMES = [
    ("qwen2", "Qwen2.5 Coder 0.5B Instruct AWQ", "qwen2.5-coder"),
    ("qwen2", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "qwen2.5-coder"),
    ("qwen2", "Qwen/Qwen2.5-7B-Instruct", "qwen2.5"),
    ("qwen2", "Qwen/Qwen2.5-7B", "qwen2.5-base"),
    ("qwen2", "qwen2.5-coder-7b", "qwen2.5-coder-base"),
    ("qwen2", "someone/qwen2.5-7b-medical", "qwen2.5"),
    ("qwen2", "Qwen1.5-0.5B-Chat", "qwen1.5"),
    ("qwen2", "Qwen1.5-110B", "qwen1.5-base"),
    ("qwen2", "CodeQwen1.5-7B-Chat", "codeqwen1.5"),
    ("qwen2", "Qwen2-7B-Instruct", "qwen2"),
    ("qwen2", "Qwen2-Math-7B-Instruct", "qwen2-math"),
    ("qwen2", "Qwen2.5-Math-1.5B", "qwen2.5-math-base"),
    ("qwen2", "QwQ-32B", "qwq"),
    ("qwen2_moe", "Qwen1.5-MoE-A2.7B", "qwen1.5-base"),
    ("qwen2_moe", "Qwen1.5-MoE-A2.7B-Chat", "qwen1.5"),
    ("qwen2_moe", "Qwen2-57B-A14B", "qwen2-base"),
    ("qwen2_moe", "Qwen2-57B-A14B-Instruct", "qwen2"),
    ("qwen2_moe", None, "qwen2"),
    ("qwen3_moe", "Qwen3-30B-A3B", "qwen3"),
    ("qwen3_moe", "Qwen3-30B-A3B-Thinking-2507", "qwen3-thinking-2507"),
    ("qwen2", None, "qwen2.5"),
    ("qwen2", "my-model", "qwen2.5"),
    ("qwen3", "Qwen/Qwen3-0.6B", "qwen3"),
    ("qwen3", "Qwen3-0.6B-Base", "qwen3-base"),
    ("qwen3", "Qwen3-4B-Instruct-2507", "qwen3-instruct-2507"),
    ("qwen3", "Qwen3-4B-Thinking-2507", "qwen3-thinking-2507"),
    ("qwen3", "Qwen3-Coder-30B-A3B-Instruct", "qwen3-coder"),
    ("qwen3", "distilled-from-Qwen2.5-7B-Instruct", "qwen3"),
    ("qwen3", None, "qwen3"),
]


@pytest.mark.parametrize(("model_type", "name", "family"), NAMES)
def test_recognised(model_type: str, name: str | None, family: str) -> None:
    assert family_of({"model_type": model_type}, name).name == family


def test_default_checkpoint() -> None:
    family = family_of({"model_type": "qwen2"}, "Qwen2.5 Coder 0.5B Instruct AWQ")
    assert family.stops == ("<|im_end|>", "<|endoftext|>")
    assert family.sampling.temperature == 0.7
    assert family.sampling.repetition_penalty == 1.1
    assert family.tools is ToolFormat.HERMES
    assert family.thinking is Thinking.NONE


def test_sizes_that_only_look_small() -> None:
    for name in ("Qwen2.5-7B-Instruct", "Qwen2.5-10.5B-Instruct", "Qwen1.5-0.5B-Chat"):
        assert family_of({"model_type": "qwen2"}, name).sampling.repetition_penalty == 1.05


def test_base_stops_at_the_end_of_text_only() -> None:
    family = family_of({"model_type": "qwen2"}, "Qwen2.5-0.5B")
    assert family.base
    assert family.stops == ("<|endoftext|>",)
    assert family.sampling.temperature == 0


@pytest.mark.parametrize("model_type", ["llama", None, 3, "qwen9", ["qwen2"], "qwen3_next"])
def test_unknown_type(model_type: object) -> None:
    with pytest.raises(UnsupportedError, match="model_type"):
        family_of({"model_type": model_type}, "Qwen2.5-7B-Instruct")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda f: f.name)
def test_consistent(family) -> None:
    thinks = family.thinking is not Thinking.NONE
    assert (family.thinking_sampling is not None) is thinks
    assert thinks or not family.soft_switch
    for sampling in (family.sampling, family.thinking_sampling):
        if sampling is not None:
            assert 0 <= sampling.temperature <= 2
            assert 0 < sampling.top_p <= 1
            assert sampling.top_k >= 0
            assert sampling.source
    if thinks:  # the publisher warns against greedy decoding while thinking
        assert family.thinking_sampling.temperature > 0
