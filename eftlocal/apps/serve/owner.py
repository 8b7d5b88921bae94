"""The owner: the one thread that loads emulators and decodes with them. Other threads put their wishes in its inbox."""

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from eftlocal.apps.serve.desk import Desk, Task
from eftlocal.apps.serve.errors import NotLoadedError, StoppedError
from eftlocal.apps.serve.mailbox import Failed, News, deliver
from eftlocal.apps.serve.metrics import Metrics
from eftlocal.apps.serve.models import Shelf
from eftlocal.decoding.inbox import Inbox
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import DecodeError, EftError

__all__ = ["Owner"]

GRACE_S = 0.003  # for the next request of a client whose answer has ended: it then takes part in the coming step
ENDLESS = 1 << 30  # the inbox itself never makes a thread wait: the event loop counts requests before it puts them in


class _Question(NamedTuple):
    model: str
    ask: Callable[[Emulator], Any]
    answer: Future[Any]


class _Cancel(NamedTuple):
    task: Task


class _Stop(NamedTuple):
    pass


class Owner(threading.Thread):
    """Owns all emulators. Tasks of one emulator decode together; those of several take turns, a step each.

    What waits is taken in the order in which it came. A task for an emulator that is not in memory waits until there is
    a place for it, and those behind it wait, too: so a busy emulator cannot keep another one out for ever.

    shelf   the emulators in memory
    first   the emulator to load at the start
    tell    called in this thread with one line for each thing that went wrong
    """

    def __init__(self, shelf: Shelf, first: str, metrics: Metrics, tell: Callable[[str], None]) -> None:
        super().__init__(name="owner", daemon=True)
        self.ready: Future[Desk] = Future()  # the first emulator's desk
        self.ended: Future[None] = Future()  # this thread; its exception is the fault that ended it
        self._shelf = shelf
        self._first = first
        self._metrics = metrics
        self._tell = tell
        self._inbox: Inbox[Task | _Question | _Cancel | _Stop] = Inbox(ENDLESS)
        self._queue: deque[Task | _Question] = deque()
        self._stopping = False

    # --- for other threads --------------------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Answer a task; its mailbox gets the news."""
        if not self._inbox.put(task):
            deliver([(task.mailbox, Failed(StoppedError()))])

    def cancel(self, task: Task) -> None:
        """End a task at the next step, whether it waits, is read or decodes. Its mailbox gets no more news."""
        self._inbox.put(_Cancel(task))

    def ask(self, model: str, question: Callable[[Emulator], Any]) -> Future[Any]:
        """Call `question` with an emulator between two steps. Returns its result."""
        answer: Future[Any] = Future()
        if not self._inbox.put(_Question(model, question, answer)):
            answer.set_exception(StoppedError())
        return answer

    def stop(self) -> None:
        """End all tasks as stopped, free the emulators and end the thread, after the current step."""
        self._inbox.put(_Stop())

    # --- in this thread -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Load the first emulator, then serve until `stop`."""
        try:
            desk = self._shelf.get(self._first)
            assert desk is not None
        except BaseException as error:
            self._end()
            self.ready.set_exception(error)
            return
        self.ready.set_result(desk)
        try:
            ended = False
            while not self._stopping:
                self._take(GRACE_S if ended and not self._queue else 0.0)
                self._admit()
                ended = sum(map(self._step, self._shelf.desks)) > 0  # each has its step
                self._count()
        except BaseException as error:  # nobody would be answered any more: the server has to end
            fault: BaseException | None = error
        else:
            fault = None
        self._end()
        if fault is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(fault)

    def _take(self, grace: float) -> None:
        """Take all wishes from the inbox. Wait `grace` seconds for the first one, and for ever if all is done."""
        idle = not self._queue and not any(desk.working for desk in self._shelf.desks)
        wish = self._inbox.take(wait=idle or grace)
        while wish is not None:
            if isinstance(wish, _Stop):
                self._stopping = True
            elif isinstance(wish, _Cancel):
                if not any(desk.cancel(wish.task) for desk in self._shelf.desks) and wish.task in self._queue:
                    self._queue.remove(wish.task)
            else:
                self._queue.append(wish)
            wish = self._inbox.take(wait=False)

    def _admit(self) -> None:
        """Bring what waits to the desk of its emulator, which may have to be loaded."""
        while self._queue and not self._stopping:
            wish = self._queue[0]
            try:
                if (desk := self._shelf.get(wish.model)) is None:
                    return
            except Exception as error:
                self._tell(f"{wish.model} could not be loaded: {error}".replace("\n", " "))
                self._refuse(wish, NotLoadedError(wish.model))
            else:
                if isinstance(wish, _Question):
                    _answer(wish, desk.emulator)
                else:
                    desk.add(wish)
            self._queue.popleft()

    def _refuse(self, wish: Task | _Question, error: EftError) -> None:
        if not isinstance(wish, _Question):
            deliver([(wish.mailbox, Failed(error))])
        elif wish.answer.set_running_or_notify_cancel():
            wish.answer.set_exception(error)

    def _step(self, desk: Desk) -> bool:
        """Run a step. Returns whether an answer ended."""
        if not desk.working:
            return False
        try:
            posts = desk.step()
            deliver(posts)
            return any(isinstance(post.letter, News) and post.letter.reply is not None for post in posts)
        except Exception:  # a fault of ours ends the requests that it concerns, and not the server
            self._tell(traceback.format_exc() if "--debug" in sys.argv else "A step failed; --debug shows where.")
            deliver(desk.fail(DecodeError("The step that decoded this answer failed.")))
            return True

    def _count(self) -> None:
        running = sum(desk.n_running for desk in self._shelf.desks)
        places = sum(desk.parallel for desk in self._shelf.desks)
        self._metrics.running = min(running, places)
        not_begun = sum(desk.n_waiting for desk in self._shelf.desks) + len(self._queue)
        self._metrics.waiting = max(0, running - places) + not_begun

    def _end(self) -> None:
        self._inbox.close()
        stopped = StoppedError()
        for desk in self._shelf.desks:
            deliver(desk.fail(stopped))
        for wish in self._queue:
            self._refuse(wish, stopped)
        self._shelf.close()


def _answer(question: _Question, emulator: Emulator) -> None:
    if not question.answer.set_running_or_notify_cancel():
        return  # the client has left
    try:
        question.answer.set_result(question.ask(emulator))
    except Exception as error:
        question.answer.set_exception(error)
