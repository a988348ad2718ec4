"""What a model can be called, and what is meant by it."""

from __future__ import annotations

import pytest

from qwick import settings
from qwick.errors import ModelNotFoundError, ParameterError
from qwick.hub import DEFAULT, Store, at_revision, names_model, read_catalog
from qwick.hub.names import Reference, parse, preferred, want

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("qwen3-8b", (None, "qwen3-8b", None, None)),
        (" Qwen3-8B:Q4_K_M ", (None, "Qwen3-8B", None, "Q4_K_M")),
        ("Qwen/Qwen3-8B-GGUF:q8_0", (None, "Qwen/Qwen3-8B-GGUF", None, "q8_0")),
        ("hf:a/b@v1.0:x/y-00001-of-00002.gguf", ("hf", "a/b", "v1.0", "x/y-00001-of-00002.gguf")),
        ("HF:a/b@refs/pr/1", ("hf", "a/b", "refs/pr/1", None)),
        (f"ms:a/b@{COMMIT}", ("ms", "a/b", COMMIT, None)),
        ("https://huggingface.co/Qwen/Qwen3-8B", ("hf", "Qwen/Qwen3-8B", None, None)),
        ("hf.co/a/b:q4_0", ("hf", "a/b", None, "q4_0")),
        ("https://www.modelscope.cn/models/a/b", ("ms", "a/b", None, None)),
        ("http://huggingface.co/a/b/", ("hf", "a/b", None, None)),
        ("https://huggingface.co/a/b/tree/main", ("hf", "a/b", None, None)),
        ("https://huggingface.co/a/b/tree/master?x=1#y", ("hf", "a/b", "master", None)),
        ("HTTPS://HuggingFace.co/a/b/tree/refs%2Fpr%2F1", ("hf", "a/b", "refs/pr/1", None)),
        ("https://huggingface.co/a/b/blob/main/x.gguf", ("hf", "a/b", None, "x.gguf")),
        (
            f"https://huggingface.co/a/b/resolve/{COMMIT}/c/x%20y.gguf?download=true",
            ("hf", "a/b", COMMIT, "c/x y.gguf"),
        ),
        ("http://modelscope.cn/models/a/b/summary", ("ms", "a/b", None, None)),
        ("https://modelscope.cn/models/a/b/files", ("ms", "a/b", None, None)),
        (
            "https://www.modelscope.cn/models/a/b/file/view/master/x.gguf?status=2",
            ("ms", "a/b", None, "x.gguf"),
        ),
        ("modelscope.cn/models/a/b/resolve/v1/x.gguf", ("ms", "a/b", "v1", "x.gguf")),
        ("ollama:qwen3:8b", ("ollama", "qwen3:8b", None, None)),
        ("Ollama:hf.co/a/b:Q4_K_M", ("ollama", "hf.co/a/b:Q4_K_M", None, None)),
        ("ollama:localhost:5000/a/b:x.gguf", ("ollama", "localhost:5000/a/b:x.gguf", None, None)),
    ],
)
def test_the_parts_of_a_name(text: str, parts: tuple[str | None, ...]) -> None:
    assert parse(text) == Reference(*parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *("", "Write a haiku.", "a b", "hf:", "hf:qwen3-8b", "ms:x", "a/b/c", "hf:a/b/c", "/a/b"),
        *("hf:a/b@", "hf:a/b:", "hf:a/b@../x", "hf:a/b@x/../y", "a:b:c", "hf:a/b:../x.gguf"),
        *("hf:a/b:/etc/passwd", "hf:../b", "a/..", "é", "x" * 500, "a\nb", "a/b?x=1", "a/b#c"),
        *("ollama:", "ollama: what is it?"),
        *("https://huggingface.co/", "https://huggingface.co/a", "http://evil.co/a/b"),
        *("https://huggingface.co/a/b/blob/main", "https://huggingface.co/a/b/discussions"),
        *("https://huggingface.co/a/b/blob/main/%2e%2e/x.gguf", "https://huggingface.co.evil/a/b"),
        "https://huggingface.co/a/b/tree/%2e%2e",
    ],
)
def test_what_is_no_name(text: str) -> None:
    assert parse(text) is None
    assert not names_model(text, surely=False)
    with pytest.raises(ModelNotFoundError, match="no model called") as caught:
        want(text, read_catalog())
    assert "owner/name" in str(caught.value.hint)


def test_a_page_is_of_the_modelscope_that_is_asked() -> None:
    cn, ai = (f"https://www.modelscope.{end}/models/a/b/summary" for end in ("cn", "ai"))
    meant = Reference("ms", "a/b", None, None)
    for address, read, not_read in (
        ("https://www.modelscope.ai", ai, cn),
        ("https://www.modelscope.cn", cn, ai),
        ("http://localhost:8000", cn, ai),  # a mirror
    ):
        with settings.MODELSCOPE.changed(address):
            assert parse(read) == meant
            assert parse(not_read) is None


@pytest.mark.parametrize(
    ("text", "name", "repository"),
    [
        ("qwen3-8b", "qwen3-8b:q4_k_m", "Qwen/Qwen3-8B-GGUF"),
        ("QWEN3-8B:Q4_K_M", "qwen3-8b:q4_k_m", "Qwen/Qwen3-8B-GGUF"),
        ("Qwen/Qwen3-8B-GGUF", "qwen3-8b:q4_k_m", "Qwen/Qwen3-8B-GGUF"),
        ("Qwen/Qwen3-8B", "qwen3-8b:bf16", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B:awq", "qwen3-8b:awq", "Qwen/Qwen3-8B-AWQ"),
        ("qwen3-0.6b", "qwen3-0.6b:q8_0", "Qwen/Qwen3-0.6B-GGUF"),
        ("qwen3-embedding-0.6b", "qwen3-embedding-0.6b:bf16", "Qwen/Qwen3-Embedding-0.6B"),
        ("qwen2.5-0.5b", "qwen2.5-0.5b:bf16", "Qwen/Qwen2.5-0.5B"),
        ("qwen3-8b:Safetensors", "qwen3-8b:bf16", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B-AWQ:safetensors", "Qwen/Qwen3-8B-AWQ:safetensors", "Qwen/Qwen3-8B-AWQ"),
        ("qwen3-8b:q6_k", "qwen3-8b:q6_k", "Qwen/Qwen3-8B-GGUF"),  # that the catalog has not
        ("hf:Qwen/Qwen3-8B-GGUF:q5_0", "Qwen/Qwen3-8B-GGUF:q5_0", "Qwen/Qwen3-8B-GGUF"),
        ("somebody/thing:q4_0", "somebody/thing:q4_0", "somebody/thing"),
        ("ms:somebody/thing", "ms:somebody/thing", "somebody/thing"),
        ("qwen3-8b@v2", "qwen3-8b@v2:q4_k_m", "Qwen/Qwen3-8B-GGUF"),
    ],
)
def test_what_is_meant(text: str, name: str, repository: str) -> None:
    wanted = want(text, read_catalog())
    assert (wanted.name, wanted.places[0].repository) == (name, repository)


def test_which_hubs_are_asked() -> None:
    def asked(text: str) -> list[tuple[str, str]]:
        return [(place.hub, place.revision) for place in want(text, read_catalog()).places]

    assert asked("qwen3-8b") == [("hf", ""), ("ms", "")]
    assert asked("qwen3-8b@v2") == [("hf", "v2")]  # a revision is of one hub
    assert asked("ms:Qwen/Qwen3-8B-GGUF") == [("ms", "")]
    assert asked("hf:Qwen/Qwen3-8B-GGUF") == [("hf", "")]
    assert asked("somebody/thing") == [("hf", "")]  # who it is on ModelScope nobody knows


def test_a_format_that_there_is_not() -> None:
    with pytest.raises(ModelNotFoundError, match="no format 'nonsense' of qwen3-8b") as caught:
        want("qwen3-8b:nonsense", read_catalog())
    assert str(caught.value.hint).startswith("known: ")
    with pytest.raises(ModelNotFoundError) as caught:
        want("qwen3-8bb", read_catalog())
    assert "qwen3-8b" in str(caught.value.hint)


def test_every_model_of_the_catalog_has_a_form_that_suits_most() -> None:
    for model in read_catalog().models.values():
        form = preferred(model.formats)
        assert form.official or not any(one.official for one in model.formats)
        packed = {one.name for one in model.formats if one.container == "gguf" and one.official}
        if "q4_k_m" in packed:
            assert form.name == "q4_k_m", model.id
        assert not form.name.startswith(("q2", "q3")), model.id


def test_the_default_is_known_by_every_spelling() -> None:
    store = Store()
    for text in (DEFAULT, f"{DEFAULT}:q4_k_m", "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:Q4_K_M"):
        found = store.find(text)
        assert found is not None
        assert found.name == DEFAULT


def test_a_name_at_a_revision() -> None:
    assert at_revision("hf:a/b:q8_0", "v1") == "hf:a/b@v1:q8_0"
    assert at_revision("qwen3-8b", COMMIT) == f"qwen3-8b@{COMMIT}"
    for text, revision in (("a/b", "../x"), ("a b", "v1"), ("ollama:x", "v1"), ("a/b", "")):
        with pytest.raises(ParameterError):
            at_revision(text, revision)


@pytest.mark.parametrize(
    "revision", ["v+1", "1.0+cpu", "a/b/c", "a/-b", "_x", "v1.0-rc=1", "refs/pr/1", "x" * 100]
)
def test_what_can_be_a_revision(revision: str) -> None:
    assert at_revision("a/b", revision) == f"a/b@{revision}"
    assert parse(f"ms:a/b@{revision}:q8_0") == Reference("ms", "a/b", revision, "q8_0")


@pytest.mark.parametrize(
    "revision",
    [
        *(
            "a//b",
            "a/",
            "/a",
            "a..b",
            "a/.b",
            ".a",
            "a.",
            "a.lock",
            "a.lock/b",
            "-a",
            "+a",
            "v1:q8",
        ),
        *("a b", "a@b", "a~1", "a^", "a?", "a*", "a[", "a\\b", "é", "a\n", "x" * 101),
    ],
)
def test_what_cannot_be_a_revision(revision: str) -> None:
    with pytest.raises(ParameterError, match="branch or tag"):
        at_revision("a/b", revision)
    if revision.strip() == revision and ":" not in revision:
        assert parse(f"a/b@{revision}") is None
