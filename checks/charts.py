"""Draws the charts and writes the tables of docs/guides/choosing.md from the catalog.

    python -m checks.charts
    python -m checks.charts --check

Without options it writes them; --check writes nothing and ends with 1 where a file of the
checkout is not what the catalog and `qwick.choose` say today.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.axes import Axis, Field, Picture
from checks.choosing import CONTEXT, REPORT, current, fill, taken
from qwick.choose.devices import DEVICES
from qwick.choose.speed import predict
from qwick.hub import Model, read_catalog, shape_of

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guides" / "choosing.md"
FOLDER = GUIDE.parent / "choosing"

MEMORY_MARKS = (4, 8, 16, 24, 64)  # GB
PROMPT = 512  # tokens, for speed
SIZES = (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)  # billions of parameters


def gigabytes(model: Model, name: str) -> float:
    """Return GB in memory with a context of CONTEXT tokens."""
    return taken(model, name).total / 1e9


def memory() -> str:
    """Return the chart of what each current checkpoint takes."""
    models = current()
    page = Picture("Memory of the current instruct models", 900, 130 + 24 * len(models))
    axis = Axis(
        f"GB in memory with {CONTEXT:,} tokens of context; each step of the axis doubles",
        0.5, 1024, [2.0**n for n in range(-1, 11)], log=True,
    )  # fmt: skip
    area = Field(page, axis, Axis("", 0, len(models), ()), 230, 80, 630, 24 * len(models))
    area.draw()
    for mark in MEMORY_MARKS:
        x, bottom = area.place(mark, 0)
        page.line([(x, area.top - 4), (x, bottom)], "mark")
        page.text(x, area.top - 8, f"{mark}", anchor="middle", style="said")
    for x, colour, shape, said in (
        (16, 0, "circle", "4 bits (q4_k_m)"),
        (150, 1, "square", "bf16"),
    ):
        page.mark(x + 4, 46, colour, shape)
        page.text(x + 14, 50, said)
    labels = []
    for row, model in enumerate(models):
        (low, y), high = (
            area.place(gigabytes(model, "q4_k_m"), len(models) - row - 0.5),
            area.place(gigabytes(model, "bf16"), 0)[0],
        )
        page.text(area.left - 8, y + 4, model.id, anchor="end")
        page.line([(low, y), (high, y)], colour=4)
        page.mark(low, y, 0)
        page.mark(high, y, 1, "square")
        labels += [(low, y, f"{gigabytes(model, 'q4_k_m'):.3g}")]
        labels += [(high, y, f"{gigabytes(model, 'bf16'):.3g}")]
    for x, y, said in labels:
        page.label(x, y, said)
    return page.svg()


def scored(name: str, setting: str, keep: Callable[[Model], bool]) -> list[tuple[Model, float]]:
    """Return the checkpoints with that benchmark in that setting in REPORT, by active size."""
    found = [
        (model, score.value)
        for model in read_catalog().models.values()
        for score in model.scores
        if score.name == name
        and score.setting == setting
        and score.source.startswith(REPORT)
        and keep(model)
    ]
    return sorted(found, key=lambda one: one[0].parameters.active or 0)


def scores() -> str:
    """Return the chart of score against active parameters, dense beside mixture."""
    page = Picture("What a parameter at work brings: dense models and mixtures", 900, 860)
    panels = (
        ("MMLU-Pro", "base", "MMLU-Pro, base models (Qwen3 technical report, tables 4 to 8)", 10),
        (
            "GPQA-Diamond",
            "thinking",
            "GPQA-Diamond, thinking (Qwen3 technical report, tables 11 to 19, odd)",
            20,
        ),
    )
    for x, colour, shape, said in (
        (16, 0, "circle", "Qwen3, dense"),
        (130, 1, "diamond", "Qwen3, mixture of experts"),
        (320, 4, "square", "Qwen2.5, dense (QwQ-32B where it thinks)"),
    ):
        page.mark(x + 4, 46, colour, shape)
        page.text(x + 14, 50, said)
    for number, (name, setting, title, low) in enumerate(panels):
        x_axis = Axis("billions of active parameters; each step doubles", 0.4, 100,
                      (0.5, 1, 2, 4, 8, 16, 32, 64), log=True)  # fmt: skip
        y_axis = Axis(f"{name}, %", low, 75, tuple(range(low, 80, 10)))
        area = Field(page, x_axis, y_axis, 80, 100 + 390 * number, 790, 300)
        area.draw(title)
        _panel(area, name, setting)
    return page.svg()


def _panel(area: Field, name: str, setting: str) -> None:
    lines: Sequence[tuple[Callable[[Model], bool], int, str]] = (
        (lambda model: model.generation == "Qwen2.5", 4, "square"),
        (lambda model: model.generation == "Qwen3" and not model.experts, 0, "circle"),
        (lambda model: model.generation == "Qwen3" and model.experts, 1, "diamond"),
    )
    labels: list[tuple[float, float, str]] = []
    for keep, colour, shape in lines:
        values = [
            ((model.parameters.active or 0) / 1e9, value, short(model))
            for model, value in scored(name, setting, keep)
        ]
        labels += area.points(values, colour, shape=shape, joined=shape != "diamond")
    for x, y, said in labels:
        area.picture.label(x, y, said)


def short(model: Model) -> str:
    """Return a name short enough for a label: 30B-A3B, QwQ-32B."""
    name = model.repository.partition("/")[2].removesuffix("-Base")
    return name.removeprefix("Qwen3-").removeprefix("Qwen2.5-")


def rates(device: str, mixture: bool) -> Iterator[tuple[float, float, str]]:
    """Yield billions of parameters and tokens per second of what fits on a device in 4 bits."""
    machine, seen = DEVICES[device], set()
    for model in current():
        shape = shape_of(model)
        if shape is None or model.inputs != ("text",) or model.experts != mixture:
            continue
        if "coder" in model.tags or not model.runs_here or shape.total in seen:
            continue
        seen.add(shape.total)
        parts = taken(model, "q4_k_m")
        if parts.total > machine.memory:
            continue
        speed = predict(
            shape,
            machine,
            weights=parts.weights,
            kv_per_token=parts.kv / CONTEXT,
            prompt=PROMPT,
        )
        yield shape.total / 1e9, speed.decode, f"{speed.decode:.{int(speed.decode < 10)}f}"


def speed() -> str:
    """Return the chart of predicted tokens per second by size on four kinds of machine."""
    page = Picture(
        f"Predicted speed in 4 bits after a prompt of {PROMPT} tokens (30 % more or less)", 900, 560
    )
    x_axis = Axis("billions of parameters in all; each step doubles", 0.4, 400, SIZES, log=True)
    y_axis = Axis("tokens per second", 1, 600, (1, 2, 5, 10, 20, 50, 100, 200, 500), log=True)
    area = Field(page, x_axis, y_axis, 80, 100, 790, 400)
    area.draw()
    page.mark(20, 66, 4)
    page.text(30, 70, "dense")
    page.mark(90, 66, 4, "diamond")
    page.text(100, 70, "mixture of experts (30B-A3B, 235B-A22B): where it fits")
    labels: list[tuple[float, float, str]] = []
    for number, device in enumerate(("phone", "laptop", "desktop", "server")):
        page.line([(16 + 110 * number, 46), (36 + 110 * number, 46)], colour=number)
        page.text(42 + 110 * number, 50, device)
        labels += area.points(list(rates(device, mixture=False)), number)
        labels += area.points(
            list(rates(device, mixture=True)), number, shape="diamond", joined=False
        )
    for x, y, said in sorted(labels, key=lambda one: one[1]):  # the upper line's go above it
        page.label(x, y, said)
    return page.svg()


CHARTS: Mapping[str, Callable[[], str]] = {
    "memory.svg": memory,
    "scores.svg": scores,
    "speed.svg": speed,
}


def differs(path: Path, text: str) -> bool:
    """Whether a file is not there or holds something else."""
    return not path.exists() or path.read_text("utf-8") != text


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(
        "python -m checks.charts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a file differs")
    wished = parser.parse_args()
    made = {FOLDER / name: draw() for name, draw in CHARTS.items()}
    made[GUIDE] = fill(GUIDE.read_text("utf-8"))
    old = [path for path, text in made.items() if differs(path, text)]
    for path in old:
        print(f"{path.relative_to(ROOT)}: {'differs' if wished.check else 'written'}")
        if not wished.check:
            path.write_text(made[path], "utf-8")
    return 1 if old and wished.check else 0


if __name__ == "__main__":
    sys.exit(main())
