"""Pulls the tiny checkpoint in its own process: home, endpoint, size, digest [, file limit]."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from qwick.errors import QwickError
from qwick.hub import Entry, StderrListener, Store
from qwick.hub.sources import HubSource


def main(home: str, endpoint: str, size: str, sha256: str, limit: str = "") -> int:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    entry = Entry("tiny", "Tiny", "Somebody", "MIT", "some/tiny", "tiny.gguf", int(size), sha256)
    store = Store(Path(home), catalog={"tiny": entry}, sources=[HubSource(endpoint)])
    try:
        print(store.pull("tiny", StderrListener()))
    except QwickError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
