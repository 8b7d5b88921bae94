"""A base on a server does what the same base does on this machine, in every shape that an emulator can have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlocal import Constraint, Raw
from eftlocal.catalog.server import Server
from eftlocal.decoding.partial import Completer
from eftlocal.emulation import remote
from eftlocal.errors import DecodeError, RemoteError, SettingError, VocabularyError
from eftlocal.runtime.llama import context as llama_context
from tests import builders
from tests.families import Family
from tests.runtime.remote.mirror import CONTEXT, Mirror, mirrored

ONE = {"tuned": "tuned", "reference": "reference"}
TWO = ({**ONE, "name": "first", "beta": 0.8}, {"tuned": "tuned2", "reference": "reference2", "name": "second"})
QUESTION = "Hello, what is the answer to one and one?"
PREFIX = "The user is in the"

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "one reward": {},
    "strong": {"dials": {"beta": 3.0}},
    "negative": {"dials": {"beta": -1.5}},
    "the base alone": {"dials": {"beta": 0.0}},
    "the tuned model alone": {"dials": {"alone": "tuned"}},
    "two rewards, one negative": {"rewards": ({**TWO[0], "beta": 1.3}, {**TWO[1], "beta": -0.7})},
    "a mix": {"rewards": TWO, "dials": {"mix": {"first": 0.0, "second": 2.0}}},
    "reward_top_p": {"dials": {"reward_top_p": 0.6}},
    "reward_top_p of two": {"rewards": TWO, "dials": {"reward_top_p": 0.4, "beta": 2.0}},
    "a bias on the end": {"rewards": ({**ONE, "bias": {"end": 1.5}},)},
    "views": {"views": {"base": "transcript", "tuned": "chat", "reference": "raw"}},
    "a system text": {"views": "chat", "emulator": {"system": "Answer in one word."}},
    "system texts of a pair": {
        "views": "chat",
        "rewards": ({"tuned": "tuned", "reference": "tuned", "system": {"tuned": "Be brief."}, "beta": 1.5},),
    },
    "the base's own file in the pair": {
        "views": "chat",
        "rewards": ({"tuned": "twin", "reference": "twin", "system": {"tuned": "Be brief."}},),
    },
    "LoRA in the pair": {"rewards": ({"tuned": "adapted", "reference": "reference"},)},
    "a padded pair": {"rewards": ({"tuned": "padded", "reference": "reference"},)},
    "other penalties": {"dials": {"frequency_penalty": 0.7, "presence_penalty": 0.4}},
    "logit_bias": {"dials": {"logit_bias": {101: 3.0, 32: -float("inf"), 300: 2.0}}},
    "a stop string": {"dials": {"stop": ("e", "er")}},
    "drafts": {"dials": {"draft": 3}},
}
SAMPLED: Mapping[str, Mapping[str, Any]] = {
    "plain": {"temperature": 1.0, "top_p": 1.0},
    "cut": {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.02, "typical_p": 0.9},
}
HARDER = ("one reward", "negative", "two rewards, one negative", "reward_top_p of two", "a bias on the end", "drafts")


@pytest.fixture(scope="module")
def server(family: Family) -> Iterator[tuple[str, Mirror]]:
    with mirrored(family.base) as (found, mirror):
        yield found.url, mirror


def models(family: Family, base: Any) -> dict[str, Any]:
    lora = {"path": str(family.lora), "scale": 0.8}
    return {
        "base": base,
        "tuned": family.tuned,
        "reference": family.reference,
        "tuned2": family.tuned2,
        "reference2": family.reference2,
        "twin": family.base,
        "padded": family.padded,
        "adapted": {"path": str(family.reference), "lora": lora},
    }


@contextmanager
def both(family: Family, folder: Path, url: str, shape: Mapping[str, Any], top: int | None) -> Iterator[Any]:
    """The emulator with its base on the server, and the same one with its base here."""
    options = {
        **{key: shape[key] for key in ("rewards", "views", "emulator") if key in shape},
        **shape.get("dials", {}),
    }
    far = {"url": url} if top is None else {"url": url, "top": top}
    with ExitStack() as stack:
        found = []
        for name, base in (("far", far), ("here", family.base)):
            (folder / name).mkdir(exist_ok=True)
            found.append(stack.enter_context(builders.load(folder / name, models(family, base), **options)))
        yield found


@pytest.mark.parametrize("name", SHAPES)
def test_whole_rows_give_the_same(family: Family, tmp_path: Path, server: tuple[str, Mirror], name: str) -> None:
    with both(family, tmp_path, server[0], SHAPES[name], None) as (far, here):
        a, b = (each.score(QUESTION, PREFIX) for each in (far, here))
        np.testing.assert_allclose([t.logprob for t in a.tokens], [t.logprob for t in b.tokens], atol=1e-3)
        np.testing.assert_allclose([t.base for t in a.tokens], [t.base for t in b.tokens], atol=1e-3)
        for dials in ({}, *SAMPLED.values()):
            one, other = (each.generate(QUESTION, logprobs=2, **dials) for each in (far, here))
            assert one.tokens == other.tokens and one.text == other.text and one.stopped_by == other.stopped_by
            p, q = ([t.logprob for t in each.logprobs] for each in (one, other))
            np.testing.assert_allclose(p, q, atol=1e-3)
            assert one.unknown == {}


@pytest.mark.parametrize("top", [5, 60])
@pytest.mark.parametrize("name", SHAPES)
def test_a_part_of_each_row_gives_the_same_greedy_text(
    family: Family, tmp_path: Path, server: tuple[str, Mirror], name: str, top: int
) -> None:
    with both(family, tmp_path, server[0], SHAPES[name], top) as (far, here):
        one, other = (each.generate(QUESTION) for each in (far, here))
        assert one.tokens == other.tokens and one.text == other.text
        one, other = (each.generate(QUESTION, logprobs=2) for each in (far, here))
        a, b = ([t.logprob for t in each.logprobs] for each in (one, other))
        np.testing.assert_allclose(a, b, atol=1e-3)
        own, others = ([t.base for t in each.logprobs if t.base is not None] for each in (one, other))
        np.testing.assert_allclose(own, others, atol=1e-3)


@pytest.mark.parametrize(("name", "top"), [*((name, 20) for name in HARDER), ("one reward", 100), ("drafts", 100)])
def test_what_a_part_of_each_row_gives_is_within_what_is_told(
    family: Family, tmp_path: Path, server: tuple[str, Mirror], name: str, top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[int], Any]] = []
    complete = Completer.complete

    def spy(self: Completer, slot: Any, generation: Any, *rest: Any) -> Any:
        found = complete(self, slot, generation, *rest)
        if found is not None:
            drawn.append((list(generation.tokens), found.z.astype(np.float64)))
        return found

    monkeypatch.setattr(Completer, "complete", spy)
    with both(family, tmp_path, server[0], SHAPES[name], top) as (far, here):
        reply = far.generate(Raw(PREFIX), temperature=1.0, top_p=1.0, seed=3)
        assert len(reply.left_out) == len(drawn)
        n = here.n_vocab
        for (tokens, z), (_, bound) in zip(drawn, reply.left_out, strict=True):
            places = here.score(Raw(PREFIX), [*tokens, 0], top=n).top[-1]
            exact = np.zeros(n)
            exact[[place.id for place in places]] = np.exp([place.logprob for place in places])
            own = np.exp(z - z.max())
            assert 0.5 * np.abs(own / own.sum() - exact).sum() <= bound + 1e-4


def test_a_long_prompt_is_sent_while_the_pair_reads_its_own(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirrored(family.base) as (server, _), both(family, tmp_path, server.url, {}, 60) as (far, here):
        monkeypatch.setattr(llama_context, "CPU_BATCH", 16)
        server.seen.clear()
        reply = far.generate(QUESTION * 3, max_tokens=4)
        assert reply.tokens == here.generate(QUESTION * 3, max_tokens=4).tokens
        bodies: list[Any] = [body for path, body in server.seen if path == "/completion"]
        ahead, whole = (body["prompt"] for body in bodies[:2])
        assert ahead == whole[:-1] and len(ahead) > 16 and bodies[0]["n_probs"] == 1


@pytest.mark.parametrize("tuned", ["tuned", "padded"])
@pytest.mark.parametrize("dials", [{}, {"draft": 3, "beta": 2.0}, {"beta": 0.0}])
def test_a_base_whose_likeliest_tokens_are_padding_is_asked_for_more(
    family: Family, tmp_path: Path, tuned: str, dials: Mapping[str, Any]
) -> None:
    padded = replace(family, base=family.padded)  # the logits of its padding are the largest
    shape = {"rewards": ({"tuned": tuned, "reference": "padded"},), "dials": dials}
    with mirrored(padded.base) as (server, _), both(padded, tmp_path, server.url, shape, 4) as (far, here):
        assert far.generate(QUESTION).tokens == here.generate(QUESTION).tokens
        assert far.generate(QUESTION, temperature=1.0, seed=1).finish_reason in ("stop", "length")


def test_a_model_on_another_machine_is_told_once_by_its_name_or_its_address() -> None:
    there = Server(url="https://box:8080")
    assert remote.leaves("big", there) == "big runs at https://box:8080: what you write leaves this machine"
    assert remote.leaves(there.url, there) == "A model runs at https://box:8080: what you write leaves this machine"
    assert remote.leaves("big", Server(url="http://127.0.0.1:8080")) is None


def test_another_model_than_the_one_that_a_llama_server_has_is_refused(
    family: Family, tmp_path: Path, server: tuple[str, Mirror]
) -> None:
    with (
        pytest.raises(RemoteError, match=f"has no model other; it has {server[1].named}"),
        builders.load(tmp_path, models(family, {"url": server[0], "model": "other"})),
    ):
        pass


def test_a_context_that_the_server_has_no_room_for_says_what_the_server_has(
    family: Family, tmp_path: Path, server: tuple[str, Mirror]
) -> None:
    with (
        pytest.raises(SettingError, match=rf"too long: http://.* has {CONTEXT}, one of them") as error,
        builders.load(tmp_path, models(family, {"url": server[0]}), context=512),
    ):
        pass
    assert "larger -c" in (error.value.hint or "") and f"at most {CONTEXT - 1} " in (error.value.hint or "")


CONSTRAINTS: Mapping[str, Constraint] = {
    "schema": Constraint.json_schema(
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 8}, "n": {"enum": [1, 20, 300]}}}
    ),
    "regex": Constraint.regex("[A-Z][a-z]{2,9} [0-9]{2}"),
    "choice": Constraint.choice(["yes", "no", "perhaps"]),
}


@pytest.mark.parametrize("dials", [{}, {"draft": 3}, {"repeat_last_n": 0, "logit_bias": {101: 2.0}}])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_constrained_text_is_the_same_and_is_not_asked_for_in_whole_rows(
    family: Family, tmp_path: Path, server: tuple[str, Mirror], name: str, dials: Mapping[str, Any]
) -> None:
    with both(family, tmp_path, server[0], {}, 60) as (far, here):
        one, other = (each.generate(QUESTION, constraint=CONSTRAINTS[name], **dials) for each in (far, here))
        assert one.tokens == other.tokens and one.complete == other.complete
        assert len(one.left_out) > 0
        drawn = far.generate(QUESTION, constraint=CONSTRAINTS[name], temperature=0.8, seed=2, **dials)
        assert drawn.complete or drawn.finish_reason == "length"


def test_a_llama_server_that_comes_back_with_another_model_of_the_same_name_ends_the_answer(
    family: Family, tmp_path: Path
) -> None:
    with mirrored(family.base) as (server, mirror), both(family, tmp_path, server.url, {}, 60) as (far, _):
        link = far.members.specs[far.members.base].remote.link
        stream = far.stream(Raw(PREFIX), temperature=1.0, seed=3)
        parts = iter(stream)
        before = next(parts)
        mirror.meta["size"] = 7
        connection = link.connection()
        connection.close()
        link.release(connection)
        with pytest.raises(DecodeError, match=r"runs another model now: .* 1 parameters in 7 bytes; it was"):
            list(parts)
        assert before and stream.reply.text.startswith(before)


def test_a_server_whose_control_tokens_have_other_ids_is_refused_unless_they_may_differ(
    family: Family, tmp_path: Path
) -> None:
    ours: dict[str, int] = {}

    def swap(mirror: Mirror) -> None:
        ours.update(mirror.controls)
        (one, i), (other, j), *_ = ours.items()
        mirror.controls |= {one: j, other: i}

    with mirrored(family.base, change=swap) as (server, mirror):
        text, there = next(iter(mirror.controls.items()))
        said = f"other control tokens than the models here: {text} is token {ours[text]} here, and begins with"
        with (
            pytest.raises(VocabularyError, match=re.escape(f"{said} token {there} there")) as error,
            both(family, tmp_path, server.url, {}, 60),
        ):
            pass
        assert "special_tokens_differ" in (error.value.hint or "")
        with both(family, tmp_path, server.url, {"emulator": {"special_tokens_differ": True}}, 60) as (far, here):
            assert far.generate(QUESTION).text == here.generate(QUESTION).text
