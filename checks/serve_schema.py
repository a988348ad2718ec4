"""schemathesis against a live server: what its OpenAPI document allows and what it does not.

`qwick serve` with the real default checkpoint gets requests of every route, sound and unsound by
the document, which schemathesis makes. No answer may be a 5xx or a status, a content type or a body
that the document does not have, what the document forbids must be refused, and nothing may take
long. The document is the server's own but for the model, which is told to be the one that is
served: any other name would be answered with 404 before anything else is looked at.

    python -m checks.serve_schema                    # 300 requests of each route beside the edges
    python -m checks.serve_schema --examples 20

Exit code 1 when an answer is wrong, 77 without schemathesis (`pip install schemathesis`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from checks import NOT_CHECKED
from qwick.server.keys import KeyRing
from qwick.server.limits import Limits
from server.live import MODEL, Server

SECONDS = 20  # that an answer may take
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
)


def with_model(node: Any) -> Any:
    """Return a document in which every property `model` is the served one's name."""
    if isinstance(node, list):
        return [with_model(one) for one in node]
    if not isinstance(node, dict):
        return node
    node = {key: with_model(value) for key, value in node.items()}
    properties = node.get("properties")
    if isinstance(properties, dict) and "model" in properties:
        optional = "null" in json.dumps(properties["model"])
        properties["model"] = {"enum": [MODEL, None] if optional else [MODEL]}
    return node


def run(examples: int, seed: int) -> int:
    """Return schemathesis' exit code; what it finds is printed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # What leaves max_tokens open gets few, so that a run takes minutes.
        limits = Limits(max_tokens=2)
        _, key = KeyRing(folder / "server").create("schemathesis", limits=limits, admin=True)
        with Server(folder) as server, server.client(key) as client:
            server.ready()
            document = folder / "openapi.json"
            document.write_text(json.dumps(with_model(client.get("/openapi.json").json())), "utf-8")
            found = subprocess.run(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "run", str(document)),
                    *("--url", server.url, "--header", f"Authorization: Bearer {key}"),
                    *("--phases", "examples,coverage,fuzzing", "--checks", ",".join(CHECKS)),
                    *("--max-examples", str(examples), "--seed", str(seed)),
                    *("--max-response-time", str(SECONDS), "--continue-on-failure"),
                    *("--warnings", "off"),
                ],
                cwd=folder,
                check=False,
            )
            if len(server.engines()) != 1 or server.client().get("/ready").status_code != 200:
                print("wrong: the engine did not live through it")
                return 1
    return found.returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m checks.serve_schema",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if find_spec("schemathesis") is None:
        print("schemathesis is not installed: pip install schemathesis")
        return NOT_CHECKED
    return run(given.examples, given.seed)


if __name__ == "__main__":
    sys.exit(main())
