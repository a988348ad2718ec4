"""The Hugging Face hub: huggingface_hub gives endpoint, address and credentials.

Sources: huggingface_hub (`hf_api.py`, `utils/_http.py`, `file_download.py`): a repository's files
from `GET /api/models/<repository>/revision/<revision>?blobs=true`, a file from
`GET /<repository>/resolve/<revision>/<path>`, and what refusals mean from `X-Error-Code`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from qwick.hub.entries import Entry, PinnedFile
from qwick.hub.listener import Listener
from qwick.hub.listings import files_of, text_of
from qwick.hub.sources import Listing, NotThereError, Sink, SourceError
from qwick.hub.transfer import Transfer, without_login

if TYPE_CHECKING:
    import httpx

__all__ = ["HubSource"]

MAIN = "main"  # the branch that is meant where none is named


class HubSource:
    """The Hugging Face hub, or the mirror that HF_ENDPOINT names."""

    key = "hf"
    name = "the Hugging Face hub"

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint  # None: the one that huggingface_hub is configured with

    def fetch(
        self, entry: Entry, file: PinnedFile, sink: Sink, work: Path, listener: Listener
    ) -> None:
        """Stream the file; see Source.fetch."""
        from huggingface_hub import hf_hub_url

        place = entry.place(self.key)
        if place is None:
            raise SourceError("this checkpoint is not taken from there")
        url = hf_hub_url(
            place.repository, file.path, revision=place.revision, endpoint=self.endpoint
        )
        with self._transfer(place.repository, place.revision, listener, file.path) as transfer:
            transfer.file(url, file.size, sink, f"fetching {entry.name}")

    def listing(self, repository: str, revision: str | None, listener: Listener) -> Listing:
        """Return the files of a repository and its commit; see Lister.listing.

        A revision that is a whole commit must be the one that the hub says it lists.
        """
        wanted = revision or MAIN
        url = f"{self._address()}/api/models/{quote(repository)}/revision/{quote(wanted, safe='')}"
        with self._transfer(repository, wanted, listener) as transfer:
            answer = transfer.json(f"{url}?blobs=true")
        if not isinstance(answer, dict):
            raise SourceError(f"what it says of {repository} is no JSON object")
        commit = text_of(answer.get("sha"), r"[0-9a-f]{40}")
        if re.fullmatch("[0-9a-fA-F]{40}", wanted) and commit != wanted.lower():
            raise SourceError(f"it lists {repository} at {commit or 'no commit'}, not at {wanted}")
        if commit is None:
            listener.notice(
                f"{self.name} names no commit of {repository}: what {wanted} is may change; "
                "the digests that it lists now are what is fetched"
            )
        card = answer.get("cardData")
        license_ = card.get("license") if isinstance(card, dict) else None
        return Listing(
            self.key,
            repository,
            commit or wanted,
            text_of(license_, r"[\w.+ -]{1,60}"),
            files_of(answer.get("siblings"), _file),
        )

    def _address(self) -> str:
        from huggingface_hub import constants

        return (self.endpoint or constants.ENDPOINT).rstrip("/")

    def _transfer(
        self, repository: str, revision: str, listener: Listener, file: str = ""
    ) -> Transfer:
        token = _token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        page = f"{without_login(self._address())}/{repository}"

        def explain(response: httpx.Response) -> SourceError:
            return _refused(response, repository, revision, file, page, known=bool(token))

        return Transfer(self.name, explain, listener, headers)


def _token() -> str | None:
    """Return the token to send, if any; SourceError, without it, if no header can hold it."""
    from huggingface_hub import constants, get_token

    hint = "set HF_TOKEN anew, or unset it and log in with `hf auth login`"
    try:
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    except (OSError, UnicodeError) as error:  # the file of `hf auth login`
        raise SourceError(f"your token cannot be read ({type(error).__name__})", hint) from None
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise SourceError(
            "your token holds a character that no token has; allowed: printable ASCII, no blanks",
            hint,
        )
    return token


def _file(item: dict[str, Any]) -> PinnedFile | None:
    """Return a file that the hub lists, if it states size and digest."""
    lfs = item.get("lfs")
    sha256 = text_of(lfs.get("sha256"), "[0-9a-f]{64}") if isinstance(lfs, dict) else None
    size = lfs.get("size") if isinstance(lfs, dict) else item.get("size")
    blob = None if isinstance(lfs, dict) else text_of(item.get("blobId"), "[0-9a-f]{40}")
    path = item.get("rfilename")
    if not isinstance(path, str) or type(size) is not int or not (sha256 or blob):
        return None
    return PinnedFile(path, size, sha256, blob)


def _refused(
    response: httpx.Response, repository: str, revision: str, file: str, page: str, *, known: bool
) -> SourceError:
    """Return what the hub means by a status that is neither success nor passing."""
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    token = "your token's account must have done so" if known else "then set HF_TOKEN"
    accept = f"accept the licence on {page}, {token} (or log in with `hf auth login`)"
    if code == "GatedRepo":
        text = f"{repository} is open only to those who have accepted its licence ({status})"
        return SourceError(text, accept)
    if code == "RevisionNotFound":
        return NotThereError(f"{repository} has no revision {revision} ({status})")
    if code == "EntryNotFound":
        return NotThereError(f"{repository} has no file {file or '?'} at {revision} ({status})")
    if status == 403:  # a token without the right, a country, a proxy on the way, ...
        return SourceError(
            f"{repository} was refused (403)", f"if it has a licence to accept: {accept}"
        )
    if status == 401:  # what it answers for a repository that is not there, too
        text = f"there is no repository {repository}, or it is not open to "
        text += "this token (401)" if known else "everybody (401)"
        return NotThereError(text, f"check the name; for a private one set HF_TOKEN: {page}")
    if status == 404:
        what = f"file {repository}/{file}" if file and not code else f"repository {repository}"
        return NotThereError(f"there is no {what} (404)")
    return SourceError(f"it answered {status} {response.reason_phrase}".rstrip())
