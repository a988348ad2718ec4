"""ModelScope: the hub of Alibaba Cloud, which has the family's repositories under the same names.

Source: modelscope_hub (`_legacy_api.py`): a repository's files from
`GET /api/v1/models/<repository>/repo/files?Revision=...&Recursive=True`, a file from
`GET /api/v1/models/<repository>/repo?Revision=...&FilePath=...`. It states a SHA-256 for every file
and no commit of the whole, so the digests are what pins. No credentials are sent: what is open to
everybody can be fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from qwick import settings
from qwick.errors import UNSHOWN
from qwick.hub.entries import Entry, PinnedFile
from qwick.hub.listener import Listener
from qwick.hub.listings import files_of, text_of
from qwick.hub.sources import Listing, NotThereError, Sink, SourceError
from qwick.hub.transfer import Transfer

if TYPE_CHECKING:
    import httpx

__all__ = ["ModelScopeSource"]

MASTER = "master"  # the branch that is meant where none is named
SAID = rf"[^{UNSHOWN}]{{1,200}}"  # of what it says of itself


class ModelScopeSource:
    """ModelScope, at the address that MODELSCOPE_ENDPOINT names."""

    key = "ms"
    name = "ModelScope"

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint  # None: the setting's

    def fetch(
        self, entry: Entry, file: PinnedFile, sink: Sink, work: Path, listener: Listener
    ) -> None:
        """Stream the file; see Source.fetch."""
        place = entry.place(self.key)
        if place is None:
            raise SourceError("this checkpoint is not taken from there")
        asked = urlencode({"Revision": place.revision, "FilePath": file.path})
        url = f"{self._api(place.repository)}/repo?{asked}"
        with self._transfer(place.repository, place.revision, listener, file.path) as transfer:
            transfer.file(url, file.size, sink, f"fetching {entry.name}")

    def listing(self, repository: str, revision: str | None, listener: Listener) -> Listing:
        """Return the files of a repository; see Lister.listing."""
        wanted = revision or MASTER
        asked = urlencode({"Revision": wanted, "Recursive": "True"})
        with self._transfer(repository, wanted, listener) as transfer:
            answer = transfer.json(f"{self._api(repository)}/repo/files?{asked}")
        data = answer.get("Data") if isinstance(answer, dict) else None
        if not isinstance(data, dict):  # it refuses with 200, too
            said = text_of(answer.get("Message"), SAID) if isinstance(answer, dict) else None
            raise NotThereError(f"{repository} at {wanted}: {said or 'no list of files'}")
        return Listing(self.key, repository, wanted, None, files_of(data.get("Files"), _file))

    def _api(self, repository: str) -> str:
        address = (self.endpoint or settings.MODELSCOPE.get()).rstrip("/")
        return f"{address}/api/v1/models/{quote(repository)}"

    def _transfer(
        self, repository: str, revision: str, listener: Listener, file: str = ""
    ) -> Transfer:
        def explain(response: httpx.Response) -> SourceError:
            status = response.status_code
            if status in (401, 403):
                return SourceError(f"{repository} is not open to everybody ({status})")
            if status == 404:
                what = f"file {file} of {repository}" if file else f"repository {repository}"
                return NotThereError(f"there is no {what} at {revision} (404)")
            return SourceError(f"it answered {status} {response.reason_phrase}".rstrip())

        return Transfer(self.name, explain, listener)


def _file(item: dict[str, Any]) -> PinnedFile | None:
    """Return a file that the hub lists, if it states size and digest."""
    path, size = item.get("Path"), item.get("Size")
    sha256 = text_of(item.get("Sha256"), "[0-9a-f]{64}")
    if item.get("Type") == "tree" or not isinstance(path, str) or type(size) is not int:
        return None
    return PinnedFile(path, size, sha256) if sha256 else None
