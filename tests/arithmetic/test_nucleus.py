"""The nucleus is its definition, found by sorting all tokens."""

import numpy as np

from eftlocal.arithmetic.nucleus import masses, nucleus
from tests.arithmetic.made import RNG, exact


def test_the_nucleus_is_the_fewest_likeliest_tokens_also_on_a_flat_row() -> None:
    for n in (1, 30, 3000, 40_000):
        for spread in (0.1, 4.0):
            row = (RNG.normal(size=n) * spread).astype(np.float32)
            order = np.argsort(-row, kind="stable")
            reached = np.exp(exact(row)[order]).cumsum()
            for p in (0.0, 0.3, 0.9, 0.999):
                expected = order[: int(np.searchsorted(reached, p)) + 1]
                found = nucleus(row, *masses(row, row.max()), p)
                assert np.array_equal(found, np.sort(found))
                # The masses are float32, so rounding at the border may take or leave one token.
                assert len(set(found.tolist()) ^ set(expected.tolist())) <= (1 if n > 1000 else 0)


def test_of_equal_logits_at_the_nucleus_border_those_of_the_lowest_ids_are_taken() -> None:
    for n in (8, 800, 8000):
        row = np.where(np.arange(n) % 2, 1.0, -20.0).astype(np.float32)  # the odd ids share nearly all probability
        kept = nucleus(row, *masses(row, row.max()), 0.5)
        assert kept.tolist() == list(range(1, n // 2, 2))
