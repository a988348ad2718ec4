"""Every public callable of qwick, with its arguments: the one table of what is tried with anything.

`test_table.py` fails when a public name, or an argument of one, is missing here. What is public and
what is not is stated in docs/reference/errors.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from llm.small import ARCH
from qwick import family, hub, settings
from qwick.choose import memory
from qwick.choose.devices import card_named, device_named, this_device
from qwick.choose.recommend import Ask, options_of, recommend
from qwick.choose.tasks import task_named
from qwick.engine.request import Request, Sampling, check_namespace
from qwick.formats import open as formats_open
from qwick.llm import Qwen
from qwick.machine import cgroup, cpu, gpu, limits, probe
from qwick.quant import decode, encode, types
from qwick.text import chat, messages, published, stops, template, thinking
from qwick.text.grammar import Grammar
from values.kinds import (
    CONVERSATION,
    JSON,
    MESSAGES,
    SWITCH,
    TOOLS,
    Case,
    Kind,
    instance,
    is_list,
    is_text,
    is_whole,
    items,
    mapping,
    or_none,
    path,
    real,
    text,
    whole,
)
from values.table_evaluate import EVALUATE
from values.table_tasks import TASKS, TASKS_FIXED, TASKS_PLAIN
from values.world import ENTRY, FILE, World

# All their public names; a module with `__all__` has those. Whatever is defined elsewhere in the
# package is reached through these or is an inner part (docs/reference/errors.md).
MODULES = (
    *("qwick", "qwick.errors", "qwick.settings", "qwick.family", "qwick.llm", "qwick.hub"),
    *("qwick.engine.request", "qwick.formats.open", "qwick.choose.memory"),
    *("qwick.choose.devices", "qwick.choose.tasks", "qwick.choose.recommend"),
    *("qwick.machine.cpu", "qwick.machine.cgroup", "qwick.machine.limits"),
    *("qwick.machine.gpu", "qwick.machine.probe"),
    *("qwick.quant.decode", "qwick.quant.encode", "qwick.quant.types"),
    *("qwick.text.tokenizer", "qwick.text.template", "qwick.text.chat", "qwick.text.messages"),
    *("qwick.text.grammar.grammar", "qwick.text.published"),
    *(
        "qwick.text.stops",
        "qwick.text.thinking",
        "qwick.evaluate.perplexity",
        "qwick.evaluate.speed",
    ),
    *("qwick.evaluate.humaneval", "qwick.evaluate.sandbox", "qwick.tasks"),
)
INNER = (  # and all below them
    *("qwick.cli", "qwick.native", "qwick.model", "qwick.engine", "qwick.formats", "qwick.hub"),
    *("qwick.llm", "qwick.machine.arm", "qwick.text.recognise", "qwick.evaluate.editing"),
    *("qwick.evaluate.reference", "qwick.evaluate.sandbox_child", "qwick.values", "qwick.__main__"),
    # Parts of `qwick serve`; what strangers may send it is tried by tests/server.
    *("qwick.server", "qwick.monitor", "qwick.text.router", "qwick.text.tools"),
    *("qwick.text.grammar.lark", "qwick.text.grammar.matcher", "qwick.text.grammar.schema"),
    *("qwick.text.grammar.tool_calls", "qwick.text.grammar.vocabulary", "qwick.tasks"),
    "qwick.text.grammar.xml_values",
    # Parts of `choose.recommend`, which has checked what it is asked.
    "qwick.choose.fits",
    *("qwick.choose.contexts", "qwick.choose.quality", "qwick.choose.reasons"),
    "qwick.choose.runtimes",
    *("qwick.choose.sizes", "qwick.choose.speed"),
)

_CATALOG = hub.read_catalog()
_QWEN3 = _CATALOG.models["qwen3-8b"]
_CHAT, _PI5 = task_named("chat"), device_named("pi5")
_ASK = Ask(_CHAT, _PI5)
_MEMORY = cpu.Memory(1 << 33, 1 << 32, "machine")
_MACHINE = probe.Machine(
    "a CPU", "x86_64", 2, 2, "avx2", 1 << 33, 1e10, 1e12, 1e11, 1e11, (), 0.0, False
)
LISTENER = or_none(instance(hub.SilentListener()))
STORE_NAME = text("tiny", "some/tiny")
LIST = items(())
IDS = items([1, 2, 3], np.array([1, 2]), (5, 6))
NAMESPACE = or_none(text("", "x"))
STOP = or_none(Kind(((), "x", ["x", "y"]), lambda v: is_text(v) or LIST.takes(v)))
SAMPLING: dict[str, Kind] = {
    "temperature": real(1.0, 0, np.float32(0.5)),
    "top_k": whole(0, 5),
    "top_p": real(1.0, 0.5),
    "min_p": real(0.0, 1),
    "repetition_penalty": real(1.0, 1.1),
    "presence_penalty": real(0.0, -2),
    "frequency_penalty": real(0.0, 2),
    "logit_bias": Kind(
        ({}, {1: -100.0}, [(1, 2.0)]),
        lambda v: mapping({}).takes(v) or items([]).takes(v),
    ),
    "seed": or_none(whole(1, 2**64 - 1)),
    "max_tokens": or_none(whole(2, 1)),
    "min_tokens": whole(0, 1),
    "stop_ids": items((), [1]),
    "ignore_eos": SWITCH,
    "stop": Kind(STOP.sound[:-1], lambda v: v is not None and STOP.takes(v)),
    "loop_detection": SWITCH,
    "logprobs": or_none(whole(0, 20)),
}
SAID = {name: or_none(SAMPLING[name]) for name in ("temperature", "seed", "stop_ids", "logprobs")}
ASKED = {"max_tokens": whole(2), "stop": STOP, "namespace": NAMESPACE, **SAID}
ASKED["prompt_logprobs"] = SAID["logprobs"]
ASKED["max_tokens"] = or_none(ASKED["max_tokens"])
CHAT = {"messages": MESSAGES, "tools": TOOLS, **ASKED}
TONE = {"tone": JSON}
RAW = {
    "prompt": Kind(
        ("x", "<|im_end|>", [1, 2]), lambda v: is_text(v) or isinstance(v, list | tuple)
    ),
    **ASKED,
}
POOLED = {
    "instruction": Kind((None, "x"), or_none(text("x")).takes),
    "namespace": text(""),
}
EMBEDDED = {
    "truncate": or_none(whole(90)),
    "texts": Kind(("x", ["x", [1, 2]]), lambda v: is_text(v) or is_list(v)),
    "dimensions": or_none(whole(32)),
    "normalize": SWITCH,
}
RANKED = {
    "truncate": or_none(whole(300)),  # a query and a document have 164 tokens around them
    "query": text("x"),
    "documents": items(["x"]),
    "top_n": or_none(whole(1)),
}
GENERATED = {"add_generation_prompt": SWITCH}
SOME_TOOL = [{"type": "function", "function": {"name": "f"}}]
COUNT = whole(2, 1)
NO_MEMORY = cpu.Memory(1, 1, "machine")
ROOT = Kind((Path("/"), "/"), path().takes)
FLOATS = Kind((np.zeros((2, 256), np.float32),), lambda v: isinstance(v, np.ndarray))
BYTES = Kind(
    (np.zeros((2, 210 * 17), np.uint8),),  # whole blocks of both
    lambda v: isinstance(v, np.ndarray),
)
STORED = instance(types.StoredType.Q6_K, types.StoredType.Q8_0)


async def _all(stream: Any) -> Any:
    return await stream.read()


LOOP = asyncio.new_event_loop()  # one for all: making another each time takes most of the time


def _run(found: Any) -> Any:
    return LOOP.run_until_complete(_all(found) if hasattr(found, "read") else found)


def _close(found: Any) -> Any:
    found.close()
    return found


def _stream(world: World) -> Any:
    return world.qwen.stream("x", max_tokens=2)


def _store(world: World) -> Any:
    return lambda **given: hub.Store(**{"home": world.folder / "s", **given})


TABLE: dict[str, Case] = {
    # -- qwick.llm
    "llm.qwen.Qwen.load": Case(
        lambda w: lambda model, **given: Qwen.load(w.file if model is None else model, **given),
        {
            "model": path(None, "/nowhere.gguf"),
            "threads": or_none(whole(1)),
            "ctx": or_none(whole(64)),
            "yarn": or_none(real(2.0, 4)),
            "kv": or_none(text("f32", "int8")),
            "quantize": or_none(text("int8", "nf4")),
            "prefix_reuse": SWITCH,
            "drafts": SWITCH,
            "weights_ram": or_none(Kind((1 << 40, "64GB"), lambda v: is_whole(v) or is_text(v))),
            "own_process": Kind((False, True), SWITCH.takes),  # a process each takes its time
            "listener": LISTENER,
        },
        _close,
    ),
    "llm.qwen.Qwen.chat": Case(lambda w: w.qwen.chat, CHAT | TONE),
    "llm.qwen.Qwen.stream": Case(lambda w: w.qwen.stream, CHAT, lambda s: s.read()),
    "llm.qwen.Qwen.achat": Case(lambda w: w.qwen.achat, CHAT, _run),
    "llm.qwen.Qwen.astream": Case(lambda w: w.qwen.astream, CHAT, _run),
    "llm.qwen.Qwen.chat_batch": Case(
        lambda w: w.qwen.chat_batch, {"conversations": items(["x"]), "tools": TOOLS, **ASKED}
    ),
    "llm.qwen.Qwen.choices": Case(lambda w: w.qwen.choices, CHAT | {"n": COUNT}),
    "llm.qwen.Qwen.complete": Case(lambda w: w.qwen.complete, RAW),
    "llm.qwen.Qwen.stream_complete": Case(
        lambda w: w.qwen.stream_complete, RAW, lambda s: s.read()
    ),
    "llm.qwen.Qwen.acomplete": Case(lambda w: w.qwen.acomplete, RAW, _run),
    "llm.qwen.Qwen.astream_complete": Case(lambda w: w.qwen.astream_complete, RAW, _run),
    "llm.qwen.Qwen.complete_batch": Case(
        lambda w: w.qwen.complete_batch, {"prompts": items(["x"]), **ASKED}
    ),
    "llm.qwen.Qwen.complete_choices": Case(lambda w: w.qwen.complete_choices, RAW | {"n": COUNT}),
    "llm.qwen.Qwen.render": Case(
        lambda w: w.qwen.render, {"messages": MESSAGES, "tools": TOOLS, **GENERATED, **TONE}
    ),
    "llm.qwen.Qwen.render_ids": Case(
        lambda w: w.qwen.render_ids, {"messages": MESSAGES, "tools": TOOLS, **GENERATED, **TONE}
    ),
    "llm.qwen.Qwen.embed": Case(lambda w: w.qwen.embed, {**EMBEDDED, **POOLED}),
    "llm.qwen.Qwen.aembed": Case(lambda w: w.qwen.aembed, {**EMBEDDED, **POOLED}, _run),
    "llm.qwen.Qwen.rerank": Case(lambda w: w.judge.rerank, {**RANKED, **POOLED}),
    "llm.qwen.Qwen.arerank": Case(lambda w: w.judge.arerank, {**RANKED, **POOLED}, _run),
    "llm.qwen.Qwen.score": Case(lambda w: w.qwen.score, {"ids": IDS, "namespace": text("")}),
    "llm.qwen.Qwen.perplexity": Case(
        lambda w: w.qwen.perplexity,
        {"text": text("some text"), "parse_special": SWITCH, "namespace": text("")},
    ),
    "llm.qwen.Qwen.close": Case(lambda w: w.other_qwen().close, {"cancel": SWITCH}),
    "llm.reply.Reply.to_dict": Case(lambda w: w.qwen.chat("x", max_tokens=1).to_dict),
    "llm.stream.Stream.read": Case(lambda w: _stream(w).read),
    "llm.stream.Stream.close": Case(lambda w: _stream(w).close),
    "llm.stream.AsyncStream.read": Case(lambda w: w.qwen.astream("x", max_tokens=2).read, {}, _run),
    "llm.stream.AsyncStream.aclose": Case(lambda w: w.qwen.astream("x").aclose, {}, _run),
    # -- qwick.engine.request
    "engine.request.Sampling": Case(lambda _: Sampling, SAMPLING),
    "engine.request.Request": Case(
        lambda _: Request,
        {
            "ids": IDS,
            "kind": text("generate", "score", "embed"),
            "sampling": instance(Sampling()),
            "namespace": text(""),
            "guide": Kind((None, "anything"), lambda _: True),
            "progress": SWITCH,
            "prompt_logprobs": Kind((None, 0, 20), or_none(whole(0)).takes),
            "labels": items(()),
        },
    ),
    "engine.request.check_namespace": Case(
        lambda _: check_namespace,
        {"value": text("", "x")},
    ),
    # -- qwick.hub
    "hub.resolve": Case(
        lambda w: lambda **given: hub.resolve(**{"store": w.store, **given}),
        {"model": path("tiny", Path("/")), "listener": LISTENER},
    ),
    "hub.existing_path": Case(lambda _: hub.existing_path, {"text": path("/", "nowhere")}),
    "hub.looks_like_path": Case(lambda _: hub.looks_like_path, {"model": text("x", "./x")}),
    "hub.catalog.read_catalog": Case(lambda _: hub.read_catalog),
    "hub.catalog.Catalog.find": Case(lambda _: hub.read_catalog().find, {"name": text("qwen3-8b")}),
    "hub.catalog.Languages.has": Case(
        lambda _: hub.Languages(1, None, ("hu",), True).has, {"code": text("hu", "no")}
    ),
    "hub.catalog.Catalog.near": Case(
        lambda _: hub.read_catalog().near, {"name": text("qwen3-8"), "cutoff": real(0.5, 1)}
    ),
    "hub.names_model": Case(
        lambda _: hub.names_model, {"text": text("tiny", "a/b"), "surely": SWITCH}
    ),
    "hub.near_names": Case(
        lambda _: hub.near_names, {"text": text("qwen3-8"), "cutoff": real(0.5, 1)}
    ),
    "hub.ollama.ollama_models": Case(lambda _: hub.ollama_models),
    "hub.ollama.ollama_path": Case(lambda _: hub.ollama_path, {"name": text("qwen3:8b")}),
    "hub.catalog.Model.format": Case(lambda _: _QWEN3.format, {"name": text("q4_k_m")}),
    "hub.catalog.Model.scored": Case(lambda _: _QWEN3.scored, {"key": text("gpqa")}),
    "hub.languages.language_code": Case(lambda _: hub.language_code, {"text": text("hu")}),
    "hub.series.series_of": Case(
        lambda _: hub.series_of, {"catalog": instance(hub.read_catalog())}
    ),
    "hub.series.uses_of": Case(lambda _: hub.uses_of, {"model": instance(_QWEN3)}),
    "hub.shape.arch_config": Case(lambda _: hub.arch_config, {"model": instance(_QWEN3)}),
    "hub.shape.shape_of": Case(lambda _: hub.shape_of, {"model": instance(_QWEN3)}),
    "hub.entries.find": Case(
        lambda _: hub.find, {"name": text("tiny"), "catalog": mapping({"tiny": ENTRY})}
    ),
    "hub.entries.near": Case(
        lambda _: hub.near,
        {"name": text("tinny"), "catalog": mapping({"tiny": ENTRY}), "cutoff": real(0.5, 1)},
    ),
    "hub.entries.shortened": Case(lambda _: hub.shortened, {"text": text("x"), "most": whole(80)}),
    "hub.entries.Entry.may_come_from": Case(
        lambda _: ENTRY.may_come_from,
        {"key": text("hf", "pip"), "file": instance(ENTRY.files[0])},
    ),
    "hub.entries.Entry.place": Case(lambda _: ENTRY.place, {"hub": text("hf", "ms")}),
    "hub.entries.PinnedFile.hasher": Case(lambda _: FILE.hasher),
    "hub.entries.PinnedFile.piece_at": Case(lambda _: FILE.piece_at, {"position": whole(0, 5)}),
    "hub.store.attribution": Case(lambda _: hub.attribution, {"entry": instance(ENTRY)}),
    "hub.store.Store": Case(
        _store,
        {
            "home": Kind(("/nowhere", Path("x")), path().takes),
            "catalog": mapping({}, {"tiny": ENTRY}),
            "sources": or_none(items(())),
        },
    ),
    "hub.store.Store.path": Case(lambda w: w.store.path, {"entry": instance(ENTRY)}),
    "hub.store.Store.file_path": Case(
        lambda w: w.store.file_path, {"entry": instance(ENTRY), "file": instance(FILE)}
    ),
    "hub.store.Store.marker_path": Case(
        lambda w: w.store.marker_path, {"entry": instance(ENTRY), "file": instance(FILE)}
    ),
    "hub.store.Store.in_folder": Case(lambda w: w.store.in_folder, {"folder": text("tiny")}),
    "hub.store.Store.known": Case(lambda w: w.store.known),
    "hub.store.Store.wanted": Case(lambda w: w.store.wanted, {"name": text("a/b", "qwen3-8b")}),
    "hub.names.at_revision": Case(
        lambda _: hub.at_revision, {"text": text("a/b:q8_0"), "revision": text("main")}
    ),
    "hub.store.Store.find": Case(lambda w: w.store.find, {"name": STORE_NAME}),
    "hub.store.Store.entry": Case(lambda w: w.store.entry, {"name": STORE_NAME}),
    "hub.store.Store.list": Case(lambda w: w.store.list),
    "hub.store.Store.show": Case(lambda w: w.store.show, {"name": STORE_NAME}),
    "hub.store.Store.pull": Case(
        lambda w: w.store.pull, {"name": STORE_NAME, "listener": LISTENER}
    ),
    "hub.store.Store.remove": Case(
        lambda w: w.store.remove, {"name": STORE_NAME, "listener": LISTENER}
    ),
    "hub.upkeep.verify": Case(
        lambda w: lambda **given: hub.verify(**{"store": w.store, **given}),
        {"name": STORE_NAME, "listener": instance(hub.SilentListener())},
    ),
    "hub.upkeep.usage": Case(lambda w: lambda: hub.usage(w.store)),
    "hub.upkeep.prune": Case(
        lambda w: lambda **given: hub.prune(w.store, **given), {"dry_run": SWITCH}
    ),
    # -- qwick.text
    "text.tokenizer.Tokenizer.encode": Case(
        lambda w: w.tokenizer.encode, {"text": text("x", "<|im_end|>"), "parse_special": SWITCH}
    ),
    "text.tokenizer.Tokenizer.encode_with_spans": Case(
        lambda w: w.tokenizer.encode_with_spans, {"text": text("x")}
    ),
    "text.tokenizer.Tokenizer.decode": Case(
        lambda w: w.tokenizer.decode,
        {
            "ids": Kind(([1, 258], range(5)), lambda v: LIST.takes(v) or isinstance(v, range)),
            "skip_control": SWITCH,
        },
    ),
    "text.tokenizer.Tokenizer.token_bytes": Case(
        lambda w: w.tokenizer.token_bytes, {"id": whole(1, 258)}
    ),
    "text.tokenizer.Tokenizer.stream": Case(lambda w: w.tokenizer.stream, {"skip_control": SWITCH}),
    "text.tokenizer.Tokenizer.id_of": Case(
        lambda w: w.tokenizer.id_of, {"literal": text("<|im_end|>", "x")}
    ),
    "text.tokenizer.Tokenizer.literal_of": Case(
        lambda w: w.tokenizer.literal_of, {"id": whole(1, 258)}
    ),
    "text.tokenizer.Tokenizer.stop_ids": Case(
        lambda w: w.tokenizer.stop_ids,
        {"literals": Kind((["<|im_end|>"], ()), lambda v: is_list(v) or isinstance(v, Set))},
    ),
    "text.tokenizer.Detokenizer.push": Case(lambda w: w.tokenizer.stream().push, {"id": whole(1)}),
    "text.tokenizer.Detokenizer.flush": Case(lambda w: w.tokenizer.stream().flush),
    "text.template.ChatTemplate": Case(lambda _: template.ChatTemplate, {"source": text("x")}),
    "text.template.ChatTemplate.render": Case(
        lambda w: w.template.render,
        {
            "messages": CONVERSATION,
            "tools": TOOLS,
            "add_generation_prompt": SWITCH,
        },
    ),
    "text.chat.encode_chat": Case(
        lambda w: lambda **given: chat.encode_chat(w.tokenizer, w.template, **given),
        {
            "messages": CONVERSATION,
            "tools": TOOLS,
            "add_generation_prompt": SWITCH,
            **TONE,
        },
    ),
    "text.messages.check_messages": Case(
        lambda _: messages.check_messages, {"messages": CONVERSATION}
    ),
    "text.messages.check_tools": Case(lambda _: messages.check_tools, {"tools": TOOLS}),
    "text.messages.check_json": Case(
        lambda _: lambda value: messages.check_json(value, "it"), {"value": JSON}
    ),
    "text.stops.StopMatcher": Case(lambda _: stops.StopMatcher, {"strings": items(["x"], ())}),
    "text.stops.StopMatcher.push": Case(
        lambda _: stops.StopMatcher(["ab"]).push, {"text": text("a")}
    ),
    "text.stops.StopMatcher.flush": Case(lambda _: stops.StopMatcher(["ab"]).flush),
    "text.thinking.ThinkingSplitter": Case(
        lambda _: thinking.ThinkingSplitter, {"prompt": text("a")}
    ),
    "text.thinking.ThinkingSplitter.push": Case(
        lambda _: thinking.ThinkingSplitter("a").push, {"text": text("a")}
    ),
    "text.thinking.ThinkingSplitter.flush": Case(lambda _: thinking.ThinkingSplitter("a").flush),
    "text.grammar.grammar.Grammar.json_schema": Case(
        lambda _: Grammar.json_schema,
        {"schema": Kind(({"type": "integer"}, True), lambda v: isinstance(v, bool | Mapping))},
    ),
    "text.grammar.grammar.Grammar.json_object": Case(lambda _: Grammar.json_object),
    "text.grammar.grammar.Grammar.regex": Case(lambda _: Grammar.regex, {"pattern": text("a+")}),
    "text.grammar.grammar.Grammar.lark": Case(lambda _: Grammar.lark, {"text": text('start: "a"')}),
    "text.grammar.grammar.Grammar.gbnf": Case(
        lambda _: Grammar.gbnf, {"text": text('root ::= "a"')}
    ),
    "text.grammar.grammar.Grammar.choice": Case(
        lambda _: Grammar.choice, {"texts": Kind((["a"],), lambda v: isinstance(v, list | tuple))}
    ),
    "text.grammar.grammar.Grammar.tool_calls": Case(
        lambda _: Grammar.tool_calls,
        {
            "format": instance(family.ToolFormat.HERMES),
            "tools": Kind((SOME_TOOL,), lambda v: isinstance(v, list | tuple)),
            "names": or_none(items(["f"])),
            "parallel": SWITCH,
            "text": SWITCH,
        },
    ),
    "text.grammar.grammar.Grammar.tool_arguments": Case(
        lambda _: Grammar.tool_arguments,
        {
            "format": instance(family.ToolFormat.HERMES),
            "tool": Kind((SOME_TOOL[0],), lambda v: isinstance(v, Mapping)),
            "where": text("tools[0]"),
        },
    ),
    "text.grammar.grammar.Grammar.or_tool_calls": Case(
        lambda _: Grammar.json_object().or_tool_calls,
        {
            "format": instance(family.ToolFormat.HERMES),
            "tools": Kind((SOME_TOOL,), lambda v: isinstance(v, list | tuple)),
            "parallel": SWITCH,
        },
    ),
    # -- files and formats
    "formats.open.open_checkpoint": Case(
        lambda w: lambda path: formats_open.open_checkpoint(w.file if path is None else path),
        {"path": path(None, "/nowhere")},
        _close,
    ),
    "quant.decode.decode": Case(lambda _: decode.decode, {"stored": STORED, "raw": BYTES}),
    "quant.encode.encode": Case(lambda _: encode.encode, {"stored": STORED, "values": FLOATS}),
    "quant.types.StoredType.row_bytes": Case(
        lambda _: types.StoredType.Q4_K.row_bytes, {"k": whole(256, 0)}
    ),
    "quant.types.from_ggml": Case(lambda _: types.from_ggml, {"ggml_id": whole(1, 99)}),
    "quant.types.ggml_name": Case(lambda _: types.ggml_name, {"ggml_id": whole(1, 99)}),
    # -- the machine
    "machine.cpu.usable_cores": Case(lambda _: cpu.usable_cores, {"root": ROOT}),
    "machine.cpu.threads_for": Case(
        lambda _: cpu.threads_for, {"wished": or_none(whole(1)), "root": ROOT}
    ),
    "machine.cpu.use_threads": Case(lambda _: cpu.use_threads, {"wished": or_none(whole(1))}),
    "machine.cpu.read_cpu": Case(
        lambda _: cpu.read_cpu,
        {"root": ROOT, "limits": or_none(instance(cgroup.CgroupLimits()))},
    ),
    "machine.cpu.read_memory": Case(
        lambda _: cpu.read_memory,
        {"root": ROOT, "limits": or_none(instance(cgroup.CgroupLimits()))},
    ),
    "machine.cpu.read_kernels": Case(lambda _: cpu.read_kernels),
    "machine.cgroup.read_cgroup": Case(lambda _: cgroup.read_cgroup, {"root": ROOT}),
    "machine.gpu.read_gpus": Case(lambda _: gpu.read_gpus, {"root": ROOT}),
    "machine.limits.measure": Case(
        lambda _: limits.measure, {"megabytes": whole(512), "memory": or_none(instance(NO_MEMORY))}
    ),
    "machine.probe.probe": Case(
        lambda _: probe.probe,
        {
            "refresh": SWITCH,
            "cache": or_none(path("machine.json")),
            "memory": or_none(instance(NO_MEMORY)),
        },
    ),
    "machine.probe.cached": Case(lambda _: probe.cached, {"cache": or_none(path("machine.json"))}),
    "machine.limits.Limits.seconds": Case(
        lambda _: limits.Limits(1.0, 1.0).seconds, {"bytes_read": real(1), "operations": real(1)}
    ),
    "choose.devices.device_named": Case(lambda _: device_named, {"name": text("pi5", "h100x8")}),
    "choose.devices.card_named": Case(
        lambda _: card_named, {"name": text("NVIDIA T4", "a card"), "memory": whole(1, 1 << 50)}
    ),
    "choose.devices.this_device": Case(
        lambda _: this_device, {"machine": instance(_MACHINE), "memory": instance(_MEMORY)}
    ),
    "choose.tasks.task_named": Case(lambda _: task_named, {"name": text("chat", "Coding")}),
    "choose.recommend.Ask": Case(
        lambda _: lambda **given: Ask(**{"task": _CHAT, "device": _PI5, **given}),
        {
            "task": instance(_CHAT),
            "device": instance(_PI5),
            "memory": or_none(whole(1, 1 << 40)),
            "min_speed": or_none(real(1.0)),
            "context": or_none(whole(1, 4096)),
            "languages": items(("hu",), ()),
            "license": text("any", "commercial"),
            "newer": SWITCH,
        },
    ),
    "choose.recommend.recommend": Case(
        lambda _: lambda **given: recommend(**{"ask": _ASK, "catalog": _CATALOG, **given}),
        {"ask": instance(_ASK), "catalog": instance(_CATALOG), "most": whole(1, 1000)},
    ),
    "choose.recommend.options_of": Case(
        lambda _: lambda **given: list(options_of(**{"model": _QWEN3, "ask": _ASK, **given})),
        {"model": instance(_QWEN3), "ask": instance(_ASK)},
    ),
    "machine.limits.measure_products": Case(lambda _: limits.measure_products),
    "choose.memory.plan_memory": Case(
        lambda _: memory.plan_memory,
        {
            "config": mapping(ARCH),
            "weights": whole(1000),
            "rows": whole(64),
            "logit_rows": whole(4),
            "context": or_none(whole(64)),
            "kv_kinds": items(("bf16", "f32")),
            "memory": or_none(instance(cpu.Memory(1 << 34, 1 << 34, "machine"))),
            "least": or_none(whole(100)),
            "weights_ram": or_none(whole(1 << 20)),
        },
    ),
    **EVALUATE,
    **TASKS,
    # -- the rest
    "family.family_of": Case(
        lambda _: family.family_of,
        {"config": mapping({"model_type": "qwen2"}), "name": or_none(text("qwen2.5-7b"))},
    ),
    "family.is_named": Case(
        lambda _: family.is_named,
        {"config": mapping({"model_type": "qwen2"}), "name": or_none(text("qwen2.5-7b"))},
    ),
    "text.published.published_template": Case(
        lambda _: published.published_template,
        {"family": instance(family.FAMILIES["qwen2"])},
    ),
    "settings.Setting.get": Case(lambda _: settings.KV.get),
    "settings.Setting.changed": Case(
        lambda _: settings.KV.changed, {"text": text("f32")}, lambda c: c.__enter__() and c
    ),
    "settings.child_environment": Case(lambda _: settings.child_environment, {"A": text("x")}),
}
# Plain data that qwick makes and hands out: whoever builds one by hand may put anything into it.
PLAIN = {
    *TASKS_PLAIN,
    *("engine.request.Progress", "text.grammar.grammar.Grammar"),
    *("llm.qwen.Qwen", "llm.stream.Stream", "llm.stream.AsyncStream", "llm.reply.Reply"),
    *("llm.reply.Chunk", "llm.reply.Logprob", "llm.reply.Timings", "llm.reply.Usage"),
    "llm.pooling.Ranked",
    *("engine.request.TokenLogprob", "engine.request.Scores", "engine.request.Timings"),
    *("engine.request.Tokens", "engine.request.Finished", "hub.entries.Entry", "hub.store.Stored"),
    *("hub.entries.PinnedFile", "hub.entries.Place", "hub.upkeep.CheckedFile"),
    *("hub.upkeep.Checked", "hub.upkeep.Pruned", "hub.upkeep.Usage", "text.chat.Prompt"),
    *("text.tokenizer.Tokenizer", "text.tokenizer.Detokenizer", "choose.memory.MemoryPlan"),
    *("choose.devices.Device", "choose.tasks.Task", "choose.recommend.Larger"),
    *("choose.recommend.Option", "choose.recommend.Recommendation", "choose.recommend.Refusal"),
    "machine.limits.Products",
    *("machine.cpu.Cpu", "machine.cpu.Memory"),
    *("machine.cpu.Kernels", "machine.cgroup.CgroupLimits", "machine.limits.Limits"),
    *("machine.gpu.Gpu", "machine.probe.Machine", "machine.probe.Machine.to_dict"),
    *("evaluate.perplexity.Scored", "evaluate.perplexity.Comparison", "evaluate.speed.Measured"),
    *("evaluate.speed.Cost", "evaluate.speed.Cost.of", "evaluate.speed.DraftsMeasured"),
    *("evaluate.humaneval.Problem", "evaluate.humaneval.Result", "evaluate.sandbox.Outcome"),
    *("family.Family", "family.ModelType", "family.SamplingDefaults", "settings.Setting"),
    *("hub.catalog.Catalog", "hub.catalog.Context", "hub.catalog.Format", "hub.catalog.Languages"),
    *("hub.catalog.License", "hub.catalog.Model", "hub.catalog.Parameters", "hub.catalog.Score"),
    *("hub.series.Series", "hub.shape.Shape"),
    "hub.catalog.PublishedFile",
    *("hub.listener.SilentListener", "hub.listener.SilentListener.progress"),
    *("hub.listener.SilentListener.notice", "hub.listener.StderrListener"),
    *("hub.listener.StderrListener.progress", "hub.listener.StderrListener.notice"),
}
# What only other parts of qwick call, with what they have checked.
UNCHECKED = {
    "llm.qwen.Qwen.astream_asked",  # takes what `Texts` has made
    *("llm.stream.AsyncStream.interrupt", "text.thinking.soft_switch"),
    *("text.tokenizer.Tokenizer.from_data", "engine.request.perplexity_of"),
    # Takes what `check_json` has let through.
    *("text.messages.map_strings", "text.messages.strings_of", "hub.listener.check_listener"),
    "evaluate.perplexity.check_progress",
    # Held by `with` around what changes a store: the store's own.
    *("hub.store.Store.trust", "hub.store.Store.digest"),
    *("quant.decode.q3_k_scales", "quant.decode.q4_k_scales"),
}
# Arguments that are fixed in a case: parts that qwick itself makes, of a type that is checked where
# a caller would mistake one for another, and never read from outside.
FIXED: dict[str, tuple[str, ...]] = {
    **TASKS_FIXED,
    "hub.resolve": ("store",),
    "hub.upkeep.verify": ("store",),
    "hub.upkeep.usage": ("store",),
    "hub.upkeep.prune": ("store",),
    "text.chat.encode_chat": ("tokenizer", "template"),
    "text.messages.check_json": ("where", "depth"),
    "evaluate.perplexity.score_texts": ("model",),
    "evaluate.speed.measure": ("model",),
    "evaluate.speed.measure_drafts": ("model",),
    "evaluate.humaneval.answer_problems": ("model",),
}
