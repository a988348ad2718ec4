"""Reading a config strictly: what changes the computation is understood or refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.wild import BLOCKED, CONFIGS, model_class
from qwick.errors import ConfigError
from qwick.model.arch import Arch, ExpertArch, read_arch
from qwick.model.positions import Positions

QWEN2, QWEN3 = CONFIGS["qwen2-tied"], CONFIGS["qwen3-tied"]
MOE2, MOE3 = CONFIGS["qwen1.5-moe"], CONFIGS["qwen3-moe"]


def refused(base: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_arch({**base, **changes})
    return str(caught.value)


def test_every_field_is_read() -> None:
    config = {**QWEN3, "rms_norm_eps": 1e-5, "attention_bias": False}
    assert read_arch(config) == Arch(
        model_type="qwen3",
        hidden=96,
        intermediate=112,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=128,
        vocab=503,
        positions=Positions(theta=1e6, native=256, longest=256),
        rms_eps=1e-5,
        tied=True,
        qkv_bias=False,
        qk_norm=True,
    )
    assert read_arch(QWEN2).qkv_bias
    assert not read_arch(QWEN2).qk_norm
    assert read_arch(QWEN2).experts is None


def test_experts_are_read() -> None:
    assert read_arch(MOE2).experts == ExpertArch(7, 3, 48, 80, renormalize=False)
    assert read_arch(MOE3).experts == ExpertArch(12, 4, 40, None, renormalize=True)
    assert read_arch({**MOE2, "norm_topk_prob": None}).experts == read_arch(MOE2).experts
    assert (read_arch(MOE2).qkv_bias, read_arch(MOE3).qkv_bias) == (True, False)
    coder = {"use_qk_norm": True, "shared_expert_intermediate_size": 0, "qkv_bias": False}
    assert read_arch({**MOE3, **coder}).experts == read_arch(MOE3).experts
    without = {k: v for k, v in MOE3.items() if k != "intermediate_size"}  # of no use here
    assert read_arch(without).experts == read_arch(MOE3).experts


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (MOE3, {"num_experts": 0}, "num_experts=0; allowed: a whole number from 1 to 4096"),
        (MOE3, {"num_experts": None}, "no key 'num_experts'"),
        (MOE3, {"num_experts_per_tok": 13}, "num_experts_per_tok=13; allowed: a whole number from"),
        (MOE3, {"moe_intermediate_size": 2.0}, "moe_intermediate_size=2.0; allowed"),
        (MOE3, {"norm_topk_prob": 1}, "norm_topk_prob=1; allowed: true or false"),
        (MOE3, {"decoder_sparse_step": 2}, "decoder_sparse_step=2; implemented: 1"),
        (MOE3, {"mlp_only_layers": [0]}, "mlp_only_layers=[0]; implemented: []"),
        (MOE3, {"shared_expert_intermediate_size": 8}, "intermediate_size=8; implemented: 0"),
        (MOE3, {"num_local_experts": 8}, "num_local_experts=8; allowed: the number in num_exp"),
        (MOE3, {"num_local_experts": 0}, "num_local_experts=0; allowed: a whole number"),
        (MOE3, {"num_hidden_layers": 100, "num_experts": 400}, "with 100 layers: up to 218"),
        (MOE3, {"qkv_bias": True}, "qkv_bias=True; implemented: False"),
        (MOE3, {"use_qk_norm": False}, "use_qk_norm=False; implemented: True"),
        (MOE2, {"attention_bias": False}, "attention_bias=False; implemented: True"),
        (MOE2, {"shared_expert_intermediate_size": None}, "no key 'shared_expert_intermediate"),
        (MOE2, {"qkv_bias": False}, "qkv_bias=False; implemented: True"),
        (QWEN2, {"num_experts": 4}, "may change the computation: num_experts=4"),
    ],
)
def test_what_is_wrong_with_experts_is_named(
    base: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    assert message in refused(base, **changes)


REQUIRED = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta"),
)


@pytest.mark.parametrize("base", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(base: dict[str, Any], key: str) -> None:
    without = {k: v for k, v in base.items() if k != key}
    assert refused(without).startswith(f"the config has no key {key!r} (")
    assert refused(base, **{key: None}).startswith(f"the config has no key {key!r} (")


def test_what_may_be_missing() -> None:
    """The defaults are transformers' and llama.cpp's; a wrong one would not fit the tensors."""
    config = {k: v for k, v in QWEN2.items() if k not in ("num_key_value_heads", "hidden_act")}
    assert read_arch(config).kv_heads == config["num_attention_heads"]
    assert read_arch({**QWEN2, "num_key_value_heads": None}).kv_heads == 4
    assert read_arch({**QWEN2, "head_dim": None}).head_dim == 128 // 4
    del config["tie_word_embeddings"]
    assert read_arch(config).tied is False


COUNTS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"),
)
NOT_COUNTS = [0, -1, 2.0, 1.5, "64", True, [64], {}, 1 << 40, math.nan, math.inf]
NOT_NUMBERS = [-1e-6, "1e-6", True, [1e-6], {}, math.nan, math.inf, -math.inf, 1e13, 10**400]


@pytest.mark.parametrize("value", NOT_COUNTS, ids=repr)
@pytest.mark.parametrize("key", COUNTS)
def test_a_wrong_count_is_named(key: str, value: Any) -> None:
    message = refused(QWEN3, **{key: value})
    assert message.startswith(f"the config says {key}={value!r}; allowed: a whole number from 1 to")


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda v: f"{v!r:.20}")
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_a_wrong_number_is_named(key: str, value: Any) -> None:
    message = refused(QWEN2, **{key: value})
    assert message.startswith(f"the config says {key}={value!r:.100}; allowed: ")
    assert len(message) < 300


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (
            QWEN2,
            {"model_type": "llama"},
            "model_type='llama'; implemented: 'qwen', 'qwen2', 'qwen2_moe'",
        ),
        (QWEN2, {"model_type": None}, "model_type=None; implemented"),
        (QWEN2, {"model_type": ["qwen2"]}, "model_type=['qwen2']; implemented"),
        (QWEN2, {"hidden_act": "gelu"}, "hidden_act='gelu'; implemented: 'silu'"),
        (QWEN2, {"hidden_act": 1}, "hidden_act=1; implemented: 'silu'"),
        (QWEN2, {"use_sliding_window": True}, "use_sliding_window=True; implemented: False"),
        (QWEN2, {"use_sliding_window": 0}, "use_sliding_window=0; implemented: False"),
        (QWEN2, {"attention_bias": False}, "attention_bias=False; implemented: True"),
        (QWEN3, {"attention_bias": True}, "attention_bias=True; implemented: False"),
        (QWEN2, {"tie_word_embeddings": 1}, "tie_word_embeddings=1; allowed: true or false"),
        (QWEN2, {"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes'; allowed"),
        (QWEN3, {"head_dim": 24}, "head_dim=24; implemented: multiples of 16"),
        (QWEN3, {"head_dim": 512}, "head_dim=512; allowed: a whole number from 1 to 256"),
        (QWEN2, {"hidden_size": 120}, "head_dim=30; implemented: multiples of 16"),
        (QWEN2, {"hidden_size": 130}, "hidden_size=130 is no multiple of num_attention_heads=4"),
        (QWEN3, {"num_attention_heads": 3}, "3 heads over 2 key heads"),
        (QWEN3, {"num_key_value_heads": 8}, "4 heads over 8 key heads"),
        (QWEN3, {"num_attention_heads": 130}, "130 heads over 2 key heads; allowed: 1 to 64"),
        (QWEN2, {"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        (QWEN2, {"layer_types": ["full_attention"] * 2}, "layer_types has 2 entries"),
        (QWEN2, {"layer_types": "full_attention"}, "layer_types='full_attention'; implemented"),
        (QWEN2, {"layer_types": 5}, "layer_types=5; implemented"),
        (QWEN2, {"layer_types": [["full_attention"]]}, "layer_types holds ['full_attention']"),
    ],
)
def test_what_is_not_implemented_is_named(
    base: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    assert message in refused(base, **changes)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 1.0},
        {"rope_type": "default", "mrope_section": [16, 24, 24]},
        {"type": "mrope"},
        {"rope_type": "default", "type": "dynamic"},
        {"factor": 2.0},
        {"rope_type": "yarn", "type": "default", "factor": 4.0},
        {**YARN, "long_factor": [1.0]},
        {"full_attention": {"rope_type": "default"}},
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_other_rotations_are_refused(key: str, scaling: dict[str, Any]) -> None:
    message = refused(QWEN2, **{key: scaling})
    said = f"the config says {key}={scaling!r:.100}; implemented: the plain rotation and yarn"
    assert said in message
    assert f"remove {key}" in message


def test_the_base_of_the_rotation_may_stand_in_three_places() -> None:
    bare = {k: v for k, v in QWEN2.items() if k != "rope_theta"}
    for key in ("rope_scaling", "rope_parameters"):
        table = {"rope_type": "default", "rope_theta": 5e5}
        assert read_arch({**bare, key: table}).positions.theta == 5e5
        assert read_arch({**bare, key: table, "rope_theta": 500000}).positions.theta == 5e5
        message = refused(QWEN2, **{key: table})
        assert "1e+06 in rope_theta" in message
        assert f"500000 in {key}" in message
    for empty in (None, {}, {"rope_type": "default"}, {"type": "default"}):
        assert read_arch({**QWEN2, "rope_scaling": empty}).positions.theta == 1e6
    for wrong in ("yarn", 1, [], True):
        assert f"rope_scaling={wrong!r}; allowed: an object" in refused(QWEN2, rope_scaling=wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logits_scaling", 8.0),
        ("final_logit_softcapping", 30.0),
        ("attn_logit_softcapping", 50.0),
        ("attention_multiplier", 0.1),
        ("embedding_multiplier", 12),
        ("residual_multiplier", 0.22),
        ("partial_rotary_factor", 0.5),
        ("use_qk_norm", True),
        ("mlp_bias", True),
        ("clip_qkv", 8),
        ("num_experts", 60),
        ("moe_intermediate_size", 1408),
        ("use_mrope", True),
        ("no_rope_layers", [1, 1, 0]),
        ("num_nextn_predict_layers", 1),
        ("quantization_config", {"quant_method": "awq"}),
        ("layer_norm_eps", 0),  # zero is a value, not an absence
    ],
)
def test_unknown_keys_that_may_matter_are_refused(key: str, value: Any) -> None:
    assert f"may change the computation: {key}={value!r:.60}" in refused(QWEN2, **{key: value})
    for absent in (None, False, [], {}):
        read_arch({**QWEN2, key: absent})


def test_all_suspects_are_named_at_once() -> None:
    message = refused(QWEN2, logit_scale=2, attn_gate=[1] * 1000)
    assert "attn_gate=" in message
    assert "logit_scale=2" in message
    assert len(message) < 300


def test_free_metadata_is_free() -> None:
    free = {
        "unsloth_fixed": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.57.1",
        "_attn_implementation_autoset": True,
        "max_window_layers": 21,
        "sliding_window": 32768,
        "bos_token_id": 151643,
        "eos_token_id": [151645, 151643],
        "my notes": {"a": [1]},
        "pretraining_tp": 1,
    }
    assert read_arch({**QWEN2, **free}) == read_arch(QWEN2)


@pytest.mark.parametrize("name", [*CONFIGS, *BLOCKED])
def test_configs_that_transformers_writes_are_read(tmp_path: Path, name: str) -> None:
    config = {**CONFIGS, **BLOCKED}[name]
    rest = {key: value for key, value in config.items() if key != "model_type"}
    model_class(config)[0](**rest).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert read_arch(written) == read_arch(config)


# ---- any config at all ---------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(1, 300)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["qwen2", "qwen3", "silu", "default", "yarn", "full_attention"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["rope_type", "type", "rope_theta", "factor"]), inner)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        *(*COUNTS, *REQUIRED, "model_type", "hidden_act", "use_sliding_window", "attention_bias"),
        *("rope_scaling", "rope_parameters", "layer_types", "tie_word_embeddings"),
        *("sliding_window", "num_experts", "anything"),
    ]
)


def require_valid(arch: Arch) -> None:
    assert arch.heads % arch.kv_heads == 0
    assert arch.head_dim % 16 == 0
    assert 16 <= arch.head_dim <= 256
    assert min(arch.hidden, arch.intermediate, arch.layers, arch.vocab, arch.context) >= 1
    assert 0 <= arch.rms_eps <= 1
    assert 1 <= arch.positions.theta <= 1e12
    assert type(arch.tied) is bool


@given(base=st.sampled_from([QWEN2, QWEN3]), changes=st.dictionaries(KEYS, ANYTHING, max_size=4))
@settings(deadline=None, max_examples=250)
def test_our_error_or_a_valid_arch(base: dict[str, Any], changes: dict[str, Any]) -> None:
    config = {**base, **changes}
    try:
        arch = read_arch(config)
    except ConfigError:
        message = refused(config)
        assert "the config" in message
        assert len(message) < 1200
    else:
        require_valid(arch)


@given(config=st.dictionaries(KEYS | st.text(max_size=12), ANYTHING, max_size=20))
@settings(deadline=None, max_examples=200)
def test_our_error_or_a_valid_arch_from_nothing(config: dict[str, Any]) -> None:
    try:
        arch = read_arch(config)
    except ConfigError:
        return
    require_valid(arch)
