"""compressed-tensors folders (llm-compressor, vLLM) in the format "mxfp4-pack-quantized".

Of a matrix [n, k]: weight_packed U8[n, k / 2] holds two numbers of e2m1 in a byte, that of the even
column in the low nibble; weight_scale U8[n, k / 32] a power of two per 32 columns, as e8m0:
2^(e - 127), 255 is NaN. They become blocks of the stored type MXFP4, whose nibbles lie in another
order: exact.

Source: compressors/mxfp4/base.py, compressors/nvfp4/helpers.py and utils/match.py of
compressed-tensors; OCP Microscaling Formats 1.0. Its other formats are not read. input_activations
lets others round activations to 4 or 8 bits as well; here they meet the weights as they meet every
class of blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qwick.formats.checkpoint import Tensor
from qwick.formats.quantised.integers import BLOCK, nibbles
from qwick.formats.quantised.parts import U8, Parts, Settings, fault, in_pieces, unsupported
from qwick.quant.types import StoredType

# What the library takes where nothing is said, as far as another value is needed.
_CONFIG = {"format": "fakequant"}
_WEIGHTS = {"num_bits": 8, "type": "int", "group_size": 0}
_NAN = 255  # of e8m0
_MOST, _LONGEST = 32, 256  # patterns in a list, characters of one
_PATTERN = re.compile(r"\^?((?:\.\*|\.|\\\.|[A-Za-z0-9_-])*)(\$?)")


@dataclass(frozen=True)
class Names:
    """Which modules a list means."""

    texts: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    def __contains__(self, stem: str) -> bool:
        """Whether a module's name, its class or a pattern that its name begins with is there."""
        kind = "Embedding" if stem.endswith("embed_tokens") else "Linear"
        return bool(self.texts & {stem, kind}) or any(p.match(stem) for p in self.patterns)


def read(settings: Settings, parts: Parts) -> dict[str, Tensor]:
    """Return the quantised matrices; errors as `read_quantised`."""
    settings = replace(settings, values={**_CONFIG, **_said(settings.values)})
    settings.one_of("format", None, "mxfp4-pack-quantized")
    settings.one_of("quantization_status", "compressed", "compressed")
    settings.one_of("sparsity_config", {}, {})
    settings.one_of("transform_config", {}, {})
    groups = settings.take("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise unsupported(settings, "config_groups", groups, "an object of groups")
    targets = [_group(settings, group) for group in groups.values()]
    ignored = _names(settings, "ignore", settings.take("ignore") or [])
    settings.finish("global_compression_ratio", "version")
    stems = parts.ending(".weight_packed")
    plain = [s for s in parts.ending(".weight") if s.endswith(("_proj", "lm_head"))]
    for end, stems_so, is_packed in ((".weight_packed", stems, True), (".weight", plain, False)):
        for stem in stems_so:
            if (stem not in ignored and any(stem in names for names in targets)) != is_packed:
                raise fault(
                    parts,
                    stem + end,
                    f"is {'left out' if is_packed else 'quantised'} by what quantization_config "
                    "has as targets and ignore",
                    "let targets and ignore in config.json name what is quantised",
                )
    found = [_matrix(parts, stem) for stem in stems]
    return {tensor.name: tensor for tensor in found}


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _group(settings: Settings, group: object) -> Names:
    """Return the targets of a group, whose weights must be MXFP4."""
    if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
        raise unsupported(settings, "config_groups of", group, "objects with weights")
    within = replace(settings, values=group, _read=set())
    within.take("weights")
    within.one_of("format", None, "mxfp4-pack-quantized")
    activations = within.take("input_activations")
    if activations is not None and not (
        isinstance(activations, dict) and activations.get("dynamic") is True
    ):
        raise unsupported(settings, "input_activations", activations, "none, and dynamic ones")
    targets = _names(settings, "targets", within.take("targets"))
    within.finish()
    weights = replace(settings, values={**_WEIGHTS, **_said(group["weights"])}, _read=set())
    weights.one_of("num_bits", None, 4)
    weights.one_of("type", None, "float")
    weights.one_of("group_size", None, BLOCK)
    weights.one_of("strategy", "group", "group")
    weights.one_of("symmetric", True, True)
    weights.one_of("dynamic", False, False)
    weights.one_of("scale_dtype", "torch.uint8", "torch.uint8")
    weights.one_of("zp_dtype", "torch.uint8", "torch.uint8")  # there are no zero points
    weights.finish("observer", "observer_kwargs")
    return targets


def _names(settings: Settings, key: str, given: object) -> Names:
    """Read a list of names, of classes and, after re:, of patterns of modules' names."""
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise unsupported(settings, key, given, "lists of texts")
    patterns: list[re.Pattern[str]] = []
    for text in sorted({text for text in given if text.startswith("re:")}):
        pattern = _pattern(text[3:])
        if pattern is None or len(patterns) == _MOST:
            allowed = (
                f"{_MOST} patterns of letters, digits, _, -, \\., . and .*, ^ before, $ behind"
            )
            raise unsupported(settings, key, text, allowed)
        patterns.append(pattern)
    return Names(frozenset(given), tuple(patterns))


def _pattern(text: str) -> re.Pattern[str] | None:
    """Return a pattern that never tries a run between two .* at a second place; None: too rich.

    A file may not choose how long it is matched.
    """
    match = _PATTERN.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return None
    first, *runs = match[1].split(".*")
    last = f".*{runs.pop()}$" if match[2] and runs else match[2]
    middle = (f"(?=(?P<r{i}>.*?{run}))(?P=r{i})" for i, run in enumerate(runs))
    return re.compile(first + "".join(middle) + last)


def _matrix(parts: Parts, stem: str) -> Tensor:
    packed = parts.take(stem + ".weight_packed", ("U8",), (None, None))
    n, k = packed.shape[0], 2 * packed.shape[1]
    if k % BLOCK:
        raise fault(parts, packed.name, f"has {k} inputs; a multiple of {BLOCK} is expected")
    scales = parts.take(stem + ".weight_scale", ("U8",), (n, k // BLOCK))

    def make(a: int, b: int) -> U8:
        powers = scales.numbers()[a:b, :, None]
        if (powers == _NAN).any():
            raise fault(parts, scales.name, f"holds {_NAN}, which is no power of two")
        blocks = nibbles(packed.numbers()[a:b]).reshape(b - a, -1, BLOCK)
        quants = blocks[:, :, :16] | blocks[:, :, 16:] << np.uint8(4)
        return np.concatenate([powers, quants], axis=2).reshape(b - a, -1)

    stored = StoredType.MXFP4
    return Tensor(stem + ".weight", stored, (n, k), in_pieces(stored, (n, k), make))
