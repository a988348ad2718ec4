"""Thousands of mangled bodies to a live server: no 5xx, no hang, and a 200 only by rights.

Sound bodies of every route are changed at random: fields dropped, doubled, renamed, given values of
any kind and size; then some of their bytes too. What is answered with 200 must have been valid by
the server's own OpenAPI document, and so must be the answer.

    python -m checks.serve_bodies                    # 10,000 bodies
    python -m checks.serve_bodies --bodies 300 --seed 7

Exit code 1 when a body was answered wrongly. Needs `jsonschema`.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import httpx
from jsonschema import Draft202012Validator

from qwick.server.keys import KeyRing
from qwick.server.limits import Limits
from server.live import MODEL, Server, chat_body

SECONDS = 20.0  # that an answer may take
JSON = {"content-type": "application/json"}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
SOUND: list[tuple[str, dict[str, Any]]] = [
    (CHAT, chat_body(max_tokens=2)),
    (CHAT, chat_body(max_tokens=2, stream=True, stream_options={"include_usage": True})),
    (CHAT, chat_body(max_tokens=2, n=2, seed=1, logprobs=True, top_logprobs=2, stop=["x"])),
    (CHAT, chat_body(max_tokens=2, tools=[TOOL], tool_choice="auto", parallel_tool_calls=False)),
    (
        CHAT,
        chat_body(
            max_tokens=2,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": {"type": "integer"}},
            },
            logit_bias={"5": 1.5},
            user="u",
            metadata={"a": "b"},
        ),
    ),
    (
        CHAT,
        {
            "model": MODEL,
            "max_tokens": 2,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hi."}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a": 1}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c", "content": "2"},
            ],
            "tools": [TOOL],
        },
    ),
    (
        COMPLETE,
        {"model": MODEL, "prompt": "1 + 1 =", "max_tokens": 2, "logprobs": 1, "echo": False},
    ),
    (
        COMPLETE,
        {"model": MODEL, "prompt": "1 + 1 = 2", "max_tokens": 1, "logprobs": 3, "echo": True},
    ),
    (
        COMPLETE,
        {"model": MODEL, "prompt": [[1, 2], [3]], "max_tokens": 1, "n": 2, "temperature": 0},
    ),
    (
        COMPLETE,
        {"model": MODEL, "prompt": "def f(", "suffix": "\n", "max_tokens": 2, "guided_regex": "a+"},
    ),
    ("/tokenize", {"prompt": "some text", "with_pieces": True}),
    ("/tokenize", {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": False}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3.5, 1e308, -(2**63), 2**64, 10**30, "", "x", "\0", "\ud7ff"),
    *("x" * 300, "é" * 50, "<|im_end|>", "auto", "none", "{}", [], {}, [[]], [None], {"a": {}}),
    *(["x"], [1], {"type": "text"}, {"type": "function"}, {"": ""}, [{}], "user", "assistant"),
    *({"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}, "tool", [0] * 200),
]


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to everything within a JSON value."""
    found = [here] if here else []
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        found += places(inner, (*here, key))
    return found


def mangled(rng: random.Random) -> tuple[str, bytes]:
    """Return a route and a body that was sound once."""
    path, sound = rng.choice(SOUND)
    body = copy.deepcopy(sound)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        ways = places(body)
        if not ways:
            break
        *way, last = rng.choice(ways)
        holder: Any = body
        for step in way:
            holder = holder[step]
        how = rng.randrange(5)
        if how == 0:
            del holder[last]
        elif how == 1 and isinstance(holder, dict):
            name = rng.choice([str(last) + "s", str(last)[1:], *[k for _, b in SOUND for k in b]])
            holder[name] = holder.pop(last)
        elif how == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        else:
            holder[last] = copy.deepcopy(rng.choice(ODD))
    if rng.random() < 0.3:
        name = rng.choice([k for _, b in SOUND for k in b])
        body[name] = copy.deepcopy(rng.choice(ODD))
    data = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        at, width = rng.randrange(len(data)), rng.randint(0, 3)
        data = data[:at] + rng.randbytes(rng.randint(0, 3)) + data[at + width :]
    return path, data


def answer_of(response: httpx.Response) -> list[tuple[str, Any]]:
    """Return the kind of each JSON text in an answer, and what it is."""
    if response.headers["content-type"].startswith("text/event-stream"):
        lines = response.text.splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert data[-1] == "[DONE]", data[-3:]
        return [("event", json.loads(text)) for text in data[:-1]]
    return [("answer", response.json())]


class Schemas:
    """What the server's document says of bodies and answers."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def _validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        return Draft202012Validator({**schema, "components": self._document["components"]})

    def body(self, path: str, data: bytes) -> str | None:
        """Return what is wrong with a body, or None."""
        content = self._document["paths"][path]["post"]["requestBody"]["content"]
        validator = self._validator(content["application/json"]["schema"])
        error = next(validator.iter_errors(json.loads(data)), None)
        return None if error is None else error.message[:200]

    def answer(self, path: str, status: int, value: Any) -> str | None:
        """Return what is wrong with an answer, or None."""
        responses = self._document["paths"][path]["post"]["responses"]
        if str(status) not in responses:
            return f"the status {status} is not documented"
        validator = self._validator(responses[str(status)]["content"]["application/json"]["schema"])
        error = next(validator.iter_errors(value), None)
        return None if error is None else error.message[:200]


def judge(schemas: Schemas, path: str, data: bytes, response: httpx.Response) -> str | None:
    """Return what is wrong with how a body was answered, or None."""
    status = response.status_code
    if status >= 500:
        return f"{status}: {response.text[:200]}"
    try:
        for kind, value in answer_of(response):
            if kind == "answer" and (wrong := schemas.answer(path, status, value)):
                return f"the answer, {status}, is not as documented: {wrong}"
            if kind == "event" and "error" in value:
                return f"a stream ended with {value['error']}"
        if status == 200 and (wrong := schemas.body(path, data)):
            return f"a body was taken that is not valid: {wrong}"
    except (ValueError, AssertionError) as error:
        return f"the answer cannot be read: {error!r:.200}"
    return None


def run(bodies: int, seed: int, *, progress: bool) -> dict[str, Any]:
    """Return the statuses, and the bodies that were answered wrongly."""
    rng = random.Random(seed)
    statuses: Counter[int] = Counter()
    failures: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        ring = KeyRing(Path(folder) / "server")
        # What leaves max_tokens open gets few, so that a run takes minutes.
        _, key = ring.create("mangler", limits=Limits(max_tokens=2))
        with Server(Path(folder)) as server, server.client(key) as client:
            server.ready()
            schemas = Schemas(client.get("/openapi.json").json())
            for number in range(bodies):
                path, data = mangled(rng)
                begun = time.monotonic()
                try:
                    response = client.post(path, content=data, headers=JSON, timeout=SECONDS)
                except httpx.HTTPError as error:
                    failures.append(f"{path} {data[:300]!r}: {error!r}")
                    continue
                slowest = max(slowest, time.monotonic() - begun)
                statuses[response.status_code] += 1
                wrong = judge(schemas, path, data, response)
                if wrong is not None:
                    failures.append(f"{path} {data[:300]!r}: {wrong}")
                if progress and number % 50 == 0:
                    print(f"\r{number:,} of {bodies:,}", end="", file=sys.stderr)
            if progress:
                print(file=sys.stderr)
            restarts = server.engines()
    return {
        "bodies": bodies,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "slowest": round(slowest, 3),
        "engines": len(restarts),
        "failures": failures,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m checks.serve_bodies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = run(given.bodies, given.seed, progress=sys.stderr.isatty())
    if given.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['bodies']:,} bodies: {found['statuses']}, at most {found['slowest']} s, "
            f"{len(found['failures'])} answered wrongly"
        )
        for text in found["failures"][:20]:
            print(f"wrong: {text}")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
