"""What an engine can hold, as numbers, and whether a request fits into them.

Plain data, so that whoever submits can be told at once, also where the engine is in another
process. Knows no requests under way.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwick.engine.request import Request
from qwick.errors import (
    ContextLengthError,
    ParameterError,
    ResourceError,
    UnsupportedError,
    shown,
)
from qwick.model.positions import Rotations


@dataclass(frozen=True, slots=True)
class Capacity:
    """Ids of the vocabulary, positions of one sequence and of the whole cache; steers or none.

    rotations: which one a request gets, by its length; those of one of them end where it does.
    hidden: numbers of a state. head: whether there are logits, without which it only embeds.
    """

    n_vocab: int
    context: int
    cache_tokens: int
    steers: bool
    rotations: Rotations
    hidden: int
    head: bool = True

    def check(self, request: Request) -> int:
        """Return the most ids (prompt and answer) this request may reach.

        Without max_tokens that is the context (or the cache, if smaller; or as far as the rotation
        goes that the prompt needs), and the answer ends there with "length". A max_tokens that was
        given is a promise: prompt and max_tokens must fit together or ContextLengthError says by
        how much they do not. Raises also ParameterError for ids outside the vocabulary,
        ResourceError for what the whole cache could not hold, and UnsupportedError for stop strings
        or a guide without a steer factory, and for anything but embeddings without a head.
        """
        context, prompt, sampling = self.context, len(request.ids), request.sampling
        if not self.head and request.kind != "embed":
            raise UnsupportedError(
                "this checkpoint has no head: it makes embeddings, and neither answers nor scores",
                hint="use Qwen.embed or /v1/embeddings; or load another checkpoint",
            )
        self._check_ids(request)
        if sampling.stop and not self.steers:
            raise UnsupportedError("stop strings need a tokenizer, and this engine was given none")
        if request.guide is not None and not self.steers:
            raise UnsupportedError("a guide needs a tokenizer, and this engine was given none")
        answering = request.kind == "generate"
        least = prompt + 1 if answering else prompt
        if least > context:
            raise ContextLengthError(
                f"the prompt has {prompt} tokens; the context holds {context}"
                + (", the answer included" if answering else ""),
                hint="shorten the prompt, or load the model with a larger context (--ctx)",
                prompt_tokens=prompt,
                context=context,
            )
        wanted = least
        if answering:
            wanted = prompt + (sampling.max_tokens or sampling.min_tokens or 1)
            if wanted > context:
                name = "max_tokens" if sampling.max_tokens else "min_tokens"
                raise ContextLengthError(
                    f"the prompt has {prompt} tokens and {name} is {wanted - prompt}: "
                    f"{wanted} in all; the context holds {context}",
                    hint=f"set {name} to {context - prompt} or less, or leave it out",
                    prompt_tokens=prompt,
                    context=context,
                )
        # The last token is not computed on, so it needs no place in the cache; unless it is what
        # counts.
        positions = wanted if request.kind in ("embed", "classify") else wanted - 1
        if positions > self.cache_tokens:
            raise ResourceError(
                f"the request needs {positions} positions; the whole cache holds "
                f"{self.cache_tokens}",
                hint="shorten the prompt or max_tokens, or load the model with a larger cache",
            )
        if not answering or sampling.max_tokens is not None:
            return wanted
        rotation = self.rotations.of(prompt, wanted)
        return min(self.rotations.reach(rotation), self.cache_tokens + 1)

    def rotation(self, request: Request, limit: int) -> int:
        """Return the rotation for a request that may reach `limit` ids, as `check` says."""
        return self.rotations.of(len(request.ids), limit)

    def _check_ids(self, request: Request) -> None:
        sampling = request.sampling
        named = (
            ("the prompt", request.ids),
            ("labels", request.labels),
            ("stop_ids", sampling.stop_ids),
            ("logit_bias", [id for id, _ in sampling.logit_bias]),
        )
        for name, ids in named:
            if ids and max(ids) >= self.n_vocab:
                raise ParameterError(
                    f"an id in {name} is {shown(max(ids))}; allowed: 0 to {self.n_vocab - 1}"
                )
