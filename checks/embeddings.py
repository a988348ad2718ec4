"""The default checkpoint's embeddings beside transformers' in float32, on the same file.

    python -m checks.embeddings

Both read the same GGUF file; the reference has every weight in float32 (some 2 GB, a minute). The
texts are a few of code and prose, with and without an instruction. Prints the cosine of each pair
of vectors and, last, one JSON line. Exit code 1: a cosine is below the limit, or another pooling
would not have been noticed. Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from qwick import Qwen, hub
from qwick.llm.pooling import embedding

LEAST = 0.995  # quantised activations and 8-bit keys against float32
NOTICED = 0.98  # the best cosine that a mistake may have, on the average
TASK = "Given a web search query, retrieve relevant passages that answer the query"
DOCUMENTS = [
    "def add(a, b):\n    return a + b",
    "The capital of France is Paris, which lies on the Seine.",
    "SELECT name FROM users WHERE age > 30 ORDER BY name;",
    "Water boils at 100 degrees Celsius at sea level. " * 8,
    "x",
]
QUERIES = ["How are two numbers added?", "Where does the Seine flow?"]


def main() -> int:
    """Compare, print, and return an exit code."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0]).parse_args()
    path = hub.resolve(None)
    with Qwen.load(path, ctx=1024) as qwen:
        found = np.concatenate([qwen.embed(DOCUMENTS), qwen.embed(QUERIES, instruction=TASK)])
        capacity = qwen.engine.capacity
        asked = [
            *embedding(qwen.texts, capacity, DOCUMENTS).requests,
            *embedding(qwen.texts, capacity, QUERIES, instruction=TASK).requests,
        ]
    states = states_of(path, [list(request.ids) for request in asked])
    cosines = {
        "ours": cosine(found, [rows[-1] for rows in states]),
        "last but one": cosine(found, [rows[max(len(rows) - 2, 0)] for rows in states]),
        "mean": cosine(found, [rows.mean(axis=0) for rows in states]),
        "first": cosine(found, [rows[0] for rows in states]),
    }
    for name, values in cosines.items():
        print(f"{name:>12}: " + " ".join(f"{value:.5f}" for value in values))
    least = min(cosines["ours"])
    noticed = all(np.mean(v) < NOTICED for name, v in cosines.items() if name != "ours")
    holds = bool(least >= LEAST and noticed)
    print(json.dumps({"least": round(least, 6), "noticed": bool(noticed), "holds": holds}))
    return 0 if holds else 1


def cosine(found: Any, expected: list[Any]) -> list[float]:
    """Return the cosine of each pair."""
    pairs = zip(found, expected, strict=True)
    return [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs]


def states_of(path: Path, prompts: list[list[int]]) -> list[Any]:
    """Return transformers' final states of every token, F32[n, hidden] each."""
    import torch

    from qwick.evaluate.reference import load_gguf

    model = load_gguf(path).model
    with torch.inference_mode():
        rows = [model(torch.tensor([ids])).last_hidden_state[0] for ids in prompts]
    return [row.numpy() for row in rows]


if __name__ == "__main__":
    sys.exit(main())
