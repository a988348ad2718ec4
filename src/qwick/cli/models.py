"""`qwick models`: fetch checkpoints, list them, show one, remove one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qwick.cli.progress import listening
from qwick.cli.show import json_option, print_json, print_table, size_text

if TYPE_CHECKING:
    from pathlib import Path

    from qwick.hub import Stored

__all__ = ["models"]


@click.group(invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """Fetch, list, show and remove checkpoints."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
def pull(names: tuple[str, ...], as_json: bool) -> None:
    """Fetch checkpoints into the store and verify them (without a name: the default one)."""
    from qwick import hub

    store = hub.Store()
    found = [store.entry(name) for name in names or (hub.DEFAULT,)]  # refuse before fetching any
    rows = []
    for entry in found:
        with listening() as listener:
            path = store.pull(entry.name, listener)
        rows.append(_facts(store.show(entry.name)))
        if not as_json:
            click.echo(path)
    if as_json:
        print_json({"pulled": rows})


@models.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the checkpoints that qwick knows, and which are in the store."""
    from qwick import hub

    store = hub.Store()
    rows = [_facts(stored) for stored in store.list()]
    if as_json:
        print_json({"store": str(store.home), "default": hub.DEFAULT, "models": rows})
        return
    print_table(
        ("NAME", "SIZE", "STATE", "LICENCE"),
        [(r["name"], size_text(r["size"]), r["state"], r["license"]) for r in rows],
    )


@models.command()
@click.argument("name", metavar="NAME|PATH")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what is known about a checkpoint of the catalogue, or of a file or folder."""
    from qwick import hub

    is_path = hub.looks_like_path(name) or (
        hub.find(name) is None and hub.existing_path(name) is not None
    )
    facts = _facts_of_path(hub.resolve(name)) if is_path else _facts(hub.Store().show(name))
    if as_json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        text = f"{value:,} bytes" if key == "size" else str(value)
        if value is not None and not isinstance(value, list):
            click.echo(f"{key.ljust(width)}  {text}")


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
def rm(names: tuple[str, ...], as_json: bool) -> None:
    """Remove checkpoints from the store."""
    from qwick import hub

    store = hub.Store()
    found = [store.entry(name) for name in names]  # refuse before removing any
    rows = []
    for entry in found:
        freed = store.remove(entry.name)
        rows.append({"name": entry.name, "freed": freed})
        if not as_json:
            click.echo(f"removed {entry.name}: {size_text(freed)} freed")
    if as_json:
        print_json({"removed": rows})


def _facts_of_path(path: Path) -> dict[str, Any]:
    """Return what a file or folder says of itself; raises as `open_checkpoint`."""
    from qwick.formats.open import open_checkpoint

    with open_checkpoint(path) as checkpoint:
        return {
            "name": checkpoint.name,
            "author": checkpoint.author,
            "license": checkpoint.license,
            "format": checkpoint.format,
            "model_type": checkpoint.config["model_type"],
            "parts": len(checkpoint.files),
            "size": checkpoint.size_bytes,
            "path": str(path),
            "files": [str(file) for file in checkpoint.files],
        }


def _facts(stored: Stored) -> dict[str, Any]:
    """Return what is known of a checkpoint, as plain values."""
    entry = stored.entry
    return {
        "name": entry.name,
        "title": entry.title,
        "author": entry.author,
        "license": entry.license,
        "repository": entry.repository,
        "file": entry.file,
        "size": entry.size,
        "sha256": entry.sha256,
        "state": stored.state,
        "path": str(stored.path),
    }
