"""`qwick serve` watched: is it ready, how did the last requests go, what do the metrics say."""

import subprocess
import sys
import time

import httpx

QUESTION = {
    "model": "qwen2.5-coder-0.5b-instruct",
    "messages": [{"role": "user", "content": "Say hi."}],
    "max_tokens": 8,
}
COMMAND = [sys.executable, "-m", "qwick", "serve", "--port", "0", "--ctx", "1024"]

with subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True) as server:
    url = next(line.split()[-1] for line in server.stderr if line.startswith("qwick serves at"))
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            while client.get("/ready").status_code != 200:  # the model is still being loaded
                time.sleep(0.05)
            client.post("/v1/chat/completions", json=QUESTION).raise_for_status()
            report = client.get("/v1/monitor", params={"last": 20}).json()
            print("verdict:", report["verdict"]["status"], report["verdict"]["reasons"])
            for line in client.get("/metrics").text.splitlines():
                if line.startswith("qwick:generation_tokens_total"):
                    print(line)
    finally:
        server.terminate()
print("the server ended with", server.returncode)
