"""Matchers: which tokens may follow, wherever in an answer they are asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.constraints.matcher import Grammars
from eftlocal.errors import SettingError
from tests.decoding.constraints.made import CONSTRAINTS, ENDS


@given(st.integers(0, len(CONSTRAINTS) - 1), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_matcher_that_is_taken_back_and_forth_answers_as_a_new_one(grammars: Grammars, which: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    used, tokens = grammars.matcher(CONSTRAINTS[which]), list[int]()
    for _ in range(40):
        allowed = used.allowed(tokens).copy()
        fresh = grammars.matcher(CONSTRAINTS[which])
        np.testing.assert_array_equal(allowed, fresh.allowed(tokens))
        assert used.forced(tokens) == fresh.forced(tokens) and used.ended(tokens) == fresh.ended(tokens)
        assert allowed.any()
        choice = int(rng.choice(np.flatnonzero(allowed)))
        if choice in ENDS or rng.random() < 0.2:
            tokens = tokens[: int(rng.integers(0, len(tokens) + 1))]
        else:
            tokens = [*tokens, choice]


def test_ends_are_allowed_exactly_where_a_text_is_whole(grammars: Grammars) -> None:
    matcher = grammars.matcher(Constraint.choice(["yes", "yes please", "no"]))
    for text, whole, ended in (("", False, False), ("yes", True, False), ("yes ", False, False), ("no", True, True)):
        assert matcher.complete(text) is whole
        assert [bool(matcher.allowed(list(text.encode()))[end]) for end in ENDS] == [whole, whole]
        assert matcher.ended(list(text.encode())) is ended
    assert not matcher.complete("maybe")


def test_guesses_are_cut_at_the_first_that_may_not_come(grammars: Grammars) -> None:
    matcher = grammars.matcher(Constraint.regex("[a-d]{3}"))
    assert matcher.fitting([], list(b"abxd")) == 2
    assert matcher.fitting(list(b"ab"), list(b"cd")) == 1
    assert matcher.fitting(list(b"abc"), list(b"d")) == 0


def test_a_text_that_no_token_can_continue_is_an_error_and_not_an_answer() -> None:
    without_b = Grammars([b"a", b"c", b""], [2], lambda text: [])
    matcher = without_b.matcher(Constraint.regex("acc?(b|d)"))
    assert matcher.allowed([0]).tolist() == [False, True, False]
    for ask in (matcher.allowed, matcher.ended):
        with pytest.raises(SettingError, match="after 3 tokens of the answer, no token of the models can follow"):
            ask([0, 1, 1])
    assert not matcher.complete("acc")
    assert matcher.allowed([0]).tolist() == [False, True, False]
    with pytest.raises(SettingError, match="cannot be satisfied: no token of the models can follow"):
        without_b.matcher(Constraint.regex("b")).allowed([])
