"""In which formats, and by which runtime, a checkpoint can be run on a device.

Data and rules. Knows nothing about sizes or speed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from qwick.choose.contexts import stretch
from qwick.choose.devices import Device
from qwick.choose.sizes import BITS
from qwick.hub import Format, Model
from qwick.values import check_kind

__all__ = ["Way", "llama_options", "qwick_options", "vllm_options", "ways_of"]

# What qwick takes from a folder without widening it to 16 bits first.
KEPT = ("bf16", "gptq-int4", "gptq-int8", "awq")
SERVED = ("bf16", "fp8", "awq", "gptq-int4", "gptq-int8")  # by vLLM, on a graphics card
# Rows or columns that share a scale, which no card may cut: weight_block_size and group_size of
# the published quantization_config.
BLOCKS = {"fp8": 128, "awq": 128, "gptq-int4": 128, "gptq-int8": 128}
PADDED = {29568: 29696}  # of Qwen2.5-72B's quantised checkpoints, for that reason (their cards)
# What makes vLLM score with a reranker instead of writing (docs.vllm.ai, Qwen3-Reranker).
RERANKER = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
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


def qwick_options(model: Model, way: Way, context: int | None) -> tuple[str, ...]:
    """Return what `qwick chat` and `qwick serve` must be told beside the name.

    context: tokens; None: qwick's own choice does.
    """
    found = ["--quantize", way.quantize] if way.quantize else []
    if context is not None:
        factor = stretch(model, context)
        found += ["--ctx", str(context)]
        found += ["--yarn", str(factor)] if factor else []
    return tuple(found)


def llama_options(model: Model, context: int) -> list[str]:
    """Return what `llama-server` must be told beside the file."""
    factor, native = stretch(model, context), model.context.native
    told = ["-c", str(context)]
    if factor is not None:
        told += ["--rope-scaling", "yarn", "--rope-scale", str(factor)]
        told += ["--yarn-orig-ctx", str(native)]
    return told


def vllm_options(
    model: Model, form: Format, device: Device, context: int, memory: int
) -> list[str]:
    """Return what `vllm serve` must be told: the length that there is room for, and the cards.

    memory: bytes that it takes in all. Where the cards do not divide the matrices, layers go to
    cards whole (--pipeline-parallel-size); so do experts whose blocks they do not divide.
    """
    options = ["--max-model-len", str(context)]
    factor, overrides = stretch(model, context), dict[str, object]()
    if factor is not None:
        overrides["rope_scaling"] = {
            **{"rope_type": "yarn", "factor": float(factor)},
            "original_max_position_embeddings": model.context.native,
        }
    if model.variant == "reranker":
        overrides |= RERANKER
    if overrides:
        options += ["--hf-overrides", f"'{json.dumps(overrides)}'"]
    if device.half and form.name == "bf16":
        options += ["--dtype", "half"]
    if device.cards == 1:
        return options
    split = max(n for n in range(1, device.cards + 1) if _divides(model, form, n))
    if memory > device.memory * split // device.cards:
        return [*options, "--pipeline-parallel-size", str(device.cards)]
    options += ["--tensor-parallel-size", str(split)]
    experts = int(model.config.get("moe_intermediate_size") or 0)
    if form.name in BLOCKS and experts % (split * BLOCKS[form.name]):
        options.append("--enable-expert-parallel")
    return options


def _divides(model: Model, form: Format, cards: int) -> bool:
    """Whether so many cards can each take an equal part of every matrix, as vLLM cuts them."""
    config = model.config
    heads = int(config.get("num_attention_heads") or 1)
    keys = int(config.get("num_key_value_heads") or heads)
    if heads % cards or (keys % cards and cards % keys):
        return False
    if -(-int(config.get("vocab_size") or 0) // 64) * 64 % cards:  # it pads the vocabulary
        return False
    width = 0 if model.experts else int(config.get("intermediate_size") or 0)
    width = PADDED.get(width, width) if form.name in BLOCKS else width
    return width % (cards * BLOCKS.get(form.name, 1)) == 0 or cards == 1


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
