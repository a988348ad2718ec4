"""`qwick keys` as a process of its own, as users run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import qwick as package
from qwick.server.audit import AuditLog
from qwick.server.keys import Key, KeyRing
from qwick.server.limits import Limits, Rate
from qwick.server.pseudonyms import Pseudonyms
from qwick.settings import child_environment

# The verb by its module, so that this does not depend on where the table of verbs has it.
VERB = """
import sys
from qwick.cli import main
main.VERBS.setdefault("keys", "qwick.cli.keys")
sys.exit(main.main(["keys", *sys.argv[1:]]))
"""


class Command:
    """Runs `qwick keys ...` with a state folder of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.folder = state / "server"

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        source = str(Path(package.__file__).parents[1])
        done = subprocess.run(
            [sys.executable, "-c", VERB, *arguments],
            capture_output=True,
            text=True,
            env=child_environment(PYTHONPATH=source, QWICK_STATE=str(self.state)),
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "state")


def test_the_life_of_a_key(command: Command) -> None:
    assert "there are no keys" in command("list").stdout
    assert not command.state.exists()  # a look makes nothing
    made = command("create", "ci", "--preset", "modest", "--tokens", "20000/day")
    text = made.stdout.strip()
    assert "\n" not in text  # KEY=$(qwick keys create ci)
    assert "shown this once" in made.stderr
    assert text not in made.stderr
    ring = KeyRing(command.folder)
    key = ring.find(text)
    assert isinstance(key, Key)
    assert key.limits == Limits(Rate(100, "hour"), Rate(20000, "day"), None, 1024, 8192)

    listed = command("list").stdout
    header, row = listed.splitlines()
    assert header.split() == ["ID", "NAME", "STATE", "CREATED", "EXPIRES", "ADMIN", "LIMITS"]
    assert row.split()[:3] == [key.id, "ci", "good"]
    assert row.endswith("requests 100/hour; tokens 20000/day; max-tokens 1024; max-characters 8192")

    assert command("revoke", "ci").stdout.startswith(f"revoked {key.id} (ci), 20")
    assert command("revoke", key.id).stdout.startswith(f"revoked {key.id} (ci), 20")
    assert command("list").stdout.splitlines()[1].split()[2] == "revoked"
    told = command("audit").stdout
    assert [line.split()[1:4] for line in told.splitlines()[1:]] == [
        ["key_created", key.id, "(ci)"],
        ["key_revoked", key.id, "(ci)"],
    ]
    assert command("prune").stdout == f"deleted {key.id} (ci), revoked\n"
    assert command("prune").stdout == "there is no revoked or expired key\n"
    secret = text.split("-", 2)[2]
    everything = listed + told + command("list", "--json").stdout
    assert secret not in everything
    assert key.digest not in everything


def test_json(command: Command) -> None:
    options = ["--expires", "2w", "--model", "a", "--model", "b c", "--concurrent", "4", "--admin"]
    made = json.loads(command("create", "naïve ☃", *options, "--json").stdout)
    key = KeyRing(command.folder).find(made.pop("key"))
    assert isinstance(key, Key)
    assert key.admin
    assert key.expires is not None
    assert key.expires - key.created == 14 * 86400
    assert made["limits"] == {"concurrent": 4, "models": ["a", "b c"]}
    listed = json.loads(command("list", "--json").stdout)
    assert listed == {"file": str(command.folder / "keys.json"), "keys": [made]}
    assert (made["state"], made["admin"], made["revoked"]) == ("good", True, None)
    assert made["expires"].endswith("Z")
    revoked = json.loads(command("revoke", "naïve ☃", "--json").stdout)
    assert revoked == {**made, "state": "revoked", "revoked": revoked["revoked"]}
    assert json.loads(command("prune", "--json").stdout) == {"deleted": [revoked]}


def test_audit_tells_of_refusals(command: Command) -> None:
    key, _ = KeyRing(command.folder).create("app")
    log, pseudonyms = AuditLog(command.folder), Pseudonyms(command.folder)
    log.server_event("server_started")
    for _ in range(4):
        log.refused("requests", key=pseudonyms.of("key", key.id), user=pseudonyms.of("user", "al"))
    log.flush()
    (command.folder / "server.jsonl").open("ab").write(b'{"time": "cut')
    told = command("audit").stdout
    _, row = (line for line in told.splitlines() if "refused" in line)  # the first, the others
    assert f"{key.id} (app)" in row
    assert f"reason requests, user {pseudonyms.of('user', 'al')}, count 3, since 20" in row
    assert told.endswith("lines that cannot be read (cut by a kill or a full disk): 1\n")
    last = json.loads(command("audit", "--last", "1", "--json").stdout)
    assert last["unreadable"] == 1
    assert [event["event"] for event in last["events"]] == ["refused"]
    assert last["events"][0]["key_name"] == "app"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", ""], "name is ''; allowed: 1 to 64 printable characters"),
        (["create", "x", "--requests", "100"], "requests is '100'; allowed: such as 100/hour"),
        (["create", "x", "--tokens", "1/week"], "tokens is '1/week'; allowed:"),
        (["create", "x", "--concurrent", "0"], "concurrent is 0; allowed: whole numbers"),
        (["create", "x", "--max-tokens", "-5"], "max_tokens is '-5'; allowed: whole numbers"),
        (["create", "x", "--max-characters", "1k"], "max_characters is '1k'; allowed:"),
        (["create", "x", "--model", ""], "models is ('',); allowed:"),
        (["create", "x", "--preset", "rich"], "preset is 'rich'; allowed: modest"),
        (["create", "x", "--expires", "yesterday"], "expires is 'yesterday'; allowed:"),
        (["revoke", "nobody"], "key is 'nobody'; allowed: an id or name that"),
        (["audit", "--last", "0"], "0 is not in the range"),
        (["create"], "Missing argument 'NAME'"),
        (["delete"], "No such command 'delete'"),
    ],
)
def test_bad_input_is_told_in_a_line(command: Command, arguments: list[str], words: str) -> None:
    failed = command(*arguments, code=2)
    assert failed.stderr.startswith("error: ")
    assert words in failed.stderr
    assert failed.stdout == ""
    assert not (command.folder / "keys.json").exists()


def test_a_name_cannot_be_taken_twice(command: Command) -> None:
    command("create", "x")
    assert "one that no other key has" in command("create", "x", code=2).stderr


def test_a_damaged_file_is_told_of(command: Command) -> None:
    command("create", "x")
    path = command.folder / "keys.json"
    path.write_bytes(path.read_bytes()[:-30])
    for arguments in (["list"], ["create", "y"], ["revoke", "x"], ["prune"], ["audit"]):
        failed = command(*arguments, code=4)
        assert f"error: {path} is damaged" in failed.stderr
        assert "hint: nobody is let in" in failed.stderr


def test_a_state_folder_that_is_a_file(command: Command) -> None:
    command.state.write_text("in the way")
    assert "cannot be used: Not a directory" in command("create", "x", code=6).stderr
    assert "cannot be read: Not a directory" in command("list", code=6).stderr


def test_help(command: Command) -> None:
    helped = command()
    assert "Make, list and revoke" in helped.stdout
    for name in ("create", "list", "revoke", "prune", "audit"):
        assert f"  {name} " in helped.stdout
        assert "Options" in command(name, "--help").stdout
