"""The experts of a layer, which a GGUF file has in one tensor: cut apart, counted, refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from qwick.errors import FormatError, UnsupportedError
from qwick.formats import gguf_checkpoint
from qwick.formats.open import open_checkpoint

HIDDEN, INNER, EXPERTS = 32, 16, 4
PARTS = {
    "token_embd": (8, HIDDEN),
    "blk.0.ffn_gate_exps": (EXPERTS, INNER, HIDDEN),
    "blk.0.ffn_up_exps": (EXPERTS, INNER, HIDDEN),
    "blk.0.ffn_down_exps": (EXPERTS, HIDDEN, INNER),
    "blk.0.ffn_gate_inp_shexp": (HIDDEN,),
}


def written(path: Path, arch: str = "qwen2moe", **other: tuple[int, ...]) -> Path:
    """Write a file with tensors of such shapes, each full of numbers of its own."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-6)
    if arch.endswith("moe"):
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(2)
    shapes = {**PARTS, **{f"blk.0.{name}": shape for name, shape in other.items()}}
    for name, shape in shapes.items():
        values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_each_expert_is_a_tensor(tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path / "a.gguf")) as checkpoint:
        for part, shape in (("gate", (INNER, HIDDEN)), ("down", (HIDDEN, INNER))):
            for i in range(EXPERTS):
                tensor = checkpoint.tensors[f"model.layers.0.mlp.experts.{i}.{part}_proj.weight"]
                assert tensor.shape == shape
                values = tensor.data.view(np.float32)
                assert values[0] == i * INNER * HIDDEN
                assert len(values) == INNER * HIDDEN
        assert checkpoint.config["moe_intermediate_size"] == INNER  # the file has no key for it
        gate = checkpoint.tensors["model.layers.0.mlp.shared_expert_gate.weight"]
        assert gate.shape == (1, HIDDEN)


def test_experts_have_three_axes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", ffn_up_exps=(EXPERTS, INNER))
    with pytest.raises(FormatError, match=r"ffn_up_exps.* \[4, 16\]; experts have three axes"):
        open_checkpoint(path)


def test_a_dense_model_has_none(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"'blk\.0\.ffn_gate_exps\.weight' has no place in"):
        open_checkpoint(written(tmp_path / "a.gguf", "qwen2"))


@pytest.mark.parametrize("most", [3, 12])
def test_experts_count_as_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    path = written(tmp_path / "a.gguf")
    monkeypatch.setattr(gguf_checkpoint, "MAX_TENSORS", 14)
    open_checkpoint(path).close()
    monkeypatch.setattr(gguf_checkpoint, "MAX_TENSORS", most)
    with pytest.raises(FormatError, match=rf"each expert's counted; allowed: {most}"):
        open_checkpoint(path)
