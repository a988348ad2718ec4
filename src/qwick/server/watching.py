"""The routes for whoever watches: is it alive, can it answer, how has it been.

`/health` says that the process lives; `/ready` that a model's decode loop answers;
`/health_generate` that every loaded model can generate. `/metrics` is Prometheus's, `/v1/monitor`
the same for people and programs, with a verdict.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from qwick.errors import OverloadedError, QwickError
from qwick.monitor.records import KEPT
from qwick.server.ask import Ask, Question
from qwick.server.caller import Caller
from qwick.server.desk import Desk
from qwick.server.documents import answers, takes
from qwick.server.hosted import Hosted
from qwick.server.observing import Observer
from qwick.server.problems import of_field, problem_of
from qwick.server.reading import read_body
from qwick.values import whole

PROMPTS = (
    "Say hello.",
    "What is 12 times 12?",
    "Name three colours.",
    "Write a Python function that adds two numbers.",
    "Translate to French: good morning.",
)
PROBE_TOKENS = 48
AVERAGED = 100  # requests


class ProbeBody(BaseModel):
    """What a probe asks, and the most tokens of each answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompts: list[Annotated[str, Field(min_length=1)]] = Field(
        default=list(PROMPTS), min_length=1, max_length=32
    )
    max_tokens: int | None = Field(default=None, ge=1, le=4096)


_PROBE = takes(ProbeBody)
_PROBE["openapi_extra"]["requestBody"]["required"] = False
_LAST = {
    "name": "last",
    "in": "query",
    "description": "How many of the last requests the averages are of.",
    "schema": {"type": "integer", "minimum": 1, "maximum": KEPT, "default": AVERAGED},
}


def routes(desk: Desk, observer: Observer) -> APIRouter:
    """Return the routes, over a desk and what has been observed."""
    router = APIRouter()

    @router.get("/health", **answers())
    @router.get("/v1/health", include_in_schema=False)
    @router.get("/ping", include_in_schema=False)
    async def health() -> Response:
        """Tell that the server's process is alive."""
        return JSONResponse({"status": "ok"})

    @router.get("/ready", **answers())
    async def ready() -> Response:
        """Tell whether requests are answered: a model is loaded, and its decode loop beats."""
        check_ready(list(desk.models.hosted.values()))
        return JSONResponse({"status": "ready"})

    @router.get("/health_generate", **answers())
    async def health_generate(request: Request) -> Response:
        """Let every loaded model generate one token; where none is, the first one."""
        caller: Caller = request.state.caller
        times: dict[str, float] = {}
        for hosted in loaded(desk):
            times[hosted.name] = await generate(desk, caller, hosted)
        return JSONResponse({"status": "ok", "seconds": times})

    @router.get("/metrics", **answers(text=True))
    async def metrics() -> Response:
        """Return the metrics in Prometheus's text format."""
        body, kind = observer.metrics()
        return Response(body, media_type=None, headers={"content-type": kind})

    @router.get("/v1/monitor", **answers(), openapi_extra={"parameters": [_LAST]})
    async def monitor(request: Request) -> Response:
        """Return what is known of the server, its models and its last requests, with a verdict."""
        return JSONResponse(observer.report(desk.visits, _last(request)))

    @router.post("/v1/monitor/probe", **answers(), **_PROBE)
    async def probe(request: Request) -> Response:
        """Put a few prompts, the body's or short ones, to a loaded model, and tell how it did."""
        caller: Caller = request.state.caller
        given = await request.body()
        body = await read_body(request, ProbeBody, {}) if given else ProbeBody()
        return JSONResponse(await probed(desk, observer, caller, body))

    @router.get("/version", **answers())
    async def version(request: Request) -> Response:
        """Return the version."""
        return JSONResponse({"version": request.app.version})

    return router


def loaded(desk: Desk) -> list[Hosted]:
    """Return the models that are loaded, the one used last first; else the first one.

    So whoever looks after the server unloads nobody's model.
    """
    found = [hosted for hosted in desk.models.hosted.values() if hosted.qwen is not None]
    return sorted(found, key=lambda hosted: -hosted.used) or [desk.models.first]


def check_ready(models: Sequence[Hosted]) -> None:
    """Raise OverloadedError, with what is wrong with the first, unless one can take requests."""
    troubles = [_trouble_of(hosted) for hosted in models]
    if all(troubles):
        raise OverloadedError(f"{models[0].name} {troubles[0]}", retry_after=5.0)


def _trouble_of(hosted: Hosted) -> str | None:
    """Return why a model can take no requests now, None where it can."""
    qwen = hosted.qwen
    if qwen is None:
        return f"is {hosted.state}"
    if hosted.state != "ready":
        return f"has an engine that is {hosted.state}"
    silent = qwen.engine.pulse.silent
    if silent > hosted.patience:
        return f"has an engine that has been silent for {silent:.0f} s"
    return None


def _last(request: Request) -> int:
    text = request.query_params.get("last", str(AVERAGED))
    number = int(text) if re.fullmatch("[0-9]{1,9}", text) else text
    return whole("last", number, 1, KEPT)


async def probed(desk: Desk, observer: Observer, caller: Caller, body: ProbeBody) -> dict[str, Any]:
    """Put the prompts to a loaded model, one after the other, as visits like any other."""
    hosted = loaded(desk)[0]
    most = body.max_tokens or min(PROBE_TOKENS, caller.limits.max_tokens or PROBE_TOKENS)
    keywords = {"max_tokens": most, "namespace": caller.namespace("probe")}
    asks = [
        Ask(
            "probe",
            hosted.name,
            [Question(keywords, messages=[{"role": "user", "content": prompt}])],
            max_tokens=most,
            characters=len(prompt),
        )
        for prompt in body.prompts
    ]
    for number, ask in enumerate(asks):  # all of them, before any is computed
        with of_field(None, otherwise=f"prompts[{number}]"):
            desk.check(caller, ask)
    records = []
    for number, ask in enumerate(asks):
        name = f"{caller.request_id}-{number}"
        await desk.complete(replace(caller, request_id=name), hosted, ask)
        record = observer.last_record(name)
        if record is not None:
            records.append(record)
    return observer.probed(records)


async def generate(desk: Desk, caller: Caller, hosted: Hosted) -> float:
    """Let a model generate a token, past the queue, and return the seconds it took."""
    begun = time.monotonic()
    keywords: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "namespace": "health"}
    ask = Ask("probe", hosted.name, [Question(keywords, prompt="1 + 1 =")], max_tokens=1)
    try:
        async with desk.models.use(hosted):
            qwen = await desk.models.ready(hosted)
            await qwen.astream_asked(ask.prompts[0].prepare(qwen)).read()
    except QwickError as error:
        message = problem_of(error).error["message"]
        raise OverloadedError(f"{hosted.name} cannot generate: {message}") from error
    return round(time.monotonic() - begun, 4)
