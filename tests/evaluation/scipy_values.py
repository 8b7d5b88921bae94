"""Computes the values that test_intervals.py compares with, by scipy. It is not part of the suite.

python3 -m venv /tmp/scipy && /tmp/scipy/bin/pip install scipy
/tmp/scipy/bin/python tests/evaluation/scipy_values.py > tests/evaluation/scipy_values.json
"""

import json
from typing import Any

import numpy as np
import scipy  # type: ignore[import-untyped,import-not-found,unused-ignore]
from scipy import stats  # type: ignore[import-untyped,import-not-found,unused-ignore]

SHARES = ((0, 1), (1, 1), (0, 12), (12, 12), (1, 12), (7, 12), (50, 100), (99, 100), (3, 1000), (731, 1319))


def values(n: int, seed: int) -> Any:
    """(n, 4) the losses and tokens of two columns over n items; test_intervals.py makes the same."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 20, n)
    hard = rng.gamma(2.0, 1.0, n)
    return np.stack([tokens * hard, tokens, tokens * (0.8 * hard + rng.normal(0.1, 0.3, n)), tokens], 1)


def ratio(loss: Any, tokens: Any, axis: int = -1) -> Any:
    return loss.sum(axis=axis) / tokens.sum(axis=axis)


def difference(loss: Any, tokens: Any, other: Any, others: Any, axis: int = -1) -> Any:
    return ratio(other, others, axis) - ratio(loss, tokens, axis)


def bootstrap(n: int, seed: int) -> dict[str, Any]:
    columns = values(n, seed).T
    same = {"paired": True, "vectorized": True, "n_resamples": 100_000, "method": "percentile", "rng": 1}
    one = stats.bootstrap(tuple(columns[:2]), ratio, **same).confidence_interval
    both = stats.bootstrap(tuple(columns), difference, **same).confidence_interval
    return {"n": n, "seed": seed, "ratio": [one.low, one.high], "difference": [both.low, both.high]}


def main() -> None:
    wilson = [[k, n, *stats.binomtest(k, n).proportion_ci(method="wilson")] for k, n in SHARES]
    found = {"scipy": scipy.__version__, "wilson": wilson, "bootstrap": [bootstrap(n, n) for n in (10, 60, 400)]}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
