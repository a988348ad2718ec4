"""Graphics processors: files in a folder, and programs that speak as nvidia-smi does, or do not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from qwick.machine import gpu
from qwick.machine.gpu import Gpu, read_gpus

QUERY = "--query-gpu=name,memory.total --format=csv,noheader,nounits"


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before all others on PATH, with an nvidia-smi that fails: no driver answers it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    told(folder, "exit 9")
    return folder


def told(folder: Path, script: str) -> None:
    """Make a shell script the nvidia-smi of `folder`."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def running(session: str) -> list[str]:
    """Return the processes of a session that have not ended (proc(5): state, ..., session)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # gone meanwhile
            continue
        if owner == session and state != "Z":
            found.append(path.parent.name)
    return found


def write(root: Path, **files: str) -> None:
    """Write files below `root`; __ in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def nvidia(root: Path) -> None:
    """Write what NVIDIA's driver lists."""
    write(
        root,
        proc__driver__nvidia__gpus__a__information="Model: \t\t NVIDIA A10\nIRQ:   \t\t 40\n",
        proc__driver__nvidia__gpus__b__information="IRQ: 41\n",
    )


def amd(root: Path, card: str, **files: str) -> None:
    """Write a card of AMD's."""
    device = f"sys__class__drm__{card}__device__"
    given = {"vendor": "0x1002\n", "device": "0x744c\n", **files}
    write(root, **{device + name: text for name, text in given.items()})


def test_this_machine() -> None:
    assert all(one.name and one.kind in ("nvidia", "amd") for one in read_gpus())


def test_none(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_gpus(tmp_path) == ()
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert read_gpus(tmp_path / "none") == ()


def test_nvidia_as_its_tool_tells(tmp_path: Path, programs: Path) -> None:
    nvidia(tmp_path)  # which the tool is better than
    told(
        programs,
        f'[ "$*" = "{QUERY}" ] || exit 1\n'
        'printf "NVIDIA GeForce RTX 4090, 24564\\nA, B, 80\\nNVIDIA GB10, [N/A]\\n"',
    )
    assert read_gpus(tmp_path) == (
        Gpu("NVIDIA GeForce RTX 4090", 24564 << 20, "nvidia"),
        Gpu("A, B", 80 << 20, "nvidia"),
        Gpu("NVIDIA GB10", None, "nvidia"),
    )


@pytest.mark.parametrize(
    "script",
    [
        "exit 9",
        "echo 'NVIDIA A10, 24564'; exit 9",
        "echo No devices were found",
        "echo 'NVIDIA A10, 24564 MiB, x'",
        "echo 'A, -1'; echo 'B, 0'; echo ', 80'; echo 'C, 99999999999999999999999999'; echo ','",
        "echo 'A, 1e3'; echo 'B, ²'; echo 'C, 999999999999999999'",
        "head -c 3000 /dev/urandom | tr , . ",
        "yes 'NVIDIA A10, 24564'",
        "kill -9 $$",
    ],
)
def test_a_tool_that_tells_nothing_leaves_the_drivers_list(
    tmp_path: Path, programs: Path, script: str
) -> None:
    nvidia(tmp_path)
    told(programs, script)
    assert read_gpus(tmp_path) == (Gpu("NVIDIA A10", None, "nvidia"),)


@pytest.mark.parametrize("content", [b"", b"\x7fELF nothing", b"#!/no/such/shell\n"])
def test_a_tool_that_is_no_program(tmp_path: Path, programs: Path, content: bytes) -> None:
    nvidia(tmp_path)
    (programs / "nvidia-smi").write_bytes(content)
    assert read_gpus(tmp_path) == (Gpu("NVIDIA A10", None, "nvidia"),)


@pytest.mark.parametrize(
    "script",
    ["sleep 60", "echo 'NVIDIA A10, 24564'; sleep 60", "exec >&-; sleep 60", "sleep 60 & exit 0"],
)
def test_a_tool_that_hangs_is_ended(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(gpu, "SECONDS", 0.3)
    nvidia(tmp_path)
    told(programs, f'echo $$ > "{tmp_path}/pid"; {script}')
    start = time.monotonic()
    assert read_gpus(tmp_path) == (Gpu("NVIDIA A10", None, "nvidia"),)
    assert time.monotonic() - start < 5
    assert running((tmp_path / "pid").read_text().strip()) == []  # no child of its either


def test_a_name_is_made_printable(tmp_path: Path, programs: Path) -> None:
    told(programs, f"printf 'A\\033[31m\\0B\\377, 10\\n{'x' * 300}, 20\\n'")
    bad, long = read_gpus(tmp_path)
    assert bad == Gpu("A[31mB\ufffd", 10 << 20, "nvidia")
    assert long == Gpu("x" * 100, 20 << 20, "nvidia")


def test_amd_as_the_kernel_tells(tmp_path: Path) -> None:
    amd(tmp_path, "card10", mem_info_vram_total="1073741824\n")
    amd(tmp_path, "card2", mem_info_vram_total="68702699520\n", product_name="Instinct MI210\n")
    amd(tmp_path, "card3")
    amd(tmp_path, "card4", mem_info_vram_total="many\n")
    amd(tmp_path, "card5", mem_info_vram_total=f"{2**63}\n")
    amd(tmp_path, "card6", mem_info_vram_total="1073741824\n", vendor="0x8086\n")
    amd(tmp_path, "card2-DP-1", mem_info_vram_total="1073741824\n")
    (tmp_path / "sys/class/drm/card7").symlink_to(tmp_path / "card7")  # a loop
    (tmp_path / "card7").symlink_to(tmp_path / "sys/class/drm/card7")
    (tmp_path / "sys/class/drm/card8/device/vendor").mkdir(parents=True)
    assert read_gpus(tmp_path) == (
        Gpu("Instinct MI210", 68702699520, "amd"),
        Gpu("AMD GPU 0x744c", 1 << 30, "amd"),
    )


def test_both(tmp_path: Path) -> None:
    nvidia(tmp_path)
    amd(tmp_path, "card0", mem_info_vram_total="1073741824\n")
    assert [one.kind for one in read_gpus(tmp_path)] == ["nvidia", "amd"]
