"""Calibrates a pair: its strength, and what is added to some tokens, from one half of the items, judged on the other.

    z = base + sum_k beta_k (tuned_k - reference_k) + end [token ends an answer] + unseen [token was never shown]

Fine-tuning shifts the logits of what its data never showed against what it did, and a constant brings them back
("Fine-tuning is fine, if calibrated", arXiv 2409.16223). The loss of right answers is convex in all these numbers, as
each is a weight of a softmax, so a few Newton steps find them.

Rows over a vocabulary are too large to keep: 5,000 positions of 150,000 tokens are 6 GB for each reward. So `condensed`
keeps the likely tokens of a row, and of the others what a fine grid over their rewards needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Ids, Logits
from eftlocal.errors import SettingError
from eftlocal.evaluation.best import halves, mean_loss
from eftlocal.evaluation.intervals import Floats
from eftlocal.evaluation.results import Calibrated

__all__ = ["Condensed", "Found", "calibrated", "condensed", "fit", "joined", "loss"]

LIKELY: Final = 1e-2  # tokens that are as likely as that, at one of the PROBES, are kept one by one
PROBES: Final = (0.0, 0.5, 1.0, 2.0)  # strengths
WIDEST: Final = 2**20  # cells
CELL: Final = 0.1  # nats of reward; the other tokens of a cell are taken together, at their mean
LEAST: Final = 8  # items
STEPS: Final = 50
DRAWN: Final = "calibration"  # names the resamples of its intervals
CLOSE: Final = 1e-9  # nats a token; a step that promises less than that is the last
# How far each number is pulled to where it began: as much as one token with this standard deviation pulls. It decides
# only where the items do not, such as an end that every answer has at the same place.
SPREAD: Final = {"beta": 1.0, "bias": 2.0}


@dataclass(frozen=True, slots=True)
class Condensed:
    """What the loss of one item needs, for all strengths and biases.

    right     (rows, numbers) the features of the right tokens: their rewards, whether it ends, whether it is unseen
    base      (rows,) the base's logits of the right tokens
    features  (entries, numbers) those of tokens and of cells of tokens, all rows one after the other
    logits    (entries,) the base's logits; of a cell the logarithm of their exponentials' sum
    starts    (rows,) where each row begins
    """

    right: Floats
    base: Floats
    features: Logits
    logits: Floats
    starts: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The numbers of a calibration. `betas` in the rewards' order; `end` and `unseen` in nats."""

    betas: tuple[float, ...]
    end: float = 0.0
    unseen: float = 0.0

    @property
    def weights(self) -> Floats:
        return np.array([*self.betas, self.end, self.unseen])


def condensed(
    base: Logits, rewards: Sequence[Logits], tokens: Sequence[int], ends: Ids, unseen: Ids | None = None
) -> Condensed:
    """Condenses the rows of logits of one answer.

    base     (rows, vocabulary) raw logits of the base
    rewards  for each reward, (rows, vocabulary) raw logits of tuned minus those of reference, without its beta
    tokens   (rows,) the right tokens
    ends     ids that end an answer
    unseen   ids that the fine-tuning data never showed; None where that is not known
    """
    flags = np.zeros((base.shape[1], 2))
    flags[ends, 0] = 1
    if unseen is not None:
        flags[unseen, 1] = 1
    right, bases, features, logits, starts, n = [], [], [], [], [], 0
    for row, token in enumerate(tokens):
        own = np.stack([reward[row] for reward in rewards], 1).astype(np.float64)  # (vocabulary, rewards)
        z = base[row].astype(np.float64)
        level = own[token].copy()  # a constant for all tokens of a row changes nothing, and keeps sums small
        own -= level
        z -= z.max()
        entries = _entries(z, np.concatenate([own, flags], 1))
        right.append([*own[token], *flags[token]])
        bases.append(z[token])
        logits.append(entries[0])
        features.append(entries[1].astype(np.float32))
        starts.append(n)
        n += len(entries[0])
    return Condensed(
        np.array(right), np.array(bases), np.concatenate(features), np.concatenate(logits), np.array(starts, np.intp)
    )


def joined(parts: Sequence[Condensed]) -> Condensed:
    """The rows of these parts, one after the other, as one item."""
    lengths = np.cumsum([0, *(len(part.logits) for part in parts)])
    return Condensed(
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.base for part in parts]),
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.starts + start for part, start in zip(parts, lengths, strict=False)]),
    )


def _entries(z: Floats, features: Floats) -> tuple[Floats, Floats]:
    """The entries of one row: their logits and features. z: (vocabulary,), features: (vocabulary, numbers)."""
    rewards = features[:, :-2].sum(axis=1)
    likely = np.zeros(len(z), bool)
    for beta in PROBES:
        at = z + beta * rewards
        likely |= at > at.max() + math.log(LIKELY)
    rest = np.flatnonzero(~likely & (z > -np.inf))
    if not len(rest):
        return z[likely], features[likely]
    cells, n = _cells(features[rest])
    peak = z[rest].max()
    mass = np.maximum(np.exp(z[rest] - peak), 1e-300)
    masses = np.bincount(cells, mass, n)
    used = masses > 0
    sums = np.stack([np.bincount(cells, mass * feature, n) for feature in features[rest].T], 1)
    means = sums[used] / masses[used, None]
    return np.concatenate([z[likely], peak + np.log(masses[used])]), np.concatenate([features[likely], means])


def _cells(features: Floats) -> tuple[Ids, int]:
    """The number of each token's cell, and how many numbers there are. features: (tokens, numbers)."""
    places = np.round(features[:, :-2] / CELL).astype(np.int64)
    places -= places.min(axis=0)
    found = (2 * features[:, -2] + features[:, -1]).astype(np.int64)
    n = 4
    for place in places.T:  # each reward is a digit of the number
        found += n * place
        n *= int(place.max()) + 1
        if n > WIDEST:  # only with several rewards: most numbers are not used, and are closed up
            used, found = np.unique(found, return_inverse=True)
            n = len(used)
    return found.astype(np.intp), n


def loss(items: Sequence[Condensed], found: Found) -> Floats:
    """(items, 2) the negative log-probability of each item's right tokens, and their number."""
    weights = found.weights
    return np.array([[-float(_logprobs(item, weights)[0].sum()), len(item.base)] for item in items])


def fit(items: Sequence[Condensed], start: Found, *, end: bool = True, unseen: bool = True) -> Found:
    """The numbers with the lowest loss on these items. `end` and `unseen`: whether those are fitted; if not, they stay.

    No strength gets below 0. Newton's method, with steps that are halved until the loss falls.
    """
    n = len(start.betas)
    free = np.array([True] * n + [end, unseen and any(item.features[:, -1].any() for item in items)])
    while True:
        weights = _newton(items, start, free)
        negative = free[:n] & (weights[:n] < 0)
        if not negative.any():
            return Found(betas=tuple(weights[:n].tolist()), end=float(weights[n]), unseen=float(weights[n + 1]))
        start = Found(betas=tuple(np.where(negative, 0.0, start.betas)), end=start.end, unseen=start.unseen)
        free[:n] &= ~negative


def _newton(items: Sequence[Condensed], start: Found, free: NDArray[np.bool_]) -> Floats:
    n, center = len(start.betas), start.weights
    precision = np.array([SPREAD["beta"] ** -2] * n + [SPREAD["bias"] ** -2] * 2)
    tokens = sum(len(item.base) for item in items)

    def total(weights: Floats) -> float:
        away = weights - center
        return float(sum(-_logprobs(item, weights)[0].sum() for item in items) + 0.5 * (precision * away * away).sum())

    weights, now = center.copy(), total(center)
    for _ in range(STEPS):
        gradient, hessian = precision * (weights - center), np.diag(precision)
        for item in items:
            slope, curve = _slopes(item, weights)
            gradient, hessian = gradient + slope, hessian + curve
        step = np.zeros_like(weights)
        step[free] = -np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        if -float(gradient @ step) < CLOSE * tokens:
            break
        size = 1.0
        while (then := total(weights + size * step)) > now and size > 1e-6:
            size /= 2
        weights, now = weights + size * step, min(then, now)
    return weights


def _logprobs(item: Condensed, weights: Floats) -> tuple[Floats, Floats]:
    """(rows,) log-probabilities of the right tokens, and (entries,) probabilities of the entries."""
    z = item.logits + item.features @ weights
    peaks = np.maximum.reduceat(z, item.starts)
    lengths = np.diff(np.append(item.starts, len(z)))
    mass = np.exp(z - np.repeat(peaks, lengths))
    sums = np.add.reduceat(mass, item.starts)
    logprobs: Floats = item.base + item.right @ weights - peaks - np.log(sums)
    return logprobs, mass / np.repeat(sums, lengths)


def _slopes(item: Condensed, weights: Floats) -> tuple[Floats, Floats]:
    """Gradient and Hessian of the loss: the mean of the features less the right token's, and their covariance."""
    _, p = _logprobs(item, weights)
    weighted = p[:, None] * item.features
    means = np.add.reduceat(weighted, item.starts)  # (rows, numbers)
    gradient: Floats = (means - item.right).sum(axis=0)
    hessian: Floats = weighted.T @ item.features - means.T @ means
    return gradient, hessian


def must_be_enough(items: int) -> None:
    """Raises SettingError if so many items with a right answer are too few."""
    if items < LEAST:
        raise SettingError(
            f"A calibration needs at least {LEAST} items with a right answer, and there are {items}.",
            "Give more items, or leave --calibrate out.",
        )


def calibrated(items: Sequence[Condensed], names: Sequence[str], start: Found, seed: int = 0) -> Calibrated:
    """Fits on one half of the items and judges on the other. `names` are the rewards', `start` is as configured.

    Raises SettingError if the items are too few.
    """
    must_be_enough(len(items))
    fitting, judging = ([items[i] for i in half.tolist()] for half in halves(len(items), seed))
    knows = any(item.features[:, -1].any() for item in items)
    found = {"as configured": start, "strength": fit(fitting, start, end=False, unseen=False)}
    found["strength and end"] = fit(fitting, start, unseen=False)
    if knows:
        found["strength, end and unseen"] = fit(fitting, start)
    last = list(found.values())[-1]
    losses = {name: loss(judging, each) for name, each in found.items()}
    before, after = losses["as configured"], list(losses.values())[-1]
    change = mean_loss(after, seed, DRAWN, before)
    useful = any(last.betas) and change.high is not None and change.high < 0
    return Calibrated(
        betas=dict(zip(names, last.betas, strict=True)),
        end=last.end,
        unseen=last.unseen if knows else None,
        n_fitted=len(fitting),
        n_judged=len(judging),
        steps={name: mean_loss(each, seed, DRAWN) for name, each in losses.items()},
        before=mean_loss(before, seed, DRAWN),
        after=mean_loss(after, seed, DRAWN),
        change=change,
        helps=useful,
    )
