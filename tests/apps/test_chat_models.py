"""The chat over tiny real models: after a change of dials, a save or a stop, tokens and KV caches are used again."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import pytest

from eftlocal import Emulator
from eftlocal.apps.chat import store
from eftlocal.apps.chat.columns import Column
from eftlocal.apps.chat.commands import run
from eftlocal.apps.chat.interrupt import Interrupts
from eftlocal.apps.chat.loading import Loader
from eftlocal.apps.chat.screen import Screen
from eftlocal.apps.chat.state import Chat
from eftlocal.catalog import models as catalog
from eftlocal.emulation.scoring import Score
from eftlocal.runtime.views import Message
from tests.builders import load
from tests.families import Family

VIEWS = {"base": "transcript", "tuned": "chat", "reference": "transcript"}


@pytest.fixture
def emulator(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    # without drafts, because drafted tokens are fed too, and their number depends on this machine
    models = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    with load(tmp_path, models, views=VIEWS, max_tokens=8, draft=0) as made:
        yield made


def over(emulator: Emulator, folder: Path) -> Chat:
    loader = Loader(lambda name: emulator, None, catalog.load(folder / "models.toml"))
    loader.start()
    assert loader.wait(10)
    return Chat(loader, Screen(), Interrupts())


class Recorder:
    """Keeps the columns that it is given to show."""

    def __init__(self, into: list[Column], columns: Sequence[Column]) -> None:
        into[:] = columns

    def draw(self, columns: Sequence[Column]) -> None: ...

    def end(self, columns: Sequence[Column]) -> None: ...


def fed_by(emulator: Emulator, chat: Chat, line: str) -> dict[str, int]:
    before = dict(emulator.fed_tokens)
    run(chat, line)
    return {role: n - before.get(role, 0) for role, n in emulator.fed_tokens.items()}


def test_a_new_turn_feeds_the_new_tokens_only_also_after_turning_dials(emulator: Emulator, tmp_path: Path) -> None:
    chat = over(emulator, tmp_path)
    run(chat, "Hello, world")
    assert chat.last is not None
    held = {role: n + len(chat.last.reply.tokens) - 1 for role, n in chat.last.reply.prompt_tokens.items()}
    run(chat, "/beta 0.5")
    run(chat, "/temp 0.9")
    fed = fed_by(emulator, chat, "And the world?")
    reply = chat.last.reply
    for role, n in reply.prompt_tokens.items():
        # the tokens that the turn added, and one step for each token of the answer except the last
        assert fed[role] <= n - held[role] + len(reply.tokens), role


def test_a_loaded_session_reuses_the_cache_as_if_it_had_never_been_saved(emulator: Emulator, tmp_path: Path) -> None:
    chat = over(emulator, tmp_path)
    run(chat, "Hello, world")
    messages = list(chat.messages)
    run(chat, "/save it")
    straight = fed_by(emulator, chat, "And the world?")
    answer = chat.messages[-1]
    run(chat, "/load it")
    assert chat.messages == messages
    again = fed_by(emulator, chat, "And the world?")
    assert chat.messages[-1] == answer
    assert all(again[role] <= straight[role] for role in straight)


def test_a_loaded_session_answers_alike_in_a_fresh_emulator(emulator: Emulator, family: Family, tmp_path: Path) -> None:
    chat = over(emulator, tmp_path)
    run(chat, "Hello, world")
    run(chat, "/save it")
    run(chat, "And the world?")
    models = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    with load(tmp_path, models, views=VIEWS) as fresh:
        other = over(fresh, tmp_path)
        other.resume(store.load("it"))
        run(other, "And the world?")
        assert other.messages == chat.messages


def test_a_continued_answer_is_the_answer_that_was_not_cut(emulator: Emulator, tmp_path: Path) -> None:
    chat = over(emulator, tmp_path)
    run(chat, "Hello, world")
    run(chat, "/continue")
    continued = chat.messages[-1]
    run(chat, "/reset")
    run(chat, "/set max_tokens 16")
    run(chat, "Hello, world")
    assert chat.messages[-1] == continued


def test_why_knows_the_tokens_of_the_answer(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = over(emulator, tmp_path)
    run(chat, "Hello, world")
    run(chat, "/why")
    run(chat, "/why 1")
    shown = capsys.readouterr().err
    assert "8 tokens, moved by" in shown
    assert all(name in shown for name in ("base", "tuned", "reference", "combined"))


def test_compared_answers_are_those_of_separate_runs_and_the_next_turn_feeds_only_its_tokens(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = over(emulator, tmp_path)
    run(chat, "/set max_tokens 24")
    run(chat, "/temp 1")
    run(chat, "Hello, world")
    assert chat.last is not None
    last, before, seed = chat.last.reply, list(chat.messages), chat.last.reply.seed
    shown: list[Column] = []
    monkeypatch.setattr(Screen, "columns", lambda screen, columns: nullcontext(Recorder(shown, columns)))
    fed = fed_by(emulator, chat, "/compare")
    assert chat.messages == before
    asked = [Message("user", "Hello, world")]
    for column, alone in zip(shown, ("base", "tuned", None), strict=True):
        assert column.text == emulator.generate(asked, seed=seed, alone=alone).text
    # what all begin with was copied, and each member decodes the tokens of its two columns once
    assert all(n <= 2 * 24 for n in fed.values())
    held = {role: n + len(last.tokens) - 1 for role, n in last.prompt_tokens.items()}
    run(chat, "/compare")  # the emulator's answer is the chat's again
    fed = fed_by(emulator, chat, "And the world?")
    reply = chat.last.reply
    for role, n in reply.prompt_tokens.items():
        assert fed[role] <= n - held[role] + len(reply.tokens), role


def test_the_end_of_an_answer_is_scored_as_the_token_that_ended_it(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = over(emulator, tmp_path)
    run(chat, "/set max_tokens 200")
    run(chat, "/temp 1.5")
    for seed in range(40):
        run(chat, f"/seed {seed}")
        run(chat, "Hello, world")
        assert chat.last is not None
        if chat.last.reply.end_token is not None:
            break
        run(chat, "/reset")
    assert chat.last is not None
    reply = chat.last.reply
    assert reply.finish_reason == "stop" and reply.end_token is not None
    run(chat, "/why")
    run(chat, "/why <end>")
    assert f"token {len(reply.tokens) + 1}, after" in capsys.readouterr().err
    assert chat.explained is not None
    score = cast(Score, chat.explained[1])
    ids = [*reply.tokens, reply.end_token]
    assert [token.id for token in score.tokens] == ids and score.tokens[-1].text == "<end>"
    assert score.logprob == pytest.approx(emulator.score(chat.messages[:-1], ids).logprob, abs=1e-3)


def test_the_context_is_counted_without_decoding(emulator: Emulator, tmp_path: Path) -> None:
    chat = over(emulator, tmp_path)
    run(chat, "Hello, world")
    run(chat, "/undo")
    run(chat, "Hello, world, once more")
    chat.used = None
    before = dict(emulator.fed_tokens)
    counted = chat.count()
    assert counted is not None and chat.last is not None
    assert counted >= max(chat.last.reply.prompt_tokens.values()) + len(chat.last.reply.tokens)
    assert dict(emulator.fed_tokens) == before
