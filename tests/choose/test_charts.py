"""The charts and tables of the guide say what the catalog says, and can be read."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from bench.axes import LETTER, SIZE, Axis, Picture
from checks import charts, choosing
from qwick.hub import read_catalog

GUIDE = charts.GUIDE.read_text("utf-8")
TEXT = re.compile(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)" class="\w+">([^<]+)</text>')
SHARE = {"start": 0.0, "middle": 0.5, "end": 1.0}


@pytest.mark.parametrize("name", charts.CHARTS)
def test_chart(name: str) -> None:
    drawn = charts.CHARTS[name]()
    assert (charts.FOLDER / name).read_text("utf-8") == drawn, "run python -m checks.charts"
    assert f"](choosing/{name})" in GUIDE
    boxes = []
    for x, y, anchor, said in TEXT.findall(drawn):
        wide = LETTER * SIZE * len(said)
        left = float(x) - SHARE[anchor] * wide
        boxes.append((left, float(y) - 9, left + wide, float(y) + 2, said))
    assert len(boxes) > 30
    for one, other in combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one[4], other[4])
    width = int(re.findall(r'width="(\d+)"', drawn)[0])
    assert all(box[0] >= 0 and box[2] <= width for box in boxes)


def test_tables() -> None:
    """Made anew, the tables are those of the guide; one that had drifted would not be."""
    drifted = GUIDE.replace("| 86.06 |", "| 76.06 |")
    assert drifted != GUIDE
    assert choosing.fill(drifted) == GUIDE, "run python -m checks.charts"


def test_a_missing_table_is_refused() -> None:
    with pytest.raises(ValueError, match="the guide has the tables"):
        choosing.fill(GUIDE.replace("<!-- table: sizes -->\n", ""))


def test_only_scores_of_one_report_stand_in_a_comparison() -> None:
    columns = (*choosing.SMALL, *choosing.LARGE, choosing.MIXTURE, choosing.QWQ)
    columns += (choosing.MIXTURE_BASE, *choosing.DENSE_BASES)
    for name, setting, source in columns:
        assert source.startswith(choosing.REPORT)
        scores = read_catalog().models[name].scores
        assert sum((s.setting, s.source) == (setting, source) for s in scores) >= 15


def test_the_words_beside_the_claims() -> None:
    """What the guide says of the tables in words follows from them."""
    said = choosing.TABLES["claim-4b"]()
    thinking, plain = (line for line in said.splitlines() if line.startswith("- "))
    assert all(name in thinking for name in ("C-Eval", "INCLUDE", "MMMLU"))
    assert not any(name in thinking for name in ("AIME", "MATH", "ZebraLogic", "LiveCode"))
    assert int(re.findall(r"ahead in (\d+)", plain)[0]) < 23 / 2
    said = choosing.TABLES["claim-30b"]()
    rows = [line.strip("|").split("|") for line in said.splitlines() if line.startswith("| ")]
    gaps = [abs(float(mine) - float(other)) for _, mine, other in rows[1:-1]]
    assert 0.4 < sum(gap <= 2 for gap in gaps) / len(gaps) < 0.6
    assert re.findall(r"ahead in (\d+) of (\d+).* with (\d+)%", said) == [("13", "23", "10")]
    said = choosing.TABLES["claim-base"]()
    counts = re.findall(r"ahead in (\d+) of (\d+).* with (\d+)%", said)
    assert counts == [("15", "15", "23"), ("8", "15", "10"), ("5", "15", "5")]
    beside_72b = said.strip().splitlines()[-1]
    ahead = ("MMLU-Pro", "GSM8K", "EvalPlus", "MultiPL-E", "CRUX-O")
    assert not any(f"{name}," in beside_72b for name in ahead)


def test_no_table_has_more_generations_in_one_setting() -> None:
    """Why there is no chart across them."""
    met: dict[tuple[str, str, str], set[str]] = {}
    for model in read_catalog().models.values():
        for score in model.scores:
            table = (score.name, score.setting, score.source.split(" Table")[0])
            met.setdefault(table, set()).add(model.generation)
    older = {"Qwen1.5", "Qwen2"}
    assert not any("Qwen3" in found and found & older for found in met.values())


def test_labels_keep_clear_or_are_refused() -> None:
    page = Picture("small", 40, 40)
    with pytest.raises(ValueError, match="no room for the label"):
        page.label(20, 20, "a label wider than the picture")


def test_a_value_off_the_axis_is_refused() -> None:
    axis = Axis("GB", 1, 16, (1, 4, 16), log=True)
    assert [axis.share(value) for value in (1, 4, 16)] == [0, 0.5, 1]
    with pytest.raises(ValueError, match="lies outside"):
        axis.share(17)
