"""The engine gives the same logits as an independent oracle, and its fast paths the same as its slow ones."""

from collections.abc import Iterator
from typing import Any

import llama_cpp
import numpy as np
import pytest

from eftlocal.arithmetic.combine import Combiner, Mix, Pair, log_softmax
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request
from eftlocal.errors import DecodeError, ModelLoadError
from eftlocal.runtime.llama import context as llama_context
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.plan.threads import Split
from tests import oracle
from tests.engine.made import ANSWER, PROMPTS, cold, engine, rows, same
from tests.families import Family
from tests.faults import fail_decode

N_REAL = 316


@pytest.fixture
def trio(family: Family) -> Iterator[Engine]:
    made = engine([family.base, family.tuned, family.reference], n_slots=3)
    yield made
    made.close()


@pytest.mark.parametrize("reward_top_p", [None, 0.8])
@pytest.mark.parametrize("n_rewards", [1, 2])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, -0.5])
def test_combined_log_probabilities_agree_with_the_oracle_at_every_position(
    family: Family, beta: float, n_rewards: int, reward_top_p: float | None
) -> None:
    paths = [family.base, family.tuned, family.reference, family.tuned2, family.reference2]
    pairs = (Pair(1, 2, beta), Pair(3, 4, 0.3))[:n_rewards]
    made = engine(paths)
    try:
        mix = Mix(5, 0, pairs, reward_top_p)
        slot = made.begin({member: PROMPTS[member] for member in mix.active})
        slot.tokens = list(ANSWER)
        n = len(ANSWER) + 1
        z = Combiner(list("01234"), N_REAL).combine(made.forward([Request(slot, n, mix.active)]), [mix] * n)
    finally:
        made.close()
    members = [oracle.Member(path, PROMPTS[i]) for i, path in enumerate(paths)]
    expected = oracle.combined(
        members[0],
        [oracle.Reward(members[pair.tuned], members[pair.reference], pair.beta) for pair in pairs],
        ANSWER,
        reward_top_p=reward_top_p,
        n_real=N_REAL,
    )
    np.testing.assert_allclose(log_softmax(z), expected, atol=1e-4)


def test_three_rewards_with_an_adapter_and_padding_agree_with_the_oracle(family: Family) -> None:
    paths = [family.padded, family.reference, family.reference, family.tuned2, family.reference2, family.tuned]
    made = engine(paths, lora=family.lora)
    prompts = {**PROMPTS, 5: [7, 7, 7]}
    pairs = (Pair(1, 2, 0.8), Pair(3, 4, -0.6), Pair(5, 2, 0.4))
    try:
        mix = Mix(6, 0, pairs)
        slot = made.begin(prompts)
        slot.tokens = list(ANSWER)
        n = len(ANSWER) + 1
        z = Combiner(list("012345"), N_REAL).combine(made.forward([Request(slot, n, mix.active)]), [mix] * n)
    finally:
        made.close()
    members = [oracle.Member(path, prompts[i], family.lora if i == 1 else None) for i, path in enumerate(paths)]
    rewards = [oracle.Reward(members[p.tuned], members[p.reference], p.beta) for p in pairs]
    expected = oracle.combined(members[0], rewards, ANSWER, n_real=N_REAL)
    np.testing.assert_allclose(log_softmax(z), expected, atol=1e-4)


def test_token_by_token_equals_one_prefill(family: Family, trio: Engine) -> None:
    prompts = {m: PROMPTS[m] for m in range(3)}
    slot = trio.begin(prompts)
    for i in range(len(ANSWER)):
        slot.tokens.append(ANSWER[i])
        step = rows(trio, slot, 1)
    same(step, cold([family.base, family.tuned, family.reference], prompts, ANSWER, 1))


def test_chunked_prefill_equals_one_chunk(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, prompts = [family.base, family.tuned], {0: [i % 250 for i in range(150)], 1: [i % 99 for i in range(97)]}
    sizes: list[int] = []
    decode = llama_cpp.llama_decode

    def spy(handle: object, batch: Any) -> int:
        sizes.append(batch.n_tokens)
        return int(decode(handle, batch))

    whole = cold(paths, prompts, ANSWER, 5)
    monkeypatch.setattr(llama_context, "CPU_BATCH", 16)
    monkeypatch.setattr(llama_cpp, "llama_decode", spy)
    same(whole, cold(paths, prompts, ANSWER, 5))
    assert max(sizes) == 16 and sum(sizes) == 150 + 97 + 2 * len(ANSWER)


def test_prefix_reuse_over_three_turns_equals_a_cold_start_and_feeds_only_new_tokens(
    family: Family, trio: Engine
) -> None:
    paths = [family.base, family.tuned, family.reference]
    history = {m: list(PROMPTS[m]) for m in range(3)}
    for turn in range(3):
        before = dict(trio.workers.n_fed)
        slot = trio.begin(history)
        rows(trio, slot, 1)
        first = trio.workers.n_fed
        for token in ANSWER:
            slot.tokens.append(token)
            last = rows(trio, slot, 1)
        trio.end(slot)
        same(last, cold(paths, history, ANSWER, 1))
        new = {m: [200 + turn, 3, 4] for m in range(3)}
        if turn:  # only the tokens after the last turn are new
            assert {m: first[m] - before[m] for m in range(3)} == {m: len(new[m]) for m in range(3)}
        history = {m: history[m] + ANSWER + new[m] for m in range(3)}


def test_a_truncated_sequence_that_goes_on_differently_equals_never_having_taken_those_tokens(
    family: Family, trio: Engine
) -> None:
    prompts = {m: PROMPTS[m] for m in range(3)}
    slot = trio.begin(prompts)
    slot.tokens = list(ANSWER)
    rows(trio, slot, 4)
    slot.truncate(5)
    slot.tokens += [9, 8, 7]
    same(rows(trio, slot, 1), cold([family.base, family.tuned, family.reference], prompts, [*ANSWER[:5], 9, 8, 7], 1))


def test_several_sequences_in_one_decode_equal_one_at_a_time(family: Family, trio: Engine) -> None:
    paths = [family.base, family.tuned, family.reference]
    starts = [{m: [i + 1, *PROMPTS[m]] for m in range(3)} for i in range(3)]
    slots = [trio.begin(start) for start in starts]
    answers: list[list[int]] = [[], [], []]
    for token in ANSWER[:6]:
        for i, slot in enumerate(slots):
            slot.tokens.append(token + i)
            answers[i].append(token + i)
        together = trio.forward([Request(slot, 1, (0, 1, 2)) for slot in slots])
    for i in range(3):
        same({m: z[i : i + 1] for m, (z, _) in together.items()}, cold(paths, starts[i], answers[i], 1))


def test_sequences_with_members_and_row_counts_of_their_own_get_their_own_rows(family: Family, trio: Engine) -> None:
    paths = [family.base, family.tuned, family.reference]
    first = trio.begin({m: PROMPTS[m] for m in range(3)})
    second = trio.begin({0: [77, 78]})
    first.tokens, second.tokens = list(ANSWER[:4]), list(ANSWER[:6])
    parts = trio.forward([Request(first, 2, (0, 1, 2)), Request(second, 3, (0,))])
    assert parts[0][0].shape[0] == 5 and parts[0][1] == slice(None)
    assert isinstance(parts[1][1], np.ndarray) and parts[1][1].tolist() == [0, 1]
    same({0: parts[0][0][2:]}, cold(paths, {0: [77, 78]}, ANSWER[:6], 3))
    same(
        {m: z[:2] for m, (z, _) in parts.items()},
        cold(paths, {m: PROMPTS[m] for m in range(3)}, ANSWER[:4], 2),
    )


def test_requests_in_another_order_than_the_slots_get_their_own_rows(family: Family, trio: Engine) -> None:
    paths = [family.base, family.tuned, family.reference]
    starts = [{0: [10 * i + 1, 2], 1: [10 * i + 3], 2: [4, 10 * i + 5, 6]} for i in range(3)]
    slots = [trio.begin(start) for start in starts]
    for i, slot in enumerate(slots):
        slot.tokens = list(ANSWER[i : i + 3])
    together = trio.forward([Request(slots[i], i + 1, (0, 1, 2)) for i in (2, 0, 1)])
    for i, mine in ((2, slice(0, 3)), (0, slice(3, 4)), (1, slice(4, 6))):
        same({m: z[mine] for m, (z, _) in together.items()}, cold(paths, starts[i], ANSWER[i : i + 3], i + 1))


def test_a_sequence_goes_on_in_another_slot_without_being_fed_again(family: Family, trio: Engine) -> None:
    paths = [family.base, family.tuned, family.reference]
    prompts = {m: PROMPTS[m] for m in range(3)}
    first, second = trio.begin({m: [9] for m in range(3)}), trio.begin(prompts)
    second.tokens = list(ANSWER[:4])
    rows(trio, second, 1)
    trio.end(first)
    before = dict(trio.workers.n_fed)
    trio.move(second, first)
    assert second.free and not first.free
    first.tokens.append(5)
    got = rows(trio, first, 1)
    assert {m: trio.workers.n_fed[m] - before[m] for m in range(3)} == {0: 1, 1: 1, 2: 1}
    same(got, cold(paths, prompts, [*ANSWER[:4], 5], 1))


def test_a_sequence_that_begins_like_another_copies_that_beginning_instead_of_computing_it(
    family: Family, trio: Engine
) -> None:
    shared = list(range(1, 60))
    first = trio.begin(dict.fromkeys(range(3), shared))
    rows(trio, first, 1)
    before = dict(trio.workers.n_fed)
    second = trio.begin({m: [*shared, 70 + m] for m in range(3)})
    assert second is not first
    got = rows(trio, second, 1)
    assert {m: trio.workers.n_fed[m] - before[m] for m in range(3)} == {0: 1, 1: 1, 2: 1}
    paths = [family.base, family.tuned, family.reference]
    same(got, cold(paths, {m: [*shared, 70 + m] for m in range(3)}, [], 1))
    first.tokens.append(5)
    same(rows(trio, first, 1), cold(paths, dict.fromkeys(range(3), shared), [5], 1))


@pytest.mark.parametrize("kind", ["base", "recurrent", "sliding"])
def test_what_follows_a_forget_is_to_the_last_bit_what_a_cold_start_gives(family: Family, kind: str) -> None:
    paths, prompts = [getattr(family, kind), family.tuned], {0: list(range(40)), 1: list(range(40))}
    made = engine(paths, n_slots=2)
    try:
        running = made.begin({0: [5, 6, 7], 1: [5, 6, 7]})
        slot = made.begin({0: list(range(30)), 1: list(range(30))})
        slot.tokens = [9, 8]
        rows(made, slot, 1, (0, 1))
        made.end(slot)
        rows(made, running, 1, (0, 1))
        made.forget()
        before = dict(made.workers.n_fed)
        again = made.begin(prompts)
        found = rows(made, again, 1, (0, 1))
        assert {m: made.workers.n_fed[m] - before[m] for m in (0, 1)} == {0: 40, 1: 40}
        running.tokens.append(3)
        rows(made, running, 1, (0, 1))  # what runs keeps its cache
        assert {m: made.workers.n_fed[m] - before[m] for m in (0, 1)} == {0: 41, 1: 41}
    finally:
        made.close()
    for member, expected in cold(paths, prompts, [], 1).items():
        np.testing.assert_array_equal(found[member], expected)


@pytest.mark.parametrize("kind", ["recurrent", "sliding"])
def test_a_cache_that_cannot_simply_be_rewound_is_never_silently_wrong(family: Family, kind: str) -> None:
    paths = [getattr(family, kind), family.tuned]
    prompts = {0: list(range(40)), 1: list(range(40))}
    # gemma3 rounds some activations to float16: 1.4e-3 between batch shapes was seen
    tolerance = 5e-3 if kind == "sliding" else 1e-4
    made = engine(paths, n_slots=2)
    try:
        slot = made.begin(prompts)
        slot.tokens = list(ANSWER)
        rows(made, slot, 3, (0, 1))
        slot.truncate(4)  # a rejected draft
        slot.tokens += [9, 8]
        again = rows(made, slot, 2, (0, 1))
        made.end(slot)
        slot = made.begin({0: [*range(20), 5], 1: [*range(20), 5]})  # a conversation that is cut in its middle
        cut = rows(made, slot, 1, (0, 1))
        other = made.begin({0: [*range(20), 6], 1: [*range(20), 6]})  # another one, which copies a part of it
        forked = rows(made, other, 1, (0, 1))
    finally:
        made.close()
    for got, start, tokens, n in (
        (again, prompts, [*ANSWER[:4], 9, 8], 2),
        (cut, {0: [*range(20), 5], 1: [*range(20), 5]}, [], 1),
        (forked, {0: [*range(20), 6], 1: [*range(20), 6]}, [], 1),
    ):
        expected = cold(paths, start, tokens, n)
        for member, z in got.items():
            np.testing.assert_allclose(z, expected[member], atol=tolerance)


@pytest.mark.parametrize("kind", ["base", "sliding", "recurrent"])
def test_caches_that_grow_keep_what_they_hold(family: Family, kind: str) -> None:
    paths = [getattr(family, kind), family.tuned]
    prompts = {0: list(range(40)), 1: list(range(50, 80))}
    made = engine(paths, n_slots=1)
    try:
        slot = made.begin(prompts)
        slot.tokens = list(ANSWER)
        rows(made, slot, 1, (0, 1))
        made.end(slot)
        before = dict(made.workers.n_fed)
        made.reserve(3, 300)
        assert len(made.slots) == 3 and made.n_ctx == 300
        slot = made.begin({m: prompt + ANSWER for m, prompt in prompts.items()})
        other = made.begin({m: [*prompt, *ANSWER, 7] for m, prompt in prompts.items()})  # a copy of that
        slot.tokens, other.tokens = [5, 6], [6]
        found = made.forward([Request(slot, 2, (0, 1)), Request(other, 1, (0, 1))])
        got = {member: z.copy() for member, (z, _) in found.items()}
        fed = {m: made.workers.n_fed[m] - n for m, n in before.items()}
    finally:
        made.close()
    new = 4  # two new tokens in each of the sequences
    assert fed[1] == new
    assert fed[0] == new if kind != "sliding" else fed[0] > len(prompts[0])
    for part, tokens in ((slice(0, 2), [*ANSWER, 5, 6]), (slice(2, 3), [*ANSWER, 7, 6])):
        expected = cold(paths, prompts, tokens, part.stop - part.start)
        for member, z in got.items():
            np.testing.assert_allclose(z[part], expected[member], atol=5e-3 if kind == "sliding" else 1e-4)


def test_caches_that_cannot_grow_have_their_old_size_again(
    family: Family, trio: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = {m: list(range(30)) for m in range(3)}
    trio.end(trio.begin(prompts))
    real = Context.__init__

    def small(*args: Any, n_seq: int, **options: Any) -> None:
        if n_seq > 3:
            raise ModelLoadError("no memory")
        real(*args, n_seq=n_seq, **options)

    monkeypatch.setattr(Context, "__init__", small)
    with pytest.raises(ModelLoadError):
        trio.reserve(4, 256)
    got = rows(trio, trio.begin(prompts), 1)
    same(got, cold([family.base, family.tuned, family.reference], prompts, [], 1))


def test_what_cannot_be_copied_into_a_larger_cache_is_read_again(
    family: Family, trio: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = {m: list(range(30)) for m in range(3)}
    slot = trio.begin(prompts)
    rows(trio, slot, 1)
    trio.end(slot)
    monkeypatch.setattr(llama_cpp, "llama_state_seq_set_data", lambda *_: 0)
    trio.reserve(5, 256)
    got = rows(trio, trio.begin(prompts), 1)
    same(got, cold([family.base, family.tuned, family.reference], prompts, [], 1))


def test_concurrent_members_equal_sequential_ones(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [
        family.base,
        family.tuned,
        family.reference,
        family.tuned2,
        family.reference2,
        family.padded,
        family.no_template,
    ]
    prompts = {m: [m + 1, 2, 3] for m in range(7)}
    results = []
    in_turn, at_once = ((0, 1, 2, 3, 4, 5, 6),), tuple((m,) for m in range(7))
    for rounds, beside in [((in_turn,), ()), ((at_once,), ()), ((((3,),), ((0, 1), (2, 4))), (5, 6))]:
        split = Split(rounds, dict.fromkeys(range(7), 1), beside)
        monkeypatch.setattr("eftlocal.engine.sharing.split_threads", lambda *_, split=split: split)
        results.append(cold(paths, prompts, ANSWER, 4))
    for member in range(7):
        np.testing.assert_array_equal(results[0][member], results[1][member])
        np.testing.assert_array_equal(results[0][member], results[2][member])


def test_while_some_members_are_pending_others_go_on_in_the_same_slot(family: Family, trio: Engine) -> None:
    paths, prompts = [family.base, family.tuned, family.reference], {m: PROMPTS[m] for m in range(3)}
    slot = trio.begin(prompts)
    slot.tokens = list(ANSWER[:3])
    pending = trio.start([Request(slot, 2, (0, 2))])
    for token in ANSWER[3:6]:  # the tuned member guesses on
        slot.tokens.append(token)
        ahead = rows(trio, slot, 1, (1,))
    found = {member: z.copy() for member, (z, _) in pending.result().items()}
    assert pending.done and sorted(found) == [0, 2]
    first = cold(paths, prompts, ANSWER[:3], 2)
    same(found, {member: first[member] for member in (0, 2)})
    same(ahead, {1: cold(paths, prompts, ANSWER[:6], 1)[1]})
    slot.truncate(4)  # the guesses after the first were wrong
    same(rows(trio, slot, 2), cold(paths, prompts, ANSWER[:4], 2))


def test_what_goes_wrong_in_a_pending_step_is_raised_where_its_result_is_asked_for(
    family: Family, trio: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = {m: PROMPTS[m] for m in range(3)}
    slot = trio.begin(prompts)
    slot.tokens = list(ANSWER[:3])
    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", lambda *_: -3)
        pending = trio.start([Request(slot, 1, (0, 1, 2))])
        with pytest.raises(DecodeError, match=r"member \d: .*code -3"):
            pending.result()
    same(rows(trio, slot, 1), cold([family.base, family.tuned, family.reference], prompts, ANSWER[:3], 1))


def test_weights_of_one_file_are_loaded_once_for_all_its_members(family: Family) -> None:
    made = engine([family.base, family.base, family.base])
    try:
        rows(made, made.begin({0: [1], 1: [2], 2: [3]}), 1)
        assert len(made.workers.loaded) == 1
    finally:
        made.close()


def test_members_that_do_not_run_are_not_loaded(family: Family) -> None:
    made = engine([family.base, family.tuned, family.reference])
    try:
        rows(made, made.begin({1: [1, 2]}), 1, (1,))
        assert [model.path for model in made.workers.loaded] == [family.tuned]
    finally:
        made.close()


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_after_a_member_failed_in_a_step_the_next_call_is_right(
    family: Family, trio: Engine, monkeypatch: pytest.MonkeyPatch, call: int, after: bool, error: BaseException
) -> None:
    prompts = {m: PROMPTS[m] for m in range(3)}
    slot = trio.begin(prompts)
    slot.tokens = list(ANSWER[:4])
    rows(trio, slot, 1)
    slot.tokens += ANSWER[4:7]
    with monkeypatch.context() as patch:
        fail_decode(patch, call, error, after)
        with pytest.raises(type(error)):
            rows(trio, slot, 1)
    slot.truncate(6)
    slot.tokens.append(5)
    same(rows(trio, slot, 2), cold([family.base, family.tuned, family.reference], prompts, [*ANSWER[:6], 5], 2))


def test_an_error_of_llama_cpp_names_the_member(trio: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = trio.begin({m: PROMPTS[m] for m in range(3)})
    monkeypatch.setattr(llama_cpp, "llama_decode", lambda *_: -3)
    with pytest.raises(DecodeError, match=r"member \d: .*code -3"):
        rows(trio, slot, 1)


def test_a_prefill_interrupted_between_chunks_is_taken_up_where_it_was(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_context, "CPU_BATCH", 16)
    long = {0: [i % 250 for i in range(100)]}
    made = engine([family.base])
    try:
        slot = made.begin(long)
        with monkeypatch.context() as patch:
            fail_decode(patch, 4, KeyboardInterrupt(), after=False)
            with pytest.raises(KeyboardInterrupt):
                made.forward([Request(slot, 1, (0,))])
        made.end(slot)
        assert made.workers.n_fed[0] == 48
        slot = made.begin(long)
        got = rows(made, slot, 1, (0,))
        assert made.workers.n_fed[0] == 100
    finally:
        made.close()
    same(got, cold([family.base], long, [], 1))


def test_more_than_the_context_holds_is_an_error_and_no_abort(trio: Engine) -> None:
    slot = trio.begin({0: [1] * 250})
    slot.tokens = [2] * 7
    with pytest.raises(DecodeError, match="257 tokens do not fit in a context of 256"):
        rows(trio, slot, 1, (0,))
