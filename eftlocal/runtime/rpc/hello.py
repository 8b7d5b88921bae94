"""Asks a worker of llama.cpp's RPC who it is, before llama.cpp does: that would end the process, or wait for ever.

The protocol is that of ggml-rpc.cpp: a request is a byte, the size of its data in eight bytes and the data; an answer
is a size and the data; all little-endian. A worker serves one connection at a time. The system accepts more for it,
which then wait without an answer.
"""

import errno
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

from eftlocal.catalog.endpoints import PORT, Endpoint
from eftlocal.errors import WorkerError

__all__ = ["SPOKEN", "TIMEOUT_S", "Memory", "Version", "Worker", "probe"]

HELLO: Final = 14  # RPC_CMD_HELLO, the same in all versions since 4
DEVICE_COUNT: Final = 15
DEVICE_MEMORY: Final = 11
CAPABILITIES: Final = 24  # bytes that offer another transport than TCP; zeros offer none
MOST_DEVICES: Final = 64
TIMEOUT_S: Final = 5.0


class Version(NamedTuple):
    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return ".".join(map(str, self))


SPOKEN: Final = Version(7, 0, 0)  # by the llama.cpp of llama-cpp-python 0.3.36 (ggml-rpc.h)


class Memory(NamedTuple):
    """Bytes of one of a worker's devices. A CPU says that all its memory is free, whatever is in use."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker says of itself. `round_trip_s` is the shortest of its answers."""

    endpoint: Endpoint
    version: Version
    devices: tuple[Memory, ...]
    round_trip_s: float

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each of its devices."""
        return tuple(map(self.endpoint.device, range(len(self.devices))))


def probe(endpoint: Endpoint, timeout_s: float = TIMEOUT_S) -> Worker:
    """Asks a worker for its version, devices and memory, on a connection that is closed again.

    It takes `timeout_s` at most. Raises WorkerError, which says why the worker cannot be used, and what to do.
    """
    conversation = _Conversation(endpoint, time.monotonic() + timeout_s)
    try:
        return conversation.hold()
    finally:
        conversation.close()


class _Conversation:
    """One connection to a worker, which ends at `until`."""

    def __init__(self, endpoint: Endpoint, until: float) -> None:
        self._endpoint, self._until = endpoint, until
        self._trips: list[float] = []
        self._began = time.monotonic()
        self._socket = self._connected()

    def hold(self) -> Worker:
        version = self._version()
        (count,) = struct.unpack("<I", self._ask(DEVICE_COUNT, b"", 4))
        if not 1 <= count <= MOST_DEVICES:
            self._refuse(f"says that it has {count} devices", "Start it again.")
        devices = []
        for i in range(count):
            free, total = struct.unpack("<QQ", self._ask(DEVICE_MEMORY, struct.pack("<I", i), 16))
            devices.append(Memory(min(free, total), total))
        return Worker(self._endpoint, version, tuple(devices), min(self._trips))

    def close(self) -> None:
        self._socket.close()

    def _version(self) -> Version:
        self._send(HELLO, bytes(CAPABILITIES))
        size = self._size(first=True)
        if size not in (3, 4 + CAPABILITIES):  # 3: before version 7
            self._not_a_worker()
        found = Version(*self._read(size)[:3])
        if found.major != SPOKEN.major or found.minor > SPOKEN.minor:
            self._refuse(
                f"speaks version {found} of llama.cpp's RPC, and eftlocal here {SPOKEN}",
                "Run the same version of eftlocal, or of llama.cpp, on both machines.",
            )
        return found

    def _ask(self, command: int, data: bytes, expected: int) -> bytes:
        began = time.perf_counter()
        self._send(command, data)
        if self._size() != expected:
            self._not_a_worker()
        answer = self._read(expected)
        self._trips.append(time.perf_counter() - began)
        return answer

    def _send(self, command: int, data: bytes) -> None:
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(struct.pack("<BQ", command, len(data)) + data)
        except OSError as error:
            self._failed(error)

    def _size(self, *, first: bool = False) -> int:
        return int.from_bytes(self._read(8, first=first), "little")

    def _read(self, n: int, *, first: bool = False) -> bytes:
        """Reads n bytes. `first`: nothing was read before, so that silence means a worker that serves another."""
        data = b""
        while len(data) < n:
            try:
                self._socket.settimeout(self._left())
                more = self._socket.recv(n - len(data))
            except TimeoutError:
                self._silent(busy=first and not data)
            except OSError as error:
                self._failed(error)
            if not more:
                self._closed(first and not data)
            data += more
        return data

    def _left(self) -> float:
        """Seconds that are left. Raises TimeoutError, which is an OSError, when none are."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _connected(self) -> socket.socket:
        endpoint = self._endpoint
        try:
            found = socket.getaddrinfo(endpoint.host, endpoint.port, socket.AF_INET, socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise WorkerError(
                f"The worker {endpoint} is not found: no machine has the name {endpoint.host}.",
                "Name the machine on which `eftlocal worker` runs, or 127.0.0.1 with a tunnel to it.",
            ) from None
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._left())
            sock.connect(found[0][4])
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            self._absent(error)
        except BaseException:
            sock.close()
            raise
        return sock

    # --- what is wrong ----------------------------------------------------------------------------------------------

    def _absent(self, error: OSError) -> NoReturn:
        endpoint = self._endpoint
        if isinstance(error, TimeoutError):
            problem = f"does not answer within {self._waited()}"
            hint = "Is its machine on, is it busy with another program, or does a firewall keep it away?"
        elif error.errno == errno.ECONNREFUSED:
            problem = "is not there: nobody listens at that port"
            option = "" if endpoint.port == PORT else f" --port {endpoint.port}"
            hint = f"Start it: eftlocal worker{option}. For another machine, start the tunnel, too."
        else:
            problem = f"cannot be reached: {error.strerror or error}"
            hint = "Look at the address and at the network."
        raise WorkerError(f"The worker {endpoint} {problem}.", hint) from None

    def _silent(self, *, busy: bool) -> NoReturn:
        self._give_up()
        if busy:
            self._refuse(
                f"is busy: it accepted the connection, and did not answer within {self._waited()}",
                "A worker serves one program at a time: end the other one, or start a second one on another port. Or "
                "does something else listen there?",
            )
        self._refuse(f"stopped in the middle of an answer, and said nothing for {self._waited()}", "Start it again.")

    def _closed(self, at_once: bool) -> NoReturn:
        if at_once:
            self._refuse(
                "closed the connection without an answer",
                "Is it a worker, and of this version? At the other end of a tunnel, it may not run.",
            )
        self._refuse("closed the connection in the middle of an answer", "Is it a worker? Look at what it says there.")

    def _failed(self, error: OSError) -> NoReturn:
        if isinstance(error, TimeoutError):
            self._silent(busy=False)
        if isinstance(error, ConnectionError):
            self._closed(not self._trips)
        self._refuse(f"failed: {error.strerror or error}", "Look at the network.")

    def _not_a_worker(self) -> NoReturn:
        self._refuse(
            "is not a worker of llama.cpp's RPC: it answered with something else",
            "Does another program listen at that port? A server with an http address belongs in `url`.",
        )

    def _refuse(self, problem: str, hint: str) -> NoReturn:
        raise WorkerError(f"The worker {self._endpoint} {problem}.", hint)

    def _waited(self) -> str:
        return f"{time.monotonic() - self._began:.1f} s"

    def _give_up(self) -> None:
        """Resets the connection. A worker that takes it later finds an error when it answers, and lives.

        Closed in order, its second write would end a worker that does not ignore SIGPIPE.
        """
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
