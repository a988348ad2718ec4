"""`Qwen`: one loaded checkpoint that answers any number of threads and tasks at once.

Puts the parts together (hub, formats, model, engine, text) and has no logic of theirs. Whatever is
asked at the same time is computed in the same steps.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from qwick.engine.client import EngineClient, Ticket
from qwick.engine.request import Deliver, Request, Scores, perplexity_of
from qwick.engine.stats import Stats
from qwick.engine.thread import EngineThread
from qwick.errors import ParameterError
from qwick.llm.defaults import Defaults
from qwick.llm.gather import AsyncGathering, gathered
from qwick.llm.load import Options, load, start_process
from qwick.llm.pooling import Pooled, Ranked, embedding, reranking
from qwick.llm.reply import Assembler, Reply
from qwick.llm.stream import AsyncStream, Stream, Submit, read_all, read_choices
from qwick.llm.texts import Asked, Messages, RawPrompt, Texts, Tools
from qwick.text.tokenizer import Tokenizer
from qwick.values import check_switch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qwick.hub.listener import Listener

T = TypeVar("T")


class Qwen:
    """A loaded checkpoint. Use `Qwen.load`, and `close` it or use it in a `with` block.

    Every asking method takes the fields of `qwick.Sampling` as keywords (temperature, top_k, top_p,
    min_p, the penalties, logit_bias, seed, max_tokens, min_tokens, stop_ids, ignore_eos, stop,
    loop_detection, logprobs). What is not given, or None, is the checkpoint's own generation config
    (its stop_strings, max_new_tokens and max_length included), or else its family's recommendation;
    stop ids are the checkpoint's and the family's together, unless ignore_eos. temperature=0 is
    greedy. Without max_tokens, the caller's or the checkpoint's, an answer may fill the context.

    What an answer has in common with an earlier prompt or answer, from the first token on, is not
    computed again (`usage.cached_tokens` tells how much), unless the keyword `namespace` (a string,
    default "") was another one: give each user their own where one could gain from knowing what
    another has asked.

    Chat methods take messages (dicts with role and content) or one string, the user's; `tools`; and
    as keywords the variables of the checkpoint's template, and

    enable_thinking      True or False, where the checkpoint can do both; default: its own habit
    thinking_budget      most tokens of thinking; default: three quarters of max_tokens, if given
    tool_choice          "auto", "none", "required", or {"name": ...} of one tool
    parallel_tool_calls  whether one answer may hold several calls; default: True
    grammar              a `text.grammar.Grammar` that the answer, after any thinking, must match
    progress             True: chunks tell how far a long prompt is
    prompt_logprobs      tell how probable the prompt was: each token, and so many best (0 to 20)
    extra_stop_ids       ids that end the answer beside those of the checkpoint

    What the model thinks is in `Reply.thinking`, the calls it wishes for in `Reply.tool_calls`. Raw
    prompts take the last four only. All raise
    ParameterError, ContextLengthError and other UsageErrors before anything is computed,
    RequestCancelled when the model is closed meanwhile, EngineError when the engine fails.
    """

    def __init__(self, engine: EngineClient, texts: Texts) -> None:
        """Put a running engine and the texts of its checkpoint together; users take `load`."""
        self._engine = engine
        self.texts = texts

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        ctx: int | None = None,
        yarn: float | None = None,
        kv: str | None = None,
        quantize: str | None = None,
        prefix_reuse: bool = True,
        drafts: bool = True,
        own_process: bool = False,
        weights_ram: int | str | None = None,
        listener: Listener | None = None,
    ) -> Qwen:
        """Load a checkpoint: a name as of hub.resolve, a folder, a .gguf file, or None.

        None is the default checkpoint. threads: kernel threads, of the whole process; default:
        QWICK_THREADS, or the cores that may be used. ctx: tokens of one sequence; default: the
        model's, at most 32,768 and what memory allows. yarn: stretch positions so many times by
        YaRN, for requests that do not fit into the native context and for no others; ctx is then
        all of it. kv: the cache's numbers, "bf16", "f32" or
        "int8" (half the memory, quicker where contexts are long, in the layers whose keys bear it;
        bf16 in the others, and in all if heads are no multiple of 32 wide), or "auto": int8 for
        Qwen1.5 to Qwen2.5, bf16 for Qwen3; default: QWICK_KV, or auto. quantize: round the matrices
        while they are loaded, to "int8", "int4" or "nf4" (blocks of 32 weights, 8.5 or 4.5 bits a
        weight; the head has 8.5), so that a model takes less memory and is read quicker; None: as
        they are.
        prefix_reuse: use again what was computed for an earlier prompt or answer; False: compute
        every prompt whole. drafts: where a text repeats itself, guess several tokens ahead
        and compute them together; the answers are the same without. own_process: the engine gets a
        process of its own, so that a busy interpreter here does not slow it down; it is replaced
        when it dies or hangs. weights_ram: most bytes of weights in memory, as a number or a text
        such as "2GB"; the experts of a checkpoint that has some are then read from a file of packed
        weights, written once into the store; default: so where otherwise all would not fit, with
        what memory there is. listener: hears about a fetch, and how many bytes of the weights are
        ready; default: hub.StderrListener.

        Raises ModelNotFoundError, DownloadError, FormatError, UnsupportedError, ParameterError, and
        ResourceError when it does not fit into memory.
        """
        check_switch("own_process", own_process)
        options = Options(threads, ctx, yarn, kv, prefix_reuse, drafts, quantize, weights_ram)
        if own_process:
            return cls(*start_process(model, options, listener))
        loaded = load(model, options, listener)
        return cls(EngineThread(loaded.engine(options)), loaded.texts)

    # -- asking --------------------------------------------------------------------------------

    def chat(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        **keywords: Any,
    ) -> Reply:
        """Answer a conversation."""
        return self.stream(messages, tools=tools, **keywords).read()

    def stream(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        **keywords: Any,
    ) -> Stream:
        """Answer a conversation piece by piece; `.reply` comes with the end, `.close()` cancels."""
        return Stream(*self._chat(messages, tools, keywords))

    async def achat(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        **keywords: Any,
    ) -> Reply:
        """Answer a conversation; cancelling the task cancels the request."""
        return await self.astream(messages, tools=tools, **keywords).read()

    def astream(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        **keywords: Any,
    ) -> AsyncStream:
        """Answer a conversation piece by piece with `async for`; begins with the first piece."""
        return AsyncStream(lambda: _in_thread(self._chat, messages, tools, keywords))

    def chat_batch(
        self,
        conversations: Sequence[Messages],
        *,
        tools: Tools | None = None,
        **keywords: Any,
    ) -> list[Reply]:
        """Answer many conversations together, in their order. One that fails cancels the rest."""
        return read_all(partial(self._chat, c, tools, keywords) for c in _many(conversations))

    def choices(
        self,
        messages: Messages,
        n: int,
        *,
        tools: Tools | None = None,
        **keywords: Any,
    ) -> list[Reply]:
        """Answer a conversation `n` times (1 to 128); with a seed, answer i has seed + i.

        Its prompt is computed once, and told of (prompt_logprobs) in the first reply. One that
        fails cancels the rest.
        """
        return read_choices(partial(self._chat, messages, tools), n, keywords)

    def complete(self, prompt: RawPrompt, **keywords: Any) -> Reply:
        """Continue a raw prompt: text, in which control tokens are control tokens, or ids.

        A fill-in-the-middle prompt also stops at the family's further stop tokens for that.
        """
        return self.stream_complete(prompt, **keywords).read()

    def stream_complete(self, prompt: RawPrompt, **keywords: Any) -> Stream:
        """Continue a raw prompt piece by piece, as `stream` answers."""
        return Stream(*self._raw(prompt, keywords))

    async def acomplete(self, prompt: RawPrompt, **keywords: Any) -> Reply:
        """Continue a raw prompt; cancelling the task cancels the request."""
        return await self.astream_complete(prompt, **keywords).read()

    def astream_complete(self, prompt: RawPrompt, **keywords: Any) -> AsyncStream:
        """Continue a raw prompt piece by piece, as `astream` answers."""
        return AsyncStream(lambda: _in_thread(self._raw, prompt, keywords))

    def complete_batch(self, prompts: Sequence[RawPrompt], **keywords: Any) -> list[Reply]:
        """Continue many raw prompts together, in their order. One that fails cancels the rest."""
        return read_all(partial(self._raw, p, keywords) for p in _many(prompts))

    def complete_choices(self, prompt: RawPrompt, n: int, **keywords: Any) -> list[Reply]:
        """Continue a raw prompt `n` times, as `choices` answers."""
        return read_choices(partial(self._raw, prompt), n, keywords)

    def render(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Return the text that a conversation becomes, byte for byte the template's.

        Keywords are those of `chat`. add_generation_prompt: whether it ends where an answer begins.
        """
        return self.texts.render(
            messages, tools, variables, add_generation_prompt=add_generation_prompt
        ).text

    def render_ids(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """Return the ids that the model sees; control tokens in the messages are plain text."""
        return self.texts.render(
            messages, tools, variables, add_generation_prompt=add_generation_prompt
        ).ids

    def score(self, ids: Sequence[int], *, namespace: str = "") -> Scores:
        """Return, for each id but the first, its log probability after those before it.

        And which id was the most probable there. At most `context` ids, at least 2.
        """
        return _scores_of([Request(ids, kind="score", namespace=namespace)], self._engine)[0]

    def perplexity(self, text: str, *, parse_special: bool = False, namespace: str = "") -> float:
        """Return exp of the mean negative log probability of the text's tokens after the first.

        A text longer than the context is cut into windows of that length, each scored on its own
        (their first tokens are not scored). parse_special: read control tokens in it as such.
        """
        ids = self.tokenizer.encode(text, parse_special=parse_special)
        starts = range(0, max(1, len(ids)), self.context)
        windows = [ids[start : start + self.context] for start in starts]
        if len(windows) > 1 and len(windows[-1]) == 1:  # a window of one token scores nothing
            windows.pop()
        requests = [Request(window, kind="score", namespace=namespace) for window in windows]
        scores = _scores_of(requests, self._engine)
        return perplexity_of(*(s.logprobs for s in scores))

    # -- embeddings and judgements -------------------------------------------------------------

    def embed(
        self,
        texts: str | Sequence[RawPrompt],
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        truncate: int | None = None,
        namespace: str = "",
    ) -> NDArray[np.float32]:
        """Return a vector for each text, F32[n, d]: the state of `<|endoftext|>` behind it.

        texts: documents, as they are; or queries, with an `instruction` that says in a sentence
        what is looked for (in English, advises the card of Qwen3-Embedding). A str is a list of
        one; lists of ids are taken as they are. dimensions: so many numbers of each vector, the
        first, 32 at least; default: all. normalize: to length 1, so that a dot product is the
        cosine. truncate: leave out what a text has beyond so many tokens, instead of refusing it.

        Any checkpoint can; those of Qwen3-Embedding were trained for it, and can nothing else.
        """
        pooled = embedding(
            self.texts,
            self._engine.capacity,
            texts,
            instruction=instruction,
            dimensions=dimensions,
            normalize=normalize,
            truncate=truncate,
            namespace=namespace,
        )
        return pooled.read(gathered(pooled.requests, self._engine))

    async def aembed(
        self, texts: str | Sequence[RawPrompt], **keywords: Any
    ) -> NDArray[np.float32]:
        """Return vectors as `embed` does; cancelling the task cancels what is left to compute."""
        return await self._apool(embedding, texts, **keywords)

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None = None,
        top_n: int | None = None,
        truncate: int | None = None,
        namespace: str = "",
    ) -> list[Ranked]:
        """Return the documents with how well each meets the query, 0 .. 1, the best first.

        The score is the probability of "yes" against "no" under the prompt of Qwen3-Reranker's
        card; nothing is drawn. instruction: what meeting the query means, in a sentence; default:
        the card's, for a web search. top_n: the best so many. truncate: as in `embed`, of a whole
        prompt, at the end of its document.

        Any checkpoint that answers can; those of Qwen3-Reranker were trained for it.
        """
        pooled = reranking(
            self.texts,
            self._engine.capacity,
            query,
            documents,
            instruction=instruction,
            top_n=top_n,
            truncate=truncate,
            namespace=namespace,
        )
        return pooled.read(gathered(pooled.requests, self._engine))

    async def arerank(self, query: str, documents: Sequence[str], **keywords: Any) -> list[Ranked]:
        """Return documents as `rerank` does; cancelling the task cancels what is left."""
        return await self._apool(reranking, query, documents, **keywords)

    async def _apool(self, prepare: Callable[..., Pooled[T]], *asked: Any, **keywords: Any) -> T:
        from asyncio import to_thread  # see AsyncStream

        capacity = self._engine.capacity
        pooled = await to_thread(prepare, self.texts, capacity, *asked, **keywords)
        return pooled.read(await AsyncGathering(pooled.requests, self._engine).all())

    # -- the rest ------------------------------------------------------------------------------

    @property
    def stats(self) -> Stats:
        """The engine's counters."""
        return self._engine.stats

    @property
    def name(self) -> str:
        """What replies call the model."""
        return self.texts.name

    @property
    def context(self) -> int:
        """Tokens of one sequence, prompt and answer together."""
        return self._engine.capacity.context

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""
        return self.texts.tokenizer

    @property
    def defaults(self) -> Defaults:
        """What holds when a caller says nothing."""
        return self.texts.defaults

    @property
    def engine(self) -> EngineClient:
        """What computes the answers."""
        return self._engine

    def close(self, *, cancel: bool = True) -> None:
        """Cancel what runs (or let it finish), stop the engine, give back weights and cache.

        Whoever waits gets RequestCancelled; who asks afterwards, EngineError. `stats` and what
        needs only the texts (`render`, `render_ids`, `tokenizer`) stay usable.
        """
        check_switch("cancel", cancel)
        self._engine.close(cancel=cancel)

    def __enter__(self) -> Qwen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chat(
        self, messages: Messages, tools: Tools | None, keywords: Mapping[str, Any]
    ) -> tuple[Assembler, Submit]:
        return self._ask(self.texts.chat(messages, tools, keywords, context=self.context))

    def _raw(self, prompt: RawPrompt, keywords: Mapping[str, Any]) -> tuple[Assembler, Submit]:
        return self._ask(self.texts.raw(prompt, keywords, context=self.context))

    def _ask(self, asked: Asked) -> tuple[Assembler, Submit]:
        def submit(deliver: Deliver) -> Ticket:
            return self._engine.submit(asked.request, deliver)

        return asked.assembler(), submit

    def astream_asked(self, asked: Asked) -> AsyncStream:
        """Answer what `texts.chat` or `texts.raw` made a request of, as `astream` answers."""

        async def prepared() -> tuple[Assembler, Submit]:
            return self._ask(asked)

        return AsyncStream(prepared)


def _in_thread(
    prepare: Callable[..., tuple[Assembler, Submit]], *arguments: Any
) -> Awaitable[tuple[Assembler, Submit]]:
    from asyncio import to_thread  # see AsyncStream

    return to_thread(prepare, *arguments)


def _scores_of(requests: Sequence[Request], engine: EngineClient) -> list[Scores]:
    found = [event.scores for event in gathered(requests, engine)]
    return [scores for scores in found if scores is not None]


def _many(things: Any) -> Sequence[Any]:
    if isinstance(things, (str, bytes)) or not isinstance(things, Sequence):
        raise ParameterError(
            f"a batch is of type {type(things).__name__}; allowed: a list of prompts"
        )
    return things
