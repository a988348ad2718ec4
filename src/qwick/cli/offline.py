"""The option --offline of the verbs that may fetch: the setting QWICK_OFFLINE for one command."""

from __future__ import annotations

import click

from qwick import settings

__all__ = ["offline_option"]


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
