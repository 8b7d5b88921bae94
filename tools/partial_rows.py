"""Random rows against what arithmetic/partial.py says of their likeliest tokens: python -m tools.partial_rows

Small rows of every kind that is likely to break a rule: ties, equal logits, constraints that forbid tokens, rewards of
any strength, biases, and rows that one token has nearly alone. Each is cut to its K likeliest tokens, and compared with
the whole row: the greedy token where it is certain, and the total variation of dropping and of filling against the
bound, at random settings of temperature, top-k, top-p and min-p, drawn by `warp` itself.
"""

import argparse
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import log_softmax
from eftlocal.arithmetic.partial import Partial
from eftlocal.arithmetic.sample import Sampling, warp

BETAS = (-20.0, -1.0, 0.0, 0.5, 1.0, 2.0, 20.0, 1000.0)
TEMPERATURES = (0.05, 0.3, 0.7, 1.0, 1.5, 4.0)
TOP_PS = (1.0, 1.0, 0.95, 0.9, 0.5, 0.1, 0.0)
TOP_KS = (0, 0, 0, 1, 2, 3, 5)
MIN_PS = (0.0, 0.0, 0.0, 0.02, 0.1, 0.5, 1.0)
NEVER = np.float32(-np.inf)
ROUNDING = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = look(given.rows, given.seed)
    print(", ".join(f"{name} {n:,}" for name, n in sorted(found.items())))
    return int(found["wrong"] + found["broken"] + found["odd"] > 0)


def look(rows: int, seed: int) -> Counter[str]:
    """Counts of `rows` rows: the certain ones, those certain and `wrong`, `broken` bounds, `odd` fillings."""
    rng, found = np.random.default_rng(seed), Counter[str](rows=rows)
    for _ in range(rows):
        base, log_w, guide = _drawn(rng)
        able = np.isfinite(base)
        k = int(rng.integers(1, max(2, int(able.sum()))))
        row = np.full_like(base, -np.inf)
        top = np.argsort(-base, kind="stable")[:k]
        row[top] = base[top]
        _judge(found, base, row, log_w, guide, _settings(rng))
    return found


def _drawn(rng: np.random.Generator) -> tuple[Logits, Logits, Logits]:
    """A base's whole row, the log of the weights, and a guide: (n,) each."""
    n = int(rng.integers(2, 13))

    def logits() -> NDArray[np.float64]:
        kind = rng.integers(5)
        if kind == 0:
            return np.zeros(n)
        if kind == 1:
            return rng.integers(-2, 3, n).astype(np.float64)  # ties
        return rng.normal(size=n) * (1.0, 6.0, 30.0)[kind - 2]

    base = logits()
    if rng.random() < 0.2:
        base[rng.random(n) < 0.4] = -np.inf
        base[rng.integers(n)] = 0.0
    reference = logits()
    log_w = (rng.choice(BETAS) * (logits() - reference)).astype(np.float32)
    if rng.random() < 0.4:
        log_w[rng.random(n) < rng.random()] = NEVER
        log_w[rng.integers(n)] = 0.0
    return log_softmax(base[None].astype(np.float32))[0], log_w, reference.astype(np.float32)


def _settings(rng: np.random.Generator) -> Sampling:
    return Sampling(
        temperature=float(rng.choice(TEMPERATURES)),
        top_p=float(rng.choice(TOP_PS)),
        top_k=int(rng.choice(TOP_KS)),
        min_p=float(rng.choice(MIN_PS)),
    )


def _judge(found: Counter[str], base: Logits, row: Logits, log_w: Logits, guide: Logits, settings: Sampling) -> None:
    if not np.isfinite(base + log_w).any():
        return
    part = Partial.of(row)
    best = int((part.most() + log_w).argmax())
    if part.knows(best):
        found["certain"] += 1
        found["wrong"] += best != int((base + log_w).argmax())
    full, outside = part.filled(guide), np.isneginf(row)
    excess = full[outside].max(initial=-np.inf) > row[~outside].min() + ROUNDING
    found["odd"] += bool(np.isnan(full).any() or excess or np.exp(full.astype(np.float64)).sum() > 1 + 2 * ROUNDING)
    exact, limit = emulated(base, log_w, settings), part.bound(log_w, settings)
    made = [each for each in (row, full) if np.isfinite(each + log_w).any()]
    off = max(float(np.abs(emulated(each, log_w, settings) - exact).sum()) / 2 for each in made)
    found["broken"] += not off <= limit + ROUNDING
    found["tight within 2 x"] += limit <= 2 * off + ROUNDING


def emulated(row: Logits, log_w: Logits, settings: Sampling) -> NDArray[np.float64]:
    """The distribution that is drawn from, (n,)."""
    return warp(row + log_w, settings, ()).dense(len(row))


if __name__ == "__main__":
    raise SystemExit(main())
