"""Ctrl-C in the chat while the main thread cannot run a handler: another thread ends the decode of an answer."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from eftlocal.apps.chat.interrupt import Interrupts
from eftlocal.runtime.llama.interrupt import FLAG, stop_decoding

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="a process of Windows cannot send itself Ctrl-C"),
    pytest.mark.skipif(
        threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's"
    ),
]


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def decodes_end() -> bool:
    return FLAG.raw[0] != 0


def wait_for(end: bool) -> bool:
    until = time.monotonic() + 10
    while decodes_end() != end and time.monotonic() < until:
        time.sleep(0.005)
    return decodes_end() == end


def test_ctrl_c_ends_the_decode_of_an_answer_and_the_next_answer_decodes() -> None:
    with Interrupts() as interrupts:
        interrupts.answering(True)
        press_ctrl_c()
        assert wait_for(True) and interrupts.asked()
        interrupts.answering(False)
        assert not decodes_end()


def test_a_ctrl_c_from_before_the_answer_does_not_stop_it() -> None:
    with Interrupts() as interrupts:
        interrupts.answering(True)
        stop_decoding()  # as the other thread does if it acts late
        assert not interrupts.asked()
        assert not decodes_end()
        interrupts.answering(False)


def test_ctrl_c_while_no_answer_runs_ends_no_decode() -> None:
    with Interrupts() as interrupts:
        press_ctrl_c()
        time.sleep(0.1)  # for the other thread, which has nothing to do
        assert not decodes_end() and not interrupts.asked()
