"""What holds when the caller says nothing: the checkpoint's word first, then its family's.

Knows the keys of a generation_config.json and the table of families; no engine, no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qwick.engine.request import Sampling
from qwick.errors import ConfigError, ContextLengthError, ParameterError, shown
from qwick.family import Family, SamplingDefaults

# The keys of transformers' GenerationConfig (5.18, configuration_utils.py), each in one of three
# tables. A key in none of them means nothing to transformers either.
_SAMPLED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_PENALTIES = ("presence_penalty", "frequency_penalty")  # keys of other engines in such files
READ = frozenset(
    (
        *_SAMPLED,
        *_PENALTIES,
        "do_sample",
        "max_new_tokens",
        "max_length",
        "stop_strings",
        "eos_token_id",
    )
)
# Changes what is generated and is not implemented: refused, but for the values that do nothing.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "typical_p": (1, None),
    "epsilon_cutoff": (0, None),
    "eta_cutoff": (0, None),
    "top_h": (None,),
    "penalty_alpha": (None, 0),
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "num_return_sequences": (1, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1, None),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
    "max_time": (None,),
    "bad_words_ids": (None, []),
    "force_words_ids": (None, []),
    "constraints": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, {}, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1),
    "watermarking_config": (None,),
    "dola_layers": (None,),
    "token_healing": (None, False),
}
# About how it is computed (caches, drafts, beams, which are refused above) and what is returned.
INERT = frozenset(
    [
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
        *("compile_config", "disable_compile", "continuous_batching_config", "prefill_chunk_size"),
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "use_mtp"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight"),
        *("assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens"),
        *("max_matching_ngram_size", "speculation_type"),
        *("length_penalty", "early_stopping", "diversity_penalty"),  # of beams
        *("renormalize_logits", "remove_invalid_values"),
        *("output_attentions", "output_hidden_states", "output_logits", "output_scores"),
        *("return_dict_in_generate", "bos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("transformers_version", "_from_model_config"),
    ]
)


@dataclass(frozen=True)
class Defaults:
    """A checkpoint's answers to what the caller leaves open."""

    family: Family
    generation: Mapping[str, Any]  # of generation_config.json, or empty
    stop_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a generation config that asks for what is not implemented."""
        for key, neutral in NEUTRAL.items():
            if self.generation.get(key) not in neutral:
                raise ConfigError(
                    f"generation_config.json says {key}={shown(self.generation[key])}, which is "
                    f"not implemented",
                    hint=f"remove {key} from it",
                )
        for key in ("max_new_tokens", "max_length"):
            longest = self.generation.get(key)
            if longest is not None and (type(longest) is not int or longest < 1):
                raise _refused(key, longest, "1 or more")
        try:
            self.sampling({}, thinking=False, prompt=0, room=1)
        except ParameterError as error:
            raise ConfigError(f"generation_config.json: {error.message}", hint=error.hint) from None

    def sampling(
        self,
        said: Mapping[str, Any],
        *,
        thinking: bool,
        prompt: int,
        room: int,
        extra_stop_ids: Iterable[int] = (),
    ) -> Sampling:
        """Return the sampling in force: what was `said`, then the checkpoint's, then the family's.

        said: fields of Sampling; a field that is None counts as not said. With ignore_eos the only
        stop ids are those that were said. prompt: its tokens. room:
        tokens that the context has left, to which the checkpoint's own lengths are cut (a caller's
        max_tokens never is). As in transformers its max_length counts the prompt, and holds only
        where it has no max_new_tokens.

        Raises ParameterError, and ContextLengthError for a prompt that fills max_length.
        """
        family = self.family.thinking_sampling if thinking else None
        values = self._of_checkpoint(family or self.family.sampling)
        if said.get("ignore_eos") is not True:
            values["stop_ids"] = tuple(dict.fromkeys((*self.stop_ids, *extra_stop_ids)))
        values["stop"] = self._stop_strings()
        values.update({name: value for name, value in said.items() if value is not None})
        longest = self._longest(prompt) if values.get("max_tokens") is None else None
        if longest is not None:
            values["max_tokens"] = min(longest, max(room, 1))
        return Sampling(**values)

    def _longest(self, prompt: int) -> int | None:
        """Return how many tokens the checkpoint allows an answer, None if it does not say."""
        longest: int | None = self.generation.get("max_new_tokens")
        whole: int | None = self.generation.get("max_length")
        if longest is not None or whole is None:
            return longest
        if prompt >= whole:
            raise ContextLengthError(
                f"the prompt has {prompt} tokens; the checkpoint's generation_config.json says "
                f"max_length={whole}, the answer included",
                hint="set max_tokens, which overrules it, or shorten the prompt",
            )
        return whole - prompt

    def _stop_strings(self) -> tuple[str, ...]:
        value = self.generation.get("stop_strings")
        found = [value] if isinstance(value, str) else [] if value is None else value
        if not (isinstance(found, list) and all(isinstance(text, str) for text in found)):
            raise _refused("stop_strings", value, "a string or a list of strings")
        return tuple(found)

    def _of_checkpoint(self, family: SamplingDefaults) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name in _SAMPLED:
            value = self.generation.get(name)
            values[name] = getattr(family, name) if value is None else value
        for name in _PENALTIES:
            if self.generation.get(name) is not None:
                values[name] = self.generation[name]
        if self.generation.get("do_sample") is False:
            values["temperature"] = 0.0
        return values


def stop_ids_of(generation: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids that generation_config.json names as ends: one, a list, or none."""
    value = generation.get("eos_token_id")
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(id) is int and id >= 0 for id in found):
        raise _refused("eos_token_id", value, "an id or a list of ids")
    return tuple(found)


def _refused(key: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"generation_config.json says {key}={shown(value)}; allowed: {allowed}")
