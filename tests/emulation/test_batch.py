"""Batches of jobs: an answer does not depend on other jobs, and the shared beginning of prompts is computed once."""

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import llama_cpp
import pytest

from eftlocal import Emulator, Message, Raw
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials
from eftlocal.emulation.batch import Batch
from eftlocal.emulation.emulator import Answer, Job, Prompt, Score
from eftlocal.emulation.loading import Loaded
from eftlocal.emulation.scoring import Likelihood
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Slot
from eftlocal.errors import ContextError, DecodeError, EftError, SettingError, ViewError
from eftlocal.runtime.llama import context as llama_context
from tests.builders import load, load_members
from tests.families import Family

CHAT = {"base": "transcript", "tuned": "chat", "reference": "transcript"}
REFUSING = "{{ raise_exception('no') if messages[0].content == 'refused' else messages[0].content }}"
TEXTS = ["Hello", "the world is", "a", "what is the", "in the end it was", "Hello, world", "é", "user", "on", "to the"]


def models(family: Family) -> dict[str, Path]:
    return {name: getattr(family, name) for name in ("base", "tuned", "reference", "no_template")}


@pytest.fixture
def loaded(family: Family, tmp_path: Path) -> Iterator[Loaded]:
    made = load_members(tmp_path, models(family), views=CHAT)
    with closing(made.engine):
        yield made


@pytest.fixture
def emulator(loaded: Loaded) -> Emulator:
    return Emulator(loaded)


def taken(loaded: Loaded) -> list[int]:
    """The indices of the slots that hold a sequence now."""
    return [slot.index for slot in loaded.engine.slots if not slot.free]


def replies(answers: Iterator[Answer]) -> dict[Any, Reply]:
    found = {}
    for answer in answers:
        assert isinstance(answer.reply, Reply), answer
        found[answer.tag] = answer.reply
    return found


def jobs(**dials: Any) -> list[Job]:
    """Jobs with different settings. Some prompts are much longer than a batch of llama.cpp."""
    made = []
    for i, text in enumerate(TEXTS * 2):
        own: Any = {"max_tokens": 3 + 5 * (i % 4), "beta": (1.0, 0.0, 0.5)[i % 3], **dials}
        made.append(Job(text * (1 + 6 * (i % 2)), own, i, tag=i))
    return made


def test_greedy_answers_are_the_same_however_many_run_at_once(emulator: Emulator) -> None:
    separately = {job.tag: emulator.generate(job.prompt, **job.dials) for job in jobs()}
    for parallel in (1, 3, 16):
        together = replies(emulator.answers(jobs(), parallel=parallel))
        assert {tag: reply.tokens for tag, reply in together.items()} == {t: r.tokens for t, r in separately.items()}
        assert all(together[t].finish_reason == r.finish_reason for t, r in separately.items())


@pytest.mark.parametrize("draft", [0, 3, "auto"])
def test_seeded_draws_are_the_same_however_many_run_at_once(emulator: Emulator, draft: Any) -> None:
    work = jobs(temperature=1.0, seed=4, draft=draft)
    several = [replies(emulator.answers(work, parallel=parallel)) for parallel in (1, 5)]
    assert {t: r.tokens for t, r in several[0].items()} == {t: r.tokens for t, r in several[1].items()}


def test_a_job_draws_from_its_seed_and_its_rng_key_alone(emulator: Emulator) -> None:
    dials: Any = {"temperature": 1.0, "seed": 4}
    keys: list[Any] = [0, 1, (1,), (1, 1), (1, 2), (2, 1)]
    found = replies(emulator.answers(Job("Hello", dials, key, key) for key in keys))
    assert found[0].tokens == emulator.generate("Hello", **dials).tokens
    assert found[1].tokens == found[(1,)].tokens
    assert len({reply.tokens for reply in found.values()}) == 5


def test_answers_come_as_they_finish(emulator: Emulator) -> None:
    lengths = [24, 2, 9]
    work = [Job("Hello", {"max_tokens": n}, tag=n) for n in lengths]
    assert [answer.tag for answer in emulator.answers(work, parallel=3)] == sorted(lengths)
    assert [answer.tag for answer in emulator.answers(work, parallel=1)] == lengths


def test_jobs_without_end_are_pulled_as_places_become_free(emulator: Emulator) -> None:
    pulled = 0

    def endless() -> Iterator[Job]:
        nonlocal pulled
        for pulled in itertools.count(1):
            yield Job("Hello" * (pulled % 3), {"max_tokens": 1 + pulled % 5}, tag=pulled)

    for done, _ in enumerate(itertools.islice(emulator.answers(endless(), parallel=4), 40)):
        assert pulled <= done + 4 + 4  # answers of one step, and jobs that run


def test_what_is_wrong_with_a_job_is_its_answer_and_the_others_go_on(family: Family, tmp_path: Path) -> None:
    with load(tmp_path, models(family), views=CHAT | {"base": {"template": REFUSING}}) as made:
        go_on(made)


def go_on(emulator: Emulator) -> None:
    good: Dials = {"max_tokens": 4}
    work = [
        Job("Hello", good, tag="good"),
        Job("Hello " * 400, good, tag=ContextError),
        Job("Hello", {"temperature": -1.0}, tag=SettingError),
        Job("Hello", {"tempreature": 1.0}, tag=SettingError),  # type: ignore[typeddict-unknown-key]
        Job("refused", good, tag=ViewError),
        Job("Hello", {"mix": {"other": 1.0}}, tag=SettingError),
        Job("Hello", {**good, "logit_bias": {9999: 1.0}}, tag=SettingError),  # found only when a token is drawn
        Job("Hello", {**good, "draft": 2, "logit_bias": dict.fromkeys(range(316), float("-inf"))}, tag=SettingError),
        Job("Hello", good, tag="good"),
    ]
    expected = emulator.generate("Hello", max_tokens=4).tokens
    for parallel in (1, 4):
        found = list(emulator.answers(work, parallel=parallel))
        assert len(found) == len(work)
        for tag, reply in found:
            if tag == "good":
                assert isinstance(reply, Reply) and reply.tokens == expected
            else:
                assert isinstance(reply, tag)
    with pytest.raises(ContextError):
        emulator.generate_many(["Hello", "Hello " * 400])


def test_a_decode_that_fails_is_the_error_of_what_ran_and_the_rest_goes_on(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = [Job(text, {"max_tokens": 6}, tag=i) for i, text in enumerate(TEXTS)]
    separately = replies(emulator.answers(work, parallel=1))
    real, calls = llama_context.Context.feed, 0

    def feed(self: llama_context.Context, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise DecodeError("on purpose")
        return real(self, *args)

    monkeypatch.setattr(llama_context.Context, "feed", feed)
    found = dict(emulator.answers(work, parallel=4))
    failed = [tag for tag, reply in found.items() if isinstance(reply, EftError)]
    assert len(failed) == 4 and len(found) == len(work)
    for tag, reply in found.items():
        assert tag in failed or (isinstance(reply, Reply) and reply.tokens == separately[tag].tokens)


def test_when_cancelled_what_runs_is_answered_and_no_job_is_pulled_any_more(loaded: Loaded, emulator: Emulator) -> None:
    pulled, asked = 0, 0

    def endless() -> Iterator[Job]:
        nonlocal pulled
        for pulled in itertools.count(1):
            yield Job("Hello", {"max_tokens": 6}, tag=pulled)

    def enough() -> bool:
        nonlocal asked
        asked += 1
        return asked > 40

    found = replies(emulator.answers(endless(), parallel=3, cancelled=enough))
    assert sorted(found) == list(range(1, pulled + 1))
    reasons = [found[tag].finish_reason for tag in sorted(found)]
    assert set(reasons[:-3]) == {"length"} and set(reasons[-3:]) <= {"cancelled", "length"}
    assert "cancelled" in reasons
    assert taken(loaded) == []
    wrong = Job("x", {"max_tokens": 0})
    assert list(emulator.answers(itertools.repeat(wrong), cancelled=enough)) == []  # no job is taken
    asked = 0
    assert len(list(emulator.answers(itertools.repeat(wrong), cancelled=enough))) == 40  # it is asked after each


def test_a_run_that_is_given_up_gives_its_places_back(loaded: Loaded, emulator: Emulator) -> None:
    whole = emulator.generate("Hello")
    running = emulator.answers([Job("Hello", tag=i) for i in range(9)], parallel=4)
    next(running)
    running.close()  # type: ignore[attr-defined]  # a generator
    assert taken(loaded) == []
    assert emulator.generate("Hello").tokens == whole.tokens


# --- jobs that are added later ----------------------------------------------------------------------------------------


def run_out(batch: Batch) -> list[Answer]:
    """Step until all jobs are answered. Returns the answers."""
    found = []
    while batch:
        found += batch.step()
    return found


def test_what_runs_goes_on_while_the_next_job_has_not_come(emulator: Emulator) -> None:
    work = jobs()[:6]
    whole = replies(emulator.answers(work, parallel=4))
    batch, came = emulator.batch(4), []
    for job in work:  # each job is added when all earlier ones are answered
        assert batch.add(job) is None
        for answer in run_out(batch):
            assert isinstance(answer.reply, Reply) and answer.reply.tokens == whole[answer.tag].tokens
            came.append(answer.tag)
    batch.close()
    assert came == [job.tag for job in work]


@pytest.mark.parametrize("every", [1, 3, 11])
def test_jobs_that_come_at_any_step_have_the_answers_that_they_have_alone(emulator: Emulator, every: int) -> None:
    work = jobs(draft=3)
    separately = {job.tag: emulator.generate(job.prompt, **job.dials) for job in work}
    batch, late, found, most = emulator.batch(3), iter(work), list[Answer](), 0
    for step in itertools.count():
        if step % every == 0 and batch.room > 0 and (job := next(late, None)) is not None:
            assert batch.add(job) is None
        most = max(most, len(batch))
        found += batch.step()
        if len(found) == len(work):
            break
    batch.close()
    together = replies(iter(found))
    assert {tag: reply.tokens for tag, reply in together.items()} == {t: r.tokens for t, r in separately.items()}
    assert most == 3 or every == 11  # the jobs did run at the same time


def test_a_job_that_begins_in_a_fresh_place_closes_a_gap_at_once(
    loaded: Loaded, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin = Engine.begin

    def spy(engine: Engine, prompts: Mapping[int, list[int]], *, fresh: bool) -> Slot:
        slot = begin(engine, prompts, fresh=fresh)
        begun.append(slot.index)
        return slot

    monkeypatch.setattr(Engine, "begin", spy)
    batch = emulator.batch(3)
    batch.add(Job(Raw("Hello"), {"max_tokens": 40}, tag="long"))
    batch.add(Job(Raw("a"), {"max_tokens": 2}, tag="short"))
    came = batch.step()
    while not came:
        came += batch.step()
    assert [answer.tag for answer in came] == ["short"] and taken(loaded) == [0]
    late = Job(Raw("The"), {"max_tokens": 4}, tag="late")
    batch.add(late)  # the slot of `short` is free, and the third was never used
    came += batch.step()
    assert begun == [0, 1, 2] and taken(loaded) == [0, 1]
    came += run_out(batch)
    batch.close()
    assert [answer.tag for answer in came] == ["short", "late", "long"]
    found = replies(iter(came))
    assert found["late"].tokens == emulator.generate(late.prompt, **late.dials).tokens
    assert found["long"].tokens == emulator.generate(Raw("Hello"), max_tokens=40).tokens


def test_more_jobs_than_there_are_places_wait_for_one(loaded: Loaded, emulator: Emulator) -> None:
    batch = emulator.batch(2)
    assert (len(batch), batch.room) == (0, 2) and batch.step() == []
    for i in range(5):
        assert batch.add(Job("Hello", {"max_tokens": 2}, tag=i)) is None
    assert (len(batch), batch.room) == (5, -3)
    found = batch.step()
    assert len(taken(loaded)) == 2
    found += run_out(batch)
    assert [answer.tag for answer in found] == [0, 1, 2, 3, 4] and (len(batch), batch.room) == (0, 2)
    batch.close()


def test_a_batch_that_is_cancelled_answers_all_its_jobs_at_the_next_step_and_takes_new_ones(
    loaded: Loaded, emulator: Emulator
) -> None:
    whole = emulator.generate("Hello")
    batch = emulator.batch(2)
    for tag in ("runs", "runs too", "waits"):
        batch.add(Job("Hello", tag=tag))
    for _ in range(9):
        assert batch.step() == []
    batch.cancel()
    found = replies(iter(batch.step()))
    assert {reply.finish_reason for reply in found.values()} == {"cancelled"}
    assert {tag: len(reply.tokens) for tag, reply in found.items()} == {"runs": 9, "runs too": 9, "waits": 0}
    assert all(whole.tokens[: len(reply.tokens)] == reply.tokens for reply in found.values())
    assert (len(batch), batch.room) == (0, 2) and taken(loaded) == []
    batch.add(Job("Hello", tag="next"))
    assert replies(iter(run_out(batch)))["next"].tokens == whole.tokens
    batch.close()


def test_a_batch_that_is_closed_gives_its_places_back(loaded: Loaded, emulator: Emulator) -> None:
    whole = emulator.generate("Hello")
    batch = emulator.batch(2)
    for i in range(3):
        batch.add(Job("Hello", tag=i))
    batch.step()
    assert taken(loaded) == [0, 1]
    batch.close()
    assert taken(loaded) == [] and len(batch) == 0
    assert emulator.generate("Hello").tokens == whole.tokens


def test_a_job_that_is_wrong_is_refused_when_it_is_added_and_others_are_taken(family: Family, tmp_path: Path) -> None:
    with load(tmp_path, models(family), views=CHAT | {"base": {"template": REFUSING}}) as made:
        good, before = Job("Hello", {"max_tokens": 4}, tag="good"), made.generate("Hello", max_tokens=4)
        batch = made.batch(2)
        assert batch.add(good) is None
        assert batch.step() == []
        fed = dict(made.fed_tokens)
        wrong: list[tuple[Job, type[EftError], str]] = [
            (Job("Hello " * 400, tag="long"), ContextError, r"\d+ tokens long for the \w+ model"),
            (Job("Hello", {"temperature": -1.0}, tag="cold"), SettingError, "temperature is -1.0"),
            (Job("Hello", {"mix": {"other": 1.0}}, tag="mix"), SettingError, "no reward named 'other'"),
            (Job("refused", tag="view"), ViewError, "no"),
        ]
        for job, kind, words in wrong:
            refused = batch.add(job)
            assert refused is not None and refused.tag == job.tag
            assert isinstance(refused.reply, kind) and re.search(words, str(refused.reply))
        assert (len(batch), batch.room) == (1, 1) and dict(made.fed_tokens) == fed
        assert batch.add(good._replace(tag="also good")) is None
        found = replies(iter(run_out(batch)))
        batch.close()
    assert {t: reply.tokens for t, reply in found.items()} == dict.fromkeys(["good", "also good"], before.tokens)


@pytest.mark.parametrize("draft", [0, 3])
def test_a_combined_row_that_is_not_finite_is_its_own_answers_error_alone(
    loaded: Loaded, emulator: Emulator, draft: int
) -> None:
    work = [Job(text, {"max_tokens": 3 + 5 * i, "draft": draft}, tag=i) for i, text in enumerate(TEXTS[:4])]
    separately = {job.tag: emulator.generate(job.prompt, **job.dials).tokens for job in work}
    # float32 ends at 3.4e38. Each member's logits and beta are finite, but the sum is not.
    overflows = Job("user", {"max_tokens": 9, "beta": 1e38, "draft": draft}, tag="overflows")
    for parallel in (5, 2):
        found = dict(emulator.answers([*work[:2], overflows, *work[2:]], parallel=parallel))
        error = found.pop("overflows")
        assert isinstance(error, DecodeError) and error.message == "The logits of the combination are not finite."
        assert {tag: reply.tokens for tag, reply in found.items() if isinstance(reply, Reply)} == separately
        assert taken(loaded) == []


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 8, 16])
def test_a_shared_system_text_is_computed_once(family: Family, tmp_path: Path, parallel: int) -> None:
    system = Message("system", "".join(chr(97 + i * i % 26) for i in range(420)))
    prompts = [[system, Message("user", f"{i} and {i * 7 % 10}?")] for i in range(64)]
    with load(tmp_path, models(family), views=CHAT, context=512, max_tokens=2) as made:
        found = replies(made.answers((Job(p, tag=i) for i, p in enumerate(prompts)), parallel=parallel))
        rendered_by_role = [made.render(prompt) for prompt in prompts]
        for role in made.roles:
            rendered = [by_role[role] for by_role in rendered_by_role]
            shared = next(i for i in range(1000) if len({tuple(tokens[: i + 1]) for tokens in rendered}) > 1)
            answered = sum(len(reply.tokens) for reply in found.values())  # an upper limit: the last ones are not fed
            least = shared + sum(len(tokens) - shared for tokens in rendered)
            assert shared > 400
            assert least <= made.fed_tokens[role] <= least + answered
    with load(tmp_path, models(family), views=CHAT, context=512, max_tokens=2) as cold:
        separately = cold.generate_many(prompts[:5], parallel=1)
    assert [found[i].tokens for i in range(5)] == [reply.tokens for reply in separately]


def test_samples_of_one_prompt_compute_it_once(emulator: Emulator) -> None:
    prompt = "Hello, " * 20
    work = [Job(prompt, {"max_tokens": 1, "temperature": 1.0, "seed": 1}, (0, i), i) for i in range(6)]
    found = replies(emulator.answers(work, parallel=6))
    assert len({reply.tokens for reply in found.values()}) > 1
    for role, n in found[0].prompt_tokens.items():
        assert emulator.fed_tokens[role] == n + 5  # the five copies decode only the last token, for its logits


@pytest.mark.parametrize("kind", ["recurrent", "sliding"])
def test_caches_that_cannot_be_rewound_share_nothing_wrongly(family: Family, tmp_path: Path, kind: str) -> None:
    paths = {"base": getattr(family, kind), "tuned": family.tuned, "reference": family.reference}
    prompts = [Raw("the end of the world is " * 3 + text) for text in TEXTS]
    with load(tmp_path, paths, max_tokens=6) as made:
        separately = made.generate_many(prompts, parallel=1)
        together = made.generate_many(prompts, parallel=5)
    assert [reply.tokens for reply in together] == [reply.tokens for reply in separately]


def test_a_long_prompt_is_read_in_chunks_while_others_go_on(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_context, "CPU_BATCH", 16)
    sizes: list[int] = []
    real = llama_cpp.llama_decode

    def decode(handle: Any, batch: Any) -> int:
        sizes.append(batch.n_tokens)
        return int(real(handle, batch))

    monkeypatch.setattr(llama_cpp, "llama_decode", decode)
    short, long = Job("Hello", {"max_tokens": 20}, tag="short"), Job("a world " * 20, {"max_tokens": 2}, tag="long")
    found = replies(emulator.answers([short, long], parallel=2))
    assert found["short"].steps == len(found["short"].tokens) == 20
    assert found["long"].prompt_tokens["base"] > 100
    assert max(sizes) <= 16  # a chunk of the prompt, and a token of the other answer
    assert found["long"].tokens == emulator.generate("a world " * 20, max_tokens=2).tokens


def test_what_runs_stands_side_by_side_in_every_decode(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    # llama.cpp computes neighbouring sequences together, and others one after the other.
    decoded: list[list[int]] = []
    real = llama_cpp.llama_decode

    def decode(handle: Any, batch: Any) -> int:
        decoded.append([batch.seq_id[i][0] for i in range(batch.n_tokens)])
        return int(real(handle, batch))

    monkeypatch.setattr(llama_cpp, "llama_decode", decode)
    work = [Job(text, {"max_tokens": 3 + 7 * i % 12}, tag=i) for i, text in enumerate(TEXTS)]
    separately = [emulator.generate(job.prompt, **job.dials).tokens for job in work]
    emulator.reserve(6)
    decoded.clear()
    together = replies(emulator.answers(work, parallel=6))
    assert [together[i].tokens for i in range(len(work))] == separately
    assert all(sequences == sorted(sequences) for sequences in decoded)
    last = decoded[-3 * 3 :]  # no job comes after these
    assert all(sequences == list(range(sequences[0], sequences[0] + len(sequences))) for sequences in last)


def test_conversations_keep_their_caches_beside_each_other(emulator: Emulator) -> None:
    emulator.reserve(3)
    texts = [Raw("Hello, how are you"), Raw("the world is on"), Raw("in the end it was")]
    for text in texts:
        emulator.generate(text)
    for text in texts:
        before = dict(emulator.fed_tokens)
        emulator.generate(text, max_tokens=1)
        assert {role: n - before[role] for role, n in emulator.fed_tokens.items()} == dict.fromkeys(emulator.roles, 1)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_at_the_same_time_are_those_one_by_one_and_a_common_prompt_is_fed_once(
    tmp_path: Path, family: Family
) -> None:
    models = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    long = "a long beginning that they have in common. " * 3
    pairs: list[tuple[Prompt, str, Dials]] = [
        (Raw(long), " one", {}),
        (Raw(long), " another one, longer than sixty-four tokens can be? " * 2, {"beta": 0.5}),
        (Raw("short"), "x", {"beta": 0.0}),
        (Raw("short"), "", {}),
        (Raw(long + "!"), " two", {"mix": {"tuned": 2.0}}),
    ]
    with load(tmp_path, models, context=512) as one, load(tmp_path, models, context=512) as many:
        found = many.score_many(pairs)
        for (prompt, completion, dials), score in zip(pairs, found, strict=True):
            if not completion:
                assert isinstance(score, SettingError)
                continue
            assert isinstance(score, Score)
            separately = one.score(prompt, completion, **dials)
            assert [token.id for token in score.tokens] == [token.id for token in separately.tokens]
            for a, b in zip(score.tokens, separately.tokens, strict=True):
                assert a.logprob == pytest.approx(b.logprob, abs=1e-4) and a.base == pytest.approx(b.base, abs=1e-4)
        prefix = many.count(Raw(long))["base"]
        scored = sum(len(score.tokens) for score in found if isinstance(score, Score))
        assert many.fed_tokens["base"] < 2 * prefix + scored


def test_likelihoods_are_those_of_scores_and_only_members_with_a_weight_run(tmp_path: Path, family: Family) -> None:
    models = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    long = "a long beginning that they have in common. " * 3
    turned: list[Dials] = [{"alone": "base"}, {"beta": 0.0}, {"alone": "tuned"}, {"beta": 0.5}, {}]
    pairs: list[tuple[Prompt, str, Dials]] = [
        (Raw(long + prompt), completion, dials)
        for prompt, completion in (("", " one"), ("!", " another one, longer than sixty-four tokens can be? " * 2))
        for dials in turned
    ]
    with load(tmp_path, models, context=512) as emulator:
        greedy = emulator.generate(Raw(long), temperature=0, max_tokens=3)
        pairs.append((Raw(long), cast(Any, [*greedy.tokens]), {}))
        scores = emulator.score_many(pairs, top=1)
        emulator.forget()
        found = emulator.likelihoods([*pairs, (Raw("x"), "", {})])
        assert isinstance(found.pop(), SettingError)
        for score, likelihood in zip(scores, found, strict=True):
            assert isinstance(score, Score) and isinstance(likelihood, Likelihood)
            same = all(token.id == top[0].id for token, top in zip(score.tokens, score.top, strict=True))
            assert likelihood.greedy is same and likelihood.logprob == pytest.approx(score.logprob, abs=1e-4)
        assert cast(Likelihood, found[-1]).greedy and not all(cast(Likelihood, each).greedy for each in found)
    for dials, runs in (({"alone": "base"}, {"base"}), ({"alone": "tuned"}, {"tuned"}), ({"beta": 0.0}, {"base"})):
        with load(tmp_path, models, context=512) as emulator:
            emulator.likelihoods([(Raw(long), " one", cast(Dials, dials))])
            assert {role for role, n in emulator.fed_tokens.items() if n} == runs
