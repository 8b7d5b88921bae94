"""The desk of one emulator: the requests that it answers, and their answers in its scheduler."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from eftlocal.apps.serve.mailbox import Began, Entry, Failed, Letter, Mailbox, News, Top
from eftlocal.apps.serve.metrics import Metrics
from eftlocal.decoding.generation import Generation
from eftlocal.decoding.logprobs import TokenLogprobs
from eftlocal.emulation.batch import Job
from eftlocal.emulation.emulator import Emulator, Ids, Prompt
from eftlocal.errors import ContextError, DecodeError, EftError

__all__ = ["Desk", "Task"]

SHARE: Final = 0.5  # of a step, for a long prompt while other clients' answers decode
COUNTED: Final = 1 << 18  # bytes of a prompt whose tokens are counted in any case


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """The work of one request: an answer to each job.

    model      the emulator's name
    jobs       what to answer; the place of a job is the index of its answer
    mailbox    where the news go
    streaming  whether to tell each new text, or only the ends
    echo       whether to tell the prompts' texts
    """

    model: str
    jobs: Sequence[Job]
    mailbox: Mailbox
    streaming: bool = False
    echo: bool = False


@dataclass(slots=True, eq=False)
class _Open:
    """A task that has not ended."""

    task: Task
    waiting: deque[int] = field(default_factory=deque)  # answers that have not begun
    running: dict[Generation, int] = field(default_factory=dict)  # answer -> its index
    told: dict[Generation, int] = field(default_factory=dict)  # answer -> how many of its entries were told


class _Post(NamedTuple):
    mailbox: Mailbox
    letter: Letter


class Desk:
    """Answers the tasks of one emulator, `parallel` answers at a time. It belongs to the owner's thread."""

    def __init__(self, emulator: Emulator, parallel: int, metrics: Metrics) -> None:
        self.emulator = emulator
        self.parallel = parallel
        self._metrics = metrics
        self._scheduler = emulator.scheduler(share=SHARE)
        self._open: dict[Task, _Open] = {}  # in the order in which they came
        self._of: dict[Generation, _Open] = {}

    def __len__(self) -> int:
        """How many tasks have not ended."""
        return len(self._open)

    @property
    def working(self) -> bool:
        """Whether a step has something to do."""
        return bool(self._scheduler) or bool(self._open)

    @property
    def n_running(self) -> int:
        """How many answers are in the scheduler."""
        return len(self._of)

    @property
    def n_waiting(self) -> int:
        """How many answers have not begun."""
        return sum(len(opened.waiting) for opened in self._open.values())

    def add(self, task: Task) -> None:
        """Add a task. It takes part from the next step on."""
        self._open[task] = _Open(task, deque(range(len(task.jobs))))

    def cancel(self, task: Task) -> bool:
        """End a task: its answers end at the next step, and nobody is told. Returns whether it was here."""
        if (opened := self._open.pop(task, None)) is None:
            return False
        for generation in opened.running:
            del self._of[generation]
            self._scheduler.cancel(generation)
        return True

    def step(self) -> list[_Post]:
        """Begin answers, run one step for all of them, and return the letters to deliver."""
        posts = list(self._begin())
        for generation, text in self._scheduler.step():
            if (opened := self._of.get(generation)) is not None:
                posts += self._tell(opened, generation, text)
        return posts

    def fail(self, error: EftError) -> list[_Post]:
        """End all tasks with this error. Returns the letters to deliver."""
        posts = [_Post(task.mailbox, Failed(error)) for task in self._open]
        self._open.clear()
        self._of.clear()
        self._scheduler.close()
        self._scheduler = self.emulator.scheduler(share=SHARE)
        return posts

    def close(self) -> None:
        """Drop all tasks and free the emulator."""
        self._scheduler.close()
        self.emulator.close()

    def _begin(self) -> Iterator[_Post]:
        """Prepare answers, in turn one of each task, and give them to the scheduler.

        A task has at most `parallel` answers there, so that one with a thousand prompts does not hold up the others.
        """
        more = True
        while more:
            more = False
            for opened in list(self._open.values()):
                if opened.waiting and len(opened.running) < self.parallel:
                    yield self._prepare(opened, opened.waiting.popleft())
                    more = True

    def _prepare(self, opened: _Open, index: int) -> _Post:
        task, job = opened.task, opened.task.jobs[index]
        try:
            self._must_be_able_to_fit(job)
            generation = self.emulator.prepare(job)
        except EftError as error:
            return self._failed(opened, error)
        except Exception as error:  # a template's or a schema's, such as RecursionError: it ends only this request
            return self._failed(opened, DecodeError(f"{type(error).__name__} while the prompt was prepared."))
        self._scheduler.add(generation)
        self._of[generation] = opened
        opened.running[generation], opened.told[generation] = index, 0
        prompt = next(iter(generation.prompts.values()))
        self._metrics.prompt_tokens += len(prompt)
        text, hidden = self._texts(job.prompt, prompt) if task.echo else ("", "")
        return _Post(task.mailbox, Began(index, prompt, text, hidden))

    def _must_be_able_to_fit(self, job: Job) -> None:
        """Raises ContextError for a prompt that fits in no way: to read its many tokens would keep others waiting."""
        if isinstance(job.prompt, Ids):
            if len(job.prompt) >= self.emulator.context:
                raise ContextError("The prompt is too long.", n_tokens=len(job.prompt), n_ctx=self.emulator.context)
            return
        texts = [job.prompt] if isinstance(job.prompt, str) else job.prompt
        n_bytes = sum(len((text if isinstance(text, str) else text.content).encode()) for text in texts)
        least = n_bytes // self.emulator.tokenizer.longest
        if n_bytes > COUNTED and least >= self.emulator.context:
            raise ContextError("The prompt is too long.", n_tokens=least, n_ctx=self.emulator.context)

    def _texts(self, prompt: Prompt, ids: list[int]) -> tuple[str, str]:
        """The prompt's text, and that of a BOS token before it."""
        tokenizer = self.emulator.tokenizer
        if not isinstance(prompt, str):
            return tokenizer.text_of(ids), ""
        return str(prompt), tokenizer.text_of(ids[:1]) if tokenizer.is_control(ids[0]) else ""

    def _failed(self, opened: _Open, error: EftError) -> _Post:
        self.cancel(opened.task)
        return _Post(opened.task.mailbox, Failed(error))

    def _tell(self, opened: _Open, generation: Generation, text: str) -> Iterator[_Post]:
        if generation.error is not None:
            yield self._failed(opened, generation.error)
            return
        news = News(opened.running[generation])
        if opened.task.streaming or generation.ended:
            news.entries = self._entries(generation, opened.told[generation])
            opened.told[generation] += len(news.entries)
            news.text = text if opened.task.streaming else generation.reply.text
        if generation.ended:
            news.end = None if generation.end_logprobs is None else self._entry(generation.end_logprobs)
            news.reply = generation.reply
            self._metrics.answered(news.reply)
            del self._of[generation], opened.running[generation], opened.told[generation]
            if not opened.running and not opened.waiting:
                del self._open[opened.task]
        if news.text or news.entries or news.reply is not None:
            yield _Post(opened.task.mailbox, news)

    def _entries(self, generation: Generation, told: int) -> list[Entry]:
        """The entries from number `told` on: those of the prompt, if it is scored, and then those of the answer."""
        found = list[Entry]()
        if generation.score_prompt:
            if not told:
                first = next(iter(generation.prompts.values()))[0]
                found.append(Entry(first, self.emulator.tokenizer.bytes_of(first), None, ()))
            found += map(self._entry, generation.prompt_logprobs[max(0, told - 1) :])
            told = max(0, told - 1 - len(generation.prompt_logprobs))
        return [*found, *map(self._entry, generation.logprobs[told:])]

    def _entry(self, place: TokenLogprobs) -> Entry:
        data = self.emulator.tokenizer.bytes_of
        top = tuple(Top(other.id, data(other.id), other.logprob) for other in place.top)
        return Entry(place.id, data(place.id), place.logprob, top)
