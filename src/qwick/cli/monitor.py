"""`qwick monitor`: a running server, live in the terminal, or once for a script.

Knows a server by its HTTP answers alone, and trusts nothing in them: they are shown as plain text,
and what is no report is an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from qwick import settings
from qwick.cli.show import json_option, print_json, size_text
from qwick.cli.visible import one_line
from qwick.errors import AuthenticationError, EngineError, PermissionDeniedError, UsageError

if TYPE_CHECKING:
    import ssl

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

__all__ = ["monitor"]

TIMEOUT = 10.0  # seconds for an answer
PROBE_TIMEOUT = 600.0
SHOWN = 8  # requests
WIDEST = 10_000  # columns
UNHEALTHY = 1  # exit code of a verdict other than healthy
COLOURS = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}
# What another shape of JSON raises.
NO_REPORT = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
LATEST = 253_402_300_000.0  # the year 9999, in seconds since 1970


@click.command(short_help="Watch a server.")
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, help="Where the server is."
)
@click.option("--key", metavar="KEY", help="An admin's API key; default: QWICK_API_KEY.")
@click.option(
    "--ca", metavar="FILE", help="PEM file of a certificate, or its authority's, to trust."
)
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True)
@click.option("--once", is_flag=True, help="Show it once; exit code 1 unless it is healthy.")
@click.option("--probe", is_flag=True, help="Put a few prompts to the server, and show how it did.")
@json_option
def monitor(
    *,
    url: str,
    key: str | None,
    ca: str | None,
    interval: float,
    once: bool,
    probe: bool,
    as_json: bool,
) -> None:
    """Show models, speed, the last requests and a verdict of the server at --url, until Ctrl-C.

    With --once, --json or --probe it is shown once, and the exit code is 1 unless the verdict is
    healthy.
    """
    key = (settings.API_KEY.get() if key is None else key) or None
    trusted = None if ca is None else _trusted(ca)
    if not (once or probe or as_json):
        _watch(url, key, trusted, interval)
        return
    path = "/v1/monitor/probe" if probe else "/v1/monitor"
    found = _ask(url, path, key, trusted, post=probe)
    view = _view(found, url)
    if as_json:
        print_json(found)
    else:
        from rich.console import Console

        Console().print(view)
    if found["verdict"]["status"] != "healthy":
        raise SystemExit(UNHEALTHY)


def _trusted(ca: str) -> ssl.SSLContext:
    """Return what trusts the certificates of this file alone; UsageError where it has none."""
    import ssl

    from qwick.values import a_path

    path = a_path("--ca", ca, "a PEM file")
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--ca is {ca!r:.100}, which cannot be used: {error}",
            hint="give a PEM file: the server's --tls-certificate, or that of who signed it",
        ) from None


def _ask(
    url: str, path: str, key: str | None, trusted: ssl.SSLContext | None, *, post: bool = False
) -> dict[str, Any]:
    """Return a JSON answer; raises the error that the server told, or that there is none.

    trusted: what to trust instead of the usual authorities.
    """
    import httpx

    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    if key is not None and not (key.isascii() and key.isprintable()):
        message = "the key is none of a qwick server: those have plain letters and digits"
        raise AuthenticationError(message, hint="give a key: --key, or QWICK_API_KEY")
    try:
        host = httpx.URL(url).host
        response = httpx.request(
            "POST" if post else "GET",
            url.rstrip("/") + path,
            headers=headers,
            timeout=PROBE_TIMEOUT if post else TIMEOUT,
            # A proxy that the environment names has no way to this machine, and need see no key.
            trust_env=not (host in ("localhost", "::1") or host.startswith("127.")),
            verify=True if trusted is None else trusted,
        )
        found = response.json()
    except httpx.ConnectError as error:
        distrust = _distrust(error)
        if distrust is None:
            raise _none(url, str(error) or type(error).__name__) from None
        raise EngineError(
            f"the certificate of {one_line(url)} is not trusted: {one_line(distrust)}",
            hint="--ca names a PEM file to trust: the server's --tls-certificate, or that of who "
            "signed it; --url must name the server as it does",
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
        raise _none(url, str(error) or type(error).__name__) from None
    if not isinstance(found, dict):
        raise _none(url, "its answer is no report")
    if response.status_code == 200:
        return found
    told = found.get("error")
    if not isinstance(told, dict) or not isinstance(told.get("message"), str):
        raise _none(url, f"its answer has the status {response.status_code}")
    message = one_line(told["message"])
    if response.status_code == 401:
        raise AuthenticationError(message, hint="give a key: --key, or QWICK_API_KEY")
    if response.status_code == 403:
        raise PermissionDeniedError(message, hint="give an admin's key: --key, or QWICK_API_KEY")
    raise EngineError(message, hint="see the server's log")


def _distrust(error: BaseException) -> str | None:
    """Return what is wrong with the server's certificate; None where something else is."""
    import ssl

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return None if cause is None else cause.verify_message


def _none(url: str, why: str) -> EngineError:
    return EngineError(
        f"no qwick server answers at {one_line(url)}: {one_line(why)}",
        hint="`qwick serve` starts one; --url says where it is",
    )


def _watch(url: str, key: str | None, trusted: ssl.SSLContext | None, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    first = _fitting(_ask(url, "/v1/monitor", key, trusted), url, console)
    with Live(first, console=console, screen=False, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            try:
                view = _fitting(_ask(url, "/v1/monitor", key, trusted), url, console)
                live.update(view, refresh=True)
            except EngineError as error:  # it may come back
                live.update(_text(error.message, "red"), refresh=True)


def _fitting(found: dict[str, Any], url: str, console: Console) -> RenderableType:
    """Return a report with as many requests as the window has room for; with less, without advice.

    What is longer than the window would be cut where it hurts: at its end.
    """
    view = _view(found, url, 0, brief=True)
    for shown, brief in [*((n, False) for n in range(SHOWN, -1, -1)), (0, True)]:
        view = _view(found, url, shown, brief=brief)
        if len(console.render_lines(view, pad=False)) <= console.height:
            break
    return view


def _view(
    found: dict[str, Any], url: str, shown: int = SHOWN, *, brief: bool = False
) -> RenderableType:
    """Return what a report, or that of a probe, looks like; EngineError where it is neither.

    shown: requests. brief: without advice and averages.
    """
    from rich.console import Group

    try:
        parts: list[RenderableType] = [_verdict(found["verdict"], advice=not brief)]
        if "rows" in found:  # a probe
            return Group(*parts, _averages(found["averages"]), _last(found["rows"], shown))
        parts.append(_models(found["models"]))
        averages, last = _averages(found["averages"]), _last(found["last"], shown)
        parts += [] if brief else [averages]
        parts += [last] if shown else []
        return Group(_head(found["server"], url), *parts)
    except NO_REPORT:
        raise _none(url, "its answer is no report") from None


def _head(server: dict[str, Any], url: str) -> RenderableType:
    from rich.text import Text

    told = (
        f"{server['version']} at {url} · up {_span(server['uptime'])} · "
        f"{_bytes(server['memory'])} · {server['under_way']} under way"
    )
    return Text.assemble(("qwick ", "bold"), one_line(told))


def _verdict(found: dict[str, Any], *, advice: bool) -> RenderableType:
    status = str(found["status"])
    text = _text(status, f"bold {COLOURS.get(status, 'white')}")
    for reason in found["reasons"]:
        text.append(f"\n  {one_line(reason)}", style="not bold")
    for step in found["recommendations"] if advice else ():
        text.append(f"\n  → {one_line(step)}", style="not bold dim")
    return text


def _models(models: list[dict[str, Any]]) -> RenderableType:
    rows = (
        (
            model["name"],
            model["state"],
            model["running"],
            model["waiting"],
            f"{model['cache_used']:.0%}",
            _bytes(model["memory"]),
            model["restarts"],
        )
        for model in models
    )
    return _table(("model", "state", "running", "waiting", "cache", "memory", "restarts"), rows)


def _averages(found: dict[str, Any]) -> RenderableType:
    speed = found["tokens_per_second"]
    return _text(
        f"last {found['count']}: {'-' if speed is None else f'{speed:.1f}'} tok/s · first token "
        f"{_ms(found['ttft_p50'])} (p95 {_ms(found['ttft_p95'])}) · per token "
        f"{_ms(found['tpot_p50'])} (p95 {_ms(found['tpot_p95'])}) · whole "
        f"{_ms(found['latency_p50'])} (p95 {_ms(found['latency_p95'])}) · "
        f"{found['errors']} failed, {found['turned_away']} turned away, "
        f"{found['cancelled']} cancelled"
    )


def _last(records: list[dict[str, Any]], shown: int) -> RenderableType:
    rows = (
        (
            time.strftime("%H:%M:%S", time.localtime(min(max(0.0, record["time"]), LATEST))),
            record["model"],
            record["status"],
            record["finish"],
            record["prompt_tokens"],
            record["cached_tokens"],
            record["completion_tokens"],
            _ms(record["ttft"]),
            f"{record['tokens_per_second']:.1f}",
        )
        for record in records[:shown]
    )
    header = ("at", "model", "status", "end", "prompt", "cached", "answer", "first", "tok/s")
    return _table(header, rows)


def _table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> _Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in header:
        table.add_column(column, no_wrap=True)
    lines = []
    for row in rows:
        cells = [str(cell) for cell in row]
        table.add_row(*map(_text, cells))
        lines.append(_text(" · ".join(map(" ".join, zip(header, cells, strict=True)))))
    return _Table(table, lines)


class _Table:
    """A table; where the window is too narrow for it, its rows as lines, which are wrapped."""

    def __init__(self, table: Table, lines: list[Text]) -> None:
        self._table, self._lines = table, lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.measure import Measurement

        width = Measurement.get(console, options.update(max_width=WIDEST), self._table).maximum
        if width <= options.max_width:
            yield self._table
        else:
            yield from self._lines


def _text(text: str, style: str = "") -> Text:
    """Return a text of whoever as it is: rich would take [words] in a str for markup."""
    from rich.text import Text

    return Text(one_line(text), style=style)


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
