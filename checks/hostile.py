"""Hostile checkpoints for the fuzzers: sound ones, damaged in the ways of damage.py, and read.

Everything follows from a seed and a number, so that any case can be made again. Knows nothing of
processes, limits or reports.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from checks.damage import (
    Files,
    Parts,
    damage_bytes,
    damage_folder,
    damage_gguf,
    damage_json,
    damage_safetensors,
)
from llm.small import ARCH, CONTROL, TEMPLATE, byte_alphabet, random_tensors, write_small
from qwick.errors import QwickError
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_folder

CONTEXT = 64
LARGEST_LOADED = 1 << 22
"""Bytes of tensors up to which a case goes on to answer: the small checkpoints, not the real."""


@dataclass
class Case:
    """A checkpoint on its way to disk. `zeros` follow the first file's bytes, as a hole."""

    specimen: str
    files: Files
    entry: str  # what is opened; "": the folder
    zeros: int = 0

    @property
    def size(self) -> int:
        """Bytes written."""
        return sum(len(raw) for raw in self.files.values() if raw)

    def write(self, folder: Path) -> Path:
        """Write it into an empty folder; return what is to be opened."""
        for name, raw in self.files.items():
            path = folder / name
            if raw is None:
                path.mkdir()
            elif raw.startswith(b"-> "):
                path.symlink_to(raw[3:].decode())
            else:
                with path.open("wb") as file:
                    file.write(raw)
                    if self.zeros and name == self.entry:
                        file.truncate(len(raw) + self.zeros)
        return folder / self.entry


# -- sound checkpoints -----------------------------------------------------------------------------


def tokenizer_json() -> str:
    """Return a tokenizer.json with the small checkpoint's vocabulary, as the library writes it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {token: id for id, token in enumerate(byte_alphabet())}
    backend = Tokenizer(models.BPE({**vocabulary, "he": 256}, [("h", "e")]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token) for token in CONTROL])
    return backend.to_str()


def _read(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@functools.cache
def specimens(real: Path | None) -> dict[str, Case]:
    """Return the sound checkpoints; `real` is a GGUF file whose header shall be among them."""
    out: dict[str, Case] = {}
    texts = {
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": json.dumps(
            {
                "chat_template": TEMPLATE,
                "eos_token": "<|im_end|>",
                "add_bos_token": False,
                "added_tokens_decoder": {"259": {"content": "<|im_end|>", "special": True}},
            }
        ),
        "generation_config.json": json.dumps({"temperature": 0.7, "eos_token_id": [259, 257]}),
    }
    with tempfile.TemporaryDirectory() as name:
        at = Path(name)
        for folder in ("gguf", "split", "folder", "sharded"):
            (at / folder).mkdir()
        write_small(at / "gguf" / "m.gguf")
        write_small(at / "split" / "m.gguf", part_tensors=9)
        write_folder(at / "folder", ARCH, random_tensors(ARCH), files=texts)
        write_folder(at / "sharded", ARCH, random_tensors(ARCH), shards=2, files=texts)
        out["gguf"] = Case("gguf", _read(at / "gguf"), "m.gguf")
        parts = _read(at / "split")
        out["split"] = Case("split", parts, sorted(parts)[0])
        out["folder"] = Case("folder", _read(at / "folder"), "")
        out["sharded"] = Case("sharded", _read(at / "sharded"), "")
        config = json.loads(texts["tokenizer_config.json"])
        named = [{"name": name, "template": TEMPLATE} for name in ("default", "tool_use")]
        config_of_names = json.dumps({**config, "chat_template": named})
        files = {**out["folder"].files, "tokenizer_config.json": config_of_names.encode()}
        out["templates"] = Case("templates", files, "")
    if real is not None:
        from qwick.formats.gguf import read_gguf

        file = read_gguf(real)
        head = file.data[: file.header_bytes + 4096]
        out["real"] = Case("real", {"real.gguf": head}, "real.gguf", len(file.data) - len(head))
    return out


# -- damaged ones ---------------------------------------------------------------------------------


def damage(case: Case, rng: random.Random) -> None:
    """Damage a case in one of the ways that fit one of its files."""
    if not case.files:
        return
    if rng.random() < (0.02 if len(case.files) == 1 else 0.12):
        damage_folder(case.files, rng)
        return
    name = rng.choice(list(case.files))
    raw = case.files[name]
    if not raw or raw.startswith(b"-> "):
        return
    shape: Callable[[bytes, random.Random], bytes] | None = None
    if name.endswith(".json"):
        shape = damage_json
    elif name.endswith(".safetensors"):
        shape = damage_safetensors
    if shape is not None and rng.random() < 0.7:
        case.files[name] = shape(raw, rng)
    else:
        header = len(raw) if shape is damage_json or rng.random() < 0.2 else 1 << 13
        case.files[name] = damage_bytes(raw, rng, header)


@functools.cache
def _taken_apart(real: Path | None) -> dict[tuple[str, str], Parts]:
    return {
        (case.specimen, name): Parts.of(raw)
        for case in specimens(real).values()
        for name, raw in case.files.items()
        if raw and name.endswith(".gguf")
    }


def make(seed: int, number: int, real: Path | None = None) -> Case:
    """Return case `number` of a seed: a checkpoint damaged in one to three ways."""
    rng = random.Random(f"{seed}:{number}")
    known = specimens(real)
    names = [name for name in known for _ in range(1 if name == "real" else 32)]
    sound = known[rng.choice(names)]
    case = Case(sound.specimen, dict(sound.files), sound.entry, sound.zeros)
    times = rng.choice([1, 1, 1, 2, 3])
    if case.entry and rng.random() < 0.5:
        name = rng.choice(list(case.files))
        parts = _taken_apart(real)[case.specimen, name]
        parts = Parts(list(parts.pairs), list(parts.tensors), parts.data)
        for _ in range(times):
            damage_gguf(parts, rng)
        case.files[name] = parts.bytes(rng)
    else:
        for _ in range(times):
            damage(case, rng)
    if case.specimen == "split":
        case.entry = rng.choice([*case.files, ""]) if case.files else ""
    return case


# -- reading ---------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """Read a checkpoint part by part; return what came of it: "read", or our error's name.

    A small one that can be read is loaded, and answers. Whatever else is raised is a failure of
    qwick's.
    """
    found: list[str] = []
    try:
        with open_checkpoint(path) as checkpoint:
            for stage in (_weights, _text, _defaults):
                try:
                    stage(checkpoint)
                except QwickError as error:
                    found.append(type(error).__name__)
                    str(error)
            size = sum(tensor.data.nbytes for tensor in checkpoint.tensors.values())
        if not found and size <= LARGEST_LOADED:
            _answer(path)
    except QwickError as error:
        found.append(type(error).__name__)
        str(error)
    return found[0] if found else "read"


def _weights(checkpoint: Any) -> None:
    from qwick.model.load import kv_kinds, weight_bytes

    for found in checkpoint.tensors.values():
        int(found.data[0]) + int(found.data[-1])
    weight_bytes(checkpoint)
    kv_kinds(checkpoint, "auto")


def _text(checkpoint: Any) -> None:
    from qwick.text.template import ChatTemplate
    from qwick.text.tokenizer import Tokenizer

    if checkpoint.chat_template is not None:
        ChatTemplate(checkpoint.chat_template)
    tokenizer = Tokenizer.from_data(checkpoint.tokenizer)
    ids = tokenizer.encode("Hello, 你好<|im_end|>", parse_special=True)
    tokenizer.decode(ids)


def _defaults(checkpoint: Any) -> None:
    from qwick.family import family_of
    from qwick.llm.defaults import Defaults, stop_ids_of

    stop_ids = stop_ids_of(checkpoint.generation)
    Defaults(family_of(checkpoint.config, "any"), checkpoint.generation, stop_ids)


def _answer(path: Path) -> None:
    """Load it and ask; an error of ours is an answer to each question."""
    from qwick.hub import SilentListener
    from qwick.llm.qwen import Qwen

    with Qwen.load(path, ctx=CONTEXT, listener=SilentListener()) as qwen:
        for ask in (
            lambda: qwen.chat("Hello, 你好", max_tokens=3),
            lambda: qwen.complete("Hello", max_tokens=3, temperature=0.0, ignore_eos=True),
            lambda: qwen.perplexity("Hello, 你好"),
        ):
            with contextlib.suppress(QwickError):
                ask()
