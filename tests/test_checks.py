"""Every command under checks/ says what it does, and refuses an option that it does not have.

Found by listing the folder, so a new one is tested by being there.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from qwick.settings import child_environment

ROOT = Path(__file__).parents[1]
CHECKS = sorted((ROOT / "checks").iterdir())
LIBRARIES = {
    "choosing.py",
    "damage.py",
    "hostile.py",
    "hub_server.py",
}  # used by others, and no command


def is_command(path: Path) -> bool:
    """Whether a module does something when it is run."""
    guards = (node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.If))
    return any("__name__" in ast.unparse(guard.test) for guard in guards)


MODULES = [path for path in CHECKS if path.suffix == ".py" and path.name != "__init__.py"]
COMMANDS = [path for path in MODULES if is_command(path)]
SCRIPTS = [path for path in CHECKS if path.suffix == ".sh"]


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(path)]
    if path.suffix == ".py":
        command = [sys.executable, "-m", f"checks.{path.stem}"]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment(QWICK_OFFLINE="1"),
        check=False,
    )


def test_the_rest_is_known() -> None:
    assert {path.name for path in MODULES} - {path.name for path in COMMANDS} == LIBRARIES
    known = {".py", ".sh", ".cpp"}
    assert all(path.suffix in known for path in CHECKS if path.is_file())
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("path", [*COMMANDS, *SCRIPTS], ids=lambda path: path.name)
def test_help(path: Path) -> None:
    done = run(path, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    text = path.read_text("utf-8")
    about = (
        (ast.get_docstring(ast.parse(text)) or "") if path.suffix == ".py" else text.split("# ")[1]
    )
    words = about.split("\n\n")[0].split()[:6]
    assert " ".join(words) in " ".join(done.stdout.split()), "it does not say what it does"


@pytest.mark.parametrize("path", [*COMMANDS, *SCRIPTS], ids=lambda path: path.name)
def test_a_wrong_option(path: Path) -> None:
    done = run(path, "--no-such-option")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no-such-option" in done.stderr or "usage: " in done.stderr
    assert "Traceback" not in done.stderr
