"""What a start costs: the modules it loads. (Time is measured elsewhere; modules do not vary.)"""

from __future__ import annotations

import subprocess
import sys

import pytest

from cli.conftest import environment

HEAVY = {
    "numpy",
    "jinja2",
    "tokenizers",
    "rich",
    "prompt_toolkit",
    "huggingface_hub",
    "httpx",
    "torch",
    "asyncio",
}


def loaded_by(script: str) -> set[str]:
    """Return the top-level names of the modules loaded once `script` has run."""
    probe = f"""{script}
import sys
names = {{name.split('.')[0] for name in sys.modules}}
names |= {{name for name in sys.modules if name.startswith('qwick')}}
print('\\n' + ' '.join(sorted(names)))
"""
    run = subprocess.run(
        [sys.executable, "-c", probe], env=environment(), capture_output=True, text=True, check=True
    )
    return set(run.stdout.rsplit("\n", 2)[-2].split())


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"numpy", "rich"} <= loaded_by("import numpy, rich.text")


def test_importing_the_package_loads_itself_only() -> None:
    names = loaded_by("import qwick")
    assert {n for n in names if n.startswith("qwick")} == {"qwick"}
    assert not names & (HEAVY | {"click", "dataclasses", "inspect"})


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        [],
        ["recommend", "--help"],
        ["run", "--help"],
        ["chat", "--help"],
        ["models", "--help"],
        ["models", "pull", "--help"],
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    names = loaded_by(f"from qwick.cli.main import main; assert main({arguments!r}) == 0")
    assert "click" in names
    assert not names & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["search", "coder", "--json"],
        ["show", "qwen3-8b"],
        ["compare", "qwen3-8b", "qwen2.5-7b-instruct"],
        ["series"],
    ],
)
def test_models_loads_nothing_heavy(arguments: list[str]) -> None:
    words = ["models", *arguments]
    names = loaded_by(f"from qwick.cli.main import main; assert main({words!r}) == 0")
    assert not names & HEAVY
