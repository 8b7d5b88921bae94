"""The default number of sequences to decode together: more of them make a token cheaper, but take memory."""

from math import ceil
from typing import Final

from eftlocal.runtime.plan.placement import Plan

__all__ = ["MOST", "sequences_at_once"]

# How many rows llama.cpp's matrix kernels for the CPU compute together: 16, or else 4 (ggml/src/ggml-cpu/repack.cpp).
# SmolLM2-135M in Q4_0 with one thread takes 4.3 ms for 1 row, 15 for 4, 21 for 8, 31 for 16 and 60 for 32.
TILES: Final = (16, 4)

# With 8 threads, computing 16 rows takes about as long as reading the weights once. With more threads, further rows
# again cost little. (Estimated from the figures above: no such machine was available.)
THREADS: Final = 8

# Beyond 64, nearly all of a token's cost is the work for each row outside the models (0.6 ms and more).
MOST: Final = 64


def sequences_at_once(plan: Plan, n_threads: int) -> int:
    """Returns how many sequences to decode together.

    16 for every 8 CPU threads, up to 64. 64 when devices compute all layers. Fewer when fewer fit in memory: then, on
    the CPU, a multiple of the kernels' rows if possible. 1 when not even one sequence fits.
    """
    on_devices = all(placed.read == 0 for placed in plan.members)
    n = plan.sequences_that_fit(MOST if on_devices else min(TILES[0] * ceil(n_threads / THREADS), MOST))
    tile = next((tile for tile in TILES if tile <= n), 1)
    return n if on_devices else n - n % tile
