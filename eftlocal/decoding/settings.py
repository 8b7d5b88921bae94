"""What a user turns for one answer: the strength of the rewards, the sampling, the limits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypedDict, Unpack

from eftlocal.arithmetic.sample import Sampling
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.errors import SettingError

__all__ = ["Dials", "Settings"]


class Dials(TypedDict, total=False):
    """Keyword arguments of every call that generates: `Settings` and `Sampling` by their fields' names."""

    beta: float
    mix: Mapping[str, float]
    reward_top_p: float | None
    alone: str | None
    max_tokens: int
    seed: int | None
    draft: int | Literal["auto"]
    stop: Sequence[str]
    constraint: Constraint | None
    logprobs: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    repeat_last_n: int
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]


MAX_DRAFT = 32
MAX_LOGPROBS = 1000  # alternatives at each token

_SAMPLING = frozenset(f.name for f in fields(Sampling))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One answer's settings; a value out of its range raises SettingError.

    beta          multiplies every reward: 0 is the base alone, 1 the emulator as configured
    mix           reward name -> its strength, in place of the configured one
    reward_top_p  keep rewards on the tuned model's top-p nucleus, 0 elsewhere; None is off
    alone         the role (base, tuned, ...) that answers by itself, for a comparison; None is the emulator
    max_tokens    an answer's length at most; its finish reason is then "length"
    seed          None draws one; the reply says which
    draft         tokens that a small member guesses at a time, for the large one to check at once: faster where
                  guesses are mostly right, and the same distribution of answers. "auto" measures what pays, where a
                  member is small enough for it; 0 is off. A seed's sampled text is the same for all lengths and another
                  without drafts; whether auto drafts depends on the models' files, and not on what was measured
    stop          strings that end the answer, beside those of the views
    constraint    what the answer has to be: JSON, a grammar, a regex, a choice; None is any text. It ends the answer,
                  so the views' stop strings do not
    logprobs      tell each token's log-probabilities, and that many alternatives; None is off
    """

    beta: float = 1.0
    mix: Mapping[str, float] = field(default_factory=dict)
    reward_top_p: float | None = None
    alone: str | None = None
    max_tokens: int = 1024
    seed: int | None = None
    draft: int | Literal["auto"] = "auto"
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    logprobs: int | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        for name, value in {"beta": self.beta, **{f"mix of {k}": v for k, v in self.mix.items()}}.items():
            if not math.isfinite(value):
                raise SettingError(f"{name} is {value}; it must be a finite number.")
        if self.reward_top_p is not None and not 0 < self.reward_top_p <= 1:
            raise SettingError(f"reward_top_p is {self.reward_top_p}; it must be above 0 and at most 1.")
        if self.max_tokens < 1:
            raise SettingError(f"max_tokens is {self.max_tokens}; it must be at least 1.")
        if self.seed is not None and self.seed < 0:
            raise SettingError(f"seed is {self.seed}; it must be 0 or above.")
        if self.draft != "auto" and not (isinstance(self.draft, int) and 0 <= self.draft <= MAX_DRAFT):
            raise SettingError(f"draft is {self.draft!r}; it must be auto, or a whole number from 0 to {MAX_DRAFT}.")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise SettingError(f"logprobs is {self.logprobs}; it must be from 0 to {MAX_LOGPROBS}.")
        if "" in self.stop:
            raise SettingError("A stop string is empty; it must have at least one character.")

    def turned(self, **dials: Unpack[Dials]) -> "Settings":
        """These settings with some of them changed. Raises SettingError for a name that is none of them."""
        unknown = set(dials) - _SAMPLING - {f.name for f in fields(Settings)}
        if unknown:
            raise SettingError(f"There is no setting named {', '.join(sorted(unknown))}.")
        sampling = {name: value for name, value in dials.items() if name in _SAMPLING}
        own = {name: value for name, value in dials.items() if name not in _SAMPLING}
        if "stop" in dials:
            own["stop"] = tuple(dials["stop"])
        return replace(self, sampling=replace(self.sampling, **sampling), **own)  # type: ignore[arg-type]  # by name
