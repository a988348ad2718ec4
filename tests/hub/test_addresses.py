"""Tokens, logins in addresses, proxies and redirects: nothing secret is told, nothing escapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.support import HubServer, Recorder
from qwick.errors import DownloadError
from qwick.hub import Store


@pytest.mark.parametrize("name", ["tiny", "hf:some/other"])
@pytest.mark.parametrize(
    "token", ["hf_sec\x0bret", "hf_sec ret", "hf_sec\x7fret", "hf_secrét", "\u2022hf_secret"]
)
def test_a_token_that_cannot_be_sent_is_not_told(
    store: Store,
    server: HubServer,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    name: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DownloadError, match="allowed: printable ASCII") as caught:
        store.pull(name, recorder)
    assert "set HF_TOKEN anew" in str(caught.value.hint)
    told = " ".join([str(caught.value), str(caught.value.hint), *recorder.notices])
    assert "sec" not in told
    assert server.requests == []


def test_a_token_file_that_cannot_be_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"\xff\xfe")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(path))
    with pytest.raises(DownloadError, match="your token cannot be read"):
        store.pull("tiny", Recorder())
