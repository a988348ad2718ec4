"""What a model can be called, and what is meant by it.

    qwen3-8b                 of the family's catalog, in the format that suits most
    qwen3-8b:q4_k_m          in that format
    Qwen/Qwen3-8B-GGUF:q8_0  a repository of the Hugging Face hub; a file's path instead of a format
    hf:owner/name@revision   the same, at a branch, tag or commit
    ms:owner/name:q4_k_m     a repository of ModelScope
    ollama:qwen3:8b          what Ollama has on this machine

Knows nothing about networks or disks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from qwick import settings
from qwick.errors import ModelNotFoundError, UnsupportedError
from qwick.hub.catalog import Catalog, Format, Model, PublishedFile
from qwick.hub.entries import DEFAULT, Place, shortened
from qwick.hub.listings import OWNER, REPOSITORY, is_plain_path, is_revision
from qwick.values import check_kind, refused

__all__ = ["Reference", "Wanted", "at_revision", "bits_of", "parse", "preferred", "want"]

HUBS = ("hf", "ms", "ollama")
FORM = "[hf:|ms:]owner/name[@revision][:format or file]"
WHOLE_FOLDER = ("safetensors", "bf16")  # formats by which a folder of any repository is meant
AUTHORS = {"Qwen": "Qwen team, Alibaba Cloud"}

_REFERENCE = re.compile(
    rf"(?:(?P<hub>hf|ms):)?(?P<name>{OWNER}(?:/{OWNER}){{0,2}})"
    r"(?:@(?P<revision>[^@:]{1,100}))?(?::(?P<pick>[^:]{1,200}))?",
    re.ASCII | re.IGNORECASE,
)
_OLLAMA = re.compile(r"ollama:(?P<name>[\w./:-]{1,600})", re.ASCII | re.IGNORECASE)
_PAGE = re.compile(
    r"(?:https?://)?(?:(?:huggingface|hf)\.co|(?:www\.)?modelscope\.(?P<ms>cn|ai)/models)/",
    re.IGNORECASE,
)
# What follows the repository in the address of a page, or of a file.
_BELOW = re.compile(
    rf"(?P<name>{REPOSITORY})/(?:(?:summary|files)|tree/(?P<tree>[^/]+)"
    r"|(?:blob|resolve|raw|file/view)/(?P<revision>[^/]+)/(?P<file>.+))",
    re.ASCII,
)
_MAIN = {"hf": "main", "ms": "master"}  # the branches that are meant where none is named
# What GGUF files are called by: how their weights are stored.
_QUANTISATION = re.compile(r"(?:ud-)?(?:i?q\d\w*|tq\d\w*|mxfp4\w*|bf16|fp?16|fp?32)")


@dataclass(frozen=True, slots=True)
class Reference:
    """A text that can be a model's name, in its parts."""

    hub: str | None  # hf, ms or ollama; None: not said
    name: str  # of the catalog, of a repository (with a /), or of Ollama with its tag
    revision: str | None
    pick: str | None  # a format, or the path of a file


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reference means, before any hub has been asked."""

    name: str  # in the store
    base: str  # the same without the format
    places: tuple[Place, ...]  # in the order of asking; the revision "" is the main branch
    title: str
    author: str
    license: str | None  # None: the hub's word
    container: str | None  # gguf, safetensors or mlx; None: whichever the repository has
    pick: str | None  # the format, or the path of a file; None: the one that suits most
    files: tuple[PublishedFile, ...] = ()  # what the catalog knows of them, and the hub must agree


def parse(text: str) -> Reference | None:
    """Return the parts of a model's name, or None for what cannot be one."""
    check_kind("text", text, str, "a str")
    text = text.strip()
    local = _OLLAMA.fullmatch(text)
    if local is not None:
        return Reference("ollama", local["name"], None, None)
    found = _REFERENCE.fullmatch(_of_page(text))
    if found is None:
        return None
    hub, name, revision, pick = found.group("hub", "name", "revision", "pick")
    hub = hub and hub.lower()
    if hub is None and name.lower() in HUBS:  # a prefix of what is no name
        return None
    if name.count("/") > 1 or (hub and "/" not in name):
        return None
    if (revision and not is_revision(revision)) or (pick and not is_plain_path(pick)):
        return None
    return Reference(hub, name, revision, pick)


def _of_page(text: str) -> str:
    """Return the reference that the address of a page of a hub means; another text as it is.

    ModelScope's two sites have accounts of their own: an address is of the one that is asked.
    """
    page = _PAGE.match(text)
    if page is None:
        return text
    if page["ms"]:
        asked = "ai" if re.search(r"modelscope\.ai\b", settings.MODELSCOPE.get()) else "cn"
        if page["ms"].lower() != asked:
            return text
    hub = "ms" if page["ms"] else "hf"
    rest = re.split("[?#]", text[page.end() :])[0].rstrip("/")
    below = _BELOW.fullmatch(rest)
    if below is None:
        return f"{hub}:{rest}"
    revision, file = (unquote(t or "") for t in (below["tree"] or below["revision"], below["file"]))
    at = "" if revision in ("", _MAIN[hub]) else f"@{revision}"
    return f"{hub}:{below['name']}{at}" + (f":{file}" if file else "")


def at_revision(text: str, revision: str) -> str:
    """Return the name of the same at a branch, tag or commit; ParameterError for what is none."""
    check_kind("revision", revision, str, "a str")
    reference = parse(text)
    if reference is None or reference.hub == "ollama":
        raise refused("name", text, FORM)
    hub = f"{reference.hub}:" if reference.hub else ""
    pick = f":{reference.pick}" if reference.pick else ""
    name = f"{hub}{reference.name}@{revision}{pick}"
    if not is_revision(revision) or parse(name) is None:
        raise refused("revision", revision, "the name of a branch or tag, or a commit")
    return name


def want(text: str, family: Catalog) -> Wanted:
    """Return what a reference to a hub means.

    Raises ModelNotFoundError for none, with likely names, and UnsupportedError for Ollama's.
    """
    check_kind("family", family, Catalog, "a Catalog")
    reference = parse(text)
    if reference is not None and reference.hub == "ollama":
        raise UnsupportedError(
            f"{shortened(text)} is read in place, from Ollama's folder: there is nothing to pull",
            hint=f"run it as it is: qwick run {shortened(text)}; if Ollama lacks it, "
            f"`ollama pull {shortened(reference.name)}`",
        )
    if reference is None:
        raise ModelNotFoundError(
            f"there is no model called {shortened(text)!r}",
            hint=f"names are those of `qwick models list`, paths, ollama:name:tag, or {FORM}",
        )
    model = family.find(reference.name)
    if model is None:
        if "/" in reference.name:
            return _of_repository(reference)
        close = family.near(reference.name)
        raise ModelNotFoundError(
            f"there is no model called {shortened(text)!r}",
            hint=f"did you mean {' or '.join(close)}?"
            if close
            else f"known: {DEFAULT}, and what `qwick models search` shows",
        )
    own: Sequence[Format] = model.formats
    if "/" in reference.name:
        own = [one for one in own if one.repository.lower() == reference.name.lower()] or own
    if reference.pick is None:
        return _of_form(reference, model, preferred(own))
    pick = reference.pick.lower()
    named = [one for one in (*own, *model.formats) if one.name == pick]
    if not named and "/" not in reference.name and pick in WHOLE_FOLDER:
        named = [one for one in own if one.container == "safetensors" and one.name == "bf16"]
    if named:
        return _of_form(reference, model, min(named, key=lambda one: not one.official))
    if "/" in reference.name:  # the hub may have more than the catalog
        return _of_repository(reference)
    packed = [one for one in own if one.container == "gguf" and one.official]
    if _QUANTISATION.fullmatch(pick) and packed:
        other = Format(pick, "gguf", packed[0].repository, True, None, (), 1, None)
        return _of_form(reference, model, other)
    raise ModelNotFoundError(
        f"there is no format {shortened(reference.pick)!r} of {model.id}",
        hint=f"known: {', '.join(dict.fromkeys(one.name for one in model.formats))}",
    )


def preferred(forms: Sequence[Format]) -> Format:
    """Return the form that suits most: q4_k_m, else the smallest GGUF of 4 bits or more, else bf16.

    Only what the family's own team has published counts, unless there is nothing else.
    """
    official = [one for one in forms if one.official] or list(forms)
    packed = [one for one in official if one.container == "gguf" and bits_of(one.name) >= 4]
    if packed:
        return min(packed, key=lambda one: (one.name != "q4_k_m", bits_of(one.name), one.name))
    return min(official, key=lambda one: (one.container != "safetensors", one.name != "bf16"))


def bits_of(quantisation: str) -> int:
    """Return the bits a weight that the name of a GGUF format states; 0 where it states none."""
    check_kind("quantisation", quantisation, str, "a str")
    found = re.search(r"\d+", quantisation)
    return int(found[0]) if found and _QUANTISATION.fullmatch(quantisation) else 0


def _of_form(reference: Reference, model: Model, form: Format) -> Wanted:
    revision = reference.revision
    places = []
    if reference.hub in (None, "hf"):
        places.append(Place("hf", form.repository, revision or form.revision or ""))
    # A commit of one hub is none of the other; and only the family's own team has the same
    # names on both.
    same = model.modelscope is not None and form.official
    if reference.hub == "ms" or (reference.hub is None and same and not revision):
        places.append(Place("ms", form.repository, revision or ""))
    base = model.id + (f"@{revision}" if revision else "")
    owner = form.repository.partition("/")[0]
    return Wanted(
        name=f"{base}:{form.name}",
        base=base,
        places=tuple(places),
        title=f"{model.repository.partition('/')[2]}, {form.name}",
        author=AUTHORS.get(owner, owner),
        license=model.license.title if model.license else None,
        container=form.container,
        pick=form.name,
        files=() if revision else form.files,
    )


def _of_repository(reference: Reference) -> Wanted:
    hub = reference.hub or "hf"
    base = ("ms:" if hub == "ms" else "") + reference.name
    base += f"@{reference.revision}" if reference.revision else ""
    owner, _, title = reference.name.partition("/")
    return Wanted(
        name=base + (f":{reference.pick}" if reference.pick else ""),
        base=base,
        places=(Place(hub, reference.name, reference.revision or ""),),
        title=title + (f", {reference.pick}" if reference.pick else ""),
        author=AUTHORS.get(owner, owner),
        license=None,
        container=None,
        pick=reference.pick,
    )
