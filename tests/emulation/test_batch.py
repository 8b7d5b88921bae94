"""Streams of jobs: what an answer is does not depend on what else runs, and what is shared is computed once."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from eftlocal import Emulator, Message, Raw
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials
from eftlocal.emulation.emulator import Answer, Job, Prompt, Score
from eftlocal.errors import ContextError, DecodeError, EftError, SettingError, ViewError
from eftlocal.runtime.llama import context as llama_context
from tests.builders import load
from tests.families import Family

CHAT = {"base": "transcript", "tuned": "chat", "reference": "transcript"}
TEXTS = ["Hello", "the world is", "a", "what is the", "in the end it was", "Hello, world", "é", "user", "on", "to the"]


def models(family: Family) -> dict[str, Path]:
    return {name: getattr(family, name) for name in ("base", "tuned", "reference", "no_template")}


@pytest.fixture
def emulator(family: Family, tmp_path: Path) -> Iterator[Emulator]:
    with load(tmp_path, models(family), views=CHAT) as made:
        yield made


def replies(answers: Iterator[Answer]) -> dict[Any, Reply]:
    found = {}
    for answer in answers:
        assert isinstance(answer.reply, Reply), answer
        found[answer.tag] = answer.reply
    return found


def jobs(**dials: Any) -> list[Job]:
    """Prompts with settings of their own; some much longer than a batch."""
    made = []
    for i, text in enumerate(TEXTS * 2):
        own: Any = {"max_tokens": 3 + 5 * (i % 4), "beta": (1.0, 0.0, 0.5)[i % 3], **dials}
        made.append(Job(text * (1 + 6 * (i % 2)), own, i, tag=i))
    return made


def test_greedy_answers_are_the_same_however_many_run_at_once(emulator: Emulator) -> None:
    alone = {job.tag: emulator.generate(job.prompt, **job.dials) for job in jobs()}
    for parallel in (1, 3, 16):
        together = replies(emulator.answers(jobs(), parallel=parallel))
        assert {tag: reply.tokens for tag, reply in together.items()} == {t: r.tokens for t, r in alone.items()}
        assert all(together[t].finish_reason == r.finish_reason for t, r in alone.items())


@pytest.mark.parametrize("draft", [0, 3, "auto"])
def test_seeded_draws_are_the_same_however_many_run_at_once(emulator: Emulator, draft: Any) -> None:
    work = jobs(temperature=1.0, seed=4, draft=draft)
    several = [replies(emulator.answers(work, parallel=parallel)) for parallel in (1, 5)]
    assert {t: r.tokens for t, r in several[0].items()} == {t: r.tokens for t, r in several[1].items()}


def test_a_job_draws_from_its_seed_and_its_stream_alone(emulator: Emulator) -> None:
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
        assert pulled <= done + 4 + 4  # those that came in one step, and those that run


def test_what_is_wrong_with_a_job_is_its_answer_and_the_others_go_on(family: Family, tmp_path: Path) -> None:
    template = "{{ raise_exception('no') if messages[0].content == 'refused' else messages[0].content }}"
    with load(tmp_path, models(family), views=CHAT | {"base": {"template": template}}) as made:
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
        Job("Hello", {**good, "logit_bias": {9999: 1.0}}, tag=SettingError),  # found when a token is drawn
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
    alone = replies(emulator.answers(work, parallel=1))
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
        assert tag in failed or (isinstance(reply, Reply) and reply.tokens == alone[tag].tokens)


def test_when_cancelled_what_runs_is_answered_and_no_job_is_pulled_any_more(emulator: Emulator) -> None:
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
    assert all(slot.free for slot in emulator.engine.slots)
    refused = emulator.answers((Job("x", {"max_tokens": 0}) for _ in itertools.count()), cancelled=enough)
    assert len(list(refused)) == 1


def test_what_runs_goes_on_while_the_next_job_is_waited_for(emulator: Emulator) -> None:
    work = jobs()[:6]
    whole = replies(emulator.answers(work, parallel=4))
    came: list[int] = []

    def slowly() -> Iterator[Job | None]:
        for job in work:
            while len(came) < job.tag:  # not before all earlier ones are answered
                yield None
            yield job

    for answer in emulator.answers(slowly(), parallel=4):
        assert isinstance(answer.reply, Reply) and answer.reply.tokens == whole[answer.tag].tokens
        came.append(answer.tag)
    assert came == [job.tag for job in work]


def test_a_job_that_begins_in_a_fresh_place_may_close_a_gap_at_once(emulator: Emulator) -> None:
    long, short, late = Job("Hello", {"max_tokens": 40}), Job("a", {"max_tokens": 2}), Job("The", {"max_tokens": 4})
    came: list[str] = []

    def slowly() -> Iterator[Job | None]:
        yield long._replace(tag="long")
        yield short._replace(tag="short")
        while "short" not in came:  # its place is free then, and the third was never used: `late` begins there
            yield None
        yield late._replace(tag="late")

    for answer in emulator.answers(slowly(), parallel=3):
        assert isinstance(answer.reply, Reply)
        came.append(answer.tag)
        if answer.tag == "late":
            tokens = answer.reply.tokens
    assert came == ["short", "late", "long"]
    assert tokens == emulator.generate(late.prompt, **late.dials).tokens


def test_waiting_for_the_next_job_ends_when_cancelled(emulator: Emulator) -> None:
    work = itertools.chain([Job("Hello", {"max_tokens": 2})], itertools.repeat(None))
    done: list[Answer] = []
    for answer in emulator.answers(work, cancelled=lambda: bool(done)):
        done.append(answer)  # noqa: PERF402 - `cancelled` looks at it
    assert len(done) == 1 and all(slot.free for slot in emulator.engine.slots)


def test_a_run_that_is_given_up_gives_its_places_back(emulator: Emulator) -> None:
    whole = emulator.generate("Hello")
    running = emulator.answers([Job("Hello", tag=i) for i in range(9)], parallel=4)
    next(running)
    running.close()  # type: ignore[attr-defined]  # a generator
    assert all(slot.free for slot in emulator.engine.slots)
    assert emulator.generate("Hello").tokens == whole.tokens


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 8, 16])
def test_a_shared_system_text_is_computed_once(family: Family, tmp_path: Path, parallel: int) -> None:
    system = Message("system", "".join(chr(97 + i * i % 26) for i in range(420)))
    prompts = [[system, Message("user", f"{i} and {i * 7 % 10}?")] for i in range(64)]
    with load(tmp_path, models(family), views=CHAT, context=512, max_tokens=2) as made:
        found = replies(made.answers((Job(p, tag=i) for i, p in enumerate(prompts)), parallel=parallel))
        for member, role in enumerate(made.roles):
            rendered = [made._prompt(member, prompt) for prompt in prompts]
            shared = next(i for i in range(1000) if len({tuple(tokens[: i + 1]) for tokens in rendered}) > 1)
            answered = sum(len(reply.tokens) for reply in found.values())  # but for each one's last, and without ends
            least = shared + sum(len(tokens) - shared for tokens in rendered)
            assert shared > 400
            assert least <= made.fed_tokens[role] <= least + answered
        made.engine.reserve(17, 512)  # cold caches
        alone = made.generate_many(prompts[:5], parallel=1)
    assert [found[i].tokens for i in range(5)] == [reply.tokens for reply in alone]


def test_samples_of_one_prompt_compute_it_once(emulator: Emulator) -> None:
    prompt = "Hello, " * 20
    work = [Job(prompt, {"max_tokens": 1, "temperature": 1.0, "seed": 1}, (0, i), i) for i in range(6)]
    found = replies(emulator.answers(work, parallel=6))
    assert len({reply.tokens for reply in found.values()}) > 1
    for role, n in found[0].prompt_tokens.items():
        assert emulator.fed_tokens[role] == n + 5  # the last token of the others' own copies, for its logits


@pytest.mark.parametrize("kind", ["recurrent", "sliding"])
def test_caches_that_cannot_be_rewound_share_nothing_wrongly(family: Family, tmp_path: Path, kind: str) -> None:
    paths = {"base": getattr(family, kind), "tuned": family.tuned, "reference": family.reference}
    prompts = [Raw("the end of the world is " * 3 + text) for text in TEXTS]
    with load(tmp_path, paths, max_tokens=6) as made:
        alone = made.generate_many(prompts, parallel=1)
        together = made.generate_many(prompts, parallel=5)
    assert [reply.tokens for reply in together] == [reply.tokens for reply in alone]


def test_a_long_prompt_is_read_in_pieces_while_others_go_on(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_context, "CPU_BATCH", 16)
    sizes: list[int] = []
    real = llama_context.Context._decode

    def decode(self: llama_context.Context, tokens: Any, *args: Any) -> None:
        sizes.append(len(tokens))
        real(self, tokens, *args)

    monkeypatch.setattr(llama_context.Context, "_decode", decode)
    short, long = Job("Hello", {"max_tokens": 20}, tag="short"), Job("a world " * 20, {"max_tokens": 2}, tag="long")
    found = replies(emulator.answers([short, long], parallel=2))
    assert found["short"].steps == len(found["short"].tokens) == 20
    assert found["long"].prompt_tokens["base"] > 100
    assert max(sizes) <= 16  # a piece of the prompt, and the other's token beside it
    assert found["long"].tokens == emulator.generate("a world " * 20, max_tokens=2).tokens


def test_what_runs_stands_side_by_side_in_every_decode(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    # llama.cpp computes neighbouring sequences in one go, and others in another.
    decoded: list[list[int]] = []
    real = llama_cpp.llama_decode

    def decode(handle: Any, batch: Any) -> int:
        decoded.append([batch.seq_id[i][0] for i in range(batch.n_tokens)])
        return int(real(handle, batch))

    monkeypatch.setattr(llama_cpp, "llama_decode", decode)
    work = [Job(text, {"max_tokens": 3 + 7 * i % 12}, tag=i) for i, text in enumerate(TEXTS)]
    alone = [emulator.generate(job.prompt, **job.dials).tokens for job in work]
    emulator.engine.reserve(6, 256)
    decoded.clear()
    together = replies(emulator.answers(work, parallel=6))
    assert [together[i].tokens for i in range(len(work))] == alone
    assert all(sequences == sorted(sequences) for sequences in decoded)
    last = decoded[-3 * 3 :]  # nothing comes after these
    assert all(sequences == list(range(sequences[0], sequences[0] + len(sequences))) for sequences in last)


def test_conversations_keep_their_caches_beside_each_other(emulator: Emulator) -> None:
    emulator.engine.reserve(3, 256)
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
            alone = one.score(prompt, completion, **dials)
            assert [token.id for token in score.tokens] == [token.id for token in alone.tokens]
            for a, b in zip(score.tokens, alone.tokens, strict=True):
                assert a.logprob == pytest.approx(b.logprob, abs=1e-4) and a.base == pytest.approx(b.base, abs=1e-4)
        prefix = len(many.engine.model(0).tokenize(long))
        scored = sum(len(score.tokens) for score in found if isinstance(score, Score))
        assert many.fed_tokens["base"] < 2 * prefix + scored
