"""What cannot run on this machine is refused before it is fetched, with the nearest that can."""

from __future__ import annotations

from typing import Any

from qwick.errors import UnsupportedError

__all__ = ["check_fits_here"]


def check_fits_here(model: str | None, loading: dict[str, Any]) -> None:
    """Raise ResourceError where a checkpoint of the catalog, not stored whole, cannot run here.

    UnsupportedError where it is none that qwick computes. Says nothing of files, folders and what
    the store has whole. loading: keywords of `Qwen.load`.
    """
    from qwick import hub
    from qwick.hub.names import parse, preferred

    reference = None if model is None or hub.looks_like_path(model) else parse(model)
    if model is None or reference is None or reference.hub == "ollama" or _stored(model):
        return
    catalog = hub.read_catalog()
    found = catalog.find(reference.name)
    if found is None or hub.existing_path(model) is not None:
        return
    if not found.runs_here:
        other = f"ollama run {found.ollama}" if found.ollama else "another runtime"
        raise UnsupportedError(
            f"{found.id} is none of the checkpoints that qwick computes ({found.generation}, input "
            f"{' and '.join(found.inputs)})",
            hint=f"{other} does; `qwick models search` shows under HERE what qwick computes",
        )
    pick = reference.pick
    form = preferred(found.formats) if pick is None else found.format(pick)
    if form is None:  # a format or file that only the hub knows of
        return
    from qwick.choose.fits import check_fits
    from qwick.machine.cpu import read_memory

    quantize, room = loading.get("quantize"), read_memory().available
    check_fits(
        found,
        form,
        room,
        catalog,
        context=loading.get("ctx"),
        quantize=quantize,
        stretched=loading.get("yarn") is not None,
    )


def _stored(model: str) -> bool:
    from qwick import hub
    from qwick.hub.store import WHOLE

    store = hub.Store()
    entry = store.find(model)
    return entry is not None and store.show(entry.name).state in WHOLE
