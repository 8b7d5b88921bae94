"""Kills, stops and replaces a base's server in the middle of answers: python -m tools.remote_storm [--each N]

kill      the server dies for good: the answer ends in one line, with the text so far
hang      it stops (SIGSTOP) for good: the same, soon
pause     it stops and goes on a second later: the answer is the one that it would have been
restart   it dies and is started again with the same model: the same
another   it comes back with another model: the answer ends in one line that says so, and does not go on there
twin      the same, and the other model has the same name
Half of them while one answer is streamed, half in a batch of four. After each, a server with the right model is there
again, and the same emulator goes on with the answer (or runs the batch again), to the text that it would have had.
Each outcome is printed and counted; a fault that came after the end counts apart, and not to N. The base is in F32, so
that the server's rounding, which is another one than that here, turns no near tie.
"""

import argparse
import json
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal

import llama_cpp

from eftlocal import Emulator, Message
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import packaged
from eftlocal.emulation.emulator import Job
from eftlocal.errors import EftError
from eftlocal.runtime.remote import connection, sockets
from tests import llama_server
from tests.families import quantized

Draft = int | Literal["auto"]
_DIGITS = re.compile(r"\d+")
OTHER = packaged("demo/large-tuned.gguf")
KINDS = ("kill", "hang", "pause", "restart", "another", "twin")
OTHERS = ("another", "twin")
WAYS = ("stream", "batch")
LONGEST_S = 20.0
PAUSED_S = 1.0
WAITED_S = 0.2  # longer than what is left of an answer takes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=30)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sockets.SILENCE_S, sockets.CONNECT_S = 0.5, 1.0  # type: ignore[misc]  # instead of 10 and 5
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
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = quantized(packaged("demo/large-base.gguf"), llama_cpp.LLAMA_FTYPE_ALL_F32, folder / "base-F32.gguf")
        host = Host(stack, port, file)
        emulator = stack.enter_context(Emulator.load("far", models=cat, kv_type="f32"))
        local = replace(cat, models={**cat.models, "far": replace(base, file=file)})
        here = stack.enter_context(Emulator.load("far", models=local, kv_type="f32"))
        for kind in given.kinds:
            struck = dict.fromkeys(WAYS, 0)
            while (way := min(WAYS, key=struck.__getitem__)) and sum(struck.values()) < given.each:
                questions = draw.sample(asked, 4 if way == "batch" else 1)
                wanted = {q: here.generate(q).text for q in questions}
                draft: Draft = draw.choice((0, 4, "auto"))
                found = _disturbed(emulator, host, questions, draft, kind, draw.randrange(1, 6))
                struck[way] += found.struck
                longest = max(longest, found.after)
                told = {_judged(kind, text, wanted[q], error) for q, (text, error) in found.answers.items()}
                if kind in OTHERS:
                    told |= {_refused(emulator, q, text, host) for q, (text, error) in found.answers.items() if error}
                host.again()
                after = {q: _gone_on(emulator, q, text, error) for q, (text, error) in found.answers.items()}
                if any(text != wanted[q] for q, text in after.items()):
                    told.add("WRONG: what went on afterwards is another text")
                if found.after > LONGEST_S:
                    told.add(f"WRONG: it took {found.after:.0f} s")
                for one in told:
                    outcomes[f"{kind}, {way}: {one}" if found.struck else f"{kind}: it came after the end"] += 1
                    if one.startswith("WRONG"):
                        faults += 1
                        print(f"fault: {kind}, draft {draft}: {one}: {found} wanted {wanted}, then {after}", flush=True)
    for name, n in sorted(outcomes.items()):
        print(f"{n:4} x {name}")
    print(f"faults: {faults}; the longest took {longest:.1f} s")
    return int(faults > 0)


@dataclass
class Found:
    """What became of answers. after: seconds from the fault to their end. answers: question -> text and error."""

    after: float
    answers: dict[str, tuple[str, EftError | None]]

    @property
    def struck(self) -> bool:
        """Whether the fault came before the end: an answer failed, or had to wait."""
        return self.after > WAITED_S or any(error is not None for _, error in self.answers.values())


class Host:
    """The server at one port, whichever runs there."""

    def __init__(self, stack: ExitStack, port: int, model: Path) -> None:
        self._stack, self._port, self._model = stack, port, model
        self._aside = model.with_suffix(".aside")  # where its file is while a twin has its name
        self._running: list[llama_server.Server] = []
        self._starting: list[threading.Thread] = []
        self._start(self._model)

    def hit(self, kind: str) -> None:
        """Do to the server what `kind` says. What is started again takes its time."""
        process = self._running[-1].process
        process.send_signal(signal.SIGSTOP if kind in ("hang", "pause") else signal.SIGKILL)
        if kind == "pause":
            threading.Timer(PAUSED_S, process.send_signal, (signal.SIGCONT,)).start()
        elif kind != "hang":
            process.wait()
        if kind == "twin":
            self._model.rename(self._aside)
            self._model.symlink_to(OTHER)
        if kind in ("restart", *OTHERS):
            model = OTHER if kind == "another" else self._model
            self._starting.append(threading.Thread(target=self._start, args=(model,)))
            self._starting[-1].start()

    def started(self) -> None:
        """Wait for what is being started."""
        for thread in self._starting:
            thread.join()
        self._starting.clear()

    def again(self) -> None:
        """A server of the right model, whatever ran before."""
        self.started()
        for server in self._running:
            server.process.kill()
            server.process.wait()
        self._running.clear()
        if self._aside.exists():
            self._aside.replace(self._model)
        self._start(self._model)

    def _start(self, model: Path) -> None:
        self._running.append(self._stack.enter_context(llama_server.running(model, port=self._port)))


def _disturbed(emulator: Emulator, host: Host, asked: Sequence[str], draft: Draft, kind: str, at: int) -> Found:
    """The answers to `asked`, with a fault after `at` pieces of text, or at a moment of a batch."""
    if len(asked) == 1:
        text, error, began = "", None, 0.0
        stream = emulator.stream(asked[0], draft=draft)
        try:
            for n, delta in enumerate(stream, 1):
                text += delta
                if n == at:
                    began = time.monotonic()
                    host.hit(kind)
        except EftError as found:
            error = found
        if not began:
            began = time.monotonic()
            host.hit(kind)
        return Found(time.monotonic() - began, {asked[0]: (text, error)})
    answers: dict[str, tuple[str, EftError | None]] = {}
    batch, began = emulator.batch(len(asked)), 0.0
    for question in asked:
        batch.add(Job(question, {"draft": draft}, 0, question))
    for n in count():
        if n == at:
            began = time.monotonic()
            host.hit(kind)
        if not batch:
            break
        try:
            ended = batch.step()
        except EftError as error:
            answers.update({question: ("", error) for question in asked if question not in answers})
            break
        for answer in ended:
            reply = answer.reply
            answers[answer.tag] = ("", reply) if isinstance(reply, EftError) else (reply.text, None)
    batch.close()
    if not began:
        began = time.monotonic()
        host.hit(kind)
    return Found(time.monotonic() - began, answers)


def _judged(kind: str, text: str, wanted: str, error: EftError | None) -> str:
    """What became of an answer, in words; what must not be begins with WRONG."""
    if error is None:
        return "the whole answer" if text == wanted else "WRONG: a whole answer that is another one"
    if not wanted.startswith(text) or "\n" in error.message:
        return "WRONG: the text so far, or more than one line"
    if kind in ("pause", "restart"):
        return f"WRONG: {error}"
    if kind in OTHERS and "another model" not in error.message:
        return f"WRONG: {error}"
    return f"one line: {_DIGITS.sub('N', error.message)}"


def _refused(emulator: Emulator, question: str, text: str, host: Host) -> str:
    """What became of an answer that was to go on with the other model, in words."""
    host.started()
    try:
        found = _gone_on(emulator, question, text, EftError(""))
    except EftError as error:
        return f"then {_DIGITS.sub('N', error.message)}" if "another model" in error.message else f"WRONG: then {error}"
    return f"WRONG: it went on with the other model: {found!r}"


def _gone_on(emulator: Emulator, question: str, text: str, error: EftError | None) -> str:
    """The text of the answer after it went on, as /continue does; of a batch, it is run again."""
    if error is None:
        return text
    if not text:
        return emulator.generate(question).text
    return text + emulator.generate([Message("user", question), Message("assistant", text)]).text


if __name__ == "__main__":
    raise SystemExit(main())
