"""The settings of one answer: the strength of the rewards, sampling, limits, drafts and constraint."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Literal, TypedDict, TypeGuard, Unpack, cast

from eftlocal.arithmetic.sample import Sampling
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.errors import SettingError

__all__ = ["Dials", "Settings"]


class Dials(TypedDict, total=False):
    """Keyword arguments of every call that generates: the fields of `Settings` and of `Sampling`, by name."""

    beta: float
    mix: Mapping[str, float]
    reward_top_p: float | None
    alone: str | None
    max_tokens: int
    seed: int | None
    draft: int | Literal["auto"]
    stop: str | Sequence[str]
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
    """The settings of one answer. A value out of its range raises SettingError.

    beta          multiplies every reward; 0 is the base without rewards, 1 is the emulator as configured
    mix           reward name -> strength, instead of the configured strength
    reward_top_p  apply a reward only to the tuned model's top-p nucleus; None is off
    alone         the role (base, tuned, ...) that answers by itself, for a comparison; None is the emulator
    max_tokens    the most tokens an answer may have; if it is cut there, its finish reason is "length"
    seed          seed of the random numbers; None draws one, and the reply names it
    draft         speculative decoding: how many tokens the draft model (a small member) guesses at a time. All members
                  check the guesses in one decode. Answers keep their distribution; they come faster if most guesses are
                  right. 0 is off. "auto" measures which length is fastest, if a member is small enough to guess. A seed
                  gives the same text for every value, but for places where llama.cpp's rounding turns a near tie
    stop          strings that end the answer, in addition to those of the views
    constraint    restricts the text: JSON, a grammar, a regex or a choice; None allows any text. A constraint ends the
                  answer itself, so the stop strings of the views do not count
    logprobs      report log-probabilities of each token and of this many alternatives; None is off
    sampling      how tokens are drawn
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
        for name, value in {"beta": self.beta, **{f"mix of {k}": v for k, v in _mapping(self.mix).items()}}.items():
            if not (_is_number(value) and math.isfinite(value)):
                raise SettingError(f"{name} is {value!r}; it must be a finite number.")
        if self.reward_top_p is not None and not (_is_number(self.reward_top_p) and 0 < self.reward_top_p <= 1):
            raise SettingError(f"reward_top_p is {self.reward_top_p!r}; it must be above 0 and at most 1.")
        if not (_is_whole(self.max_tokens) and self.max_tokens >= 1):
            raise SettingError(f"max_tokens is {self.max_tokens!r}; it must be a whole number, at least 1.")
        if self.seed is not None and not (_is_whole(self.seed) and self.seed >= 0):
            raise SettingError(f"seed is {self.seed!r}; it must be a whole number, 0 or above.")
        if self.draft != "auto" and not (_is_whole(self.draft) and 0 <= self.draft <= MAX_DRAFT):
            raise SettingError(f"draft is {self.draft!r}; it must be auto, or a whole number from 0 to {MAX_DRAFT}.")
        if self.logprobs is not None and not (_is_whole(self.logprobs) and 0 <= self.logprobs <= MAX_LOGPROBS):
            raise SettingError(f"logprobs is {self.logprobs!r}; it must be a whole number from 0 to {MAX_LOGPROBS}.")
        if self.constraint is not None and not isinstance(self.constraint, Constraint):
            raise SettingError(f"constraint is {self.constraint!r}; it must be a Constraint.")
        for stop in self.stop:
            if not isinstance(stop, str):
                raise SettingError(f"A stop string is {stop!r}; it must be a text.")
        if "" in self.stop:
            raise SettingError("A stop string is empty; it must have at least one character.")

    def turned(self, **dials: Unpack[Dials]) -> "Settings":
        """A copy with these settings changed. Raises SettingError for an unknown name and for a value out of range."""
        unknown = set(dials) - _SAMPLING - {f.name for f in fields(Settings)}
        if unknown:
            raise SettingError(f"There is no setting named {', '.join(sorted(unknown))}.")
        sampling = {name: value for name, value in dials.items() if name in _SAMPLING}
        own = {name: value for name, value in dials.items() if name not in _SAMPLING}
        if "stop" in dials:
            own["stop"] = _texts(dials["stop"])
        return replace(self, sampling=replace(self.sampling, **sampling), **own)  # type: ignore[arg-type]  # by name

    def dials(self) -> Dials:
        """These settings as keyword arguments: `Settings().turned(**settings.dials())` equals `settings`."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sampling"}
        sampling = {f.name: getattr(self.sampling, f.name) for f in fields(self.sampling)}
        return cast(Dials, own | sampling)


def _texts(stop: object) -> tuple[str, ...]:
    """Stop strings: one text, or several."""
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, Iterable):
        raise SettingError(f"stop is {stop!r}; it must be a text, or a list of texts.")
    return tuple(stop)


def _mapping(mix: object) -> Mapping[str, object]:
    if not isinstance(mix, Mapping):
        raise SettingError(f"mix is {mix!r}; it must map names of rewards to numbers.")
    return mix


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)
