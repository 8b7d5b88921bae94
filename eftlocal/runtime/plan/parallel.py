"""How many sequences are decoded at once where nobody says: more rows make a token cheaper, and take memory."""

from math import ceil
from typing import Final

from eftlocal.runtime.plan.placement import Plan

__all__ = ["MOST", "sequences_at_once"]

# What llama.cpp's matrix kernels for the CPU compute in one go: 16 rows, and of fewer 4 (ggml/src/ggml-cpu/repack.cpp).
# SmolLM2-135M in Q4_0 with one thread takes 4.3 ms for 1 row, 15 for 4, 21 for 8, 31 for 16 and 60 for 32.
TILES: Final = (16, 4)

# With so many threads, 16 rows are computed in about the time that reading the weights once takes; with more, further
# rows cost little again. (Reckoned from the figures above: no such machine was at hand.)
THREADS: Final = 8

# With more, nearly all of a token's cost is what is done for each row outside of the models (0.6 ms and more).
MOST: Final = 64


def sequences_at_once(plan: Plan, n_threads: int) -> int:
    """16 for every 8 CPU threads, up to 64; 64 where devices compute every layer; fewer where memory holds fewer.

    What memory holds is cut to whole tiles of the CPU's kernels, and is 1 where not even one sequence fits.
    """
    on_devices = all(placed.read == 0 for placed in plan.members)
    n = plan.sequences_that_fit(MOST if on_devices else min(TILES[0] * ceil(n_threads / THREADS), MOST))
    tile = next((tile for tile in TILES if tile <= n), 1)
    return n if on_devices else n - n % tile
