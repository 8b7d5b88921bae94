"""Views and guidance of the command line: guidance is its formula, computed from two renderings of one prompt."""

from pathlib import Path

import numpy as np
import pytest

from eftlocal.catalog import models
from eftlocal.catalog.changes import guided, with_views
from eftlocal.catalog.entries import View
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import SettingError
from eftlocal.runtime.views import Message
from tests import oracle
from tests.builders import write_catalog
from tests.families import Family

ASKED = [Message("system", "Be kind."), Message("user", "Hello")]
NEGATIVE = "Be rude."


def loaded(catalog: models.Catalog, entry: models.Emulator) -> Emulator:
    changed = models.Catalog(models=catalog.models, emulators={entry.name: entry}, default=(entry.name,))
    return Emulator.load(
        models=changed, kv_type="f32", threads=1, context=256, temperature=0.0, max_tokens=12, seed=1, draft=0
    )


@pytest.fixture
def trio(family: Family, tmp_path: Path) -> models.Catalog:
    files = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    rewards = [{"name": "kind", "tuned": "tuned", "reference": "reference"}]
    return models.load(write_catalog(tmp_path, files, base="base", rewards=rewards))


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.5, 3.0])
def test_guidance_of_a_lone_model_is_its_formula_from_two_renderings(family: Family, guidance: float) -> None:
    catalog = models.load().with_trio(str(family.tuned))
    plain = catalog.emulator(None)
    with loaded(catalog, plain) as emulator:
        positive = emulator.render(ASKED)["base"]
        negative = emulator.render([Message("system", NEGATIVE), ASKED[1]])["base"]
    assert positive != negative
    with loaded(catalog, guided(plain, NEGATIVE, guidance)) as emulator:
        assert len(emulator.members.specs) == 2  # the base and the tuned side are one member
        reply = emulator.generate(ASKED)
        scored = emulator.score(ASKED, reply.tokens)
    tokens = list(reply.tokens)
    for_rows = [
        oracle.log_probabilities(family.tuned, [*prompt, *tokens])[len(prompt) - 1 : -1]
        for prompt in (positive, negative)
    ]
    z = for_rows[1] + guidance * (for_rows[0] - for_rows[1])
    expected = oracle.log_softmax(z)[:, : emulator.n_vocab]
    found = [token.logprob for token in scored.tokens]
    np.testing.assert_allclose(found, expected[np.arange(len(tokens)), tokens], atol=1e-4)
    assert tokens == expected.argmax(axis=1).tolist()


def test_guidance_of_an_emulator_is_a_reward_of_its_first_tuned_model(trio: models.Catalog, family: Family) -> None:
    entry = trio.emulator(None)
    with loaded(trio, entry) as emulator:
        prompts = emulator.render(ASKED)
        negative = emulator.render([Message("system", NEGATIVE), ASKED[1]])["tuned"]
    with loaded(trio, guided(entry, NEGATIVE, 2.0)) as emulator:
        assert dict(emulator.betas) == {"kind": 1.0, "guidance": 1.0}
        reply = emulator.generate(ASKED)
        unguided = emulator.generate(ASKED, mix={"guidance": 0.0})
    member = {role: oracle.Member(getattr(family, role), prompt) for role, prompt in prompts.items()}
    rewards = [
        oracle.Reward(member["tuned"], member["reference"], 1.0),
        oracle.Reward(member["tuned"], oracle.Member(family.tuned, negative), 1.0),
    ]
    expected = oracle.combined(member["base"], rewards, list(reply.tokens))
    assert list(reply.tokens) == expected[: len(reply.tokens)].argmax(axis=1).tolist()
    with loaded(trio, entry) as emulator:
        assert emulator.generate(ASKED).tokens == unguided.tokens


def test_guidance_that_cannot_be_is_an_error(trio: models.Catalog) -> None:
    entry = trio.emulator(None)
    with pytest.raises(SettingError, match="already"):
        guided(guided(entry, NEGATIVE), NEGATIVE)
    with pytest.raises(SettingError, match="finite"):
        guided(entry, NEGATIVE, float("nan"))


def test_a_lone_model_has_its_own_chat_template_and_the_transcript_without_one(family: Family) -> None:
    def rendered(path: Path, views: dict[str, View]) -> list[int]:
        catalog = models.load().with_trio(str(path))
        with loaded(catalog, with_views(catalog.emulator(None), views)) as emulator:
            return emulator.render(ASKED)["base"]

    chat, transcript = ({"base": View(kind)} for kind in ("chat", "transcript"))
    assert rendered(family.tuned, {}) == rendered(family.tuned, chat) != rendered(family.tuned, transcript)
    assert rendered(family.no_template, {}) == rendered(family.no_template, transcript)


def test_views_go_before_those_of_the_emulator_and_of_its_rewards(trio: models.Catalog) -> None:
    entry = trio.emulator(None)
    own = guided(entry, NEGATIVE)
    changed = with_views(own, {"base": View("raw"), "reference": View("chat", "tuned")})
    assert changed.views["base"] == View("raw") and changed.views["tuned"] == entry.views["tuned"]
    assert changed.views["reference"] == changed.rewards[1].views["reference"] == View("chat", "tuned")
    with pytest.raises(SettingError, match="no role 'tund'"):
        with_views(entry, {"tund": View("raw")})


def test_guidance_of_a_template_that_leaves_out_system_texts_is_told(family: Family) -> None:
    plain = models.load().with_trio(str(family.tuned)).emulator(None)
    catalog = models.load().with_trio(str(family.tuned))
    deaf = View("template", template="{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    for entry, told in ((guided(with_views(plain, {"base": deaf}), NEGATIVE), True), (guided(plain, NEGATIVE), False)):
        with loaded(catalog, entry) as emulator:
            assert any("guidance has no effect" in note for note in emulator.notes) == told
