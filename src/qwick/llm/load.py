"""From a name, a folder or a file to the parts of a `Qwen`: the model and the texts.

Asks hub, formats, choose and model in turn, and has no logic of theirs. Knows no requests.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import nextafter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwick import settings
from qwick.engine.engine import LOGIT_ROWS, TOKEN_BUDGET, Engine
from qwick.engine.model import Model
from qwick.errors import ConfigError, FormatError
from qwick.family import Family, family_of, is_named
from qwick.llm.defaults import Defaults, stop_ids_of
from qwick.llm.steers import SteerFactory
from qwick.llm.texts import Texts
from qwick.text.published import published_template
from qwick.text.template import ChatTemplate
from qwick.text.tokenizer import Tokenizer
from qwick.values import check_kind, check_switch, real, size_in_bytes, whole

if TYPE_CHECKING:
    from qwick.choose.memory import MemoryPlan
    from qwick.engine.process import EngineProcess
    from qwick.formats.checkpoint import Checkpoint
    from qwick.hub.listener import Listener
    from qwick.model.load import MappedExperts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How a checkpoint is run: arguments of `Qwen.load`, as they travel to an engine's process."""

    threads: int | None = None
    ctx: int | None = None
    yarn: float | None = None
    kv: str | None = None
    prefix_reuse: bool = True
    drafts: bool = True
    quantize: str | None = None
    weights_ram: int | str | None = None

    def __post_init__(self) -> None:
        """Refuse what could not even travel; the rest is checked where it is used."""
        for name, most in (("threads", settings.MAX_THREADS), ("ctx", 1 << 40)):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1, most)
        if self.yarn is not None:
            allowed = f"numbers above 1, up to {settings.MAX_YARN:g}"
            yarn = real("yarn", self.yarn, nextafter(1.0, 2.0), settings.MAX_YARN, allowed)
            object.__setattr__(self, "yarn", yarn)
        check_kind("kv", self.kv, (str, type(None)), "auto, int8, bf16, f32, or none")
        check_kind("quantize", self.quantize, (str, type(None)), "int8, int4, nf4, or none")
        check_switch("prefix_reuse", self.prefix_reuse)
        check_switch("drafts", self.drafts)
        if self.weights_ram is not None:
            size_in_bytes("weights_ram", self.weights_ram)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint ready to be run."""

    model: Model
    texts: Texts
    cache_tokens: int

    def engine(self, options: Options | None = None) -> Engine:
        """Return an engine for it."""
        options = Options() if options is None else options
        return Engine(
            self.model,
            n_vocab=self.texts.tokenizer.n_tokens,
            cache_tokens=self.cache_tokens,
            steer_factory=SteerFactory(self.texts.tokenizer),
            prefix_reuse=options.prefix_reuse,
            drafts=options.drafts,
        )


def build_engine(progress: Callable[[int, int], None], *, path: Path, options: Options) -> Engine:
    """Load a checkpoint from disk and return its engine: what an engine's process begins with."""

    from qwick.hub.listener import LOADING, SilentListener

    class Told(SilentListener):
        def progress(self, what: str, done: int, total: int) -> None:
            if what == LOADING:
                progress(done, total)

        def notice(self, text: str) -> None:
            log.warning("%s", text)

    return load(path, options, Told()).engine(options)


def start_process(
    model: str | os.PathLike[str] | None,
    options: Options,
    listener: Listener | None,
    **watching: Any,
) -> tuple[EngineProcess, Texts]:
    """Return a ready engine in a process of its own, and the texts; errors as `Qwen.load`.

    watching: post and stuck_seconds of EngineProcess.
    """
    from qwick import hub
    from qwick.engine.process import EngineProcess

    if listener is None:
        listener = hub.StderrListener()
    hub.check_listener(listener)
    path = hub.resolve(model, listener)
    engine = EngineProcess(
        partial(build_engine, path=path, options=options),
        **watching,
        on_loading=partial(listener.progress, hub.LOADING),
    )
    try:
        texts = load_texts(path, listener)  # while it loads
        engine.wait_ready()
    except BaseException:
        engine.close()
        raise
    return engine, texts


def weight_bytes_of(path: Path, options: Options) -> int:
    """Return the bytes of memory that the weights of a checkpoint on disk will take.

    Of its metadata alone: as they will be quantised, all in memory unless `weights_ram` bounds
    them. Raises as `load` for a checkpoint that cannot be run.
    """
    from qwick.formats.open import open_checkpoint
    from qwick.model.load import weight_sizes

    with open_checkpoint(path) as checkpoint:
        size = weight_sizes(checkpoint, options.quantize).every
    bound = options.weights_ram
    return size if bound is None else min(size, size_in_bytes("weights_ram", bound))


def load_texts(path: Path, listener: Listener) -> Texts:
    """Read what of a checkpoint on disk needs none of its weights."""
    from qwick.formats.open import open_checkpoint

    with open_checkpoint(path) as checkpoint:
        texts = _load_texts(checkpoint, _name_of(checkpoint, path))
        _tell_template(checkpoint, texts, listener)
    return texts


def load(
    model: str | os.PathLike[str] | None, options: Options, listener: Listener | None = None
) -> Loaded:
    """Load a checkpoint; arguments and errors are those of `Qwen.load`."""
    from qwick import hub
    from qwick.choose.memory import plan_memory
    from qwick.formats.open import open_checkpoint
    from qwick.machine.cpu import use_threads
    from qwick.model.load import kv_kinds, load_model, stretched, weight_sizes

    kv, bound = settings.KV.get() if options.kv is None else options.kv, options.weights_ram
    if listener is None:
        listener = hub.StderrListener()
    hub.check_listener(listener)
    use_threads(options.threads)
    path = hub.resolve(model, listener)
    with open_checkpoint(path) as stored, ThreadPoolExecutor(1) as beside:
        checkpoint, ctx = stored, options.ctx
        if options.yarn is not None:
            checkpoint, longest = stretched(stored, options.yarn)
            ctx = longest if ctx is None else ctx
        sizes = weight_sizes(checkpoint, options.quantize)
        plan = plan_memory(
            checkpoint.config,
            sizes.every,
            least=sizes.least,
            weights_ram=None if bound is None else size_in_bytes("weights_ram", bound),
            context=ctx,
            kv_kinds=kv_kinds(checkpoint, kv),
            rows=TOKEN_BUDGET,
            logit_rows=LOGIT_ROWS,
        )
        name = _name_of(checkpoint, path)
        # Packing leaves the interpreter free, and so does most of this.
        texts_later = beside.submit(_load_texts, checkpoint, name)
        decoder = load_model(
            checkpoint,
            context=plan.context,
            kv=kv,
            quantize=options.quantize,
            progress=partial(listener.progress, hub.LOADING),
            experts=_mapped(checkpoint, plan, listener, asked=bound is not None),
        )
        texts = texts_later.result()
        _tell_template(checkpoint, texts, listener)
    tokenizer = texts.tokenizer
    if tokenizer.n_tokens > decoder.arch.vocab:
        raise FormatError(
            f"{path}: the tokenizer has {tokenizer.n_tokens} ids, the model only "
            f"{decoder.arch.vocab}"
        )
    return Loaded(decoder, texts, plan.cache_tokens)


def _mapped(
    checkpoint: Checkpoint, plan: MemoryPlan, listener: Listener, *, asked: bool
) -> MappedExperts | None:
    """Return how experts are kept in a file, if the plan has it so; say it where nobody asked."""
    from qwick import hub
    from qwick.hub.packed import open_packed
    from qwick.model.load import ExpertFile, ExpertLayout, MappedExperts, Progress, Write

    if plan.weights_ram is None:
        return None
    if not asked:
        listener.notice(
            "the weights do not fit into memory: the experts stay in a file, and "
            f"{plan.weights_ram / 1e9:.2f} GB of weights are in memory; --weights-ram sets how much"
        )

    def keep(layout: ExpertLayout, write: Write, waited: Progress) -> ExpertFile:
        made = open_packed(
            hub.Store(), checkpoint.files, layout.facts(), layout.size, write,
            notice=listener.notice, waited=waited,
        )  # fmt: skip
        return ExpertFile(made.descriptor, made.start)

    return MappedExperts(plan.weights_ram, keep)


def _name_of(checkpoint: Checkpoint, path: Path) -> str:
    """Return the catalogue's name for one of its files, else what the checkpoint calls itself.

    A file is the catalogue's if its name and its size are. (Publishers are careless with GGUF's
    general.name: the default checkpoint's says AWQ, which it is not.)
    """
    from qwick import hub

    for entry in hub.CATALOG.values():
        if (entry.main, entry.size) == (path.name, checkpoint.size_bytes):
            return entry.name
    return checkpoint.name or path.stem


def _load_texts(checkpoint: Checkpoint, name: str) -> Texts:
    tokenizer = Tokenizer.from_data(checkpoint.tokenizer)
    # Where a checkpoint's own name says nothing ("model"), its file's or folder's may.
    told = next((n for n in (name, checkpoint.path.stem) if is_named(checkpoint.config, n)), name)
    family = family_of(checkpoint.config, told)
    source = checkpoint.chat_template
    if source is None:
        source = _template_of_family(checkpoint, told, family)
    template = None if source is None else ChatTemplate(source)
    named = stop_ids_of(checkpoint.generation)
    if named and max(named) >= tokenizer.n_tokens:
        raise ConfigError(
            f"{checkpoint.path}: eos_token_id of generation_config.json is {max(named)}; the "
            f"tokenizer's ids end at {tokenizer.n_tokens - 1}"
        )
    stop_ids = tuple(dict.fromkeys((*tokenizer.stop_ids(family.stops), *named)))
    defaults = Defaults(family, checkpoint.generation, stop_ids)
    return Texts(tokenizer, template, defaults, name)


def _template_of_family(checkpoint: Checkpoint, name: str, family: Family) -> str | None:
    """Return the published template where the files have none, and it is known whose they are.

    Files of Qwen1 never have one, so its name need not say more. Where it does not, its
    generation_config.json tells a base model by a key that nothing else reads.
    """
    known = is_named(checkpoint.config, name) or family.name == "qwen"
    if not known or checkpoint.generation.get("chat_format") == "raw":
        return None
    return published_template(family)


def _tell_template(checkpoint: Checkpoint, texts: Texts, listener: Listener) -> None:
    if checkpoint.chat_template is None and texts.template is not None:
        listener.notice(
            f"{texts.name} comes without a chat template: that of {texts.defaults.family.name} "
            "is used"
        )
