"""Runs calls of llama.cpp that need a deep stack, which ends the process when it is full."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

__all__ = ["on_deep_stack"]

ENOUGH: Final = 1 << 20  # bytes; each thread has this much
SPARE: Final = 1 << 20

Result = TypeVar("Result")

_starting = threading.Lock()  # the size for new threads is one setting of the whole process


def on_deep_stack(n_bytes: int, call: Callable[[], Result]) -> Result:
    """Returns what `call` returns, or raises what it raises. A call that needs much stack runs in a thread of its own.

    The system gives a stack its memory only where it is used. Raises RuntimeError when there is no room for the stack.
    """
    if n_bytes <= ENOUGH:
        return call()
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, name="deep stack")
    with _starting:
        before = threading.stack_size(-(-(n_bytes + SPARE) // ENOUGH) * ENOUGH)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    try:
        thread.join()
    finally:
        thread.join()  # also after Ctrl-C: what the call uses must not be freed
    return done.result()
