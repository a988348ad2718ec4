"""Quantised Hugging Face folders: from the parts that a scheme stores to ordinary tensors.

One file for each quant_method. What each makes is a `Tensor` named as in the unquantised folder,
whose bytes are made when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwick.errors import ConfigError, FormatError, UnsupportedError, shown
from qwick.formats.checkpoint import Tensor
from qwick.formats.quantised import awq, bitsandbytes, compressed_tensors, fp8, gptq
from qwick.formats.quantised.parts import Parts, Settings, dtype_of, fault
from qwick.formats.safetensors import SafetensorsFile

__all__ = ["check_method", "read_quantised"]

METHODS: dict[str, Callable[[Settings, Parts], dict[str, Tensor]]] = {
    "gptq": gptq.read,
    "awq": awq.read,
    "fp8": fp8.read,
    "bitsandbytes": bitsandbytes.read,
    "compressed-tensors": compressed_tensors.read,
}


def check_method(path: Path, config: Mapping[str, Any]) -> str:
    """Return the quant_method of a config.json; UnsupportedError, ConfigError."""
    given = config["quantization_config"]
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: quantization_config is {shown(given)}; an object is wanted")
    method = given.get("quant_method")
    if not isinstance(method, str) or method not in METHODS:
        raise UnsupportedError(
            f"{path}: the weights are quantized with {shown(method)}, which is not supported; "
            f"known: {', '.join(METHODS)}",
            hint="take the unquantized checkpoint or a GGUF file of this model",
        )
    return method


def read_quantised(
    path: Path, config: Mapping[str, Any], files: Sequence[SafetensorsFile]
) -> dict[str, Tensor]:
    """Return all tensors of a folder whose config.json has a quantization_config.

    Raises UnsupportedError for a method, or a setting of one, that is not known; ConfigError;
    FormatError for parts that are missing, misshapen or out of range, by name. What only the
    numbers themselves show is raised when a tensor's data are made.
    """
    method = check_method(path, config)
    parts = Parts(path, files)
    given = config["quantization_config"]
    made = METHODS[method](Settings(path, method, given, dtype_of(path, config)), parts)
    if not made:
        raise FormatError(
            f"{path}: quantization_config says {method}, but no matrix is stored so",
            hint="if the weights are as they were trained, remove it from config.json",
        )
    tensors = parts.rest()
    for name in made:
        if name in tensors:
            raise fault(parts, name, "is there both quantised and as it is")
    return {**tensors, **made}
