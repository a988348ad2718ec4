"""From a name, a folder or a file to the parts of a `Qwen`: model, tokenizer, template, defaults.

Asks hub, formats, choose and model in turn, and has no logic of theirs. Knows no requests.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qwick import settings
from qwick.engine.engine import LOGIT_ROWS, TOKEN_BUDGET
from qwick.engine.model import Model
from qwick.errors import ConfigError, FormatError
from qwick.family import family_of
from qwick.llm.defaults import Defaults, stop_ids_of
from qwick.text.template import ChatTemplate
from qwick.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from qwick.formats.checkpoint import Checkpoint
    from qwick.hub.listener import Listener


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint ready to be run; `name` is what its replies call it."""

    model: Model
    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: Defaults
    name: str
    cache_tokens: int


def load(
    model: str | os.PathLike[str] | None,
    *,
    threads: int | None,
    ctx: int | None,
    kv: str | None,
    listener: Listener | None,
) -> Loaded:
    """Load a checkpoint; arguments and errors are those of `Qwen.load`."""
    from qwick import hub
    from qwick.choose.memory import plan_memory
    from qwick.formats.open import open_checkpoint
    from qwick.machine.cpu import use_threads
    from qwick.model.load import kv_kinds, load_model, weight_bytes

    kv = settings.KV.get() if kv is None else kv
    if listener is None:
        listener = hub.StderrListener()
    hub.check_listener(listener)
    use_threads(threads)
    path = hub.resolve(model, listener)
    with open_checkpoint(path) as checkpoint, ThreadPoolExecutor(1) as beside:
        plan = plan_memory(
            checkpoint.config,
            weight_bytes(checkpoint),
            context=ctx,
            kv_kinds=kv_kinds(checkpoint, kv),
            rows=TOKEN_BUDGET,
            logit_rows=LOGIT_ROWS,
        )
        name = _name_of(checkpoint, path)
        # Packing leaves the interpreter free, and so does most of this.
        text = beside.submit(_load_text, checkpoint, name)
        decoder = load_model(
            checkpoint,
            context=plan.context,
            kv=kv,
            progress=partial(listener.progress, hub.LOADING),
        )
        tokenizer, template, defaults = text.result()
    if tokenizer.n_tokens > decoder.arch.vocab:
        raise FormatError(
            f"{path}: the tokenizer has {tokenizer.n_tokens} ids, the model only "
            f"{decoder.arch.vocab}"
        )
    return Loaded(decoder, tokenizer, template, defaults, name, plan.cache_tokens)


def _name_of(checkpoint: Checkpoint, path: Path) -> str:
    """Return the catalogue's name for one of its files, else what the checkpoint calls itself.

    A file is the catalogue's if its name and its size are. (Publishers are careless with GGUF's
    general.name: the default checkpoint's says AWQ, which it is not.)
    """
    from qwick import hub

    for entry in hub.CATALOG.values():
        if (entry.file, entry.size) == (path.name, checkpoint.size_bytes):
            return entry.name
    return checkpoint.name or path.stem


def _load_text(
    checkpoint: Checkpoint, name: str
) -> tuple[Tokenizer, ChatTemplate | None, Defaults]:
    """Build all that needs the checkpoint's texts and none of its weights."""
    tokenizer = Tokenizer.from_data(checkpoint.tokenizer)
    source = checkpoint.chat_template
    template = None if source is None else ChatTemplate(source)
    family = family_of(checkpoint.config, name)
    named = stop_ids_of(checkpoint.generation)
    if named and max(named) >= tokenizer.n_tokens:
        raise ConfigError(
            f"{checkpoint.path}: eos_token_id of generation_config.json is {max(named)}; the "
            f"tokenizer's ids end at {tokenizer.n_tokens - 1}"
        )
    stop_ids = tuple(dict.fromkeys((*tokenizer.stop_ids(family.stops), *named)))
    return tokenizer, template, Defaults(family, checkpoint.generation, stop_ids)
