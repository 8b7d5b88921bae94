"""Ctrl-C while llama.cpp loads and decodes: it ends early, whenever Ctrl-C came, and nothing is swallowed."""

import ctypes
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eftlocal.runtime import gguf
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.interrupt import (
    Stopped,
    interruptible,
    may_decode,
    raise_from_callback,
    stop_decoding,
    survives,
)
from eftlocal.runtime.llama.model import Model
from tests.families import Family

LOADING = """
import sys
from pathlib import Path
from eftlocal.runtime import gguf
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
header = gguf.check(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    model = Model(header)
    context = Context(model, n_ctx=256)
    context.close()
    model.close()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


@pytest.mark.slow
def test_ctrl_c_at_any_moment_of_loading_ends_the_process(family: Family) -> None:
    rng = random.Random(1)
    for _ in range(15):
        command = [sys.executable, "-c", LOADING, str(family.base)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(20) == -signal.SIGINT  # as Python ends after a KeyboardInterrupt
            finally:
                process.kill()
            said = process.stderr.read()
        assert "KeyboardInterrupt" in said and "Exception ignored" not in said


def test_ctrl_c_is_remembered_and_raised_at_the_end() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), interruptible() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        reached = asked()
    assert reached and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_handler_and_another_thread_are_left_alone() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        with interruptible() as asked:
            signal.raise_signal(signal.SIGINT)
            assert came == [signal.SIGINT] and not asked()
    finally:
        signal.signal(signal.SIGINT, before)

    def elsewhere() -> None:
        with interruptible() as asked:
            came.append(int(asked()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert came == [signal.SIGINT, 0] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- decodes that are stopped -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def decodes_run_again() -> Iterator[None]:
    yield
    may_decode()


@pytest.mark.parametrize("kind", ["tuned", "sliding", "recurrent"])
def test_a_decode_that_was_stopped_counts_nothing_and_can_be_done_again(family: Family, kind: str) -> None:
    tokens = list(range(1, 60))
    model = Model(gguf.check(getattr(family, kind)))
    stopped, fresh = (Context(model, n_ctx=64, n_threads=2, kv_type="f32") for _ in range(2))
    try:
        stopped.feed([Feed(0, tokens[:20], 0)])
        stop_decoding()
        with pytest.raises(Stopped):
            stopped.feed([Feed(0, tokens[20:], 1)])
        may_decode()
        kept = stopped.held(0)
        assert kept <= 20
        z = stopped.feed([Feed(0, tokens[kept:], 1)])
        np.testing.assert_allclose(z, fresh.feed([Feed(0, tokens, 1)]), atol=5e-3 if kind == "sliding" else 1e-4)
    finally:
        stopped.close()
        fresh.close()
        model.close()


@pytest.mark.slow
def test_a_long_decode_stops_in_its_middle_whenever_it_is_asked(smollm2: Path) -> None:
    tokens, rng, late = list(range(100, 260)), random.Random(1), []
    model = Model(gguf.check(smollm2))
    stopped, fresh = (Context(model, n_ctx=512, n_threads=1, kv_type="f32") for _ in range(2))
    asked_at = 0.0

    def ask() -> None:
        nonlocal asked_at
        asked_at = time.perf_counter()
        stop_decoding()

    try:
        expected = fresh.feed([Feed(0, tokens, 1)]).copy()
        for _ in range(2):
            stopped.rewind(0, 0)
            timer = threading.Timer(rng.uniform(0, 0.2), ask)  # all of the tokens take longer on any machine
            timer.start()
            with pytest.raises(Stopped):
                stopped.feed([Feed(0, tokens, 1)])
            late.append(time.perf_counter() - asked_at)
            may_decode()
            kept = stopped.held(0)
            assert kept % stopped.n_batch == 0
            np.testing.assert_allclose(stopped.feed([Feed(0, tokens[kept:], 1)]), expected, atol=1e-4)
        assert min(late) < 0.1  # a chunk takes longer
    finally:
        stopped.close()
        fresh.close()
        model.close()


def test_what_a_callback_from_c_raises_is_raised_after_it(capfd: pytest.CaptureFixture[str]) -> None:
    @survives(7)
    def callback(*_: object) -> int:
        raise KeyboardInterrupt

    called = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(callback)
    assert called(1) == 7
    with pytest.raises(KeyboardInterrupt):
        raise_from_callback()
    raise_from_callback()  # once is enough
    assert capfd.readouterr() == ("", "")
