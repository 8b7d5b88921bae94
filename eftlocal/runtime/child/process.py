"""The process that holds a model: started, asked, given up when it does not answer in time, and started again."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.errors import (
    DecodeError,
    EftError,
    ModelFileError,
    ModelLoadError,
    RemoteError,
    SettingError,
    WorkerError,
)
from eftlocal.runtime.child import patience
from eftlocal.runtime.child.channel import ClosedError, Message
from eftlocal.runtime.child.spawned import Spawned
from eftlocal.runtime.llama.interrupt import FLAG, Stopped
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.rpc.hello import probe

__all__ = ["Process"]

LOOK_S: Final = 0.02  # between two looks at whether Ctrl-C came
GRACE_S: Final = 0.3  # for the child to end a decode after Ctrl-C; one on another machine cannot be ended
ENDING_S: Final = 0.1  # a worker that is just ending may still take a connection
AGAIN: Final = "It is loaded again when it is next needed: ask again, or go on with /continue in a chat."

KINDS: Final[Mapping[str, type[EftError]]] = {  # of errors that the child may tell
    kind.__name__: kind for kind in (DecodeError, ModelFileError, ModelLoadError, SettingError, WorkerError)
}

Room = Callable[[Message, int], memoryview]
Then = Callable[[Message], None]


@dataclass(slots=True)
class _Asked:
    """A question whose answer is awaited: until when, what takes its bytes, and what is done with it."""

    until: float
    seconds: float
    room: Room | None
    then: Then | None
    tokens: int
    began: float


class Process:
    """Holds one model in a process of its own. Calls may come from several threads; they are done one at a time.

    generation   counts its starts: what a process held is gone with it
    """

    def __init__(self, path: Path, offload: Offload | None, rpc: Sequence[Endpoint] = ()) -> None:
        """Starts the process and loads the model. Raises ModelLoadError and RemoteError, as a load in this process."""
        self.path = path
        self.generation = 0
        self._load: Message = {
            "do": "load",
            "path": str(path),
            "offload": None if offload is None else asdict(offload),
            "rpc": [(endpoint.host, endpoint.port) for endpoint in rpc],
        }
        self._rpc = tuple(rpc)
        self._lock = threading.RLock()
        self._child: Spawned | None = None
        self._patience = patience.Patience()
        self._late: _Asked | None = None  # a question that nobody waits for any more
        self._numbers = 0
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """The number of the process; None if it does not run."""
        return None if self._child is None else self._child.pid

    def runs(self) -> bool:
        """Whether the process runs. One that has ended is cleared away."""
        child = self._child
        if child is not None and not child.runs():
            with self._lock:
                self._end()
        return self._child is not None

    def start(self) -> None:
        """Start the process if it does not run, and load the model. Raises ModelLoadError, RemoteError, and Stopped."""
        with self._lock:
            if self.runs():
                return
            for endpoint in self._rpc:  # llama.cpp would end the process, or wait for ever
                probe(endpoint, patience.PROBE_S)
            self._child = Spawned(self.path)
            try:
                asked = self._ask(self._load, b"", patience.LOAD_S, None, None, 0)
                while "progress" in (reply := self._answer(asked)[0]):
                    asked.until = time.monotonic() + patience.LOAD_S
                self._raise(reply)
            except DecodeError as error:
                self._end()
                raise ModelLoadError(error.message, None if error.hint == AGAIN else error.hint) from None
            except BaseException:
                self._end()
                raise
            self.generation += 1

    def call(
        self,
        message: Message,
        data: bytes | memoryview = b"",
        *,
        tokens: int = 0,
        room: Room | None = None,
        then: Then | None = None,
    ) -> tuple[Message, memoryview]:
        """Ask the process, and wait for its answer. `then` is called with the answer, also if it comes after Ctrl-C.

        tokens  how many it computes; 0 for what takes no time
        room    gives the memory for the bytes of the answer

        Raises DecodeError when the process ends, or does not answer in time: it is ended then. Raises what the process
        raised, and Stopped at Ctrl-C.
        """
        with self._lock:
            self.settle()
            if not self.runs():
                raise DecodeError(f"{self.path}: the process that held it has ended.", AGAIN)
            if tokens and FLAG[0] != b"\0":
                raise Stopped
            asked = self._ask(message, data, self._patience.limit(tokens), room, then, tokens)
            try:
                reply, rest = self._answer(asked)
            except (KeyboardInterrupt, Stopped):
                self._late = asked
                raise
            self._done(asked, reply)
            if "stopped" in reply:
                raise Stopped
            self._raise(reply)
            return reply, rest

    def settle(self) -> None:
        """Wait for the answer that nobody waited for after Ctrl-C. Raises Stopped."""
        with self._lock:
            if (asked := self._late) is not None and self.runs():
                with suppress(DecodeError):  # it has ended
                    reply, _ = self._answer(asked)
                    self._late = None
                    self._done(asked, reply)
            self._late = None

    def give_up(self) -> None:
        """End the process if it still works at what nobody waits for after Ctrl-C: its worker may hang."""
        with self._lock:
            if self._late is not None and (child := self._child) is not None and not child.has_answered(GRACE_S):
                self._end()

    def close(self) -> None:
        """End the process."""
        self._end()

    # --- one call -----------------------------------------------------------------------------------------------------

    def _ask(
        self,
        message: Message,
        data: bytes | memoryview,
        limit: float,
        room: Room | None,
        then: Then | None,
        tokens: int,
    ) -> _Asked:
        self._numbers += 1
        assert self._child is not None
        try:
            self._child.send({**message, "number": self._numbers}, data)
        except ClosedError:
            raise self._ended() from None
        except BaseException:  # half a message may have been sent
            self._end()
            raise
        now = time.monotonic()
        return _Asked(now + limit, limit, room, then, tokens, now)

    def _answer(self, asked: _Asked) -> tuple[Message, memoryview]:
        """The next answer. Raises DecodeError if the process ended or had to be, and Stopped some time after Ctrl-C."""
        stopped: float | None = None
        assert self._child is not None
        while not self._child.has_answered(LOOK_S):
            now = time.monotonic()
            if FLAG[0] != b"\0":
                if stopped is None:
                    stopped = now
                    self._tell_stop()
                elif now - stopped > GRACE_S:
                    raise Stopped
            if now > asked.until:
                raise self._ended(f"it did not answer in {asked.seconds:.0f} seconds")
        try:
            return self._child.receive(asked.room)
        except ClosedError:
            raise self._ended() from None
        except BaseException:  # half a message may have been read
            self._end()
            raise

    def _tell_stop(self) -> None:
        """Let the child end its decode. A child that has ended is found by who waits for it."""
        with suppress(ClosedError):
            if self._child is not None:
                self._child.send({"do": "stop", "number": self._numbers})

    def _done(self, asked: _Asked, reply: Message) -> None:
        if asked.tokens and "error" not in reply:
            self._patience.learn(asked.tokens, time.monotonic() - asked.began)
        if asked.then is not None:
            asked.then(reply)

    def _raise(self, reply: Message) -> None:
        """Raise the error that the child tells."""
        if (told := reply.get("error")) is not None:
            raise KINDS.get(told["kind"], DecodeError)(told["message"], told["hint"])

    def _ended(self, why: str | None = None) -> DecodeError:
        """The error for a process that has ended, or that must be since it does not answer."""
        assert self._child is not None
        reason = why or self._child.last_words()
        self._end()
        if self._rpc and why is None:
            time.sleep(ENDING_S)
        for endpoint in self._rpc:
            try:
                probe(endpoint, patience.PROBE_S)
            except RemoteError as error:  # says it better than llama.cpp does
                return DecodeError(error.message, error.hint)
        return DecodeError(f"{self.path}: the process that held it has ended: {reason}", AGAIN)

    def _end(self) -> None:
        """End the process, if it runs, and forget it."""
        child, self._child, self._late = self._child, None, None
        if child is not None:
            child.end()
