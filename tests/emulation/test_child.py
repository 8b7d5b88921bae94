"""An emulator whose base is in a child process says what one in this process says, and outlives its child."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eftlocal import Emulator
from eftlocal.emulation import assembling, loading
from eftlocal.emulation.members import Members
from eftlocal.errors import DecodeError
from eftlocal.runtime.child.context import ChildModel
from tests import builders
from tests.families import Family

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there, no child is started")

PROMPTS = ["How large is Lyon?", "Name a river.", "How large is Lyon, and why?"]


def loaded(folder: Path, family: Family, monkeypatch: pytest.MonkeyPatch, *, child: bool) -> Emulator:
    real = assembling.assemble

    def assemble(*args: Any, **options: Any) -> Members:
        members = real(*args, **options)
        specs = tuple(replace(s, rpc=()) if i == members.base else s for i, s in enumerate(members.specs))
        return replace(members, specs=specs) if child else members

    monkeypatch.setattr(loading, "assemble", assemble)
    folder.mkdir()
    models = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    return builders.load(folder, models)


@pytest.fixture
def pair(tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Emulator, Emulator]]:
    there = loaded(tmp_path / "there", family, monkeypatch, child=True)
    monkeypatch.undo()
    here = loaded(tmp_path / "here", family, monkeypatch, child=False)
    yield there, here
    there.close()
    here.close()


def child_of(emulator: Emulator) -> int:
    (model,) = [model for model in emulator._engine.workers.loaded if isinstance(model, ChildModel)]
    assert model.process.pid is not None
    return model.process.pid


def test_texts_batches_and_scores_are_the_same_with_drafts_and_without(pair: tuple[Emulator, Emulator]) -> None:
    there, here = pair
    for drafts in (0, 4):
        for prompt in PROMPTS:
            assert there.generate(prompt, draft=drafts).text == here.generate(prompt, draft=drafts).text
        texts = [[reply.text for reply in one.generate_many(PROMPTS, draft=drafts)] for one in pair]
        assert texts[0] == texts[1] and all(texts[0])
    scores = [one.score("How large is Lyon?", " About half a million.") for one in pair]
    assert scores[0] == scores[1]


def test_an_answer_goes_on_after_its_child_was_killed(pair: tuple[Emulator, Emulator]) -> None:
    there, here = pair
    wanted = here.generate(PROMPTS[0], draft=0).text
    stream = iter(there.stream(PROMPTS[0], draft=0))
    text = next(stream)
    child = child_of(there)
    os.kill(child, signal.SIGKILL)
    time.sleep(0.1)
    for piece in stream:  # it is loaded again within the answer
        text += piece
    assert text == wanted and child_of(there) != child


def test_a_child_that_is_killed_in_a_decode_ends_the_answer_and_the_next_is_right(
    pair: tuple[Emulator, Emulator],
) -> None:
    there, here = pair
    stream = iter(there.stream(PROMPTS[0], draft=0))
    next(stream)
    os.kill(child_of(there), signal.SIGSTOP)
    child = child_of(there)
    killer = threading.Timer(0.1, os.kill, (child, signal.SIGKILL))
    killer.start()
    with pytest.raises(DecodeError, match=r"base \(base\): .*the process that held it has ended: it was killed"):
        for _ in stream:
            pass
    killer.join()
    assert there.generate(PROMPTS[0]).text == here.generate(PROMPTS[0]).text
