"""Tests of measured speeds: a few decodes are timed, and saved for each model and machine. Failures change nothing."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from eftlocal.runtime import gguf, speeds
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.threads import Cost
from eftlocal.runtime.speeds import Speed, Speeds, measure
from tests.families import Family

KNOWN = Speed({1: (4.0, 4.0), 4: (16.0, 8.0), 16: (32.0, 16.0)})


@pytest.fixture
def context(family: Family) -> Iterator[Context]:
    model = Model(gguf.check(family.base))
    made = Context(model, n_ctx=32, n_seq=16)
    yield made
    made.close()
    model.close()


@pytest.mark.parametrize(
    ("rows", "n_threads", "cost"),
    [
        pytest.param(1, 2, Cost(4.0, 0.0), id="threads that gain nothing"),
        pytest.param(4, 2, Cost(16.0, 1.0), id="all of it is shared"),
        pytest.param(4, 4, Cost(16.0, 2 / 3), id="by four threads, not all"),
        pytest.param(10, 2, Cost(24.0, 1.0), id="between what was measured"),
        pytest.param(500, 2, Cost(32.0, 1.0), id="more than was measured"),
        pytest.param(0, 2, Cost(4.0, 0.0), id="nothing to decode"),
    ],
)
def test_a_decode_costs_what_was_measured_of_it(rows: int, n_threads: int, cost: Cost) -> None:
    found = KNOWN.cost(rows, n_threads)
    assert (found.one_thread, found.shared) == pytest.approx((cost.one_thread, cost.shared))


def test_threads_that_only_harm_share_nothing() -> None:
    assert Speed({1: (1.0, 3.0)}).cost(1, 8) == Cost(1.0, 0.0)


def test_every_number_of_rows_is_timed_with_one_thread_and_with_all(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, threads = 0.0, 0
    timed: set[tuple[int, int]] = set()  # rows and threads of each decode
    feed = context.feed

    def set_threads(n: int) -> None:
        nonlocal threads
        threads = n

    def slower_with_one(feeds: Sequence[Feed]) -> object:
        nonlocal now
        rows = sum(len(feed.tokens) for feed in feeds)
        timed.add((rows, threads))
        now += 1e-4 * rows / threads
        return feed(feeds)

    monkeypatch.setattr(context, "set_threads", set_threads)
    monkeypatch.setattr(context, "feed", slower_with_one)
    found = measure(context, 2, lambda: now)
    assert timed >= {(rows, n) for rows in (1, 4, 16) for n in (1, 2)}
    assert found.seconds == {rows: pytest.approx((1e-4 * rows, 5e-5 * rows)) for rows in (1, 4, 16)}


@pytest.mark.parametrize(
    ("second", "rows", "tokens"),
    [
        pytest.param(0.0, [1, 4, 16], 1 + 8 * (1 + 4 + 16), id="fast: all rows, four times with one thread and two"),
        pytest.param(0.3, [1], 5, id="slow: some of one row"),
        pytest.param(9.0, [1], 3, id="the first decode took all the time: one pair is measured nevertheless"),
    ],
)
def test_a_slow_model_is_not_measured_for_long(
    context: Context, monkeypatch: pytest.MonkeyPatch, second: float, rows: list[int], tokens: int
) -> None:
    now = 0.0
    feed = context.feed

    def slow(feeds: object) -> object:
        nonlocal now
        now += second
        return feed(feeds)  # type: ignore[arg-type]

    monkeypatch.setattr(context, "feed", slow)
    before = context.n_fed
    found = measure(context, 2, lambda: now)
    assert sorted(found.seconds) == rows
    assert context.n_fed - before == tokens


def test_what_was_measured_is_remembered_by_model_threads_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "speeds.json"
    Speeds(2, path).put("a.gguf", KNOWN)
    Speeds(2, path).put("b.gguf", Speed({1: (1.0, 0.5)}))
    assert Speeds(2, path).get("a.gguf") == KNOWN
    assert Speeds(2, path).get("b.gguf") == Speed({1: (1.0, 0.5)})
    assert Speeds(2, path).get("c.gguf") is None
    assert Speeds(4, path).get("a.gguf") is None
    monkeypatch.setattr(speeds, "processor", lambda: "another")
    assert Speeds(2, path).get("a.gguf") is None
    assert [p.name for p in path.parent.iterdir()] == ["speeds.json"]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"MACHINE": []}',
        b'{"MACHINE": {"a.gguf": 3}}',
        b'{"MACHINE": {"a.gguf": {}}}',
        b'{"MACHINE": {"a.gguf": {"1": [0, 1]}}}',
        b'{"MACHINE": {"a.gguf": {"one": [1, 1]}}}',
        b'{"MACHINE": {"a.gguf": {"1": [1]}}}',
    ],
)
def test_a_broken_memory_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bytes) -> None:
    monkeypatch.setattr(speeds, "processor", lambda: "here")
    machine = json.loads(_written(tmp_path / "some.json"))
    path = tmp_path / "speeds.json"
    path.write_bytes(broken.replace(b"MACHINE", next(iter(machine)).encode()))
    made = Speeds(2, path)
    assert made.get("a.gguf") is None
    made.put("a.gguf", KNOWN)
    assert made.get("a.gguf") == KNOWN


def _written(path: Path) -> str:
    Speeds(2, path).put("a.gguf", KNOWN)
    return path.read_text(encoding="utf-8")


def test_without_a_file_nothing_is_remembered_and_nothing_fails(tmp_path: Path) -> None:
    Speeds(2, None).put("a.gguf", KNOWN)
    assert Speeds(2, None).get("a.gguf") is None
    (tmp_path / "file").write_text("in the way")
    made = Speeds(2, tmp_path / "file" / "speeds.json")
    made.put("a.gguf", KNOWN)
    assert made.get("a.gguf") is None


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "speeds.json" / "in the way").mkdir(parents=True)
    Speeds(2, tmp_path / "speeds.json").put("a.gguf", KNOWN)
    assert [path.name for path in tmp_path.iterdir()] == ["speeds.json"]
