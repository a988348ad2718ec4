"""Writes docs/reference/architectures.md: what runs, and what it was compared with, from the tests.

    python -m checks.architectures

The tables are those of tests/model: its shapes, its mutants, its oracles. The errors are measured
anew, on this machine's best instruction set; `tests/model/test_architectures.py` holds the rest of
the page against the tests.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qwick.family import MODEL_TYPES
from qwick.model.arch import read_arch

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "architectures.md"
TESTS = ROOT / "tests"

# By model type: which published checkpoints compute so, beside whom, and where the tests are.
TOLD: Mapping[str, tuple[str, str, str]] = {
    "qwen": (
        "Qwen 1.8B, 7B, 14B, 72B",
        "transformers' Qwen2 within the trained length, under Qwen1's own names; llama.cpp's logits"
        " on a GGUF file; a NumPy decoder for dynamic NTK and log-n attention",
        "test_qwen1.py",
    ),
    "qwen2": (
        "Qwen1.5, CodeQwen1.5, Qwen2, Qwen2-Math, Qwen2.5, its Coder and Math, QwQ, and the 1M"
        " models",
        "transformers' Qwen2; its YaRN; a NumPy decoder for dual chunk attention",
        "test_parity.py, test_positions.py",
    ),
    "qwen2_moe": (
        "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
        "transformers' Qwen2Moe; its YaRN",
        "test_parity.py, test_positions.py",
    ),
    "qwen3": (
        "Qwen3, its 2507 models, Embedding and Reranker",
        "transformers' Qwen3; its YaRN; a NumPy decoder for dual chunk attention",
        "test_parity.py, test_positions.py",
    ),
    "qwen3_moe": (
        "Qwen3-30B-A3B, 235B-A22B, their 2507 models, Qwen3-Coder",
        "transformers' Qwen3Moe; its YaRN; a NumPy decoder for dual chunk attention",
        "test_parity.py, test_positions.py",
    ),
}
SAID: Mapping[str, str] = {
    "prefill": "prefill",
    "stepwise": "token by token",
    "chunked": "chunked",
    "mixed": "with others in one step",
}
HEAD = """# Architectures

Which computations run, and what each was compared with. Made by `python -m checks.architectures`
from the tests in tests/model; errors are of the machine that wrote them.

Every tensor of a test checkpoint is random and wild: norms 1 ± 0.3, biases N(0, 0.5), matrices
scaled so that the logits' standard deviation lies between 1 and 5. An error is the largest of all
logits, in units of that deviation, in float32; {limit:g} is allowed. Each shape is fed in
{schedules}.
A mutant is the same model with one thing wrong. The numbers are of those that are run for a shape,
and each must be seen: those of the shapes in prefill, token by token and with others in one step,
the others in prefill and token by token. The list at the end names what a schedule cannot show.

Each runs from a Hugging Face folder and from GGUF; [formats](formats.md) has the number formats.
How one is added: [a guide](../guides/architectures.md).
"""


def page(errors: Mapping[str, float]) -> str:
    """Return the page; errors: of each shape, the largest."""
    tests()
    from model import test_mutants
    from model.mutants import MUTANTS
    from model.parity import F32_LIMIT
    from model.stepping import SCHEDULES
    from model.wild import CONFIGS

    said = ", ".join(SAID[name] for name in SCHEDULES)
    parts = [HEAD.format(limit=F32_LIMIT, schedules=said)]
    parts.append(
        "| model type | in GGUF | checkpoints | compared with | tests |\n|---|---|---|---|---|"
    )
    for model_type, kind in MODEL_TYPES.items():
        published, oracle, where = TOLD[model_type]
        parts.append(f"| `{model_type}` | `{kind.gguf}` | {published} | {oracle} | {where} |")
    parts.append("\n## Shapes\n")
    columns = "shape, model type, width, heads, key heads, head width, experts, error, mutants"
    parts += [f"| {columns.replace(', ', ' | ')} |", "|" + "---|" * 9]
    run = Counter(case.values[0] for case in cases(test_mutants.test_caught))
    for name, config in CONFIGS.items():
        arch = read_arch(config)
        experts = "" if arch.experts is None else f"{arch.experts.taken} of {arch.experts.count}"
        if arch.experts is not None and arch.experts.shared is not None:
            experts += ", one shared"
        parts.append(
            f"| {name} | `{arch.model_type}` | {arch.hidden} | {arch.heads} | {arch.kv_heads} | "
            f"{arch.head_dim} | {experts} | {errors.get(name, 0.0):.1e} | {run[name] or 'none'} |"
        )
    parts.append("\n## Other names, and beyond the trained length\n")
    parts += ["| what | shapes | compared with | mutants |", "|---|---|---|---|"]
    parts += [f"| {' | '.join(map(str, row))} |" for row in further()]
    parts.append("\n## Mutants\n")
    hidden: dict[str, str] = {}
    for (name, schedule), why in test_mutants.HIDDEN.items():
        hidden[name] = hidden.get(name, "") + f" (not {SAID[schedule]}: {why})"
    parts += [f"- {name.replace('_', ' ')}{hidden.get(name, '')}" for name in MUTANTS]
    return "\n".join(parts) + "\n"


def further() -> Iterator[tuple[object, ...]]:
    """Yield what has tests of its own: what, shapes, oracle, how many mutants must show."""
    from model import test_positions, test_qwen1

    chunks = count(test_positions.test_other_chunks_show, test_positions.test_keys_left_out_show)
    names = count(test_qwen1.test_mutants_show)
    shapes = ", ".join(test_positions.STRETCHED)
    stretches = count(test_positions.test_other_stretches_show)
    yield "YaRN", shapes, "transformers", stretches
    yield "dual chunk attention", ", ".join(test_positions.CHUNKED), "NumPy", chunks
    yield "Qwen1 in a folder of its own", "qwen1.5-mha", "transformers (Qwen2), llama.cpp", names
    beyond = count(test_qwen1.test_another_way_shows)
    yield "dynamic NTK and log-n attention", "qwen1.5-mha", "NumPy", beyond


def cases(test: Any) -> list[Any]:
    """Return what a test is run for, by its one `parametrize`."""
    (mark,) = (mark for mark in test.pytestmark if mark.name == "parametrize")
    return list(mark.args[1])


def count(*tests: Any) -> int | str:
    """Return how many cases some tests have in all, or "none"."""
    return sum(len(cases(test)) for test in tests) or "none"


def without_errors(text: str) -> str:
    """Return a page without what is measured."""
    return re.sub(r"\| \d\.\de[+-]\d\d \|", "| |", text)


def measured() -> Iterator[tuple[str, float]]:
    """Yield each shape's largest error over all schedules."""
    tests()
    from model.parity import distance
    from model.stepping import SCHEDULES, run
    from model.stored import in_memory
    from model.wild import CONFIGS, Oracle, build, sequences, wild_tensors
    from qwick.model.load import load_model

    for name, config in CONFIGS.items():
        tensors: dict[str, Any] = wild_tensors(config)
        oracle = Oracle(build(config, tensors), sequences())
        model = load_model(in_memory(config, tensors), kv="f32")
        yield (
            name,
            max(distance(run(model, oracle.ids, s), oracle).worst for s in SCHEDULES.values()),
        )


def tests() -> None:
    """Let the tests' modules be imported."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))


def main() -> int:
    """Write the page; 0 when done."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0]).parse_args()
    errors = {}
    for name, error in measured():
        errors[name] = error
        print(f"{name:20} {error:.1e}")
    PAGE.write_text(page(errors), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
