"""What cannot run here is refused before it is fetched, with the nearest that can."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from qwick.choose.contexts import plain, reach
from qwick.choose.fits import check_fits, nearest
from qwick.choose.sizes import parts_of
from qwick.cli.main import main
from qwick.errors import DownloadError, ParameterError, ResourceError, UnsupportedError
from qwick.hub import Entry, Format, Model, PinnedFile, Place, Store, read_catalog
from qwick.hub.manifest import NAME, write_manifest
from qwick.machine.cpu import Memory

CATALOG = read_catalog()
OF_32_GB = Memory(32 * 10**9, 24 * 10**9, "machine")
GB = 10**9


def of(name: str, form: str = "q4_k_m") -> tuple[Model, Format]:
    model = CATALOG.models[name]
    found = model.format(form)
    assert found is not None
    return model, found


@pytest.mark.parametrize("gigabytes", [1, 2, 4, 8, 16, 32])
def test_the_nearest_fits_and_is_of_its_kind(gigabytes: int) -> None:
    for name in ("qwen2.5-72b-instruct", "qwen3-32b", "qwen2.5-coder-32b-instruct"):
        model = CATALOG.models[name]
        found = nearest(model, gigabytes * GB, CATALOG)
        assert found is not None
        assert found.parts.total <= gigabytes * GB
        assert found.model.variant == model.variant
        assert found.model.runs_here
        assert found.model.series == model.series


def test_the_same_checkpoint_in_a_smaller_format_comes_first() -> None:
    model = CATALOG.models["qwen3-4b"]
    found = nearest(model, 4 * GB, CATALOG)
    assert found is not None
    assert found.model is model


def test_nothing_is_near() -> None:
    assert nearest(CATALOG.models["qwen3-32b"], 10**8, CATALOG) is None
    with pytest.raises(ResourceError, match="are available") as caught:
        check_fits(*of("qwen3-32b"), 10**8, CATALOG)
    assert "--device" in str(caught.value.hint)


def test_refused_with_figures_and_the_nearest() -> None:
    with pytest.raises(ResourceError, match=r"qwen3-32b:q4_k_m takes \d+\.\d GB .* 8\.0 GB") as e:
        check_fits(*of("qwen3-32b"), 8 * GB, CATALOG)
    named = re.search(r"fits: ([\w.-]+):(\w+)(?: --quantize (\w+))?, in", str(e.value.hint))
    assert named is not None
    check_fits(*of(named[1], named[2]), 8 * GB, CATALOG, quantize=named[3])  # which it does


def test_what_fits_passes_to_the_byte() -> None:
    model, form = of("qwen3-8b")
    parts = parts_of(model, form, 4096)
    assert parts is not None
    check_fits(model, form, parts.total, CATALOG, context=4096)
    with pytest.raises(ResourceError):
        check_fits(model, form, parts.total - 1, CATALOG, context=4096)
    check_fits(model, form, parts.total - 1, CATALOG)  # a shorter context does


def test_experts_may_stay_in_a_file() -> None:
    check_fits(*of("qwen3-30b-a3b"), 4 * GB, CATALOG)  # of 18.4 GB of weights
    with pytest.raises(ResourceError):
        check_fits(*of("qwen3-30b-a3b"), GB, CATALOG)


def test_rounding_counts() -> None:
    model, form = of("qwen3-8b", "bf16")
    with pytest.raises(ResourceError):
        check_fits(model, form, 8 * GB, CATALOG)
    check_fits(model, form, 8 * GB, CATALOG, quantize="int4")


def test_what_nobody_can_tell_passes() -> None:
    model = CATALOG.models["qwen2.5-omni-7b"]
    check_fits(model, model.formats[0], 1, CATALOG)


@pytest.mark.parametrize("words", [["run", "{}", "hi"], ["chat", "{}"], ["bench", "{}"]])
def test_verbs_refuse_before_they_fetch(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Offline, so that a fetch would end otherwise, and on a machine of 32 GB."""
    monkeypatch.setattr("qwick.machine.cpu.read_memory", lambda: OF_32_GB)
    monkeypatch.setenv("QWICK_HOME", str(tmp_path))
    monkeypatch.setenv("QWICK_OFFLINE", "1")
    name = "qwen1.5-110b-chat:bf16"
    code = main([word.format(name) for word in words] + ["--ctx", "32768"])
    assert code == ResourceError.exit_code
    told = capsys.readouterr().err
    assert f"error: {name} takes" in told
    assert "hint: " in told
    assert main(["serve", name, "--ctx", "32768"]) == ResourceError.exit_code
    assert "takes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "way"),
    [("qwen3-vl-8b-instruct", "ollama run qwen3-vl:8b"), ("qwen3.5-9b:q4_k_m", "qwen3.5:9b")],
)
def test_what_qwick_does_not_compute_is_not_fetched_to_be_run(
    name: str,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("QWICK_HOME", str(tmp_path))
    monkeypatch.setenv("QWICK_OFFLINE", "1")  # so that a fetch would end otherwise
    assert main(["run", name, "hi"]) == UnsupportedError.exit_code
    told = capsys.readouterr().err
    assert "is none of the checkpoints that qwick computes" in told
    assert way in told


def test_a_context_beyond_the_documented_one_is_told_before_memory() -> None:
    model, form = of("qwen3-8b")
    with pytest.raises(ParameterError, match=r"40,960 tokens of context, and 200,000") as caught:
        check_fits(model, form, 200 * GB, CATALOG, context=200_000)
    other = str(caught.value.hint).split()[4].partition(":")[0]
    assert reach(CATALOG.models[other], "qwick") >= 200_000
    assert "--yarn" not in str(caught.value.hint)
    with pytest.raises(ParameterError) as caught:
        check_fits(model, form, 200 * GB, CATALOG, context=100_000)
    assert "; or --yarn 4" in str(caught.value.hint)
    check_fits(model, form, 200 * GB, CATALOG, context=40_960)  # its configuration has as many
    check_fits(model, form, 200 * GB, CATALOG, context=200_000, stretched=True)  # --yarn
    for name, room, length in itertools.product(
        ("qwen3-8b", "qwen2.5-72b", "qwq-32b", "qwen2.5-coder-7b-instruct"),
        (8 * GB, 24 * GB, 64 * GB),
        (8192, 40_000, 131_072),
    ):
        found = nearest(CATALOG.models[name], room, CATALOG, length)
        if found is not None:
            assert reach(found.model, "qwick") >= length
            assert ("--yarn" in found.command) == (plain(found.model) < length)


def test_the_nearest_thinks_or_not_and_may_be_rounded_as_recommended() -> None:
    found = nearest(CATALOG.models["qwq-32b"], 12 * GB, CATALOG)
    assert found is not None
    assert found.model.id == "qwen3-14b"
    found = nearest(CATALOG.models["qwen2.5-72b"], 24 * GB, CATALOG)
    assert found is not None
    assert found.command == "qwen2.5-32b:bf16 --quantize int4"


def test_a_fetch_that_was_broken_off_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWICK_HOME", str(tmp_path))
    monkeypatch.setenv("QWICK_OFFLINE", "1")  # so that a fetch would end otherwise
    monkeypatch.setattr("qwick.machine.cpu.read_memory", lambda: OF_32_GB)
    name = "qwen1.5-110b-chat:bf16"  # 222 GB
    files = tuple(PinnedFile(f"part{n}.gguf", 4, "0" * 64) for n in "12")
    place = Place("hf", "Qwen/Qwen1.5-110B-Chat", "main")
    entry = Entry(name, "Qwen1.5-110B-Chat", "Qwen team", "Qwen", (place,), files)
    folder = tmp_path / "checkpoints" / entry.folder
    folder.mkdir(parents=True)
    write_manifest(folder / NAME, entry)
    (folder / "part1.gguf").write_bytes(b"GGUF")
    assert Store().show(name).state == "incomplete"
    words = ["run", name, "hi", "--ctx", "32768"]
    assert main(words) == ResourceError.exit_code
    (folder / "part2.gguf").write_bytes(b"GGUF")  # whole: its own file is what counts
    assert main(words) == DownloadError.exit_code
