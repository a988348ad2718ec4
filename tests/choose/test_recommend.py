"""What is recommended, whatever is asked: it fits, is quick enough, may be used, is explained."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from typing import Any

import pytest

from qwick.choose.contexts import reach
from qwick.choose.devices import DEVICES, card_named, device_named
from qwick.choose.recommend import COVERED, Ask, Option, recommend
from qwick.choose.runtimes import llama_options, vllm_options, ways_of
from qwick.choose.sizes import available_text, needed_text, parts_of
from qwick.choose.tasks import TASKS, task_named
from qwick.errors import ParameterError
from qwick.hub import Model, arch_config, read_catalog
from qwick.model.arch import read_arch
from qwick.model.positions import with_yarn

CATALOG = read_catalog()
PLACES = ("phone", "pi5", "laptop", "server", "rtx4090", "h100x8")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("license_", ["any", "commercial"])
def test_options_keep_what_was_asked(place: str, license_: str) -> None:
    for task in TASKS.values():
        ask = Ask(task, device_named(place), license=license_)
        found = recommend(ask, CATALOG)
        assert (found.refusal is None) == bool(found.options)
        worths = [option.worth for option in found.options]
        assert worths == sorted(worths, reverse=True)
        assert len({option.model.id for option in found.options}) == len(worths)
        for option in found.options:
            assert option.parts.total <= ask.room
            assert option.model.generation in COVERED
            assert option.model.variant in task.variants
            assert task.input in option.model.inputs
            assert option.model.context.longest >= ask.length
            assert option.reasons
            if license_ == "commercial":
                assert option.model.license is not None
                assert option.model.license.use != "research"
            if option.model.license is None or option.model.license.use != "commercial":
                assert option.cautions


def test_more_memory_never_makes_the_choice_worse() -> None:
    for task, gigabytes in itertools.product(("chat", "code", "math"), (2, 4, 8, 16)):
        small, large = (
            recommend(Ask(TASKS[task], DEVICES["desktop"], memory=size * 10**9), CATALOG)
            for size in (gigabytes, 2 * gigabytes)
        )
        assert large.options[0].worth >= small.options[0].worth


def test_refusals_name_what_would_do() -> None:
    chat, laptop = TASKS["chat"], DEVICES["laptop"]
    small = recommend(Ask(chat, laptop, memory=10**8), CATALOG).refusal
    assert small is not None
    assert small.nearest is not None
    assert small.nearest.parts.total > 10**8
    assert small.nearest.name in small.message
    quick = recommend(Ask(chat, laptop, min_speed=10_000), CATALOG).refusal
    assert quick is not None
    assert quick.cause == "speed"
    assert quick.nearest is not None
    again = recommend(Ask(chat, laptop, min_speed=int(quick.nearest.speed.decode)), CATALOG)
    assert again.refusal is None  # the hint leads somewhere


def test_one_size_up_is_out_of_reach() -> None:
    found = recommend(Ask(TASKS["chat"], DEVICES["laptop"], memory=4 * 10**9), CATALOG)
    assert found.larger is not None
    larger, best = found.larger.option, found.options[0]
    assert (larger.model.parameters.total or 0) > (best.model.parameters.total or 0)
    assert larger.parts.total > 4 * 10**9
    assert "there are 4.0 GB" in found.larger.obstacle


def first(task: str, place: str, **wishes: Any) -> Option:
    found = recommend(Ask(TASKS[task], device_named(place), **wishes), CATALOG)
    assert found.refusal is None, found.refusal
    return found.options[0]


@pytest.mark.parametrize("place", ["phone", "pi5", "laptop", "desktop"])
def test_a_first_token_that_keeps_one_waiting_counts(place: str) -> None:
    """Completion while typing wants the small ones; a long wait is told where nothing is quick."""
    assert (first("fim", place).model.parameters.total or 0) < 8e9
    for task in TASKS.values():
        for option in recommend(Ask(task, device_named(place)), CATALOG).options:
            late = any("tokens is read for" in text for text in option.cautions)
            assert late or option.speed.first <= 60, option.name


@pytest.mark.parametrize("place", ["phone", "pi5", "laptop"])
@pytest.mark.parametrize("task", ["embedding", "rerank"])
def test_where_nothing_is_written_reading_is_the_speed(place: str, task: str) -> None:
    best = first(task, place)
    assert (best.model.parameters.total or 0) < 1e9  # larger ones read a text for many seconds
    wish = math.floor(best.speed.prefill)
    assert first(task, place, min_speed=float(wish)).model == best.model
    refused = recommend(Ask(TASKS[task], device_named(place), min_speed=1e5), CATALOG).refusal
    assert refused is not None
    assert refused.cause == "speed"


def test_no_other_that_fits_wins_most_rows_of_a_table() -> None:
    """Of those that are not much slower than the first, where five rows or more may be compared."""
    compared = 0
    places = ("laptop", "desktop", "rtx3060", "rtx4090", "h100", "rtx4090x4")
    for task, place in itertools.product(("chat", "math", "reasoning", "support"), places):
        best, *others = recommend(Ask(TASKS[task], device_named(place)), CATALOG, 50).options
        for other in others:
            rows = rows_of_both(best.model, other.model)
            lost = sum(mine < theirs for mine, theirs in rows)
            if len(rows) >= 5 and other.rate > 0.7 * best.rate:
                compared += 1
                assert lost <= len(rows) / 2, (task, place, other.name)
    assert compared >= 5


def rows_of_both(one: Model, other: Model) -> list[tuple[float, float]]:
    theirs = {(s.name, s.setting, s.source): s.value for s in other.scores}
    return [
        (s.value, theirs[place])
        for s in one.scores
        if (place := (s.name, s.setting, s.source)) in theirs
    ]


def test_what_is_fetched_is_not_many_times_what_is_kept() -> None:
    for task, place in itertools.product(
        ("chat", "math", "documents"), ("laptop", "desktop", "server")
    ):
        best = first(task, place)
        assert best.download < 2 * best.parts.weights, best.name


def test_below_four_bits_only_where_nothing_else_fits() -> None:
    for task, place in itertools.product(TASKS, ("phone", "laptop", "rtx3060", "rtx4090")):
        found = recommend(Ask(TASKS[task], device_named(place)), CATALOG)
        assert all(option.way.rounded not in ("q2_k", "q3_k_m") for option in found.options)


def test_the_command_asks_for_what_was_planned() -> None:
    best = first("documents", "desktop", context=131_072)
    assert best.arguments == ("--ctx", "131072")  # a 4-bit file, and trained for as many
    assert not {"--ctx", "--yarn"} & set(first("chat", "laptop").arguments)
    ask = Ask(TASKS["chat"], DEVICES["desktop"], context=65_536)
    stretched = next(o for o in recommend(ask, CATALOG, 50).options if o.model.id == "qwen3-8b")
    assert " ".join(stretched.arguments).endswith("--ctx 65536 --yarn 2")


@pytest.mark.parametrize(
    ("name", "form", "place", "told"),
    [
        ("qwen3-8b", "bf16", "h100", "--max-model-len 4096"),
        ("qwen3-8b", "bf16", "t4", "--max-model-len 4096 --dtype half"),
        ("qwen3-8b", "bf16", "h100x8", "--max-model-len 4096 --tensor-parallel-size 8"),
        ("qwen3-235b-a22b", "fp8", "h100x4", "--max-model-len 4096 --tensor-parallel-size 4"),
        (  # 1,536 rows of an expert are no multiple of 8 times 128
            "qwen3-235b-a22b",
            "fp8",
            "h100x8",
            "--max-model-len 4096 --tensor-parallel-size 8 --enable-expert-parallel",
        ),
        ("qwen3-8b", "bf16", "h100x3", "--max-model-len 4096 --tensor-parallel-size 2"),
        # 9,728 = 76 * 128 and 13,824 = 108 * 128 go to four, 151,936 tokens not to six.
        (
            "qwen3-4b-instruct-2507",
            "fp8",
            "h100x8",
            "--max-model-len 4096 --tensor-parallel-size 4",
        ),
        ("qwen2.5-14b-instruct", "awq", "l4x8", "--max-model-len 4096 --tensor-parallel-size 4"),
        (
            "qwen2.5-1.5b-instruct",
            "bf16",
            "t4x6",
            "--max-model-len 4096 --dtype half --tensor-parallel-size 4",
        ),
        ("qwen2.5-72b-instruct", "awq", "l4x8", "--max-model-len 4096 --tensor-parallel-size 8"),
        ("qwen3-32b", "bf16", "rtx4090x3", "--max-model-len 4096 --pipeline-parallel-size 3"),
    ],
)
def test_cards_that_divide_the_work(name: str, form: str, place: str, told: str) -> None:
    model, device = CATALOG.models[name], device_named(place)
    format_ = model.format(form)
    assert format_ is not None
    parts = parts_of(model, format_, 4096, runtime="vllm")
    assert parts is not None
    assert " ".join(vllm_options(model, format_, device, 4096, parts.total)) == told


LENGTHS = (4096, 36_000, 40_960, 65_536, 131_072, 200_000, 1_000_000)
FILLED_IN = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "vocab_size": 151_936}


def test_what_qwick_is_told_is_what_its_loader_takes() -> None:
    """Every option that qwick runs, at lengths around those that checkpoints have."""
    asked = 0
    for task, context in itertools.product(("chat", "documents", "code"), LENGTHS):
        ask = Ask(TASKS[task], DEVICES["server"], context=context)
        for option in recommend(ask, CATALOG, 1000).options:
            if option.way.runtime != "qwick":
                continue
            told = dict(itertools.pairwise(option.arguments))
            config = {**FILLED_IN, **arch_config(option.model)}
            if "--yarn" in told:
                config = with_yarn(config, float(told["--yarn"]))
            read_arch(config).check_context(int(told["--ctx"]))
            asked += 1
    assert asked > 100


def test_runtimes_are_told_to_stretch() -> None:
    model = CATALOG.models["qwen3-8b"]
    form = model.format("bf16")
    assert form is not None
    told = vllm_options(model, form, DEVICES["h100"], 65_536, 1)
    assert told[:2] == ["--max-model-len", "65536"]
    overrides = json.loads(shlex.split(" ".join(told))[3])
    assert overrides["rope_scaling"]["factor"] == 2
    assert overrides["rope_scaling"]["original_max_position_embeddings"] == 32_768
    assert " ".join(llama_options(model, 65_536)) == (
        "-c 65536 --rope-scaling yarn --rope-scale 2 --yarn-orig-ctx 32768"
    )
    assert llama_options(model, 40_960) == ["-c", "40960"]  # its config has as many
    later = CATALOG.models["qwen3-30b-a3b-instruct-2507"]
    assert reach(later, "vllm") == reach(later, "qwick") == 262_144  # more only by config_1m.json
    judge = CATALOG.models["qwen3-reranker-8b"]
    told = vllm_options(judge, judge.formats[0], DEVICES["h100"], 2048, 1)
    assert "is_original_qwen3_reranker" in told[3]


def test_a_t4_takes_no_fp8() -> None:
    forms = {way.form.name for way in ways_of(CATALOG.models["qwen3-8b"], DEVICES["t4"])}
    assert "fp8" not in forms
    assert "bf16" in forms


def test_cards_of_this_machine_have_a_device() -> None:
    assert card_named("NVIDIA GeForce RTX 4090", 24 << 30) is DEVICES["rtx4090"]
    assert card_named("NVIDIA H100 80GB HBM3", 80 << 30) is DEVICES["h100"]
    assert card_named("NVIDIA L40S", 46 << 30) is DEVICES["l40s"]
    assert card_named("NVIDIA A100-SXM4-40GB", 40 << 30) is None
    assert card_named("NVIDIA GeForce GTX 1080", 8 << 30) is None


def test_languages_change_the_choice() -> None:
    """Where the strongest does not name a language, one that does comes first."""
    changed = 0
    for megabytes in range(1500, 6000, 250):
        wishes = {"memory": megabytes * 10**6}
        plain, hungarian = (
            first("translate", "laptop", **wishes, **more) for more in ({}, {"languages": ("hu",)})
        )
        languages = hungarian.model.languages
        assert languages is not None
        assert languages.has("hu"), hungarian.name
        changed += plain.model.id != hungarian.model.id
    assert changed > 0


def test_what_has_no_known_size_is_named() -> None:
    found = recommend(Ask(TASKS["audio"], device_named("h100x8")), CATALOG)
    assert "qwen2.5-omni-7b" in found.unsized
    assert recommend(Ask(TASKS["chat"], DEVICES["laptop"]), CATALOG).unsized == ()


def test_one_size_up_is_of_the_same_kind() -> None:
    ask = Ask(TASKS["chat"], DEVICES["desktop"])
    larger = recommend(ask, CATALOG).larger
    assert larger is not None
    assert larger.option.model.id == "qwen3-235b-a22b-instruct-2507"
    dense = recommend(Ask(TASKS["chat"], DEVICES["rtx3060"]), CATALOG).larger
    assert dense is not None
    assert dense.gains


def test_sizes_never_contradict_themselves() -> None:
    assert (needed_text(4_000_000_001), available_text(4_000_000_001)) == ("4.1 GB", "4.0 GB")
    assert (needed_text(500_000_001), available_text(499_999_999)) == ("501 MB", "499 MB")
    assert available_text(8) == "8 bytes"
    refusal = recommend(Ask(TASKS["chat"], DEVICES["laptop"], memory=8), CATALOG).refusal
    assert refusal is not None
    assert refusal.message.endswith("there are 8 bytes")


def test_newer_generations_only_where_asked() -> None:
    ask = Ask(TASKS["chat"], DEVICES["rtx4090"], newer=True)
    found = recommend(ask, CATALOG, 50)
    newer = [option for option in found.options if option.model.generation not in COVERED]
    assert newer
    assert all(option.way.runtime != "qwick" for option in newer)


def test_what_cannot_be_asked() -> None:
    chat, laptop = TASKS["chat"], DEVICES["laptop"]
    for wrong in (
        {"memory": 0},
        {"min_speed": -1.0},
        {"context": 0},
        {"license": "mine"},
        {"languages": "hu"},
        {"newer": 1},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            Ask(chat, laptop, **wrong)  # type: ignore[arg-type]


def test_names_of_tasks() -> None:
    assert task_named(" OCR ").name == "vision"
    with pytest.raises(ParameterError, match="allowed: chat") as caught:
        task_named("cod")
    assert caught.value.hint == "did you mean code?"
    names = [name for task in TASKS.values() for name in (task.name, *task.aliases)]
    assert len(set(names)) == len(names)
