"""Machines to choose for: this one, as it was measured, and well-known kinds of others.

Figures of the others are typical of what one can buy, from the makers' data sheets: `memory` is
what the system and other programs leave, `bandwidth` about 80 % of the printed one (what long
reads reach), `products` what the matrix products of a prompt reach of the printed arithmetic: a
third of a processor's, half of a card's. Knows nothing about models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from qwick.errors import ParameterError
from qwick.machine.cpu import Memory
from qwick.machine.probe import Machine
from qwick.values import check_kind, whole

__all__ = ["DEVICES", "Device", "card_named", "device_named", "this_device"]

GB = 10**9
MOST_CARDS = 1024
SERVING_SHARE = 0.92  # of a graphics card's memory, the rest is its driver's and the runtime's


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of machine, or this one."""

    name: str
    title: str
    memory: int  # bytes that a model may take
    bandwidth: float  # bytes read per second
    products: float  # operations per second of a prompt's products, weights in 4 bits
    wide: float  # the same with weights in 16 bits
    kind: str  # cpu or gpu: which runtimes there are
    measured: bool = False  # of this machine; else typical figures
    busy: bool = False  # measured while other programs computed: it may do much more
    cards: int = 1  # that share the work
    half: bool = False  # its 16-bit floats are fp16: neither bf16 nor FP8 weights as they are


def _cpu(name: str, title: str, memory: float, bandwidth: float, products: float) -> Device:
    """memory in GB, bandwidth in GB/s, products in GOP/s, a third of them in bf16."""
    memory, rate = int(memory * GB), products * GB
    return Device(name, title, memory, bandwidth * GB, rate, rate / 3, "cpu")


def _gpu(name: str, title: str, memory: float, bandwidth: float, peak: float) -> Device:
    """memory in GB as printed on the card, bandwidth in GB/s and peak in TFLOP/s as printed."""
    usable, rate = int(memory * GB * SERVING_SHARE), 0.5 * peak * 1000 * GB
    return Device(name, title, usable, 0.8 * bandwidth * GB, rate, rate, "gpu")


_DEVICES = (
    _cpu("phone", "a phone with 8 GB, half of it free", 4, 32, 200),
    _cpu("pi5", "a Raspberry Pi 5 with 8 GB", 6.5, 10, 100),
    _cpu("laptop", "a laptop with 16 GB of DDR5", 12, 50, 600),
    _cpu("desktop", "a desktop with 32 GB of DDR5", 28, 60, 1200),
    _cpu("server", "a server with 256 GB in eight channels of DDR5", 240, 200, 6000),
    _gpu("rtx3060", "an RTX 3060 with 12 GB", 12, 360, 51),
    _gpu("rtx3090", "an RTX 3090 with 24 GB", 24, 936, 71),
    _gpu("rtx4090", "an RTX 4090 with 24 GB", 24, 1008, 165),
    _gpu("rtx5090", "an RTX 5090 with 32 GB", 32, 1792, 209),
    replace(_gpu("t4", "a T4 with 16 GB", 16, 300, 65), half=True),
    _gpu("l4", "an L4 with 24 GB", 24, 300, 121),
    _gpu("l40s", "an L40S with 48 GB", 48, 864, 362),
    _gpu("a100", "an A100 with 80 GB", 80, 2039, 312),
    _gpu("h100", "an H100 with 80 GB", 80, 3350, 989),
    _gpu("h200", "an H200 with 141 GB", 141, 4800, 989),
)
DEVICES: Mapping[str, Device] = MappingProxyType({one.name: one for one in _DEVICES})
_SEVERAL = re.compile(r"([a-z0-9]+?)x([0-9]{1,9})")


def device_named(name: str) -> Device:
    """Return the device of that name; a graphics card's may end with how many: h100x8.

    Raises ParameterError for one that is not known, or for several of what is no graphics card.
    """
    check_kind("device", name, str, "the name of a device")
    wanted = name.strip().lower()
    if wanted in DEVICES:
        return DEVICES[wanted]
    several = _SEVERAL.fullmatch(wanted)
    one = DEVICES.get(several[1]) if several else None
    if several is None or one is None or one.kind != "gpu":
        raise ParameterError(
            f"device is {name!r:.80}; allowed: this, {', '.join(DEVICES)}, or several of a "
            "graphics card, as h100x8",
            hint="name the nearest, and its memory by --memory",
        )
    count = whole("the number of cards", int(several[2]), 1, MOST_CARDS)
    return replace(
        one,
        name=wanted,
        title=f"{count} times {one.title}",
        memory=one.memory * count,
        bandwidth=one.bandwidth * count,
        products=one.products * count,
        wide=one.wide * count,
        cards=count,
    )


def card_named(name: str, memory: int) -> Device | None:
    """Return the device that a graphics card of this machine is, by its maker's name for it.

    memory: bytes, as its driver tells; None where no device has that name and about that memory.
    """
    check_kind("name", name, str, "the name of a graphics card")
    memory = whole("memory", memory, 1, 1 << 50)
    for one in _DEVICES:
        spelled = re.sub(r"(?<=[a-z])(?=[0-9])", "[ -]?", one.name)
        alike = re.search(rf"\b{spelled}\b", name.lower())
        if one.kind == "gpu" and alike and abs(one.memory / SERVING_SHARE / memory - 1) < 0.12:
            return one
    return None


def this_device(machine: Machine, memory: Memory) -> Device:
    """Return this machine's processor as a device, with the memory that is available now."""
    check_kind("machine", machine, Machine, "a Machine, as machine.probe returns one")
    check_kind("memory", memory, Memory, "a Memory, as machine.cpu.read_memory returns one")
    return Device(
        "this",
        f"this machine: {machine.cpu}, {machine.threads} threads, {machine.isa}",
        memory.available,
        machine.bandwidth,
        machine.products,
        machine.products_wide,
        "cpu",
        measured=True,
        busy=machine.busy,
    )
