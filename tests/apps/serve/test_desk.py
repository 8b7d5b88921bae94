"""The desk of an emulator: whose work ends when, with tiny models and without a server."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from eftlocal import Raw
from eftlocal.apps.serve.desk import Desk, Task
from eftlocal.apps.serve.mailbox import Began, Failed, Letter, Mailbox, News
from eftlocal.apps.serve.metrics import Metrics
from eftlocal.apps.serve.models import Shelf
from eftlocal.decoding.settings import Dials
from eftlocal.emulation.batch import Job
from eftlocal.emulation.emulator import Emulator
from eftlocal.engine.engine import Engine
from eftlocal.errors import ContextError, FitError, SettingError
from eftlocal.runtime.llama import context as llama_context
from tests.builders import load_members
from tests.families import Family

LONG = "a long prompt that is read in chunks. " * 4


class Place(NamedTuple):
    """A desk for two answers at a time, and its engine."""

    desk: Desk
    engine: Engine

    def run(self) -> None:
        while self.desk.working:
            self.desk.step()


class Box(Mailbox):
    """A mailbox without an event loop."""

    def __init__(self) -> None:
        self.letters: list[Letter] = []


@pytest.fixture
def place(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(llama_context, "CPU_BATCH", 16)
    loaded = load_members(tmp_path, {name: getattr(family, name) for name in ("base", "tuned", "reference")})
    emulator = Emulator(loaded)
    desk = Desk(emulator, emulator.reserve(2), Metrics())
    yield Place(desk, loaded.engine)
    desk.close()


def task(*prompts: str, streaming: bool = True, **dials: Any) -> Task:
    return Task("e", [Job(Raw(prompt), cast(Dials, dials)) for prompt in prompts], Box(), streaming=streaming)


def read(posts: Sequence[tuple[Mailbox, Letter]], of: Task) -> list[Letter]:
    return [letter for mailbox, letter in posts if mailbox is of.mailbox]


def texts(place: Place, *tasks: Task) -> list[list[str]]:
    """The texts of all answers of the tasks, which run to their ends."""
    found: list[list[str]] = [[""] * len(each.jobs) for each in tasks]
    while place.desk.working:
        posts = place.desk.step()
        for each, own in zip(tasks, found, strict=True):
            for letter in read(posts, each):
                if isinstance(letter, News):
                    own[letter.index] += letter.text
    return found


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 20])
def test_a_cancelled_task_ends_at_the_next_step_wherever_it_is(place: Place, steps: int) -> None:
    """After 0 steps it waits, then its long prompt is read, then it decodes. The one beside it is not changed."""
    alone = place.desk.emulator.generate(Raw("Hello"), max_tokens=30).text
    leaving, staying, third = task(LONG, LONG, LONG, max_tokens=60), task("Hello", max_tokens=30), task("the")
    for each in (leaving, staying, third):
        place.desk.add(each)
    posts = [post for _ in range(steps) for post in place.desk.step()]
    assert place.desk.cancel(leaving) and not place.desk.cancel(leaving)
    after = place.desk.step()
    assert not read(after, leaving) and place.desk.n_running == 2  # the two others have the places
    text = "".join(letter.text for letter in read([*posts, *after], staying) if isinstance(letter, News))
    rest, _ = texts(place, staying, third)
    assert text + rest[0] == alone
    assert all(slot.free for slot in place.engine.slots)


def test_a_task_of_many_prompts_does_not_hold_up_the_next_one(place: Place) -> None:
    many, one = task(*["Hello"] * 20, max_tokens=8), task("the", max_tokens=4)
    for each in (many, one):
        place.desk.add(each)
    ended = list[Task]()
    while place.desk.working:
        posts = place.desk.step()
        ended += [
            each for each in (many, one) for letter in read(posts, each) if isinstance(letter, News) and letter.reply
        ]
    assert len(ended) == 21 and ended.index(one) <= 4


def test_an_answer_that_nobody_streams_is_told_once(place: Place) -> None:
    whole = task("Hello", streaming=False, max_tokens=12, logprobs=1)
    place.desk.add(whole)
    letters = list[Letter]()
    while place.desk.working:
        letters += read(place.desk.step(), whole)
    began, news = letters
    assert isinstance(began, Began) and isinstance(news, News) and news.reply is not None
    assert news.text == news.reply.text and [entry.id for entry in news.entries] == list(news.reply.tokens)


def test_a_prompt_that_cannot_be_answered_ends_its_task_alone(place: Place) -> None:
    wrong, long, good = task("Hello", "x", mix={"nobody": 1.0}), task("word " * 400), task("Hello", max_tokens=3)
    huge = task("x" * (1 << 20))
    for each in (wrong, long, huge, good):
        place.desk.add(each)
    posts = place.desk.step()
    (refused,), (too_long,), (too_huge,) = (read(posts, each) for each in (wrong, long, huge))
    assert isinstance(refused, Failed) and isinstance(refused.error, SettingError) and refused.error.setting == "mix"
    for failed in (too_long, too_huge):
        assert isinstance(failed, Failed) and isinstance(failed.error, ContextError) and failed.error.n_ctx == 256
    assert len(place.desk) == 1
    assert texts(place, good)[0][0] is not None


def test_a_fault_in_a_step_ends_all_tasks_and_the_desk_goes_on(place: Place) -> None:
    first = task("Hello", max_tokens=30)
    place.desk.add(first)
    place.desk.step()
    (failed,) = read(place.desk.fail(SettingError("x")), first)
    assert isinstance(failed, Failed) and not place.desk.working
    again = task("Hello", max_tokens=5)
    place.desk.add(again)
    assert texts(place, again) == [[place.desk.emulator.generate(Raw("Hello"), max_tokens=5).text]]


class FakeDesk:
    """A desk that may be busy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.working = False
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_the_least_recently_used_emulator_gives_its_place_unless_it_is_busy() -> None:
    shelf = Shelf(FakeDesk, 2)  # type: ignore[arg-type]  # what the shelf needs of a desk
    a, b = shelf.get("a"), shelf.get("b")
    assert shelf.get("a") is a and shelf.get("c") is not None
    assert isinstance(b, FakeDesk) and b.closed and {d.name for d in shelf.desks} == {"a", "c"}
    for desk in shelf.desks:
        desk.working = True
    assert shelf.get("b") is None and shelf.get("a") is a
    shelf.close()


def test_an_emulator_without_memory_for_it_takes_that_of_an_idle_one() -> None:
    def load(name: str) -> FakeDesk:
        if name == "large" and shelf.desks:
            raise FitError("too large")
        return FakeDesk(name)

    shelf = Shelf(load, 3)  # type: ignore[arg-type]
    small = shelf.get("small")
    assert shelf.get("large") is not None
    assert isinstance(small, FakeDesk) and small.closed
