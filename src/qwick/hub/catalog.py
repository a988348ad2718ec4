"""The published checkpoints of the family, Qwen to Qwen3.8: what is known of each, with sources.

`catalog.json` beside this file holds the facts; a null there is what nobody has published or what
could not be confirmed, and stays None here. Look-ups and plain arithmetic only. Knows nothing about
networks, disks, machines or which checkpoint is right for whom.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files
from types import MappingProxyType
from typing import Any

from qwick.family import MODEL_TYPES
from qwick.values import check_kind, real

__all__ = [
    "SAME_LANGUAGE",
    "SCHEMA",
    "Catalog",
    "Context",
    "Format",
    "Languages",
    "License",
    "Model",
    "Parameters",
    "PublishedFile",
    "Score",
    "read_catalog",
]

# Codes of a language that people write for those of the catalog.
SAME_LANGUAGE: Mapping[str, tuple[str, ...]] = {
    **{"no": ("nb", "nn"), "cmn": ("zh",), "fil": ("tl",), "iw": ("he",), "in": ("id",)},
    **{"als": ("sq",), "ydd": ("yi",), "azj": ("az",), "uzn": ("uz",), "sh": ("sr", "hr", "bs")},
}

# Where the place in a document begins, in the source of a score.
_PLACE = re.compile(r",? [Tt]ables? | line ")

SCHEMA = 1  # of catalog.json; raised when its shape changes


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a repository."""

    path: str  # inside the repository
    size: int | None  # bytes; None: not confirmed
    sha256: str | None  # lower-case hexadecimal; None: not confirmed


@dataclass(frozen=True, slots=True)
class Format:
    """One published form of a checkpoint's weights."""

    name: str  # bf16, fp8, awq, gptq-int4, gptq-int8, mlx, or what GGUF calls it: q4_k_m
    container: str  # safetensors, gguf or mlx
    repository: str  # on the Hugging Face hub: owner/name
    official: bool  # published by the family's own team
    revision: str | None  # the commit that `files` are of; None: not confirmed
    files: tuple[PublishedFile, ...]  # what is confirmed of them; may be empty
    parts: int  # files that make the whole: GGUF is split where it is large
    template: str | None  # how a GGUF file is called: {quantization} stands for `name`

    @property
    def size(self) -> int | None:
        """Bytes of all parts; None where one of them is not confirmed."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if self.files and len(sizes) == self.parts else None


@dataclass(frozen=True, slots=True)
class License:
    """What may be done with a checkpoint, in short; the text itself decides."""

    id: str  # SPDX identifier, or the publisher's own name in lower case
    title: str
    use: str  # commercial, conditional (commercial under `condition`) or research
    condition: str | None


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters; None: not confirmed.

    Counted from the config: embeddings, head (nothing where it is tied), layers, norms, and the
    encoders of images and sound; not the layers that predict several tokens, which stand apart.
    """

    total: int | None
    active: int | None  # of the text part, those on a token's way; embeddings and head included
    non_embedding: int | None  # of the text part, without embeddings and head
    published: int | None  # the total as the publisher states it, exact or rounded
    basis: str | None  # where `total` comes from, and what it agrees with
    prediction_layers: int  # of multi-token prediction, in the files and not in `total`
    training_tokens: int | None  # of pre-training; of a specialised model: on top of its base
    training_source: str | None


@dataclass(frozen=True, slots=True)
class Context:
    """Lengths in tokens; None: not confirmed, or none documented."""

    native: int | None  # that it was trained on
    extended: int | None  # that the publisher documents beyond it
    method: str | None  # how
    most_output: Mapping[str, int]  # recommended, by mode ("" is every mode)

    @property
    def longest(self) -> int:
        """The longest that is documented; 0: none is."""
        return max(self.native or 0, self.extended or 0)


@dataclass(frozen=True, slots=True)
class Languages:
    """What the publisher says of languages."""

    count: int | None  # of natural languages
    note: str | None  # the publisher's words, and where
    codes: tuple[str, ...]  # those named: ISO 639-1, 639-3 where that has none; empty: none named
    complete: bool  # whether `codes` are all; else more are meant, and nobody says which

    def has(self, code: str) -> bool | None:
        """Whether the language of that ISO 639 code is named; None: not, and more are meant."""
        check_kind("code", code, str, "a str")
        wanted = code.strip().lower().partition("-")[0]
        if any(one in self.codes for one in SAME_LANGUAGE.get(wanted, (wanted,))):
            return True
        return False if self.complete else None


@dataclass(frozen=True, slots=True)
class Score:
    """One published result. Compare it only with one of the same name, setting and document."""

    name: str
    key: str | None  # the benchmark under a name of ours, alike for all its spellings
    value: float
    setting: str
    source: str

    @property
    def document(self) -> str:
        """Its source without the place in it; "" for one that nobody can find."""
        document = _PLACE.split(self.source)[0]
        return "" if document.startswith("a public page") else document


@dataclass(frozen=True, slots=True)
class Model:
    """One published checkpoint: one repository, in all the formats of its weights."""

    id: str  # the repository's name in lower case
    repository: str  # on the Hugging Face hub
    modelscope: str | None  # on ModelScope; None: not there
    ollama: str | None  # its tag in Ollama's library
    generation: str
    variant: str  # base, instruct, thinking, embedding or reranker
    tags: tuple[str, ...]  # of coder, math, vl, audio, omni, moe, 2507
    base: str | None  # the repository that it was trained from
    released: str | None  # year and month
    license: License | None  # None: not confirmed, so never to be called commercial
    license_source: str | None
    parameters: Parameters
    config: Mapping[str, Any]  # Hugging Face keys of the text part
    vision: Mapping[str, Any] | None
    audio: Mapping[str, Any] | None
    context: Context
    inputs: tuple[str, ...]  # of text, image, video, audio
    outputs: tuple[str, ...]
    languages: Languages | None
    thinking: str  # none, hybrid or only
    tools: str | None  # how it writes calls of tools; None: not confirmed
    sampling: Mapping[str, Mapping[str, Any]]  # recommended, by mode, with its source
    system_prompt: str | None
    embedding: Mapping[str, Any] | None
    scores: tuple[Score, ...]
    formats: tuple[Format, ...]
    notes: str | None
    sources: tuple[str, ...]

    @property
    def series(self) -> str:
        """The line of models it belongs to: Qwen2.5-Coder, Qwen3 MoE."""
        if self.id.startswith(("codeqwen1.5", "qwen3-coder-next")):  # named against the rule
            return "CodeQwen1.5" if "1.5" in self.id else "Qwen3-Coder-Next MoE"
        names = {"coder": "-Coder", "math": "-Math", "vl": "-VL", "audio": "-Audio"}
        names |= {"omni": "-Omni", "moe": " MoE"}
        series = self.generation
        if self.variant in ("embedding", "reranker"):
            series += " Embedding"
        for tag, ending in names.items():
            native = tag == "vl" and self.generation >= "Qwen3.5"  # all of them see
            if tag in self.tags and ending.strip(" -") not in series and not native:
                series += ending
        return series

    @property
    def experts(self) -> bool:
        """Whether it is a mixture of experts."""
        return bool(self.config.get("num_experts"))

    @property
    def runs_here(self) -> bool:
        """Whether qwick's own engine runs it, in the formats that it reads."""
        return self.config.get("model_type") in MODEL_TYPES and self.inputs == ("text",)

    @property
    def page(self) -> str:
        """The address of its page."""
        return f"https://huggingface.co/{self.repository}"

    def format(self, name: str) -> Format | None:
        """Return the form of that name, the official one first; None if there is none."""
        check_kind("name", name, str, "a str")
        found = [one for one in self.formats if one.name == name.lower()]
        return min(found, key=lambda one: not one.official, default=None)

    def scored(self, key: str) -> tuple[Score, ...]:
        """Return the results of the benchmark `key`."""
        check_kind("key", key, str, "a str")
        return tuple(score for score in self.scores if score.key == key)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All checkpoints, by id, in the order of publication."""

    written: str  # the date of the facts
    sources: Mapping[str, str]  # what the short names of sources stand for
    licenses: Mapping[str, License]
    models: Mapping[str, Model]

    def find(self, name: str) -> Model | None:
        """Return the checkpoint of that id or repository (upper and lower case alike), or None."""
        check_kind("name", name, str, "a str")
        wanted = name.strip().lower()
        found = self.models.get(wanted)
        if found is None and "/" in wanted:
            found = next((m for m in self.models.values() if wanted in _repositories(m)), None)
        return found

    def near(self, name: str, *, cutoff: float = 0.5) -> list[str]:
        """Return up to three ids that look like `name`, the likeliest first."""
        import difflib

        check_kind("name", name, str, "a str")
        cutoff = real("cutoff", cutoff, 0.0, 1.0)
        wanted = name.strip().lower().rpartition("/")[2].partition(":")[0]
        found = difflib.get_close_matches(wanted, self.models, n=3, cutoff=cutoff)
        plain = re.sub(r"-(instruct|chat|it)$", "", wanted)  # Qwen3 has no such names
        return list(dict.fromkeys((plain, *found)))[:3] if plain in self.models else found


def read_catalog() -> Catalog:
    """Return the catalog of this package; its file is read once."""
    return _catalog()


@cache
def _catalog() -> Catalog:
    return parse_catalog(
        json.loads((package_files("qwick.hub") / "catalog.json").read_text("utf-8"))
    )


def parse_catalog(values: Mapping[str, Any]) -> Catalog:
    """Return the catalog that the values of a catalog.json describe; ValueError for another schema.

    The file comes with the package, so it is read for its shape and not defended against.
    """
    if values["schema"] != SCHEMA:
        raise ValueError(f"catalog.json has the schema {values['schema']}, not {SCHEMA}")
    licenses = {
        name: License(name, fields["title"], fields["use"], fields.get("condition"))
        for name, fields in values["licenses"].items()
    }
    models: dict[str, Model] = {}
    for fields in values["models"]:
        if fields["id"] in models:
            raise ValueError(f"catalog.json has {fields['id']} twice")
        languages = fields.get("languages")  # its own, or the name of what several have
        if isinstance(languages, str):
            fields = {**fields, "languages": values["languages"][languages]}
        models[fields["id"]] = _model(fields, licenses, values["benchmarks"])
    frozen = MappingProxyType
    return Catalog(values["written"], frozen(values["sources"]), frozen(licenses), frozen(models))


def _model(
    fields: Mapping[str, Any], licenses: Mapping[str, License], keys: Mapping[str, str]
) -> Model:
    repository = fields["repository"]
    languages = fields.get("languages")
    license_id = fields["license"]
    return Model(
        id=fields["id"],
        repository=repository,
        modelscope=fields.get("modelscope", repository),
        ollama=fields.get("ollama"),
        generation=fields["generation"],
        variant=fields["variant"],
        tags=tuple(fields["tags"]),
        base=fields.get("base"),
        released=fields["released"],
        license=None if license_id is None else licenses[license_id],
        license_source=fields.get("license_source"),
        parameters=_parameters(fields["parameters"], fields.get("training")),
        config=MappingProxyType(fields["config"]),
        vision=fields.get("vision"),
        audio=fields.get("audio"),
        context=_context(fields["context"]),
        inputs=tuple(fields["inputs"]),
        outputs=tuple(fields["outputs"]),
        languages=None if languages is None else _languages(languages),
        thinking=fields["thinking"],
        tools=fields.get("tools"),
        sampling=MappingProxyType(fields.get("sampling", {})),
        system_prompt=fields.get("system_prompt"),
        embedding=fields.get("embedding"),
        scores=_scores(fields["scores"], keys),
        formats=tuple(_format(one) for one in fields["formats"]),
        notes=fields.get("notes"),
        sources=tuple(fields["sources"]),
    )


def _parameters(fields: Mapping[str, Any], training: Mapping[str, Any] | None) -> Parameters:
    published = fields["published"]["total"]
    training = training or {"tokens": None, "source": None}
    return Parameters(
        fields["total"],
        fields["active"],
        fields["non_embedding"],
        None if published is None else int(published),
        fields["basis"],
        fields.get("prediction_layers", 0),
        training["tokens"],
        training["source"],
    )


def _languages(fields: Mapping[str, Any]) -> Languages:
    codes = tuple(fields["list"] or ())
    return Languages(fields["count"], fields["note"], codes, fields.get("complete", False))


def _context(fields: Mapping[str, Any]) -> Context:
    most = fields["most_output"]
    if not isinstance(most, dict):
        most = {} if most is None else {"": most}
    return Context(fields["native"], fields["extended"], fields["method"], MappingProxyType(most))


def _scores(groups: Sequence[Mapping[str, Any]], keys: Mapping[str, str]) -> tuple[Score, ...]:
    return tuple(
        Score(name, keys.get(name), value, group["setting"], group["source"])
        for group in groups
        for name, value in group["scores"].items()
    )


def _format(fields: Mapping[str, Any]) -> Format:
    files = tuple(PublishedFile(**file) for file in fields.get("files", ()))
    return Format(
        name=fields["name"],
        container=fields["container"],
        repository=fields["repository"],
        official=fields.get("official", True),
        revision=fields.get("revision"),
        files=files,
        parts=fields.get("parts", max(1, len(files))),
        template=fields.get("template"),
    )


def _repositories(model: Model) -> set[str]:
    """Return the repositories of a checkpoint in lower case."""
    return {model.repository.lower(), *(one.repository.lower() for one in model.formats)}
