"""The oracle agrees with a computation that shares nothing with llama.cpp, and the tiny models are what they say."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from tests import oracle
from tests.families import VOCAB, Family, Trio, quantized, read_weights, write_model
from tests.oracle import Member, Reward

TOKENS = np.random.default_rng(0).integers(0, len(VOCAB), 80).tolist()
PROMPT, GENERATED = TOKENS[:9], TOKENS[9:20]
LLAMAS = ("base", "tuned", "reference", "tuned2", "reference2", "padded", "other_vocabulary", "no_template", "with_bos")


@pytest.mark.parametrize("name", LLAMAS)
def test_numpy_and_llama_cpp_agree_at_every_position(family: Family, name: str) -> None:
    path: Path = getattr(family, name)
    expected = oracle.numpy_llama(read_weights(path), TOKENS)
    np.testing.assert_allclose(oracle.log_probabilities(path, TOKENS), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_a_lora_adapter_is_added_to_the_weights(family: Family, scale: float) -> None:
    merged = oracle.numpy_llama(read_weights(family.reference).with_lora(family.lora, scale), TOKENS)
    adapted = oracle.log_probabilities(family.reference, TOKENS, lora=family.lora, lora_scale=scale)
    np.testing.assert_allclose(adapted, merged, rtol=0, atol=1e-4)
    assert np.abs(adapted - oracle.log_probabilities(family.reference, TOKENS)).max() > 1.0


@pytest.mark.parametrize("name", [*LLAMAS, "other_specials", "sliding", "recurrent"])
def test_logits_spread_over_a_few_nats_and_depend_on_the_first_token(family: Family, name: str) -> None:
    rows = oracle.log_probabilities(getattr(family, name), TOKENS[:20])[:, : len(VOCAB)]
    changed = oracle.log_probabilities(getattr(family, name), [TOKENS[0] ^ 1, *TOKENS[1:20]])[:, : len(VOCAB)]
    assert 2.0 < rows.std(axis=-1).mean() < 4.0
    assert np.abs(rows - changed).mean(axis=-1).min() > 0.05


def test_a_sliding_window_forgets(tmp_path: Path) -> None:
    """Two layers that each see 8 tokens: position 14 is the last that the first token reaches."""
    path = write_model(tmp_path / "sliding.gguf", seed=1, d_model=32, architecture="gemma3", sliding_window=8)
    rows = oracle.log_probabilities(path, TOKENS[:20])
    difference = np.abs(rows - oracle.log_probabilities(path, [TOKENS[0] ^ 1, *TOKENS[1:20]])).max(axis=-1)
    assert difference[14] > 1e-3
    assert difference[15:].max() == 0.0


def test_the_vocabulary_has_words_and_parts_of_characters(family: Family) -> None:
    model = llama_cpp.Llama(str(family.tuned), vocab_only=True, verbose=False)
    ids = model.tokenize("Hello the é日😀".encode(), add_bos=False)
    model.close()
    start, last = "😀".encode()[:3], "😀".encode()[3:]
    assert ids == [VOCAB.id(text) for text in ("Hello", " the", " ", "é", "日", start, last)]


@pytest.mark.parametrize("ftype, size, error", [("F16", 0.6, 0.05), ("Q8_0", 0.4, 0.25), ("Q4_0", 0.3, 2.5)])
def test_quantized_models_are_smaller_and_less_exact(
    family: Family, tmp_path: Path, ftype: str, size: float, error: float
) -> None:
    path = quantized(family.tuned, getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{ftype}"), tmp_path / f"{ftype}.gguf")
    assert path.stat().st_size < size * family.tuned.stat().st_size
    difference = np.abs(oracle.log_probabilities(path, TOKENS) - oracle.log_probabilities(family.tuned, TOKENS))
    assert error / 100 < difference.mean() < error


def test_row_t_is_the_distribution_that_token_t_was_drawn_from(family: Family) -> None:
    rows = oracle.combined(Member(family.base, PROMPT), [], GENERATED)
    assert rows.shape == (len(GENERATED) + 1, len(VOCAB))
    for t in range(len(rows)):
        separately = oracle.log_probabilities(family.base, [*PROMPT, *GENERATED[:t]])
        np.testing.assert_allclose(rows[t], separately[-1], rtol=0, atol=1e-4)


def test_beta_zero_is_the_base(family: Family) -> None:
    reward = Reward(Member(family.tuned, PROMPT), Member(family.reference, PROMPT), beta=0.0)
    rows = oracle.combined(Member(family.base, PROMPT), [reward], GENERATED)
    np.testing.assert_allclose(rows, oracle.combined(Member(family.base, PROMPT), [], GENERATED), atol=1e-12)


def test_a_base_that_is_the_reference_becomes_the_tuned_model(family: Family) -> None:
    reference, tuned = Member(family.reference, PROMPT), Member(family.tuned, TOKENS[30:45])
    rows = oracle.combined(reference, [Reward(tuned, reference, beta=1.0)], GENERATED)
    np.testing.assert_allclose(rows, oracle.combined(tuned, [], GENERATED), atol=1e-12)


def test_a_reward_given_twice_is_its_double_and_their_order_does_not_matter(family: Family) -> None:
    base = Member(family.base, PROMPT)
    one = Reward(Member(family.tuned, PROMPT), Member(family.reference, PROMPT), beta=0.5)
    other = Reward(Member(family.tuned2, PROMPT), Member(family.reference2, PROMPT), beta=-0.3)
    double = Reward(one.tuned, one.reference, beta=1.0)
    rows = oracle.combined(base, [one, other, one], GENERATED)
    np.testing.assert_allclose(rows, oracle.combined(base, [other, double], GENERATED), atol=1e-12)
    np.testing.assert_allclose(np.exp(rows).sum(axis=-1), 1.0, atol=1e-12)


def test_reward_top_p_of_one_changes_nothing_and_of_nearly_zero_rewards_one_token(family: Family) -> None:
    base, tuned = Member(family.base, PROMPT), Member(family.tuned, PROMPT)
    reward = Reward(tuned, Member(family.reference, PROMPT), beta=1.5)
    whole = oracle.combined(base, [reward], GENERATED)
    np.testing.assert_array_equal(oracle.combined(base, [reward], GENERATED, reward_top_p=1.0), whole)

    narrow = oracle.combined(base, [reward], GENERATED, reward_top_p=1e-9)
    plain, favourite = oracle.combined(base, [], GENERATED), oracle.combined(tuned, [], GENERATED).argmax(axis=-1)
    for t in range(len(narrow)):
        others = np.delete(narrow[t] - plain[t], favourite[t])
        np.testing.assert_allclose(others, others[0], atol=1e-12)  # what the normalisation takes from all alike


def test_the_nucleus_is_the_smallest_set_that_reaches_p() -> None:
    rows = np.log([0.1, 0.4, 0.2, 0.3])
    for p, expected in [(0.0001, [1]), (0.4, [1]), (0.5, [1, 3]), (0.95, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3])]:
        assert np.flatnonzero(oracle.nucleus(rows, p)).tolist() == expected


def test_padding_is_cut_before_it_is_normalised(family: Family) -> None:
    base, padded = Member(family.base, PROMPT), Member(family.padded, PROMPT)
    reward = Reward(padded, Member(family.reference, PROMPT), beta=1.0)
    rows = oracle.combined(base, [reward], GENERATED)
    assert rows.shape[1] == len(VOCAB) < oracle.log_probabilities(family.padded, PROMPT).shape[1]
    cut = oracle.combined(base, [reward], GENERATED, n_real=300)
    np.testing.assert_allclose(cut, oracle.log_softmax(rows[:, :300]), atol=1e-12)


def test_unrewarded_tokens_keep_their_odds_against_each_other(family: Family) -> None:
    base = Member(family.base, PROMPT)
    reward = Reward(Member(family.other_specials, PROMPT), Member(family.reference, PROMPT), beta=1.0)
    rows = oracle.combined(base, [reward], GENERATED, unrewarded=[314, 315])
    plain = oracle.combined(base, [], GENERATED)
    np.testing.assert_allclose(rows[:, 314] - rows[:, 315], plain[:, 314] - plain[:, 315], atol=1e-12)


@pytest.mark.slow
def test_the_quantizations_of_smollm2_differ(smollm2_trio: Trio) -> None:
    tokens = [1, 4093, 198, 19556, 2]  # <|im_start|>user\nHello<|im_end|>
    rows = [oracle.log_probabilities(path, tokens) for path in vars(smollm2_trio).values()]
    assert {row.shape for row in rows} == {(len(tokens), 49_152)}
    for row in rows[1:]:
        assert 0.05 < np.abs(row - rows[0]).mean() < 2.0
