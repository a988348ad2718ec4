"""What the table's callables are called with: a small model, a small store, a few files.

Everything real and small: random weights, a catalogue of one file, no network.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np

from llm.small import POOLED_TOKENIZER_DATA, TEMPLATE, TOKENIZER, small_qwen, write_small
from qwick.evaluate.perplexity import Scored
from qwick.hub import Entry, Store
from qwick.hub.entries import PinnedFile, Place
from qwick.llm import Qwen
from qwick.text.template import ChatTemplate
from qwick.text.tokenizer import Tokenizer

CONTEXT = 96
CONTENT = b"the bytes of a checkpoint"
FILE = PinnedFile("tiny.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
ENTRY = Entry(
    name="tiny",
    title="Tiny",
    author="Somebody",
    license="Apache-2.0",
    places=(Place("hf", "some/tiny", "main"),),
    files=(FILE,),
    aliases=("some/tiny",),
)


class World:
    """Made once; `folder` is where it may write, and the working folder until `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = Path.cwd()
        os.chdir(folder)  # a file of any name may come out of this
        self.tokenizer = TOKENIZER
        self.template = ChatTemplate(TEMPLATE)
        self._numbers = itertools.count()

    @functools.cached_property
    def file(self) -> Path:
        """A checkpoint's file."""
        return write_small(self.folder / "a.gguf", max_position_embeddings=CONTEXT)

    @functools.cached_property
    def qwen(self) -> Qwen:
        """A loaded model."""
        return Qwen.load(self.file, threads=1)

    @functools.cached_property
    def judge(self) -> Qwen:
        """One with tokens for yes and no."""
        tokenizer = Tokenizer.from_data(POOLED_TOKENIZER_DATA)
        return small_qwen(family="qwen3-reranker", tokenizer=tokenizer)

    @functools.cached_property
    def decoder(self) -> Any:
        """Its decoder."""
        return self.qwen._engine._loop.engine._model

    def other_qwen(self) -> Qwen:
        """One that may be closed."""
        return small_qwen()

    @property
    def store(self) -> Store:
        """A store of its own each time, which holds the one file of its catalogue."""
        store = Store(
            self.folder / f"home{next(self._numbers)}", catalog={"tiny": ENTRY}, sources=()
        )
        path = store.path(ENTRY)
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        return store

    @functools.cached_property
    def scored(self) -> Scored:
        """Of two texts."""
        return Scored(np.array([1, 2]), np.array([-1.0, -2.0, -3.0]), np.array([1, 2, 3], np.int32))

    @functools.cached_property
    def saved(self) -> Path:
        """The same, in a file."""
        path = self.folder / "scored.npz"
        self.scored.save(path)
        return path

    def close(self) -> None:
        """Give everything back."""
        os.chdir(self._before)
        if "qwen" in self.__dict__:
            self.qwen.close()
        if "judge" in self.__dict__:
            self.judge.close()
