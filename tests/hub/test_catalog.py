"""The published facts: whole, consistent with each other and with what they were made from."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import pytest

from collected import FACTS, collected
from qwick import hub
from qwick.family import MODEL_TYPES
from qwick.hub import Format, Model, Score, read_catalog, shape_of
from qwick.hub.catalog import SCHEMA, parse_catalog

CATALOG = read_catalog()
MODELS = CATALOG.models
TEXT = (package_files("qwick.hub") / "catalog.json").read_text("utf-8")
ROOT = Path(__file__).parents[2]
SCENARIOS = ROOT / "tests" / "choose" / "scenarios.json"

DIGEST = re.compile(r"[0-9a-f]{64}")
REVISION = re.compile(r"[0-9a-f]{7,40}")
REPOSITORY = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9._-]+")
GENERATIONS = {
    *("Qwen", "Qwen1.5", "Qwen2", "Qwen2.5", "Qwen3", "Qwen3-VL", "Qwen3-Omni", "Qwen3-Next"),
    *("Qwen3.5", "Qwen3.6", "Qwen3.8"),
}
NO_PERCENTAGES = {"CodeForces (Rating / Percentile)", "MME sum", "OCRBench (of 1000)"}
# Bits of a weight in a file of that form. Below: what the blocks of most matrices take. Above: the
# same with embedding, head and some matrices in more bits; the vocabulary adds up to 0.1.
BITS = {
    "q2_k": (2.6, 3.6),
    "q3_k_m": (3.4, 4.4),
    "iq4_xs": (4.25, 4.7),
    "q4_k_m": (4.5, 5.7),
    "q6_k": (6.56, 6.7),
    "q8_0": (8.5, 8.6),
}
SIZES = ("q2_k", "q3_k_m", "iq4_xs", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "fp16")  # ascending
GGUF = [
    pytest.param(model, form, id=f"{model.id}:{form.name}:{form.repository.partition('/')[0]}")
    for model in MODELS.values()
    for form in model.formats
    if form.container == "gguf" and form.size is not None
]


def test_every_model_is_there_once() -> None:
    assert len(MODELS) == 168
    assert [name for name, model in MODELS.items() if model.id != name] == []
    repositories = Counter(model.repository.lower() for model in MODELS.values())
    assert [name for name, count in repositories.items() if count > 1] == []
    forms = Counter(
        (form.repository, form.name, form.container)
        for model in MODELS.values()
        for form in model.formats
    )
    assert [form for form, count in forms.items() if count > 1] == []
    values = json.loads(TEXT)
    with pytest.raises(ValueError, match="twice"):
        parse_catalog(values | {"models": values["models"][:1] * 2})
    with pytest.raises(ValueError, match=f"not {SCHEMA}"):
        parse_catalog(values | {"schema": SCHEMA + 1})


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.id)
def test_the_facts_of_a_model(model: Model) -> None:
    assert model.id == model.repository.partition("/")[2].lower().replace("1_8b", "1.8b")
    assert model.generation in GENERATIONS
    assert model.series.startswith(("Qwen", "CodeQwen"))
    assert model.variant in ("base", "instruct", "thinking", "embedding", "reranker")
    assert set(model.tags) <= {"coder", "math", "vl", "audio", "omni", "moe", "2507"}
    assert model.experts == ("moe" in model.tags)
    assert model.thinking in ("none", "hybrid", "only")
    assert model.released is None or re.fullmatch(r"202[3-6]-(0[1-9]|1[0-2])", model.released)
    assert set(model.inputs) <= {"text", "image", "video", "audio"}
    audio_only = model.id == "qwen3-omni-30b-a3b-captioner"
    assert ("text" in model.inputs) is not audio_only
    assert set(model.outputs) <= {"text", "audio", "vector", "score", "embedding"}
    assert ("image" in model.inputs) or not {"vl", "omni"} & set(model.tags) or audio_only
    assert model.license is None or model.license.use in ("commercial", "conditional", "research")
    assert model.license is None or CATALOG.licenses[model.license.id] is model.license
    assert (model.license is None) or model.license_source, "a licence without a source"
    for repository in (model.repository, model.base, model.modelscope):
        assert repository is None or REPOSITORY.fullmatch(repository), repository
    assert model.sources
    _numbers(model)
    for score in model.scores:
        assert score.setting
        assert score.source
        assert score.key is None or re.fullmatch(r"[a-z0-9_]+", score.key)
        assert 0 <= score.value <= 100 or score.name in NO_PERCENTAGES, score
        assert score.key is None or score.value <= 100, score
    named = Counter((score.name, score.setting, score.source) for score in model.scores)
    assert set(named.values()) <= {1}
    for mode, said in model.sampling.items():
        assert 0 <= said.get("temperature", 0) <= 2, mode
        assert 0 < said.get("top_p", 1) <= 1, mode
        assert said["source"], mode


def _numbers(model: Model) -> None:
    stated, context = model.parameters, model.context
    if stated.total is not None and stated.active is not None:
        assert 0 < stated.active <= stated.total
    if stated.active is not None and stated.non_embedding is not None:
        assert stated.non_embedding < (stated.total or 0)
    if stated.published is not None and stated.total is not None:  # rounded to two digits, or exact
        assert stated.total == pytest.approx(stated.published, rel=0.05)
    if context.native is not None:
        assert 2048 <= context.native <= (context.extended or context.native)
    assert (context.extended is None) or context.method
    assert all(length > 0 for length in context.most_output.values())
    if stated.training_tokens is not None:
        assert 10**11 <= stated.training_tokens <= 10**14
        assert stated.training_source
    languages = model.languages
    if languages is not None:
        assert all(re.fullmatch(r"[a-z]{2,3}", code) for code in languages.codes)
        assert len(set(languages.codes)) == len(languages.codes)
        assert languages.codes or not languages.complete
        assert "programming" not in (languages.note or "") or languages.count in (None, 100)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.id)
def test_the_forms_of_a_model(model: Model) -> None:
    for form in model.formats:
        assert REPOSITORY.fullmatch(form.repository)
        assert form.container in ("safetensors", "gguf", "mlx")
        assert form.revision is None or REVISION.fullmatch(form.revision)
        assert form.official == form.repository.startswith("Qwen/"), form
        assert len(form.files) <= form.parts
        assert len({file.path for file in form.files}) == len(form.files)
        for file in form.files:
            assert file.size is None or file.size > 0
            assert file.sha256 is None or DIGEST.fullmatch(file.sha256)
            assert not file.path.startswith("/")
            assert ".." not in file.path
            assert file.path.endswith(".gguf") == (form.container == "gguf")
    sizes = [
        form.size
        for name in SIZES
        for form in model.formats
        if form.name == name and form.size is not None
    ]
    assert sizes == sorted(sizes)


def test_no_digest_of_two_files() -> None:
    digests = Counter(
        file.sha256
        for model in MODELS.values()
        for form in model.formats
        for file in form.files
        if file.sha256 is not None
    )
    assert len(digests) > 70
    assert set(digests.values()) == {1}


@pytest.mark.parametrize(("model", "form"), GGUF)
def test_the_size_of_a_file_is_that_of_its_weights(model: Model, form: Format) -> None:
    shape = shape_of(model)
    assert shape is not None
    assert form.size is not None
    weights = shape.text  # encoders are files of their own
    if model.generation == "Qwen2.5" and not shape.head:
        weights += shape.embedding  # these files hold the tied head once more
    bits = 8 * form.size / weights
    least, most = BITS[form.name]
    if shape.hidden % 256:  # blocks of 256 do not fit, so others with more bits are taken
        most = 8.6
    assert least < bits < most


def test_known_sizes_are_many() -> None:
    assert len(GGUF) >= 50
    assert {param.values[1].name for param in GGUF} == set(BITS)


def test_every_spelling_of_a_benchmark_is_used() -> None:
    values = json.loads(TEXT)
    names = {score.name for model in MODELS.values() for score in model.scores}
    assert sorted(set(values["benchmarks"]) - names) == []
    assert MODELS["qwen3-8b"].scored("gpqa")
    assert not MODELS["qwen3-8b"].scored("no such benchmark")


def test_no_address_but_the_pages() -> None:
    assert "://" not in TEXT
    hosts = re.findall(r"[a-z0-9.-]+\.(?:com|co|cn|org|io|ai|net)\b", TEXT)
    named = {host for host in hosts if not host.endswith(("Qwen.ai",))}
    assert named <= {
        "blog.omagiclee.com",
        "cnblogs.com",
        "huggingface.co",
        "lmstudio.ai",
        "ollama.com",
        "qwenlm.github.io",
    }
    assert MODELS["qwen3-8b"].page == "https://huggingface.co/Qwen/Qwen3-8B"


def test_the_default_checkpoint_is_pinned_alike() -> None:
    entry = hub.CATALOG[hub.DEFAULT]
    model = CATALOG.find("qwen2.5-coder-0.5b-instruct")
    assert model is not None
    form = model.format("q4_k_m")
    assert form is not None
    assert form.repository == entry.repository
    (file,), (pinned,) = form.files, entry.files
    assert (file.path, file.size, file.sha256) == (pinned.path, pinned.size, pinned.sha256)
    assert model.license is not None
    assert model.license.id == entry.license.lower()
    assert CATALOG.find(entry.repository) is model


def test_every_acceptable_answer_is_known() -> None:
    scenarios = json.loads(SCENARIOS.read_text("utf-8"))["scenarios"]
    names = {name for scenario in scenarios for name in scenario["acceptable"]}
    assert len(names) > 20
    assert sorted(names - set(MODELS)) == []


def test_which_run_here() -> None:
    here = {name for name, model in MODELS.items() if model.runs_here}
    assert here == {
        name
        for name, model in MODELS.items()
        if model.config.get("model_type") in MODEL_TYPES and model.inputs == ("text",)
    }
    assert {"qwen-7b-chat", "qwen2.5-72b", "qwen3-30b-a3b", "qwen3-embedding-0.6b"} <= here
    assert not {"qwen-vl", "qwen3-next-80b-a3b-instruct", "qwen2.5-vl-7b-instruct"} & here


def test_looking_up() -> None:
    qwen3 = MODELS["qwen3-8b"]
    assert CATALOG.find("Qwen3-8B") is qwen3
    assert CATALOG.find(" qwen/qwen3-8b-gguf ") is qwen3
    assert CATALOG.find("qwen3-9b") is None
    assert CATALOG.near("qwen3-9b")[0] in ("qwen3-8b", "qwen3.5-9b")
    assert CATALOG.near("Qwen3-14B-Instruct:q4_k_m")[0] == "qwen3-14b"
    form = qwen3.format("Q4_K_M")
    assert form is not None
    assert form.official
    assert qwen3.format("q1") is None


def test_languages_and_training() -> None:
    """What the blogs and cards of three generations say, word for word."""
    qwen2, qwen25, qwen3 = (
        MODELS[name] for name in ("qwen2-7b-instruct", "qwen2.5-7b-instruct", "qwen3-8b")
    )
    assert qwen2.languages is not None
    assert qwen25.languages is not None
    assert qwen3.languages is not None
    assert (len(qwen2.languages.codes), qwen2.languages.complete) == (29, True)
    assert (len(qwen25.languages.codes), qwen25.languages.complete) == (13, False)
    assert (len(qwen3.languages.codes), qwen3.languages.complete) == (118, True)
    assert {"hu", "cs", "fi", "sw", "nb"} <= set(qwen3.languages.codes)
    assert "hu" not in qwen2.languages.codes + qwen25.languages.codes
    told = [one.languages.has("hu") for one in (qwen2, qwen25, qwen3) if one.languages]
    assert told == [False, None, True]  # not among all, not named, named
    assert qwen3.languages.has(" NO ")
    assert qwen3.languages.has("zh-Hant")
    assert qwen3.languages.has("tlh") is False
    trained = [one.parameters.training_tokens for one in (qwen2, qwen25, qwen3)]
    assert trained == [7 * 10**12, 18 * 10**12, 36 * 10**12]
    known = [one for one in MODELS.values() if one.parameters.training_tokens is not None]
    assert len(known) == 78


# -- What the facts were collected from --

LICENSES = {
    "Tongyi Qianwen LICENSE": "tongyi-qianwen",
    "qwen (Tongyi Qianwen)": "tongyi-qianwen",
    "Tongyi Qianwen RESEARCH LICENSE": "tongyi-qianwen-research",
}


SAME = {  # what a fact is called here, and what there
    **{key: key for key in ("generation", "variant", "released", "thinking", "vision", "audio")},
    **{"repository": "hf_repo", "modelscope": "modelscope_repo", "ollama": "ollama_tag"},
    **{"base": "base_model", "tools": "tool_call_format", "inputs": "modalities_in"},
    **{"outputs": "modalities_out", "system_prompt": "default_system_prompt", "tags": "tags"},
}


# Files of others, told by public lists that agree; where the publisher has none in 4 bits.
LATER = {"unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF", "unsloth/Qwen3-4B-Instruct-2507-GGUF"}


def test_nothing_was_lost_or_changed() -> None:
    """Every fact of the collection, against the catalog; languages and training came later."""
    facts = json.loads(collected(FACTS).read_text("utf-8"))
    assert [fields["id"] for fields in facts["models"]] == list(MODELS)
    for fields in facts["models"]:
        _agrees(fields, MODELS[fields["id"]])
    official = {(one["repo"], one["file"]) for one in facts["gguf_files"]}
    assert official == {
        (form.repository, file.path)
        for model in MODELS.values()
        for form in model.formats
        for file in form.files
        if form.repository not in LATER
    }


def _agrees(fields: dict[str, Any], model: Model) -> None:
    stated, context = model.parameters, model.context
    assert (stated.total, stated.active, stated.non_embedding) == tuple(
        fields[key] for key in ("total_params", "active_params", "non_embedding_params")
    )
    assert (context.native, context.extended) == (
        *(fields["context_length"], fields["context_length_extended"]),
    )
    config = {**fields, **(fields["moe"] or {}), **(fields.get("arch_extra") or {})}
    assert {key: config[key] for key in model.config} == model.config
    for ours, theirs in SAME.items():
        value = getattr(model, ours)
        assert fields[theirs] == (list(value) if isinstance(value, tuple) else value), ours
    named = fields["license"]
    license_id = None if model.license is None else model.license.id
    assert license_id == LICENSES.get(named, named)
    scores = Counter(
        (one["name"], one["score"], one["setting"].replace(" in my extract", ""))
        for one in fields["benchmarks"] or ()
    )
    assert scores <= Counter(  # more have been read from their sources since
        (one.name.removesuffix(" (of 1000)"), one.value, one.setting) for one in model.scores
    )
    files = {file.path: file for form in model.formats for file in form.files}
    for file in fields["gguf_files"] or ():
        assert (files[file["file"]].size, files[file["file"]].sha256) == (
            file["bytes"],
            file["sha256"],
        )


@pytest.mark.parametrize(
    ("source", "document"),
    [
        *(("tr3 Table 11", "tr3"), ("tr3, tables 5 and 6", "tr3"), ("blog qwen2", "blog qwen2")),
        ("R1 README.md line 448", "R1 README.md"),
        ("a public page (model card)", ""),
    ],
)
def test_the_document_of_a_score(source: str, document: str) -> None:
    assert Score("MMLU", "mmlu", 50.0, "base", source).document == document
