"""The default checkpoint, read whole: golden metadata, and every tensor's place and bytes."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from qwick.formats.gguf_names import hf_name
from qwick.formats.open import open_checkpoint
from qwick.quant.decode import decode

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def theirs(default_checkpoint: Path) -> gguf.GGUFReader:
    """Some seconds, once: the gguf package reads every string as an array of its own."""
    return gguf.GGUFReader(default_checkpoint)


def test_golden_metadata(default_checkpoint: Path) -> None:
    with open_checkpoint(default_checkpoint) as checkpoint:
        assert dict(checkpoint.config) == {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_act": "silu",
            "use_sliding_window": False,
            "num_hidden_layers": 24,
            "max_position_embeddings": 32768,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "rope_scaling": None,
            "vocab_size": 151936,
            "tie_word_embeddings": False,
            "eos_token_id": 151645,
            "bos_token_id": 151643,
        }
        assert checkpoint.size_bytes == 491_400_064
        assert checkpoint.generation == {}
        assert checkpoint.chat_template is not None
        assert checkpoint.chat_template.startswith("{%- if tools %}")
        types = Counter(tensor.type.name for tensor in checkpoint.tensors.values())
        assert types == {"Q5_0": 133, "F32": 121, "Q8_0": 13, "Q6_K": 12, "Q4_K": 12}
        layer = re.compile(r"layers\.\d+\.")
        kinds = Counter(layer.sub("layers.#.", name) for name in checkpoint.tensors)
        assert sorted(kinds.values()) == [1, 1, 1] + [24] * 12
        shape = checkpoint.tensors["model.layers.23.mlp.down_proj.weight"].shape
        assert shape == (896, 4864)


def test_tokenizer_equals_the_gguf_package(
    default_checkpoint: Path, theirs: gguf.GGUFReader
) -> None:
    fields = theirs.fields
    data = open_checkpoint(default_checkpoint).tokenizer
    assert data.tokens == fields["tokenizer.ggml.tokens"].contents()
    assert data.token_types == fields["tokenizer.ggml.token_type"].contents()
    assert data.merges == fields["tokenizer.ggml.merges"].contents()
    assert (data.pre, data.eos_id, data.bos_id, data.pad_id) == ("qwen2", 151645, 151643, 151643)
    assert data.add_bos is False
    assert data.tokens is not None
    assert data.tokens[151645] == "<|im_end|>"


def test_tensors_equal_the_gguf_package(default_checkpoint: Path, theirs: gguf.GGUFReader) -> None:
    checkpoint = open_checkpoint(default_checkpoint)
    assert len(theirs.tensors) == len(checkpoint.tensors) == 291
    for tensor in theirs.tensors:
        name = hf_name(tensor.name)
        assert name is not None
        ours = checkpoint.tensors[name]
        assert ours.type.name == tensor.tensor_type.name
        assert list(ours.shape) == tensor.shape.tolist()[::-1]
        assert ours.data.ctypes.data % 32 == 0
        raw = tensor.data.view(np.uint8).reshape(-1)
        assert len(ours.data) == len(raw)
        # Both ends of each tensor: reading all of it would only test the page cache.
        width = ours.type.row_bytes(ours.shape[-1])
        for part in (slice(0, 4 * width), slice(-4 * width, None)):
            rows = ours.data[part].reshape(-1, width)
            wanted = dequantize(raw[part].reshape(-1, width), tensor.tensor_type)
            found = decode(ours.type, rows)
            np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.alone
def test_opening_is_quick(default_checkpoint: Path) -> None:
    def best(times: int) -> tuple[float, float]:
        pairs = []
        for _ in range(times):
            start = time.perf_counter()
            checkpoint = open_checkpoint(default_checkpoint)
            opened = time.perf_counter()
            assert checkpoint.tokenizer.tokens
            pairs.append((opened - start, time.perf_counter() - opened))
            checkpoint.close()
        return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)

    eager, lazy = best(5)
    # Measured on a 2-core Xeon: 11 ms and 45 ms. The limits leave room for a slower, busy machine.
    assert eager < 0.060
    assert lazy < 0.150
