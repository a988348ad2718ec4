"""The family table against published names, and its own consistency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collected import FACTS, collected
from qwick.errors import UnsupportedError
from qwick.family import (
    FAMILIES,
    MODEL_TYPES,
    ModelType,
    SamplingDefaults,
    Thinking,
    ToolFormat,
    family_of,
    is_named,
)

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
    ("qwen2", "QwQ-32B-Preview", "qwq-preview"),
    ("qwen2", "Qwen2.5-7B-Instruct-1M", "qwen2.5-1m"),
    ("qwen2", "qwen1_5-0_5b-chat-q4_0.gguf", "qwen1.5"),  # as Qwen names its own files
    ("qwen2", "qwen2_5-32b-q4_k_m.gguf", "qwen2.5-base"),
    ("qwen2", "qwen2.5-7b-q4_k_m-mytune", "qwen2.5"),
    ("qwen2", "Qwen-7B-Chat", "qwen2.5"),  # Ollama's name for Qwen1.5: of another generation
    ("qwen2", "DeepSeek-R1-Distill-Qwen-1.5B", "qwen2.5"),
    ("qwen", "Qwen/Qwen-7B-Chat", "qwen"),
    ("qwen", "Qwen-1_8B-Chat", "qwen"),
    ("qwen", "Qwen-1_8B", "qwen-base"),
    ("qwen", "qwen-72b-q4_0.gguf", "qwen-base"),
    ("qwen", "Qwen1-14B-Chat", "qwen"),
    ("qwen", "Qwen1.5-7B-Chat", "qwen"),
    ("qwen", None, "qwen"),
    ("qwen3", "Qwen3Guard-Gen-4B", "qwen3guard-gen"),
    ("qwen3", "qwen3_8b.gguf", "qwen3"),
    ("qwen3", "Qwen3 0.6B Instruct", "qwen3"),  # what Qwen's own GGUF file of the hybrid says
    ("qwen3", "Qwen3 4B Instruct 2507", "qwen3-instruct-2507"),
    ("qwen2", "qwen2.5-7b.Q4_K_M", "qwen2.5-base"),
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
    ("qwen3", "Qwen/Qwen3-Embedding-0.6B", "qwen3-embedding"),
    ("qwen3", "Qwen3 Embedding 4B", "qwen3-embedding"),
    ("qwen3", "qwen3-embedding-8b-q8_0.gguf", "qwen3-embedding"),
    ("qwen3", "Qwen3-Reranker-0.6B", "qwen3-reranker"),
]


@pytest.fixture(autouse=True)
def _qwen1(monkeypatch: pytest.MonkeyPatch) -> None:
    """The families must be right whether or not the computation of Qwen1 runs."""
    monkeypatch.setitem(MODEL_TYPES, "qwen", ModelType("QWenLMHeadModel", "qwen", "qwen"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("model_type", "name", "family"), NAMES)
def test_recognised(model_type: str, name: str | None, family: str) -> None:
    assert family_of({"model_type": model_type}, name).name == family


def test_a_name_tells_or_it_does_not() -> None:
    for model_type, name, told in (
        ("qwen2", "Qwen2.5-7B-Instruct", True),
        ("qwen2", "Qwen2.5-7B", True),
        ("qwen3", "Qwen2.5-7B-Instruct", False),
        ("qwen2", "Qwen-7B-Chat", False),
        ("qwen2", "my-model", False),
        ("qwen3", None, False),
    ):
        assert is_named({"model_type": model_type}, name) is told


def test_without_a_head_it_is_for_embeddings_whatever_its_name() -> None:
    for name in (None, "my-model", "Qwen3-0.6B"):
        bare = family_of({"model_type": "qwen3", "architectures": ["Qwen3Model"]}, name)
        assert (bare.name, bare.answers) == ("qwen3-embedding", False)
    assert all(f.answers for f in FAMILIES.values() if f.name != "qwen3-embedding")


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
    assert bool(family.fim) is bool(family.fim_stops)
    assert len(family.fim) in (0, 3)


def test_the_table_of_the_docs() -> None:
    def drawn(s: SamplingDefaults | None) -> str:
        if s is None:
            return ""
        return f"{s.temperature:g}, {s.top_p:g}, {s.top_k}, {s.repetition_penalty:g}"

    text = (Path(__file__).parents[1] / "docs" / "reference" / "families.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 7]
    assert rows == [
        f"| `{f.name}` | {f.thinking.value} | {f.tools.value} | {'yes' if f.fim else ''} | "
        f"{drawn(f.sampling)} | {drawn(f.thinking_sampling)} |"
        for f in FAMILIES.values()
    ]


# What the catalogue of facts and this table say differently, on purpose.
IN_THE_ANSWER = "qwq-32b-preview"  # it thinks, but in no block, so there is none to switch or cut
# The template of the 1M checkpoints, known from three copies, is that of the base models.
OTHER_PROMPT = ("qwen2.5-7b-instruct-1m", "qwen2.5-14b-instruct-1m")
KINDS = {"none": Thinking.NONE, "hybrid": Thinking.HYBRID, "only": Thinking.ALWAYS}
FORMATS = (
    ("<function=", ToolFormat.XML),
    ("Hermes", ToolFormat.HERMES),
    ("Qwen-Agent", ToolFormat.QWEN_AGENT),
    ("ReAct", ToolFormat.REACT),
)


def test_the_catalogue_of_facts() -> None:
    """Every checkpoint that can be run, against what its publisher says of it."""
    entries = json.loads(collected(FACTS).read_text("utf-8"))["models"]
    writing = ("base", "instruct", "thinking")  # embeddings and rerankers write nothing
    known = [
        entry
        for entry in entries
        if entry["model_type"] in MODEL_TYPES
        and entry["variant"] in writing
        and entry["modalities_in"] == ["text"]
    ]
    assert len(known) >= 102
    for entry in known:
        for name in (entry["hf_repo"], entry["id"]):
            _agrees(entry, name)


def _agrees(entry: dict[str, Any], name: str) -> None:
    assert is_named(entry, name), name
    family = family_of(entry, name)
    assert family.base is (entry["variant"] == "base"), name
    if entry["id"] != IN_THE_ANSWER:
        assert family.thinking is KINDS[entry["thinking"]], name
    for kind, told in (entry["recommended_sampling"] or {}).items():
        ours = family.thinking_sampling if kind == "thinking" else family.sampling
        assert ours is not None, name
        _agrees_to_draw(ours, told, name)
    prompt = entry["default_system_prompt"]
    if prompt is not None and entry["id"] not in OTHER_PROMPT:
        assert family.system_prompt == prompt, name
    stops = (entry["prompting"] or {}).get("stop_strings") or ()
    assert set(stops) <= set(family.stops), name
    told = entry["tool_call_format"]
    if told is not None:
        assert family.tools is next(kind for word, kind in FORMATS if word in told), name


def _agrees_to_draw(ours: SamplingDefaults, told: dict[str, Any], name: str) -> None:
    for field in ("temperature", "top_p", "top_k", "min_p", "presence_penalty"):
        if told[field] is not None:
            assert getattr(ours, field) == told[field], (name, field)
    # The docs say 1.05 of all sizes; the files of the smallest, which come later, say 1.1.
    small = "generation_config.json of the 0.5B and 1.5B" in ours.source
    if told["repetition_penalty"] is not None:
        assert ours.repetition_penalty == (1.1 if small else told["repetition_penalty"]), name
