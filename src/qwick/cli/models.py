"""`qwick models`: fetch checkpoints, list, show and remove them, and look after the store.

What is told of the published ones: catalog.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qwick.cli.catalog import compare, in_catalog, print_model, search, series, unknown
from qwick.cli.facts import model_facts
from qwick.cli.offline import offline_option, source_option
from qwick.cli.progress import listening
from qwick.cli.show import (
    json_option,
    markdown_option,
    print_json,
    print_markdown,
    print_pairs,
    print_table,
    size_text,
)
from qwick.errors import DigestError, ModelNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from qwick.hub import Checked, Stored

__all__ = ["models"]


@click.group(invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """Fetch, list, show, verify and remove checkpoints, and clear up the store."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for verb in (search, compare, series):
    models.add_command(verb)


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--revision", help="The branch, tag or commit to take; default: the main branch.")
@source_option
@offline_option
@json_option
def pull(names: tuple[str, ...], revision: str | None, as_json: bool) -> None:
    """Fetch checkpoints into the store and verify them (without a name: the default one).

    NAME is a name of the catalog, with or without a format (qwen3-8b:q4_k_m), or a repository
    ([hf:|ms:]owner/name[@revision][:format or file]).
    """
    from qwick import hub

    wanted = list(names or (hub.DEFAULT,))
    if revision is not None:
        wanted = [hub.at_revision(name, revision) for name in wanted]
    store = hub.Store()
    for name in wanted:  # refuse before fetching any
        if store.find(name) is None:
            store.wanted(name)
    rows = []
    for name in wanted:
        with listening() as listener:
            path = store.pull(name, listener)
        rows += [_facts(stored) for stored in store.list() if stored.path == path]
        if not as_json:
            click.echo(path)
    if as_json:
        print_json({"pulled": rows})


@models.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List what is in the store, and the default checkpoint."""
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
@markdown_option
def show(name: str, as_json: bool, as_markdown: bool) -> None:
    """Show what is known of a published checkpoint, of one in the store, or of a file or folder."""
    from qwick import hub

    store, stored, model = hub.Store(), None, in_catalog(name)
    kept = store.find(name) is not None
    if hub.looks_like_path(name) or (  # as hub.resolve sees it, which opens what is meant
        not kept and hub.existing_path(name) is not None
    ):
        stored, model = _facts_of_path(hub.resolve(name)), None
    elif kept:
        stored = _facts(store.show(name))
    elif model is None:
        raise unknown(name)
    if as_json:
        facts = {"name": model.id} if stored is None and model is not None else stored or {}
        print_json(facts if model is None else {**facts, "catalog": model_facts(model)})
        return
    if stored is not None:
        shown = ((k, f"{v:,} bytes" if k == "size" else str(v)) for k, v in stored.items())
        known = {k for k, v in stored.items() if v is not None and not isinstance(v, list)}
        pairs = [(key, text) for key, text in shown if key in known]
        if as_markdown:
            print_markdown(("FACT", "VALUE"), pairs)
        else:
            print_pairs(pairs)
    if model is not None:
        if stored is not None:
            click.echo()
        print_model(model, as_markdown=as_markdown)


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
        with listening() as listener:
            freed = store.remove(entry.name, listener)
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


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Hash what is in the store (without a name: all of it) and say what is damaged or missing.

    A sound file is trusted from then on, a damaged one no longer. Exit code 4: something is
    damaged; 3: a NAME is not in the store.
    """
    from qwick import hub

    store = hub.Store()
    stored = [s.entry.name for s in store.list() if s.state != "missing"]
    wanted = [store.entry(name).name for name in names] or stored
    found = []
    for name in wanted:
        with listening() as listener:
            found.append(hub.verify(store, name, listener))
        if not as_json:
            click.echo(f"{found[-1].verdict.ljust(7)}  {name}")
    if as_json:
        print_json({"store": str(store.home), "verified": [_checked(one) for one in found]})
    elif not found:
        click.echo(f"nothing is in the store {store.home}")
    _raise_worst(found)


@models.command()
@json_option
def du(as_json: bool) -> None:
    """Show the bytes of the store: checkpoints, partial downloads, the rest, and what is free."""
    from qwick import hub

    usage = hub.usage(hub.Store())
    if as_json:
        rows = [
            {
                "name": r.name,
                "state": r.state,
                "file": r.file,
                "partial": r.partial,
                "other": r.other,
            }
            for r in usage.checkpoints
        ]
        facts = {"store": str(usage.home), "checkpoints": rows, "caches": dict(usage.caches)}
        print_json({**facts, "total": usage.total, "free": usage.free})
        return

    def row(name: str, state: str, *sizes: int) -> tuple[str, ...]:
        return (name, *(size_text(count) if count else "-" for count in sizes), state)

    print_table(
        ("WHAT", "CHECKPOINT", "PARTIAL", "OTHER", "STATE"),
        [
            *(row(r.name, r.state, r.file, r.partial, r.other) for r in usage.checkpoints),
            *(
                row(f"{name}/" if (usage.home / name).is_dir() else name, "", 0, 0, count)
                for name, count in usage.caches
            ),
        ],
    )
    click.echo(f"{size_text(usage.total)} in {usage.home}; {size_text(usage.free)} free")


@models.command()
@click.option("--dry-run", is_flag=True, help="Delete nothing: only show what would go.")
@json_option
def prune(dry_run: bool, as_json: bool) -> None:
    """Delete partial downloads, stale locks and files that belong to no known checkpoint.

    What a running pull works on stays, and so does every checkpoint that `qwick models list` has.
    """
    from qwick import hub

    done = hub.prune(hub.Store(), dry_run=dry_run)
    if as_json:
        rows = [{"path": str(i.path), "kind": i.kind, "size": i.size} for i in done.deleted]
        facts = {"dry_run": dry_run, "deleted": rows, "busy": list(done.busy)}
        print_json({**facts, "freed": done.freed})
        return
    verb = "would delete" if dry_run else "deleted"
    for item in done.deleted:
        click.echo(f"{verb} {item.path} ({item.kind}, {size_text(item.size)})")
    for name in done.busy:
        click.echo(f"left alone: {name}, which another process is busy with")
    click.echo(f"{size_text(done.freed)} {'would be freed' if dry_run else 'freed'}")


def _checked(one: Checked) -> dict[str, Any]:
    """Return what hashing a checkpoint has shown, as plain values."""
    return {
        "name": one.entry.name,
        "verdict": one.verdict,
        "path": str(one.path),
        "files": [
            {
                "path": str(checked.path),
                "verdict": checked.verdict,
                "expected": checked.file.digest,
                "found": checked.found,
            }
            for checked in one.files
        ],
    }


def _raise_worst(found: list[Checked]) -> None:
    """Raise DigestError if a file is damaged, ModelNotFoundError if one is missing."""
    damaged = [one for one in found if one.verdict == "damaged"]
    missing = [one for one in found if one.verdict == "missing"]
    if damaged:
        texts = (
            f"{bad.path} has the {bad.file.kind} {bad.found}, the published file has "
            f"{bad.file.digest}"
            for one in damaged
            for bad in one.files
            if bad.verdict == "damaged"
        )
        names = " ".join(one.entry.name for one in damaged)
        raise DigestError("; ".join(texts), hint=f"`qwick models pull {names}` fetches it anew")
    if missing:
        names = " ".join(one.entry.name for one in missing)
        raise ModelNotFoundError(
            f"not in the store: {', '.join(map(str, _missing(missing)))}",
            hint=f"`qwick models pull {names}` fetches it",
        )


def _missing(found: list[Checked]) -> list[Path]:
    return [file.path for one in found for file in one.files if file.verdict == "missing"]


def _facts(stored: Stored) -> dict[str, Any]:
    """Return what is known of a checkpoint, as plain values."""
    entry = stored.entry
    return {
        "name": entry.name,
        "title": entry.title,
        "author": entry.author,
        "license": entry.license,
        "repository": entry.repository,
        "revision": entry.places[0].revision,
        "size": entry.size,
        "state": stored.state,
        "path": str(stored.path),
        "files": [
            {"path": f.path, "size": f.size, "sha256": f.sha256, "git_sha1": f.blob}
            for f in entry.files
        ],
    }
