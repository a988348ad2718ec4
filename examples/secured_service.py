"""`qwick serve` behind API keys with limits: who has none stays out, who asks too much waits."""

import os
import subprocess
import sys
import tempfile

import httpx

QWICK = [sys.executable, "-m", "qwick"]
QUESTION = {"prompt": "1 + 1 =", "max_tokens": 4, "model": "qwen2.5-coder-0.5b-instruct"}

with tempfile.TemporaryDirectory() as state:  # leave this out: keys are kept in QWICK_STATE
    environment = {**os.environ, "QWICK_STATE": state}
    create = [*QWICK, "keys", "create", "alice", "--requests", "1/hour", "--max-tokens", "64"]
    made = subprocess.run(create, env=environment, capture_output=True, text=True, check=True)
    alice = {"authorization": f"Bearer {made.stdout.strip()}"}

    serve = [*QWICK, "serve", "--port", "0", "--ctx", "1024"]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True, env=environment) as server:
        url = next(line.split()[-1] for line in server.stderr if line.startswith("qwick serves"))
        try:
            with httpx.Client(base_url=f"{url}/v1", timeout=60) as client:
                nobody = client.post("/completions", json=QUESTION)
                print("without a key:", nobody.status_code, nobody.json()["error"]["code"])
                greedy = client.post(
                    "/completions", json={**QUESTION, "max_tokens": 65}, headers=alice
                )
                print("65 tokens:", greedy.status_code, greedy.json()["error"]["message"])
                good = client.post("/completions", json=QUESTION, headers=alice)
                print("alice:", good.status_code, good.json()["choices"][0]["text"])
                again = client.post("/completions", json=QUESTION, headers=alice)
                print("once more:", again.status_code, "after", again.headers["retry-after"], "s")
        finally:
            server.terminate()
