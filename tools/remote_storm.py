"""Kills, stops and replaces a base's server in the middle of answers: python -m tools.remote_storm [--each N]

kill      the server dies for good: the answer ends in one line, with the text so far
hang      it stops (SIGSTOP): the same, soon
restart   it dies and is started again with the same model: the answer is the one that it would have been
another   it comes back with another model: the answer ends in one line that says so
After each, a server with the right model is there again, and the same emulator answers as if nothing had been.
"""

import argparse
import json
import random
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

from eftlocal import Emulator
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import packaged
from eftlocal.errors import EftError
from eftlocal.runtime.remote import connection
from tests import llama_server

BASE, OTHER = packaged("demo/large-base.gguf"), packaged("demo/large-tuned.gguf")
KINDS = ("kill", "hang", "restart", "another")
LONGEST_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    connection.SILENCE_S, connection.CONNECT_S = 0.5, 1.0  # type: ignore[misc]  # instead of 10 and 5
    connection.PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # type: ignore[misc]
    draw, port = random.Random(given.seed), llama_server.free_port()
    asked = [
        q["question"] for q in json.loads(packaged("demo/questions.json").read_text(encoding="utf-8"))["questions"]
    ]
    cat = catalog.load()
    base = catalog.Model(name="far", file=catalog.Server(url=f"http://127.0.0.1:{port}", top=20))
    far = replace(cat.emulators["demo"], name="far", base="far")
    cat = replace(cat, models={**cat.models, "far": base}, emulators={**cat.emulators, "far": far})
    faults, outcomes, longest = 0, Counter[str](), 0.0
    with Emulator.load("demo") as here, ExitStack() as stack:
        server = stack.enter_context(llama_server.running(BASE, port=port))
        emulator = stack.enter_context(Emulator.load("far", models=cat))
        for kind in [kind for kind in KINDS for _ in range(given.each)]:
            question, draft = draw.choice(asked), draw.choice([0, 4, "auto"])
            wanted, at = here.generate(question).text, draw.randrange(1, 6)
            text, error, began, after = "", None, time.monotonic(), 0.0
            stream = emulator.stream(question, draft=draft)
            again: list[threading.Thread] = []
            try:
                for n, delta in enumerate(stream, 1):
                    text += delta
                    if n == at:
                        began = time.monotonic()
                        server.process.send_signal(signal.SIGSTOP if kind == "hang" else signal.SIGKILL)
                        if kind != "hang":
                            server.process.wait()
                        if kind in ("restart", "another"):
                            model = BASE if kind == "restart" else OTHER
                            again.append(threading.Thread(target=lambda m=model: _start(stack, m, port)))
                            again[0].start()
            except EftError as found:
                error = found
            after = time.monotonic() - began
            longest = max(longest, after)
            for thread in again:
                thread.join()
            right = text == wanted if error is None else wanted.startswith(text) and "\n" not in error.message
            expected = {"restart": error is None, "another": error is None or "another model" in error.message}
            told = f"{kind}: {'the whole answer' if error is None else error.message.split(':', 1)[0] + ', one line'}"
            outcomes[told] += 1
            if not right or not expected.get(kind, True) or after > LONGEST_S:
                faults += 1
                print(f"fault: {kind} at {at}, draft {draft}: {text!r}, wanted {wanted!r}, {error}, {after:.1f} s")
            server = _again(stack, port)
            question = draw.choice(asked)
            if emulator.generate(question).text != here.generate(question).text:
                faults += 1
                print(f"fault: after {kind}, the next answer is wrong")
    for told, n in sorted(outcomes.items()):
        print(f"{n:4} x {told}")
    print(f"faults: {faults}; the longest took {longest:.1f} s")


_running: list[llama_server.Server] = []


def _start(stack: ExitStack, model: object, port: int) -> None:
    _running.append(stack.enter_context(llama_server.running(model, port=port)))  # type: ignore[arg-type]


def _again(stack: ExitStack, port: int) -> llama_server.Server:
    """A server of the right model, whatever ran before."""
    for server in _running:
        server.process.kill()
        server.process.wait()
    _running.clear()
    _kill_all_on(port)
    _start(stack, BASE, port)
    return _running[-1]


def _kill_all_on(port: int) -> None:
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if "tests.llama_server" in (process.info["cmdline"] or []) and str(port) in process.info["cmdline"]:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
