"""The layers of the house: who may import whom, and what may be imported when a module loads.

Walks the syntax tree of every file, so that imports under TYPE_CHECKING, inside functions and by
`importlib.import_module("qwick...")` count like any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import qwick

SOURCE = Path(qwick.__file__).parent

ANYONE = ("errors", "values", "settings", "family")

# A layer, and what it may import besides itself and ANYONE. A longer name is the stricter rule:
# `server.ui` is not `server`, and `engine.stats` lets nobody into the rest of `engine`.
ALLOWED: dict[str, tuple[str, ...]] = {
    "errors": (),
    "values": (),
    "settings": (),
    "family": (),
    "native": (),
    "quant": ("native",),
    "formats": ("quant",),
    "machine": ("native",),
    "media": (),
    "model": ("native", "quant", "formats"),
    "engine": ("model", "native"),
    "text": ("native", "formats"),
    "hub": ("formats",),
    "choose": ("hub", "machine", "quant", "model.arch"),
    "monitor": ("machine", "engine.stats"),
    "llm": ("engine", "model.load", "formats", "text", "media", "hub", "choose.memory", "machine"),
    "tasks": ("llm", "text", "hub"),
    "shrink": ("quant", "formats", "hub", "evaluate"),
    "tune": ("llm", "hub", "formats", "text", "model"),
    "evaluate": ("llm", "engine", "hub", "formats", "text", "model", "native"),
    "runtimes": ("llm", "hub", "formats", "text", "model"),
    "server": ("llm", "tasks", "engine.request", "text", "hub", "monitor"),
    "server.ui": (),
}

# Third-party packages that a module may import while it loads; everything else waits for its use.
AT_LOAD: dict[str, tuple[str, ...]] = {
    "native": ("numpy",),
    "quant": ("numpy",),
    "formats": ("numpy",),
    "media": ("numpy",),
    "model": ("numpy",),
    "engine": ("numpy",),
    "evaluate": ("numpy",),
    "cli": ("click",),
    "monitor": ("prometheus_client",),
    "server": ("fastapi", "pydantic", "starlette", "uvicorn"),
}
EVERYWHERE = ("typing_extensions",)  # stands in for typing before Python 3.11
EXTENSION = "qwick.native._native"
EXTENSION_USER = "qwick.native.ops"


@dataclass(frozen=True)
class Import:
    """One imported module: its absolute name, and whether the import runs when the file loads."""

    target: str
    line: int
    in_function: bool
    for_types: bool


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[Import]:
    """Yield every import of a file; `from qwick import hub` counts as the module qwick.hub."""

    def walk(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        for name in targets(node):
            yield Import(name, getattr(node, "lineno", 0), in_function, for_types)
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for child in node.body:
                yield from walk(child, in_function, True)
            for child in node.orelse:
                yield from walk(child, in_function, for_types)
            return
        inside = in_function or isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        )
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside, for_types)

    def targets(node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                up = node.level - 1 if is_package else node.level
                parts = parts[: len(parts) - up]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            if base.split(".")[0] != "qwick":
                return [base]
            return [f"{base}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Call) and called(node.func) in ("import_module", "__import__"):
            return [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
        return []

    yield from walk(tree, False, False)


def called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def is_type_checking(test: ast.expr) -> bool:
    return called(test) == "TYPE_CHECKING"


def within(name: str, area: str) -> bool:
    return name == area or name.startswith(area + ".")


def rule_of(name: str) -> str | None:
    """Return the layer whose rule governs the module `name` (without "qwick."), or None."""
    fitting = [layer for layer in ALLOWED if within(name, layer)]
    return max(fitting, key=len, default=None)


def breaches(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return what a file breaks, one line each; `module` is its absolute name."""
    found = []
    name = module.removeprefix("qwick").lstrip(".")
    area = name.split(".")[0]
    if area not in ("", "__main__", "cli") and rule_of(name) is None:
        found.append(f"{module}: no layer of that name; add it to the table")
    for item in imports(ast.parse(source), module, is_package):
        where = f"{module}:{item.line} imports {item.target}"
        top = item.target.split(".")[0]
        if top == "qwick":
            found += [f"{where}: {why}" for why in inner_breach(name, area, item)]
        elif not (
            item.in_function
            or item.for_types
            or top in sys.stdlib_module_names
            or top in (*AT_LOAD.get(area, ()), *EVERYWHERE)
        ):
            found.append(f"{where}: not while loading; import it in the function that uses it")
    return found


def inner_breach(name: str, area: str, item: Import) -> Iterator[str]:
    target = item.target.removeprefix("qwick").lstrip(".")
    if within(item.target, EXTENSION) and f"qwick.{name}" != EXTENSION_USER:
        yield f"only {EXTENSION_USER} imports the extension"
    if area in ("", "__main__"):
        if target and not item.for_types and not item.in_function:
            yield "the package's front imports nothing while it loads"
        return
    if within(target, "cli") and area != "cli":
        yield "nobody imports cli"
    elif within(target, "server") and area not in ("server", "cli"):
        yield "nobody imports server"
    elif area == "cli":
        free = ("cli", "errors", "settings")
        if not item.in_function and not item.for_types and not any(within(target, x) for x in free):
            yield "cli imports other layers inside functions"
    elif not may_import(name, target):
        yield f"not allowed for {rule_of(name)}"


def may_import(name: str, target: str) -> bool:
    own = rule_of(name)
    if own is None:
        return False
    if any(within(target, free) for free in ANYONE) and own not in ("errors",):
        return True
    if rule_of(target) == own or any(within(target, allowed) for allowed in ALLOWED[own]):
        return True
    # `server` may import its own part with stricter rules; the part may not look back.
    return rule_of(target) is not None and within(str(rule_of(target)), own)


def modules() -> list[tuple[Path, str, bool]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ["qwick", *path.relative_to(SOURCE).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        found.append((path, ".".join(parts[:-1] if is_package else parts), is_package))
    return found


def test_the_package_keeps_its_layers() -> None:
    found = []
    files = modules()
    for path, module, is_package in files:
        found += breaches(path.read_text("utf-8"), module, is_package)
    assert len(files) > 10
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("qwick.quant.types", "from qwick.formats import checkpoint"),
        ("qwick.quant.types", "from qwick import engine"),
        ("qwick.quant.types", "import qwick.model.arch"),
        ("qwick.quant.types", "from ..model import arch"),
        ("qwick.quant.types", "def f():\n    from qwick.hub import store"),
        ("qwick.quant.types", "if TYPE_CHECKING:\n    from qwick.hub import Store"),
        ("qwick.quant.types", "import importlib\nimportlib.import_module('qwick.hub')"),
        ("qwick.choose.plan", "from qwick.model import decoder"),
        ("qwick.llm", "from qwick.cli import main"),
        ("qwick.llm", "from qwick import server"),
        ("qwick.llm", "from qwick import Qwen"),
        ("qwick.model.layers", "from qwick.native import _native"),
        ("qwick.native.reference", "from ._native import matmul"),
        ("qwick.server.ui.page", "from qwick.server import auth"),
        ("qwick.errors", "from qwick import settings"),
        ("qwick.cli.run", "from qwick import hub"),
        ("qwick.cli.run", "import rich"),
        ("qwick.hub.sources", "import httpx"),
        ("qwick.text.tokenizer", "import tokenizers"),
        ("qwick.hub.sources", "try:\n    import numpy\nexcept ImportError:\n    pass"),
        ("qwick.engine.engine", "class A:\n    import torch"),
        ("qwick.somewhere", "import os"),
        ("qwick", "from qwick.llm import Qwen"),
    ],
)
def test_the_checker_sees_a_breach(module: str, source: str) -> None:
    assert len(breaches(source, module, is_package=module == "qwick")) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "qwick.quant.decode",
            "import numpy as np\nfrom qwick.native import ops\nfrom . import types",
        ),
        ("qwick.choose.plan", "from qwick.model.arch import Arch\nfrom qwick.hub import Store"),
        ("qwick.native.ops", "from qwick.native import _native"),
        (
            "qwick.cli.run",
            "import click\ndef f():\n    import rich\n    from qwick.llm import Qwen",
        ),
        ("qwick.cli.run", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rich"),
        ("qwick.hub.sources", "from qwick.errors import DownloadError\nimport zipfile"),
        ("qwick.server.app", "from qwick.server.ui import page"),
        ("qwick.evaluate.perplexity", "def f():\n    import torch"),
    ],
)
def test_the_checker_lets_the_rest_pass(module: str, source: str) -> None:
    assert breaches(source, module) == []


def test_relative_imports_are_resolved() -> None:
    tree = ast.parse("from . import a\nfrom .b import c\nfrom ..d import e")
    of_file = [item.target for item in imports(tree, "qwick.hub.store", False)]
    assert of_file == ["qwick.hub.a", "qwick.hub.b.c", "qwick.d.e"]
    of_package = [item.target for item in imports(tree, "qwick.hub", True)]
    assert of_package == ["qwick.hub.a", "qwick.hub.b.c", "qwick.d.e"]
