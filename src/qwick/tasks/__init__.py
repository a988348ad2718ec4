"""What models are asked to do, ready made: prompts, sampling, and answers parsed.

from qwick import Qwen, tasks
answer = tasks.math("What is 7 * 8?").run(Qwen.load())
answer.value.answer, answer.troubles
"""

from __future__ import annotations

from qwick.tasks.asking import (
    Code,
    Lesson,
    Solution,
    Steps,
    Support,
    code,
    extract,
    fill,
    languages,
    math,
    steps,
    support,
    translate,
    tutor,
)
from qwick.tasks.boxed import boxed
from qwick.tasks.byname import TASKS, named
from qwick.tasks.chunks import Source, split_document
from qwick.tasks.documents import Found, Part, Statement, Summary, ask, summarise
from qwick.tasks.task import Answer, Prompt, Task, TaskStream

__all__ = [
    "TASKS",
    "Answer",
    "Code",
    "Found",
    "Lesson",
    "Part",
    "Prompt",
    "Solution",
    "Source",
    "Statement",
    "Steps",
    "Summary",
    "Support",
    "Task",
    "TaskStream",
    "ask",
    "boxed",
    "code",
    "extract",
    "fill",
    "languages",
    "math",
    "named",
    "split_document",
    "steps",
    "summarise",
    "support",
    "translate",
    "tutor",
]
