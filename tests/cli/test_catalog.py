"""`qwick models search|show|compare|series`: the published checkpoints, offline."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.conftest import Run
from qwick.cli.facts import compared, count_text, length_text, license_use, side_by_side
from qwick.cli.main import qwick as command_line
from qwick.errors import ModelNotFoundError, ParameterError
from qwick.hub import DEFAULT, read_catalog, series_of, uses_of

MODELS = read_catalog().models
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"


def ask(*arguments: str) -> str:
    """Run `qwick models ...` in this process and return what it prints; raises its errors."""
    done = CliRunner().invoke(command_line, ["models", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def found(*filters: str) -> set[str]:
    return {model["id"] for model in json.loads(ask("search", "--json", *filters))["models"]}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((494_032_768, "494M"), (7_615_616_512, "7.62B"), (999_990_000, "1B")),
        *((30_532_122_624, "30.5B"), (2_419_804_697_984, "2.42T"), (36 * 10**12, "36T")),
        *((109_000_000_000, "109B"), (12, "12"), (None, "not known")),
    ],
)
def test_counts(count: int | None, text: str) -> None:
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(32_768, "32k"), (1_010_000, "1.01M"), (1 << 20, "1M"), (1500, "1.5k"), (None, "not known")],
)
def test_lengths(tokens: int | None, text: str) -> None:
    assert length_text(tokens) == text


def test_search_filters() -> None:
    assert len(found()) == len(MODELS)
    assert found("coder", "7B", "--max-params", "8B", "--tag", "instruct") == {
        "codeqwen1.5-7b-chat",
        "qwen2.5-coder-7b-instruct",
    }
    assert found("--series", "qwen2.5-CODER", "--max-params", "1b") == {
        "qwen2.5-coder-0.5b",
        "qwen2.5-coder-0.5b-instruct",
    }
    assert found("--tag", "moe", "--runs-here", "--min-params", "200B", "--tag", "2507") == {
        "qwen3-235b-a22b-instruct-2507",
        "qwen3-235b-a22b-thinking-2507",
    }
    assert found("--input", "audio", "--license", "commercial") == set()
    assert "qwen2-audio-7b-instruct" in found("--input", "audio", "--license", "unknown")
    assert "qwen3-8b" in found("--language", "HU", "--format", "q4_k_m")
    assert not {"qwen2.5-7b-instruct", "qwen3.5-9b"} & found("--language", "hu")
    long = found("--context", "256k")
    assert "qwen2.5-7b-instruct-1m" in long
    assert "qwen3-8b" not in long
    assert "qwen3-omni-30b-a3b-instruct" not in found("--context", "2k")  # not known: not long


def test_search_is_a_table() -> None:
    header, *rows = ask("search", "qwen3-8b").splitlines()
    assert " ".join(header.split()) == "NAME SIZE ACTIVE CONTEXT INPUT THINKING LICENCE HERE"
    assert [row.split()[0] for row in rows] == ["qwen3-8b-base", "qwen3-8b"]
    shown = " ".join(rows[1].split())
    assert shown == "qwen3-8b 8.19B all 32k (128k) text hybrid commercial yes"
    assert ask("search", "no-such-word") == "no published checkpoint is all that\n"
    lines = ask("search", "qwen3-8b", "--markdown").splitlines()
    assert lines[0].startswith("| NAME | SIZE |")
    assert lines[1].count("---") == lines[0].count("|") - 1
    assert lines[3].startswith("| qwen3-8b | 8.19B |")


def test_search_by_other_codes_of_a_language() -> None:
    assert found("--language", "hun") == found("--language", "hu-HU") == found("--language", "hu")
    assert found("--language", "yue") >= {"qwen3-8b"}
    assert ask("search", "--language", "la") == "no published checkpoint is all that\n"
    assert found("--format", "Q4_K_M") == found("--format", "q4_k_m") != set()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--language", "hungarian"), ("--language", "xx"), ("--language", "")),
        *(("--format", "zzz"), ("--format", "")),
    ],
)
def test_search_refuses_what_nothing_can_have(option: str, value: str, qwick: Run) -> None:
    done = qwick("models", "search", option, value)
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert f"{option.removeprefix('--')} is {value!r}; allowed: " in error
    assert ("q4_k_m" in error) == (option == "--format")
    assert "`qwick models show NAME` lists a checkpoint's" in hint


@pytest.mark.parametrize("value", ["big", "0", "-1B", "inf", "nan", "8X", "", "٨B", "1_0B"])
def test_search_refuses_what_is_no_size(value: str) -> None:
    with pytest.raises(ParameterError, match=r"^--max-params is .*; allowed: .* K M B T$"):
        ask("search", "--max-params", value)


def test_unknown_names_are_told_the_likely_ones(qwick: Run) -> None:
    done = qwick("models", "show", "qwen3-8bb")
    assert done.returncode == 3
    assert "there is no checkpoint called 'qwen3-8bb'" in done.stderr
    assert "did you mean qwen3-8b" in done.stderr
    with pytest.raises(ModelNotFoundError) as caught:
        ask("search", "--series", "qwen2.5-codr")
    assert "Qwen2.5-Coder" in (caught.value.hint or "")
    with pytest.raises(ModelNotFoundError):
        ask("compare", "qwen3-8b", "zzz")
    with pytest.raises(ParameterError, match="two checkpoints"):
        ask("compare", "qwen3-8b", "Qwen/Qwen3-8B")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_shown(name: str) -> None:
    model = MODELS[name]
    text = ask("show", model.repository)
    for part in (model.page, model.series, *(score.setting for score in model.scores)):
        assert part in text
    assert all(form.repository in text for form in model.formats)
    if model.license is None:
        assert "licence     not known" in text
        assert license_use(model) == "not known"
    assert text.count("commercial") == 0 or model.license is not None


def test_show_as_values_and_markdown(qwick: Run, tmp_path: Path) -> None:
    facts = json.loads(ask("show", "qwen3-8b", "--json"))
    assert facts["name"] == facts["catalog"]["id"] == "qwen3-8b"
    assert "path" not in facts
    told = facts["catalog"]
    assert told["parameters"]["total"] == MODELS["qwen3-8b"].parameters.total
    assert told["parameters"]["training_tokens"] == 36 * 10**12
    assert {form["name"] for form in told["formats"]} >= {"bf16", "q4_k_m"}
    assert told["license"]["use"] == told["license_use"] == "commercial"
    assert all(score["setting"] and score["source"] for score in told["scores"])
    stored = json.loads(qwick("models", "show", DEFAULT, "--json", QWICK_HOME=str(tmp_path)).stdout)
    assert stored["state"] == "missing"
    assert stored["path"].startswith(str(tmp_path))
    assert stored["catalog"]["id"] == DEFAULT
    lines = ask("show", "qwen3-8b", "--markdown").splitlines()
    assert lines[0] == "# qwen3-8b"
    assert all(line.startswith("|") for line in lines[1:] if line)


def test_compare_only_what_compares() -> None:
    mixture, dense = MODELS["qwen3-30b-a3b"], MODELS["qwq-32b"]
    (header, rows), alone = compared([mixture, dense])
    assert header == ("BENCHMARK", "qwen3-30b-a3b", "qwq-32b", "SETTING", "SOURCE")
    by_name = {(row[0], row[3]): row for row in rows}
    assert by_name["AIME'24", "thinking"][1:3] == ("80.4", "79.5")
    both = {(s.name, s.setting) for s in mixture.scores if s.document == "tr3"} & {
        (s.name, s.setting) for s in dense.scores if s.document == "tr3"
    }
    assert set(by_name) == both
    listed = {(score.name, score.setting) for score in alone["qwen3-30b-a3b"]}
    assert listed == {(s.name, s.setting) for s in mixture.scores} - both
    # Both tables are of one document, which is named once.
    places = {row[4] for row in rows}
    assert all(place.count("tr3") == 1 for place in places)
    # The same names, in other settings: nothing stands side by side.
    (_, rows), alone = compared([MODELS["qwen3-4b"], MODELS["qwen2-7b-instruct"]])
    assert rows == []
    assert {"LiveCodeBench v5"} <= {s.name for s in alone["qwen3-4b"]}
    assert {"LiveCodeBench"} <= {s.name for s in alone["qwen2-7b-instruct"]}


def test_scores_of_two_documents_do_not_compare() -> None:
    """The same benchmark in the same setting, by a report and by a card."""
    report, card = MODELS["qwen3-14b"], MODELS["qwen3-4b-instruct-2507"]
    place = ("MMLU-Redux", "non-thinking")
    assert all(place in {(s.name, s.setting) for s in model.scores} for model in (report, card))
    (_, rows), alone = compared([report, card])
    assert rows == []
    assert all(place in {(s.name, s.setting) for s in alone[m.id]} for m in (report, card))
    names = (report.id, card.id)
    values = json.loads(ask("compare", *names, "--json"))
    assert values["scores"] == []
    assert {"name": place[0], "setting": place[1], "source": "tr3 Table 16"} in (
        values["not_comparable"][report.id]
    )
    for form in ((), ("--markdown",)):
        assert "No benchmark is published of two of them" in ask("compare", *names, *form)
    # What nobody can find is in no document: two such cards have none in common either.
    assert compared([card, MODELS["qwen3-30b-a3b-instruct-2507"]])[0][1] == []


def test_scores_of_one_document_are_named_once() -> None:
    (_, rows), alone = compared([MODELS["qwen3-14b"], MODELS["qwen3-8b"]])
    sources = {(row[0], row[3]): row[4] for row in rows}
    assert sources["MMLU-Redux", "non-thinking"].startswith("tr3 Table")
    assert sources["MMLU-Redux", "non-thinking"].count("tr3") == 1
    assert "MMLU-Redux" not in {score.name for score in alone["qwen3-14b"]}


def test_what_does_not_compare_is_told_with_its_setting() -> None:
    """A benchmark that is shown in one setting may stand alone in the other."""
    text = ask("compare", "qwen3-30b-a3b", "qwq-32b")
    shown, told = text.split("Not comparable, of qwen3-30b-a3b alone", 1)
    assert re.search(r"MMLU-Redux .* thinking ", shown)
    assert re.search(r"^  non-thinking, tr3: .*MMLU-Redux", told, re.MULTILINE)
    assert not re.search(r"^  thinking, tr3: .*MMLU-Redux", told, re.MULTILINE)


def test_the_same_checkpoint_twice_is_told() -> None:
    for names in (("qwen3-8b", "qwen3-8b"), ("qwen3-8b", "Qwen/Qwen3-8B")):
        with pytest.raises(ParameterError, match="the same checkpoint, qwen3-8b"):
            ask("compare", *names)
    with pytest.raises(ParameterError, match="NAME is 'qwen3-8b'; allowed: two checkpoints"):
        ask("compare", "qwen3-8b")


def test_compare_prints_all_forms() -> None:
    names = ("qwen3-30b-a3b", "qwq-32b")
    text = ask("compare", *names)
    assert "80.4" in text
    assert "Not comparable, of qwen3-30b-a3b alone" in text
    header, table = side_by_side([MODELS[name] for name in names])
    assert list(header[1:]) == list(names)
    assert {row[0]: row[1:] for row in table}["active"] == ("3.35B", "all")
    values = json.loads(ask("compare", *names, "--json"))
    assert [model["id"] for model in values["models"]] == list(names)
    assert {"benchmark", *names, "setting", "source"} == set(values["scores"][0])
    assert values["sources"]["tr3"].startswith("QwenLM/Qwen3@")
    assert "| AIME'24 | 80.4 | 79.5 | thinking |" in ask("compare", *names, "--markdown")
    assert "No benchmark is published of two of them" in ask(
        "compare", "qwen3-4b", "qwen2-7b-instruct"
    )


def test_series_follow_from_their_members() -> None:
    series = {one.name: one for one in series_of(read_catalog())}
    assert sum(len(one.models) for one in series.values()) == len(MODELS)
    coder = series["Qwen2.5-Coder"]
    assert coder.sizes == tuple(sorted({m.parameters.total or 0 for m in coder.models}))
    assert coder.context == (32_768, 32_768, 131_072)
    assert coder.uses == ("code", "further training")
    assert coder.released == ("2024-09", "2024-11")
    assert coder.headline is not None
    model, score = coder.headline
    assert (model.id, score.key) == ("qwen2.5-coder-32b-instruct", "humaneval")
    mixture = series["Qwen3 MoE"]
    assert "9 % of the weights for a token" in mixture.strengths
    assert series["Qwen-VL"].headline is None
    assert series["Qwen-VL"].context is None
    qwen3 = series["Qwen3"].headline
    assert qwen3 is not None
    assert qwen3[0].variant == "base" or not qwen3[1].setting.startswith("base")
    assert uses_of(MODELS["qwen3-embedding-8b"]) == ("search", "retrieval", "clustering")
    assert "reasoning" in uses_of(MODELS["qwq-32b"])
    assert "images and video" in uses_of(MODELS["qwen3.5-9b"])


def test_series_prints_all_forms() -> None:
    one = ask("series", "qwen2.5-coder")
    assert "sizes" in one
    assert "494M 1.54B 3.09B 7.62B 14.8B 32.8B" in one
    assert "Qwen3" not in one
    values = json.loads(ask("series", "--json"))["series"]
    assert [row["name"] for row in values] == [one.name for one in series_of(read_catalog())]
    assert len(ask("series", "--markdown").splitlines()) == 2 + len(values)


def test_the_page_is_what_the_commands_print() -> None:
    """docs/reference/models.md; to make it anew put their output between its headings."""
    text = PAGE.read_text("utf-8")
    assert ask("series", "--markdown") in text
    assert ask("search", "--markdown") in text


def test_answers_at_once(qwick: Run) -> None:
    took = []
    for _ in range(3):  # the machine may be busy with something else
        began = time.monotonic()
        assert qwick("models", "search", QWICK_OFFLINE="1", QWICK_HOME="/nowhere/at/all").stdout
        took.append(time.monotonic() - began)
    assert min(took) < 1
