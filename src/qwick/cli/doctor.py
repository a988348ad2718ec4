"""`qwick doctor`: what this machine has, what qwick uses of it, and what is wrong."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.show import json_option, print_json, size_text
from qwick.errors import NativeBuildError, QwickError

if TYPE_CHECKING:
    from qwick.machine.cpu import Cpu

__all__ = ["doctor"]

LIBRARIES = (
    "numpy",
    "tokenizers",
    "jinja2",
    "huggingface-hub",
    "httpx",
    "click",
    "rich",
    "prompt-toolkit",
)


@click.command(short_help="Show what this machine has and what is wrong.")
@json_option
def doctor(as_json: bool) -> None:
    """Show CPU, kernels, memory, store and versions, and what is wrong with them."""
    report = examine()
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report["kernels"]["problem"] is not None:
        raise click.exceptions.Exit(NativeBuildError.exit_code)
    if report["problems"]:
        raise click.exceptions.Exit(1)


def examine() -> dict[str, Any]:
    """Return everything that doctor shows, as plain values."""
    from dataclasses import asdict

    from qwick import __version__
    from qwick.machine import cpu
    from qwick.machine.cgroup import read_cgroup
    from qwick.machine.gpu import read_gpus

    problems: list[str] = []
    limits = read_cgroup()
    processor = cpu.read_cpu(limits=limits)
    settings_in_force = _settings(problems)
    return {
        "qwick": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": asdict(processor),
        "memory": asdict(cpu.read_memory(limits=limits)),
        "cgroup": asdict(limits),
        "kernels": _kernels(problems),
        "threads": _threads(processor, problems),
        "gpus": [asdict(one) for one in read_gpus()],
        "measured": _measured(),
        "store": _store(problems),
        "settings": settings_in_force,
        "versions": _versions(problems),
        "problems": problems,
    }


def _settings(problems: list[str]) -> dict[str, str]:
    """Return the environment variables that are set; a bad value is a problem."""
    from qwick import settings

    found = {}
    for setting in settings.ALL:
        try:
            value = setting.get()
        except QwickError as error:
            problems.append(str(error))
            continue
        if setting.is_set:
            found[setting.name] = str(value)
    return found


def _kernels(problems: list[str]) -> dict[str, Any]:
    """Return what the kernels say of themselves; `problem` is why none can be used."""
    from qwick import settings
    from qwick.machine.cpu import read_kernels

    kernels = read_kernels()
    problem = kernels.problem
    if problem in problems:  # a bad setting, which says nothing against the kernels
        problem = None
    elif problem is not None:
        forced = settings.ISA.is_set and kernels.sets
        cause = f"{settings.ISA.name} cannot be obeyed" if forced else "the kernels cannot be used"
        problems.append(f"{cause}: {problem}")
    return {
        "used": kernels.used,
        "problem": problem,
        "sets": [
            {
                "name": one.name,
                "usable": one.usable,
                "missing": one.missing,
                "emulation": not one.selectable,
            }
            for one in kernels.sets
        ],
    }


def _threads(processor: Cpu, problems: list[str]) -> int | None:
    """Return how many threads `qwick run` would use; None where a bad setting forbids any."""
    from qwick import settings
    from qwick.machine.cpu import threads_for

    try:
        count = threads_for(None)
    except QwickError:  # listed with the settings
        return None
    if settings.THREADS.get() is not None and count > processor.usable:
        problems.append(
            f"{settings.THREADS.name} asks for {count} threads on {processor.usable} usable cores: "
            f"they will wait for one another; unset it, or set it to at most {processor.usable}"
        )
    return count


def _measured() -> dict[str, Any] | None:
    """Return the rates that were measured here before; None: not yet, or a bad setting forbids."""
    from qwick.machine.probe import cached

    try:
        machine = cached()
    except QwickError:  # listed with the settings
        return None
    if machine is None:
        return None
    return {
        "bandwidth": machine.bandwidth,
        "peak": machine.peak,
        "isa": machine.isa,
        "threads": machine.threads,
        "at": machine.measured,
        "busy": machine.busy,
    }


def _store(problems: list[str]) -> dict[str, Any] | None:
    """Return where the store is, what it holds, and whether more would fit; None: no place."""
    from qwick import hub

    try:
        store = hub.Store()
    except QwickError:  # listed with the settings
        return None
    existing = store.home
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):  # permissions alone do not tell
            writable = True
    except OSError as error:
        writable = False
        problems.append(f"the store {store.home} cannot be written: {error.strerror}")
    return {
        "path": str(store.home),
        "writable": writable,
        "free": shutil.disk_usage(existing).free,
        "models": {s.entry.name: s.state for s in store.list()},
    }


def _versions(problems: list[str]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            problems.append(f"the package {name} is missing")
    return found


def _print(report: dict[str, Any]) -> None:
    """Print the report for people."""
    processor, memory, kernels = report["cpu"], report["memory"], report["kernels"]
    quota = processor["quota"]
    limit = f"{quota:g} CPUs" if quota is not None else "none"
    _line("qwick", f"{report['qwick']} · Python {report['python']} · {report['system']}")
    _line("cpu", f"{processor['model']} ({processor['architecture']})")
    _line(
        "cores",
        f"{processor['usable']} usable: {processor['logical']} logical, {processor['affinity']} by "
        f"affinity, {processor['physical']} physical; cgroup limit {limit}",
    )
    by = {"cgroup": " (cgroup limit)", "ulimit": " (ulimit)"}.get(memory["limited_by"], "")
    _line(
        "memory", f"{size_text(memory['available'])} available of {size_text(memory['total'])}{by}"
    )
    in_use = kernels["used"] is not None and report["threads"] is not None
    used = f"{kernels['used']} in use, {report['threads']} threads" if in_use else "see PROBLEM"
    _line("kernels", used)
    width = max((len(s["name"]) for s in kernels["sets"]), default=0)
    for one in kernels["sets"]:
        _line("", f"{one['name'].ljust(width)}  {_verdict(one)}")
    for gpu in report["gpus"] or [None]:
        _line("gpu", _gpu_text(gpu))
    _line("measured", _measured_text(report["measured"]))
    store = report["store"]
    if store is None:
        _line("store", "see PROBLEM")
    else:
        _line("store", f"{store['path']} · {size_text(store['free'])} free")
        for name, state in store["models"].items():
            _line("", f"{name}  {state}")
    _line("versions", " · ".join(f"{name} {text}" for name, text in report["versions"].items()))
    for name, text in report["settings"].items():
        _line("setting", f"{name}={text}")
    for problem in report["problems"]:
        _line("PROBLEM", problem)
    if not report["problems"]:
        _line("", "no problems found")


def _gpu_text(gpu: dict[str, Any] | None) -> str:
    if gpu is None:
        return "none found (of NVIDIA or AMD)"
    size = "memory not known" if gpu["memory"] is None else size_text(gpu["memory"])
    return f"{gpu['name']} · {size}"


def _measured_text(rates: dict[str, Any] | None) -> str:
    if rates is None:
        return "not yet: `qwick recommend` measures it"
    day = time.strftime("%Y-%m-%d", time.localtime(rates["at"]))
    busy = ", while others computed" if rates["busy"] else ""
    return (
        f"reads {rates['bandwidth'] / 1e9:.1f} GB/s, multiplies {rates['peak'] / 1e9:.0f} GOP/s "
        f"({rates['isa']}, {rates['threads']} threads, {day}{busy})"
    )


def _verdict(one: dict[str, Any]) -> str:
    """Return whether an instruction set can be used, and why not."""
    if not one["usable"]:
        return f"no: this machine lacks {one['missing']}"
    return "yes, when forced (an emulation for tests)" if one["emulation"] else "yes"


def _line(label: str, text: str) -> None:
    click.echo(f"{label.ljust(9)} {text}")
