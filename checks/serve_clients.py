"""Clients of others against a live server, set up as docs/guides/clients.md says.

Makes an environment of its own in a temporary folder and installs `llm` there (with --aider also
aider-chat), starts `qwick serve` with the real default checkpoint and no API keys, and runs the
guide's own commands with the guide's own files; only the address is the live server's. Each must
end well and give what it is for: text, a conversation that goes on, JSON by the schema, a tool that
was called. Every request that a client sent must have been answered with 200. Open WebUI, which the
guide has too, is left out: it takes 7 GB and a browser.

    python -m checks.serve_clients
    python -m checks.serve_clients --aider       # 700 MB more

Exit code 1 when something fails, 77 when a package cannot be had.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from checks import NOT_CHECKED
from server.live import Server

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "clients.md"
ADDRESS = "http://127.0.0.1:8000"  # in the guide
SECONDS = 600  # that a command may take
CHAIN_LIMIT = "Chain limit of"  # llm's last word when a model calls its tools without end
GREET = 'def greet(name):\n    return "Hello, " + name\n'


class Wrong(Exception):
    """What a client did is not what it is for."""


def blocks(section: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """Return a section of the guide."""
    return GUIDE.read_text("utf-8").split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def commands(text: str, program: str) -> list[list[str]]:
    """Return the commands that a section shows, as words."""
    lines = "".join(blocks(text, "console")).splitlines()
    return [shlex.split(line[2:]) for line in lines if line.startswith(f"$ {program} ")]


class Place:
    """A folder with an environment, and a home that is nobody's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        self.work = folder / "work"
        self.work.mkdir()
        (folder / "home").mkdir()
        (folder / "home" / ".gitconfig").write_text(
            "[user]\nname = check\nemail = check@example.org\n", "utf-8"
        )
        left_out = ("PYTHONPATH", "OPENAI_", "LLM_", "AIDER_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
        own = {"HOME": str(folder / "home"), "LLM_USER_PATH": str(folder / "llm")}
        path = f"{self.bin}:{os.environ['PATH']}"
        self.environment = {**kept, **own, "PATH": path, "NO_COLOR": "1", "COLUMNS": "100"}

    def install(self, package: str) -> bool:
        """Install a package from pip; False, and its last words, when it cannot be had."""
        print(f"installing {package} ...", flush=True)
        pip = [str(self.bin / "python"), "-m", "pip", "install", "-q", package]
        done = subprocess.run(pip, text=True, capture_output=True, check=False)
        if done.returncode:
            print("\n".join(done.stderr.strip().splitlines()[-3:]))
        return done.returncode == 0

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command as a user would, and print it with what it says."""
        print(f"$ {shlex.join(command)}", flush=True)
        done = subprocess.run(
            command,
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        print((done.stdout + done.stderr).strip(), flush=True)
        return done


def _text(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode or not done.stdout.strip():
        raise Wrong(f"exit code {done.returncode}, {len(done.stdout)} characters of text")


def _remembers(done: subprocess.CompletedProcess[str]) -> None:
    _text(done)
    if "Ada" not in done.stdout:
        raise Wrong("the conversation does not go on: the name is not known")


def _person(done: subprocess.CompletedProcess[str]) -> None:
    _text(done)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise Wrong("the answer is no JSON") from None
    if not (isinstance(found, dict) and type(found.get("age")) is int):
        raise Wrong("the answer has no age that is a whole number")
    if not isinstance(found.get("name"), str):
        raise Wrong("the answer has no name that is a text")


def _called(done: subprocess.CompletedProcess[str]) -> None:
    said = done.stdout + done.stderr
    if done.returncode and CHAIN_LIMIT not in said:
        raise Wrong(f"exit code {done.returncode}")
    if "Tool call: population({'city': 'Paris'})" not in said or "2,102,650" not in said:
        raise Wrong("the tool was not called")


Expectation = Callable[[subprocess.CompletedProcess[str]], None]
# The first option of the guide's command that is here says what must come of it.
EXPECTED: dict[str, Expectation] = {
    "--functions": _called,
    "--schema": _person,
    "-c": _remembers,
    "--no-stream": _text,
    "-m": _text,
}


def try_llm(place: Place, url: str) -> int:
    """Run the guide's commands for llm; return how many."""
    text = section("llm")
    (settings,) = blocks(text, "yaml")
    (tool,) = blocks(text, "python")
    (place.folder / "llm").mkdir()
    where = place.folder / "llm" / "extra-openai-models.yaml"
    where.write_text(settings.replace(ADDRESS, url), "utf-8")
    (place.work / "population.py").write_text(tool, "utf-8")
    seen = set()
    shown = commands(text, "llm")
    for words in shown:
        kind = next(option for option in EXPECTED if option in words)
        seen.add(kind)
        EXPECTED[kind](place.run(words))
    if seen != set(EXPECTED):
        raise Wrong(f"the guide has no command with {', '.join(sorted(set(EXPECTED) - seen))}")
    return len(shown)


def try_aider(place: Place, url: str) -> int:
    """Run the guide's commands for aider in a new repository; return how many.

    What a small model makes of the file is told and not judged.
    """
    text = section("aider")
    (settings,) = blocks(text, "yaml")
    (metadata,) = blocks(text, "json")
    (place.work / ".aider.conf.yml").write_text(settings.replace(ADDRESS, url), "utf-8")
    (place.work / ".aider.model.metadata.json").write_text(metadata, "utf-8")
    (place.work / "greet.py").write_text(GREET, "utf-8")
    for words in (["init", "-q"], ["add", "greet.py"], ["commit", "-q", "-m", "greet"]):
        subprocess.run(["git", *words], cwd=place.work, env=place.environment, check=True)
    shown = commands(text, "aider")
    for words in shown:
        done = place.run(words)
        _text(done)
        received = re.search(r"(\d+) received", done.stdout)
        if received is None or int(received[1]) < 1:
            raise Wrong("aider received nothing")
        edited = (place.work / "greet.py").read_text("utf-8") != GREET
        print(f"the file was {'edited' if edited else 'left as it was'}")
    return len(shown)


def run(*, aider: bool) -> int:
    """Return the exit code."""
    clients = [("llm", try_llm)] + ([("aider-chat", try_aider)] if aider else [])
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name))
        venv.create(place.folder / "venv", with_pip=True)
        if not all(place.install(package) for package, _ in clients):
            print("not checked: a package cannot be had")
            return NOT_CHECKED
        with Server(place.folder / "state") as server:
            server.ready()
            try:
                done = sum(client(place, server.url) for _, client in clients)
            except Wrong as error:
                print(f"wrong: {error}")
                return 1
        requests = [event for event in server.events() if event.get("event") == "request"]
    refused = [event for event in requests if event["status"] != 200]
    streamed = sum(event["streamed"] for event in requests)
    print(f"{done} commands, {len(requests)} requests, {streamed} of them streamed")
    if refused or not 0 < streamed < len(requests):
        print(f"wrong: not answered: {refused}" if refused else "wrong: not both ways were used")
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m checks.serve_clients",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--aider", action="store_true", help="try aider-chat as well")
    return run(aider=parser.parse_args(arguments).aider)


if __name__ == "__main__":
    sys.exit(main())
