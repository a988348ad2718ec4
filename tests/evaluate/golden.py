"""Texts with their float32 scores under the default checkpoint, kept in golden.json.

    PYTHONPATH=src:tests python -m evaluate.golden        # writes golden.json anew (a minute)

The scores come from transformers and torch alone; so a mistake of ours cannot be in both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("golden.json")

TEXTS = (
    '''\
import heapq
from collections.abc import Iterator


def shortest_paths(graph: dict[str, dict[str, float]], start: str) -> dict[str, float]:
    """Return the least distance from `start` to every node that can be reached.

    graph: node -> its neighbours and the length of the edge to each; none is negative.
    """
    distances = {start: 0.0}
    queue = [(0.0, start)]
    done = set()
    while queue:
        distance, node = heapq.heappop(queue)
        if node in done:
            continue
        done.add(node)
        for neighbour, length in graph.get(node, {}).items():
            candidate = distance + length
            if candidate < distances.get(neighbour, float("inf")):
                distances[neighbour] = candidate
                heapq.heappush(queue, (candidate, neighbour))
    return distances
''',
    """\
A hash table keeps its entries in an array of buckets. The hash of a key, taken modulo the number of
buckets, says where the entry belongs. When two keys fall into the same bucket, the table either
keeps a list there or looks for the next free place. As long as the table is at most two thirds
full, a look-up takes constant time on average; when it becomes fuller, the table is copied into a
larger array, which costs time once but keeps the average low.
""",
    """\
二分查找是一种在有序数组中查找某一特定元素的搜索算法。搜索过程从数组的中间元素开始，如果中间元素正好是要查找的元素，\
则搜索过程结束；如果某一特定元素大于或者小于中间元素，则在数组大于或小于中间元素的那一半中查找，\
而且跟开始一样从中间元素开始比较。这种搜索算法每一次比较都使搜索范围缩小一半。
""",
    """\
SELECT c.name, COUNT(o.id) AS orders, SUM(o.total) AS revenue
FROM customers AS c
LEFT JOIN orders AS o ON o.customer_id = c.id AND o.created_at >= '2024-01-01'
WHERE c.country IN ('DE', 'FR', 'IT')
GROUP BY c.id, c.name
HAVING SUM(o.total) > 1000
ORDER BY revenue DESC
LIMIT 10;
""",
)


def read() -> dict[str, Any]:
    """Return what golden.json says."""
    found: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return found


def main() -> None:
    """Compute the scores and write the file."""
    from importlib.metadata import version

    from qwick import hub
    from qwick.evaluate.reference import PACKAGES, score_in_float32
    from qwick.formats.open import open_checkpoint
    from qwick.text.tokenizer import Tokenizer

    path = hub.resolve()
    with open_checkpoint(path) as checkpoint:
        tokenizer = Tokenizer.from_data(checkpoint.tokenizer)
    ids = [tokenizer.encode(text, parse_special=False) for text in TEXTS]
    scored = score_in_float32(path, ids)
    told = {
        "checkpoint": hub.CATALOG[hub.DEFAULT].files[0].sha256,
        "versions": {name: version(name) for name in PACKAGES},
        "perplexity": scored.perplexity,
        "lengths": scored.lengths.tolist(),
        "ids": [id for text in ids for id in text],
        "best": scored.best.tolist(),
        "logprobs": [round(float(x), 6) for x in scored.logprobs],
    }
    FILE.write_text(json.dumps(told) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
