"""Random models: their blocks decode to what they should, and qwick runs a whole small one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bench
from bench.confine import limited
from bench.floors import Figures, judge
from bench.growth import main, row_of
from bench.random_gguf import GAIN, SHAPES, Shape, draw_blocks, more_bits, tensors_of, write_random
from qwick.engine.engine import Engine
from qwick.engine.request import Event, Request, Sampling, Tokens
from qwick.formats.checkpoint import TokenizerData
from qwick.formats.open import open_checkpoint
from qwick.model.load import load_model
from qwick.quant.decode import decode
from qwick.quant.types import StoredType

SMALL = Shape(256, 512, 8, 2, 1, tied=False, vocab=320)
SMALL_EXPERTS = Shape(256, 256, 8, 2, 1, tied=False, vocab=320, experts=6, taken=2)


@pytest.mark.parametrize("stored", [StoredType.Q4_K, StoredType.Q6_K])
def test_blocks_have_the_gain_that_was_asked_for(stored: StoredType) -> None:
    from bench.random_gguf import _RMS

    draw = np.random.default_rng(0)
    scale = GAIN / math.sqrt(2048) / _RMS[stored]
    rows = draw_blocks(stored, 64 * 8, scale, draw).reshape(64, -1)
    values = decode(stored, rows)
    assert values.shape == (64, 2048)
    # 131,072 values: the mean is off by their deviation over 362; the scale by float16's rounding.
    assert abs(values.mean()) < 5 * values.std() / 362 + 0.05 * values.std()
    assert np.linalg.norm(values, axis=1).mean() == pytest.approx(GAIN, rel=0.05)


@pytest.mark.parametrize(
    ("size", "parameters", "gigabytes"),
    [("1.5b", 1.54e9, 0.986), ("3b", 3.09e9, 1.93), ("7b", 7.62e9, 4.68)],
)
def test_shapes_are_those_of_the_family(size: str, parameters: float, gigabytes: float) -> None:
    """Model cards give 1.54, 3.09 and 7.61 B parameters; q4_k_m files are so large."""
    specs = list(tensors_of(SHAPES[size]))
    assert sum(math.prod(s.shape) for s in specs) == pytest.approx(parameters, rel=0.005)
    total = sum(math.prod(s.shape[:-1]) * s.type.row_bytes(s.shape[-1]) for s in specs)
    assert total / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize("layers", [28, 36])
def test_half_of_the_layers_have_more_bits(layers: int) -> None:
    chosen = [layer for layer in range(layers) if more_bits(layer, layers)]
    assert len(chosen) == layers // 2
    assert {0, layers - 1} <= set(chosen)


def test_experts_have_the_proportions_of_the_family() -> None:
    """Qwen3-30B-A3B has 30.5 B parameters, 3.3 B of them active, in 48 layers."""
    shape = SHAPES["30b-a3b-quarter"]
    specs = [spec for spec in tensors_of(shape) if spec.name.startswith("blk.")]
    outside = 2 * shape.vocab * shape.hidden
    inside = 4 * sum(math.prod(spec.shape) for spec in specs)
    assert inside + outside == pytest.approx(30.5e9, rel=0.005)
    idle = 4 * sum(math.prod(s.shape) for s in specs if len(s.shape) == 3) * (1 - 8 / 128)
    assert inside + outside - idle == pytest.approx(3.35e9, rel=0.01)


@pytest.mark.parametrize("small", [SMALL, SMALL_EXPERTS], ids=["dense", "experts"])
def test_a_random_model_runs(tmp_path: Path, small: Shape) -> None:
    path = tmp_path / "random.gguf"
    first = "model.layers.{}.mlp." + "experts.0." * bool(small.experts) + "down_proj.weight"
    tokenizer = TokenizerData(tokens=["a", "b", "ab"], token_types=[1, 1, 1], merges=["a b"])
    write_random(path, "random", small, tokenizer)
    with open_checkpoint(path) as checkpoint:
        types = {name: tensor.type for name, tensor in checkpoint.tensors.items()}
        assert types["lm_head.weight"] is StoredType.Q6_K
        assert types["model.embed_tokens.weight"] is StoredType.Q4_K
        assert types[first.format(0)] is StoredType.Q6_K
        assert types[first.format(1)] is StoredType.Q4_K
        assert len(list(checkpoint.tokenizer.tokens or ())) == small.vocab
        model = load_model(checkpoint, context=64)
    engine = Engine(model, n_vocab=small.vocab)
    found: list[int] = []

    def heard(event: Event) -> None:
        if isinstance(event, Tokens):
            found.extend(event.ids)

    engine.submit(Request([1, 2, 3], sampling=Sampling(0.0, max_tokens=4)), heard)
    while engine.has_work:
        engine.step()
    assert len(found) == 4  # logits that are not finite would have failed the request


def test_a_limit_holds_or_is_said_not_to() -> None:
    program = "x = bytearray(300 << 20); print(len(x))"
    with limited(100 << 20) as limit:
        done = subprocess.run(
            [sys.executable, "-c", program], preexec_fn=limit.enter, capture_output=True
        )
        if limit.enter is None:
            assert limit.words.startswith("not limited")
            assert done.returncode == 0
        else:
            assert limit.words == "in a control group of 0.0976562 GiB"
            assert done.returncode == -9, "the kernel ends what needs more"
            assert (limit.peak() or 0) <= 100 << 20
    if limit.group is not None:
        assert not limit.group.exists()


@pytest.mark.parametrize(("share", "code"), [(1.0, 0), (0.64, 1)])
def test_experts_are_judged_by_the_dense_models(
    share: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The committed figures pass, at 1.17 times the dense models'; less than 0.75 does not."""
    rows = json.loads((Path(bench.__file__).parents[1] / "docs/speed/growth.json").read_text())
    assert rows[-1]["size"] == "30b-a3b-quarter"
    rows[-1]["fractions"]["tg64"] *= share
    (tmp_path / "growth.json").write_text(json.dumps(rows))
    # No size is measured anew: what is kept is judged.
    assert main(["--out", str(tmp_path), "--sizes", ""]) == code
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "dense models" in line]
    assert line.startswith("30b-a3b-quarter: fraction of the limit, one stream, to the dense")
    assert float(line.split(": ")[2].split()[0]) == pytest.approx(1.1706 * share, abs=1e-3)
    assert line.endswith(f"(passed: {code == 0})")
    alone = judge(Figures({}, growth=(rows[-1],)))
    assert [v.passed for v in alone if "dense models" in v.name] == [None]


def test_what_did_not_fit_is_said() -> None:
    from bench.confine import Limit

    rows = {"qwick": {"memory512": {"test": "memory512", "failed": "ended with -9 (SIGKILL)"}}}
    confined = Limit(lambda: None, "in a group")
    told = row_of("7b", Figures(rows), 5, {}, confined)
    assert told["fits"] is False
    assert told["failures"] == {"memory512": "ended with -9 (SIGKILL)"}
    fine = {"qwick": {"memory512": {"test": "memory512", "peak": 7 << 30, "expected": 1}}}
    assert row_of("7b", Figures(fine), 5, {}, confined)["fits"] is True
    assert row_of("7b", Figures(fine), 5, {}, Limit(None, "not limited"))["fits"] is False
