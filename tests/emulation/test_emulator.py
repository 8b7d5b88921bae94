"""`Emulator` with tiny models: identities of the arithmetic, streams, chats, scores, and ways to end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlocal import Constraint, Emulator, Message, Raw
from eftlocal.arithmetic.arrays import Logits
from eftlocal.emulation import prepare
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request
from eftlocal.errors import (
    CatalogError,
    ContextError,
    DecodeError,
    EftError,
    SettingError,
    ViewError,
    VocabularyError,
)
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from tests import families, oracle
from tests.builders import load, load_members
from tests.families import VOCAB, Family, write_model

CHAT = {"base": "transcript", "tuned": "chat", "reference": "transcript"}


def models(family: Family) -> dict[str, Path]:
    return {
        "base": family.base,
        "tuned": family.tuned,
        "reference": family.reference,
        "tuned2": family.tuned2,
        "reference2": family.reference2,
    }


@pytest.fixture
def emulator(family: Family, tmp_path: Path) -> Iterator[Emulator]:
    with load(tmp_path, models(family), views=CHAT) as made:
        yield made


def raw_tokens(emulator: Emulator, text: str) -> list[int]:
    """The tokens of a raw text. All members share the vocabulary."""
    return emulator.render(Raw(text))["base"]


def answer(family: Family, folder: Path, prompt: str = "Hello, world", **options: Any) -> tuple[int, ...]:
    with load(folder, models(family), **options) as made:
        return made.generate(prompt).tokens


# --- identities -------------------------------------------------------------------------------------------------------


def test_beta_0_is_the_base_token_for_token_and_loads_nothing_else(family: Family, tmp_path: Path) -> None:
    with load(tmp_path, models(family), beta=0.0) as zero:
        tokens = zero.generate("Hello, world").tokens
        assert zero.files == (family.base,)
    assert tokens == answer(family, tmp_path, rewards=())
    assert tokens != answer(family, tmp_path)


def test_base_as_its_own_reference_at_beta_1_is_the_tuned_model_and_loads_one_model_only(
    family: Family, tmp_path: Path
) -> None:
    with load(tmp_path, models(family), rewards=[{"tuned": "tuned", "reference": "base"}]) as made:
        tokens = made.generate("Hello, world").tokens
        assert made.files == (family.tuned,)
    assert tokens == answer(family, tmp_path, base="tuned", rewards=())


def test_a_reward_given_twice_equals_twice_its_beta(family: Family, tmp_path: Path) -> None:
    pair = {"tuned": "tuned", "reference": "reference"}
    twice = answer(family, tmp_path, rewards=[{**pair, "name": "a"}, {**pair, "name": "b"}])
    assert twice == answer(family, tmp_path, beta=2.0)
    assert twice == answer(family, tmp_path, rewards=[{**pair, "beta": 2.0}])


def test_the_order_of_rewards_does_not_matter(family: Family, tmp_path: Path) -> None:
    one = {"tuned": "tuned", "reference": "reference", "beta": 0.6}
    two = {"tuned": "tuned2", "reference": "reference2", "beta": 0.9}
    assert answer(family, tmp_path, rewards=[one, two]) == answer(family, tmp_path, rewards=[two, one])


def test_mix_replaces_betas_by_name_and_beta_scales_them_all(family: Family, tmp_path: Path) -> None:
    one = {"tuned": "tuned", "reference": "reference", "name": "one"}
    two = {"tuned": "tuned2", "reference": "reference2", "name": "two", "beta": 0.5}
    configured = answer(family, tmp_path, rewards=[{**one, "beta": 0.6}, {**two, "beta": 0.3}])
    turned = answer(family, tmp_path, rewards=[one, two], mix={"one": 1.2, "two": 0.6}, beta=0.5)
    assert turned == configured
    with load(tmp_path, models(family), rewards=[one, two]) as made, pytest.raises(SettingError, match="tow"):
        made.generate("x", mix={"tow": 1.0})


def test_a_prompt_alone_can_be_a_reward_as_in_classifier_free_guidance(family: Family, tmp_path: Path) -> None:
    reward = {"tuned": "base", "reference": "base", "name": "brief", "beta": 1.5, "system": {"tuned": "Be brief."}}
    with load(tmp_path, {"base": family.base}, rewards=[reward], views="transcript") as made:
        reply = made.generate([Message("user", "Why?")], max_tokens=8)
        assert made.files == (family.base,)
        assert len(made.members.specs) == 2  # base and reference are one member, tuned is another
        plain = raw_tokens(made, "User:\nWhy?\n\nAssistant:\n")
        guided = raw_tokens(made, "Be brief.\n\nUser:\nWhy?\n\nAssistant:\n")
    member, other = oracle.Member(family.base, plain), oracle.Member(family.base, guided)
    expected = oracle.combined(member, [oracle.Reward(other, member, 1.5)], list(reply.tokens))
    assert list(reply.tokens) == expected[:-1].argmax(axis=1).tolist()


def test_an_adapter_makes_a_tuned_model_of_the_references_own_file(family: Family, tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "base": family.base,
        "reference": family.reference,
        "tuned": {"path": str(family.reference), "lora": {"path": str(family.lora), "scale": 0.5}},
    }
    with load(tmp_path, tables, beta=0.7) as made:
        reply = made.generate(Raw("Hello"), max_tokens=8)
        assert sorted(made.files) == sorted([family.base, family.reference])
        prompt = raw_tokens(made, "Hello")
    tuned = oracle.Member(family.reference, prompt, family.lora, 0.5)
    reward = oracle.Reward(tuned, oracle.Member(family.reference, prompt), 0.7)
    expected = oracle.combined(oracle.Member(family.base, prompt), [reward], list(reply.tokens))
    assert list(reply.tokens) == expected[:-1].argmax(axis=1).tolist()


def test_renamed_special_tokens_are_refused_unless_allowed_and_then_get_no_reward(
    family: Family, tmp_path: Path
) -> None:
    paths = {"base": family.base, "tuned": family.other_specials, "reference": family.reference}
    with pytest.raises(VocabularyError, match="im_start"):
        load(tmp_path, paths)
    with load(tmp_path, paths, emulator={"special_tokens_differ": True}) as made:
        reply = made.generate(Raw("Hello"), max_tokens=6)
        prompt = raw_tokens(made, "Hello")
        scored = made.score(Raw("Hello"), [314, 315, 72])
    member = {name: oracle.Member(path, prompt) for name, path in paths.items()}
    reward = oracle.Reward(member["tuned"], member["reference"], 1.0)
    expected = oracle.combined(member["base"], [reward], list(reply.tokens), unrewarded=[314, 315])
    assert list(reply.tokens) == expected[:-1].argmax(axis=1).tolist()
    without, with_reward = (
        oracle.combined(member["base"], [reward], [314, 315, 72], unrewarded=ids)[range(3), [314, 315, 72]]
        for ids in ([314, 315], [])
    )
    np.testing.assert_allclose([token.logprob for token in scored.tokens], without, atol=1e-4)
    assert np.abs(without - with_reward)[:2].min() > 0.1


def test_another_vocabulary_is_refused_before_anything_is_loaded(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.engine.workers.Model", None)  # loading a model would raise TypeError
    paths = {"base": family.base, "tuned": family.other_vocabulary, "reference": family.reference}
    with pytest.raises(VocabularyError, match="Hello"):
        load(tmp_path, paths)


def test_padding_rows_of_a_larger_base_take_no_part(family: Family, tmp_path: Path) -> None:
    paths = {"base": family.padded, "tuned": family.tuned, "reference": family.reference}
    with load(tmp_path, paths) as made:
        assert max(made.generate(Raw("Hello"), temperature=5.0, top_p=1.0, max_tokens=100).tokens) < 316


# --- sequences --------------------------------------------------------------------------------------------------------


def test_generate_many_equals_one_by_one(family: Family, tmp_path: Path) -> None:
    prompts = ["Hello", "the world is", "a", "what is the", "in the end it was", "Hello, world"]
    with load(tmp_path, models(family), views=CHAT) as made:
        separately = [made.generate(prompt) for prompt in prompts]
        for parallel in (1, 2, 6):
            together = made.generate_many(prompts, parallel=parallel)
            assert [(r.tokens, r.finish_reason) for r in together] == [(r.tokens, r.finish_reason) for r in separately]


def test_a_seeded_sample_is_the_same_however_many_run_at_once_and_whatever_else_runs(emulator: Emulator) -> None:
    prompts = ["Hello", "the world is", "a", "what is the"]
    draws = [
        [reply.tokens for reply in emulator.generate_many(prompts, parallel=n, temperature=1.0, seed=5)] for n in (1, 4)
    ]
    assert draws[0] == draws[1]
    assert emulator.generate("Hello", temperature=1.0, seed=5).tokens == draws[0][0]
    assert emulator.generate("Hello", temperature=1.0, seed=6).tokens != draws[0][0]


def test_a_reply_without_a_seed_says_the_one_it_drew_and_can_be_repeated(emulator: Emulator) -> None:
    first = emulator.generate("Hello", temperature=1.0, seed=None)
    assert emulator.generate("Hello", temperature=1.0, seed=first.seed).tokens == first.tokens


def test_a_second_turn_feeds_only_its_new_tokens(emulator: Emulator) -> None:
    conversation = [Message("user", "Hello")]
    first = emulator.generate(conversation, temperature=1.0, seed=3)  # sampled: the tokenizer would split it otherwise
    before = dict(emulator.fed_tokens)
    longer = [*conversation, first.message, Message("user", "and then?")]
    second = emulator.generate(longer, max_tokens=1)
    for role in ("base", "tuned", "reference"):
        held = first.prompt_tokens[role] + len(first.tokens) - 1  # the last token was drawn but not fed
        assert emulator.fed_tokens[role] - before[role] == second.prompt_tokens[role] - held


def test_a_chat_with_reused_caches_equals_one_that_starts_cold(family: Family, tmp_path: Path) -> None:
    conversation: list[Message] = []
    with load(tmp_path, models(family), views=CHAT) as warm:
        for text in ("Hello", "and the world?", "why"):
            conversation.append(Message("user", text))
            reply = warm.generate(conversation, temperature=0.8, seed=2)
            with load(tmp_path, models(family), views=CHAT) as cold:
                assert cold.generate(conversation, temperature=0.8, seed=2).tokens == reply.tokens
            conversation.append(reply.message)


def test_dials_turn_between_answers_without_feeding_the_prompt_again(emulator: Emulator) -> None:
    emulator.generate("Hello", max_tokens=1)
    before = dict(emulator.fed_tokens)
    emulator.generate("Hello", max_tokens=1, beta=0.5, temperature=0.7)
    assert {role: n - before[role] for role, n in emulator.fed_tokens.items()} == {
        "base": 1,
        "tuned": 1,
        "reference": 1,
    }


def test_a_conversation_that_ends_with_an_answer_is_continued(emulator: Emulator) -> None:
    whole = emulator.generate("Hello", max_tokens=12)
    part = emulator.generate("Hello", max_tokens=5)
    rest = emulator.generate([Message("user", "Hello"), part.message], max_tokens=7)
    assert part.tokens + rest.tokens == whole.tokens


# --- ends -------------------------------------------------------------------------------------------------------------


def test_the_answer_ends_at_a_stop_string_and_shows_none_of_it(emulator: Emulator) -> None:
    whole = emulator.generate("Hello").text
    stop = whole[4:7]
    reply = emulator.generate("Hello", stop=[stop])
    assert (reply.text, reply.finish_reason, reply.stopped_by) == (whole[: whole.index(stop)], "stop", stop)


def test_the_answer_ends_at_the_end_of_generation_token_of_any_member(family: Family, tmp_path: Path) -> None:
    with load(tmp_path, models(family)) as made:
        for token in (313, 315):  # end tokens of the base and of the tuned model
            reply = made.generate("Hello", logit_bias={token: 1000.0})
            assert (reply.finish_reason, reply.tokens, reply.text) == ("stop", (), "")


def test_what_ends_an_answer_follows_from_its_settings_and_not_from_what_ran_before(
    family: Family, tmp_path: Path
) -> None:
    the = VOCAB.id(" the")
    tuned = families.write_model(tmp_path / "tuned.gguf", seed=5, eos=families.spelled(" the"))  # its end token
    paths = models(family) | {"tuned": tuned}
    base_only: Any = {"beta": 0.0, "logit_bias": {the: 1000.0}, "max_tokens": 3}
    with load(tmp_path, paths, beta=0.0) as cold, load(tmp_path, paths) as warm:
        warm.generate("Hello", max_tokens=1)
        assert tuned in warm.files and tuned not in cold.files
        for made in (cold, warm):
            reply = made.generate("Hello", **base_only)
            assert (reply.finish_reason, reply.tokens) == ("length", (the, the, the))
            shaped = made.generate("Hello", **base_only | {"constraint": Constraint.regex("( the)+")})
            assert shaped.text == " the the the"
        assert warm.generate("Hello", **base_only | {"beta": 1.0}).tokens == ()  # where it runs, it ends the answer


def test_a_control_tokens_text_is_a_stop_string_that_ends_the_answer_at_that_token(emulator: Emulator) -> None:
    biased: Any = {"logit_bias": {314: 1000.0}, "max_tokens": 3}  # <|im_start|>, which ends no answer by itself
    assert emulator.generate("Hello", **biased).tokens == (314, 314, 314)
    reply = emulator.generate("Hello", stop="<|im_start|>", **biased)
    assert (reply.finish_reason, reply.stopped_by, reply.tokens) == ("stop", "<|im_start|>", ())
    with pytest.raises(
        SettingError, match=r"'x<\|im_start\|>' holds the control token '<\|im_start\|>' and other text"
    ):
        emulator.generate("Hello", stop=["x<|im_start|>"])


def test_one_text_is_one_stop_string(emulator: Emulator) -> None:
    whole = emulator.generate("Hello").text
    stop = whole[3:5]
    assert emulator.generate("Hello", stop=stop).text == emulator.generate("Hello", stop=[stop]).text == whole[:3]


@pytest.mark.parametrize("token", [999_999, -1, 1.5, True, "x"])
def test_token_ids_from_outside_are_checked_where_they_come_in(emulator: Emulator, token: Any) -> None:
    with pytest.raises(SettingError, match=r"The completion has the token id .*; ids are whole numbers from 0 to 315"):
        emulator.score("Hello", [72, token])
    spoken = [Message("user", "Hi"), Message("assistant", "x", (token,)), Message("user", "Hi")]
    for ask in (emulator.generate, emulator.render, emulator.count):
        with pytest.raises(SettingError, match="A message of the assistant has the token id"):
            ask(spoken)


@pytest.mark.parametrize(
    "text",
    [
        'default = "far"\n[emulators.far]\nbase = "demo-large-base"\nviews = { base = "auto" }\n',
        'default = "far"\n[models.big]\nurl = "http://10.0.0.7:1"\n[emulators.far]\nbase = "big"\n',
        'default = "fra"\n[emulators.far]\nbase = "demo-large-base"\n',
        'defualt = "far"\n[emulators.far]\nbase = "demo-large-base"\n',
    ],
)
def test_no_other_emulator_stands_in_for_a_default_that_is_broken(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "models.toml").write_text(text)
    with pytest.raises(CatalogError, match=str(file)) as caught:
        Emulator.load(models=file)
    assert len(str(caught.value).splitlines()) == 2 and "mend this, or name one" in (caught.value.hint or "")
    with Emulator.load("demo", models=file) as named:
        assert named.name == "demo"


def test_a_closed_emulator_says_so_and_loads_nothing_again(family: Family, tmp_path: Path) -> None:
    made = load(tmp_path, models(family))
    assert made.generate("Hello").tokens
    begun = made.stream("Hello")
    made.close()
    made.close()
    for use in (
        lambda: made.generate("Hello"),
        lambda: made.score("a", "b"),
        lambda: made.count("a"),
        lambda: list(begun),
    ):
        with pytest.raises(EftError, match="The emulator is closed"):
            use()
    assert made.files == ()


def test_a_penalty_depends_on_the_distribution_and_not_on_the_level_of_its_logits(emulator: Emulator) -> None:
    dials: Any = {"repeat_penalty": 2.0, "frequency_penalty": 0.5, "max_tokens": 20}
    changed = False
    for prompt in ("Hello", "the world", "a"):
        plain = emulator.generate(prompt, reward_top_p=None, **dials)
        assert plain.tokens == emulator.generate(prompt, reward_top_p=1.0, **dials).tokens
        assert plain.tokens == emulator.generate(prompt, draft=3, **dials).tokens
        changed |= plain.tokens != emulator.generate(prompt, max_tokens=20).tokens
    assert changed


def test_max_tokens_and_a_full_context_are_told_apart(family: Family, tmp_path: Path) -> None:
    with load(tmp_path, models(family), context=64) as made:
        assert made.generate("Hello", max_tokens=5).finish_reason == "length"
        reply = made.generate("Hello", max_tokens=1000)
        assert reply.finish_reason == "context"
        assert reply.prompt_tokens["base"] + len(reply.tokens) == 64 + 1  # the last token needs no room
        with pytest.raises(ContextError, match=r"\d+ tokens long for the base model, and the context holds 64"):
            made.generate("Hello " * 60)


def test_cancelling_keeps_the_text_and_the_next_answer_is_right(emulator: Emulator) -> None:
    whole = emulator.generate("Hello")
    steps = 0

    def enough() -> bool:
        nonlocal steps
        steps += 1
        return steps > 20

    reply = emulator.generate("Hello", cancelled=enough)
    assert reply.finish_reason == "cancelled"
    assert 0 < len(reply.tokens) < len(whole.tokens) and whole.text.startswith(reply.text)
    assert emulator.generate("Hello").tokens == whole.tokens


def test_a_member_with_broken_logits_is_named(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Context.feed

    def broken(self: Context, *args: Any) -> Any:
        z = real(self, *args).copy()
        if self.model.path == family.reference:
            z[0, 7] = np.nan
        return z

    with load(tmp_path, models(family)) as made:
        before = made.generate("Hello").tokens
        with monkeypatch.context() as patch:
            patch.setattr(Context, "feed", broken)
            with pytest.raises(DecodeError, match=r"reference \(reference of tuned\)"):
                made.generate("Hello")
        assert made.generate("Hello").tokens == before


# --- views ------------------------------------------------------------------------------------------------------------


def test_chat_without_a_template_names_the_views_that_work(family: Family, tmp_path: Path) -> None:
    paths = {"base": family.base, "tuned": family.no_template, "reference": family.reference}
    with pytest.raises(ViewError, match="transcript, raw, chat:base, chat:reference"):
        load(tmp_path, paths, views=CHAT)


@pytest.mark.parametrize(
    ("refusing", "able"),
    [
        ("{{ raise_exception('no') }}", "transcript, raw, chat:tuned"),
        ("{{ nothing.more }}", "transcript, raw, chat:tuned"),
        ("{% if 1 %}", "transcript, raw, chat:tuned"),
    ],
)
def test_a_view_that_fails_names_the_views_that_accept_the_conversation(
    family: Family, tmp_path: Path, refusing: str, able: str
) -> None:
    paths = {"base": family.no_template, "tuned": family.tuned, "reference": family.reference}
    views = {"base": {"template": refusing}, "tuned": "chat", "reference": "transcript"}
    with load(tmp_path, paths, views=views) as made, pytest.raises(ViewError) as failed:
        made.generate("Hi")
    assert failed.value.hint == (
        f'Views of the base model that accept it: {able}. In models.toml: views = {{ base = "transcript" }}'
    )


def test_a_view_that_refuses_too_is_not_named(family: Family, tmp_path: Path) -> None:
    refusing = "{{ raise_exception('no system text') if messages[0].role == 'system' else messages[0].content }}"
    picky = write_model(tmp_path / "picky.gguf", seed=3, chat_template=refusing)
    paths = {"base": family.no_template, "tuned": picky, "reference": family.reference}
    views = {"base": "chat:tuned", "tuned": "chat", "reference": "transcript"}
    system = [Message("system", "S"), Message("user", "Hi")]
    with load(tmp_path, paths, views=views) as made:
        assert made.generate("Hi").tokens
        with pytest.raises(ViewError, match=r"no system text\n.*accept it: transcript, raw, chat:reference\."):
            made.generate(system)


def test_chat_role_renders_a_member_with_another_members_template(family: Family, tmp_path: Path) -> None:
    paths = {"base": family.no_template, "tuned": family.tuned, "reference": family.reference}
    views = {"base": "chat:tuned", "tuned": "chat", "reference": {"template": "{{ messages[0].content }}"}}
    with load(tmp_path, paths, views=views) as made:
        reply = made.generate("Hello", max_tokens=1)
    assert reply.prompt_tokens["base"] == reply.prompt_tokens["tuned"] > reply.prompt_tokens["reference"] == 1


def test_a_conversation_without_a_system_text_has_the_emulators(family: Family, tmp_path: Path) -> None:
    views = {"base": "transcript", "tuned": "chat", "reference": "transcript"}
    paths = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    own, other, none = (Message("system", text) for text in ("Be kind.", "Be brief.", ""))
    hello = Message("user", "Hello")
    with load(tmp_path, paths, views=views) as plain:
        bare, kind, brief = (plain.render([*system, hello]) for system in ([], [own], [other]))
    with load(tmp_path, paths, views=views, emulator={"system": "Be kind."}) as made:
        assert made.render("Hello") == made.render([hello]) == kind != bare
        assert made.render([other, hello]) == brief  # its own goes before the emulator's
        assert made.render([none, hello]) == bare  # and an empty one stands for none
        assert made.render(Raw("Hello")) == {role: [303] for role in made.roles}  # the word's own token
        assert made.generate("Hello").prompt_tokens == {role: len(ids) for role, ids in kind.items()}
        assert made.score("Hello", "x").logprob == made.score([own, hello], "x").logprob


def test_a_bos_that_the_vocabulary_wants_is_there_once(family: Family, tmp_path: Path) -> None:
    with load(tmp_path, {"base": family.with_bos}, rewards=(), views={"base": "chat"}) as made:
        chat = made.render("Hello")["base"]
        raw = made.render(Raw("Hello"))["base"]
    bos = VOCAB.id("<|endoftext|>")
    assert chat[0] == raw[0] == bos and chat.count(bos) == raw.count(bos) == 1


# --- prompts as tokens ------------------------------------------------------------------------------------------------


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> dict[Path, list[int]]:
    """Records the tokens that each model file is fed, in order."""
    found: dict[Path, list[int]] = {}
    feed = Context.feed

    def spy(context: Context, feeds: Sequence[Feed]) -> Logits:
        for each in feeds:
            found.setdefault(context.model.path, []).extend(each.tokens)
        return feed(context, feeds)

    monkeypatch.setattr(Context, "feed", spy)
    return found


def prompts_of_each_kind(made: Emulator) -> Mapping[str, Any]:
    """A prompt of each kind. The continued answer was sampled, so the tokenizer would split its text otherwise."""
    part = made.generate("Hello", temperature=1.5, seed=2, max_tokens=5).message
    assert part.tokens
    question, more = Message("user", "Hello"), Message("user", "and then?")
    return {
        "chat": "Hello",
        "conversation": [Message("system", "Be brief."), question, part, more],
        "raw": Raw("Hello, world"),
        "continued": [question, part],
    }


@pytest.mark.parametrize("kind", ["chat", "conversation", "raw", "continued"])
@pytest.mark.parametrize("beta", [1.0, 0.0])
def test_render_gives_the_tokens_that_a_generation_is_fed(
    family: Family, tmp_path: Path, fed: dict[Path, list[int]], kind: str, beta: float
) -> None:
    with load(tmp_path, models(family), views=CHAT) as made:
        prompt = prompts_of_each_kind(made)[kind]
    with load(tmp_path, models(family), views=CHAT) as made:  # empty KV caches, so everything is fed
        rendered = made.render(prompt, beta=beta)
        fed.clear()
        reply = made.generate(prompt, beta=beta, max_tokens=1)
    assert {models(family)[role]: ids for role, ids in rendered.items()} == fed
    assert rendered.keys() == reply.prompt_tokens.keys() == ({"base", "tuned", "reference"} if beta else {"base"})
    if kind == "continued":
        assert all(tuple(ids[-len(prompt[-1].tokens) :]) == prompt[-1].tokens for ids in rendered.values())


def test_render_refuses_what_a_generation_refuses(family: Family, tmp_path: Path) -> None:
    views = CHAT | {"reference": {"template": "{{ raise_exception('no') }}"}}
    with load(tmp_path, models(family), views=views) as made:
        with pytest.raises(SettingError, match="no reward named 'other'"):
            made.render("Hello", mix={"other": 1.0})
        with pytest.raises(ViewError, match="refuses this conversation: no"):
            made.render("Hello")
        assert made.render("Hello", beta=0.0).keys() == {"base"}  # the reference does not run


def test_count_is_the_replys_prompt_tokens_and_nothing_is_fed(
    family: Family, tmp_path: Path, fed: dict[Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_members(tmp_path, models(family), views=CHAT, context=64)
    with closing(loaded.engine):
        made = Emulator(loaded)
        prompts = prompts_of_each_kind(made)
        long = "Hello " * 60
        for beta in (1.0, 0.0):
            before = dict(made.fed_tokens)
            fed.clear()
            with monkeypatch.context() as patch:
                patch.setattr(prepare, "Generation", None)  # building an answer would raise TypeError
                counted = {kind: made.count(prompt, beta=beta) for kind, prompt in prompts.items()}
                longer = made.count(long, beta=beta)
            assert fed == {} and dict(made.fed_tokens) == before
            assert all(slot.free for slot in loaded.engine.slots)
            replies = {kind: made.generate(p, beta=beta, max_tokens=1) for kind, p in prompts.items()}
            assert counted == {kind: reply.prompt_tokens for kind, reply in replies.items()}
            assert longer.keys() == counted["chat"].keys() and min(longer.values()) > 64
            with pytest.raises(ContextError, match=f"{longer['base']} tokens long for the base model"):
                made.generate(long, beta=beta)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_the_oracles_for_the_emulator_and_every_role_also_at_weight_0(
    family: Family, tmp_path: Path
) -> None:
    completion = "the world is what the end in the "
    for beta in (0.0, 0.7):
        with load(tmp_path, models(family)) as made:
            score = made.score(Raw("Hello"), completion, beta=beta)
            prompt = raw_tokens(made, "Hello")
        ids = [token.id for token in score.tokens]
        assert "".join(token.text for token in score.tokens) == completion
        members = {name: oracle.Member(path, prompt) for name, path in models(family).items()}
        pair = [oracle.Reward(members["tuned"], members["reference"], beta)]
        n = range(len(ids))
        expected = {
            "emulator": oracle.combined(members["base"], pair, ids)[n, ids],
            **{role: oracle.combined(members[role], [], ids)[n, ids] for role in ("base", "tuned", "reference")},
        }
        np.testing.assert_allclose([t.logprob for t in score.tokens], expected["emulator"], atol=1e-4)
        np.testing.assert_allclose([t.base for t in score.tokens], expected["base"], atol=1e-4)
        for role in ("tuned", "reference"):
            np.testing.assert_allclose([t.rewards["tuned"][role] for t in score.tokens], expected[role], atol=1e-4)
        assert score.logprob == pytest.approx(sum(token.logprob for token in score.tokens))


def test_the_likeliest_tokens_come_with_the_score_and_the_greedy_answer_is_the_first_of_them(
    emulator: Emulator,
) -> None:
    reply = emulator.generate("Hello", max_tokens=9)
    score = emulator.score("Hello", reply.tokens, top=3)
    assert [token.id for token in score.tokens] == [top[0].id for top in score.top] == list(reply.tokens)
    assert all(len(top) == 3 and top[0].logprob >= top[1].logprob >= top[2].logprob for top in score.top)


def test_a_role_alone_answers_as_that_model_does(family: Family, tmp_path: Path) -> None:
    with load(tmp_path, models(family)) as made:
        assert made.roles == ("base", "tuned", "reference")
        for role in made.roles:
            tokens = made.generate("Hello, world", alone=role).tokens
            assert tokens == answer(family, tmp_path, base=role, rewards=())
        with pytest.raises(SettingError, match="no role named 'expert'"):
            made.generate("x", alone="expert")


def test_a_long_completion_scored_in_blocks_equals_its_tokens_scored_in_one(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    forward = Engine.forward

    def spy(engine: Engine, requests: Sequence[Request]) -> Any:
        asked.append(sum(request.rows for request in requests))
        return forward(engine, requests)

    monkeypatch.setattr(Engine, "forward", spy)
    with load(tmp_path, models(family)) as made:
        whole = [t.logprob for t in made.score(Raw("Hello"), "the world " * 8).tokens]
        assert asked == [len(whole)]
        asked.clear()
        monkeypatch.setattr("eftlocal.emulation.scoring.SCORED_ROWS", 7)
        blocks = [t.logprob for t in made.score(Raw("Hello"), "the world " * 8).tokens]
        assert sum(asked) == len(whole) and max(asked) == 7
    np.testing.assert_allclose(whole, blocks, atol=1e-4)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"beta": float("nan")}, "beta is nan"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"reward_top_p": 0.0}, "reward_top_p is 0.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"stop": [""]}, "stop string is empty"),
        ({"tempreature": 1.0}, "no setting named tempreature"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5; it must be a whole number"),
        ({"max_tokens": True}, "max_tokens is True; it must be a whole number"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"beta": "1"}, "beta is '1'; it must be a finite number"),
        ({"mix": 3}, "mix is 3; it must map names of rewards to numbers"),
        ({"mix": {"tuned": "x"}}, "mix of tuned is 'x'; it must be a finite number"),
        ({"reward_top_p": "x"}, "reward_top_p is 'x'"),
        ({"logprobs": 1.5}, "logprobs is 1.5; it must be a whole number"),
        ({"draft": 1.5}, "draft is 1.5; it must be auto, or a whole number"),
        ({"stop": 3}, "stop is 3; it must be a text, or a list of texts"),
        ({"stop": ["a", 3]}, "A stop string is 3; it must be a text"),
        ({"constraint": "[a-z]"}, r"constraint is '\[a-z\]'; it must be a Constraint"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_p": None}, "top_p is None"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"logit_bias": {3: "x"}}, "logit_bias of token 3 is 'x'"),
        ({"logit_bias": {"3": 1.0}}, "a token id of logit_bias is '3'"),
    ],
)
def test_a_setting_out_of_its_range_says_what_was_found(emulator: Emulator, dials: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        emulator.generate("Hello", **dials)


@pytest.mark.parametrize("top", [-1, 1.5, "x"])
def test_a_number_of_likeliest_tokens_that_is_none_is_told(emulator: Emulator, top: Any) -> None:
    with pytest.raises(SettingError, match=f"top is {top!r}; it must be a whole number, 0 or above"):
        emulator.score("Hello", "x", top=top)


def test_a_sampling_default_out_of_its_range_names_the_file_and_the_table(family: Family, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"models.toml: \[emulators.e\] sampling: top_p is 3"):
        load(tmp_path, models(family), emulator={"sampling": {"top_p": 3.0}})


def test_all_models_that_are_not_downloaded_are_named_at_once(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    far = {name: {"repo": "somebody/none", "file": f"{name}.gguf"} for name in ("tuned", "reference")}
    with pytest.raises(
        CatalogError, match="e is not on this machine: tuned, reference are not downloaded yet"
    ) as lacks:
        load(tmp_path, {"base": family.base, **far})
    assert lacks.value.hint == "`eftlocal pull e` downloads what is missing"


def test_a_context_beyond_what_a_member_was_trained_for_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="A context of 4096 tokens is more than the 512"):
        load(tmp_path, models(family), context=4096)
