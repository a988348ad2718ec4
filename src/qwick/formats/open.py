"""Opening a checkpoint, whatever it is: a GGUF file, one in parts, or a Hugging Face folder.

Knows which reader to ask, and nothing of what they read.
"""

from __future__ import annotations

import stat
from pathlib import Path

from qwick.formats.checkpoint import Checkpoint
from qwick.formats.gguf_checkpoint import open_gguf
from qwick.formats.gguf_split import part_in
from qwick.formats.hf_folder import open_folder
from qwick.formats.mapped import PICKLES, check_regular, damaged, status
from qwick.values import a_path


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a .gguf file, any part of one in parts, or a folder.

    The folder has config.json and *.safetensors, or the parts of one GGUF model and no other.

    Costs some 10 ms: weights stay on disk until touched, the vocabulary until asked for.

    Raises ModelNotFoundError (nothing there), UsageError (it may not be read), ResourceError (the
    system fails at reading it), FormatError (damaged, truncated, hostile, or no checkpoint),
    ConfigError (config missing or not understood), UnsupportedError (a model type or stored type
    that qwick does not run).
    """
    if not isinstance(path, Path):  # a Path that no file can have is told of below
        path = a_path("path", path)
    if stat.S_ISDIR(status(path).st_mode):
        part = part_in(path)
        return open_folder(path) if part is None else open_gguf(part)
    check_regular(path)
    if path.suffix == ".safetensors" or path.name in ("config.json", "tokenizer.json"):
        raise damaged(
            path, "one file of a checkpoint folder", f"give the folder: {path.absolute().parent}"
        )
    if path.suffix in PICKLES:
        raise damaged(
            path,
            "a pickle can run any code when it is read, so it is refused",
            "take the model's safetensors folder or a GGUF file",
        )
    return open_gguf(path)
