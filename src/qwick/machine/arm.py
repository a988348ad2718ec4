"""The cores of an ARM machine by name.

On ARM /proc/cpuinfo has no "model name": each processor gives its implementer and its part as
numbers (the register MIDR_EL1). Names of what Linux runs on: the kernel's
arch/arm64/include/asm/cputype.h. Knows nothing of what the cores can do; that is the native
layer's to tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

__all__ = ["cores_named"]

_IMPLEMENTERS = {
    0x41: "Arm",
    0x42: "Broadcom",
    0x43: "Cavium",
    0x46: "Fujitsu",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x51: "Qualcomm",
    0x61: "Apple",
    0x6D: "Microsoft",
    0xC0: "Ampere",
}
_ARM = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse N1",
    0xD0D: "Cortex-A77",
    0xD0E: "Cortex-A76AE",
    0xD40: "Neoverse V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse N2",
    0xD4A: "Neoverse E1",
    0xD4B: "Cortex-A78C",
    0xD4C: "Cortex-X1C",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD4F: "Neoverse V2",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
    0xD83: "Neoverse V3AE",
    0xD84: "Neoverse V3",
    0xD85: "Cortex-X925",
    0xD87: "Cortex-A725",
    0xD8E: "Neoverse N3",
}
_OTHERS = {
    (0x43, 0x0A1): "ThunderX",
    (0x43, 0x0AF): "ThunderX2",
    (0x46, 0x001): "A64FX",
    (0x48, 0xD01): "Kunpeng 920",
    (0x4E, 0x004): "Carmel",
    (0x51, 0x001): "Oryon",
    (0x61, 0x022): "Apple M1 (efficiency)",
    (0x61, 0x023): "Apple M1 (performance)",
    (0x61, 0x024): "Apple M1 Pro (efficiency)",
    (0x61, 0x025): "Apple M1 Pro (performance)",
    (0x61, 0x028): "Apple M1 Max (efficiency)",
    (0x61, 0x029): "Apple M1 Max (performance)",
    (0x61, 0x032): "Apple M2 (efficiency)",
    (0x61, 0x033): "Apple M2 (performance)",
    (0x6D, 0xD49): "Azure Cobalt 100",
    (0xC0, 0xAC3): "AmpereOne",
    (0xC0, 0xAC4): "AmpereOne A",
}


def cores_named(lines: Sequence[str]) -> str:
    """Return the cores that the lines of /proc/cpuinfo list, "" where there are none of ARM's.

    One kind: its name. Several: how many of each, in the order of their processors. A part without
    a name here is shown by its numbers.
    """
    kinds: Counter[str] = Counter()
    implementer = None
    for line in lines:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "CPU implementer":
            implementer = _number(value)
        elif key == "CPU part" and implementer is not None and (part := _number(value)) is not None:
            kinds[_name(implementer, part)] += 1
    if len(kinds) < 2:
        return "".join(kinds)
    return " + ".join(f"{count} x {name}" for name, count in kinds.items())


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _name(implementer: int, part: int) -> str:
    known = _ARM.get(part) if implementer == 0x41 else _OTHERS.get((implementer, part))
    maker = _IMPLEMENTERS.get(implementer, f"implementer {implementer:#x}")
    return known or f"{maker}, part {part:#05x}"
