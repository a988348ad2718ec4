"""`qwick models verify|du|prune` and the offline switch, as a user meets them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.conftest import Run
from qwick.hub import CATALOG, DEFAULT

ENTRY = CATALOG[DEFAULT]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is asked of the only hub and package index there is: one here, which has nothing."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name in ("QWICK_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    yield asked
    server.shutdown()
    server.server_close()


def stored_file(home: Path, data: bytes) -> Path:
    path = home / "checkpoints" / DEFAULT / ENTRY.main
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("arguments", "changes", "way_out"),
    [
        (["models", "pull", "--offline"], {}, "leave out --offline"),
        (["run", "--offline", "Hi"], {}, "leave out --offline"),
        (["bench", "--offline"], {}, "leave out --offline"),
        (["models", "pull"], {"QWICK_OFFLINE": "1"}, "unset QWICK_OFFLINE"),
        (["run", "Hi"], {"HF_HUB_OFFLINE": "1"}, "unset HF_HUB_OFFLINE"),
    ],
)
def test_offline_asks_nobody(
    qwick: Run,
    network: list[str],
    tmp_path: Path,
    arguments: list[str],
    changes: dict[str, str],
    way_out: str,
) -> None:
    done = qwick(*arguments, QWICK_HOME=str(tmp_path), **changes)
    assert (done.returncode, done.stdout) == (5, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: {DEFAULT} is not in the store {tmp_path}")
    assert way_out in hint
    assert ".gguf file you have" in hint
    assert network == []


def test_online_asks_both_hubs_and_starts_pip(
    qwick: Run, network: list[str], tmp_path: Path
) -> None:
    done = qwick("models", "pull", QWICK_HOME=str(tmp_path))
    assert done.returncode == 5
    hub, modelscope, *index = network
    assert modelscope.startswith(
        f"/api/v1/models/{ENTRY.repository}/repo?Revision=master&FilePath="
    )
    assert hub == f"/{ENTRY.repository}/resolve/main/{ENTRY.main}"
    assert index  # pip's, which offline does not start
    assert all(path.startswith("/simple/") for path in index)


def test_the_switch_is_off_again_after_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwick import settings

    for before in (None, "0"):
        monkeypatch.delenv("QWICK_OFFLINE", raising=False)
        if before is not None:
            monkeypatch.setenv("QWICK_OFFLINE", before)
        with settings.OFFLINE.changed("1"):
            assert settings.OFFLINE.get()
        assert os.environ.get("QWICK_OFFLINE") == before


def test_verify_finds_damage_and_says_how_to_mend_it(qwick: Run, tmp_path: Path) -> None:
    home = str(tmp_path)
    empty = qwick("models", "verify", QWICK_HOME=home)
    assert (empty.returncode, empty.stdout) == (0, f"nothing is in the store {home}\n")
    missing = qwick("models", "verify", DEFAULT, QWICK_HOME=home)
    assert (missing.returncode, missing.stdout) == (3, f"missing  {DEFAULT}\n")
    assert f"`qwick models pull {DEFAULT}`" in missing.stderr
    path = stored_file(tmp_path, b"GGUF, but nothing else")
    damaged = qwick("models", "verify", "--json", QWICK_HOME=home)
    assert damaged.returncode == 4
    (row,) = json.loads(damaged.stdout)["verified"]
    assert (row["verdict"], row["path"]) == ("damaged", str(path))
    (file,) = row["files"]
    assert file["expected"] == ENTRY.files[0].digest != file["found"]
    for part in (str(path), file["found"], ENTRY.files[0].digest, f"`qwick models pull {DEFAULT}`"):
        assert part in damaged.stderr
    assert qwick("models", "verify", "no-such-model", QWICK_HOME=home).returncode == 3


@pytest.mark.model
def test_verify_of_the_real_checkpoint(qwick: Run, stocked_home: Path) -> None:
    done = qwick("models", "verify", QWICK_HOME=str(stocked_home))
    assert (done.returncode, done.stdout) == (0, f"ok       {DEFAULT}\n"), done.stderr
    assert f"verifying {DEFAULT}: 100 %" in done.stderr
    again = qwick("models", "pull", "--offline", QWICK_HOME=str(stocked_home))
    assert again.returncode == 0
    assert "verifying" not in again.stderr  # its word is trusted


def test_du_and_prune(qwick: Run, tmp_path: Path) -> None:
    home = str(tmp_path)
    path = stored_file(tmp_path, bytes(3000))
    incoming = path.parent / "incoming"
    incoming.mkdir()
    (incoming / f"{ENTRY.files[0].digest}.part").write_bytes(bytes(2_000_000))
    facts = json.loads(qwick("models", "du", "--json", QWICK_HOME=home).stdout)
    (row,) = facts["checkpoints"]
    assert (row["name"], row["state"]) == (DEFAULT, "unverified")
    assert (row["file"], row["partial"], facts["total"]) == (3000, 2_000_000, 2_003_000)
    table = qwick("models", "du", QWICK_HOME=home).stdout.splitlines()
    assert table[1].split() == [DEFAULT, "3.0", "kB", "2.0", "MB", "-", "unverified"]
    assert table[-1].startswith(f"2.0 MB in {home}; ")
    dry = qwick("models", "prune", "--dry-run", QWICK_HOME=home).stdout.splitlines()
    assert dry == [
        f"would delete {incoming} (partial download, 2.0 MB)",
        "2.0 MB would be freed",
    ]
    assert incoming.exists()
    done = json.loads(qwick("models", "prune", "--json", QWICK_HOME=home).stdout)
    assert (done["dry_run"], done["freed"], done["busy"]) == (False, 2_000_000, [])
    assert not incoming.exists()
    assert path.exists()
    assert qwick("models", "prune", QWICK_HOME=home).stdout == "0 bytes freed\n"
