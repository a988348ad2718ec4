"""One file of a checkpoint from the first source that delivers it, verified.

Knows nothing about where the finished file goes or who else wants it.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qwick.errors import DigestError, DownloadError
from qwick.hub.entries import Entry, PinnedFile
from qwick.hub.listener import Listener, Overall
from qwick.hub.partial import Partial, WrongBytesError, part_path
from qwick.hub.sources import Source, SourceError

__all__ = ["FULL", "UNWRITABLE", "arrived", "fetch", "none_delivers"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


def arrived(incoming: Path, file: PinnedFile) -> int:
    """Return how many bytes of a fetch that was broken off are kept in `incoming`."""
    try:
        return part_path(incoming, file).stat().st_size
    except OSError:
        return 0


def fetch(
    entry: Entry,
    file: PinnedFile,
    incoming: Path,
    sources: Sequence[Source],
    listener: Listener,
    before: int,
) -> Path:
    """Return the verified file in `incoming`, from the first source to deliver it.

    A source whose bytes are wrong is asked once more; what has arrived right is kept. `before` is
    the number of the checkpoint's bytes that are there beside this file.

    Raises DigestError, DownloadError, and OSError when the local disk fails.
    """
    overall = Overall(listener, before, entry.size)
    failures: list[SourceError] = []
    wrong: DigestError | None = None
    sources = [source for source in sources if entry.may_come_from(source.key, file)]
    for source in sources:
        for last in (False, True):
            work = Path(tempfile.mkdtemp(prefix="scratch-", dir=incoming))
            try:
                with Partial(incoming, file, entry.name, listener) as partial:
                    if partial.count < file.size:
                        source.fetch(entry, file, partial, work, overall)
                    partial.finish()
                return partial.path
            except WrongBytesError as error:
                wrong = _wrong_bytes(file, source, error)
                if not last:
                    listener.notice(f"{wrong.message}; fetching them once more")
                    continue
                failure = SourceError("wrong digest")
            except SourceError as error:
                failure = error
            except OSError as error:
                if error.errno in FULL | UNWRITABLE:
                    raise
                failure = SourceError(str(error))
            finally:
                shutil.rmtree(work, ignore_errors=True)
            failures.append(SourceError(f"{source.name}: {failure}", failure.hint))
            more = source is not sources[-1]
            listener.notice(str(failures[-1]) + ("; trying the next source" if more else ""))
            break
    if wrong is not None:
        raise wrong
    pip = any(source.key == "pip" for source in sources)
    raise none_delivers(entry.name, failures, arrived(incoming, file), pip=pip)


def none_delivers(
    name: str, failures: Sequence[SourceError], kept: int, *, pip: bool = False
) -> DownloadError:
    """Return the error for what no source delivers, with the way out that a source has named.

    pip: whether that was one of them.
    """
    hint = next((f"{failure.hint}; " for failure in failures if failure.hint), "")
    if not failures:  # none may be asked that can have it
        hint = "leave QWICK_SOURCE unset; "
    configured = " and pip's configuration" if pip else ""
    return DownloadError(
        f"no source could deliver {name}: {'; '.join(map(str, failures)) or 'none was asked'}",
        hint=(f"try again, the {kept:,} bytes that arrived are kept; " if kept else "")
        + hint
        + f"check the network{configured}, or name the path of a .gguf file you have",
    )


def _wrong_bytes(file: PinnedFile, source: Source, error: WrongBytesError) -> DigestError:
    whole = (error.start, error.end) == (0, file.size)
    what = file.path if whole else f"bytes {error.start:,} to {error.end:,} of {file.path}"
    kind = file.kind if whole else "SHA-256"  # of a part of wheels
    return DigestError(
        f"what {source.name} sent as {what} has the {kind} {error.found}, "
        f"the published file has {error.published}; it was deleted",
        hint="try again; if it stays so, the source has been changed: do not use it",
    )
