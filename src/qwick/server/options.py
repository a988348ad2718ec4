"""How a server is run: every option of `qwick serve`, checked, with its default and reason."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwick.errors import UsageError
from qwick.llm.load import Options
from qwick.monitor.health import Thresholds
from qwick.server.limits import Limits
from qwick.values import check_switch, real, refused, whole

# Bytes a second that a client must send of a body, or read of an answer, on the average beyond a
# first `body_seconds` or `write_seconds`: else one that trickles holds memory without end.
LEAST_RATE = 16 << 10


@dataclass(frozen=True)
class Bounds:
    """The most that one request may be; what is larger is refused before it is looked at."""

    body_bytes: int = 16 << 20  # a context of a million tokens is some 5 MB of text
    characters: int = 8 << 20  # of all texts together
    header_bytes: int = 16 << 10
    choices: int = 16  # n: each is an answer of its own
    header_seconds: float = 10.0  # from the connection to the end of the headers
    body_seconds: float = 60.0  # between two pieces of a body; see LEAST_RATE
    write_seconds: float = 60.0  # that an answer may lie unread; see LEAST_RATE
    request_seconds: float = 1800.0  # from the request to the end of the answer
    connections: int = 1024  # one address may hold half of them

    def __post_init__(self) -> None:
        """Raise ParameterError for a limit that is none."""
        for name, value in vars(self).items():
            if isinstance(value, float):
                real(name, value, 0.01, 1e6)
            else:
                whole(name, value, 1, 1 << 40)


@dataclass(frozen=True)
class Tls:
    """Files of a certificate and its key, in PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class ServeOptions:
    """Everything that `qwick serve` can be told; ParameterError or UsageError for what cannot be.

    models: names, files or folders, NAME=MODEL to call one otherwise; none: the default checkpoint.
    loading: how each of them is run.
    places: requests that one engine computes at once. waiting: how many more may wait. memory: the
    bytes that all loaded models may take; None: what the machine has. open_door: listen beyond this
    machine although no key exists.
    """

    models: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    loading: Options = field(default_factory=Options)
    places: int = 64
    waiting: int = 256
    memory: int | None = None
    open_door: bool = False
    cors_origins: Sequence[str] = ()
    tls: Tls | None = None
    policy: bool = False
    log_content: bool = False
    drain_seconds: float = 30.0
    keep_alive_seconds: float = 10.0
    stuck_seconds: float = 60.0
    metrics_compat: bool = False
    bounds: Bounds = field(default_factory=Bounds)
    thresholds: Thresholds = field(default_factory=Thresholds)
    state: Path | None = None
    version: str = "0+source"
    user_limits: Limits | None = None

    def __post_init__(self) -> None:
        """Check each value on its own."""
        whole("port", self.port, 0, 65535)
        whole("places", self.places, 1, 4096)
        whole("waiting", self.waiting, 0, 1 << 20)
        real("drain_seconds", self.drain_seconds, 0.0, 3600.0)
        real("keep_alive_seconds", self.keep_alive_seconds, 0.05, 3600.0)
        real("stuck_seconds", self.stuck_seconds, 0.1, 86400.0)
        for name in ("open_door", "policy", "log_content", "metrics_compat"):
            check_switch(name, getattr(self, name))
        if not self.host or any(c.isspace() for c in self.host):
            raise refused("host", self.host, "an address or a name of this machine")

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check_door(self, *, keys: bool) -> None:
        """Refuse to listen beyond this machine while anybody could come in."""
        if not (self.loopback or keys or self.open_door):
            raise UsageError(
                f"host is {self.host}, which other machines can reach, and there is no API key",
                hint="`qwick keys create NAME` makes one; or listen on 127.0.0.1; or "
                "--open-door, if anybody may use it",
            )
