"""A scripted emulator with the public methods of the real one; `python -m tests.apps.fake` runs the chat over it."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from eftlocal.apps.chat.record import opened
from eftlocal.apps.chat.repl import chat
from eftlocal.arithmetic.bias import Bias
from eftlocal.catalog import models
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Settings
from eftlocal.decoding.thinking import START, Splitter
from eftlocal.emulation.batch import Job
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.prompts import Ids
from eftlocal.emulation.scoring import Score, ScoredToken
from eftlocal.errors import CatalogError, ContextError, EftError, SettingError
from eftlocal.runtime.remote import troubles
from eftlocal.runtime.views import Message

END = 9999  # the token that ends an answer
WORDS = re.compile(r"\s*\S+|\s+$")


@dataclass
class FakeStream:
    """The deltas of one scripted answer, a word each, and the reply up to the last delta that was read."""

    owner: FakeEmulator
    words: list[str]
    settings: Settings
    prompt_tokens: int
    cancelled: Callable[[], bool]
    stuck: bool = False
    given: int = 0
    reason: str = "cancelled"
    place: str = START

    def __iter__(self) -> Iterator[str]:
        for word in self.words:
            if self.cancelled():
                return
            if self.given >= self.settings.max_tokens or self.prompt_tokens + self.given >= self.owner.context:
                self.reason = "length" if self.given >= self.settings.max_tokens else "context"
                return
            time.sleep(self.owner.delay)
            if word.strip() == "[away]":
                _away()
            self.given += 1
            yield word
        if self.stuck:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # as llama_decode: C code without Python's lock
        self.reason = "stop"

    def splitter(self) -> Splitter:
        return Splitter(self.place)

    @property
    def n_tokens(self) -> int:
        return self.given

    @property
    def reply(self) -> Reply:
        return Reply(
            place=self.place,
            text="".join(self.words[: self.given]),
            tokens=tuple(self.owner.ids(self.words[: self.given])),
            finish_reason=cast(Any, self.reason),
            stopped_by=None,
            seed=self.settings.seed or 0,
            beta=self.settings.beta,
            prompt_tokens={"base": self.prompt_tokens},
            ttft_s=0.01,
            tokens_per_s=50.0,
            kept=self.given,
            end_token=END if self.reason == "stop" else None,
        )


def _away() -> None:
    """A member's thread asks its server, which is away for a second."""

    def ask() -> None:
        with troubles.Request("http://127.0.0.1:8080") as request:
            request.asks_again("http://127.0.0.1:8080 does not answer.")
            time.sleep(1)
            request.answered = True

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()


@dataclass(eq=False)
class FakeGeneration:
    """One scripted answer in a scheduler."""

    stream: FakeStream
    error: EftError | None = None
    ended: bool = False
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.stream.cancelled = lambda: self.cancelled
        self.deltas = iter(self.stream)

    @property
    def reply(self) -> Reply:
        return self.stream.reply

    def splitter(self) -> Splitter:
        return self.stream.splitter()

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.reply.tokens

    @property
    def finish_reason(self) -> str | None:
        return self.reply.finish_reason if self.ended else None


class FakeScheduler:
    """Gives each of the first `places` answers that have not ended one word a step."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._answers: list[FakeGeneration] = []

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answer: FakeGeneration) -> None:
        self._answers.append(answer)

    def drop(self, answer: FakeGeneration) -> None:
        if answer in self._answers:
            self._answers.remove(answer)

    def cancel(self, answer: FakeGeneration) -> None:
        answer.cancelled = True

    def step(self) -> list[tuple[FakeGeneration, str]]:
        deltas = []
        for answer in list(self._answers):
            if answer.cancelled or self._answers.index(answer) < self._places:
                word = next(answer.deltas, None)
                if (word or "").strip() == "[away]" and self._answers.index(answer) == 0:
                    _away()
                answer.ended = word is None
                deltas.append((answer, word or ""))
        self._answers = [answer for answer in self._answers if not answer.ended]
        return deltas

    def close(self) -> None:
        self._answers.clear()


class FakeEmulator:
    """Answers the last message by a script, and repeats a message that the script does not know.

    lines N, list N, code N, para N   N marked lines, of this kind of Markdown
    say TEXT                          TEXT; before the word [away], the server of a member is away for a second
    empty                             an empty answer; after the answer "done" nothing follows either
    stuck TEXT                        a few words, and then nothing for minutes
    count                             the number of the message's lines
    loop TEXT                         TEXT, and the base repeats it without end
    think N TEXT                      N marked lines of thoughts, and TEXT
    evil thoughts                     thoughts with a sequence that would set the terminal's title
    each                              for each role another number of lines
    """

    def __init__(self, name: str | None = None, *, delay: float = 0.0, context: int = 8000) -> None:
        if name not in (None, "fake", "other"):
            raise CatalogError(f'no emulator is named "{name}"', "`eftlocal list` shows every name")
        self.name = name or "fake"
        self.settings = Settings(max_tokens=3000)
        self.load_s = 0.1
        self.context = context
        self.notes: tuple[str, ...] = ()
        self.delay = delay
        self.betas: Mapping[str, float] = {"helpful": 1.0, "brief": 0.5}
        self.biases: Mapping[str, Bias] = {}
        self.roles = ("base", "helpful.tuned", "helpful.reference", "brief.tuned", "brief.reference")
        self.fed_tokens: Mapping[str, int] = {"base": 7}
        self.members = SimpleNamespace(
            system=None, rewards=(), views=(), roles={role: i for i, role in enumerate(self.roles)}
        )
        self.vocabulary = f"words of {self.name}"
        self.prompts: list[tuple[list[Message], Settings]] = []  # all prompts so far
        self.closed = False
        self.tokenizer = SimpleNamespace(text_of=lambda ids: "<|end|>")
        self.places = 8  # answers that decode at a time
        self._ids: dict[str, int] = {}

    def ids(self, words: Sequence[str]) -> list[int]:
        return [self._ids.setdefault(word, len(self._ids)) for word in words]

    def mix(self, settings: Settings) -> object:
        for name in settings.mix:
            if name not in self.betas:
                raise SettingError(f"There is no reward named {name!r}.", f"Rewards: {', '.join(self.betas)}.")
        return object()

    def count(self, prompt: str | Sequence[Message], **dials: Any) -> dict[str, int]:
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        return {"base": sum(len(m.content.split()) + 1 for m in messages)}

    def stream(
        self, prompt: str | Sequence[Message], *, cancelled: Callable[[], bool] | None = None, **dials: Any
    ) -> FakeStream:
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        settings = self.settings.turned(**dials)
        self.prompts.append((messages, settings))
        length = self.count(messages)["base"]
        if length >= self.context:
            raise ContextError(f"The prompt is {length} tokens long, and the context holds {self.context}.")
        words = WORDS.findall(self._answer(messages, settings))
        splitter = Splitter()
        if messages[-1].role == "assistant":
            splitter.push(messages[-1].content)
        stuck = messages[-1].content.startswith("stuck ")
        return FakeStream(self, words, settings, length, cancelled or (lambda: False), stuck, place=splitter.place)

    def _answer(self, messages: Sequence[Message], settings: Settings) -> str:
        if messages[-1].role == "assistant":
            return "" if messages[-1].content == "done" else " and so on"
        text = messages[-1].content
        if found := re.fullmatch(r"(lines|list|code|para) (\d+)", text):
            body = {"lines": "m{0:04} of the lines", "list": "- m{0:04} **of** the list", "code": "m{0:04} = f(x)"}
            form = body.get(found[1], "m{0:04} **word** 漢字")
            lines = [form.format(i) for i in range(int(found[2]))]
            joined = (" " if found[1] == "para" else "\n").join(lines)
            return f"```python\n{joined}\n```" if found[1] == "code" else joined
        if text.startswith("say "):
            return text[4:]
        if text.startswith("loop "):
            return f"{text[5:]} " * (300 if settings.alone == "base" else 1)
        if text == "evil thoughts":
            return "<think>\nab\x1b]0;evil\x07cd\n</think>\n\nSo."
        if found := re.fullmatch(r"think (\d+) (.*)", text):
            thoughts = "\n".join(f"t{i:04} of the thoughts" for i in range(int(found[1])))
            return f"<think>\n{thoughts}\n</think>\n\n{found[2]}"
        if text == "each":
            name = settings.alone or "emulated"
            return "\n".join(f"{name[:4]}{i:02}" for i in range(10 * len(name)))
        if text.startswith("stuck "):
            return "it has begun"
        if text == "empty":
            return ""
        if text.startswith("count"):
            return f"{text.count(chr(10)) + 1} lines"
        return f"beta {settings.beta:g} {settings.alone or 'emulated'}: {text}"

    def generate(self, prompt: Any, *, cancelled: Callable[[], bool] | None = None, **dials: Any) -> Reply:
        stream = self.stream(prompt, cancelled=cancelled, **dials)
        for _ in stream:
            pass
        return stream.reply

    def prepare(self, job: Job) -> FakeGeneration:
        assert not isinstance(job.prompt, Ids)
        return FakeGeneration(self.stream(job.prompt, **job.dials))

    def reserve(self, parallel: int | None = None) -> int:
        self.places = min(parallel or 1, self.places)
        return self.places

    def scheduler(self) -> FakeScheduler:
        return FakeScheduler(self.places)

    def score(self, prompt: Any, completion: Sequence[int], *, top: int = 0, **dials: Any) -> Score:
        texts = {i: word for word, i in self._ids.items()} | {END: ""}
        if "[away]" in {texts.get(token, "").strip() for token in completion}:
            _away()

        def scored(token: int, shift: float) -> ScoredToken:
            rewards = {name: {"tuned": -1.0, "reference": -2.0} for name in self.betas}
            return ScoredToken(id=token, text=texts.get(token, "?"), logprob=-1.0 + shift, base=-1.5, rewards=rewards)

        tokens = tuple(scored(token, i * 0.1) for i, token in enumerate(completion))
        return Score(tokens=tokens, logprob=-1.0, top=tuple((token, scored(999, 0.0)) for token in tokens))

    def close(self) -> None:
        self.closed = True


def loads(name: str | None = None, **options: Any) -> Emulator:
    """A fake emulator, typed as a real one."""
    return cast(Emulator, FakeEmulator(name, **options))


def main(arguments: list[str]) -> int:
    """Run the chat with options `KEY=VALUE`: delay, context, load (seconds), fail, and options of the chat."""
    given = SimpleNamespace(
        delay="0", context="8000", load="0", fail="", session="", last="", plain="", rolling="", history="", places="8"
    )
    for argument in arguments:
        name, _, value = argument.partition("=")
        setattr(given, name, value)

    def load(name: str | None) -> Emulator:
        time.sleep(float(given.load))
        if given.fail:
            raise CatalogError(given.fail, "do something else")
        made = FakeEmulator(name, delay=float(given.delay), context=int(given.context))
        made.places = int(given.places)
        return cast(Emulator, made)

    try:
        return chat(
            load,
            catalog=models.load(Path(given.models) if "models" in given.__dict__ else None),
            record=opened(given.session or None, last=bool(given.last), keep=given.history != "no"),
            plain=bool(given.plain),
            rolling=bool(given.rolling),
            history=given.history != "no",
        )
    except EftError as error:
        print(f"eftlocal: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
