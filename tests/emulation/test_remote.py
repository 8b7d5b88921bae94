"""A base on a real llama-server gives what it gives on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from eftlocal import Emulator, Raw
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog, packaged
from eftlocal.errors import CatalogError, DecodeError, RemoteError, VocabularyError
from tests import llama_server
from tests.families import Family, quantized
from tests.llama_server import Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with llama_server.running(packaged("demo/large-base.gguf")) as found:
        yield found


def far(url: str, **options: object) -> Catalog:
    """The demo with its base on a server."""
    cat = catalog.load()
    base = catalog.Model(name="far-base", file=catalog.Server(url=url, **options))  # type: ignore[arg-type]
    demo = replace(cat.emulators["demo"], name="far", base="far-base")
    return replace(cat, models={**cat.models, "far-base": base}, emulators={**cat.emulators, "far": demo})


def questions(n: int) -> list[str]:
    return [q["question"] for q in json.loads(packaged("demo/questions.json").read_text())["questions"]][:n]


@pytest.fixture(scope="module")
def here() -> Iterator[Emulator]:
    with Emulator.load("demo") as emulator:
        yield emulator


@pytest.mark.parametrize("top", [5, 20, 100, None])
def test_greedy_texts_are_the_same_whatever_the_server_leaves_out(
    server: Server, here: Emulator, top: int | None
) -> None:
    with Emulator.load("far", models=far(server.url, top=top)) as emulator:
        for question in questions(20):
            reply, wanted = emulator.generate(question), here.generate(question)
            assert reply.text == wanted.text
            if top is None:
                assert reply.left_out == ()  # the vocabulary is small: rows are whole
            else:
                assert len(reply.left_out) == len(reply.tokens) + 1
                assert all(0 <= mass <= 1 and 0 <= off <= 1 for mass, off in reply.left_out)


def test_scores_are_those_of_the_same_model_here(tmp_path: Path) -> None:
    """In F32: the server is another build of llama.cpp, whose kernels round quantized products in another way."""
    base = quantized(packaged("demo/large-base.gguf"), llama_cpp.LLAMA_FTYPE_ALL_F32, tmp_path / "base-F32.gguf")
    with llama_server.running(base) as exact:
        cat = far(exact.url, top=20)
        local = replace(cat.models["far-base"], file=base)
        with (
            Emulator.load("far", models=cat, kv_type="f32") as emulator,
            Emulator.load("far", models=replace(cat, models={**cat.models, "far-base": local}), kv_type="f32") as here,
        ):
            for question in questions(20):
                a, b = (each.score(question, "That would be about Asia.") for each in (emulator, here))
                np.testing.assert_allclose([t.base for t in a.tokens], [t.base for t in b.tokens], atol=1e-3)
                np.testing.assert_allclose([t.logprob for t in a.tokens], [t.logprob for t in b.tokens], atol=1e-3)


def test_a_seed_gives_the_same_text_when_rows_are_whole(server: Server, here: Emulator) -> None:
    with Emulator.load("far", models=far(server.url)) as emulator:
        texts = [emulator.generate(q, temperature=1.0, seed=i).text for i, q in enumerate(questions(10))]
    assert texts == [here.generate(q, temperature=1.0, seed=i).text for i, q in enumerate(questions(10))]


def test_several_answers_at_once_are_the_answers_one_by_one(server: Server, here: Emulator) -> None:
    with Emulator.load("far", models=far(server.url, top=100)) as emulator:
        replies = emulator.generate_many(questions(12), parallel=4)
    assert [reply.text for reply in replies] == [here.generate(q).text for q in questions(12)]


def test_two_emulators_on_one_server_spoil_none_of_each_others_rows(server: Server) -> None:
    """A llama-server that is asked for a slot that computes takes its cache away in mid-answer, and says nothing."""
    cases = [
        (question, f"That would be {answer}.") for question in questions(15) for answer in ("Asia", "about 90,000")
    ]
    with ExitStack() as stack:
        one, other = (stack.enter_context(Emulator.load("far", models=far(server.url, top=20))) for _ in range(2))
        wanted = [one.score(*case).logprob for case in cases]
        with ThreadPoolExecutor(2) as pool:
            found = [
                pool.submit(lambda emulator, some: [emulator.score(*case).logprob for case in some], emulator, some)
                for emulator, some in ((one, cases), (other, cases[::-1]))
            ]
            np.testing.assert_allclose(found[0].result(), wanted, atol=0.05)
            np.testing.assert_allclose(found[1].result(), wanted[::-1], atol=0.05)


def test_a_constraint_gets_whole_rows(server: Server) -> None:
    from eftlocal import Constraint

    with Emulator.load("far", models=far(server.url, top=5)) as emulator:
        reply = emulator.generate(
            "Which continent does Najaf belong to?", constraint=Constraint("regex", "That would be (Europe|Africa)\\.")
        )
    assert reply.text in ("That would be Europe.", "That would be Africa.")


def test_a_penalty_does_what_it_does_with_a_base_here(server: Server, here: Emulator) -> None:
    """repeat_penalty depends on the level of logits, which log-probabilities do not have."""
    dials: Any = {"repeat_penalty": 1.1, "beta": 0.1, "max_tokens": 40}  # the base's chatter, which repeats itself
    with Emulator.load("far", models=far(server.url, top=100)) as emulator:
        same = [emulator.generate(q, **dials).text == here.generate(q, **dials).text for q in questions(5)]
    assert sum(same) >= 4  # and one near-tie


def test_the_first_request_checks_a_draft_and_reads_a_short_prompt(server: Server) -> None:
    with Emulator.load("far", models=far(server.url, top=100), draft=3, max_tokens=4) as emulator:
        base = emulator.members.specs[emulator.members.base].remote
        assert base is not None
        emulator.generate("Hi", max_tokens=1)  # opens the connection, which asks for the model
        before = base.link.timing.requests
        reply = emulator.generate("How large is Lyon?")
        assert reply.text == "That would be about"
        assert base.link.timing.requests - before == 1
        assert reply.tokens_per_s is None  # all came with the first one: there is no time between them


@pytest.mark.parametrize("draft", [0, 4])
def test_an_answer_goes_on_to_the_end_of_the_servers_context(draft: int) -> None:
    with (
        llama_server.running(packaged("demo/large-base.gguf"), slots=1, context=256) as small,
        Emulator.load("far", models=far(small.url, top=20)) as emulator,
    ):
        assert emulator.context == 255  # the server samples a token with each row, which takes a place
        no_end = {i: -float("inf") for i in range(4)}
        prompt = Raw("and the train was late, " * 39)
        reply = emulator.generate(prompt, beta=0.1, max_tokens=300, draft=draft, stop=(), logit_bias=no_end)
        assert reply.finish_reason == "context"
        assert reply.prompt_tokens["base"] + len(reply.tokens) in (255, 256)


@pytest.mark.parametrize("role", ["tuned", "reference"])
def test_a_pair_on_a_server_is_refused_in_one_line_before_anything_is_asked(role: str) -> None:
    cat = far("http://127.0.0.1:9")
    (reward,) = cat.emulators["demo"].rewards
    names: Any = {role: "far-base"}
    turned = replace(cat.emulators["demo"], rewards=(replace(reward, **names),))
    cat = replace(cat, emulators={**cat.emulators, "demo": turned})
    with pytest.raises(CatalogError, match=f"far-base .* cannot be the {role} model of the reward answers") as error:
        Emulator.load("demo", models=cat).close()
    assert "\n" not in error.value.message


def test_a_base_of_another_vocabulary_is_refused(family: Family) -> None:
    with llama_server.running(family.base) as other, pytest.raises(VocabularyError, match="has 316 tokens"):
        Emulator.load("far", models=far(other.url)).close()


def test_a_base_that_is_not_there_is_one_line() -> None:
    with pytest.raises(RemoteError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        Emulator.load("far", models=far("http://127.0.0.1:9")).close()


def test_a_base_alone_needs_models_here(server: Server) -> None:
    cat = catalog.load().with_trio(server.url)
    with pytest.raises(CatalogError, match=f"^{server.url} runs on a server, and no model is on this machine"):
        Emulator.load(None, models=cat).close()


def test_a_server_that_is_killed_in_an_answer_ends_it_in_one_line_and_keeps_the_text() -> None:
    with (
        llama_server.running(packaged("demo/large-base.gguf")) as mortal,
        Emulator.load("far", models=far(mortal.url, top=20), max_tokens=48) as emulator,
    ):
        stream = emulator.stream("How large is Lyon?", draft=0)
        text = ""
        with pytest.raises(DecodeError, match="far-base") as error:
            for delta in stream:
                text += delta
                mortal.process.kill()
        assert text and "\n" not in error.value.message
        assert stream.reply.text.startswith(text)


def test_the_models_toml_of_a_server(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"

    def read(text: str) -> catalog.Model:
        file.write_text(f"[models.big]\n{text}\n")
        return catalog.load(file).model("big")

    server = read('url = "http://127.0.0.1:8080/v1/"\nengine = "vllm"\napi_key_env = "KEY"\ntop = 50').server
    assert server == catalog.Server(url="http://127.0.0.1:8080", engine="vllm", api_key_env="KEY", top=50)
    assert read('url = "https://example.org"').server is not None
    assert read('url = "http://10.0.0.5:8080"\ninsecure = true').server is not None
    for text, says in (
        ('url = "http://10.0.0.5:8080"', "does not encrypt"),
        ('url = "http://user:secret@localhost:1"', "has a name or a password"),
        ('url = "localhost:8080"', "is not the address of a server"),
        ('url = "https://a..b"', "is not the address of a server"),
        ('url = "http://localhost:99999"', "is not the address of a server"),
        ('url = "http://localhost/models/x"', "has a path"),
        ('url = "http://localhost"\nengine = "llamaserver"', 'did you mean "llama-server"'),
        ('url = "http://localhost"\napi_key_env = "sk-123"', "and not the key"),
        ('url = "http://localhost"\npath = "x.gguf"', "either a url, or a file"),
        ('path = "x.gguf"\ntop = 5', "belongs to a model on a server"),
        ('url = "http://localhost"\ntop = 0', "must be 1 or more"),
    ):
        with pytest.raises(CatalogError, match=says) as error:
            read(text)
        assert "secret" not in str(error.value) and "sk-123" not in str(error.value)
