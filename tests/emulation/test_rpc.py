"""Which workers an emulator's members may name, and when they are asked. No build with RPC is needed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.emulation import rpc
from eftlocal.engine.spec import MemberSpec
from eftlocal.errors import CatalogError, WorkerError
from eftlocal.runtime import gguf
from eftlocal.runtime.rpc import build
from eftlocal.runtime.rpc.hello import Memory, Version, Worker
from tests.families import Family

ONE, TWO = Endpoint("127.0.0.1", 50052), Endpoint("127.0.0.1", 50053)


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[Endpoint]:
    """The workers that are asked; each answers."""
    found: list[Endpoint] = []

    def probe(endpoint: Endpoint) -> Worker:
        found.append(endpoint)
        return Worker(endpoint, Version(7, 0, 0), (Memory(1, 2),), 0.001)

    monkeypatch.setattr(rpc, "probe", probe)
    monkeypatch.setattr(rpc, "must_support", lambda: None)
    return found


def specs(family: Family, **members: tuple[str, Sequence[Endpoint]]) -> list[MemberSpec]:
    """Members by name, each with its file and its workers."""
    return [
        MemberSpec(f"{name} (role)", gguf.check(getattr(family, file)), model=name, rpc=tuple(workers) or None)
        for name, (file, workers) in members.items()
    ]


def test_each_worker_is_asked_once_and_none_where_none_is_named(family: Family, probed: list[Endpoint]) -> None:
    assert rpc.asked(specs(family, big=("base", ()), small=("tuned", ()))) == {} and probed == []
    twice = specs(family, big=("base", (ONE, TWO)), again=("base", (ONE, TWO)), small=("tuned", ()))
    assert list(rpc.asked(twice)) == probed == [ONE, TWO]


def test_two_models_on_one_worker_are_refused_before_it_is_asked(family: Family, probed: list[Endpoint]) -> None:
    with pytest.raises(CatalogError) as caught:
        rpc.asked(specs(family, big=("base", (ONE, TWO)), small=("tuned", (TWO,))))
    assert caught.value.message == "big and small have layers on the same worker, 127.0.0.1:50053"
    assert "start a second one on another port" in (caught.value.hint or "")
    assert probed == []


@pytest.mark.parametrize("others", [(), (TWO,), (TWO, ONE)])
def test_one_file_on_different_workers_is_refused_before_any_is_asked(
    others: Sequence[Endpoint], family: Family, probed: list[Endpoint]
) -> None:
    with pytest.raises(CatalogError) as caught:
        rpc.asked(specs(family, big=("base", (ONE,)), again=("base", others)))
    assert "are the same file" in caught.value.message and "on different workers" in caught.value.message
    assert "same `rpc`" in (caught.value.hint or "")
    assert probed == []


def test_a_build_without_rpc_is_told_before_a_worker_is_asked(
    family: Family, probed: list[Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "must_support", build.must_support)
    monkeypatch.setattr("eftlocal.runtime.llama.rpc.is_supported", lambda: False)
    with pytest.raises(WorkerError, match="built without RPC") as caught:
        rpc.asked(specs(family, big=("base", (ONE,))))
    assert "-DGGML_RPC=on" in (caught.value.hint or "")
    assert probed == []
    assert rpc.asked(specs(family, big=("base", ()))) == {}  # nobody needs it


def test_a_worker_that_is_away_is_its_own_error(
    family: Family, probed: list[Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(endpoint: Endpoint) -> Worker:
        raise WorkerError(f"The worker {endpoint} is not there.")

    monkeypatch.setattr(rpc, "probe", away)
    with pytest.raises(WorkerError, match=r"The worker 127\.0\.0\.1:50052 is not there"):
        rpc.asked(specs(family, big=("base", (ONE, TWO))))
