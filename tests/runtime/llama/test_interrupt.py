"""Ctrl-C while llama.cpp loads: the process ends with it, whenever it came, and nothing is swallowed."""

import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from eftlocal.runtime.llama.interrupt import interruptible
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
