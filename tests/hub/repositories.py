"""A real HTTP server on this machine that speaks as the Hugging Face hub and as ModelScope do."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from checks.hub_server import HubServer

__all__ = ["COMMIT", "Repositories"]

COMMIT = "c" * 40
LARGE = (".gguf", ".safetensors", ".bin")  # what the hub keeps by its SHA-256


class Repositories(HubServer):
    """Serves files by repository, in both protocols, at the commit that is asked for, else COMMIT.

    `cdn`: another one, to which files are redirected. `refusals`: a status and headers for the
    next so many requests whose path has the key in it. `spoilt`: what is sent once for a path.
    `says`: what a list of the Hugging Face hub says instead.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        self.repositories = {name: dict(files) for name, files in repositories.items()}
        self.cdn: Repositories | None = None
        self.refusals: dict[str, tuple[int, dict[str, str], int]] = {}
        self.spoilt: dict[str, bytes] = {}
        self.license: str | None = "apache-2.0"
        self.says: Mapping[str, object] = {}
        self.tokens: list[str | None] = []  # of each request
        super().__init__(b"")

    def fetched(self) -> list[str]:
        """Return the files that were asked for, in order."""
        return [found for path, _ in self.requests if (found := self.file_of(path)[1])]

    def file_of(self, path: str) -> tuple[str, str]:
        """Return the repository and the file that an address means, "" for a list of files."""
        parts = urlsplit(path)
        asked = parse_qs(parts.query)
        way = unquote(parts.path).strip("/").split("/")
        if way[:3] == ["api", "v1", "models"]:
            return "/".join(way[3:5]), asked.get("FilePath", [""])[0]
        if way[:2] == ["api", "models"]:
            return "/".join(way[2:4]), ""
        return "/".join(way[:2]), "/".join(way[4:])

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer as the hub whose address it is."""
        self.tokens.append(handler.headers.get("Authorization"))
        for key, (status, headers, times) in list(self.refusals.items()):
            if key in handler.path and times:
                self.refusals[key] = (status, headers, times - 1)
                self.say(handler, status, headers)
                return
        repository, path = self.file_of(handler.path)
        files = self.repositories.get(repository)
        modelscope = handler.path.startswith("/api/v1/")
        if files is None:
            self.say(handler, 404 if modelscope else 401, {"X-Error-Code": "RepoNotFound"})
        elif not path:
            asked = re.search("/revision/([0-9a-f]{40})[?]", handler.path)
            commit = asked[1] if asked else COMMIT
            listed = self.modelscope(files) if modelscope else self.hugging_face(files, commit)
            self.say(handler, 200, {}, json.dumps(listed).encode())
        elif path not in files:
            self.say(handler, 404, {"X-Error-Code": "EntryNotFound"})
        elif self.cdn is not None:
            self.say(handler, 302, {"Location": f"{self.cdn.endpoint}{handler.path}"})
        else:
            self.send(handler, self.spoilt.pop(path, files[path]))

    def say(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> None:
        """Send a whole answer."""
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def hugging_face(self, files: Mapping[str, bytes], commit: str) -> object:
        """Return what the hub lists."""
        siblings = []
        for path, data in files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            item: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": blob}
            if path.endswith(LARGE):
                item["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            siblings.append(item)
        told = {"sha": commit, "cardData": {"license": self.license}, "siblings": siblings}
        return {**told, **self.says}

    def modelscope(self, files: Mapping[str, bytes]) -> object:
        """Return what ModelScope lists."""
        listed = [
            {
                "Path": path,
                "Size": len(data),
                "Sha256": hashlib.sha256(data).hexdigest(),
                "Type": "blob",
            }
            for path, data in files.items()
        ]
        folder = {"Path": "folder", "Size": 0, "Sha256": "", "Type": "tree"}
        return {"Code": 200, "Data": {"Files": [folder, *listed]}}
