"""How sure a figure is: Wilson intervals of shares, and the paired bootstrap of means, differences and ratios."""

import math
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESAMPLES", "percentiles", "resampled", "wilson"]

Z: Final = 1.959963984540054  # the normal distribution's 97.5th percentile
RESAMPLES: Final = 2000
BLOCK: Final = 2**18  # drawn items at a time: what the processor's cache holds

Floats = NDArray[np.float64]


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` (Wilson 1927): within 0 and 1, and sensible for few items and at both ends.

    `successes` may be a half, where a tie counts as one. Raises ValueError without items.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a share")
    share, z2 = successes / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)  # at both ends the formula is exact, its rounding is not
    high = 1.0 if successes == n else min(1.0, middle + half)
    return low, high


def resampled(values: Floats, seed: int, name: str = "", n_resamples: int = RESAMPLES) -> Floats:
    """Sums over resamples of the items: (resamples, columns) from (items, columns).

    All columns of a resample are summed over the same items, so differences and ratios of the sums are paired. The
    same (seed, name, number of items) draws the same items, whatever the columns are.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    with np.errstate(invalid="ignore"):  # what is not finite makes its own sums not a number, and no others
        return np.concatenate([counts @ values for counts in _draws(rng, len(values), n_resamples)])


def _draws(rng: np.random.Generator, n: int, n_resamples: int) -> Iterator[Floats]:
    """Blocks of (resamples, items): how often each item was drawn."""
    at_once = max(1, BLOCK // n)
    for start in range(0, n_resamples, at_once):
        rows = min(at_once, n_resamples - start)
        drawn = rng.integers(0, n, (rows, n))
        drawn += np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def percentiles(samples: Floats) -> tuple[float, float]:
    """The 95 % interval of resampled figures: their 2.5th and 97.5th percentile. NaN where one is not a number.

    As np.percentile, at a tenth of its price for a few thousand figures.
    """
    places = [(len(samples) - 1) * share for share in (0.025, 0.975)]
    below = [math.floor(place) for place in places]
    ends = [min(at + 1, len(samples) - 1) for at in below]
    ordered = np.partition(samples, sorted({*below, *ends, len(samples) - 1}))  # what is not a number goes to the end
    if math.isnan(ordered[-1]):
        return math.nan, math.nan
    with np.errstate(invalid="ignore"):
        low, high = (
            float(ordered[a] + (place - a) * (ordered[b] - ordered[a]))
            if ordered[a] != ordered[b]
            else float(ordered[a])
            for place, a, b in zip(places, below, ends, strict=True)
        )
    return low, high
