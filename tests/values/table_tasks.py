"""The public callables of `qwick.tasks`, for `table.py`."""

from __future__ import annotations

import asyncio
from typing import Any

from qwick import tasks
from qwick.family import FAMILIES
from qwick.llm import Reply, Timings, Usage
from qwick.tasks import Prompt
from qwick.tasks.task import chats, one, user
from values.kinds import (
    SWITCH,
    Case,
    Kind,
    instance,
    mapping,
    or_none,
    text,
    whole,
)

MODULE = "qwick.tasks"


def listed(*sound: Any) -> Kind:
    return Kind(sound, lambda v: isinstance(v, list | tuple))


# One whose prompt fits into the small context of these tests.
TASK = one("short", lambda _: Prompt(user("x")), lambda reply: (reply.text, []), chats)
TEXT = text("some text", " x ")
MAYBE = or_none(text("x"))
HISTORY = listed((), [{"role": "user", "content": "x"}])
SIZES = {"tokens": whole(64, 16), "chunk": or_none(whole(512))}
RUN = {"anyway": SWITCH, "max_tokens": or_none(whole(2))}
REPLY = Reply("x", "stop", Usage(1, 1), Timings(0, 0, 0, 0, 0, 0), None, "x", ())

TASKS: dict[str, Case] = {
    "tasks.asking.steps": Case(lambda _: tasks.steps, {"question": TEXT}),
    "tasks.asking.math": Case(lambda _: tasks.math, {"problem": TEXT}),
    "tasks.asking.code": Case(
        lambda _: tasks.code,
        {"request": TEXT, "language": text("python"), "constraints": listed((), ["x"])},
    ),
    "tasks.asking.fill": Case(lambda _: tasks.fill, {"before": text("x"), "after": text("x", "")}),
    "tasks.asking.languages": Case(
        lambda _: tasks.languages, {"question": TEXT, "languages": listed(["French"], ("a", "b"))}
    ),
    "tasks.asking.translate": Case(
        lambda _: tasks.translate, {"text": TEXT, "to": text("French"), "source": MAYBE}
    ),
    "tasks.asking.tutor": Case(
        lambda _: tasks.tutor,
        {"question": TEXT, "subject": MAYBE, "level": MAYBE, "history": HISTORY},
    ),
    "tasks.asking.support": Case(
        lambda _: tasks.support,
        {"message": TEXT, "company": MAYBE, "knowledge": MAYBE, "history": HISTORY},
    ),
    "tasks.asking.extract": Case(
        lambda _: tasks.extract,
        {"text": TEXT, "schema": mapping({"type": "object"}, {}), "instructions": MAYBE},
    ),
    "tasks.documents.summarise": Case(
        lambda _: tasks.summarise, {"document": TEXT, "about": MAYBE, **SIZES}
    ),
    "tasks.documents.ask": Case(lambda _: tasks.ask, {"document": TEXT, "question": TEXT, **SIZES}),
    "tasks.boxed.boxed": Case(lambda _: tasks.boxed, {"text": text(r"\boxed{1}", "")}),
    "tasks.byname.named": Case(
        lambda _: tasks.named,
        {"name": text("tutor"), "prompt": TEXT, "options": listed((), [("level", "x")])},
    ),
    "tasks.chunks.split_document": Case(
        lambda w: lambda **given: tasks.split_document(tokenizer=w.tokenizer, **given),
        {"document": text("x", "One. Two."), "size": whole(128, 200), "overlap": whole(0, 5)},
    ),
    "tasks.task.Task.suits": Case(
        lambda _: TASK.suits, {"family": instance(FAMILIES["qwen3"], FAMILIES["qwen2-math"])}
    ),
    "tasks.task.Task.prompts": Case(
        lambda w: lambda **given: TASK.prompts(w.qwen, **given), {"anyway": SWITCH}
    ),
    "tasks.task.Task.parse": Case(
        lambda w: lambda **given: TASK.parse(w.qwen, **given), {"reply": instance(REPLY)}
    ),
    "tasks.task.Task.run": Case(lambda w: lambda **given: TASK.run(w.qwen, **given), RUN),
    "tasks.task.Task.arun": Case(
        lambda w: lambda **given: TASK.arun(w.qwen, **given), RUN, lambda c: asyncio.run(c)
    ),
    "tasks.task.Task.stream": Case(
        lambda w: lambda **given: TASK.stream(w.qwen, **given), RUN, lambda s: s.read()
    ),
}
TASKS_PLAIN = {
    *("tasks.task.Task", "tasks.task.Answer", "tasks.task.Answer.to_dict", "tasks.task.Prompt"),
    *("tasks.task.TaskStream", "tasks.task.TaskStream.read", "tasks.task.TaskStream.close"),
    *("tasks.asking.Code", "tasks.asking.Lesson", "tasks.asking.Solution", "tasks.asking.Steps"),
    *("tasks.asking.Support", "tasks.chunks.Source", "tasks.documents.Found"),
    *("tasks.documents.Part", "tasks.documents.Statement", "tasks.documents.Summary"),
}
# Parts that qwick itself makes; a Qwen is checked to be one.
TASKS_FIXED: dict[str, tuple[str, ...]] = {
    "tasks.chunks.split_document": ("tokenizer",),
    **{f"tasks.task.Task.{name}": ("qwen",) for name in ("prompts", "parse", "run", "arun")},
    "tasks.task.Task.stream": ("qwen",),
}
