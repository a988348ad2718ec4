"""What a family of Qwen checkpoints expects of whoever runs it, and how a family is recognised.

Data only. A checkpoint's own files always win: `generation_config.json` over `sampling`, its chat
template over `system_prompt`, its tokenizer over any id (none is written here, only literals). The
table serves where a file is silent, above all for GGUF, which carries no generation defaults. Knows
nothing of tensors, of tokenizers or of how a request is run.

Sources, named in `source`: "docs R1.5/R2/R2.5/R3" are the READMEs and `docs/source` of
QwenLM/Qwen1.5, Qwen2, Qwen2.5 and Qwen3 (quickstart, run_locally/ollama, deployment/vllm); "card"
is the model card. `system_prompt` is that of the newest template as published.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwick.errors import UnsupportedError
from qwick.values import check_kind

__all__ = [
    "FAMILIES",
    "MODEL_TYPES",
    "Family",
    "ModelType",
    "SamplingDefaults",
    "Thinking",
    "ToolFormat",
    "family_of",
    "is_named",
]


class Thinking(enum.Enum):
    """Whether a checkpoint writes a `<think>` block before its answer."""

    NONE = "none"  # never; switching it on is impossible
    HYBRID = "hybrid"  # both; the template's `enable_thinking` chooses, on unless told otherwise
    ALWAYS = "always"  # always; switching it off is impossible


class ToolFormat(enum.Enum):
    """How a family was trained to write a tool call."""

    NONE = "none"
    QWEN_AGENT = "qwen_agent"  # ✿FUNCTION✿: name / ✿ARGS✿: json, prompted for by Qwen-Agent
    REACT = "react"  # Action: name / Action Input: json, prompted for as examples of ReAct
    HERMES = "hermes"  # <tool_call>{"name": .., "arguments": {..}}</tool_call>
    XML = "xml"  # <tool_call><function=NAME><parameter=P>VALUE</parameter></function></tool_call>


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Sampling when neither the caller nor the checkpoint says anything.

    temperature 0 is greedy; top_k 0, top_p 1, min_p 0, repetition_penalty 1 and presence_penalty 0
    are off. `source` is where the publisher says so.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    source: str


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table; see the module's docstring for what overrides it."""

    name: str
    base: bool  # a base model: no chat format to speak of, stops at the end of text only
    sampling: SamplingDefaults  # for answers without thinking (all answers when thinking is NONE)
    thinking_sampling: SamplingDefaults | None  # for answers with thinking; None when it has none
    thinking: Thinking
    soft_switch: bool  # `/think` and `/no_think` in user or system text are understood
    tools: ToolFormat
    system_prompt: str | None  # what the template inserts when the caller gives none
    stops: tuple[str, ...]  # literals of the stop tokens, likeliest first
    fim: tuple[str, ...]  # fill in the middle: literals before prefix, suffix, middle; () cannot
    fim_stops: tuple[str, ...]  # further stop literals of such a completion
    answers: bool = True  # False: trained for its states alone (embeddings); what it says is noise


@dataclass(frozen=True, slots=True)
class ModelType:
    """A computation: its class in `architectures`, its name in GGUF, the family if no name says.

    experts: whether its feed-forward parts are mixtures; shared: with one that every token takes.
    bare: the class in `architectures` of a checkpoint that was saved without a head, for its
    states; None: not run.
    """

    architecture: str
    gguf: str
    family: str
    experts: bool = False
    shared: bool = False
    bare: str | None = None


END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
_ASSISTANT = "You are a helpful assistant."
_QWEN25 = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_MATH = "Please reason step by step, and put your final answer within \\boxed{}."

_QWQ_PREVIEW = (
    "You are a helpful and harmless assistant. You are Qwen developed by Alibaba. "
    "You should think step-by-step."
)

# QwenLM/Qwen2.5-Coder, README and examples/Qwen2.5-Coder-fim.py.
_FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_FIM_STOPS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
# QwenLM/CodeQwen1.5, README; it names no stops, so these are those of the Coder that came after it.
_OLD_FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
_OLD_FIM_STOPS = ("<fim_prefix>", "<fim_suffix>", "<fim_pad>", "<reponame>", "<file_sep>")

_GREEDY = SamplingDefaults(
    0.0, 1.0, 0, 0.0, 1.0, 0.0, "no recommendation published: greedy, the default of transformers"
)
_QWEN1_CHAT = SamplingDefaults(
    1.0, 0.8, 0, 0.0, 1.1, 0.0, "generation_config.json of Qwen-7B-Chat and Qwen-14B-Chat"
)
_QWEN2_CHAT = SamplingDefaults(
    0.7, 0.8, 20, 0.0, 1.05, 0.0, "docs R1.5, R2, R2.5: run_locally/ollama, deployment/vllm"
)
# The generation_config.json of the 0.5B and 1.5B sets 1.1 where the larger ones set 1.05.
_QWEN2_CHAT_SMALL = replace(
    _QWEN2_CHAT, repetition_penalty=1.1, source="generation_config.json of the 0.5B and 1.5B"
)
_QWQ = SamplingDefaults(
    0.6, 0.95, 40, 0.0, 1.0, 0.0, "QwenLM/QwQ README, usage guidelines (top_k 20 to 40)"
)
_QWEN3_THINKING = SamplingDefaults(
    0.6, 0.95, 20, 0.0, 1.0, 0.0, "docs R3 quickstart; cards of Qwen3 and Qwen3-Thinking-2507"
)
_QWEN3_PLAIN = SamplingDefaults(
    0.7, 0.8, 20, 0.0, 1.0, 0.0, "docs R3 quickstart; cards of Qwen3 and Qwen3-Instruct-2507"
)
_QWEN3_CODER = SamplingDefaults(0.7, 0.8, 20, 0.0, 1.05, 0.0, "card of Qwen3-Coder")

# Nothing is published of QwQ-32B-Preview: what is for Qwen2.5-32B-Instruct, its next of kin.
_OF_KIN = replace(_QWEN2_CHAT, source="docs R2.5, in want of its own")

_QWEN15 = Family(
    name="qwen1.5",
    base=False,
    sampling=_QWEN2_CHAT,
    thinking_sampling=None,
    thinking=Thinking.NONE,
    soft_switch=False,
    tools=ToolFormat.QWEN_AGENT,
    system_prompt=_ASSISTANT,
    stops=(END_OF_TURN, END_OF_TEXT),
    fim=(),
    fim_stops=(),
)
_QWEN2 = replace(_QWEN15, name="qwen2")
_QWEN25_CHAT = replace(_QWEN15, name="qwen2.5", tools=ToolFormat.HERMES, system_prompt=_QWEN25)
_QWEN3 = replace(
    _QWEN25_CHAT,
    name="qwen3",
    sampling=_QWEN3_PLAIN,
    thinking_sampling=_QWEN3_THINKING,
    thinking=Thinking.HYBRID,
    soft_switch=True,
    system_prompt=None,
)
_QWEN3_INSTRUCT = replace(
    _QWEN3,
    name="qwen3-instruct-2507",
    thinking_sampling=None,
    thinking=Thinking.NONE,
    soft_switch=False,
)

_QWEN3_POOLED = replace(_QWEN3_INSTRUCT, sampling=_GREEDY, tools=ToolFormat.NONE)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        replace(_QWEN15, name="qwen", sampling=_QWEN1_CHAT, tools=ToolFormat.REACT),
        _QWEN15,
        replace(
            _QWEN15,
            name="codeqwen1.5",
            tools=ToolFormat.NONE,
            fim=_OLD_FIM,
            fim_stops=_OLD_FIM_STOPS,
        ),
        _QWEN2,
        replace(_QWEN2, name="qwen2-math", tools=ToolFormat.NONE, system_prompt=_MATH),
        _QWEN25_CHAT,
        replace(_QWEN25_CHAT, name="qwen2.5-1m", system_prompt=_ASSISTANT),
        replace(_QWEN25_CHAT, name="qwen2.5-coder", fim=_FIM, fim_stops=_FIM_STOPS),
        replace(_QWEN25_CHAT, name="qwen2.5-math", tools=ToolFormat.NONE, system_prompt=_MATH),
        # It thinks aloud, in its answer: there is no block to tell that from the rest.
        replace(_QWEN25_CHAT, name="qwq-preview", sampling=_OF_KIN, system_prompt=_QWQ_PREVIEW),
        replace(
            _QWEN25_CHAT,
            name="qwq",
            sampling=_QWQ,
            thinking_sampling=_QWQ,
            thinking=Thinking.ALWAYS,
            system_prompt=None,
        ),
        _QWEN3,
        _QWEN3_INSTRUCT,
        replace(
            _QWEN3_INSTRUCT,
            name="qwen3-thinking-2507",
            sampling=_QWEN3_THINKING,
            thinking_sampling=_QWEN3_THINKING,
            thinking=Thinking.ALWAYS,
        ),
        replace(
            _QWEN3_INSTRUCT,
            name="qwen3-coder",
            sampling=_QWEN3_CODER,
            tools=ToolFormat.XML,
            fim=_FIM,
            fim_stops=_FIM_STOPS,
        ),
        # A classifier that writes its verdict; the template makes the question of a conversation.
        replace(_QWEN3_INSTRUCT, name="qwen3guard-gen", sampling=_GREEDY, tools=ToolFormat.NONE),
        replace(_QWEN3_POOLED, name="qwen3-embedding", answers=False),
        replace(_QWEN3_POOLED, name="qwen3-reranker"),
    )
}

# A name as published, in lower case with "-" between its parts; the first match wins.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"codeqwen-?1\.5", "codeqwen1.5"),
    (r"qwq.*preview", "qwq-preview"),
    (r"qwq", "qwq"),
    (r"qwen-?1\.5(?!b)", "qwen1.5"),
    (r"qwen-?2\.5-coder", "qwen2.5-coder"),
    (r"qwen-?2\.5-math", "qwen2.5-math"),
    (r"qwen-?2\.5.*-1m(?![a-z0-9])", "qwen2.5-1m"),
    (r"qwen-?2\.5", "qwen2.5"),
    (r"qwen-?2-math", "qwen2-math"),
    (r"qwen-?2(?![.\d])", "qwen2"),
    (r"qwen-?3-?guard", "qwen3guard-gen"),
    (r"qwen-?3-coder", "qwen3-coder"),
    (r"qwen-?3-embedding", "qwen3-embedding"),
    (r"qwen-?3-reranker", "qwen3-reranker"),
    (r"qwen-?3(?![.\d]).*thinking", "qwen3-thinking-2507"),
    # Files of the first, hybrid Qwen3 are called "Qwen3 0.6B Instruct" in GGUF, by Qwen itself.
    (r"qwen-?3(?![.\d]).*(?:instruct.*2507|2507.*instruct)", "qwen3-instruct-2507"),
    (r"qwen-?3(?![.\d])", "qwen3"),
    (r"qwen-?(?:1-)?(?:7|14|72|1\.8)b(?![a-z0-9])|qwen-?1(?!\.?\d)", "qwen"),
)
# What runs, by `model_type` in a config.json. The three generations of `qwen2` share sampling and
# stops; nearly every fine-tune starts from 2.5. (With experts there are Qwen1.5 and Qwen2 only.)
MODEL_TYPES: Mapping[str, ModelType] = {
    "qwen": ModelType("QWenLMHeadModel", "qwen", "qwen"),
    "qwen2": ModelType("Qwen2ForCausalLM", "qwen2", "qwen2.5"),
    "qwen2_moe": ModelType("Qwen2MoeForCausalLM", "qwen2moe", "qwen2", experts=True, shared=True),
    "qwen3": ModelType("Qwen3ForCausalLM", "qwen3", "qwen3", bare="Qwen3Model"),
    "qwen3_moe": ModelType("Qwen3MoeForCausalLM", "qwen3moe", "qwen3", experts=True),
}
_SMALL = re.compile(r"(?<![\d.])(?:0\.5|1\.5)b(?![a-z0-9])")
_POINT = re.compile(r"(?<=[012])_(?=[58](?!\d))")  # as in qwen1_5-0_5b-chat and Qwen-1_8B


def family_of(config: Mapping[str, Any], name: str | None) -> Family:
    """Return the family of a checkpoint from its config (Hugging Face keys) and published name.

    `name` may be a repository, a file's or folder's name or GGUF's `general.name`; None or a name
    without a hint falls back on `config["model_type"]`. A checkpoint that was saved without a head
    is one for embeddings. A name of another generation than the `model_type` (a distillation named
    after both) is not believed. Raises UnsupportedError for a `model_type` outside the table.
    """
    model_type, text = _read(config, name)
    bare = MODEL_TYPES[model_type].bare
    if bare is not None and config.get("architectures") == [bare]:  # whatever it is called
        return FAMILIES["qwen3-embedding"]
    found = _named(model_type, text)
    if found is None:
        return FAMILIES[MODEL_TYPES[model_type].family]
    if _is_base(found, text):
        return replace(
            found,
            name=f"{found.name}-base",
            base=True,
            sampling=_GREEDY,
            thinking_sampling=None,
            thinking=Thinking.NONE,
            soft_switch=False,
            tools=ToolFormat.NONE,
            system_prompt=_ASSISTANT if found.system_prompt is _QWEN25 else None,
            stops=(END_OF_TEXT,),
        )
    if found.sampling is _QWEN2_CHAT and _SMALL.search(text) and "qwen1.5" not in found.name:
        return replace(found, sampling=_QWEN2_CHAT_SMALL)
    return found


def is_named(config: Mapping[str, Any], name: str | None) -> bool:
    """Return whether a checkpoint's name tells its family, so that `family_of` does not guess.

    Arguments and errors are those of `family_of`.
    """
    return _named(*_read(config, name)) is not None


def _read(config: Mapping[str, Any], name: str | None) -> tuple[str, str]:
    """Return the model type, and the name in lower case with "-" between its parts."""
    check_kind("config", config, Mapping, "a mapping of Hugging Face keys")
    check_kind("name", name, (str, type(None)), "a str, or none")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UnsupportedError(
            f"no Qwen family is known for model_type {model_type!r:.100}",
            hint=f"known: {', '.join(MODEL_TYPES)}",
        )
    return model_type, re.sub(r"[\s_/\\-]+", "-", _POINT.sub(".", (name or "").lower()))


def _named(model_type: str, text: str) -> Family | None:
    """Return the family that a name tells, if it is of the model type's generation."""
    found = next((FAMILIES[key] for pattern, key in _NAMES if re.search(pattern, text)), None)
    if found is None or _generation(found.name) != _generation(model_type):
        return None
    return found


def _generation(name: str) -> str:
    """Return what of a family's name or a model type tells which models it is about."""
    if name.startswith("qwen3"):
        return "qwen3"
    return "qwen" if name == "qwen" else "qwen2"  # from 1.5 to 2.5 they are one


def _is_base(family: Family, text: str) -> bool:
    """Tell a base model by its published name: `-base` in Qwen3, no `-instruct`/`-chat` before."""
    if family.name.startswith("qwen3"):
        return re.search(r"-base(?![a-z])", text) is not None
    # A name such as "qwen2.5-7b-mytune" is a fine-tune and chats; only the published form is base.
    published = (
        r"qwen-?(?:1\.5|2\.5|1|2)?-?(?:coder-|math-|moe-)?a?[\d.]+b(?:-a[\d.]+b)?(?:-base)?"
        r"(?:-gguf|[.-]i?q\d(?:-[a-z0-9]{1,2})*|[.-]b?f16|\.gguf)*$"
    )
    return re.search(published, text) is not None
