"""What the engine is asked (Request, Sampling) and what it answers (Tokens, Progress, Finished).

Everything here is plain data that could cross a process border. It checks each value on its own;
what depends on a model (ids below n_vocab, the context) is checked by `Capacity`. It
knows no text: ids in, ids out.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qwick.errors import ParameterError, QwickError, shown
from qwick.values import check_switch, real, whole

Kind = Literal["generate", "score", "embed", "classify"]

MAX_ID = 2**31 - 1  # ids travel as int32; a vocabulary is far smaller
MAX_IDS = 1 << 24  # sixteen times the longest context of the family
MAX_STOP_IDS = 64  # each is a set lookup per token; more is a mistake or an attack
MAX_STOP_STRINGS = 32  # each is searched for in every piece of text
MAX_STOP_CHARS = 256  # so much text of a stream may be held back
MAX_NAMESPACE = 256  # characters; a name, not a text
MAX_LOGPROBS = 20  # as in the OpenAI API (top_logprobs)
MAX_LABELS = 1024  # each is one number of a row that is computed whole
MAX_LOGIT_BIAS = 1024  # entries, as in vLLM's server; each is one addition per token
MAX_TEMPERATURE = 100.0
SEED_BITS = 64  # the Philox key's first word


class FinishReason(enum.Enum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    REPETITION = "repetition"
    CANCELLED = "cancelled"
    ERROR = "error"


def _items(name: str, values: Any, most: int, allowed: str) -> tuple[Any, ...]:
    """Return the items of a list, a set or an array, unless there are too many to look at."""
    listed = isinstance(values, (Sequence, Set)) and not isinstance(values, (str, bytes))
    if isinstance(values, np.ndarray):
        listed = values.ndim == 1
    if not listed:
        raise ParameterError(f"{name} is {shown(values)}; allowed: {allowed}")
    try:
        length = len(values)
    except OverflowError:  # range(2**70)
        length = sys.maxsize
    if length > most:
        raise ParameterError(f"{name} holds {length} items; allowed: {allowed}")
    return tuple(values)


def _ids(name: str, values: object, most: int) -> tuple[int, ...]:
    """Return `values` as a tuple of Python ints >= 0; raises ParameterError otherwise."""
    ids = _items(name, values, most, f"a list of at most {most} token ids")
    quick = all(type(i) is int for i in ids) and (not ids or (min(ids) >= 0 and max(ids) <= MAX_ID))
    if quick:  # the way through a long prompt
        return ids
    return tuple(whole(f"an id in {name}", i, 0, MAX_ID, "whole numbers from 0") for i in ids)


def _strings(values: object) -> tuple[str, ...]:
    allowed = f"up to {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_CHARS} characters"
    if isinstance(values, str):
        values = (values,)
    strings = _items("stop", values, MAX_STOP_STRINGS, allowed)
    for text in strings:
        if not isinstance(text, str) or not text:
            raise ParameterError(f"a string in stop is {shown(text)}; allowed: {allowed}")
        if len(text) > MAX_STOP_CHARS:
            raise ParameterError(f"a string in stop has {len(text)} characters; allowed: {allowed}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ParameterError(
                f"a string in stop is {shown(text)}, with half a UTF-16 pair; allowed: {allowed}"
            )
    return strings


def _biases(values: object) -> tuple[tuple[int, float], ...]:
    """Return a mapping or pairs as pairs of an id and a finite float, by ascending id."""
    allowed = f"a mapping of at most {MAX_LOGIT_BIAS} token ids to numbers from -100 to 100"
    pairs = tuple(values.items()) if isinstance(values, Mapping) else values
    found: dict[int, float] = {}
    for pair in _items("logit_bias", pairs, MAX_LOGIT_BIAS, allowed):
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise ParameterError(f"an entry of logit_bias is {shown(pair)}; allowed: {allowed}")
        id = whole("an id in logit_bias", pair[0], 0, MAX_ID, "whole numbers from 0")
        if id in found:
            raise ParameterError(f"logit_bias has id {id} twice; allowed: each id once")
        found[id] = real(f"logit_bias of id {id}", pair[1], -100.0, 100.0, "-100 to 100")
    return tuple(sorted(found.items()))


def check_namespace(value: object) -> None:
    """Raise ParameterError unless `value` can be a Request's namespace."""
    allowed = f"a string of at most {MAX_NAMESPACE} characters"
    if not isinstance(value, str) or len(value) > MAX_NAMESPACE:
        raise ParameterError(f"namespace is {shown(value)}; allowed: {allowed}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ParameterError(
            f"namespace is {shown(value)}, with half a UTF-16 pair; allowed: {allowed}"
        )


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn and when the answer ends.

    `history.py` gives the formulas of what changes logits, `sampler.py` those of drawing.

    temperature         0 = greedy (the filters and the seed then have no effect) .. 100
    top_k               keep the k largest logits and those equal to the k-th; 0 = off
    top_p               keep the fewest most probable tokens that reach this mass; 1 = off
    min_p               keep what is at least min_p times as probable as the best; 0 = off
    repetition_penalty  > 0; 1 = off; applied to every id of the prompt and the answer, once
    presence_penalty    -2 .. 2; subtracted from the logit of every id of the answer; 0 = off
    frequency_penalty   -2 .. 2; the same, times how often the id came; 0 = off
    logit_bias          ids and what is added to their logits, -100 (never) .. 100 (always)
    seed                0 .. 2**64 - 1; None: drawn from the operating system and reported
    max_tokens          >= 1; None: as many as the context has room for
    min_tokens          before so many tokens no stop id is drawn, and no text ends the answer
    stop_ids            ids that end the answer; the id itself is not part of it; at most 64
    ignore_eos          do not fill in the checkpoint's own stop_ids (`llm/defaults.py`, which
                        does, honours it; a request has all of its stop_ids by then)
    stop                strings that end the answer (needs a steer factory); at most 32
    loop_detection      end an answer that only repeats itself (`loops.py`) as "repetition"
    logprobs            None = none; n = of each chosen token and of the n (0 .. 20) most probable

    Raises ParameterError naming the field, the value and the range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    loop_detection: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Check every field and store its plain Python form."""
        reals: tuple[tuple[str, float, float, str], ...] = (
            ("temperature", 0.0, MAX_TEMPERATURE, f"0 (greedy) to {MAX_TEMPERATURE:g}"),
            ("top_p", math.ulp(0.0), 1.0, "above 0, up to 1 (off)"),
            ("min_p", 0.0, 1.0, "0 (off) to 1"),
            ("repetition_penalty", 1e-2, 1e2, "0.01 to 100 (1 is off)"),
            ("presence_penalty", -2.0, 2.0, "-2 to 2 (0 is off)"),
            ("frequency_penalty", -2.0, 2.0, "-2 to 2 (0 is off)"),
        )
        for name, low, high, allowed in reals:
            self._set(name, real(name, getattr(self, name), low, high, allowed))
        wholes: tuple[tuple[str, int, int, str], ...] = (
            ("top_k", 0, 2**31 - 1, "whole numbers from 0 (off)"),
            ("seed", 0, 2**SEED_BITS - 1, f"whole numbers from 0 to 2**{SEED_BITS} - 1, or none"),
            ("max_tokens", 1, 2**31 - 1, "whole numbers from 1, or none"),
            ("min_tokens", 0, 2**31 - 1, "whole numbers from 0"),
            ("logprobs", 0, MAX_LOGPROBS, f"whole numbers from 0 to {MAX_LOGPROBS}, or none"),
        )
        for name, least, most, allowed in wholes:
            value = getattr(self, name)
            if value is not None or name in ("top_k", "min_tokens"):
                self._set(name, whole(name, value, least, most, allowed))
        self._set("stop_ids", _ids("stop_ids", self.stop_ids, MAX_STOP_IDS))
        self._set("stop", _strings(self.stop))
        self._set("logit_bias", _biases(self.logit_bias))
        check_switch("ignore_eos", self.ignore_eos)
        check_switch("loop_detection", self.loop_detection)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParameterError(
                f"min_tokens is {self.min_tokens} and max_tokens {self.max_tokens}; "
                "allowed: min_tokens up to max_tokens"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0.0


@dataclass(frozen=True)
class Request:
    """One wish about `ids`; the kind says which.

    "generate"  continue them, by `sampling`, which the others leave aside
    "score"     tell how probable each of them was: `Finished.scores`
    "embed"     give the final state of the last of them: `Finished.state`
    "classify"  give the logits of `labels`, ids that may follow: `Finished.label_logits`

    namespace: keys and values that were computed for a request are used again for others of the
    same namespace only, so a server gives each tenant its own. guide: what else acts on sampling (a
    grammar, a budget), as plain data for the engine's steer factory; the engine does not look into
    it. progress: deliver `Progress` after each part of a prompt that takes several steps.
    prompt_logprobs: None = none; n = tell of each id of the prompt but the first, and of the n
    (0 .. 20) most probable in its place, before the first token; all of the prompt is computed
    then. Raises ParameterError.
    """

    ids: Sequence[int]
    kind: Kind = "generate"
    sampling: Sampling = Sampling()
    namespace: str = ""
    guide: object = None
    progress: bool = False
    prompt_logprobs: int | None = None
    labels: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        if not isinstance(self.kind, str) or self.kind not in get_args(Kind):
            raise ParameterError(
                f"kind is {shown(self.kind)}; allowed: {' or '.join(map(repr, get_args(Kind)))}"
            )
        if not isinstance(self.sampling, Sampling):
            raise ParameterError(f"sampling is {shown(self.sampling)}; allowed: a Sampling")
        check_namespace(self.namespace)
        check_switch("progress", self.progress)
        if self.prompt_logprobs is not None:
            allowed = f"whole numbers from 0 to {MAX_LOGPROBS}, or none"
            most = whole("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS, allowed)
            object.__setattr__(self, "prompt_logprobs", most)
        if self.kind != "generate" and self.guide is not None:
            raise ParameterError(
                f"a request of the kind {self.kind!r} draws nothing; allowed: a guide of None"
            )
        if self.kind != "generate" and self.prompt_logprobs is not None:
            raise ParameterError(
                f"prompt_logprobs go with an answer, and the kind is {self.kind!r}; allowed: None"
            )
        labels = _ids("labels", self.labels, MAX_LABELS)
        object.__setattr__(self, "labels", labels)
        if (self.kind == "classify") is not bool(labels):
            raise ParameterError(
                f"labels holds {len(labels)} ids, and the kind is {self.kind!r}; "
                "allowed: ids for 'classify', none for any other kind"
            )
        ids = _ids("ids", self.ids, MAX_IDS)
        object.__setattr__(self, "ids", ids)
        if not ids:
            raise ParameterError("the prompt is empty (0 tokens); allowed: 1 token or more")
        if self.kind == "score" and len(ids) < 2:
            raise ParameterError(
                "a score needs at least 2 tokens (the first has no predecessor); this text has 1; "
                "allowed: 2 or more"
            )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log probabilities under the model itself: before bias, penalties and filters."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # (id, logprob), most probable first


@dataclass(frozen=True, slots=True)
class Scores:
    """Of a score request with n ids: entry i tells about ids[i + 1] given ids[: i + 1]."""

    logprobs: NDArray[np.float64]  # [n - 1] natural log probabilities
    best: NDArray[np.int32]  # [n - 1] the most probable id there, ids[i + 1] or another


def perplexity_of(*logprobs: NDArray[np.float64]) -> float:
    """Return exp of the mean negative log probability: infinite where no float is as large."""
    with np.errstate(over="ignore"):
        return float(np.exp(-np.concatenate(logprobs).mean()))


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of one request, 0 for a phase that was not reached; and what was done twice or ahead.

    Of `drafted` ids that were guessed and computed, `accepted` were what came: tokens that took no
    step of their own.
    """

    queue: float  # from submission to the first step that computed something for it
    prefill: float  # from then to the first token (score: to the end)
    decode: float  # from the first token to the end
    preemptions: int = 0  # times its pages were taken and computed again later
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids that were just generated, in order; usually one.

    prompt_logprobs: entry i tells about id i + 1 of the prompt; with the first Tokens of a request
    that asked for them, which may have no ids.
    """

    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob | None, ...] | None = None  # None for an id that a steer forced
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a prompt is in the cache, of which `cached` tokens were when it started."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a request; exactly one comes for every request that was accepted.

    `completion_tokens` counts every token that was drawn or forced, the stop id included, though
    the stop id is never in `Tokens`: its log probability, if wanted, is here. `cached_tokens`
    counts the prompt's tokens whose keys and values were in the cache when it started, so that they
    were not computed.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    timings: Timings
    seed: int | None = None  # the seed in use; None for greedy without a seed and without sampling
    stop_id: int | None = None
    stop_logprob: TokenLogprob | None = None
    error: QwickError | None = None  # set when reason is ERROR
    scores: Scores | None = None
    cached_tokens: int = 0
    state: NDArray[np.float32] | None = None  # [hidden] final-normed, of the last id
    label_logits: NDArray[np.float32] | None = None  # one for each label


Event = Tokens | Progress | Finished
Deliver = Callable[[Event], None]
