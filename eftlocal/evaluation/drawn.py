"""Some of the items, drawn: those of a smaller number are among those of a larger one."""

from collections.abc import Sequence

import numpy as np

from eftlocal.evaluation.items import Item

__all__ = ["drawn"]


def drawn(items: Sequence[Item], limit: int | None, seed: int) -> list[tuple[int, Item]]:
    """(number, item) of at most `limit` items of each source, in their order; None takes all. Numbers start at 1.

    A larger limit with the same seed only adds items, so a run can go on with it.
    """
    numbered = list(enumerate(items, 1))
    if limit is None:
        return numbered
    kept: set[int] = set()
    for i, source in enumerate(dict.fromkeys(item.source for item in items)):
        own = [number for number, item in numbered if item.source == source]
        order = np.random.default_rng([seed, i]).permutation(len(own))
        kept |= {own[place] for place in order[:limit]}
    return [(number, item) for number, item in numbered if number in kept]
