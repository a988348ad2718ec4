"""Answers prompts of token ids with llama-cpp-python, greedily; runs in the peer's interpreter.

One prompt after the other, appended to a file as each is done: what is there already is not asked
again. Knows nothing of qwick.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.telling import give, progress


def main() -> None:
    """Answer the prompts that the file does not hold yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()

    llama_cpp = import_module("llama_cpp")
    asked = json.loads(arguments.prompts.read_text("utf-8"))
    prompts: dict[str, list[int]] = asked["prompts"]
    stops = set(asked["stop_ids"])
    lines = arguments.answers.read_text("utf-8").splitlines() if arguments.answers.exists() else []
    known = {json.loads(line)["task_id"] for line in lines}
    longest = max(map(len, prompts.values()))
    model = llama_cpp.Llama(
        model_path=arguments.model,
        n_ctx=longest + arguments.max_tokens + 8,
        n_threads=arguments.threads,
        n_threads_batch=arguments.threads,
        verbose=False,
    )
    with arguments.answers.open("a", encoding="utf-8") as out:
        for done, (task_id, prompt) in enumerate(prompts.items(), 1):
            if task_id not in known:
                answer = answer_greedily(model, prompt, stops, arguments.max_tokens)
                print(json.dumps({"task_id": task_id, **answer}), file=out, flush=True)
            progress(done, len(prompts))
    give({})


def answer_greedily(model: Any, prompt: list[int], stops: set[int], most: int) -> dict[str, object]:
    """Return the ids of an answer, without the stop id that ended it."""
    ids: list[int] = []
    # temp 0 takes the most probable token; a repeat penalty of 1 is none.
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
        if token in stops:
            return {"ids": ids, "finish_reason": "stop"}
        ids.append(int(token))
        if len(ids) == most:
            break
    return {"ids": ids, "finish_reason": "length"}


if __name__ == "__main__":
    main()
