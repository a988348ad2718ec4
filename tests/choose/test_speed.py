"""The roofline's predictions: what follows from it for any machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwick.choose.devices import DEVICES, Device, device_named
from qwick.choose.speed import REACHED, Speed, active_bytes, predict
from qwick.errors import ParameterError
from qwick.hub import Shape, read_catalog, shape_of

MODELS = read_catalog().models
GB = 10**9


def shape(name: str) -> Shape:
    found = shape_of(MODELS[name])
    assert found is not None
    return found


def told(name: str, device: Device, weights: float, prompt: int = 512, kv: float = 1e5) -> Speed:
    return predict(shape(name), device, weights=int(weights), kv_per_token=kv, prompt=prompt)


def test_decoding_is_bound_by_the_memory() -> None:
    laptop = DEVICES["laptop"]
    plain, twice = told("qwen3-8b", laptop, 5 * GB), told("qwen3-8b", laptop, 10 * GB)
    assert 1.9 < plain.decode / twice.decode < 2.05
    assert plain.decode < laptop.bandwidth / (5 * GB)  # the limit
    quicker = told("qwen3-8b", replace(laptop, bandwidth=2 * laptop.bandwidth), 5 * GB)
    assert 1.8 < quicker.decode / plain.decode < 2.05


def test_prompts_are_bound_by_the_arithmetic() -> None:
    laptop = DEVICES["laptop"]
    plain = told("qwen3-8b", laptop, 5 * GB)
    quicker = told("qwen3-8b", replace(laptop, products=2 * laptop.products), 5 * GB)
    assert 1.7 < plain.first / quicker.first < 2.01
    operations = 2 * (shape("qwen3-8b").active - 2 * shape("qwen3-8b").embedding) * 512
    assert plain.first > operations / laptop.products  # the limit


def test_longer_prompts_cost_more_than_their_length() -> None:
    laptop = DEVICES["laptop"]
    short, long = (told("qwen3-4b", laptop, 2.5 * GB, prompt) for prompt in (2048, 16_384))
    assert long.first > 8 * short.first
    assert long.decode < short.decode


def test_a_mixture_reads_what_it_takes() -> None:
    mixture = shape("qwen3-30b-a3b")
    share = active_bytes(mixture, 18 * GB) / (18 * GB)
    assert share == pytest.approx(mixture.active / mixture.total, abs=0.01)
    dense = told("qwen3-32b", DEVICES["desktop"], 20 * GB)
    assert told("qwen3-30b-a3b", DEVICES["desktop"], 18 * GB).decode > 5 * dense.decode


def test_ranges_hold_the_figure() -> None:
    speed = told("qwen3-8b", DEVICES["pi5"], 5 * GB)
    assert speed.decode_range[0] < speed.decode < speed.decode_range[1]
    assert speed.first_range[0] < speed.first < speed.first_range[1]
    measured = replace(DEVICES["pi5"], measured=True)
    assert told("qwen3-8b", measured, 5 * GB).spread < speed.spread


def test_every_way_has_its_figures() -> None:
    from qwick.choose.runtimes import ways_of

    devices = (*DEVICES.values(), device_named("h100x8"))
    ways = [way for m in MODELS.values() for device in devices for way in ways_of(m, device)]
    assert {way.reached for way in ways} == set(REACHED)


def test_several_cards() -> None:
    eight = device_named("H100x8")
    assert (eight.cards, eight.memory) == (8, 8 * DEVICES["h100"].memory)
    for name in ("laptopx2", "h100x0", "abacus", "x8", "h100x2000"):
        with pytest.raises(ParameterError, match="allowed"):
            device_named(name)
