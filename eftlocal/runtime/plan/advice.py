"""What would fit, for members that do not: fewer layers on devices, a shorter context, a smaller KV cache."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eftlocal.runtime.plan.loads import Loads, Shortfall
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.search import find_offloads, largest
from eftlocal.runtime.plan.wishes import Wishes

__all__ = ["advise"]


def advise(
    loads: Loads, cache: Cache, wishes: Wishes, asked: Mapping[Path, int | None], shortfalls: Sequence[Shortfall]
) -> Iterator[str]:
    """Yields what would fit instead, the best first, each as a phrase that names its option."""

    def works(changed: Cache = cache, layers: Mapping[Path, int | None] = asked) -> bool:
        return not loads.shortfalls(loads.place(find_offloads(loads, changed, wishes, layers), changed))

    if any(asked.values()) and any(short.device is not None for short in shortfalls):
        most = max(sizes.n_layers for sizes in loads.sizes.values())
        n = largest(0, most, lambda n: works(layers={p: None if a is None else min(a, n) for p, a in asked.items()}))
        if n >= 0:
            yield f"--gpu-layers {n} fits"
    n_ctx = _longest(cache, works)
    if n_ctx:
        yield f"--ctx {n_ctx} fits"
    smaller = next((kind for kind in _smaller_types(loads, cache) if works(replace(cache, kv_type=kind))), None)
    if smaller:
        yield f"--kv-type {smaller} fits"
    elif not n_ctx:
        for kind in _smaller_types(loads, cache):
            if longest := _longest(replace(cache, kv_type=kind), works):
                yield f"--kv-type {kind} --ctx {longest} fits"
    yield "a smaller quantization needs less"


def _longest(cache: Cache, works: Callable[[Cache], bool]) -> int:
    """Returns the longest context below this one that works, a multiple of 256; 0 when even 512 does not."""
    steps = largest(2, (cache.n_ctx - 1) // 256, lambda n: works(replace(cache, n_ctx=256 * n)))
    return 256 * steps if steps >= 2 else 0


def _smaller_types(loads: Loads, cache: Cache) -> list[str]:
    """Returns the types of the KV cache that take less memory, the largest first.

    q8_0 needs rows of a multiple of 32 values.
    """
    even = all(width % 32 == 0 for sizes in loads.sizes.values() for widths in sizes.keys for width in widths)
    kinds = ["f32", "f16", *(["q8_0"] if even else [])]
    return kinds[kinds.index(cache.kv_type) + 1 :] if cache.kv_type in kinds else []
