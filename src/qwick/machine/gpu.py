"""The graphics processors of this machine by name and memory, as the system lists them.

NVIDIA's as nvidia-smi tells, or where it does not, as the driver's /proc/driver/nvidia lists them;
AMD's as the kernel does (Documentation/gpu/amdgpu, mem_info_vram_total). Others are left out: Linux
does not say what memory they have, and most have none of their own. Loads no library of theirs, and
knows nothing of what they can compute.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qwick.values import a_path

__all__ = ["Gpu", "read_gpus"]

SECONDS = 5.0  # for nvidia-smi: it wakes a sleeping driver, which takes a second or two
_MOST_TEXT = 1 << 16  # bytes of an answer or a file that are looked at
_MOST_NAME = 100  # characters
_MOST_MEMORY = 1 << 50  # bytes; what says more is damaged
_AMD = "0x1002"  # its number as a vendor on PCI
_QUERY = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics processor. Of one without known memory no more than its name can be said."""

    name: str  # printable, at most 100 characters
    memory: int | None  # bytes of its own; None: not told, or shared with the processor
    kind: str  # who made it: "nvidia" or "amd"


def read_gpus(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """Return the graphics processors: NVIDIA's, then AMD's; files are read below `root`.

    Whatever nvidia-smi (the one on PATH) or a file says, there comes an answer, within about
    SECONDS. Raises nothing but ParameterError, for what is no path.
    """
    root = a_path("root", root, "a folder")
    return (*(_asked() or _listed(root)), *_amd(root))


def _asked() -> tuple[Gpu, ...]:
    """Return what nvidia-smi tells; none where it is missing, fails or hangs."""
    tool = shutil.which("nvidia-smi")
    text = None if tool is None else _answer((tool, *_QUERY))
    found = []
    for line in (text or "").splitlines():
        name, comma, size = line.rpartition(",")
        name, size = _printable(name), size.strip()
        told = _number(size)
        memory = None if told is None else _memory(told << 20)  # it counts in MiB
        # "[N/A]": memory shared with the processor; any other word: no line of this table.
        if comma and name and (memory is not None or re.fullmatch(r"\[[^]]*\]", size)):
            found.append(Gpu(name, memory, "nvidia"))
    return tuple(found)


def _answer(command: tuple[str, ...]) -> str | None:
    """Return what a program writes, or None: it fails, takes too long or writes without end."""
    import select
    import subprocess

    end = time.monotonic() + SECONDS
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # its own children end with it
        )
    except (OSError, ValueError):
        return None
    assert child.stdout is not None
    data = b""
    with child.stdout as pipe:
        ready = select.poll()  # select(2) itself knows no descriptors from 1024
        ready.register(pipe, select.POLLIN)
        while (left := end - time.monotonic()) > 0 and len(data) <= _MOST_TEXT:
            if not ready.poll(left * 1000):
                break
            chunk = os.read(pipe.fileno(), _MOST_TEXT)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return _text(data) if child.wait(max(0.0, left)) == 0 else None
                break
            data += chunk
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    # One that waits for a driver that does not answer cannot even be killed: it is left behind.
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(1.0)
    return None


def _listed(root: Path) -> Iterator[Gpu]:
    """Yield the processors that NVIDIA's driver lists, which does not tell their memory."""
    for folder in _children(root / "proc/driver/nvidia/gpus"):
        for line in _read(folder / "information").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model" and (name := _printable(value)):
                yield Gpu(name, None, "nvidia")
                break


def _amd(root: Path) -> Iterator[Gpu]:
    """Yield the processors of AMD's that have memory of their own."""
    for card in _children(root / "sys/class/drm"):
        if not re.fullmatch(r"card[0-9]+", card.name):  # card0-DP-1 is a connector
            continue
        device = card / "device"
        if _read(device / "vendor").strip() != _AMD:
            continue
        memory = _memory(_number(_read(device / "mem_info_vram_total").strip()))
        if memory is not None:
            name = _printable(_read(device / "product_name"))  # boards for servers have one
            number = _printable(_read(device / "device"))
            yield Gpu(name or f"AMD GPU {number}".strip(), memory, "amd")


def _children(folder: Path) -> list[Path]:
    """Return what is in a folder: card2 before card10."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [folder / name for name in sorted(names, key=lambda name: (len(name), name))]


def _read(path: Path) -> str:
    """Return the beginning of a file; "" where there is none."""
    try:
        with path.open("rb") as file:
            return _text(file.read(_MOST_TEXT))
    except OSError:
        return ""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _printable(text: str) -> str:
    return "".join(c for c in text.strip() if c.isprintable())[:_MOST_NAME].strip()


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _memory(count: int | None) -> int | None:
    return count if count is not None and 0 < count <= _MOST_MEMORY else None
