"""Ctrl-C in the program: it ends a process at once, in Python and in C, or asks a task, and prints nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT"), pytest.mark.slow]

HEAD = """
import ctypes, hashlib, os, sys, time
from eftlocal.interrupt import asked, before_leaving, leave_at_ctrl_c, raising
in_c = lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # C code that goes on through any signal
leave_at_ctrl_c()
"""
READY = "print('ready', flush=True)\n"


def end(script: str, *, presses: Sequence[float] = (0.1,), ignored: bool = False) -> tuple[int, str, str, float]:
    """Runs the script and presses Ctrl-C after these pauses. Returns exit code, stdout, stderr, seconds after that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD + script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for pause in presses:
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            process.wait(20)
        finally:
            process.kill()
        seconds = time.monotonic() - began
        out, err = process.communicate()
    return process.returncode, out, err, seconds


@pytest.mark.parametrize(
    "busy",
    [
        "while True: pass",
        "time.sleep(20)",
        "sys.stdin.read()",
        "in_c()",
        "class A:\n  def __del__(self):\n    while True: pass\nA()",
        "ctypes.CFUNCTYPE(None)(lambda: time.sleep(20))()",
        "reads, writes = os.pipe()\nwhile True: os.write(writes, b'x' * 9000)",
    ],
)
def test_it_ends_the_process_at_once_and_prints_nothing(busy: str) -> None:
    code, out, err, seconds = end(READY + busy)
    assert (code, out, err) == (130, "", "") and seconds < 2


def test_what_must_be_done_before_is_done() -> None:
    script = "with before_leaving(lambda: os.write(1, b'shown')):\n  " + READY + "  in_c()"
    assert end(script)[:3] == (130, "shown", "")


def test_a_task_is_asked_and_ends_by_itself() -> None:
    script = (
        "with asked(lambda: None) as task:\n  " + READY + "  while not task.is_set(): time.sleep(0.01)\nprint('end')"
    )
    assert end(script)[:3] == (0, "end\n", "")


def test_what_keeps_a_task_in_c_is_told() -> None:
    """Two pipes stand for a decode that stops when it is told to."""
    script = (
        "reads, writes = os.pipe()\nbuffer = ctypes.create_string_buffer(1)\n"
        "with asked(lambda: os.write(writes, b'x')) as task:\n  "
        + READY
        + "  ctypes.CDLL(None).read(reads, buffer, 1)\n  print(task.is_set())"
    )
    code, out, err, seconds = end(script)
    assert (code, out, err) == (0, "True\n", "") and seconds < 2


@pytest.mark.parametrize(
    ("task", "presses"),
    [
        ("in_c()", [0.1]),  # C code that cannot hear
        ("in_c()", [0.1, 0.1]),
        ("time.sleep(20)", [0.1]),  # a task that does not look
        ("time.sleep(20)", [0.1, 0.1]),
        ("task.writing = True\n  while True: os.write(os.pipe()[1], b'x' * 100000)", [0.1]),
    ],
)
def test_a_task_that_does_not_stop_is_ended(task: str, presses: list[float]) -> None:
    code, out, err, seconds = end("with asked(lambda: None) as task:\n  " + READY + "  " + task, presses=presses)
    assert (code, out, err) == (130, "", "") and seconds < 3


def test_a_process_that_ignores_ctrl_c_still_does() -> None:
    """As a shell script starts `eftlocal ... &`, and nohup."""
    code, out, _, _ = end(READY + "with asked(lambda: None) as t: time.sleep(0.5)\nprint(t.is_set())", ignored=True)
    assert (code, out) == (0, "False\n")


def test_within_raising_it_raises_as_in_any_python_program() -> None:
    script = "try:\n  with raising():\n    " + READY + "    time.sleep(20)\nexcept KeyboardInterrupt: print('raised')"
    assert end(script)[:3] == (0, "raised\n", "")


def test_it_is_not_taken_from_another_thread() -> None:
    assert os.getpid()  # nothing is pressed here
    script = "import threading, signal\nt = threading.Thread(target=leave_at_ctrl_c)\nt.start(); t.join()\n" + READY
    assert end(script, presses=())[:3] == (0, "", "")
