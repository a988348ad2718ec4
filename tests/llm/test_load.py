"""Loading a whole checkpoint: what is told meanwhile, its name, and what closing gives back."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks.hostile import specimens
from llm.small import small_qwen, write_small
from qwick import hub
from qwick.choose.memory import plan_memory
from qwick.engine.engine import LOGIT_ROWS, TOKEN_BUDGET
from qwick.errors import ConfigError, EngineError, ParameterError, UsageError
from qwick.family import MODEL_TYPES, ModelType, family_of
from qwick.formats.mapped import map_file
from qwick.formats.open import open_checkpoint
from qwick.llm import Qwen
from qwick.llm.load import _template_of_family
from qwick.model.load import kv_kinds, weight_bytes
from qwick.native import ops


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("small") / "tiny-q8.gguf")


class Ears(hub.SilentListener):
    def __init__(self) -> None:
        self.heard: list[tuple[str, int, int]] = []
        self.notices: list[str] = []

    def progress(self, what: str, done: int, total: int) -> None:
        self.heard.append((what, done, total))

    def notice(self, text: str) -> None:
        self.notices.append(text)


def test_a_random_checkpoint_answers(checkpoint: Path) -> None:
    with Qwen.load(checkpoint) as qwen:
        reply = qwen.chat("Hi", temperature=0, max_tokens=20)
        assert reply.usage.prompt_tokens == len(qwen.render_ids("Hi"))
        assert reply.ids == qwen.chat("Hi", temperature=0, max_tokens=20).ids


def test_the_listener_hears_of_the_loading(checkpoint: Path) -> None:
    ears = Ears()
    Qwen.load(checkpoint, listener=ears).close()
    assert {what for what, _, _ in ears.heard} == {hub.LOADING}
    done = [at for _, at, _ in ears.heard]
    assert len(done) > 10
    assert done == sorted(done)
    assert {total for _, _, total in ears.heard} == {done[-1]}


def test_a_listener_can_stop_the_loading(checkpoint: Path) -> None:
    class Stops(hub.SilentListener):
        def progress(self, what: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Qwen.load(checkpoint, listener=Stops())


def test_without_a_listener_a_quick_load_is_silent(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Qwen.load(checkpoint).close()
    assert capfd.readouterr() == ("", "")


def test_threads_as_asked_or_as_the_environment_says(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Qwen.load(checkpoint, threads=3).close()
    assert ops.threads() == 3
    monkeypatch.setenv("QWICK_THREADS", "2")
    Qwen.load(checkpoint).close()
    assert ops.threads() == 2
    with pytest.raises(ParameterError, match="threads is 0; allowed: whole numbers from 1 to 1024"):
        Qwen.load(checkpoint, threads=0)


# -- the name ----------------------------------------------------------------------------------


def test_the_name_is_the_checkpoints_own_or_the_files(tmp_path: Path) -> None:
    with Qwen.load(write_small(tmp_path / "a.gguf")) as qwen:
        assert qwen.chat("x", max_tokens=1).model == qwen.name == "Small Random"
    with Qwen.load(write_small(tmp_path / "b.gguf", name=None)) as qwen:
        assert qwen.chat("x", max_tokens=1).model == qwen.name == "b"


def test_a_file_without_a_template_has_that_of_its_family_if_its_name_says_which(
    tmp_path: Path,
) -> None:
    file = write_small(tmp_path / "a.gguf", name="Qwen1.5 0.5B Chat", template=None)
    ears = Ears()
    with Qwen.load(file, listener=ears) as qwen:
        assert qwen.render("Hi.") == (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
        )
        assert qwen.chat("Hi.", max_tokens=2, temperature=0).usage.completion_tokens == 2
    assert ears.notices == [
        "Qwen1.5 0.5B Chat comes without a chat template: that of qwen1.5 is used"
    ]
    file = write_small(tmp_path / "qwen2-0_5b-instruct.gguf", name="model", template=None)
    with Qwen.load(file, listener=Ears()) as qwen:
        assert (qwen.name, qwen.defaults.family.name) == ("model", "qwen2")
        assert "You are a helpful assistant." in qwen.render("Hi.")
    for name in ("Small Random", "Qwen1.5 0.5B"):  # nobody's, and a base model
        file = write_small(tmp_path / "b.gguf", name=name, template=None)
        ears = Ears()
        with Qwen.load(file, listener=ears) as qwen:
            with pytest.raises(UsageError, match="no chat template") as caught:
                qwen.chat("Hi.")
            assert "whose name says its family" in (caught.value.hint or "")
            assert qwen.complete("Hi.", max_tokens=2, temperature=0).usage.completion_tokens == 2
        assert not ears.notices


def test_files_of_qwen1_have_no_template_and_need_not_say_whose_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODEL_TYPES, "qwen", ModelType("QWenLMHeadModel", "qwen", "qwen"))  # type: ignore[arg-type]
    config = {"model_type": "qwen"}
    for name, generation, has in (
        ("Qwen-7B-Chat", {"chat_format": "chatml"}, True),
        ("mine", {"chat_format": "chatml"}, True),
        ("mine", {}, True),
        ("mine", {"chat_format": "raw"}, False),
        ("Qwen-7B", {}, False),
    ):
        checkpoint: Any = SimpleNamespace(config=config, generation=generation)
        found = _template_of_family(checkpoint, name, family_of(config, name))
        assert (found is not None) is has, (name, generation)


def test_the_catalogues_own_file_has_the_catalogues_name(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = hub.CATALOG[hub.DEFAULT]
    size = checkpoint.stat().st_size
    for path, length, name in (
        (checkpoint.name, size, "known"),
        (checkpoint.name, size + 1, "Small Random"),
        ("other.gguf", size, "Small Random"),
    ):
        file = hub.PinnedFile(path, length, "0" * 64)
        changed = replace(entry, name="known", files=(file,))
        monkeypatch.setattr(hub, "CATALOG", {entry.name: entry, "known": changed})
        with Qwen.load(checkpoint) as qwen:
            assert qwen.name == name


@pytest.mark.model
def test_the_default_checkpoint_has_its_catalogue_name(default_checkpoint: Path) -> None:
    with Qwen.load(default_checkpoint, ctx=64) as qwen:
        assert qwen.name == "qwen2.5-coder-0.5b-instruct"
        assert qwen.defaults.family.name == "qwen2.5-coder"
        assert qwen.chat("x", max_tokens=1).model == "qwen2.5-coder-0.5b-instruct"


# -- the end -----------------------------------------------------------------------------------


def test_closing_lets_go_of_weights_and_cache_and_keeps_the_rest(checkpoint: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        qwen = Qwen.load(checkpoint)
        model = weakref.ref(qwen._engine._loop.engine.model)
        stream = qwen.stream("x", max_tokens=3, temperature=0)
        asked = stream.read()
        qwen.close()
        assert model() is None
    finally:
        gc.enable()
    assert stream.reply is asked
    assert qwen.stats.finished["length"] + qwen.stats.finished["stop"] == 1
    assert qwen.render("Hi").startswith("<|im_start|>user\nHi")
    for ask in (
        lambda: qwen.chat("x"),
        lambda: qwen.stream("x"),
        lambda: qwen.complete("x"),
        lambda: qwen.chat_batch(["x", "y"]),
        lambda: qwen.score([1, 2, 3]),
        lambda: qwen.perplexity("some text"),
        lambda: qwen.chat("x" * 10_000),  # what could not be asked of an open one either
    ):
        with pytest.raises(EngineError, match="the engine is closed"):
            ask()
    qwen.close()


def test_dropping_lets_go_without_close() -> None:
    qwen = small_qwen()
    model = weakref.ref(qwen._engine._loop.engine.model)
    thread = qwen._engine._thread
    del qwen
    gc.collect()
    thread.join(30)
    assert model() is None


@pytest.mark.model
def test_closing_gives_the_memory_back(default_checkpoint: Path) -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * resource.getpagesize()

    with Qwen.load(default_checkpoint, ctx=1024) as qwen:
        qwen.complete("x = 1\n" * 150, max_tokens=1)
        loaded = resident()
    closed = resident()
    with open_checkpoint(default_checkpoint) as checkpoint:
        weights = weight_bytes(checkpoint)
    assert loaded - closed > 0.95 * weights, f"{loaded:,} with the model, {closed:,} without"


# -- memory ------------------------------------------------------------------------------------


def resident_of(path: Path) -> int:
    """Bytes of the file's mapped pages that are in this process's memory."""
    mapped = False
    size = 0
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        field, *rest = line.split(maxsplit=5)
        if not field.endswith(":"):
            mapped = rest[-1] == str(path)
        elif mapped and field == "Rss:":
            size += int(rest[0]) * 1024
    return size


def test_a_mapped_file_that_is_read_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    data = map_file(path)
    assert resident_of(path) == 0
    assert data[:].count(b"x") == 100_000
    assert resident_of(path) >= 100_000


def test_loading_leaves_no_page_of_the_file_in_memory(checkpoint: Path) -> None:
    with Qwen.load(checkpoint) as qwen:
        assert resident_of(checkpoint) == 0
        answer = qwen.chat("Hi", temperature=0, max_tokens=20).ids
        assert resident_of(checkpoint) > 0  # rows of the embedding
        assert qwen.chat("Hi", temperature=0, max_tokens=20).ids == answer


MEMORY = """
import sys
from pathlib import Path
from qwick import Qwen

def status(key):
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

qwen = Qwen.load(sys.argv[1], ctx=1024)
print(status("VmHWM"))
qwen.score(range(100, 800))
print(status("VmHWM"))
"""


@pytest.mark.model
def test_memory_is_what_the_plan_says(default_checkpoint: Path) -> None:
    """One copy of the weights while loading, and a full step and its logits within 10 %."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(default_checkpoint)],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, scored = map(int, run.stdout.split())
    with open_checkpoint(default_checkpoint) as checkpoint:
        weights = weight_bytes(checkpoint)
        plan = plan_memory(
            checkpoint.config,
            weights,
            context=700,
            rows=TOKEN_BUDGET,
            logit_rows=LOGIT_ROWS,
            kv_kinds=kv_kinds(checkpoint, "auto"),
        )
    assert weights < loaded < weights + (200 << 20), f"{loaded:,}"
    assert abs(plan.needed - scored) < 0.1 * scored, f"{plan.needed:,} planned, {scored:,} taken"


FIRST = """
import sys
from qwick import Qwen

qwen = Qwen.load(sys.argv[1])
before = set(sys.modules)
qwen.chat([{"role": "user", "content": "a<|im_end|>b"}], max_tokens=8, stop=["xyz"], logprobs=2)
qwen.complete("x", max_tokens=8, temperature=1, top_k=0, repetition_penalty=1.1)
print(*sorted(set(sys.modules) - before))
"""


def test_the_first_request_waits_for_no_import(checkpoint: Path) -> None:
    """NumPy imports parts of itself at their first use: 9 ms where later requests wait 0.1 ms."""
    run = subprocess.run(
        [sys.executable, "-c", FIRST, str(checkpoint)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []


def test_ends_that_the_vocabulary_lacks_are_refused_at_the_load(tmp_path: Path) -> None:
    folder = specimens(None)["folder"].write(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [259, 300]}')
    with pytest.raises(ConfigError, match=r"generation_config.json is 300; .* end at 261"):
        Qwen.load(folder)
