"""The members' speeds are measured once, and whatever comes of it, the logits are the same."""

from pathlib import Path

import pytest

from eftlocal.engine.engine import Engine
from eftlocal.engine.spec import MemberSpec
from eftlocal.engine.workers import Workers
from eftlocal.errors import DecodeError, EftError, ModelLoadError
from eftlocal.runtime import gguf
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.speeds import Speed, Speeds
from tests.engine.made import ANSWER, PROMPTS, cold, rows, same
from tests.families import Family


@pytest.fixture
def heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets these tiny models count as large enough to use several threads."""
    monkeypatch.setattr("eftlocal.engine.sharing.SINGLE_THREADED", 0)


def measuring(family: Family, path: Path, n_threads: int = 2) -> Engine:
    paths = [family.base, family.tuned, family.reference]
    specs = [MemberSpec(f"member {i}", gguf.check(p)) for i, p in enumerate(paths)]
    return Engine(Workers(specs, n_ctx=64, n_threads=n_threads, kv_type="f32", speeds=Speeds(n_threads, path)))


@pytest.mark.usefixtures("heavy")
def test_members_are_measured_once_and_then_remembered(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Context] = []

    def spy(context: Context, n_threads: int) -> Speed:
        measured.append(context)
        return Speed({1: (1.0, 1.0), 4: (4.0, 2.0)})

    monkeypatch.setattr("eftlocal.engine.sharing.measure", spy)
    prompts, paths = {m: PROMPTS[m] for m in range(3)}, [family.base, family.tuned, family.reference]
    for expected in (3, 0):
        measured.clear()
        made = measuring(family, tmp_path / "speeds.json")
        slot = made.begin(prompts)
        slot.tokens = list(ANSWER)
        same(rows(made, slot, 4), cold(paths, prompts, ANSWER, 4))
        made.end(slot)
        made.begin(prompts)
        assert len(measured) == expected
        made.workers.measure(range(3), again=True)
        assert len(measured) == expected + 3
        made.close()


@pytest.mark.usefixtures("heavy")
@pytest.mark.parametrize("error", [ModelLoadError("no room"), DecodeError("no room")])
def test_what_cannot_be_measured_runs_all_the_same(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: EftError
) -> None:
    tried = 0

    def fail(*_: object) -> Speed:
        nonlocal tried
        tried += 1
        if tried > 1:
            raise error
        return Speed({1: (1.0, 1.0)})

    monkeypatch.setattr("eftlocal.engine.sharing.measure", fail)
    prompts, paths = {m: PROMPTS[m] for m in range(3)}, [family.base, family.tuned, family.reference]
    made = measuring(family, tmp_path / "speeds.json")
    slot = made.begin(prompts)
    slot.tokens = list(ANSWER)
    same(rows(made, slot, 4), cold(paths, prompts, ANSWER, 4))
    assert tried == 2  # it is not tried again after a failure
    made.close()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_where_there_is_nothing_to_share_nothing_is_measured(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    monkeypatch.setattr("eftlocal.engine.sharing.measure", None)
    made = measuring(family, tmp_path / "speeds.json", n_threads)  # one thread, or models too small for two
    made.begin({m: PROMPTS[m] for m in range(3)})
    made.close()
    assert not list(tmp_path.iterdir())
