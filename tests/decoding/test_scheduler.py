"""The scheduler: answers come, go, fail and are cancelled, and this never changes the other answers."""

import itertools
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import llama_cpp
import pytest

from eftlocal import Emulator, Raw
from eftlocal.decoding.generation import Generation
from eftlocal.decoding.scheduler import Scheduler
from eftlocal.decoding.settings import Dials
from eftlocal.emulation import scoring
from eftlocal.emulation.batch import Job
from eftlocal.emulation.emulator import Ids
from eftlocal.emulation.loading import Loaded
from eftlocal.errors import DecodeError, ModelLoadError
from eftlocal.runtime.llama import context as llama_context
from eftlocal.runtime.llama.interrupt import Stopped
from tests.builders import load_members
from tests.families import Family
from tests.faults import fail_decode

PLACES = 3
LONG = "a long prompt that is read in chunks. " * 4


class House(NamedTuple):
    """An emulator with slots for three answers, and its engine."""

    loaded: Loaded
    emulator: Emulator

    def prepared(self, prompt: str, **dials: Unpack[Dials]) -> Generation:
        return self.emulator.prepare(Job(Raw(prompt), dials))

    def tokens(self, prompt: str, **dials: Unpack[Dials]) -> tuple[int, ...]:
        """The tokens of the answer if nothing else runs."""
        return self.emulator.generate(Raw(prompt), **dials).tokens

    @property
    def free(self) -> int:
        return sum(slot.free for slot in self.loaded.engine.slots)


@pytest.fixture
def house(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(llama_context, "CPU_BATCH", 16)  # tokens of a chunk of a prompt
    paths = {name: getattr(family, name) for name in ("base", "tuned", "reference")}
    loaded = load_members(tmp_path, paths, max_tokens=12)
    with Emulator(loaded) as emulator:
        emulator.reserve(PLACES)
        yield House(loaded, emulator)


def run(scheduler: Scheduler) -> dict[Generation, str]:
    """Step until all answers have ended. Returns the text of each."""
    texts: dict[Generation, str] = {}
    while scheduler:
        for generation, text in scheduler.step():
            texts[generation] = texts.get(generation, "") + text
    return texts


def test_the_deltas_of_every_answer_add_up_to_its_text(house: House) -> None:
    scheduler = house.emulator.scheduler()
    answers = [house.prepared(prompt, temperature=0.9, seed=i) for i, prompt in enumerate(("Hello", "the", LONG))]
    for answer in answers:
        scheduler.add(answer)
    texts, n_deltas = dict.fromkeys(answers, ""), dict.fromkeys(answers, 0)
    while scheduler:
        for answer, text in scheduler.step():
            texts[answer] += text
            n_deltas[answer] += 1
    assert [texts[answer] for answer in answers] == [answer.reply.text for answer in answers]
    assert all(text and n_deltas[answer] > 3 for answer, text in texts.items())  # as they came, not at the end
    separately = [house.tokens("Hello", temperature=0.9, seed=0), house.tokens("the", temperature=0.9, seed=1)]
    assert [tuple(answer.tokens) for answer in answers[:2]] == separately


def test_one_is_cancelled_in_prefill_and_one_in_decoding_and_the_third_is_as_alone(house: House) -> None:
    scheduler = house.emulator.scheduler()
    decoding, prefilling, third = house.prepared("Hello"), house.prepared(LONG), house.prepared("the world")
    for answer in (decoding, prefilling, third):
        scheduler.add(answer)
    for _ in range(3):
        scheduler.step()
    assert len(decoding.tokens) > 0 and not decoding.ended
    assert prefilling.tokens == [] and not prefilling.ended and house.free == 0
    scheduler.cancel(decoding)
    scheduler.cancel(prefilling)
    told = [generation for generation, _ in scheduler.step() if generation.ended]
    assert set(told) == {decoding, prefilling} and house.free == PLACES - 1
    assert decoding.finish_reason == prefilling.finish_reason == "cancelled"
    run(scheduler)
    assert tuple(third.tokens) == house.tokens("the world")
    assert tuple(decoding.tokens) == house.tokens("Hello")[: len(decoding.tokens)]
    assert prefilling.reply.text == "" and house.free == PLACES
    assert house.tokens(LONG) == house.tokens(LONG)  # the cancelled prefill left the caches right


def test_an_answer_that_waits_for_a_place_can_be_cancelled(house: House) -> None:
    scheduler = house.emulator.scheduler()
    running = [house.prepared("Hello") for _ in range(PLACES)]
    waiting, behind = house.prepared("the"), house.prepared("a")
    for answer in (*running, waiting, behind):
        scheduler.add(answer)
    scheduler.step()
    scheduler.cancel(waiting)
    assert [generation for generation, _ in scheduler.step() if generation.ended] == [waiting]
    run(scheduler)
    assert tuple(behind.tokens) == house.tokens("a") and waiting.tokens == []


def test_a_cancelled_answers_place_is_taken_in_the_same_step(house: House) -> None:
    scheduler = house.emulator.scheduler()
    first, *others = [house.prepared("Hello") for _ in range(PLACES)]
    next_one = house.prepared("the")
    for answer in (first, *others, next_one):
        scheduler.add(answer)
    scheduler.step()
    assert next_one.tokens == []
    scheduler.cancel(first)
    scheduler.step()
    assert len(next_one.tokens) == 1
    scheduler.close()


def test_to_cancel_one_that_has_ended_changes_nothing(house: House) -> None:
    scheduler = house.emulator.scheduler()
    answer, later = house.prepared("Hello"), house.prepared("the")
    scheduler.add(answer)
    run(scheduler)
    scheduler.cancel(answer)
    scheduler.add(later)
    assert set(run(scheduler)) == {later}
    assert answer.finish_reason == later.finish_reason == "length"


def test_one_is_added_while_others_decode_and_all_are_as_alone(house: House) -> None:
    scheduler = house.emulator.scheduler()
    first, second, late = house.prepared("Hello"), house.prepared("the"), house.prepared(LONG)
    scheduler.add(first)
    scheduler.step()
    scheduler.add(second)
    scheduler.step()
    assert 0 < len(second.tokens) < len(first.tokens)
    scheduler.add(late)
    run(scheduler)
    assert tuple(first.tokens) == house.tokens("Hello")
    assert tuple(second.tokens) == house.tokens("the")
    assert tuple(late.tokens) == house.tokens(LONG)


def test_more_than_there_are_places_for_wait_in_order(house: House) -> None:
    scheduler = house.emulator.scheduler()
    answers = [house.prepared("Hello", max_tokens=3) for _ in range(3 * PLACES)]
    for answer in answers:
        scheduler.add(answer)
    ended: list[Generation] = []
    while scheduler:
        assert len(scheduler) == len(answers) - len(ended)
        ended += [generation for generation, _ in scheduler.step() if generation.ended]
    assert ended == answers


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_wrong_setting_of_one_of_three_ends_that_one_alone(house: House) -> None:
    scheduler = house.emulator.scheduler()
    wrong = house.prepared("the", logit_bias={9999: 1.0})  # there is no such token; this is found when a token is drawn
    others = [house.prepared("Hello"), house.prepared("a")]
    for answer in (others[0], wrong, others[1]):
        scheduler.add(answer)
    texts = run(scheduler)
    assert wrong.error is not None and "9999" in wrong.error.message and texts[wrong] == ""
    assert [tuple(answer.tokens) for answer in others] == [house.tokens("Hello"), house.tokens("a")]
    assert house.free == PLACES


@pytest.mark.parametrize("reward_top_p", [None, 0.9])
def test_a_row_of_one_of_three_that_is_not_finite_ends_that_one_alone(house: House, reward_top_p: float | None) -> None:
    scheduler = house.emulator.scheduler()
    bad = house.prepared("the", beta=1e38, reward_top_p=reward_top_p)  # the sum of the logits overflows
    others = [house.prepared("Hello", beta=0.5), house.prepared("a")]
    for answer in (others[0], bad, others[1]):
        scheduler.add(answer)
    run(scheduler)
    assert isinstance(bad.error, DecodeError)
    assert [tuple(answer.tokens) for answer in others] == [house.tokens("Hello", beta=0.5), house.tokens("a")]


def test_a_model_that_does_not_load_ends_the_answers_that_need_it_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = house.emulator.scheduler()
    good, bad = house.prepared("Hello"), house.prepared("the")
    real = house.loaded.engine.workers.prepare

    def prepare(members: Any) -> None:
        if members == bad.prompts:
            raise ModelLoadError("no room")
        real(members)

    monkeypatch.setattr(house.loaded.engine.workers, "prepare", prepare)
    scheduler.add(bad)
    scheduler.add(good)
    run(scheduler)
    assert isinstance(bad.error, ModelLoadError) and tuple(good.tokens) == house.tokens("Hello")


def test_a_decode_that_fails_as_a_whole_is_told_to_all_that_ran_and_the_next_ones_are_right(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = house.emulator.scheduler()
    ran = [house.prepared("Hello"), house.prepared(LONG), house.prepared("the")]
    waited = house.prepared("a")
    for answer in (*ran, waited):
        scheduler.add(answer)
    scheduler.step()
    with monkeypatch.context() as patch:
        patch.setattr("llama_cpp.llama_decode", lambda *_: -3)
        told = {generation for generation, _ in scheduler.step()}
    assert told == set(ran) and all(isinstance(answer.error, DecodeError) for answer in ran)
    assert house.free == PLACES and len(scheduler) == 1
    run(scheduler)
    assert waited.error is None and tuple(waited.tokens) == house.tokens("a")


def test_an_answer_that_no_place_will_ever_be_free_for_is_an_error_and_no_endless_wait(house: House) -> None:
    other = house.emulator.scheduler()
    for _ in range(PLACES):
        other.add(house.prepared("Hello"))
    other.step()
    with pytest.raises(DecodeError, match="is not finished"):
        house.emulator.generate(Raw("the"))
    assert len(run(other)) == PLACES  # it works as before
    assert house.tokens("the")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_after_any_other_exception_every_end_is_told_and_the_next_answers_are_right(
    house: House, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    scheduler = house.emulator.scheduler()
    first, second, third, fourth, waiting = (house.prepared(prompt) for prompt in ("Hello", "the", LONG, "a", "on"))
    for answer in (first, second, third, fourth, waiting):
        scheduler.add(answer)
    scheduler.step()
    scheduler.cancel(first)
    with monkeypatch.context() as patch:
        fail_decode(patch, 2, error, after=True)
        with pytest.raises(type(error)):
            scheduler.step()
    assert house.free == PLACES
    told = [generation for generation, _ in scheduler.step() if generation.ended]
    assert set(told) == {first, second, third, fourth}  # the fourth had taken the first one's place
    assert first.finish_reason == "cancelled" and isinstance(second.error, DecodeError)
    run(scheduler)
    assert tuple(waiting.tokens) == house.tokens("on")
    assert house.tokens(LONG) == cold_tokens(house, LONG)
    assert house.tokens("a") == cold_tokens(house, "a")


@pytest.mark.parametrize("call", range(6))
def test_a_step_that_ctrl_c_stopped_is_done_again_and_changes_no_answer(
    house: House, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    prompts = ("Hello", LONG, "a")
    forget(house)
    scheduler = house.emulator.scheduler()
    answers = [house.prepared(prompt) for prompt in prompts]
    for answer in answers:
        scheduler.add(answer)
    with monkeypatch.context() as patch:
        fail_decode(patch, call, Stopped(), after=False)
        run(scheduler)
    for answer, prompt in zip(answers, prompts, strict=True):
        assert answer.error is None and tuple(answer.tokens) == cold_tokens(house, prompt)


def cold_tokens(house: House, prompt: str) -> tuple[int, ...]:
    """The answer from caches that hold nothing."""
    forget(house)
    return house.tokens(prompt)


def forget(house: House) -> None:
    for slot in house.loaded.engine.slots:
        slot.fed.clear()


def test_a_copy_of_a_cache_that_is_interrupted_leaves_no_wrong_beginning(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, beginning = house.loaded.engine, "the world is on and in " * 3
    expected = [house.tokens(prompt) for prompt in (beginning, "a" * 40)]
    real = llama_cpp.llama_memory_seq_rm
    for call in range(1, 12):
        forget(house)
        house.tokens(beginning)
        house.tokens("a" * 40)
        calls = itertools.count(1)

        def interrupted(*args: Any, call: int = call, calls: Any = calls) -> bool:
            if next(calls) == call:
                raise KeyboardInterrupt
            return bool(real(*args))

        scheduler = house.emulator.scheduler()
        one, two = house.prepared(beginning + "x"), house.prepared(beginning + "y")
        scheduler.add(one)
        scheduler.add(two)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(llama_cpp, "llama_memory_seq_rm", interrupted)
            run(scheduler)
        scheduler.close()
        assert all(slot.free for slot in engine.slots)
        assert [house.tokens(prompt) for prompt in (beginning, "a" * 40)] == expected


def test_an_answer_is_added_once(house: House) -> None:
    scheduler, answer = house.emulator.scheduler(), house.prepared("Hello")
    scheduler.add(answer)
    for other in (scheduler, house.emulator.scheduler()):
        with pytest.raises(ValueError, match="added to a scheduler before"):
            other.add(answer)
    assert set(run(scheduler)) == {answer}


def test_room_that_has_to_grow_is_refused_while_an_answer_runs(house: House) -> None:
    scheduler = house.emulator.scheduler()
    for _ in range(PLACES):
        scheduler.add(house.prepared("Hello"))
    scheduler.step()
    assert house.emulator.reserve(PLACES) == PLACES  # there is room already
    for use in (lambda: house.emulator.reserve(PLACES + 1), lambda: house.emulator.score("a", "b")):
        with pytest.raises(DecodeError, match="is not finished"):
            use()
    assert len(run(scheduler)) == PLACES


def test_closing_ends_all_and_gives_their_places_back(house: House) -> None:
    scheduler = house.emulator.scheduler()
    answers = [house.prepared("Hello") for _ in range(PLACES + 2)]
    for answer in answers:
        scheduler.add(answer)
    scheduler.step()
    scheduler.close()
    assert {answer.finish_reason for answer in answers} == {"cancelled"}
    assert house.free == PLACES and not scheduler


# --- many answers -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("draft", [0, 3])
def test_of_a_thousand_answers_added_and_cancelled_at_random_the_others_are_as_alone(house: House, draft: int) -> None:
    rng = random.Random(draft)
    prompts = ["Hello", "the", "a", "in the end", LONG, LONG + "And then?"]
    common: Dials = {"temperature": 1.0, "draft": draft}
    dials: list[Dials] = [{**common, "seed": seed, "max_tokens": n} for seed in range(3) for n in (1, 4, 9)]
    kinds = [(prompt, own) for prompt in prompts for own in dials]
    separately = [house.tokens(prompt, **own) for prompt, own in kinds]
    scheduler = house.emulator.scheduler()
    running: dict[Generation, int] = {}
    cancelled: set[Generation] = set()
    added = told = whole = 0
    while added < 1000 or running:
        while added < 1000 and rng.random() < 0.6:
            kind = rng.randrange(len(kinds))
            prompt, own = kinds[kind]
            answer = house.prepared(prompt, **own)
            running[answer] = kind
            scheduler.add(answer)
            added += 1
        if running and rng.random() < 0.3:
            gone = rng.choice(list(running))
            cancelled.add(gone)
            scheduler.cancel(gone)
        for answer, _ in scheduler.step():
            if not answer.ended:
                continue
            kind, told = running.pop(answer), told + 1  # raises if an answer ends twice
            assert answer.error is None
            if answer.finish_reason == "cancelled":
                assert answer in cancelled
                assert tuple(answer.tokens) == separately[kind][: len(answer.tokens)]
            else:
                assert tuple(answer.tokens) == separately[kind]
                whole += 1
        assert len(scheduler) == len(running)
        assert PLACES - house.free <= len(running)  # the slot of an ended answer is free
    assert told == 1000 and whole > 300 and told - whole > 100
    assert house.free == PLACES


@pytest.mark.parametrize("beside", [False, True])
def test_a_scored_prompt_has_the_log_probabilities_of_score(
    house: House, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "SCORED_ROWS", 8)  # this house has room for 16
    ids = tuple(house.emulator.render(Raw(LONG))["base"])
    house.tokens(LONG)  # a cache that holds it must not keep its tokens from being scored
    generation = house.emulator.prepare(Job(Ids(ids), {"logprobs": 2, "max_tokens": 3}, score_prompt=True))
    scheduler = house.emulator.scheduler()
    others = [house.prepared("the", draft=2), house.prepared(LONG + "and more")] if beside else []
    for answer in (generation, *others):
        scheduler.add(answer)
    run(scheduler)
    reply = generation.reply
    wanted = house.emulator.score(Ids(ids[:1]), ids[1:] + reply.tokens, top=2)
    found = [*reply.prompt_logprobs, *reply.logprobs]
    assert [place.id for place in found] == [*ids[1:], *reply.tokens] and len(reply.tokens) == 3
    assert [place.logprob for place in found] == pytest.approx([token.logprob for token in wanted.tokens], abs=1e-4)
    for place, top in zip(found, wanted.top, strict=True):
        assert [other.logprob for other in place.top] == pytest.approx([token.logprob for token in top], abs=1e-4)
    assert reply.tokens == house.tokens(LONG, max_tokens=3)
    assert [answer.reply.tokens for answer in others] == (
        [house.tokens("the"), house.tokens(LONG + "and more")] * beside
    )


def test_a_short_prompt_has_its_first_token_while_a_long_one_is_read(house: House) -> None:
    scheduler = house.emulator.scheduler()
    long, short = house.prepared(LONG), house.prepared("the")
    scheduler.add(long)
    scheduler.step()
    scheduler.add(short)
    scheduler.step()
    assert short.tokens and not long.tokens
    run(scheduler)
    assert (tuple(long.tokens), tuple(short.tokens)) == (house.tokens(LONG), house.tokens("the"))


def test_a_long_prompt_is_read_while_short_ones_keep_coming(house: House) -> None:
    scheduler = house.emulator.scheduler()
    long = house.prepared(LONG)
    scheduler.add(long)
    for i in range(200):
        while len(scheduler) < PLACES:
            scheduler.add(house.prepared(f"a short one, number {i}", max_tokens=1))
        scheduler.step()
        if long.tokens:
            break
    assert long.tokens
    scheduler.close()
