"""`qwick serve`: models behind the OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from qwick.cli.fit import check_fits_here
from qwick.cli.load import load_options
from qwick.cli.offline import offline_option
from qwick.errors import UsageError

if TYPE_CHECKING:
    from qwick.server.limits import Limits

__all__ = ["serve"]


@click.command(short_help="Serve models behind the OpenAI API.")
@click.argument("models", nargs=-1, metavar="[MODEL | NAME=MODEL]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0: any free one.",
)
@load_options
@click.option(
    "--memory",
    metavar="SIZE",
    help="Memory of all loaded models, such as 8GB: the files of those that are being loaded, what "
    "the engines of the others have.",
)
@click.option("--no-drafts", is_flag=True, help="One token per step; the answers are the same.")
@click.option(
    "--places",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="Requests that one model computes at once.",
)
@click.option(
    "--waiting",
    type=click.IntRange(0, 1 << 20),
    default=256,
    show_default=True,
    help="Requests that may wait for a place.",
)
@click.option("--open-door", is_flag=True, help="Listen beyond this machine without API keys.")
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="A web page's origin that may use the server; * is all.",
)
@click.option("--tls-certificate", metavar="FILE", help="PEM file; with its key: TLS.")
@click.option("--tls-key", metavar="FILE", help="PEM file of the certificate's key.")
@click.option(
    "--policy",
    is_flag=True,
    help="Strip script tags and javascript: URLs from answers, and say so.",
)
@click.option("--log-content", is_flag=True, help="Log texts of requests and answers too.")
@click.option("--user-requests", metavar="RATE", help="Requests of each user of a key: 100/hour.")
@click.option("--user-tokens", metavar="RATE", help="Tokens of each user of a key: 20000/day.")
@click.option(
    "--user-concurrent",
    type=click.IntRange(1, 10**12),
    metavar="N",
    help="Answers under way at once for each user of a key.",
)
@click.option(
    "--user-max-tokens",
    type=click.IntRange(1, 10**12),
    metavar="N",
    help="Tokens of one answer to a user of a key.",
)
@click.option(
    "--user-max-characters",
    type=click.IntRange(1, 10**12),
    metavar="N",
    help="Characters of one request of a user of a key.",
)
@click.option(
    "--user-model",
    "user_models",
    multiple=True,
    metavar="NAME",
    help="A model that users of keys may use; without it, all.",
)
@click.option(
    "--max-body",
    metavar="SIZE",
    default="16MiB",
    show_default=True,
    help="Largest body of a request.",
)
@click.option(
    "--header-seconds",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    help="Seconds that the headers of a request may take.",
)
@click.option(
    "--body-seconds",
    type=click.FloatRange(0.1, 3600),
    default=60.0,
    show_default=True,
    help="Seconds without a piece of a body.",
)
@click.option(
    "--write-seconds",
    type=click.FloatRange(0.1, 3600),
    default=60.0,
    show_default=True,
    help="Seconds that a client may leave a piece of its answer unread.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(1, 86400),
    default=1800.0,
    show_default=True,
    help="Seconds until an answer must be complete.",
)
@click.option(
    "--drain",
    type=click.FloatRange(0, 3600),
    default=30.0,
    show_default=True,
    help="Seconds that answers may go on after a request to end.",
)
@click.option(
    "--keep-alive",
    type=click.FloatRange(0.05, 3600),
    default=10.0,
    show_default=True,
    help="Seconds of silence after which a stream says that it lives.",
)
@click.option(
    "--stuck-after",
    type=click.FloatRange(0.1, 86400),
    default=60.0,
    show_default=True,
    help="Seconds without a sign of life after which an engine is replaced.",
)
@click.option(
    "--slow-above",
    type=click.FloatRange(0.01),
    default=10.0,
    show_default=True,
    help="Seconds of latency above which the monitor calls it degraded.",
)
@click.option(
    "--memory-above",
    type=click.FloatRange(1),
    default=1000.0,
    show_default=True,
    help="MB beyond the weights above which the monitor calls it degraded.",
)
@click.option(
    "--speed-below",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Tokens per second below which the monitor calls it degraded.",
)
@click.option(
    "--errors-above",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of failed requests above which the monitor calls it unhealthy.",
)
@click.option("--metrics-compat", is_flag=True, help="Export metrics under vLLM's names too.")
@offline_option
def serve(models: tuple[str, ...], **given: Any) -> None:
    """Serve MODELs (names, folders or .gguf files; without one: the default) over HTTP.

    The first is loaded at once, others when they are asked for. NAME=MODEL serves one under another
    name. Only this machine can connect, unless --host says otherwise, which needs an API key
    (`qwick keys create`).
    """
    from qwick import __version__
    from qwick.llm.load import Options
    from qwick.monitor.health import Thresholds
    from qwick.server.options import Bounds, ServeOptions, Tls
    from qwick.values import a_path, size_in_bytes

    certificate, key = given["tls_certificate"], given["tls_key"]
    if (certificate is None) is not (key is None):
        raise UsageError(
            "TLS takes a certificate and its key", hint="give --tls-certificate and --tls-key"
        )
    options = ServeOptions(
        models=models,
        host=given["host"],
        port=given["port"],
        loading=Options(**given["loading"], drafts=not given["no_drafts"]),
        places=given["places"],
        waiting=given["waiting"],
        memory=None if given["memory"] is None else size_in_bytes("--memory", given["memory"]),
        open_door=given["open_door"],
        cors_origins=given["cors_origins"],
        tls=None
        if certificate is None
        else Tls(a_path("--tls-certificate", certificate), a_path("--tls-key", key)),
        policy=given["policy"],
        log_content=given["log_content"],
        drain_seconds=given["drain"],
        keep_alive_seconds=given["keep_alive"],
        stuck_seconds=given["stuck_after"],
        metrics_compat=given["metrics_compat"],
        bounds=Bounds(
            body_bytes=size_in_bytes("--max-body", given["max_body"]),
            request_seconds=given["deadline"],
            header_seconds=given["header_seconds"],
            body_seconds=given["body_seconds"],
            write_seconds=given["write_seconds"],
        ),
        thresholds=Thresholds(
            given["slow_above"], given["memory_above"], given["speed_below"], given["errors_above"]
        ),
        version=__version__,
        user_limits=_user_limits(given),
    )
    for word in models:  # before one of them is fetched
        check_fits_here(word.partition("=")[2] or word, given["loading"])
    from qwick.server.running import serve as run

    run(options)


def _user_limits(given: Mapping[str, Any]) -> Limits | None:
    """Return what each user of a key may have; None where no option says."""
    from qwick.server.limits import Limits, Rate

    def rate(option: str, text: str | None) -> Rate | None:
        return None if text is None else Rate.parse(option, text)

    limits = Limits(
        requests=rate("--user-requests", given["user_requests"]),
        tokens=rate("--user-tokens", given["user_tokens"]),
        concurrent=given["user_concurrent"],
        max_tokens=given["user_max_tokens"],
        max_characters=given["user_max_characters"],
        models=given["user_models"] or None,
    )
    return None if limits == Limits() else limits
