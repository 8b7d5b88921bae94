"""The child's side: holds a model and its contexts, and does what the parent asks. It ends when the parent does."""

import ctypes
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.errors import DecodeError, EftError
from eftlocal.runtime import gguf
from eftlocal.runtime.child.channel import Channel, ClosedError, Message
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama import library
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.copies import SavedSequence
from eftlocal.runtime.llama.interrupt import Stopped, may_decode, stop_decoding
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.rpc.devices import register, renamed

__all__ = ["main"]

TELL_S: Final = 1.0  # between two signs of life while weights are loaded

Answer = tuple[dict[str, Any], Any]  # a message, and bytes or an array


def main(number: int) -> None:
    """Does what comes over the socket with this file number, until it closes."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort must not leave a core file
    library.set_verbose(True)  # to a file, which the parent reads when this process ends
    channel = Channel(socket.socket(fileno=number))
    server = Server(channel)
    threading.Thread(target=server.listen, daemon=True).start()
    server.run()


class Server:
    """Takes the parent's messages in a thread, so that it hears a stop and the parent's end while it decodes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._asked: queue.SimpleQueue[tuple[Message, memoryview]] = queue.SimpleQueue()
        self._running = 0  # the number of the message that is worked on
        self._turn = threading.Lock()
        self._model: Model | None = None
        self._contexts: dict[int, Context] = {}
        self._told = 0.0

    def listen(self) -> None:
        """Reads messages. Ends the process when the parent closes the socket or ends."""
        try:
            while True:
                message, data = self._channel.receive()
                if message["do"] == "stop":
                    with self._turn:
                        if self._running == message["number"]:
                            stop_decoding()
                else:
                    self._asked.put((message, data))
        except ClosedError:
            os._exit(0)

    def run(self) -> None:
        """Answers messages, one after the other."""
        while True:
            message, data = self._asked.get()
            with self._turn:
                self._running = message["number"]
                may_decode()
            reply, rest = self._answer(message, data)
            with self._turn:
                self._running = 0
            try:
                self._channel.send(reply, memoryview(rest).cast("B") if len(rest) else b"")
            except ClosedError:
                os._exit(0)

    def _answer(self, message: Message, data: memoryview) -> Answer:
        context, found = self._contexts.get(message.get("context", -1)), {}
        try:
            found, rest = getattr(self, f"_{message['do']}")(message, data)
        except Stopped:
            found, rest = {"stopped": True}, b""
        except EftError as error:
            found, rest = _told(type(error).__name__, error.message, error.hint), b""
        except Exception as error:
            found, rest = _told(DecodeError.__name__, f"{type(error).__name__}: {error}", None), b""
        if context is not None and message["do"] != "close":
            held = {sequence: context.held(sequence) for sequence in message.get("touched", ())}
            found |= {"held": list(held.items()), "n_fed": context.n_fed}
        return found, rest

    def _load(self, message: Message, _: memoryview) -> Answer:
        header = gguf.check(Path(message["path"]))
        offload = None if (told := message["offload"]) is None else _offload(told)
        if message["rpc"]:
            names = register([Endpoint(host, port) for host, port in message["rpc"]])
            offload = None if offload is None else renamed(offload, names)
        self._model = Model(header, offload, progress=self._progress)
        library.set_verbose(False)
        return {}, b""

    def _progress(self) -> None:
        if (now := time.monotonic()) - self._told > TELL_S:
            self._told = now
            self._channel.send({"progress": True})

    def _context(self, message: Message, _: memoryview) -> Answer:
        assert self._model is not None
        lora = message["lora"]
        made = Context(
            self._model,
            n_ctx=message["n_ctx"],
            n_seq=message["n_seq"],
            n_threads=message["n_threads"],
            lora=None if lora is None else (Path(lora[0]), lora[1]),
            kv_type=message["kv_type"],
        )
        self._contexts[message["new"]] = made
        return {"n_ctx": made.n_ctx, "n_batch": made.n_batch, "max_rows": made.max_rows}, b""

    def _feed(self, message: Message, _: memoryview) -> Answer:
        context = self._contexts[message["context"]]
        context.set_threads(message["threads"])
        rows = context.feed([Feed(*feed) for feed in message["feeds"]])
        return {"rows": len(rows)}, rows

    def _rewind(self, message: Message, _: memoryview) -> Answer:
        return {"n": self._contexts[message["context"]].rewind(message["sequence"], message["n"])}, b""

    def _fork(self, message: Message, _: memoryview) -> Answer:
        context = self._contexts[message["context"]]
        return {"n": context.fork(message["source"], message["target"], message["n"])}, b""

    def _saved(self, message: Message, _: memoryview) -> Answer:
        saved = self._contexts[message["context"]].saved()
        copies = [(i, len(copy.data), copy.size, copy.n, copy.n_seq) for i, copy in saved.items()]
        return {"copies": copies}, b"".join(bytes(copy.data) for copy in saved.values())

    def _restore(self, message: Message, data: memoryview) -> Answer:
        size, n, n_seq = message["copy"]
        copy = SavedSequence((ctypes.c_uint8 * len(data)).from_buffer(data), size, n, n_seq)
        self._contexts[message["context"]].restore({message["sequence"]: copy})
        return {}, b""

    def _close(self, message: Message, _: memoryview) -> Answer:
        self._contexts.pop(message["context"]).close()
        return {}, b""


def _told(kind: str, message: str, hint: str | None) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "hint": hint}}


def _offload(told: Mapping[str, Any]) -> Offload:
    return Offload(told["layers"], tuple(told["devices"]), tuple(told["ratios"]), told["rows"])
