"""How fast a checkpoint will be on a device, told from the roofline.

A decoded token reads every weight that it passes through, and the keys and values of what came
before; a prompt's tokens multiply with them together. The time of either is the larger of what the
memory and what the arithmetic allow (Williams, Waterman and Patterson, 2009), divided by how much
of these limits a runtime reaches. Knows nothing about files or licences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qwick.choose.devices import Device
from qwick.hub import Shape
from qwick.values import check_kind, whole

__all__ = ["REACHED", "Reached", "Speed", "predict"]

MOST_TOKENS = 1 << 40
WIDE = 12  # bits a weight, in the mean, above which products run at the rate of 16


@dataclass(frozen=True, slots=True)
class Reached:
    """How much of a machine's limits a runtime reaches."""

    reading: float  # share of the bandwidth, decoding one stream
    multiplying: float  # share of the products' rate, on prompts
    experts: float  # the same on prompts through experts
    layer: float  # seconds a layer that no limit explains: calls, waiting for threads
    spread: float  # the true speed lies within this share above and below


# qwick: `checks.predictions` on two cores, and bench.growth's figures (docs/speed/growth.json).
# The others on processors: their ratios to qwick in docs/speed/report.md, with twice the spread. On
# graphics cards, and on machines that are not this one: not measured here, hence the spread.
REACHED: Mapping[str, Reached] = MappingProxyType(
    {
        "qwick": Reached(0.97, 0.95, 0.58, 80e-6, 0.2),
        "llama.cpp": Reached(0.60, 0.20, 0.15, 80e-6, 0.4),
        "ollama": Reached(0.58, 0.20, 0.15, 80e-6, 0.4),
        "transformers": Reached(0.37, 1.0, 0.30, 200e-6, 0.5),
        "vllm": Reached(0.65, 0.80, 0.60, 20e-6, 0.4),
        "llama.cpp on a card": Reached(0.60, 0.50, 0.40, 20e-6, 0.4),
    }
)
TALKING = 3  # times a layer's own cost where cards exchange its results twice: an estimate
KEYS = 0.4  # share of the bandwidth at which one row reads keys and values: it computes, too
ATTENDING = 0.35  # share of the products' rate that attention over a prompt reaches
OTHER_SPREAD = 0.3  # at least, for a machine whose figures are typical ones
BUSY_SPREAD = 0.5  # at least, where other programs computed while it was measured


@dataclass(frozen=True, slots=True)
class Speed:
    """Times of one request alone on the device; each with the range that it should lie in."""

    decode: float  # tokens per second, after a prompt of `prompt` tokens
    prefill: float  # tokens per second
    first: float  # seconds to the first token
    prompt: int  # tokens
    spread: float

    @property
    def decode_range(self) -> tuple[float, float]:
        """Tokens per second: from, to."""
        return self.decode * (1 - self.spread), self.decode * (1 + self.spread)

    @property
    def first_range(self) -> tuple[float, float]:
        """Seconds to the first token: from, to."""
        return self.first / (1 + self.spread), self.first / (1 - self.spread)


def predict(
    shape: Shape,
    device: Device,
    *,
    weights: int,
    kv_per_token: float,
    prompt: int,
    runtime: str = "qwick",
) -> Speed:
    """Return the speed of one request with a prompt of so many tokens.

    weights: bytes held of them (`sizes.held_weights`); of experts only those taken are read, and of
    encoders none. kv_per_token: bytes. runtime: a key of REACHED.
    """
    check_kind("shape", shape, Shape, "a Shape")
    check_kind("device", device, Device, "a Device")
    prompt = whole("prompt", prompt, 1, MOST_TOKENS)
    reached = REACHED[runtime]
    used = active_bytes(shape, weights)
    multiplied = shape.active - shape.embedding + (shape.embedding if shape.head == 0 else 0)
    attended = 4 * shape.kv_layers * shape.q_dim  # operations per pair of tokens
    rate = device.wide if 8 * weights > WIDE * shape.total else device.products
    reading = used / (device.bandwidth * reached.reading)
    reading += kv_per_token * prompt / (device.bandwidth * KEYS)
    computing = (2 * multiplied + attended * prompt) / (rate * reached.multiplying)
    calls = reached.layer * shape.layers * (1 if device.cards == 1 else TALKING)
    token = max(reading, computing) + calls
    body = multiplied - (shape.head or shape.embedding)  # the head sees one row of a prompt
    share = reached.experts if shape.experts else reached.multiplying
    filling = 2 * body * prompt / (rate * share)
    filling += attended * prompt * prompt / 2 / (device.products * ATTENDING)
    filling = max(filling, weights / device.bandwidth) + token
    spread = reached.spread if device.measured else max(reached.spread, OTHER_SPREAD)
    spread = max(spread, BUSY_SPREAD) if device.busy else spread
    return Speed(1 / token, prompt / filling, filling, prompt, spread)


def active_bytes(shape: Shape, weights: int) -> int:
    """Return the bytes of weights that one token reads, if all matrices have the same bits."""
    idle = shape.routed - shape.routed * shape.taken // shape.experts if shape.experts else 0
    encoders = shape.vision + shape.audio
    return int(weights * (1 - (idle + encoders) / shape.total))
