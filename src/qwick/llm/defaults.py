"""What holds when the caller says nothing: the checkpoint's word first, then its family's.

Knows the keys of a generation_config.json and the table of families; no engine, no text.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qwick.engine.request import Sampling
from qwick.errors import ConfigError, ParameterError
from qwick.family import Family, SamplingDefaults

FIELDS = tuple(field.name for field in dataclasses.fields(Sampling))

_READ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
# Keys of transformers' GenerationConfig that change what is generated and are not implemented, with
# the values under which they do nothing.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "typical_p": (1, None),
    "epsilon_cutoff": (0, None),
    "eta_cutoff": (0, None),
    "top_h": (None,),
    "penalty_alpha": (None, 0),
    "num_beams": (1, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1, None),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, {}, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1),
    "watermarking_config": (None,),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
}


@dataclass(frozen=True)
class Defaults:
    """A checkpoint's answers to what the caller leaves open."""

    family: Family
    generation: Mapping[str, Any]  # of generation_config.json, or empty
    stop_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a generation config that asks for what is not implemented."""
        for key, neutral in _NEUTRAL.items():
            if self.generation.get(key) not in neutral:
                raise ConfigError(
                    f"generation_config.json says {key}={self.generation[key]!r}, which is not "
                    f"implemented",
                    hint=f"remove {key} from it",
                )
        longest = self.generation.get("max_new_tokens")
        if longest is not None and (type(longest) is not int or longest < 1):
            raise ConfigError(
                f"generation_config.json says max_new_tokens={longest!r}; allowed: 1 or more"
            )
        try:
            self.sampling({}, thinking=False, room=1)
        except ParameterError as error:
            raise ConfigError(f"generation_config.json: {error.message}", hint=error.hint) from None

    def sampling(
        self,
        said: Mapping[str, Any],
        *,
        thinking: bool,
        room: int,
        extra_stop_ids: Iterable[int] = (),
    ) -> Sampling:
        """Return the sampling in force: what was `said`, then the checkpoint's, then the family's.

        said: fields of Sampling; a field that is None counts as not said. room: tokens that the
        context has left, to which the checkpoint's own max_new_tokens is cut (a caller's
        max_tokens never is). Raises ParameterError.
        """
        family = self.family.thinking_sampling if thinking else None
        values = self._of_checkpoint(family or self.family.sampling)
        longest = self.generation.get("max_new_tokens")
        if longest is not None:
            values["max_tokens"] = min(longest, max(room, 1))
        values["stop_ids"] = tuple(dict.fromkeys((*self.stop_ids, *extra_stop_ids)))
        values.update({name: value for name, value in said.items() if value is not None})
        return Sampling(**values)

    def _of_checkpoint(self, family: SamplingDefaults) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name in _READ:
            value = self.generation.get(name)
            values[name] = getattr(family, name) if value is None else value
        if self.generation.get("do_sample") is False:
            values["temperature"] = 0.0
        return values


def stop_ids_of(generation: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids that generation_config.json names as ends: one, a list, or none."""
    value = generation.get("eos_token_id")
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(id) is int and id >= 0 for id in found):
        raise ConfigError(
            f"generation_config.json says eos_token_id={value!r}; allowed: an id or a list of ids"
        )
    return tuple(found)


def split_keywords(
    given: Mapping[str, Any], template_variables: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (sampling, template variables); ParameterError for a keyword that is neither."""
    variables = set(template_variables)
    sampling = {name: value for name, value in given.items() if name in FIELDS}
    others = {name: value for name, value in given.items() if name not in FIELDS}
    for name in others:
        if name not in variables:
            known = [*FIELDS, *sorted(variables)]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise ParameterError(f"there is no parameter {name!r}", hint=hint)
    return sampling, others
