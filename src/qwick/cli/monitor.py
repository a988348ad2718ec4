"""`qwick monitor`: a running server, live in the terminal, or once for a script."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from qwick import settings
from qwick.cli.show import json_option, print_json, size_text
from qwick.cli.visible import one_line
from qwick.errors import (
    AuthenticationError,
    EngineError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["monitor"]

TIMEOUT = 10.0  # seconds for an answer
PROBE_TIMEOUT = 600.0
SHOWN = 8  # requests
UNHEALTHY = 1  # exit code of a verdict other than healthy
COLOURS = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}


@click.command(short_help="Watch a server.")
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, help="Where the server is."
)
@click.option("--key", metavar="KEY", help="An admin's API key; default: QWICK_API_KEY.")
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True)
@click.option("--once", is_flag=True, help="Show it once; exit code 1 unless it is healthy.")
@click.option("--probe", is_flag=True, help="Put a few prompts to the server, and show how it did.")
@json_option
def monitor(
    url: str, key: str | None, interval: float, once: bool, probe: bool, as_json: bool
) -> None:
    """Show models, speed, the last requests and a verdict of the server at --url, until Ctrl-C."""
    key = settings.API_KEY.get() if key is None else key
    if probe:
        found = _ask(url, "/v1/monitor/probe", key, post=True)
    elif once or as_json:
        found = _ask(url, "/v1/monitor", key)
    else:
        _watch(url, key, interval)
        return
    if as_json:
        print_json(found)
    else:
        from rich.console import Console

        Console().print(_probe_view(found) if probe else _view(found, url))
    if found["verdict"]["status"] != "healthy":
        raise SystemExit(UNHEALTHY)


def _ask(url: str, path: str, key: str | None, *, post: bool = False) -> dict[str, Any]:
    """Return a JSON answer; raises the error that the server told, or that there is none."""
    import httpx

    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        response = httpx.request(
            "POST" if post else "GET",
            url.rstrip("/") + path,
            headers=headers,
            timeout=PROBE_TIMEOUT if post else TIMEOUT,
        )
        found = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise EngineError(
            f"no qwick server answers at {url}: {one_line(str(error) or type(error).__name__)}",
            hint="`qwick serve` starts one; --url says where it is",
        ) from None
    if response.status_code == 200 and isinstance(found, dict):
        return found
    told = found.get("error", {}) if isinstance(found, dict) else {}
    message = one_line(str(told.get("message", f"status {response.status_code}")))
    if response.status_code == 401:
        raise AuthenticationError(message, hint="give a key: --key, or QWICK_API_KEY")
    if response.status_code == 403:
        raise PermissionDeniedError(message, hint="give an admin's key: --key, or QWICK_API_KEY")
    raise EngineError(message, hint="see the server's log")


def _watch(url: str, key: str | None, interval: float) -> None:
    from rich.live import Live

    first = _view(_ask(url, "/v1/monitor", key), url)
    with Live(first, screen=False, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            try:
                live.update(_view(_ask(url, "/v1/monitor", key), url), refresh=True)
            except EngineError as error:  # it may come back
                live.update(f"[red]{error.message}[/]", refresh=True)


def _view(found: dict[str, Any], url: str) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    server = found["server"]
    head = Text.assemble(
        ("qwick ", "bold"),
        f"{server['version']} at {url} · up {_span(server['uptime'])} · "
        f"{_bytes(server['memory'])} · {server['under_way']} under way",
    )
    parts = [head, _verdict(found["verdict"]), _models(found["models"])]
    parts += [_averages(found["averages"]), _last(found["last"])]
    return Group(*parts)


def _probe_view(found: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    return Group(_verdict(found["verdict"]), _averages(found["averages"]), _last(found["rows"]))


def _verdict(found: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    status = str(found["status"])
    text = Text(one_line(status), style=f"bold {COLOURS.get(status, 'white')}")
    for reason in found["reasons"]:
        text.append(f"\n  {one_line(reason)}", style="not bold")
    for step in found["recommendations"]:
        text.append(f"\n  → {one_line(step)}", style="not bold dim")
    return text


def _models(models: list[dict[str, Any]]) -> Table:
    table = _table("model", "state", "running", "waiting", "cache", "memory", "restarts")
    for model in models:
        table.add_row(
            one_line(model["name"]),
            one_line(model["state"]),
            str(model["running"]),
            str(model["waiting"]),
            f"{model['cache_used']:.0%}",
            _bytes(model["memory"]),
            str(model["restarts"]),
        )
    return table


def _averages(found: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    speed = found["tokens_per_second"]
    return Text(
        f"last {found['count']}: {'-' if speed is None else f'{speed:.1f}'} tok/s · first token "
        f"{_ms(found['ttft_p50'])} (p95 {_ms(found['ttft_p95'])}) · per token "
        f"{_ms(found['tpot_p50'])} (p95 {_ms(found['tpot_p95'])}) · whole "
        f"{_ms(found['latency_p50'])} (p95 {_ms(found['latency_p95'])}) · "
        f"{found['errors']} failed, {found['cancelled']} cancelled"
    )


def _last(records: list[dict[str, Any]]) -> Table:
    table = _table("at", "model", "status", "end", "prompt", "cached", "answer", "first", "tok/s")
    for record in records[:SHOWN]:
        table.add_row(
            time.strftime("%H:%M:%S", time.localtime(record["time"])),
            one_line(record["model"]),
            str(record["status"]),
            one_line(record["finish"]),
            str(record["prompt_tokens"]),
            str(record["cached_tokens"]),
            str(record["completion_tokens"]),
            _ms(record["ttft"]),
            f"{record['tokens_per_second']:.1f}",
        )
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _bytes(size: int | None) -> str:
    return "-" if size is None else size_text(size)


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
