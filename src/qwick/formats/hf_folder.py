"""A Hugging Face folder as a Checkpoint: config, safetensors (one or sharded), tokenizer, texts.

Index and shards are checked against each other, and a shard's name may not lead out of the folder.
Pickles are refused. Knows nothing of how the model is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qwick.errors import ConfigError, FormatError, UnsupportedError, shown
from qwick.family import MODEL_TYPES
from qwick.formats import qwen1
from qwick.formats.checkpoint import (
    Checkpoint,
    Tensor,
    TokenizerData,
    check_known,
    closed,
)
from qwick.formats.jsonfile import MAX_PARSED, read_object, read_text
from qwick.formats.mapped import PICKLES, damaged, exists, give_back
from qwick.formats.quantised import check_method, read_quantised
from qwick.formats.quantised.parts import Parts
from qwick.formats.safetensors import SafetensorsFile, read_safetensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BODY = "model."  # before the names of all tensors but the head's
MAX_INDEX = 1 << 23  # twice that of the largest member, whose 36,000 tensors are mostly experts'


def open_folder(path: Path) -> Checkpoint:
    """Open a folder; errors as `open_checkpoint` lists them."""
    config = _config(path)
    generation = _optional(path / "generation_config.json")
    tokenizer_config = _optional(path / "tokenizer_config.json")
    quantised = bool(config.get("quantization_config"))
    files = _weight_files(path, quantised)
    tensors = read_quantised(path, config, files) if quantised else Parts(path, files).rest()
    config.pop("quantization_config", None)  # from here on the tensors say it
    if config["model_type"] == qwen1.MODEL_TYPE:
        config = qwen1.translate_config(path, config)
        tensors = qwen1.translate_tensors(path, tensors)
    kind = MODEL_TYPES[config["model_type"]]
    if kind.bare is not None and _is_bare(tensors):
        tensors = {BODY + name: replace(t, name=BODY + name) for name, t in tensors.items()}
        config["architectures"] = [kind.bare]
    _check_pooling(path)
    size = sum(len(file.data) for file in files)
    paths = tuple(file.path for file in files)
    is_open = [True]

    def read_tokenizer() -> TokenizerData:
        if not is_open:
            raise closed(path)
        return _tokenizer(path, config, tokenizer_config)

    def release() -> None:
        is_open.clear()
        for file in files:
            give_back(file.data)
        files.clear()
        tensors.clear()

    return Checkpoint(
        path=path,
        format="safetensors",
        config=MappingProxyType(config),
        tensors=MappingProxyType(tensors),
        chat_template=_chat_template(path, tokenizer_config),
        generation=MappingProxyType(generation),
        name=path.absolute().name,
        author=None,
        license=None,
        size_bytes=size,
        read_tokenizer=read_tokenizer,
        release=release,
        files=paths,
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if exists(path) else {}


def _config(path: Path) -> dict[str, Any]:
    if not exists(path / "config.json"):
        found = sorted(p.name for p in path.glob("*.gguf"))
        hint = f"give the file: {path / found[0]}" if found else "give a checkpoint's folder"
        raise ConfigError(f"{path}: the folder has no config.json", hint=hint)
    config = read_object(path / "config.json")
    if "model_type" not in config:
        raise ConfigError(f"{path}: config.json lacks model_type")
    kind = check_known(path, "model_type", config["model_type"])
    known = [name for name in (MODEL_TYPES[kind].architecture, MODEL_TYPES[kind].bare) if name]
    classes = config.get("architectures") or known[:1]
    if classes not in [[name] for name in known]:
        raise UnsupportedError(
            f"{path}: the architectures {classes!r:.100} of a {kind} are not supported; "
            f"known: {', '.join(known)}"
        )
    if config.get("quantization_config"):
        check_method(path, config)
    return config


def _is_bare(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a model was saved without its head, and without the prefix that sets that apart."""
    return "embed_tokens.weight" in tensors and not any(name.startswith(BODY) for name in tensors)


def _check_pooling(path: Path) -> None:
    """Refuse another pooling than that of the last token, where sentence-transformers says one."""
    at = path / "1_Pooling" / "config.json"
    if not exists(at):
        return
    modes = [
        key.removeprefix("pooling_mode_")
        for key, value in read_object(at).items()
        if key.startswith("pooling_mode_") and value is True
    ]
    if modes != ["lasttoken"]:
        raise UnsupportedError(
            f"{at}: the pooling {modes!r:.100} is not supported; known: lasttoken",
            hint="take a Qwen3-Embedding checkpoint, or one that was made of it",
        )


def _weight_files(path: Path, quantised: bool) -> list[SafetensorsFile]:
    single, index = exists(path / SINGLE), exists(path / INDEX)
    if index:
        return _sharded(path, quantised)
    if single:
        return [read_safetensors(path / SINGLE, parts=quantised)]
    shards = sorted(p.name for p in path.glob("*.safetensors"))
    if shards:
        raise FormatError(
            f"{path}: there is {shards[0]} but neither {SINGLE} nor {INDEX}",
            hint=f"fetch {INDEX}, which names the shards",
        )
    pickles = sorted(p.name for end in PICKLES for p in path.glob(f"*{end}"))
    if pickles:
        raise FormatError(
            f"{path}: the weights are pickles ({pickles[0]}), which can run any code when read",
            hint="take the model's safetensors files or a GGUF file",
        )
    raise FormatError(
        f"{path}: the folder has no weights: neither {SINGLE} nor {INDEX}",
        hint="fetch them",
    )


def _sharded(path: Path, quantised: bool) -> list[SafetensorsFile]:
    at = path / INDEX
    table = read_object(at, MAX_INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise damaged(at, "there is no weight_map")
    for tensor, shard in table.items():
        if not _stays_inside(shard):
            raise damaged(
                at,
                f"{shown(tensor)} is said to lie in {shard!r:.100}; only a .safetensors file of "
                "the same folder is allowed",
                "do not use this checkpoint",
            )
    names = sorted(set(table.values()))
    if SINGLE not in names and exists(path / SINGLE):
        raise damaged(
            at, f"{SINGLE} lies beside the index, which does not name it", "remove one of the two"
        )
    files = []
    for name in names:
        if not exists(path / name):
            raise damaged(at, f"the shard {name} is missing", "fetch it")
        files.append(read_safetensors(path / name, parts=quantised))
    _cross_check(at, table, files)
    return files


def _stays_inside(shard: object) -> bool:
    return (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and not shard.startswith(".")
        and shard.isprintable()
        and not set(shard) & set("/\\:")
    )


def _cross_check(at: Path, table: Mapping[str, str], files: list[SafetensorsFile]) -> None:
    where: dict[str, str] = {}
    for file in files:
        for tensor in file.tensors:
            if tensor in where:
                raise damaged(
                    at, f"{shown(tensor)} is in both {where[tensor]} and {file.path.name}"
                )
            where[tensor] = file.path.name
    for tensor, shard in table.items():
        if where.get(tensor) != shard:
            found = f"it is in {where[tensor]}" if tensor in where else "it is in no shard"
            raise damaged(at, f"{shown(tensor)} should be in {shard}, but {found}")
    extra = sorted(set(where) - set(table))
    if extra:
        raise damaged(
            at, f"{shown(extra[0])} is in {where[extra[0]]}, but the index does not name it"
        )


def _chat_template(path: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if exists(file):
        return read_text(file, MAX_PARSED)
    value = tokenizer_config.get("chat_template")
    if value is None:
        value = _optional(path / "chat_template.json").get("chat_template")
    if value is None:
        return None
    if isinstance(value, str):
        return value
    at = path / "tokenizer_config.json"
    named: dict[str, str] = {}
    for item in value if isinstance(value, list) else [value]:
        match item:
            case {"name": str(name), "template": str(template)}:
                named[name] = template
            case _:
                raise damaged(at, "chat_template is no text or list of texts with names")
    if "default" not in named:
        raise damaged(at, f"chat_template has no 'default' among {sorted(named)!s:.200}")
    return named["default"]


def _tokenizer(
    path: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]
) -> TokenizerData:
    file = path / "tokenizer.json"
    if not exists(file) and exists(path / qwen1.VOCABULARY):
        return qwen1.read_tokenizer(path, config.get("vocab_size"))
    if not exists(file):
        raise damaged(path, "the folder has no tokenizer.json", "fetch it")
    at = path / "tokenizer_config.json"
    added = _added_tokens(at, tokenizer_config.get("added_tokens_decoder", {}))
    ids: dict[str, int | None] = {}
    for name in ("eos", "bos", "pad"):
        token = tokenizer_config.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        found = [i for i, entry in added.items() if text is not None and entry["content"] == text]
        ids[name] = found[0] if found else _config_id(path, config, f"{name}_token_id")
    add_bos = tokenizer_config.get("add_bos_token") or False
    if not isinstance(add_bos, bool):
        raise damaged(at, f"add_bos_token is {add_bos!r:.40}; true or false wanted")
    return TokenizerData(
        json=read_text(file),
        added_tokens=added,
        eos_id=ids["eos"],
        bos_id=ids["bos"],
        pad_id=ids["pad"],
        add_bos=add_bos,
    )


def _added_tokens(at: Path, table: object) -> dict[int, Mapping[str, Any]]:
    if not isinstance(table, dict):
        raise damaged(at, "added_tokens_decoder is no object")
    out: dict[int, Mapping[str, Any]] = {}
    for key, entry in table.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise damaged(at, f"added_tokens_decoder has the id {key!r:.40}")
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise damaged(at, f"the added token {key} has no content")
        out[int(key)] = entry
    return out


def _config_id(path: Path, config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if isinstance(value, list) and value:
        value = value[0]
    if value is not None and (type(value) is not int or value < 0):
        raise ConfigError(f"{path}: {key} in config.json is {value!r:.40}; a token id is wanted")
    return value
