"""The best strength: some of the items choose it, and the others judge it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eftlocal.catalog.entries import Reward
from eftlocal.catalog.toml import rewards_line
from eftlocal.evaluation.figures import likelihood
from eftlocal.evaluation.findings import FEW
from eftlocal.evaluation.intervals import Floats, percentiles, resampled
from eftlocal.evaluation.line import Line, column_beta
from eftlocal.evaluation.results import Best, Estimate

__all__ = ["best", "halves", "losses", "mean_loss"]

LEAST = 2 * FEW  # items; with fewer of them neither half says anything


def best(lines: Sequence[Line], rewards: Sequence[Reward], seed: int) -> Best | None:
    """The strength with the lowest loss on one half of the items, judged on the other.

    The loss is that of right answers; of texts only where no item has an answer. Of equal strengths, the one nearest to
    1 is taken. None with fewer than two strengths, or too few items.
    """
    answers = [
        line for line in lines if line.shape != "text" and any(losses([line], c) is not None for c in line.columns)
    ]
    items = answers or [line for line in lines if line.shape == "text"]
    strengths = {column: beta for line in items for column in line.columns if (beta := column_beta(column)) is not None}
    able = {c: found for c in ["base", *strengths] if (found := losses(items, c)) is not None}
    betas = {column: beta for column, beta in strengths.items() if column in able}
    if len(items) < LEAST or len(betas) < 2:
        return None
    choosing, judging = halves(len(items), seed)
    chose = {c: mean_loss(found[choosing], seed, "chose") for c, found in able.items() if c in betas}
    chosen = min(betas, key=lambda c: (chose[c].value, abs(betas[c] - 1), c))
    one = next((c for c, beta in betas.items() if beta == 1), None)
    strength = betas[chosen]

    def less(other: str | None) -> Estimate | None:
        if other is None or other not in able:
            return None
        return mean_loss(able[chosen][judging], seed, "judged", able[other][judging])

    changed = [replace(reward, beta=_short(reward.beta * strength)) for reward in rewards]
    told = Best(
        over="answers" if answers else "texts",
        beta=strength,
        n_chose=len(choosing),
        n_judged=len(judging),
        chose=chose,
        judged={c: mean_loss(found[judging], seed, "judged") for c, found in able.items()},
        to_base=less("base"),
        to_one=None if chosen == one else less(one),
        edge=strength in (min(betas.values()), max(betas.values())),
        rewards={reward.name: reward.beta for reward in changed},
        toml="",
    )
    return replace(told, toml=rewards_line(changed)) if told.helps and strength != 1 and rewards else told


def halves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of two halves of n items, drawn with this seed, each in order."""
    drawn = np.random.default_rng([seed, n]).permutation(n)
    return np.sort(drawn[: n // 2]), np.sort(drawn[n // 2 :])


def losses(lines: Sequence[Line], column: str) -> Floats | None:
    """(items, 2) the negative log-probability and the tokens of what is right; None unless all lines have them."""
    found = [likelihood(line, line.columns[column]) if column in line.columns else None for line in lines]
    known = [each[:2] for each in found if each is not None]
    return np.array([[-logprob, tokens] for logprob, tokens in known]) if len(known) == len(lines) > 0 else None


def mean_loss(losses: Floats, seed: int, name: str, less: Floats | None = None) -> Estimate:
    """Nats a token, or how many more than those of `less` over the same items."""
    both = losses if less is None else np.concatenate([losses, less], axis=1)
    value, samples = _nats(both.sum(axis=0)[None]), _nats(resampled(both, seed, name))
    return Estimate(float(value[0]), *percentiles(samples), len(losses))


def _nats(sums: Floats) -> Floats:
    found: Floats = sums[:, 0] / sums[:, 1]
    return found - sums[:, 2] / sums[:, 3] if sums.shape[1] > 2 else found


def _short(beta: float) -> float:
    return float(f"{beta:.6g}")
