"""Tests of the estimate of a training's memory: it was measured on SmolLM2, and a smaller way takes less."""

import pytest

from eftlocal.runtime import gguf
from eftlocal.training.memory import Way, estimate, ways
from eftlocal.training.shape import shape_of
from tests.families import smollm2


@pytest.mark.parametrize(
    ("way", "fixed", "measured"),
    [
        (Way(1024, False), False, 3451),
        (Way(512, False), False, 2142),
        (Way(1024, True), False, 2297),
        (Way(1024, False), True, 3543),
    ],
)
def test_the_estimate_is_a_little_above_what_was_measured(way: Way, fixed: bool, measured: int) -> None:
    """Resident megabytes (MiB) at the peak of three steps of LoRA, rank 16, half of the tokens trained, two threads."""
    header = gguf.check(smollm2())
    found = estimate(shape_of(header), header, way, rank=16, share=0.5, fixed=fixed).total / (1 << 20)
    assert measured * 0.98 < found < measured * 1.1


def test_what_is_trained_counts_five_times() -> None:
    header = gguf.check(smollm2())
    shape, way = shape_of(header), Way(512, False)
    full, lora = (estimate(shape, header, way, rank=rank, share=0.5) for rank in (None, 8))
    everything = sum(t.shape[0] * (t.shape[1] if len(t.shape) > 1 else 1) for t in header.tensors)
    assert full.trained == 20 * everything and lora.trained < full.trained / 30
    assert estimate(shape, header, way, rank=8, share=0.5, fixed=True).step > lora.step


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("length", [100, 500, 2000])
def test_each_way_takes_less_than_the_one_before_and_holds_an_example(length: int, gpu: bool) -> None:
    header = gguf.check(smollm2())
    found = list(ways(length, gpu=gpu))
    needs = [estimate(shape_of(header), header, way, rank=8, share=0.3, gpu=gpu).total for way in found]
    assert needs == sorted(needs, reverse=True) and len(set(needs)) == len(needs) > 1
    assert all(way.fed >= length for way in found)


@pytest.mark.parametrize(("rank", "fixed", "measured"), [(16, False, 2.48), (16, True, 2.68), (None, False, 5.27)])
def test_the_estimate_for_a_gpu_is_a_little_above_what_was_measured(
    rank: int | None, fixed: bool, measured: float
) -> None:
    """Gigabytes that torch had reserved on an H100, at the peak of steps of 1,024 tokens, half of them trained."""
    header = gguf.check(smollm2())
    found = estimate(shape_of(header), header, Way(1024, False), rank=rank, share=0.5, fixed=fixed, gpu=True)
    assert measured < found.total / 1e9 < 1.2 * measured
    assert found.host < found.total
