"""Opening a checkpoint, whatever it is: a GGUF file or a Hugging Face folder.

Knows which reader to ask, and nothing of what they read.
"""

from __future__ import annotations

from pathlib import Path

from qwick.formats.checkpoint import Checkpoint
from qwick.formats.gguf_checkpoint import open_gguf
from qwick.formats.hf_folder import open_folder
from qwick.formats.mapped import check_regular, damaged

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a .gguf file, or a folder with config.json and *.safetensors.

    Costs some 10 ms: weights stay on disk until touched, the vocabulary until asked for.

    Raises ModelNotFoundError (nothing there), FormatError (damaged, truncated, hostile, or no
    checkpoint), ConfigError (config missing or not understood), UnsupportedError (a model type or
    stored type that qwick does not run).
    """
    path = Path(path)
    if path.is_dir():
        return open_folder(path)
    check_regular(path)
    if path.suffix == ".safetensors" or path.name in ("config.json", "tokenizer.json"):
        raise damaged(
            path, "one file of a checkpoint folder", f"give the folder: {path.absolute().parent}"
        )
    if path.suffix in _PICKLES:
        raise damaged(
            path,
            "a pickle can run any code when it is read, so it is refused",
            "take the model's safetensors folder or a GGUF file",
        )
    return open_gguf(path)
