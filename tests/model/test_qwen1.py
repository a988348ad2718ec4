"""Qwen1: its folders and GGUF files, and what it does beyond the length it was trained for.

Within that length it computes what Qwen1.5 does, under other names, so transformers is the oracle;
that a GGUF file of it is read as its readers read it is told by llama.cpp's logits, which are kept
in `qwen1_llama_cpp.json` (`python -m checks.qwen1_logits` makes them). Beyond it the oracle is
`numpy_decoder.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.small import STORED_TOKENIZER_DATA
from model.numpy_decoder import NumpyOracle, qwen1
from model.parity import F32_LIMIT, require_f32, require_shown
from model.stepping import SCHEDULES, prefill, run, stepwise
from model.wild import CONFIGS, VOCAB, Oracle, build, sequences, wild_tensors
from qwick.errors import ConfigError, FormatError, UnsupportedError
from qwick.formats.open import open_checkpoint
from qwick.formats.qwen1 import gguf_positions, translate_config
from qwick.formats.write import write_folder, write_gguf
from qwick.model.arch import read_arch
from qwick.model.decoder import Decoder
from qwick.model.load import load_model
from qwick.model.positions import DynamicNtk, Rotations, with_yarn

LIKE = CONFIGS["qwen1.5-mha"]
TENSORS = wild_tensors(LIKE)
# As published with Qwen-7B-Chat, but for the sizes.
PUBLISHED: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"},
    "attn_dropout_prob": 0.0,
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "fp16": False,
    "fp32": False,
    "hidden_size": 64,
    "intermediate_size": 200,
    "initializer_range": 0.02,
    "kv_channels": 16,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 512,
    "model_type": "qwen",
    "no_bias": True,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 64,
    "tie_word_embeddings": False,
    "tokenizer_class": "QWenTokenizer",
    "transformers_version": "4.32.0",
    "use_cache": True,
    "use_dynamic_ntk": True,
    "use_flash_attn": "auto",
    "use_logn_attn": True,
    "vocab_size": 503,
}
GOLDEN = Path(__file__).with_name("qwen1_llama_cpp.json")


def own_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights as Qwen1's folders hold them."""
    out = {
        "transformer.wte.weight": tensors["model.embed_tokens.weight"],
        "transformer.ln_f.weight": tensors["model.norm.weight"],
        "lm_head.weight": tensors["lm_head.weight"],
    }
    parts = {
        "ln_1.weight": "input_layernorm.weight",
        "attn.c_proj.weight": "self_attn.o_proj.weight",
        "ln_2.weight": "post_attention_layernorm.weight",
        "mlp.w1.weight": "mlp.up_proj.weight",
        "mlp.w2.weight": "mlp.gate_proj.weight",
        "mlp.c_proj.weight": "mlp.down_proj.weight",
    }
    for i in range(sum(name.endswith("self_attn.q_proj.weight") for name in tensors)):
        ours, theirs = f"model.layers.{i}.", f"transformer.h.{i}."
        out.update({theirs + a: tensors[ours + b] for a, b in parts.items()})
        for end in ("weight", "bias"):
            fused = [tensors[f"{ours}self_attn.{x}_proj.{end}"] for x in "qkv"]
            out[f"{theirs}attn.c_attn.{end}"] = np.concatenate(fused)
    return out


def load(path: Path, **keywords: Any) -> Decoder:
    with open_checkpoint(path) as checkpoint:
        return load_model(checkpoint, kv="f32", **keywords)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen1") / "Qwen-7B-Chat"
    write_folder(path, PUBLISHED, own_names(TENSORS))
    return path


@pytest.fixture(scope="module")
def within() -> Oracle:
    return Oracle(build(LIKE, TENSORS), sequences((64, 1, 33)))


def test_a_folder_equals_qwen1_5_within_its_length(folder: Path, within: Oracle, isa: str) -> None:
    model = load(folder)
    assert model.context == 64
    for schedule in SCHEDULES.values():
        require_f32(model, within, schedule)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, i: t.update(
            {
                f"{i}mlp.w1.weight": t[f"{i}mlp.w2.weight"],
                f"{i}mlp.w2.weight": t[f"{i}mlp.w1.weight"],
            }
        ),
        lambda t, i: t.update(
            {f"{i}attn.c_attn.weight": np.roll(t[f"{i}attn.c_attn.weight"], 64, 0)}
        ),
        lambda t, i: t.update({f"{i}attn.c_attn.bias": np.roll(t[f"{i}attn.c_attn.bias"], 64)}),
        lambda t, i: t.update({f"{i}ln_2.weight": t[f"{i}ln_1.weight"]}),
    ],
    ids=["gate is up", "query is key", "biases turned", "one norm for two"],
)
def test_mutants_show(
    tmp_path: Path, within: Oracle, change: Callable[[dict[str, np.ndarray], str], None]
) -> None:
    tensors = own_names(TENSORS)
    change(tensors, "transformer.h.1.")
    write_folder(tmp_path / "m", PUBLISHED, tensors)
    require_shown(load(tmp_path / "m"), within)


# Sequences of several lengths, each a prompt as a whole, with the rotations that dynamic NTK gives.
FAR = sequences((200, 64, 65, 129, 30))
ROTATIONS = (2, 0, 1, 2, 0)

Way = tuple[bool, bool]  # dynamic NTK, log-n attention
NEITHER: Way = (False, False)
WAYS: tuple[Way, ...] = ((True, True), (True, False), (False, True))


def way_name(way: Way) -> str:
    return " and ".join(n for n, on in zip(("ntk", "log-n"), way, strict=True) if on) or "neither"


def beyond_folder(path: Path, way: Way) -> Path:
    config = {**PUBLISHED, "use_dynamic_ntk": way[0], "use_logn_attn": way[1]}
    write_folder(path / "m", config, own_names(TENSORS))
    return path / "m"


@pytest.fixture(scope="module")
def beyond() -> dict[Way, NumpyOracle]:
    """What each way gives."""
    return {
        (ntk, log_n): NumpyOracle(LIKE, TENSORS, FAR, qwen1(1e4, 64, ntk=ntk, log_n=log_n))
        for ntk, log_n in (*WAYS, NEITHER)
    }


@pytest.mark.parametrize("way", WAYS, ids=way_name)
def test_beyond_its_length(tmp_path: Path, beyond: dict[Way, NumpyOracle], way: Way) -> None:
    model = load(beyond_folder(tmp_path, way), context=256)
    assert model.arch.positions.scaling == DynamicNtk(64, *way)
    assert model.rotations.limits == ((64, 128, 256) if way[0] else (256,))
    rotations = ROTATIONS if way[0] else (0,) * 5
    for x, rotation in zip(FAR, rotations, strict=True):
        assert model.rotations.of(len(x), 256) == rotation
    for schedule in SCHEDULES.values():
        require_f32(model, beyond[way], schedule, rotations)


@pytest.mark.parametrize(
    ("way", "other"),
    [(way, other) for way in WAYS for other in (*WAYS, NEITHER) if other != way],
    ids=way_name,
)
def test_another_way_shows(
    tmp_path: Path, beyond: dict[Way, NumpyOracle], way: Way, other: Way
) -> None:
    model = load(beyond_folder(tmp_path, way), context=256)
    require_shown(model, beyond[other], ROTATIONS if way[0] else None)


def test_without_either_it_ends_at_its_length(tmp_path: Path) -> None:
    assert load(beyond_folder(tmp_path, NEITHER)).context == 64


def test_an_answer_keeps_the_rotation_of_its_prompt(folder: Path) -> None:
    """The base is chosen when the prompt comes, and not again while it is answered."""
    model = load(folder, context=256)
    assert model.rotations == Rotations((64, 128, 256), by_prompt=True)
    assert model.rotations.of(60, 250) == 0
    assert model.rotations.reach(0) == 256
    rows = run(model, sequences((70,)), stepwise, (0,))[0]
    assert rows is not None
    assert np.isfinite(rows).all()


def gguf_file(path: Path) -> Path:
    """A tiny file that llama.cpp reads too, which wants a token for every row."""
    held = STORED_TOKENIZER_DATA
    more = [f"<|extra_{i}|>" for i in range(VOCAB - len(held.tokens or ()))]
    tokens, types = [*(held.tokens or ()), *more], [*(held.token_types or ()), *[3] * len(more)]
    tokenizer = replace(held, tokens=tokens, token_types=types)
    write_gguf(path, {**LIKE, "model_type": "qwen"}, TENSORS, tokenizer=tokenizer)
    return path


def test_a_gguf_file_equals_the_folder(tmp_path: Path, within: Oracle) -> None:
    path = gguf_file(tmp_path / "qwen1.gguf")
    model = load(path)
    assert (model.arch.positions.native, model.arch.positions.scaling) == (256, None)
    for schedule in SCHEDULES.values():
        require_f32(model, within, schedule)


@pytest.mark.parametrize(
    ("base", "context", "native"), [(1e4, 32768, 8192), (1e4, 8192, 8192), (1e6, 32768, 32768)]
)
def test_a_gguf_file_does_not_tell_its_length(
    tmp_path: Path, base: float, context: int, native: int
) -> None:
    """Then it is that of the models as they were published."""
    changes = {"model_type": "qwen", "rope_theta": base, "max_position_embeddings": context}
    write_gguf(tmp_path / "a.gguf", {**LIKE, **changes}, TENSORS)
    with open_checkpoint(tmp_path / "a.gguf") as checkpoint:
        positions = read_arch(checkpoint.config).positions
    assert (positions.native, positions.longest) == (native, context)
    further = DynamicNtk(native, True, True) if native < context else None
    assert positions.scaling == further


def test_the_14b_was_trained_on_less() -> None:
    sizes = {"num_hidden_layers": 40, "hidden_size": 5120}
    told = {**sizes, "rope_theta": 1e4, "max_position_embeddings": 8192}
    assert gguf_positions(told)["seq_length"] == 2048
    assert gguf_positions({**told, "num_hidden_layers": 32})["seq_length"] == 8192


def test_a_tensor_under_two_names_is_told(tmp_path: Path) -> None:
    tensors = own_names(TENSORS)
    tensors["model.norm.weight"] = tensors["transformer.ln_f.weight"]
    write_folder(tmp_path / "m", PUBLISHED, tensors)
    with pytest.raises(FormatError, match="is there under another name too"):
        load(tmp_path / "m")


def test_there_is_no_yarn_of_it_and_no_hint_of_one() -> None:
    config = translate_config(Path("m"), PUBLISHED)
    with pytest.raises(UnsupportedError, match=r"its own way .* of 64 tokens, up to 512;") as own:
        with_yarn(config, 4.0)
    assert "--ctx" in str(own.value.hint)
    read_arch(config).check_context(512)  # what that hint promises
    with pytest.raises(UnsupportedError, match="stretched to 512") as far:
        read_arch(config).check_context(513)
    # As published with Qwen-72B.
    plain = {**config, "use_dynamic_ntk": False, "use_logn_attn": False}
    with pytest.raises(UnsupportedError, match="no way beyond its native context of 64") as none:
        with_yarn(plain, 4.0)
    assert "within that" in str(none.value.hint)
    with pytest.raises(UnsupportedError, match="trained for 64 tokens, and has no way") as beyond:
        read_arch(plain).check_context(65)
    for refused in (far, beyond):
        assert "yarn" not in str(refused.value.hint).lower()


def test_llama_cpp_gives_the_same_logits(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text("utf-8"))
    theirs = np.array(golden["logits"], np.float32)
    ids = np.array(golden["ids"], np.int32)
    ours = run(load(gguf_file(tmp_path / "qwen1.gguf")), [ids], prefill)[0]
    assert ours is not None
    errors = np.abs(ours[golden["rows"]] - theirs)
    assert errors.max() <= F32_LIMIT * theirs.std()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_bias": False}, "no_bias=False; implemented: True"),
        ({"rotary_pct": 0.25}, "rotary_pct=0.25; implemented: 1.0"),
        ({"scale_attn_weights": False}, "scale_attn_weights=False"),
        ({"use_cache_quantization": True}, "use_cache_quantization=True"),
        ({"intermediate_size": 201}, "intermediate_size=201; allowed: even"),
        ({"intermediate_size": None}, "intermediate_size=None; allowed: even"),
        ({"seq_length": 0}, "seq_length=0; allowed"),
        ({"seq_length": None}, "has no key 'seq_length'"),
        ({"seq_length": 1}, "seq_length=1; allowed with log-n attention: from 2"),
        ({"rope_theta": 5e5}, "has rotary_emb_base and rope_theta; allowed: one"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "asks for YaRN or dual chunks"),
        ({"dual_chunk_attention_config": {"chunk_size": 96}}, "asks for YaRN or dual chunks"),
        ({"attention_softcap": 3.0}, "attention_softcap=3.0"),
    ],
)
def test_a_config_that_says_otherwise_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_folder(tmp_path / "m", {**PUBLISHED, **changes}, own_names(TENSORS))
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((191, 64), r"c_attn.weight. has the shape \[191, 64\]"),
        ((192,), "q_proj.weight has the shape"),
        ((192, 63), "q_proj.weight has the shape"),
        ((3, 4, 16), r"c_attn.weight. has the shape \[3, 4, 16\]"),
    ],
)
def test_a_fused_tensor_of_another_shape_is_told(
    tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    tensors = own_names(TENSORS)
    tensors["transformer.h.1.attn.c_attn.weight"] = np.zeros(shape, np.float32)
    write_folder(tmp_path / "m", PUBLISHED, tensors)
    with pytest.raises(FormatError, match=message):
        load(tmp_path / "m")
