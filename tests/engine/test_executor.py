"""Members in threads: each decodes once, rounds wait for each other, and an error is raised when all are done."""

import threading
import time

import pytest

from eftlocal.engine.executor import Executor
from eftlocal.runtime.plan.threads import Split

ONES = dict.fromkeys(range(6), 1)


def test_rounds_follow_each_other_chains_run_at_once_and_devices_all_the_while() -> None:
    executor, began, ended = Executor(6), dict[int, float](), dict[int, float]()
    meet = threading.Barrier(3)  # members 1, 3 and 5 (on a device) must run at the same time

    def decode(member: int) -> None:
        began[member] = time.perf_counter()
        if member in (1, 3, 5):
            meet.wait(10)
        time.sleep(0.005)
        ended[member] = time.perf_counter()

    executor.run(Split((((0,),), ((1, 2), (3, 4))), ONES, (5,)), decode)
    executor.close()
    assert sorted(began) == sorted(ended) == [0, 1, 2, 3, 4, 5]
    assert ended[0] < min(began[1], began[3])
    assert ended[1] < began[2] and ended[3] < began[4]


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_an_error_is_raised_once_all_that_was_begun_is_done(failing: int, apart: bool) -> None:
    executor, done = Executor(4), set[int]()

    def decode(member: int) -> None:
        if member == failing:
            raise ValueError(member)
        time.sleep(0.02)
        done.add(member)

    split = Split((((0,),), ((1,), (2,))), ONES, (3,))
    with pytest.raises(ValueError, match=str(failing)):
        executor.start(split, decode).result() if apart else executor.run(split, decode)
    assert done == ({3} if failing == 0 else {0, 1, 2, 3} - {failing})
    done.clear()
    executor.run(Split((((0,), (1,)),), {0: 1, 1: 1}), done.add)  # the members are free again
    assert done == {0, 1}
    executor.close()


def test_two_splits_run_at_once_unless_they_have_a_member_in_common() -> None:
    executor, go = Executor(3), threading.Event()
    order: list[str] = []

    def slow(member: int) -> None:
        go.wait(10)
        order.append(f"slow {member}")

    pending = executor.start(Split((((0,), (1,)),), {0: 1, 1: 1}), slow)
    executor.run(Split((((2,),),), {2: 1}), lambda member: order.append(f"other {member}"))
    assert order == ["other 2"] and not pending.done()
    threading.Timer(0.05, go.set).start()
    executor.run(Split((((1,),),), {1: 1}), lambda member: order.append(f"again {member}"))
    pending.result()
    assert order.index("slow 1") < order.index("again 1") and len(order) == 4
    executor.close()
