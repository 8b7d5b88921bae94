"""Loading on a machine or device that is too small: the user is told before, and loading works around it if it can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.emulation.emulator import Emulator
from eftlocal.engine import workers
from eftlocal.engine.placing import Placing
from eftlocal.errors import FitError, ModelLoadError, SettingError
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan import loads
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.plan.machine import Device, Machine
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.wishes import Wishes
from tests.builders import load, load_members
from tests.families import Family

GB = 1 << 30
SMALL = Machine(2, 8 * GB, 100_000)
CARD = Device("CUDA0", "a card", "gpu", 11 * GB, 12 * GB)
WITH_CARD = Machine(2, 8 * GB, 6 * GB, (CARD,))


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """Pretends that this is another machine. Even the smallest models can be refused."""
    monkeypatch.setattr("eftlocal.runtime.plan.loads.TINY", 0)
    return lambda machine: monkeypatch.setattr("eftlocal.emulation.loading.here", lambda: machine)


def models(family: Family) -> dict[str, Path]:
    return {"base": family.base, "tuned": family.tuned, "reference": family.reference}


def loaded(folder: Path, family: Family, **options: Any) -> Emulator:
    return load(folder, models(family), **options)


def test_what_does_not_fit_is_not_loaded(
    tmp_path: Path, family: Family, on: Callable[[Machine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(SMALL)
    monkeypatch.setattr(workers, "Model", None)  # loading a model would raise TypeError
    with pytest.raises(FitError, match=r"e does not fit: it needs .* of memory .* can be used.\n") as caught:
        loaded(tmp_path, family)
    assert "--force" in str(caught.value)


def test_forced_it_is_loaded_and_answers_as_ever(tmp_path: Path, family: Family, on: Callable[[Machine], None]) -> None:
    with loaded(tmp_path, family) as fits:
        expected = [reply.text for reply in fits.generate_many(["a", "b", "c"])]
    on(SMALL)
    members = load_members(tmp_path, models(family), force=True)
    with Emulator(members) as forced:
        assert forced.plan is not None and not forced.plan.fits
        assert [reply.text for reply in forced.generate_many(["a", "b", "c"], parallel=3)] == expected
        assert len(members.engine.slots) == 3  # as many as asked for, although memory is short


@pytest.mark.parametrize("machine", [Machine(2, 0, 0), Machine(2, 8 * GB, 6 * GB)])
def test_a_machine_that_does_not_say_or_has_room_refuses_nothing(
    tmp_path: Path, family: Family, on: Callable[[Machine], None], machine: Machine
) -> None:
    on(machine)
    with loaded(tmp_path, family) as emulator:
        assert emulator.plan is not None and emulator.plan.fits and emulator.notes == ()
        assert emulator.sequences_that_fit(8) == 8


def test_a_tiny_model_is_not_refused_for_what_a_system_says(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = replace(SMALL, free=0)
    monkeypatch.setattr("eftlocal.emulation.loading.here", lambda: machine)
    with loaded(tmp_path, family) as emulator:
        assert emulator.plan is not None and emulator.plan.fits
        assert emulator.generate("Hello").tokens
        host = emulator.plan.host.total
    assert 0 < host < loads.TINY  # models as small as these are never refused
    monkeypatch.setattr(loads, "TINY", host - 1)
    with pytest.raises(FitError):
        loaded(tmp_path, family)


def test_fewer_sequences_run_at_a_time_where_memory_is_short_and_answer_alike(
    tmp_path: Path, family: Family, on: Callable[[Machine], None]
) -> None:
    prompts = ["a", "b", "c", "d", "e"]
    with loaded(tmp_path, family) as emulator:
        expected = [reply.text for reply in emulator.generate_many(prompts, parallel=5)]
        assert emulator.plan is not None
        one, two = (replace(emulator.plan.cache, n_seq=n) for n in (1, 2))
        needs = [emulator.members.plan(WITH_CARD, c, Wishes(device="none")).host.total for c in (one, two)]
    enough = needs[1] + (needs[1] - needs[0]) / 2  # enough for two sequences and half of a third
    on(Machine(2, 8 * GB, int(enough / loads.HOST_SHARE)))
    members = load_members(tmp_path, models(family))
    with Emulator(members) as emulator:
        assert emulator.sequences_that_fit(5) == 2
        assert [reply.text for reply in emulator.generate_many(prompts, parallel=5)] == expected
        assert len(members.engine.slots) == emulator.reserve(5) == 2


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"gpu_layers": {"bose": 1}}, "no role or model named 'bose'"),
        ({"device": "CUDA9"}, "no device named 'CUDA9'"),
        ({"split": "diagonal"}, "split is 'diagonal'"),
        ({"main_gpu": 4}, "main_gpu is 4"),
    ],
)
def test_a_wish_for_what_is_not_there_is_a_mistake(
    tmp_path: Path, family: Family, on: Callable[[Machine], None], wish: dict[str, Any], said: str
) -> None:
    on(WITH_CARD)
    with pytest.raises(SettingError, match=said):
        loaded(tmp_path, family, **wish)


# --- devices that are not there, or too small -------------------------------------------------------------------------


class Card:
    """A pretended device, which holds `holds` layers of a model, or `caches` with a KV cache. They run on the CPU."""

    def __init__(self, holds: int, caches: int) -> None:
        self.holds, self.caches = holds, caches
        self.tried: list[int] = []

    def model(self, header: Header, offload: Offload | None = None) -> Model:
        assert offload is not None
        self.tried.append(offload.layers)
        if offload.layers > self.holds:
            raise ModelLoadError(f"{header.path}: llama.cpp could not load it: cudaMalloc failed: out of memory")
        model = Model(header, Offload())
        self.placed[id(model)] = offload.layers
        return model

    def context(self, model: Model, **options: Any) -> Context:
        if self.placed[id(model)] > self.caches:
            raise ModelLoadError(f"{model.path}: llama.cpp could not create a context: out of memory")
        return Context(model, **options)

    placed: dict[int, int] = {}  # noqa: RUF012 - id of a model -> its layers


@pytest.mark.parametrize(
    ("holds", "caches", "layers"),
    [
        (99, 99, [4, 3, 3]),
        (2, 99, [2, 1, 1]),
        (1, 99, [1, 1, 1]),
        (0, 99, [0, 0, 0]),
        (99, 2, [2, 1, 1]),
        (3, 0, [0, 0, 0]),
    ],
)
def test_a_device_that_holds_less_gets_less_with_one_line_for_each_model(
    tmp_path: Path,
    family: Family,
    on: Callable[[Machine], None],
    monkeypatch: pytest.MonkeyPatch,
    holds: int,
    caches: int,
    layers: list[int],
) -> None:
    with loaded(tmp_path, family) as emulator:
        expected = emulator.generate("Hello").text
    on(WITH_CARD)
    card = Card(holds, caches)
    monkeypatch.setattr(workers, "Model", card.model)
    monkeypatch.setattr(workers, "Context", card.context)
    with loaded(tmp_path, family) as emulator:
        assert emulator.plan is not None
        assert [placed.offload.layers for placed in emulator.plan.members] == layers
        notes = emulator.notes
        changed = [now for now, asked in zip(layers, [4, 3, 3], strict=True) if now != asked]
        assert len(notes) == len(changed)  # reported after loading, not at the first prompt
        for note, now in zip(notes, changed, strict=True):
            assert "\n" not in note and "out of memory" in note
            assert ("on the CPU" if now == 0 else f"{now} of its layers run there") in note
        assert emulator.generate("Hello").text == expected
        assert emulator.notes == notes


def test_a_file_that_falls_back_takes_the_caches_of_all_its_members_with_it(
    tmp_path: Path, family: Family, on: Callable[[Machine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = [{"tuned": "base", "reference": "base", "beta": 0.5, "system": {"tuned": "Be brief."}}]
    only = {"base": family.base}
    options: dict[str, Any] = {"rewards": rewards, "views": "transcript"}
    with load(tmp_path, only, **options) as emulator:
        expected = emulator.generate("Hello").text
    on(WITH_CARD)
    card = Card(99, 99)
    made = 0

    def second_fails(model: Model, **given: Any) -> Context:
        nonlocal made
        made += 1
        if made == 2:
            raise ModelLoadError(f"{model.path}: llama.cpp could not create a context: out of memory")
        return card.context(model, **given)

    monkeypatch.setattr(workers, "Model", card.model)
    monkeypatch.setattr(workers, "Context", second_fails)
    with load(tmp_path, only, **options) as emulator:
        assert card.tried == [4, 2] and len(emulator.notes) == 1
        assert emulator.generate("Hello").text == expected


def test_a_file_that_no_device_is_to_blame_for_is_an_error(
    tmp_path: Path, family: Family, on: Callable[[Machine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(WITH_CARD)
    card = Card(-1, 0)
    monkeypatch.setattr(workers, "Model", card.model)
    with pytest.raises(ModelLoadError, match="could not load it"):
        loaded(tmp_path, family)
    assert card.tried == [4, 2, 1, 0]


def test_layers_on_a_worker_never_come_back_to_this_machine(tmp_path: Path, family: Family) -> None:
    members = load_members(tmp_path, models(family)).members
    specs = [replace(members.specs[0], rpc=(Endpoint("127.0.0.1"),)), *members.specs[1:]]
    plan = replace(members, specs=tuple(specs)).plan(WITH_CARD, Cache(256), Wishes())
    placing = Placing(specs, plan)
    with pytest.raises(ModelLoadError, match="refused"):
        placing.fall_back(0, ModelLoadError("refused"))
    assert placing.plan is plan and not placing.notes
