"""Tests of the memory estimates from a header, against what llama.cpp's log says that it allocates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eftlocal.runtime import gguf
from eftlocal.runtime.gguf_header import Header
from eftlocal.runtime.plan.memory import CPU_BATCH, GPU_BATCH, Cache, Need, Sizes, layer_bytes
from tests.families import Family, Trio
from tests.runtime.plan import shapes
from tests.runtime.plan.measured import Dry, real

MIB = 1 << 20
CACHES = [
    Cache(n_ctx, n_seq, kv_type)
    for n_ctx in (256, 2000, 8192)
    for n_seq in (1, 8)
    for kv_type in ("f32", "f16", "q8_0")
    if n_ctx * n_seq < 20_000
]


def estimated(header: Header, cache: Cache, batch: int = CPU_BATCH) -> Need:
    sizes = Sizes.of(header)
    layers = range(sizes.n_layers)
    return Need(
        sizes.weights, sizes.kv(cache, layers), sizes.compute(cache, max(batch, cache.n_seq)), sizes.logits(cache)
    )


def same(estimate: Need, measure: Need, *, tolerance: float, floor: float = 0.1) -> None:
    """Checks that the totals agree within `tolerance`.

    Caches and rows of logits are plain arithmetic, so these must agree except for the rounding in the log.
    """
    assert estimate.kv == pytest.approx(measure.kv, abs=0.1 * MIB)
    assert estimate.output == pytest.approx(measure.output, abs=0.1 * MIB)
    assert estimate.total == pytest.approx(measure.total, rel=tolerance, abs=floor * MIB)


@pytest.mark.slow
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_smollm2_takes_what_was_estimated(smollm2: Path, cache: Cache) -> None:
    estimate, measure = estimated(gguf.check(smollm2), cache), real(smollm2, cache)
    same(estimate, measure, tolerance=0.05)
    assert estimate.compute == pytest.approx(measure.compute, rel=0.1)


@pytest.mark.slow
def test_so_do_its_quantizations_also_those_that_are_repacked(smollm2_trio: Trio) -> None:
    for path in (smollm2_trio.base, smollm2_trio.reference):  # Q8_0, Q4_0
        same(estimated(gguf.check(path), Cache(4096)), real(path, Cache(4096)), tolerance=0.05)


@pytest.mark.parametrize("cache", [Cache(256), Cache(512, 8, "f32"), Cache(512, 3, "f16")], ids=str)
def test_tiny_models_of_every_kind_take_what_was_estimated(family: Family, cache: Cache) -> None:
    for path in (family.base, family.tuned2, family.padded, family.sliding, family.recurrent):
        same(estimated(gguf.check(path), cache), real(path, cache), tolerance=0.1, floor=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        shapes.SMOLLM2_1_7B, shapes.QWEN25_1_5B, shapes.QWEN25_7B, shapes.LLAMA2_7B, shapes.LLAMA2_70B,
        shapes.LLAMA3_8B, shapes.QWEN3_4B, shapes.GEMMA3_4B, shapes.OLMO2_7B, shapes.PHI3_MINI, shapes.QWEN3_30B_A3B,
        shapes.DEEPSEEK_V2_LITE, shapes.MAMBA_2_8B, shapes.LFM2_1_2B, shapes.QWEN3_NEXT_80B,
    ],
    ids=lambda model: model.name,
)  # fmt: skip
def test_models_up_to_80b_take_what_was_estimated(model: shapes.Model, tmp_path: Path) -> None:
    header = gguf.check(model.write(tmp_path))
    dry = Dry(header.path)
    try:
        for cache in (Cache(512), Cache(4096), Cache(8192, 1, "q8_0"), Cache(1024, 4), Cache(4096, 1, "f32")):
            for batch in (CPU_BATCH, GPU_BATCH):
                estimate, measure = estimated(header, cache, batch), dry.need(cache, batch)
                same(replace(estimate, weights=0), measure, tolerance=0.2)
                whole = replace(measure, weights=header.tensor_bytes)
                same(estimate, whole, tolerance=0.03)
    finally:
        dry.close()
        header.path.unlink()  # a sparse file, but a large one


def test_a_header_made_up_for_a_plan_says_what_the_file_says(tmp_path: Path) -> None:
    for model in (shapes.LLAMA2_7B, shapes.LFM2_1_2B):
        made, read = Sizes.of(model.header()), Sizes.of(gguf.check(model.write(tmp_path)))
        assert {**vars(made), "n_merges": read.n_merges} == vars(read)


def test_a_token_reads_the_experts_that_it_uses() -> None:
    sizes = Sizes.of(shapes.QWEN3_30B_A3B.header())
    assert 0.05 < sizes.read / sizes.weights < 0.15  # 3.3 of 30.5 billion weights
    dense = Sizes.of(shapes.LLAMA2_7B.header())
    assert dense.read == dense.weights - dense.inputs


def test_layers_that_guess_further_tokens_are_not_loaded() -> None:
    plain = shapes.QWEN25_1_5B
    longer = replace(plain, n_layers=29, extra={"nextn_predict_layers": 1})
    one, other = Sizes.of(plain.header()), Sizes.of(longer.header())
    assert other.n_layers == one.n_layers + 1
    assert other.kv(Cache(4096), range(30)) == one.kv(Cache(4096), range(29))
    assert other.layers[28] == 0


def test_layers_that_read_anothers_keys_have_none_of_their_own() -> None:
    sharing = replace(shapes.QWEN25_1_5B, extra={"attention.shared_kv_layers": 10})
    assert [k > 0 for k, _ in Sizes.of(sharing.header()).keys] == [True] * 18 + [False] * 10


def test_an_adapter_weighs_on_the_layers_that_it_changes(family: Family) -> None:
    adapter = gguf.read(family.lora)
    by_layer = layer_bytes(adapter.tensors, 2)
    assert sum(by_layer) == adapter.tensor_bytes and by_layer[2] == 0 and all(by_layer[:2])


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"llama.block_count": 1 << 40, "llama.attention.head_count": 0},
        {"llama.block_count": 2, "llama.nextn_predict_layers": 5, "llama.attention.shared_kv_layers": 9},
        {"llama.block_count": -3},
    ],
)
def test_no_header_is_too_odd_to_be_sized(metadata: dict[str, int]) -> None:
    header = shapes.SMOLLM2_135M.header()
    for tensors in (header.tensors, ()):
        odd = replace(header, metadata={"general.architecture": "llama", **metadata}, tensors=tensors)
        sizes = Sizes.of(odd)
        for kind in ("f32", "f16", "q8_0"):
            assert sizes.kv(Cache(4096, 2, kind), range(sizes.n_layers)) >= 0
            assert sizes.compute(Cache(4096, 2, kind), GPU_BATCH) >= 0
