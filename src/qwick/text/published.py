"""The chat templates as published, for checkpoints whose files bring none.

Qwen1 has its format in code that is not run here, and some GGUF files were written without a
template. `templates/` holds the newest one of each family, byte for byte as it comes with the
checkpoints: texts of the Qwen team, Alibaba Cloud, under the Apache License 2.0. Families whose
templates differ in nothing but the system prompt that is put in share one. Knows no checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path

from qwick.family import FAMILIES, Family
from qwick.values import check_kind

__all__ = ["published_template"]

# A family's name -> the file, and the family whose system prompt that has.
_FILES = {
    # The ChatML of QwenLM/Qwen (qwen_generation_utils.py, make_context) is that of Qwen2, to the
    # letter; so are CodeQwen1.5 and, but for its system prompt, Qwen2-Math (Qwen2.5-Math, README).
    "qwen": "qwen2",
    "qwen1.5": "qwen2",
    "codeqwen1.5": "qwen2",
    "qwen2": "qwen2",
    "qwen2-math": "qwen2",
    "qwen2.5": "qwen2.5",
    "qwen2.5-1m": "qwen2.5",
    "qwen2.5-coder": "qwen2.5",
    "qwen2.5-math": "qwen2.5",
    "qwq-preview": "qwen2.5",
    "qwq": "qwq",
    "qwen3": "qwen3",
    "qwen3-instruct-2507": "qwen3-instruct-2507",
    "qwen3-thinking-2507": "qwen3-thinking-2507",
    "qwen3-coder": "qwen3-coder",
}


def published_template(family: Family) -> str | None:
    """Return the source of a family's chat template; None: none is known, or it is a base model."""
    check_kind("family", family, Family, "a Family")
    file = _FILES.get(family.name)
    if file is None:
        return None
    source = (Path(__file__).parent / "templates" / f"{file}.jinja").read_bytes().decode("utf-8")
    own = FAMILIES[file].system_prompt
    if own is None or family.system_prompt is None:
        return source
    return source.replace(own, json.dumps(family.system_prompt)[1:-1])  # it stands in a literal
