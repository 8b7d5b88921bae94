"""Tests of sampling: the fast sampler keeps what the definitions keep, and draws in the stated proportions."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from eftlocal.arithmetic.distribution import Distribution
from eftlocal.arithmetic.noise import Noise
from eftlocal.arithmetic.sample import Sampling, warp
from eftlocal.errors import DecodeError, SettingError

Row = NDArray[np.float32]
OFF: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}  # every stage off
MARGIN = 1e-5  # when a border is nearer than this, float32 and float64 may place it differently


def softmax(logits: dict[int, float]) -> dict[int, float]:
    peak = max(logits.values())
    mass = {token: math.exp(z - peak) for token, z in logits.items()}
    total = math.fsum(mass.values())
    return {token: m / total for token, m in mass.items()}


def fewest(key: dict[int, float], p: dict[int, float], target: float, *, beyond: bool) -> set[int]:
    """The tokens in the order of (key, id), until their probabilities reach the target (`beyond`: exceed it)."""
    kept: set[int] = set()
    total = 0.0
    for token in sorted(p, key=lambda t: (key[t], t)):
        kept.add(token)
        total += p[token]
        assume(abs(total - target) > MARGIN or len(kept) == len(p))
        if total > target or (not beyond and total == target):
            break
    return kept


def slow(z: Row, s: Sampling, recent: list[int]) -> dict[int, float]:
    """The whole chain from its definition, in float64 and token by token: the survivors and their probabilities."""
    logits = {token: float(value) + s.logit_bias.get(token, 0.0) for token, value in enumerate(z)}
    window = [] if s.repeat_last_n == 0 else recent if s.repeat_last_n == -1 else recent[-s.repeat_last_n :]
    for token in set(window) & set(logits):  # llama.cpp, llama_sampler_penalties_apply
        if logits[token] <= 0:
            logits[token] *= s.repeat_penalty
        else:
            logits[token] /= s.repeat_penalty
        logits[token] -= window.count(token) * s.frequency_penalty + s.presence_penalty
    if s.temperature == 0:
        return {max(logits, key=lambda t: (logits[t], -t)): 1.0}
    logits = {token: value for token, value in logits.items() if value > -math.inf}
    if s.top_k > 0:
        order = sorted(logits, key=lambda t: (-logits[t], t))
        logits = {token: logits[token] for token in order[: s.top_k]}
    if s.typical_p < 1:
        p = softmax(logits)
        entropy = -math.fsum(q * math.log(q) for q in p.values() if q > 0)
        # Only equal logits may have distances so near that rounding decides their order.
        distance = {token: round(abs(-math.log(q) - entropy), 12) for token, q in p.items() if q > 0}
        near = sorted((d, logits[t]) for t, d in distance.items())
        assume(all(b - a > MARGIN or x == y for (a, x), (b, y) in pairwise(near)))
        logits = {t: logits[t] for t in fewest(distance, {t: p[t] for t in distance}, s.typical_p, beyond=True)}
    if s.top_p < 1:
        p = softmax(logits)
        logits = {t: logits[t] for t in fewest({t: -v for t, v in logits.items()}, p, s.top_p, beyond=False)}
    if s.min_p > 0:
        least = max(logits.values()) + math.log(s.min_p)
        assume(all(abs(value - least) > MARGIN for value in logits.values()) or s.min_p == 1)
        logits = {token: value for token, value in logits.items() if value >= least}
    return softmax({token: value / s.temperature for token, value in logits.items()})


def check(z: Row, sampling: Sampling, recent: list[int] | None = None) -> None:
    """Checks that warp() gives the same distribution as slow(), and that it does not change the row."""
    before = z.copy()
    wanted = slow(z, sampling, recent or [])
    found = warp(z, sampling, recent or [])
    assert np.array_equal(z, before)
    alive = found.ids[found.probabilities > 0]
    assert set(alive.tolist()) <= set(wanted)
    assert all(wanted[token] < 1e-30 for token in set(wanted) - set(alive.tolist()))
    dense = found.dense(len(z))
    for token in range(len(z)):
        assert dense[token] == pytest.approx(wanted.get(token, 0.0), rel=1e-4, abs=1e-9)
    np.testing.assert_array_equal(found.dense(len(z))[found.ids], found.probabilities)


# Logits on a grid have ties, and eighths are exact in float32.
GRID = st.integers(-40, 40).map(lambda n: n / 8) | st.just(-math.inf) | st.sampled_from([0.0, 1.0])
ROWS = arrays(np.float32, st.integers(1, 24), elements=GRID).filter(lambda z: bool(np.isfinite(z).any()))
P = st.floats(0.01, 0.99)


@given(ROWS, st.integers(1, 30))
def test_top_k_keeps_the_k_likeliest_and_of_equal_ones_the_lowest_ids(z: Row, k: int) -> None:
    check(z, Sampling(**OFF, top_k=k))


@given(ROWS, P)
def test_top_p_keeps_the_fewest_likeliest_that_reach_p(z: Row, p: float) -> None:
    check(z, Sampling(temperature=1.0, top_p=p))


@given(ROWS, P | st.just(1.0))
def test_min_p_keeps_what_is_at_least_that_fraction_as_likely_as_the_likeliest(z: Row, p: float) -> None:
    check(z, Sampling(**OFF, min_p=p))


@given(ROWS, P)
def test_typical_p_keeps_the_fewest_nearest_to_the_entropy_that_exceed_p(z: Row, p: float) -> None:
    check(z, Sampling(**OFF, typical_p=p))


@given(
    ROWS, st.sampled_from([0.5, 1.25, 2.0]), st.sampled_from([-1, 1, 5, 64]), st.lists(st.integers(0, 8), max_size=12)
)
def test_penalties_count_the_last_n_tokens(z: Row, penalty: float, last_n: int, recent: list[int]) -> None:
    s = Sampling(
        **OFF,
        repeat_penalty=penalty,
        repeat_last_n=last_n,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={0: 1},
    )
    check(z, s, recent)


def test_a_mass_of_exactly_p_reaches_the_nucleus_and_does_not_exceed_the_typical_set() -> None:
    z = np.zeros(4, np.float32)
    assert warp(z, Sampling(temperature=1.0, top_p=0.5), []).ids.tolist() == [0, 1]
    assert warp(z, Sampling(**OFF, typical_p=0.5), []).ids.tolist() == [0, 1, 2]


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.0]),
    top_k=st.integers(0, 25),
    top_p=P | st.just(1.0),
    min_p=st.floats(0.01, 0.5) | st.just(0.0),
    typical_p=P | st.just(1.0),
    repeat_penalty=st.sampled_from([1.0, 1.25, 0.5]),
    repeat_last_n=st.sampled_from([-1, 0, 1, 3, 64]),
    presence_penalty=st.sampled_from([0.0, 0.5, -0.25]),
    frequency_penalty=st.sampled_from([0.0, 0.25]),
    logit_bias=st.dictionaries(st.just(0), st.sampled_from([2.0, -1.5])),
)


@pytest.mark.slow
@settings(max_examples=300)
@given(ROWS, SAMPLINGS, st.lists(st.integers(0, 40), max_size=12))
def test_the_chain_is_its_stages_one_after_the_other(z: Row, sampling: Sampling, recent: list[int]) -> None:
    check(z, sampling, recent)


def peaked(n_vocab: int, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    z = rng.normal(-3, 2.5, n_vocab).astype(np.float32)
    z[rng.choice(n_vocab, 60, replace=False)] += np.linspace(16, 6, 60, dtype=np.float32)
    return z


def flat(n_vocab: int, seed: int) -> Row:
    return np.random.default_rng(seed).normal(0, 0.3, n_vocab).astype(np.float32)


def tied(n_vocab: int, seed: int) -> Row:
    return np.random.default_rng(seed).integers(-3, 3, n_vocab).astype(np.float32)


def far(n_vocab: int, seed: int) -> Row:
    """One likely token; the rest is so far below it that top-k and typical-p must use their widest range."""
    z = np.random.default_rng(seed).normal(-60, 20, n_vocab).astype(np.float32)
    z[[7, 99]] = 0, -np.inf
    return z


@pytest.mark.parametrize("row", [peaked, flat, tied, far])
@pytest.mark.parametrize(
    "stage",
    [
        {"top_k": 40},
        {"top_k": 3000},
        {"top_p": 0.9},
        {"top_p": 0.9999},
        {"min_p": 0.05},
        {"typical_p": 0.2},
        {"typical_p": 0.95},
        {"top_k": 2000, "typical_p": 0.9, "top_p": 0.8, "min_p": 0.01},
    ],
)
def test_candidates_are_widened_until_they_hold_the_whole_set(row: Any, stage: dict[str, Any]) -> None:
    """The vocabulary is so large that each stage narrows it first. On some rows that suffices, on others not."""
    z, sampling = row(5000, 1), Sampling(**{**OFF, **stage})
    found = warp(z, sampling, [])
    # The definition sorts everything. Rounding at the border may take or leave one token of thousands.
    wanted = reference(z, sampling)
    assert len(set(found.ids.tolist()) ^ set(wanted.tolist())) <= (1 if len(wanted) > 1000 else 0)


def reference(z: Row, s: Sampling) -> NDArray[np.intp]:
    """The surviving ids, by full sorts in float64."""
    ids = np.flatnonzero(z > -np.inf)
    if s.top_k:
        ids = ids[np.argsort(-z[ids], kind="stable")[: s.top_k]]
        ids.sort()
    for p, typical in ((s.typical_p, True), (s.top_p, False)):
        if p == 1:
            continue
        logp = z[ids].astype(np.float64)
        logp -= np.log(np.exp(logp - logp.max()).sum()) + logp.max()
        key = np.abs(logp - np.exp(logp) @ logp) if typical else -logp
        # Equal logits must have equal keys, so the keys are rounded.
        order = np.argsort(np.round(key, 9), kind="stable")
        sums = np.exp(logp[order]).cumsum()
        ids = np.sort(ids[order[: np.searchsorted(sums, p, side="right" if typical else "left") + 1]])
    return ids[z[ids] >= z[ids].max() + math.log(s.min_p)] if s.min_p else ids


DRAWN = {  # settings -> the tokens of a peaked, a flat and a tied row at four positions: a seed's text depends on them
    (0.7, 0.9): [2165, 1312, 6681, 5104, 1108, 7601, 3898, 5346, 1387, 7601, 1718, 7027],
    (0.7, 1.0): [2165, 1312, 6681, 5104, 1108, 7601, 3898, 5346, 1387, 7601, 1718, 7027],
    (1.2, 0.95, 40): [2165, 1312, 6681, 5104, 270, 7202, 6479, 329, 187, 156, 181, 159],
    (1.0, 1.0, 0, 0.05): [2165, 1312, 6681, 5104, 1108, 7601, 3898, 5346, 1387, 7601, 1718, 5280],
    (1.0, 0.99, 0, 0.0, 0.9): [2165, 1312, 6681, 5104, 1108, 7601, 3898, 5346, 1387, 7601, 1718, 5280],
}


@pytest.mark.parametrize("values", DRAWN)
def test_a_seed_draws_the_tokens_that_it_always_drew(values: tuple[float, ...]) -> None:
    names = ("temperature", "top_p", "top_k", "min_p", "typical_p")
    sampling = Sampling(**dict(zip(names, values, strict=False)))  # type: ignore[arg-type]  # of several types
    rows = [(row(8000, i), i) for row in (peaked, flat, tied) for i in range(4)]
    assert [warp(z, sampling, []).draw(Noise([5, i]), i) for z, i in rows] == DRAWN[values]


def test_greedy_is_the_first_of_the_likeliest_after_bias_and_penalties() -> None:
    z = np.array([1, 3, 3, 2], np.float32)
    for sampling, recent, token in (
        (Sampling(temperature=0), [], 1),
        (Sampling(temperature=0, typical_p=0.01), [], 1),
        (Sampling(temperature=0, repeat_penalty=2.0), [1], 2),
        (Sampling(temperature=0, presence_penalty=5.0), [1, 2], 3),
        (Sampling(temperature=0, logit_bias={1: -math.inf, 2: -2.5}), [], 3),
    ):
        distribution = warp(z, sampling, recent)
        assert distribution.draw(Noise([0]), 0) == token
        assert distribution.dense(4).tolist() == np.eye(4)[token].tolist()


def test_penalties_are_llama_cpps_formulas_over_the_last_n_tokens() -> None:
    z = np.array([2, -2, 0, 1, 4], np.float32)
    recent = np.array([4, 0, 0, 1, 2, 0, 900])  # 900 lies beyond the shared ids
    s = Sampling(**OFF, repeat_penalty=2.0, repeat_last_n=6, frequency_penalty=0.25, presence_penalty=0.5)
    after = np.array([2 / 2 - 3 * 0.25 - 0.5, -2 * 2 - 0.25 - 0.5, 0 - 0.25 - 0.5, 1, 4])  # 4 is out of the window
    assert warp(z, s, recent).dense(5) == pytest.approx(np.exp(after) / np.exp(after).sum(), rel=1e-6)
    assert warp(z, Sampling(**OFF, repeat_penalty=2.0, repeat_last_n=0), recent).dense(5) == pytest.approx(
        np.exp(z) / np.exp(z).sum(), rel=1e-6
    )


def test_temperature_comes_last_and_so_never_changes_what_survives() -> None:
    z = peaked(2000, 3)
    kept = [warp(z, Sampling(temperature=t, top_p=0.9, min_p=0.01), []).ids.tolist() for t in (1e-30, 0.5, 1, 5)]
    assert kept[0] == kept[1] == kept[2] == kept[3]


def chi_square(distribution: Distribution, draws: int, seed: int) -> tuple[float, int]:
    """Pearson's chi-square of the drawn against the stated frequencies, and its degrees of freedom."""
    noise = Noise([seed])
    ids, expected = distribution.ids, distribution.probabilities * draws
    counts = np.bincount([distribution.draw(noise, i) for i in range(draws)], minlength=int(ids[-1]) + 1)
    assert counts.sum() == counts[ids].sum()  # nothing else was drawn
    assert not counts[ids][expected == 0].any()
    rare = expected < 10  # these are too few for the statistic one by one, so they are counted together
    observed = np.append(counts[ids][~rare], counts[ids][rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected >= 10], expected[expected >= 10]
    return float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_p=1.0),
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=1.5, top_p=1.0, top_k=20, min_p=0.02),
        Sampling(temperature=0.9, top_p=1.0, typical_p=0.8),
    ],
)
def test_200_000_draws_come_in_the_stated_proportions(sampling: Sampling) -> None:
    """The vocabulary has 1,300 tokens, so that a draw also chooses among blocks."""
    z = np.random.default_rng(4).normal(0, 1.5, 1300).astype(np.float32)
    z[::7] = -np.inf
    statistic, freedom = chi_square(warp(z, sampling, []), 200_000, seed=5)
    assert freedom > 10
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)  # mean and four standard deviations


def test_a_certain_token_is_known_without_a_number() -> None:
    assert warp(np.array([1, 3, 2], np.float32), Sampling(temperature=0), []).only == 1
    assert warp(np.array([1, 9, 2], np.float32), Sampling(top_p=0.5), []).only == 1
    assert warp(np.array([1, 3, 2], np.float32), Sampling(top_p=1), []).only is None
    assert Distribution(np.ones(1, np.float32)).only == 0


def test_probabilities_of_a_large_vocabulary_sum_to_one_within_float32() -> None:
    z = flat(128_256, 8)
    exact = np.exp(z.astype(np.float64))
    found = warp(z, Sampling(**OFF), [])
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert found.probabilities == pytest.approx(exact / exact.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 1.01),
        ("top_p", -0.01),
        ("min_p", 2.0),
        ("typical_p", -1.0),
        ("repeat_penalty", 0.0),
        ("repeat_last_n", -2),
        ("presence_penalty", math.inf),
        ("frequency_penalty", -math.inf),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {3: math.inf}),
        *((name, math.nan) for name in Sampling.__slots__ if name != "logit_bias"),
        ("logit_bias", {3: math.nan}),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=name) as caught:
        Sampling(**{name: value})
    assert "must be" in caught.value.message


def test_a_bias_beyond_the_vocabulary_or_on_every_token_is_refused() -> None:
    z = np.zeros(3, np.float32)
    with pytest.raises(SettingError, match="token 3, but the vocabulary's last token is 2"):
        warp(z, Sampling(logit_bias={3: 1.0}), [])
    for temperature in (0.0, 1.0):
        with pytest.raises(SettingError, match="no token can follow"):
            warp(z, Sampling(temperature=temperature, logit_bias=dict.fromkeys(range(3), -math.inf)), [])


@pytest.mark.parametrize("bad", [[-math.inf] * 3, [0.0, math.nan, 1.0], [0.0, math.inf, 1.0]])
@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(), Sampling(typical_p=0.5, top_k=2)])
def test_a_row_that_is_no_distribution_is_refused(bad: list[float], sampling: Sampling) -> None:
    with pytest.raises(DecodeError, match="not a distribution"):
        warp(np.array(bad, np.float32), sampling, [])


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6, 1e6, 1e300])
def test_extreme_temperatures_and_logits_stay_numbers(temperature: float) -> None:
    z = np.array([-3e38, 1e4, 1e4, 0], np.float32)
    distribution = warp(z, Sampling(temperature=temperature, top_p=1.0), [])
    assert np.isfinite(distribution.probabilities).all()
    assert distribution.dense(4)[1] == distribution.dense(4)[2] > 0.2
