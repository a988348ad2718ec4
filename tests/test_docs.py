"""The documentation says what the code says: names, tables, commands, links, examples."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import qwick
import test_layers
from qwick import errors, settings
from qwick.cli import chat_commands
from qwick.cli.main import VERBS
from qwick.cli.main import qwick as command_line
from qwick.native import ops
from qwick.quant.types import StoredType
from qwick.server.observing import PATHS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "qwick"
ELSEWHERE = {  # looks like a path and is none of ours
    *("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "application/json", "/think", "/no_think"),
    *PATHS,  # a server's routes
}
COMMANDS = {f"/{name}" for name in chat_commands.COMMANDS} | {"//word", "/word"}  # of a chat
PAGES = [
    *ROOT.glob("*.md"),
    *(p for p in ROOT.glob("docs/**/*.md") if p.parent.name != "decisions"),
]
README = (ROOT / "README.md").read_text("utf-8")
STRUCTURE = (ROOT / "docs/structure.md").read_text("utf-8")

# A code span that ends so is the path of a file, from the root or from `src/qwick`.
SUFFIXES = (".py", ".pyi", ".md", ".h", ".cpp", ".inl", ".cmake", ".toml", ".txt", ".sh")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language ("" for none)."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for name, body in fences if name == language]


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table whose first header is `heading`, code marks taken off."""
    lines = text.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def plain(cell: str) -> str:
    return cell.replace("`", "")


def code_spans(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)))


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


# -- README.md -------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", ["install", "test"])
def test_marked_command_is_one_line(marker: str) -> None:
    assert README.count(f"<!-- {marker} -->\n```\n") == 1
    body = README.split(f"<!-- {marker} -->\n```\n")[1].split("```")[0]
    assert body.count("\n") == 1
    assert body.startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_readme_names_every_verb() -> None:
    shown = CliRunner().invoke(command_line, ["--help"]).output
    listed = re.findall(r"^  ([a-z]+)  ", shown.split("Commands:")[1], re.MULTILINE)
    assert listed == list(VERBS)
    for verb in listed:
        assert f"`qwick {verb}" in README
        assert f"$ qwick {verb}" in README


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        text = page.read_text("utf-8")
        lines = "".join(blocks(text, "")).splitlines()
        shown = "".join(blocks(text, "console")).splitlines()
        lines += [line.removeprefix("$ ") for line in shown if line.startswith("$ ")]
        for line in lines:
            for part in re.split(r"&&|\|", line):
                words = shlex.split(part, comments=True)
                if words and words[0] in ("qwick", ".venv/bin/qwick"):
                    yield f"{page.name}: {shlex.join(words)}", words[1:]


@pytest.mark.parametrize(
    "words", [pytest.param(words, id=name) for name, words in shown_commands()]
)
def test_shown_command_parses(words: list[str]) -> None:
    command: click.Command = command_line
    while isinstance(command, click.Group) and (words or command is not command_line):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    # raises for an unknown option or a bad value
    command.make_context("qwick", list(words)).close()


def test_python_compiles() -> None:
    found = [
        (page.name, body) for page in PAGES for body in blocks(page.read_text("utf-8"), "python")
    ]
    assert {name for name, _ in found} >= {"README.md", "getting-started.md"}
    for name, body in found:
        ast.parse(body, name)


@pytest.mark.model
@pytest.mark.usefixtures("default_checkpoint")
@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_python_runs(page: str) -> None:
    (body,) = blocks((ROOT / page).read_text("utf-8"), "python")
    done = subprocess.run(
        [sys.executable, "-c", body],
        capture_output=True,
        text=True,
        timeout=300,
        env=settings.child_environment(PYTHONPATH=str(Path(qwick.__file__).parents[1])),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "heap" in done.stdout
    if page == "README.md":
        assert done.stdout.rstrip().endswith("a + b")


# -- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    for anchor in re.findall(r"\]\(#([^)]*)\)", text):
        assert anchor in anchors


# -- docs/structure.md -----------------------------------------------------------------------------


def says_something(path: Path) -> bool:
    """Whether an __init__.py does more than to pass names on."""
    passing = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    return not all(isinstance(n, passing) for n in ast.parse(path.read_text("utf-8")).body)


def test_structure_names_every_file() -> None:
    named = code_spans(STRUCTURE)
    modules = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py" or says_something(path)
    ]
    native = [p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc").rglob("*") if p.is_file()]
    referee = [p.relative_to(ROOT).as_posix() for p in (ROOT / "bench").rglob("*.py")]
    modules += [name for name in referee if not name.endswith("__init__.py")]
    assert len(modules) > 70
    assert len(native) > 20
    assert sorted(set(modules + native) - named) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    for span in code_spans(page.read_text("utf-8")):
        for name in span.split():
            if re.fullmatch(r"[\w./-]+", name) and ("/" in name or Path(name).suffix in SUFFIXES):
                places = (SOURCE / name, ROOT / name)
                checked = any(place.exists() for place in places)
                assert checked or name.startswith(".venv/") or name in ELSEWHERE | COMMANDS, name


def defined() -> dict[str, set[str]]:
    """Return what each module and class of the package defines, by its own name; "" is all."""
    found: dict[str, set[str]] = {"": set()}
    for path in SOURCE.rglob("*.py"):
        module = path.parent.name if path.name == "__init__.py" else path.stem
        tree = ast.parse(path.read_text("utf-8"))
        owners = [(module, tree), *((n.name, n) for n in tree.body if isinstance(n, ast.ClassDef))]
        for owner, node in owners:
            names = found.setdefault(owner, set())
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    names.add(child.name)
                elif isinstance(child, ast.Assign | ast.AnnAssign):
                    targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                    names.update(t.id for t in targets if isinstance(t, ast.Name))
            found[""] |= names | {owner}
    return found


def test_the_life_of_a_request_uses_names_of_the_code() -> None:
    known = defined()
    native = "".join(path.read_text("utf-8") for path in (ROOT / "csrc").glob("*.h"))
    others = {"parse_special", "deliver", "with", "score", "embed", "classify"}  # arguments, values
    spans = code_spans(section(STRUCTURE, "The life of a request"))
    names = [span for span in spans if re.fullmatch(r"[A-Za-z_][\w.]*", span)]
    assert len(names) > 40
    for name in set(names) - others:
        owner, _, last = name.rpartition(".")
        assert last in known.get(owner, ()) or re.search(rf"struct {name}\b", native), name


def test_structure_has_the_layers_of_the_test() -> None:
    told = {
        plain(layer): tuple(plain(rest).split(", ")) if rest else ()
        for layer, rest in rows(STRUCTURE, "layer")
    }
    assert told == test_layers.ALLOWED


# -- tables ----------------------------------------------------------------------------------------


def test_settings_table() -> None:
    text = (ROOT / "docs/getting-started.md").read_text("utf-8")
    told = [tuple(map(plain, row[:3])) for row in rows(text, "variable")]
    expected = [(s.name, s.allowed.replace("`", ""), s.help) for s in settings.ALL]
    assert told == expected


def test_errors_table() -> None:
    text = (ROOT / "docs/reference/errors.md").read_text("utf-8")
    told = {}
    for name, base, code, status, when, way_out in rows(text, "error"):
        assert when
        assert way_out
        told[plain(name)] = (plain(base), int(code), int(status))
    assert told == {
        name: (kind.__mro__[1].__name__, kind.exit_code, kind.status)
        for name, kind in ((name, getattr(errors, name)) for name in errors.__all__)
    }


def test_instruction_sets_table() -> None:
    """Of every architecture, so the names are read from the sources and not asked of this build."""
    text = (ROOT / "docs/reference/instruction-sets.md").read_text("utf-8")
    told = [plain(row[0]) for row in rows(text, "name")]
    tables = (ROOT / "csrc/isa").glob("*.cpp")
    named = [re.findall(r'^    "([\w-]+)", (?:k\w+|0)', t.read_text("utf-8"), re.M) for t in tables]
    assert sorted(told) == sorted(name for names in named for name in names)
    here = [one.name for one in ops.available()]
    assert here == [name for name in told if name in here], "best first"


def test_formats_table() -> None:
    text = (ROOT / "docs/reference/formats.md").read_text("utf-8")
    told = {}
    for name, number, elements, size, bits, packed, _ in rows(text, "stored type"):
        ggml = None if number == "none" else int(number)
        told[plain(name)] = (ggml, int(elements), int(size), float(bits), plain(packed))
    assert told == {
        t.name: (t.ggml_id, t.block, t.bytes, 8 * t.bytes / t.block, t.packed) for t in StoredType
    }


def test_limits_table() -> None:
    """Each limit has its figure, and none is missing."""
    text = (ROOT / "docs/reference/formats.md").read_text("utf-8")
    told = {plain(name): int(limit.replace(",", "")) for _, limit, name in rows(text, "what")}
    modules = [path.stem for path in (SOURCE / "formats").glob("*.py")]
    names = [*(f"formats.{m}" for m in modules), "text.recognise", "text.template"]
    limits = {}
    for name in names:
        tree = ast.parse((SOURCE / (name.replace(".", "/") + ".py")).read_text("utf-8"))
        for target in [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]:
            if isinstance(target, ast.Name) and target.id.startswith("MAX_"):
                module = importlib.import_module(f"qwick.{name}")
                limits[f"{name}.{target.id}"] = getattr(module, target.id)
    assert told == limits
