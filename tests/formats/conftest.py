"""A small honest checkpoint that several files of this folder read."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.samples import (
    CONFIG,
    TOKENIZER,
    arrays,
)
from qwick.formats.write import write_gguf
from qwick.quant.types import StoredType


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "honest.gguf"
    values = arrays()
    types = {"model.layers.0.mlp.down_proj.weight": StoredType.Q8_0}
    write_gguf(
        path,
        CONFIG,
        values,
        types,
        tokenizer=TOKENIZER,
        chat_template="{{ messages }}",
        metadata={"general.name": "Honest", "general.license": "apache-2.0"},
    )
    return path
