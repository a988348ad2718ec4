"""Makes tests/model/qwen1_llama_cpp.json: llama.cpp's logits on the tests' tiny Qwen1, as GGUF.

    python -m checks.qwen1_logits PYTHON

PYTHON is an interpreter with llama-cpp-python (`bench/environments.py` makes one). It need not be
run again unless the tests' weights change.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
ROWS = [0, 1, 20, 44]
ASK = """
import json, sys
import numpy as np
from llama_cpp import Llama
path, ids, rows = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
# Keys and values in float32 (0), no flash attention: what is compared is the reading of the file.
model = Llama(path, n_ctx=64, n_batch=64, logits_all=True, type_k=0, type_v=0, verbose=False)
model.eval(ids)
print(json.dumps([[round(float(x), 5) for x in model.scores[row]] for row in rows]))
"""


def main() -> int:
    """Write the file; 0 when done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("python", help="an interpreter with llama-cpp-python")
    python = parser.parse_args().python
    sys.path.insert(0, str(TESTS))
    from model.test_qwen1 import GOLDEN, gguf_file
    from model.wild import sequences

    ids = sequences((45,), seed=5)[0].tolist()
    with tempfile.TemporaryDirectory() as folder:
        path = gguf_file(Path(folder) / "qwen1.gguf")
        asked = [python, "-c", ASK, str(path), json.dumps(ids), json.dumps(ROWS)]
        told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    golden = {"ids": ids, "rows": ROWS, "logits": json.loads(told)}
    GOLDEN.write_text(json.dumps(golden) + "\n", encoding="utf-8")
    print(f"{GOLDEN.name}: {len(ROWS)} rows of {len(golden['logits'][0])} logits")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
