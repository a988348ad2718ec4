"""What docs/guides/choosing.md shows of the catalog: which checkpoints, their sizes, its tables.

Used by `checks.charts`, which writes it. Each table stands in the guide between its marker and the
marker of its end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from qwick.choose.devices import device_named
from qwick.choose.quality import FORMAT_LOSS
from qwick.choose.recommend import Ask, Option, recommend
from qwick.choose.sizes import BITS, Parts, parts_of
from qwick.choose.tasks import TASKS
from qwick.hub import Format, Model, read_catalog

CONTEXT = 4096  # tokens, where memory is told
LONG = 32_768  # tokens, for what a long context costs
REPORT = "tr3 "  # the tables of Qwen3's technical report: one evaluation of all its models
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

SHOWN_TASKS = ("chat", "code", "fim", "math", "reasoning", "translate", "documents", "tools")
SHOWN_TASKS += ("vision", "audio", "embedding", "rerank")
SHOWN_DEVICES = ("phone", "laptop", "desktop", "server")
SHOWN_CARDS = ("rtx3060", "rtx4090", "h100x8")
SHOWN_FORMATS = ("bf16", "fp8", "q8_0", "int8", "q6_k", "q5_k_m", "q4_k_m", "awq", "gptq-int4")
SHOWN_FORMATS += ("int4", "q3_k_m", "q2_k")
OLDER = ("qwen2.5-coder-7b-instruct", "qwen2.5-coder-14b-instruct", "qwen2.5-14b-instruct-1m")
USES = (("commercial", "Apache-2.0"), ("conditional", "conditional"), ("research", "research only"))

Column = tuple[str, str, str]  # a checkpoint, the setting of its scores, their source


def current() -> list[Model]:
    """Return the instruct models of Qwen3 and Qwen3-VL that no later revision replaces, by size."""
    models = read_catalog().models
    found = [
        model
        for model in models.values()
        if model.generation in ("Qwen3", "Qwen3-VL")
        and model.variant == "instruct"
        and f"{model.id}-instruct-2507" not in models
    ]
    return sorted(found, key=lambda model: (model.generation, model.parameters.total or 0))


def taken(model: Model, name: str, context: int = CONTEXT) -> Parts:
    """Return the memory that a checkpoint takes in a format, whether that is published or not."""
    form = model.format(name) or Format(
        name=name,
        container="gguf",
        repository=model.repository,
        official=False,
        revision=None,
        files=(),
        parts=1,
        template=None,
    )
    parts = parts_of(model, form, context, runtime="qwick" if model.runs_here else "llama.cpp")
    if parts is None:
        raise ValueError(f"nobody can tell the size of {model.id}")
    return parts


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: int = 0) -> str:
    """Return a table in Markdown; right: how many of the last columns are numbers."""
    bars = ["---"] * (len(heads) - right) + ["--:"] * right
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(bars)}|", *lines[1:]]) + "\n"


def by_task() -> str:
    """Return the first choice of the recommender for each task on each device."""
    rows = []
    for name in SHOWN_TASKS:
        cells = [_choice(name, device) for device in SHOWN_DEVICES]
        rows.append([f"`{name}`: {TASKS[name].title}", *cells])
    return table(("task", *(f"`{name}`" for name in SHOWN_DEVICES)), rows)


def devices() -> str:
    """Return what the devices of the tables and charts stand for."""
    rows = []
    for name in (*SHOWN_DEVICES, *SHOWN_CARDS):
        one = device_named(name)
        room, rate = f"{one.memory / 1e9:.3g} GB", f"{one.bandwidth / 1e9:,.0f} GB/s"
        rows.append([f"`{name}`", one.title, room, rate])
    return table(("device", "stands for", "for a model", "reads"), rows, right=2)


def on_cards() -> str:
    """Return the same for graphics cards."""
    tasks = ("chat", "code", "reasoning")
    rows = [[f"`{card}`", *(_choice(task, card) for task in tasks)] for card in SHOWN_CARDS]
    return table(("card", *(f"`{name}`" for name in tasks)), rows)


def _choice(task: str, device: str) -> str:
    ask = Ask(TASKS[task], device_named(device))
    found = recommend(ask, read_catalog(), most=1)
    if found.refusal is not None:
        return f"none: {found.refusal.cause}"
    return _told(found.options[0], TASKS[task].tokens_out)


def _told(option: Option, tokens_out: bool) -> str:
    size = f"{option.parts.total / 1e9:.1f} GB"
    speed = f", {option.speed.decode:.0f}/s" if tokens_out else ""
    allowed = option.model.license is not None and option.model.license.use == "commercial"
    mark = "" if allowed else " †"  # the guide says what it means
    return f"`{option.model.id}`{mark} {option.way.rounded}, {size}{speed}"


def formats() -> str:
    """Return what formats take and what the recommender counts for their loss."""
    model = read_catalog().models["qwen3-8b"]
    rows = []
    for name in SHOWN_FORMATS:
        rounded = name in ("int4", "int8")  # while a bf16 folder is loaded
        form = model.format("bf16" if rounded else name) or Format(
            name=name,
            container="gguf",
            repository="",
            official=False,
            revision=None,
            files=(),
            parts=1,
            template=None,
        )
        parts = parts_of(model, form, CONTEXT, quantize=name if rounded else None)
        size = "" if parts is None else f"{parts.weights / 1e9:.1f} GB"
        rows.append([f"`{name}`", f"{BITS[name].body:.2f}", size, f"{FORMAT_LOSS[name]:.2f}"])
    return table(("format", "bits per weight", "weights of Qwen3-8B", "loss"), rows, right=3)


def sizes() -> str:
    """Return parameters, contexts and what a token of context takes."""
    models = read_catalog().models
    rows = []
    for model in [*(one for one in current() if one.runs_here), *(models[name] for name in OLDER)]:
        numbers, context = model.parameters, model.context
        kv = taken(model, "q4_k_m", LONG).kv
        rows.append(
            [
                f"`{model.id}`",
                f"{(numbers.total or 0) / 1e9:.2f} B",
                f"{(numbers.active or 0) / 1e9:.2f} B",
                f"{context.native:,}" if context.native else "not published",
                f"{context.extended:,}" if context.extended else "",
                f"{kv / LONG / 1000:.0f} kB",
                f"{kv / 1e9:.1f} GB",
            ]
        )
    heads = ("checkpoint", "parameters", "active", "native context", "extended", "KV per token")
    return table((*heads, f"KV of {LONG:,}"), rows, right=6)


def licenses() -> str:
    """Return which licence each series has, by size; base models are as their instruct ones."""
    rows: dict[str, dict[str, list[str]]] = {}
    for model in read_catalog().models.values():
        if model.variant == "base":
            continue
        use = "unknown" if model.license is None else model.license.use
        name = model.id.removeprefix(f"{model.series.split()[0].lower()}-")
        name = re.sub(r"-(instruct|chat)\b", "", name)
        rows.setdefault(model.series, {}).setdefault(use, []).append(name)
    keys = [*(key for key, _ in USES), "unknown"]
    cells = [
        [series, *(", ".join(found.get(key, ())) for key in keys)] for series, found in rows.items()
    ]
    return table(("series", *(title for _, title in USES), "not confirmed"), cells)


def compared(columns: Sequence[Column], against: Sequence[Column]) -> str:
    """Return the scores that all columns have, and how often each is ahead of each of `against`."""
    models = read_catalog().models
    found = [
        {
            score.name: score.value
            for score in models[name].scores
            if (score.setting, score.source) == (setting, source)
        }
        for name, setting, source in (*columns, *against)
    ]
    names = [name for name in found[0] if all(name in scores for scores in found)]
    heads = [
        f"{models[name].repository.partition('/')[2]}, {setting}, {source.removeprefix(REPORT)}"
        for name, setting, source in (*columns, *against)
    ]
    rows = [[name, *(f"{scores[name]:g}" for scores in found)] for name in names]
    active = [(models[name].parameters.active or 0) / 1e9 for name, _, _ in (*columns, *against)]
    rows.append(["*active parameters, billions*", *(f"{number:.2f}" for number in active)])
    said = [
        _tally(heads[i], found[i], heads[j], found[j], names, active[i] / active[j])
        for i in range(len(columns))
        for j in range(len(columns), len(heads))
    ]
    return table(("benchmark", *heads), rows, right=len(heads)) + "\n" + "\n".join(said) + "\n"


def _tally(
    head: str,
    mine: Mapping[str, float],
    other: str,
    theirs: Mapping[str, float],
    names: Sequence[str],
    share: float,
) -> str:
    ahead = sum(mine[name] > theirs[name] for name in names)
    behind = [name for name in names if mine[name] < theirs[name]]
    lost = f" (behind in {', '.join(behind)})" if behind else ""
    return (
        f"- {head}, beside {other}: ahead in {ahead} of {len(names)}{lost}, "
        f"with {share:.0%} of the active parameters."
    )


SMALL = (
    ("qwen3-4b", "thinking", "tr3 Table 17"),
    ("qwen3-4b", "non-thinking", "tr3 Table 18"),
)
LARGE = (("qwen2.5-72b-instruct", "non-thinking", "tr3 Table 14"),)
MIXTURE, QWQ = (
    ("qwen3-30b-a3b", "thinking", "tr3 Table 15"),
    ("qwq-32b", "thinking", "tr3 Table 13"),
)
MIXTURE_BASE = ("qwen3-30b-a3b-base", "base", "tr3 Table 5")
DENSE_BASES = (
    ("qwen2.5-14b", "base", "tr3 Table 5"),
    ("qwen2.5-32b", "base", "tr3 Table 5"),
    ("qwen2.5-72b", "base", "tr3 Table 4"),
)
TABLES: Mapping[str, Callable[[], str]] = {
    "tasks": by_task,
    "devices": devices,
    "cards": on_cards,
    "formats": formats,
    "sizes": sizes,
    "licenses": licenses,
    "claim-4b": lambda: compared(SMALL, LARGE),
    "claim-30b": lambda: compared((MIXTURE,), (QWQ,)),
    "claim-base": lambda: compared((MIXTURE_BASE,), DENSE_BASES),
}


def fill(page: str) -> str:
    """Return the guide with its tables made anew; ValueError where one is missing or unknown."""
    marked = [name for _, name, _, _ in MARKED.findall(page)]
    if sorted(marked) != sorted(TABLES):
        raise ValueError(f"the guide has the tables {marked}, not {list(TABLES)}")
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[4]}", page)
