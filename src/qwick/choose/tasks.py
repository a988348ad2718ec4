"""What people want a checkpoint for, and what each use asks of one.

Data only. `worth` counts in doublings of size: +1 is what twice the parameters would bring. Knows
nothing about machines.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qwick.errors import ParameterError
from qwick.values import check_kind

__all__ = ["TASKS", "Task", "task_named"]


@dataclass(frozen=True, slots=True)
class Task:
    """One use."""

    name: str
    title: str
    evidence: tuple[str, ...]  # benchmarks that speak for it, by key, the closest first
    prompt: int = 512  # tokens that a request has, for the time to the first token
    context: int = 4096  # tokens, where nobody asks for another length
    comfortable: float = 10.0  # tokens per second below which people wait; of prompt, if no answer
    patience: float = 20.0  # seconds to the first token above which people wait
    slow: float = 0.7  # doublings of worth that half of the comfortable speed costs
    thinking: float = 0.0  # what a checkpoint that can think gains
    only_thinking: float = -1.0  # what one that always thinks gains: answers come late
    input: str = "text"
    variants: tuple[str, ...] = ("instruct", "thinking")
    worth: Mapping[str, float] = field(default_factory=dict)  # of a tag
    wanted: tuple[str, ...] = ()  # tags or parts of names of which a checkpoint must have one
    tokens_out: bool = True  # False: no text is generated, and the speed is that of reading
    aliases: tuple[str, ...] = ()


_GENERAL = ("mmlu_redux", "arena_hard", "mmlu_pro", "mmlu")
_CODE = ("livecodebench", "humaneval", "mbpp", "swe_bench_verified", "EvalPlus", "MultiPL-E")
_MATH = ("math_500", "AIME'25", "AIME25", "math", "gsm8k")
_LANGUAGES = ("mmmlu", "INCLUDE", "mgsm", "Multi-Translation", "Multilingual Translation")

_TASKS = (
    Task("chat", "conversation and general questions", _GENERAL, aliases=("general", "assistant")),
    Task(
        "code",
        "writing and explaining programs",
        _CODE,
        prompt=2048,
        context=8192,
        worth={"coder": 2.2},
        aliases=("coding", "programming"),
    ),
    Task(
        "fim",
        "completing code between what stands before and after",
        _CODE,
        prompt=1024,
        comfortable=30.0,
        patience=2.0,  # while somebody types; later requests reuse most of the prompt
        variants=("base", "instruct"),
        # Their vocabulary has the marks, and their training used them (docs R2.5-Coder, Rcq).
        wanted=("codeqwen1.5", "qwen2.5-coder"),
        aliases=("completion", "autocomplete", "fill"),
    ),
    Task("math", "mathematics", _MATH, thinking=1.0, only_thinking=1.2, worth={"math": 0.5}),
    Task(
        "reasoning",
        "hard questions that need thought",
        ("gpqa", "AIME'25", "AIME25", "mmlu_pro", "math_500"),
        thinking=1.0,
        only_thinking=1.2,
        comfortable=15.0,  # thoughts are thousands of tokens
        aliases=("stem", "science", "steps"),
    ),
    Task("tutor", "teaching and explaining", _GENERAL, thinking=0.2, aliases=("education",)),
    Task("translate", "translation", _LANGUAGES, aliases=("translation",)),
    Task("multilingual", "several languages in one place", _LANGUAGES, aliases=("languages",)),
    Task("support", "answering customers", ("ifeval", *_GENERAL), aliases=("customer-support",)),
    Task("extract", "structured data out of texts", ("ifeval", *_GENERAL), prompt=2048),
    Task(
        "summarize",
        "summaries",
        ("ifeval", *_GENERAL),
        prompt=4096,
        context=8192,
        patience=60.0,
        aliases=("summarise",),
    ),
    Task(
        "writing",
        "creative and business writing",
        ("WritingBench", "Creative Writing v3", "arena_hard", *_GENERAL),
    ),
    Task(
        "documents",
        "questions about long documents",
        ("RULER avg (4K-128K)", "RULER 128K", "L-Eval Avg.", *_GENERAL),
        prompt=16_384,
        context=32_768,
        patience=120.0,  # once for a document
        aliases=("rag", "long-context", "ask"),
    ),
    Task(
        "tools",
        "agents that call tools",
        ("bfcl", "ifeval"),
        prompt=2048,
        context=16_384,
        aliases=("agent", "agents"),
    ),
    Task(
        "vision",
        "images: reading, describing, answering about them",
        ("docvqa", "mmmu", "ocrbench", "mathvista"),
        prompt=1500,  # an image of a megapixel is about 1,000 to 1,300 tokens
        patience=30.0,
        context=8192,
        comfortable=5.0,
        input="image",
        aliases=("images", "ocr", "video"),
    ),
    Task(
        "audio",
        "sound: transcripts, questions about it",
        (),
        context=8192,
        comfortable=5.0,
        input="audio",
        aliases=("speech", "transcription"),
    ),
    Task(
        "embedding",
        "vectors for search",
        ("mteb_multilingual", "mteb_english", "c_mteb"),
        prompt=512,
        context=2048,
        # Of prompt: a thousand passages in 17 minutes. MTEB tells the sizes apart by few
        # points (64.3, 69.5 and 70.6), so that twice the time costs more than elsewhere.
        comfortable=500.0,
        slow=1.2,
        variants=("embedding",),
        tokens_out=False,
        aliases=("embeddings", "search"),
    ),
    Task(
        "rerank",
        "reordering what a search found",
        ("MTEB-R", "CMTEB-R", "MMTEB-R"),
        prompt=1024,
        context=2048,
        comfortable=500.0,
        slow=1.2,
        variants=("reranker",),
        tokens_out=False,
        aliases=("reranker", "reranking"),
    ),
)
TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _TASKS})


def task_named(name: str) -> Task:
    """Return the task of that name or alias; ParameterError with what there is."""
    check_kind("task", name, str, "the name of a task")
    wanted = name.strip().lower()
    for task in _TASKS:
        if wanted == task.name or wanted in task.aliases:
            return task
    close = difflib.get_close_matches(wanted, TASKS, n=1)
    raise ParameterError(
        f"task is {name!r:.80}; allowed: {', '.join(TASKS)}",
        hint=f"did you mean {close[0]}?" if close else "chat is for everything else",
    )
