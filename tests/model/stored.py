"""Checkpoints of wild weights: written once per session, or held in memory.

Knows how weights get from arrays to a Decoder; knows nothing of what they should compute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from model.wild import (
    BLOCKED,
    CONFIGS,
    STEMS,
    Oracle,
    build,
    open_with_transformers,
    sequences,
    wild_tensors,
)
from qwick.formats.checkpoint import Checkpoint, Tensor, TokenizerData
from qwick.formats.open import open_checkpoint
from qwick.formats.write import write_folder, write_gguf
from qwick.model.decoder import Decoder
from qwick.model.load import load_model
from qwick.quant.encode import encode
from qwick.quant.types import GGUF_TYPES, StoredType

MIX = [stored for stored in GGUF_TYPES if stored.packed.startswith("i")]


@dataclass
class Sample:
    """A checkpoint on disk, and transformers' answer for the weights that it stores."""

    path: Path
    oracle: Oracle

    def load(self, kv: str = "f32") -> Decoder:
        with open_checkpoint(self.path) as checkpoint:
            return load_model(checkpoint, kv=kv)


class Samples:
    """Every checkpoint that a test asks for, written and run through the oracle once."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self.factory = factory
        self.made: dict[tuple[Any, ...], Sample] = {}

    def folder(self, name: str, stored: StoredType, shards: int = 1) -> Sample:
        """A safetensors folder of CONFIGS[name]; transformers reads it by itself."""
        key = (name, stored, shards)
        if key not in self.made:
            path, config = self.factory.mktemp("folder") / name, CONFIGS[name]
            write_folder(path, config, wild_tensors(config), stored, shards=shards)
            self.made[key] = Sample(path, Oracle(open_with_transformers(path, config), sequences()))
        return self.made[key]

    def gguf(self, name: str, stored: StoredType) -> Sample:
        """A GGUF file of CONFIGS[name], matrices in a float type."""
        return self._gguf(name, CONFIGS[name], stored)

    def blocks(self, name: str) -> Sample:
        """A GGUF file of BLOCKED[name], the block types dealt out over the matrices."""
        return self._gguf(name, BLOCKED[name], dealt_out(BLOCKED[name]))

    def _gguf(self, name: str, config: Mapping[str, Any], types: Any) -> Sample:
        key = (name, "gguf", str(types))
        if key not in self.made:
            path = self.factory.mktemp("gguf") / f"{name}.gguf"
            write_gguf(path, config, wild_tensors(config), types)
            model = build(config, gguf_weights(path, config))
            self.made[key] = Sample(path, Oracle(model, sequences()))
        return self.made[key]


def gguf_weights(path: Path, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Weights as the `gguf` package finds, names and decodes them."""
    arch = getattr(gguf.MODEL_ARCH, STEMS[config["model_type"]].upper())
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    theirs = {}
    for ours in wild_tensors(config):
        together = re.sub(r"(\.experts)\.[0-9]+\.", r"\1.", ours)  # as gguf knows experts
        theirs[names.get_name(together, try_suffixes=(".weight", ".bias"))] = together
    out = {}
    for t in gguf.GGUFReader(path).tensors:
        value = gguf.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1].tolist())
        stem, _, part = theirs[t.name].rpartition(".experts.")
        if stem:
            out.update({f"{stem}.experts.{i}.{part}": one for i, one in enumerate(value)})
        else:
            out[theirs[t.name]] = value
    return out


def dealt_out(config: Mapping[str, Any]) -> dict[str, StoredType]:
    """The block types, in turn, over the matrices of a config; a layer's experts have the same.

    Routers stay in float32, as everybody leaves them.
    """
    found: dict[str, StoredType] = {}
    turn: dict[str, StoredType] = {}
    for name, value in wild_tensors(config).items():
        if value.ndim == 2 and not name.endswith(("mlp.gate.weight", "expert_gate.weight")):
            together = re.sub(r"\.experts\.[0-9]+\.", ".experts.", name)
            found[name] = turn.setdefault(together, MIX[len(turn) % len(MIX)])
    return found


def in_memory(
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    types: Mapping[str, StoredType] | None = None,
) -> Checkpoint:
    """A checkpoint without a file; unlike the writers it takes NaN (in float32) and any shape."""
    held = {}
    for name, value in tensors.items():
        stored = (types or {}).get(name, StoredType.F32)
        if stored is StoredType.F32:
            raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        else:
            raw = encode(stored, value.reshape(-1, value.shape[-1])).reshape(-1)
        held[name] = Tensor(name, stored, value.shape, raw)
    return Checkpoint(
        path=Path("in-memory"),
        format="safetensors",
        config=config,
        tensors=held,
        chat_template=None,
        generation={},
        name=None,
        author=None,
        license=None,
        size_bytes=sum(value.nbytes for value in tensors.values()),
        read_tokenizer=TokenizerData,
        release=lambda: None,
    )
