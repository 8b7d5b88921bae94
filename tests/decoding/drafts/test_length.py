"""Draft lengths: on simulated machines, the chosen lengths give nearly the tokens/s of the best fixed length.

A machine says how long it takes to check a number of rows and to guess a token; its times are noisy. A text says
whether the guess at each token is right. Both come from seeds; nothing is timed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eftlocal.decoding.drafts.length import AcceptanceRuns, DraftLength

START, AFTER = 100, 600  # tokens while DraftLength learns, and tokens that count
ROOM = 64  # tokens after the end that the last draft may reach
FIXED = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 15, 16)
SEEDS = range(16)


@dataclass(frozen=True)
class Machine:
    """Milliseconds to check a number of rows (interpolated between `rows`), and to make a guess."""

    rows: Mapping[int, float]
    guess: float
    phases: float = 1.0  # every other 150 tokens are slower by this factor, as on a busy machine

    def check(self, rows: int) -> float:
        known = sorted(self.rows)
        return float(np.interp(rows, known, [self.rows[n] for n in known]))

    def noise(self, rng: np.random.Generator, token: int) -> float:
        """The factor by which the step at this token is slower: mostly a little, sometimes a lot."""
        spike = rng.uniform(1.2, 2.0) if rng.random() < 0.05 else 1.0
        return float(np.exp(rng.normal(0, 0.03)) * spike * (self.phases if token // 150 % 2 else 1.0))


# SmolLM2-135M, measured on one thread: llama.cpp's kernels for repacked weights take 4 rows at a time.
Q4_0 = {1: 4.3, 2: 11.2, 3: 14.8, 4: 14.8, 5: 20.5, 6: 24, 7: 28, 8: 21.4, 12: 28.8, 16: 30.8, 17: 37.6, 64: 124}
F16 = {1: 8.8, 2: 15.7, 3: 17.2, 4: 18.6, 5: 20.2, 6: 21.7, 7: 25.8, 8: 37.9, 16: 42, 17: 53, 64: 168}
WIDE = {1: 14.4, 2: 20.2, 3: 21.6, 5: 27.4, 9: 36, 17: 56, 64: 210}  # a synthetic base of 300 MB in F16
NARROW = {1: 5, 2: 9, 3: 12.5, 5: 15, 9: 32, 17: 50, 64: 200}  # a synthetic base of width 256 in Q4_K_M
DEVICE = {1: 10, 8: 10.4, 17: 11, 64: 14}  # limited by memory bandwidth
KERNELS = {1: 10, 2: 11, 4: 14, 8: 20, 9: 22, 16: 22, 17: 22.5, 64: 25}  # another kernel from 9 rows on

Texts = NDArray[np.bool_]


def steady(share: float) -> Texts:
    """(seeds, tokens) whether each guess is right. All have the same chance."""
    return np.stack([np.random.default_rng(seed).random(START + AFTER + ROOM) < share for seed in SEEDS])


def in_runs(share: float) -> Texts:
    """The same share of right guesses, but they come in runs."""
    after_hit = (1 + share) / 2
    after_miss = share * (1 - after_hit) / (1 - share)
    texts = steady(0)
    for seed in SEEDS:
        hit = True
        for i, uniform in enumerate(np.random.default_rng(seed).random(texts.shape[1:])):
            texts[seed, i] = hit = bool(uniform < (after_hit if hit else after_miss))
    return texts


def changing(before: float, then: float) -> Texts:
    """The chance changes in the middle."""
    texts, half = steady(before), START + AFTER // 2
    texts[:, half:] = steady(then)[:, half:]
    return texts


Blocks = list[tuple[int, int, float]]  # for each step: tokens before it, draft length, milliseconds


def decode(machine: Machine, text: Texts, seed: int, length: int | DraftLength) -> Blocks:
    """Decode a text, (tokens,), with drafts of a fixed length, or of the lengths that DraftLength chooses."""
    rng, token, blocks = np.random.default_rng(1000 + seed), 0, Blocks()
    while token < len(text) - ROOM:
        n = length.draft_model(31) if isinstance(length, DraftLength) else length
        noise = machine.noise(rng, token)
        guesses, check = noise * n * machine.guess, noise * machine.check(n + 1)
        right = next((i for i in range(n) if not text[token + i]), n)
        if isinstance(length, DraftLength):
            tell(length, n, guesses, check, text[token : token + right + 1].tolist())
        blocks.append((token, n, guesses + check))
        token += right + 1
    return blocks


def tell(lengths: DraftLength, n: int, guesses: float, check: float, hits: Sequence[bool]) -> None:
    if n:
        lengths.drafted(n, guesses)
    lengths.checked(n + 1, check)
    lengths.saw(hits)


def per_token(blocks: Blocks, start: int) -> float:
    """Milliseconds for a token, over the steps from the token `start` on."""
    own = [(token, ms) for token, _, ms in blocks if token >= start]
    return sum(ms for _, ms in own) / (START + AFTER - own[0][0])


def shares(machine: Machine, texts: Texts) -> tuple[float, float]:
    """The tokens/s of DraftLength divided by those of the best fixed length, over all these texts.

    Returns two shares: without the first START tokens, and with them.
    """
    ways = {n: [decode(machine, text, seed, n) for seed, text in enumerate(texts)] for n in FIXED}
    mine = [decode(machine, text, seed, DraftLength()) for seed, text in enumerate(texts)]

    def mean(runs: Sequence[Blocks], start: int) -> float:
        return float(np.mean([per_token(blocks, start) for blocks in runs]))

    after, whole = (min(mean(runs, start) for runs in ways.values()) / mean(mine, start) for start in (START, 0))
    return after, whole


# The comments give the best fixed length; 0 means no drafts.
CASES = {
    "quantized, guesses often wrong": (Machine(Q4_0, 0.2), steady(0.6)),  # 0
    "quantized": (Machine(Q4_0, 0.2), steady(0.9)),  # 7
    "quantized, in runs": (Machine(Q4_0, 0.2), in_runs(0.85)),  # 0
    "quantized, first right then wrong": (Machine(Q4_0, 1.0), changing(0.95, 0.5)),  # 0
    "quantized, first wrong then right": (Machine(Q4_0, 0.2), changing(0.4, 0.93)),  # 0
    "F16, guesses often wrong": (Machine(F16, 2.0), steady(0.3)),  # 0
    "F16": (Machine(F16, 0.2), steady(0.9)),  # 5
    "F16, slower now and then": (Machine(F16, 0.2, phases=1.3), steady(0.8)),  # 5
    "F16, slow guesses, in runs": (Machine(F16, 2.0), in_runs(0.85)),  # 5
    "wide": (Machine(WIDE, 0.2), steady(0.96)),  # 15
    "wide, slower now and then": (Machine(WIDE, 0.2, phases=1.3), steady(0.9)),  # 8
    "wide, slow guesses": (Machine(WIDE, 2.0), steady(0.8)),  # 3
    "narrow": (Machine(NARROW, 0.2), steady(0.9)),  # 4
    "device": (Machine(DEVICE, 1.0), steady(0.9)),  # 11
    "device, slow guesses, slower now and then": (Machine(DEVICE, 3.0, phases=1.3), steady(0.8)),  # 3
    "two kernels, in runs": (Machine(KERNELS, 0.5), in_runs(0.85)),  # 15
    "two kernels, first right then wrong": (Machine(KERNELS, 0.5), changing(0.95, 0.5)),  # 3
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_chosen_lengths_decode_as_fast_as_the_best_fixed_one(case: str) -> None:
    after, whole = shares(*CASES[case])
    assert after >= 0.97 and whole >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Machine(Q4_0, 0.2), Machine(F16, 8.8), Machine(NARROW, 1.0)])
def test_where_guessing_never_pays_it_is_hardly_tried(machine: Machine) -> None:
    for seed, text in enumerate(steady(0.5)):
        assert sum(n > 0 for _, n, _ in decode(machine, text, seed, DraftLength())) <= 12


def test_the_more_is_known_the_less_is_tried() -> None:
    text = np.random.default_rng(5).random(6000 + ROOM) < 0.8
    blocks = decode(Machine(F16, 0.2), text, 0, DraftLength())
    good = {4, 5, 6}  # within 3% of each other
    early = [n for token, n, _ in blocks if token < 1000]
    late = [n for token, n, _ in blocks if token >= 5000]
    assert sum(n not in good for n in late) <= min(0.03 * len(late), sum(n not in good for n in early))


def test_a_machine_that_comes_to_reward_guessing_is_noticed() -> None:
    # As in a growing context: reading the KV cache, which all rows share, becomes the largest cost.
    lengths, text = DraftLength(), np.random.default_rng(1).random(4000 + ROOM) < 0.8
    assert decode(Machine(Q4_0, 0.2), text, 0, lengths)[-1][1] == 0
    later = {rows: 6 + ms for rows, ms in Q4_0.items()}
    assert np.mean([n > 0 for token, n, _ in decode(Machine(later, 0.2), text, 0, lengths) if token > 3000]) > 0.9


@pytest.mark.parametrize(("sequences", "share", "pays"), [(16, 0.8, False), (8, 0.7, True), (2, 0.95, True)])
def test_several_sequences_draft_where_their_rows_leave_room(sequences: int, share: float, pays: bool) -> None:
    machine, lengths, rng, most = Machine(F16, 0.2), DraftLength(), np.random.default_rng(0), 64 // sequences - 1
    rates: dict[int | str, list[float]] = {n: [] for n in (*range(min(most + 1, 8)), "auto")}
    for _ in range(200):
        hits = rng.random((sequences, most + 1)) < share
        for way, own in rates.items():
            n = lengths.draft_model(most, sequences) if way == "auto" else int(way)
            ms, check = n * machine.guess, machine.check(sequences * (n + 1)) * rng.uniform(1, 1.05)
            taken = [row[: n + 1][: 1 + next((i for i in range(n) if not row[i]), n)].tolist() for row in hits]
            if way == "auto":
                if n:
                    lengths.drafted(n, ms, sequences)
                lengths.checked(sequences * (n + 1), check)
                lengths.saw([hit for row in taken for hit in row])
            own.append(sum(map(len, taken)) / (ms + check))
    best = max(np.mean(rates[n]) for n in range(min(most + 1, 8)))
    assert np.mean(rates["auto"]) >= 0.97 * best
    assert (best > 1.03 * np.mean(rates[0])) == pays


def test_what_is_known_of_so_many_rows_serves_another_number_of_sequences() -> None:
    lengths = DraftLength()
    for rows, ms in ((16, 30.0), (32, 60.0), (48, 90.0), (64, 120.0)):
        for _ in range(8):
            lengths.draft_model(3, 16)
            lengths.checked(rows, ms)
    lengths.drafted(1, 1.0, 16)
    lengths.saw([True, True, False, False] * 100)
    # Answers end one after the other, and no new length is tried.
    assert all(lengths.draft_model(64 // n - 1, n) == 0 for n in (16, 15, 14, 13))


# --- what guesses are worth -------------------------------------------------------------------------------------------


def per_block(hits: Sequence[bool | None], length: int) -> float:
    runs = AcceptanceRuns([length])
    runs.saw([*hits, None])
    return runs.per_block(length)


def test_blocks_are_replayed_from_hits_in_a_row() -> None:
    assert per_block([True, True, False, True], 0) == 1
    assert per_block([True, True, False] * 4, 2) == 3
    assert per_block([True, True, True, False], 1) == 2
    assert per_block([False] * 9, 8) == 1
    assert per_block([True, True, None, True, True], 3) == 2  # the end of an answer cuts a draft short
    assert per_block([], 3) == 1


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 7))
def test_a_replay_is_what_blocks_of_that_length_would_have_given(hits: list[bool], length: int) -> None:
    token = blocks = 0
    while token < len(hits):
        token += 1 + next((i for i, hit in enumerate(hits[token : token + length]) if not hit), length)
        blocks += 1
    assert per_block(hits, length) == (len(hits) / blocks if blocks else 1)


def test_older_guesses_count_less() -> None:
    runs = AcceptanceRuns([3], half=50)
    runs.saw([False] * 500)
    assert runs.per_block(3) == pytest.approx(1)
    runs.saw([True] * 200)
    assert runs.per_block(3) > 1.3  # a run counts even before it ends
    runs.saw([False, *[True] * 200, False])
    assert runs.per_block(3) > 3.5
