"""`qwick keys`: make, list and revoke the server's API keys, and read what its log tells."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.show import json_option, print_json, print_table
from qwick.cli.visible import one_line

if TYPE_CHECKING:
    from qwick.server.audit import Event
    from qwick.server.keys import Key, KeyRing

__all__ = ["keys"]

MOST_EVENTS = 1_000_000
RATE = "COUNT/UNIT"


@click.group(invoke_without_command=True)
@click.pass_context
def keys(ctx: click.Context) -> None:
    """Make, list and revoke the API keys of the server, and read its audit log.

    A running server hears of every change with the next request.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@keys.command()
@click.argument("name")
@click.option("--expires", metavar="SPAN|DATE", help="Such as 12h, 30d, 2w or 2030-12-31 (UTC).")
@click.option("--preset", metavar="NAME", help="Limits by name: modest.")
@click.option("--requests", metavar=RATE, help="Such as 100/hour; per second, minute or day too.")
@click.option("--tokens", metavar=RATE, help="Of prompts and answers, such as 20000/day.")
@click.option("--concurrent", metavar="COUNT", help="Answers under way at once.")
@click.option("--max-tokens", metavar="COUNT", help="Tokens of one answer.")
@click.option("--max-characters", metavar="COUNT", help="Characters of one request.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model that it may use.")
@click.option("--admin", is_flag=True, help="It may also read /v1/monitor and /metrics.")
@json_option
def create(
    name: str,
    expires: str | None,
    preset: str | None,
    requests: str | None,
    tokens: str | None,
    concurrent: str | None,
    max_tokens: str | None,
    max_characters: str | None,
    models: tuple[str, ...],
    admin: bool,
    as_json: bool,
) -> None:
    """Make a key and print it, this once: only its hash is kept.

    What no option limits is not limited; `none` lifts a limit of the preset. --model may be given
    several times; without it the key may use every model.
    """
    from qwick.server.keys import KeyRing, parse_expiry
    from qwick.server.limits import Limits

    limits = Limits.parse(
        preset=preset,
        requests=requests,
        tokens=tokens,
        concurrent=concurrent,
        max_tokens=max_tokens,
        max_characters=max_characters,
        models=models or None,
    )
    until = None if expires is None else parse_expiry(expires, time.time())
    key, text = KeyRing().create(name, expires=until, limits=limits, admin=admin)
    if as_json:
        print_json({"key": text, **_facts(key)})
    else:
        click.echo(text)
        about = f"{key.id} ({one_line(key.name)}); limits: {one_line(str(key.limits))}"
        click.echo(f"made the key {about}", err=True)
    click.echo("keep it now: it is shown this once and cannot be had again", err=True)


@keys.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the keys, without their secrets."""
    from qwick.server.keys import KeyRing

    ring = KeyRing()
    rows = [_facts(key) for key in ring.all()]
    if as_json:
        print_json({"file": str(ring.path), "keys": rows})
        return
    if not rows:
        click.echo(f"there are no keys in {ring.path}")
        return
    print_table(
        ("ID", "NAME", "STATE", "CREATED", "EXPIRES", "ADMIN", "LIMITS"),
        [
            (
                *(row["id"], one_line(row["name"]), row["state"], row["created"]),
                *(row["expires"] or "-", "yes" if row["admin"] else "-"),
                one_line(str(key.limits)),
            )
            for key, row in zip(ring.all(), rows, strict=True)
        ],
    )


@keys.command()
@click.argument("key", metavar="ID|NAME")
@json_option
def revoke(key: str, as_json: bool) -> None:
    """Let a key in no more, from the next request on. It cannot be undone."""
    from qwick.server.keys import KeyRing

    facts = _facts(KeyRing().revoke(key))
    if as_json:
        print_json(facts)
    else:
        click.echo(f"revoked {facts['id']} ({one_line(facts['name'])}), {facts['revoked']}")


@keys.command()
@json_option
def prune(as_json: bool) -> None:
    """Delete the keys that are revoked or expired; the audit log goes on telling of them."""
    from qwick.server.keys import KeyRing

    rows = [_facts(key) for key in KeyRing().prune()]
    if as_json:
        print_json({"deleted": rows})
        return
    for row in rows:
        click.echo(f"deleted {row['id']} ({one_line(row['name'])}), {row['state']}")
    if not rows:
        click.echo("there is no revoked or expired key")


@keys.command()
@click.option("--last", type=click.IntRange(1, MOST_EVENTS), default=50, show_default=True)
@json_option
def audit(last: int, as_json: bool) -> None:
    """Show what happened to keys, and who was refused and why.

    Users and keys stand there under pseudonyms; for a key that `qwick keys list` has, its id and
    name are shown.
    """
    from qwick.server import audit
    from qwick.server.keys import KeyRing

    ring = KeyRing()
    found = audit.read_all(ring.path.parent, last)
    names = _names(ring, found.events)
    events = [{**event, **names.get(event.get("key", ""), {})} for event in found.events]
    if as_json:
        print_json({"events": events, "unreadable": found.unreadable})
        return
    if events:
        print_table(("TIME", "EVENT", "KEY", "DETAILS"), [_row(event) for event in events])
    else:
        click.echo(f"nothing has happened that {ring.path.parent} tells of")
    if found.unreadable:
        click.echo(f"lines that cannot be read (cut by a kill or a full disk): {found.unreadable}")


def _facts(key: Key) -> dict[str, Any]:
    """Return what may be shown of a key, as plain values."""
    from qwick.server.audit import utc_text

    times = {name: getattr(key, name) for name in ("created", "expires", "revoked")}
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(time.time()),
        **{name: None if at is None else utc_text(at) for name, at in times.items()},
        "admin": key.admin,
        "limits": key.limits.to_json(),
    }


def _names(ring: KeyRing, events: list[Event]) -> dict[str, dict[str, str]]:
    """Return id and name by pseudonym, of the keys that there are."""
    from qwick.server.pseudonyms import Pseudonyms

    if not any("key" in event for event in events):
        return {}
    pseudonyms = Pseudonyms(ring.path.parent)
    return {
        pseudonyms.of("key", key.id): {"key_id": key.id, "key_name": key.name} for key in ring.all()
    }


def _row(event: Event) -> tuple[str, str, str, str]:
    names = ("time", "event", "key", "key_id", "key_name")
    key = event.get("key_id", event.get("key", "-"))
    if "key_name" in event:
        key = f"{key} ({event['key_name']})"
    rest = ", ".join(f"{name} {value}" for name, value in event.items() if name not in names)
    return one_line(event["time"]), one_line(event["event"]), one_line(str(key)), one_line(rest)
