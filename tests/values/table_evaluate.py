"""The part of the table about `qwick.evaluate`: how good and how fast."""

from __future__ import annotations

import numpy as np

from qwick.evaluate import humaneval, perplexity, sandbox, speed
from values.kinds import CALLABLE, SWITCH, Case, instance, items, or_none, path, real, text, whole

IDS = items([1, 2, 3], np.array([1, 2]), (5, 6))
PROGRESS = or_none(CALLABLE)
TEXTS = items([[1, 2, 3], [4, 5]])
PROBLEM = humaneval.Problem("t/0", "def f():\n", "f", "    return 1\n", "def check(f): pass")
PROBLEMS = items([PROBLEM])
PLAN = instance(speed.Plan((2,), (2,), (2,), 1))

EVALUATE: dict[str, Case] = {
    "evaluate.perplexity.Scored.of": Case(
        lambda _: perplexity.Scored.of,
        {"parts": items([(np.array([-1.0]), np.array([1], np.int32))])},
    ),
    "evaluate.perplexity.Scored.first": Case(lambda w: w.scored.first, {"positions": whole(2, 0)}),
    "evaluate.perplexity.Scored.save": Case(
        lambda w: lambda path: w.scored.save(w.folder / "s.npz" if path is None else path),
        {"path": path(None, "/nowhere/x")},
    ),
    "evaluate.perplexity.Scored.read": Case(
        lambda w: lambda path: perplexity.Scored.read(w.saved if path is None else path),
        {"path": path(None, "/nowhere/x")},
    ),
    "evaluate.perplexity.Comparison.holds": Case(
        lambda _: perplexity.Comparison(1, 1.0, 1.0, 1.0).holds,
        {"deviation": real(0.1), "agreement": real(0.9)},
    ),
    "evaluate.perplexity.score_texts": Case(
        lambda w: lambda **given: perplexity.score_texts(w.qwen, **given),
        {"texts": TEXTS, "progress": PROGRESS},
    ),
    "evaluate.perplexity.compare": Case(
        lambda w: (
            lambda **given: perplexity.compare(
                **{name: w.scored if value is None else value for name, value in given.items()}
            )
        ),
        {"ours": or_none(instance(None)), "reference": or_none(instance(None))},
    ),
    "evaluate.perplexity.positions_of": Case(lambda _: perplexity.positions_of, {"texts": TEXTS}),
    "evaluate.perplexity.first_positions": Case(
        lambda _: perplexity.first_positions, {"texts": TEXTS, "positions": whole(2)}
    ),
    "evaluate.speed.Plan": Case(
        lambda _: speed.Plan,
        {
            "prompts": items((1,)),
            "answers": items((1,)),
            "batches": items((1,)),
            "repeat": whole(1),
            "profile": SWITCH,
        },
    ),
    "evaluate.speed.measure": Case(
        lambda w: lambda **given: speed.measure(w.decoder, **given),
        {"n_vocab": whole(261), "plan": PLAN, "tell": PROGRESS},
        list,
    ),
    "evaluate.speed.measure_drafts": Case(
        lambda w: lambda **given: speed.measure_drafts(w.decoder, **given),
        {
            "n_vocab": whole(261),
            "prompt": IDS,
            "answer": whole(4),
            "stop_ids": items(()),
            "repeat": whole(1),
        },
    ),
    "evaluate.humaneval.read_problems": Case(
        lambda _: humaneval.read_problems, {"limit": or_none(whole(1))}
    ),
    "evaluate.humaneval.question_of": Case(
        lambda _: humaneval.question_of, {"problem": instance(PROBLEM)}
    ),
    "evaluate.humaneval.answer_problems": Case(
        lambda w: lambda **given: humaneval.answer_problems(w.qwen, **given),
        {"problems": items([]), "max_tokens": whole(2)},
    ),
    "evaluate.humaneval.code_blocks": Case(lambda _: humaneval.code_blocks, {"answer": text("x")}),
    "evaluate.humaneval.extract_code": Case(
        lambda _: humaneval.extract_code, {"answer": text("x"), "entry_point": text("f")}
    ),
    "evaluate.humaneval.program_of": Case(
        lambda _: humaneval.program_of, {"problem": instance(PROBLEM), "code": text("x")}
    ),
    "evaluate.humaneval.score_answers": Case(
        lambda _: humaneval.score_answers,
        {
            "problems": items([]),
            "answers": items([]),
            "limits": or_none(instance(sandbox.Limits())),
            "workers": whole(1),
            "progress": PROGRESS,
        },
    ),
    "evaluate.humaneval.count_passed": Case(
        lambda _: humaneval.count_passed, {"results": items([])}
    ),
    "evaluate.sandbox.Limits": Case(
        lambda _: sandbox.Limits,
        {
            "seconds": real(10),
            "cpu_seconds": whole(10),
            "memory": whole(1 << 29),
            "file_bytes": whole(1),
            "processes": whole(1),
        },
    ),
    "evaluate.sandbox.run_program": Case(
        lambda _: sandbox.run_program,
        {"program": text("1"), "limits": or_none(instance(sandbox.Limits()))},
    ),
}
