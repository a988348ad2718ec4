"""Pulls the tiny checkpoint in its own process, which the kernel may refuse something.

Arguments: home, endpoint, size, digest [, what is refused].
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import struct
import sys
from pathlib import Path

from qwick.errors import QwickError
from qwick.hub import Entry, StderrListener, Store
from qwick.hub.entries import PinnedFile, Place
from qwick.hub.huggingface import HubSource

libc = ctypes.CDLL(None, use_errno=True)


def main(home: str, endpoint: str, size: str, sha256: str, refused: str = "") -> int:
    REFUSALS[refused]()
    file = PinnedFile("tiny.gguf", int(size), sha256)
    entry = Entry("tiny", "Tiny", "Somebody", "MIT", (Place("hf", "some/tiny", "main"),), (file,))
    store = Store(Path(home), catalog={"tiny": entry}, sources=[HubSource(endpoint)])
    try:
        print(store.pull("tiny", StderrListener()))
    except QwickError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def limit_files() -> None:
    """No file may grow beyond a MiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def refuse_locks() -> None:
    """Every flock ends in ENOLCK, as on some network file systems: a seccomp filter."""
    number = {"x86_64": 73, "aarch64": 32}[platform.machine()]
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number of the system call
            (0x15, 0, 1, number),  # is it flock?
            (0x06, 0, 0, 0x00050000 | errno.ENOLCK),  # then return an error
            (0x06, 0, 0, 0x7FFF0000),  # else allow it
        )
    )
    code = ctypes.create_string_buffer(program)
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
    call(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    call(libc.prctl(22, 2, filters, 0, 0))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def obey_permissions() -> None:
    """Even root may not write where the permissions forbid it: all capabilities are given up."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    call(libc.capset(header, ctypes.create_string_buffer(24)))


def call(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "the kernel does not let this test prepare itself")


REFUSALS = {
    "": lambda: None,
    "1-mib-files": limit_files,
    "no-locks": refuse_locks,
    "read-only": obey_permissions,
}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
