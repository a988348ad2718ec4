"""A real terminal to drive a program in: tmux, with a shell in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping

import pytest

SHELL = r"(^|\n)shell\$ ?$"  # a pattern: the shell waits for a command
DEADLINE = 60.0  # seconds; a step takes far less


class Terminal:
    """One window of 100 columns with `sh` in it; all that was shown is kept."""

    def __init__(self, env: Mapping[str, str]) -> None:
        if shutil.which("tmux") is None and not os.environ.get("CI"):
            pytest.skip(
                "this test types into a real terminal, which tmux brings and pip cannot: "
                "apt-get install tmux, which no other test needs"
            )
        self._folder = tempfile.mkdtemp(prefix="qwick-")  # a socket's path must be short
        self._env = {**env, "ENV": "", "LC_ALL": "C.UTF-8"}
        self._env.pop("COLUMNS", None)  # would overrule the window's width

    def __enter__(self) -> Terminal:
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "40", "sh")
        self.wait_for(r"[#$] ?$")
        self.type("PS1='shell$ '; clear")
        self.press("Enter")
        self.wait_for(f"^{SHELL}")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._command, "kill-server"], capture_output=True, check=False)
        shutil.rmtree(self._folder)

    @property
    def _command(self) -> list[str]:
        return ["tmux", "-u", "-S", f"{self._folder}/socket"]

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, *arguments], env=self._env, capture_output=True, text=True, check=True
        )
        return done.stdout

    def type(self, text: str) -> None:
        """Type characters, as they are."""
        self._tmux("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: Enter, Up, C-c, M-Enter."""
        self._tmux("send-keys", *keys)

    def paste(self, text: str) -> None:
        """Paste a text, marked as such where the program has asked for that."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p")

    def seen(self) -> str:
        """Return all that was shown so far, lines that wrap in one."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-").rstrip("\n")

    def state(self) -> str:
        """Return what programs may leave changed: cursor, keypad, mouse, second screen."""
        flags = ("cursor_flag", "keypad_flag", "keypad_cursor_flag", "mouse_any_flag")
        return self._tmux(
            "display", "-p", " ".join(f"#{{{name}}}" for name in (*flags, "alternate_on"))
        )

    def wait_for(self, pattern: str, *, after: str = "", times: int = 1) -> str:
        """Wait until `pattern` is shown behind the last `after`; return all that is there.

        times: so often must `after` be shown.
        """
        deadline = time.monotonic() + DEADLINE
        while True:
            seen = self.seen()
            shown = seen.rpartition(after)[2] if after else seen
            if seen.count(after) >= times and re.search(pattern, shown):
                return shown
            assert time.monotonic() < deadline, f"{pattern!r} did not come:\n{seen}"
            time.sleep(0.1)

    def enter(self, text: str, pattern: str) -> str:
        """Type a line; wait until `pattern` is shown below it, and return all that is there."""
        line = f"{text}\n"
        before = self.seen().count(line)
        self.type(text)
        self.press("Enter")
        return self.wait_for(pattern, after=line, times=before + 1)
