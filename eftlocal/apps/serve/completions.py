"""POST /v1/completions: from texts or token ids to jobs, and from answers to OpenAI's objects, with exact scores."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, cast

from eftlocal.apps.serve import requests
from eftlocal.apps.serve.answering import Answered, Answering, finish_reason, unknown
from eftlocal.apps.serve.entries import completion_entries
from eftlocal.apps.serve.errors import invalid
from eftlocal.apps.serve.mailbox import Began, Entry, News
from eftlocal.apps.serve.service import Service
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.batch import Job
from eftlocal.emulation.emulator import Ids, Prompt, Raw
from eftlocal.emulation.from_json import kind, whole
from eftlocal.errors import EftError

__all__ = ["answer"]

DEFAULT_TOKENS: Final = 16  # OpenAI's default of max_tokens here
VIEWS: Final = ("raw", "own")


class _Wanted(NamedTuple):
    """What the responses show, and how."""

    n: int  # answers to show for each prompt
    of: int  # answers to generate for each prompt; the likeliest are shown
    echo: bool
    logprobs: int | None
    scored: bool  # the prompt's tokens have log-probabilities, too
    only_prompt: bool  # max_tokens is 0
    views: str


def answer(service: Service, body: Mapping[str, object]) -> Answering:
    """The response to the body of a request. Raises Refused."""
    common = requests.common(body)
    requests.unmet(body, "suffix")
    wanted = _wanted(body, common)
    prompts = _prompts(body.get("prompt"), wanted)
    if len(prompts) * wanted.of > requests.MAX_ANSWERS:
        raise invalid(f"The request asks for more than {requests.MAX_ANSWERS} answers", "prompt")
    dials: Dials = {"max_tokens": DEFAULT_TOKENS, **common.dials}
    if wanted.only_prompt:
        dials["max_tokens"] = 1  # what follows the prompt is thrown away
    n_answer = 0 if wanted.only_prompt else dials["max_tokens"]
    if wanted.logprobs is not None or wanted.of > wanted.n:
        dials["logprobs"] = wanted.logprobs or 0
    model = service.dialled(common.model)
    dials = cast(Dials, {**dials, **model.dials})
    jobs = [
        Job(prompt, dials, (0, sample), score_prompt=wanted.scored)  # each prompt draws as if it were alone
        for prompt in prompts
        for sample in range(wanted.of)
    ]
    form = _Form(common.model or model.name, wanted, n_answer)
    return Answering(service, model.name, jobs, form, common.stream, echo=wanted.echo)


def _wanted(body: Mapping[str, object], common: requests.Common) -> _Wanted:
    n = common.n
    of = requests.choices(body, "best_of", n)
    if of < n:
        raise invalid(f"best_of is {of}, and n is {n}; it must be at least n", "best_of")
    if of > n and common.stream.on:
        raise invalid("best_of cannot be streamed", "best_of")
    echo = requests.field(body, "echo", requests.flag, False)
    logprobs = requests.field(body, "logprobs", _logprobs, None)
    only_prompt = common.dials.get("max_tokens") == 0
    if only_prompt and not echo:
        raise invalid("max_tokens is 0, which works only with echo", "max_tokens")
    views = requests.field(body, "views", _views, "raw")
    scored = echo and logprobs is not None
    if scored and views == "own":
        problem = 'views is "own", and members then see different tokens, so a prompt cannot be scored'
        raise invalid(problem + '; use "raw", or leave out echo or logprobs', "views")
    return _Wanted(n, of, echo, logprobs, scored, only_prompt, views)


def _logprobs(name: str, value: object) -> int:
    number = whole(name, value)
    Settings().turned(logprobs=number)
    return number


def _views(name: str, value: object) -> str:
    if value not in VIEWS or not isinstance(value, str):
        raise EftError(f"{name} is {kind(value)}; it must be raw or own")
    return value


def _prompts(value: object, wanted: _Wanted) -> list[Prompt]:
    """The prompts: a text, texts, token ids, or lists of token ids. Raises Refused."""
    if isinstance(value, str):
        return [_text(value, wanted)]
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return [_text(each, wanted) for each in value]
        if all(_is_id(each) for each in value):
            return [_ids(value, wanted)]
        if all(isinstance(each, list) and each and all(map(_is_id, each)) for each in value):
            return [_ids(each, wanted) for each in value]
    found = "a list of something else" if isinstance(value, list) and value else kind(value)
    raise invalid(f"prompt is {found}; it must be a string, token ids, or a list of either", "prompt")


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(text: str, wanted: _Wanted) -> Prompt:
    return Raw(text) if wanted.views == "raw" else text


def _ids(ids: Sequence[int], wanted: _Wanted) -> Prompt:
    if wanted.views == "own":
        raise invalid('prompt is token ids, and views is "own"; each member then needs a text', "prompt")
    return Ids(ids)


class _Form:
    """Writes text_completion objects."""

    where = "prompt"

    def __init__(self, model: str, wanted: _Wanted, n_answer: int) -> None:
        self.model = model
        self.samples = wanted.of
        self.n_answer: int | None = n_answer
        self._wanted = wanted
        self._began: dict[int, Began] = {}
        self._offsets: dict[int, int] = {}  # index -> characters before its next entry
        self._echoed: set[int] = set()  # answers whose scored prompt was sent
        self._head: dict[str, object] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "views": wanted.views,
        }

    def fingerprint(self, fingerprint: str) -> None:
        self._head["system_fingerprint"] = fingerprint

    def whole(self, answers: Sequence[Answered], usage: dict[str, object]) -> dict[str, object]:
        of, n = self._wanted.of, self._wanted.n
        shown = list[Answered]()
        for first in range(0, len(answers), of):
            candidates = answers[first : first + of]
            shown += candidates if of == n else sorted(candidates, key=_likelihood, reverse=True)[:n]
        return {**self._head, "choices": [self._choice(i, each) for i, each in enumerate(shown)], "usage": usage}

    def _choice(self, index: int, answered: Answered) -> dict[str, object]:
        text, entries, reason = self._shown(answered.news, answered.began)
        logprobs = None if self._wanted.logprobs is None else completion_entries(entries, self._start(answered.began))
        text = answered.began.text + text if self._wanted.echo else text
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason, **unknown(answered.news)}

    def _shown(self, news: News, began: Began) -> tuple[str, list[Entry], str | None]:
        """What the response shows of some news: the text, the entries and the finish reason."""
        if self._wanted.only_prompt:
            return "", news.entries[: len(began.prompt)], None if news.reply is None else "length"
        return news.text, [*news.entries, *([] if news.end is None else [news.end])], finish_reason(news)

    def _start(self, began: Began) -> int:
        """Where the first entry's token starts in the text: before it, if the text does not show it (BOS)."""
        return -len(began.hidden) if self._wanted.scored else len(began.text) if self._wanted.echo else 0

    def chunks(self, letter: Began | News) -> Iterator[dict[str, object]]:
        if isinstance(letter, Began):
            self._began[letter.index] = letter
            self._offsets[letter.index] = self._start(letter)
            if self._wanted.echo and not self._wanted.scored:
                yield self._chunk(letter.index, letter.text, [])
            return
        began = self._began[letter.index]
        text, entries, reason = self._shown(letter, began)
        if self._wanted.scored and letter.index not in self._echoed:  # the prompt's text comes with its entries
            self._echoed.add(letter.index)
            text = began.text + text
        if text or entries:
            yield self._chunk(letter.index, text, entries)
        if reason is not None:
            yield self._chunk(letter.index, "", [], reason, unknown(letter))

    def last(self, usage: dict[str, object]) -> dict[str, object]:
        return {**self._head, "choices": [], "usage": usage}

    def _chunk(
        self,
        index: int,
        text: str,
        entries: Sequence[Entry],
        reason: str | None = None,
        more: Mapping[str, object] = {},
    ) -> dict[str, object]:
        logprobs = None
        if self._wanted.logprobs is not None and entries:
            logprobs = completion_entries(entries, self._offsets[index])
            self._offsets[index] += sum(len(entry.data.decode("utf-8", "ignore")) for entry in entries)
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason, **more}
        return {**self._head, "choices": [choice]}


def _likelihood(answered: Answered) -> float:
    """The mean log-probability of an answer's tokens, by which best_of chooses. The token that ends it counts."""
    news = answered.news
    entries = news.entries[-len(news.reply.tokens) :] if news.reply is not None and news.reply.tokens else []
    own = [entry.logprob or 0.0 for entry in (*entries, *([] if news.end is None else [news.end]))]
    return sum(own) / len(own) if own else 0.0
