"""Sampling: turns one row of logits into the distribution from which the next token is drawn.

The chain and its order are llama.cpp's default (`common_params_sampling::samplers` in common/common.h; the stages in
src/llama-sampler.cpp). Missing are three stages that are off by default there: DRY, top-n-sigma and XTC.

    logit bias -> penalties -> top-k -> typical-p -> top-p -> min-p -> temperature

Each stage sees the softmax of the tokens that the stage before it left. Temperature comes last, so it never changes
which tokens survive. When equal logits meet the border of a stage, the lowest ids stay (llama.cpp leaves that to its
sort).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Ids
from eftlocal.arithmetic.distribution import Distribution
from eftlocal.arithmetic.nucleus import largest, masses, nucleus, sum_of
from eftlocal.errors import DecodeError, SettingError

__all__ = ["Sampling", "added", "warp"]

Floats = NDArray[np.floating[Any]]

SLOTS = 1024  # equal ranges of keys, among which `_fewest` looks for its border
CERTAIN = np.ones(1, np.float32)
LOWEST = np.finfo(np.float32).min
COLDEST = 1e-30  # a lower temperature could be 0 in float32; at this one, any difference of logits already decides


def _check(name: str, value: float, allowed: str, inside: Callable[[float], bool]) -> None:
    if not (_is_number(value) and inside(value)):  # comparisons with NaN are false, so NaN is outside every range
        raise SettingError(f"{name} is {value!r}; it must be {allowed}.")


def _is_number(value: object) -> bool:
    """Whether a float can hold it."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
    return True


def _probability(value: float) -> bool:
    return 0 <= value <= 1


def _whole_from(least: int) -> Callable[[float], bool]:
    return lambda value: isinstance(value, Integral) and value >= least


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. A value out of its range raises SettingError.

    temperature        0 is greedy: the most likely token after bias and penalties, without the stages below
    top_k              keep the k most likely; 0 is off
    top_p              keep the nucleus, the fewest likeliest tokens that together reach p (arXiv 1904.09751); 1 is off
    min_p              keep tokens at least this fraction as likely as the most likely one (arXiv 2407.01082); 0 is off
    typical_p          keep the fewest tokens that together exceed p, taken in order of how near their surprisal is to
                       the entropy (arXiv 2202.00666); 1 is off
    repeat_penalty     divides the positive and multiplies the negative logits of recent tokens; 1 is off
    repeat_last_n      how many of the last tokens count as recent for the three penalties; 0 is off, -1 is all
    presence_penalty   subtracted once from the logit of each recent token; 0 is off
    frequency_penalty  subtracted from the logit of a recent token once for each time it occurs; 0 is off
    logit_bias         token id -> the number added to its logit; -inf bans the token
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, "0 (greedy) or a number above it", lambda v: 0 <= v < math.inf)
        _check("top_k", self.top_k, "0 (off) or a whole number above it", _whole_from(0))
        _check("top_p", self.top_p, "between 0 and 1 (off)", _probability)
        _check("min_p", self.min_p, "between 0 (off) and 1", _probability)
        _check("typical_p", self.typical_p, "between 0 and 1 (off)", _probability)
        _check("repeat_penalty", self.repeat_penalty, "a number above 0 (1 is off)", lambda v: 0 < v < math.inf)
        _check("repeat_last_n", self.repeat_last_n, "-1 (all), 0 (off) or a whole number above it", _whole_from(-1))
        _check("presence_penalty", self.presence_penalty, "a finite number (0 is off)", math.isfinite)
        _check("frequency_penalty", self.frequency_penalty, "a finite number (0 is off)", math.isfinite)
        for token, bias in self.logit_bias.items():
            _check("a token id of logit_bias", token, "a whole number from 0", _whole_from(0))
            _check(f"logit_bias of token {token}", bias, "a finite number, or -inf (never)", lambda v: v < math.inf)

    @property
    def penalizes(self) -> bool:
        """Whether the penalties are on: whether recent tokens change the logits at all."""
        neutral = self.repeat_penalty == 1 and self.presence_penalty == 0 and self.frequency_penalty == 0
        return self.repeat_last_n != 0 and not neutral


def warp(z: NDArray[np.float32], sampling: Sampling, recent: Sequence[int] | NDArray[np.integer[Any]]) -> Distribution:
    """Returns the distribution from which the next token is drawn.

    z       (V,) one row of combined logits, not changed; -inf marks a token that cannot come
    recent  the token ids so far, for the penalties: the end of the prompt and the tokens generated

    The result is exact. Each stage uses the full normaliser of the tokens it gets, and sorts only candidates that it
    has shown to contain every token it keeps.

    Raises SettingError when logit_bias names a token outside the row, or when bias and penalties leave no token.
    Raises DecodeError when the row itself is not a distribution (NaN, +inf, all -inf).
    """
    if sampling.logit_bias or sampling.penalizes:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # _check_peak finds the result of these
            z = _adjusted(z, sampling, recent)  # (V,)
    if sampling.temperature == 0:
        best = z.argmax()  # the first, when several are equal
        _check_peak(z[best], sampling)
        return Distribution(CERTAIN, np.array([best]))
    peak = np.maximum.reduce(z)
    _check_peak(peak, sampling)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        ids, z, peak = _survivors(z, peak, sampling)  # (k,), (k,)
        weights = z - peak  # (k,) the likeliest is at 0, so that exp cannot overflow
        weights /= max(sampling.temperature, COLDEST)
        return Distribution(np.exp(weights, out=weights), ids)


def added(
    z: NDArray[np.float32], sampling: Sampling, recent: Sequence[int] | NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """(V,) `z` with what the settings add to it, whatever its level: bias, and presence and frequency penalties.

    Raises as `warp`.
    """
    if not (sampling.logit_bias or sampling.penalizes):
        return z
    return _adjusted(z, replace(sampling, repeat_penalty=1.0), recent)


def _check_peak(peak: np.float32, sampling: Sampling) -> None:
    """Raises an error when the row is not a distribution: its largest logit is NaN if any is, and -inf if all are."""
    if math.isfinite(peak):
        return
    if sampling.logit_bias or sampling.penalizes:
        raise SettingError(
            f"After logit_bias and the penalties the largest logit is {peak}, so no token can follow.",
            "Ban fewer tokens, and bring the penalties nearer to their neutral values.",
        )
    raise DecodeError(f"The logits are not a distribution: the largest of them is {peak}.")


def _adjusted(z: NDArray[np.float32], sampling: Sampling, recent: Sequence[int] | NDArray[Any]) -> NDArray[np.float32]:
    """(V,) the row after logit bias and penalties: llama_sampler_logit_bias_apply, llama_sampler_penalties_apply."""
    z = z.copy()
    for token, bias in sampling.logit_bias.items():
        if token >= len(z):
            raise SettingError(f"logit_bias names token {token}, but the vocabulary's last token is {len(z) - 1}.")
        z[token] += np.float32(bias)
    if sampling.penalizes:
        window = recent if sampling.repeat_last_n == -1 else recent[-sampling.repeat_last_n :]
        tokens, counts = np.unique(np.asarray(window, dtype=np.intp), return_counts=True)
        known = (tokens >= 0) & (tokens < len(z))  # a member's own control tokens may lie beyond the shared ids
        tokens, counts = tokens[known], counts[known].astype(np.float32)
        logits, penalty = z[tokens], np.float32(sampling.repeat_penalty)
        logits = np.where(logits <= 0, logits * penalty, logits / penalty)
        z[tokens] = logits - (counts * np.float32(sampling.frequency_penalty) + np.float32(sampling.presence_penalty))
    return z


def _survivors(
    z: NDArray[np.float32], peak: np.float32, sampling: Sampling
) -> tuple[Ids | None, NDArray[np.float32], np.float32]:
    """Applies top-k, typical-p, top-p and min-p. Returns the ids left (None: all), their logits and the largest one."""
    ids: Ids | None = None
    for stage, value, on in (
        (_top_k, sampling.top_k, 0 < sampling.top_k < len(z)),
        (_typical, sampling.typical_p, sampling.typical_p < 1),
        (_top_p, sampling.top_p, sampling.top_p < 1),
        (_min_p, sampling.min_p, sampling.min_p > 0),
    ):
        if on:
            kept = stage(z, peak, value)
            ids, z = kept if ids is None else ids[kept], z[kept]
            peak = np.maximum.reduce(z)
    return ids, z, peak


# The stages take (n,) logits and the largest of them, and return the ascending positions that stay. Each stage drops
# -inf and leaves at least one token. They call numpy's compiled methods, not np.flatnonzero or np.partition: those are
# Python wrappers, which cost measurable time right after a decode, when the CPU's caches are cold.


def _top_k(z: NDArray[np.float32], peak: np.float32, k: float) -> Ids:
    """The k most likely tokens: llama_sampler_top_k_impl."""
    k = int(k)
    for floor in (peak - 8, peak - 16, LOWEST):  # comparing the row is far cheaper than partitioning it
        near: Ids = (z >= floor).nonzero()[0]
        if len(near) >= k:
            break
    if len(near) <= k:
        return near
    logits = z[near]
    falling = -logits
    falling.partition(k - 1)
    return largest(near, logits, k, -falling[k - 1])


def _typical(z: NDArray[np.float32], peak: np.float32, p: float) -> Ids:
    """The tokens whose surprisal is nearest to the entropy: llama_sampler_typical_apply."""
    below = np.maximum(z - peak, -200)  # (n,) exp(-200) is already 0; with -inf the entropy would contain 0 x inf
    mass = np.exp(below)
    total = sum_of(mass)
    # The surprisal is log(total) - below and the entropy is its mean, so log(total) cancels in their distance.
    distance = np.abs(below - np.float32(np.dot(mass, below) / total))
    for reach in (1, 4, 8, 150):  # 150 reaches every mass above 0: exp underflows at -104, the mean is above -12
        near: Ids = np.flatnonzero(distance <= reach)
        near_mass = mass[near]
        if near_mass.sum(dtype=np.float64) > p * total:
            break
    return near[_fewest(distance[near], near_mass, p * total)]


def _top_p(z: NDArray[np.float32], peak: np.float32, p: float) -> Ids:
    """The nucleus: llama_sampler_top_p_apply."""
    return nucleus(z, *masses(z, peak), p)


def _min_p(z: NDArray[np.float32], peak: np.float32, p: float) -> Ids:
    """The tokens at least p times as likely as the most likely one: llama_sampler_min_p_apply."""
    return (z >= peak + np.float32(math.log(p))).nonzero()[0]


def _fewest(key: Floats, mass: Floats, target: float) -> Ids:
    """The fewest entries, taken in the order of (key, position), that together have more mass than `target`.

    Returns ascending positions; all of them when the whole mass does not exceed the target. The keys are divided into
    SLOTS equal ranges, and only the range in which the target is passed is sorted.
    """
    if len(key) <= SLOTS or key.max() - key.min() <= 1e-30:  # SLOTS / span must fit in a float32
        return np.sort(_first(key, mass, target))
    lowest = key.min()
    slot = ((key - lowest) * (SLOTS / (key.max() - lowest))).astype(np.intp)  # (n,) rises with the key
    sums = np.bincount(slot, weights=mass).cumsum()
    at = min(int(np.searchsorted(sums, target, "right")), len(sums) - 1)  # only rounding can put it beyond the last
    kept = slot < at
    border = np.flatnonzero(slot == at)
    kept[border[_first(key[border], mass[border], target - float(sums[at - 1]) if at else target)]] = True
    return np.flatnonzero(kept)


def _first(key: Floats, mass: Floats, target: float) -> Ids:
    """The same entries as `_fewest`, found by sorting all of them; returned in the order of (key, position)."""
    order = np.argsort(key, kind="stable")
    return order[: np.searchsorted(mass[order].cumsum(dtype=np.float64), target, "right") + 1]
