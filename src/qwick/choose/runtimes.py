"""In which formats, and by which runtime, a checkpoint can be run on a device.

Data and rules. Knows nothing about sizes or speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qwick.choose.devices import Device
from qwick.choose.sizes import BITS
from qwick.hub import Format, Model
from qwick.values import check_kind

__all__ = ["Way", "vllm_options", "ways_of"]

# What qwick takes from a folder without widening it to 16 bits first.
KEPT = ("bf16", "gptq-int4", "gptq-int8", "awq")
SERVED = ("bf16", "fp8", "awq", "gptq-int4", "gptq-int8")  # by vLLM, on a graphics card
FP8_BLOCK = 128  # rows and columns that share a scale (quantization_config.weight_block_size)
ROUNDED = (
    "rounded to {bits} while it is loaded: another model than the published one, if a near one"
)


@dataclass(frozen=True, slots=True)
class Way:
    """A format, what is done to it while loading, and what runs it."""

    form: Format
    runtime: str  # qwick, llama.cpp, ollama, transformers or vllm
    quantize: str | None = None  # int4 or int8, by qwick while loading
    others: tuple[str, ...] = ()  # runtimes that take the same files
    cautions: tuple[str, ...] = ()
    reached: str = "qwick"  # the runtime on this kind of device, as `speed.REACHED` has it

    @property
    def rounded(self) -> str:
        """The format of the weights in memory."""
        return self.quantize or self.form.name


def ways_of(model: Model, device: Device) -> Iterator[Way]:
    """Yield every way, in no order."""
    check_kind("model", model, Model, "a Model of the catalog")
    check_kind("device", device, Device, "a Device")
    forms = [form for form in model.formats if form.name in BITS]
    if device.kind == "gpu":
        yield from (way for form in forms for way in _on_cards(form, device))
    elif model.runs_here:
        yield from (way for form in forms for way in _by_qwick(form))
    else:
        yield from (way for form in forms for way in _by_others(form))
        if model.ollama is not None and not any(form.name == "q4_k_m" for form in forms):
            yield Way(_ollama(model), "ollama", reached="ollama")


def _by_qwick(form: Format) -> Iterator[Way]:
    if form.container == "gguf":
        yield Way(form, "qwick", others=("llama.cpp", "ollama"))
    elif form.container == "safetensors" and form.name in KEPT:
        yield Way(form, "qwick", others=("transformers", "vllm"))
        if form.name == "bf16":
            for bits in (4, 8):
                said = (ROUNDED.format(bits=f"{bits} bits"),)
                yield Way(form, "qwick", f"int{bits}", cautions=said)


def _by_others(form: Format) -> Iterator[Way]:
    """Yield what runs on a processor where qwick's engine does not run the checkpoint."""
    if form.container == "gguf":
        yield Way(form, "llama.cpp", others=("ollama",), reached="llama.cpp")
    elif form.name == "bf16":
        yield Way(form, "transformers", reached="transformers")


def _on_cards(form: Format, device: Device) -> Iterator[Way]:
    if form.container == "gguf":
        reached = "llama.cpp on a card"
        yield Way(form, "llama.cpp", others=("ollama",), reached=reached)
    elif form.name in SERVED and not (device.half and form.name == "fp8"):
        yield Way(form, "vllm", others=("transformers",), reached="vllm")


def vllm_options(
    model: Model, form: Format, device: Device, context: int, memory: int
) -> list[str]:
    """Return what `vllm serve` must be told: the length that there is room for, and the cards.

    memory: bytes that it takes in all. Attention is split by heads, and FP8 matrices in blocks of
    FP8_BLOCK; where the cards do not divide them, experts go to cards whole
    (--enable-expert-parallel), or layers do (--pipeline-parallel-size).
    """
    options = ["--max-model-len", str(context)]
    if device.half and form.name == "bf16":
        options += ["--dtype", "half"]
    if device.cards == 1:
        return options
    heads = int(model.config.get("num_attention_heads") or 1)
    keys = int(model.config.get("num_key_value_heads") or heads)
    split = max(
        n for n in range(1, device.cards + 1) if heads % n == 0 and (keys % n == 0 or n % keys == 0)
    )
    if memory > device.memory * split // device.cards:
        return [*options, "--pipeline-parallel-size", str(device.cards)]
    options += ["--tensor-parallel-size", str(split)]
    experts = int(model.config.get("moe_intermediate_size") or 0)
    if form.name == "fp8" and experts % (split * FP8_BLOCK):
        options.append("--enable-expert-parallel")
    return options


def _ollama(model: Model) -> Format:
    """Return the form in Ollama's library, whose default is q4_k_m."""
    return Format(
        name="q4_k_m",
        container="gguf",
        repository=f"ollama/{model.ollama}",
        official=True,
        revision=None,
        files=(),
        parts=1,
        template=None,
    )
