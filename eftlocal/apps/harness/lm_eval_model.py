"""An emulator as a model of lm-evaluation-harness. Only this module and run.py import `lm_eval`.

The harness gives texts. Without a chat template every member reads the same tokens, as with `eftlocal score --raw`.
With `--apply_chat_template` each member reads the conversation by its own view, as in the chat: the harness carries it
as a text (`Rendered`), which keeps its messages.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from eftlocal.decoding.settings import Dials
from eftlocal.emulation.emulator import SCORED_AT_ONCE, Emulator, Ids, Job
from eftlocal.emulation.prompts import Prompt
from eftlocal.errors import EftError, SettingError
from eftlocal.runs.fingerprint import models
from eftlocal.runtime.views import Message
from eftlocal.text import printable

__all__ = ["EmulatorLM", "Rendered"]

MAX_TOKENS: Final = 256  # of an answer, where the task says nothing: the harness's own default
NAMES: Final = {  # the harness's names of settings -> ours
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty", "seed")},
    "repetition_penalty": "repeat_penalty",
}
NEUTRAL: Final[Dials] = {  # the sampling of a task that says nothing; the emulator's own is for a chat
    **{"seed": 1234, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0},
    **{"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
}
KNOWN: Final = {"until", "max_gen_toks", "do_sample"}

log = logging.getLogger(__name__)

Request = tuple[tuple[str, str] | None, list[int], list[int]]


class Rendered(str):
    """A conversation as the harness carries it: the tuned model's view of it as text, with its messages."""

    messages: tuple[Message, ...]

    def __new__(cls, text: str, messages: tuple[Message, ...]) -> "Rendered":
        made = super().__new__(cls, text)
        made.messages = messages
        return made

    def __reduce__(self) -> tuple[type["Rendered"], tuple[str, tuple[Message, ...]]]:
        return Rendered, (str(self), self.messages)  # the harness keeps requests in files (--cache_requests)


class EmulatorLM(TemplateLM):
    """An emulator for `lm_eval.simple_evaluate`. `dials` change its settings in each request.

    `parallel` requests run at a time; None: as many as suit this machine. With 1, log-likelihoods of quantized models
    are those of a single score, too: llama.cpp computes several rows with other kernels. The emulator stays the
    caller's: close it when the harness is done.
    """

    def __init__(self, emulator: Emulator, dials: Dials | None = None, *, parallel: int | None = None) -> None:
        """Raises SettingError for dials that the emulator does not have."""
        super().__init__()
        self._emulator = emulator
        self._dials: Dials = dials or {}
        emulator.mix(emulator.settings.turned(**self._dials))
        self._parallel = parallel
        self._told: set[str] = set()

    # --- what the harness asks about the model ------------------------------------------------------------------------

    @property
    def max_length(self) -> int:
        """The most tokens that a completion may come after, with its own: one place is left for what they predict."""
        return self._emulator.context - 1

    @property
    def eot_token_id(self) -> int:
        """The id of the token that ends a text. Raises EftError if the models have none."""
        return self._special("eos", "bos")

    @property
    def prefix_token_id(self) -> int:
        """The id of the token before a text without a context: the beginning of a text, else its end."""
        return self._special("bos", "eos")

    def _special(self, *names: str) -> int:
        ids = self._emulator.tokenizer.special_ids
        found = next((ids[name] for name in names if name in ids), None)
        if found is None:
            raise EftError("The models name no token that begins or ends a text; the harness needs one.")
        return found

    @property
    def tokenizer_name(self) -> str:
        """What the harness's caches of requests belong to: the vocabulary and the views."""
        return f"eftlocal-{self._emulator.vocabulary}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """The token ids of a text, as transformers give them: names of control tokens are these tokens."""
        bos = add_special_tokens is None or add_special_tokens
        ids = self._emulator.tokenizer.encode(string, controls=True, bos=bos)
        return ids[1:] if bos and len(ids) > 1 and ids[0] == ids[1] == self.prefix_token_id else ids

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that results name: that of the tuned model's view."""
        members = self._emulator.members
        role = next((role for role in members.roles if role.endswith("tuned")), "base")
        return members.views[members.roles[role]].template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as a text that keeps its messages. A last answer stays open. Raises ViewError."""
        messages = tuple(Message(turn["role"], turn["content"]) for turn in chat_history)
        ids = self._emulator.render(messages, **self._dials)
        role = next((role for role in ids if role.endswith("tuned")), next(iter(ids)))
        return Rendered(self._emulator.tokenizer.text_of(ids[role]), messages)

    def get_model_info(self) -> dict[str, object]:
        """What the harness's results say of the model: its files with fingerprints, and the rewards' strengths."""
        emulator = self._emulator
        settings = emulator.settings.turned(**self._dials)
        return {
            "eftlocal": {
                "emulator": emulator.name,
                "alone": settings.alone,
                "beta": settings.beta,
                "mix": {**emulator.betas, **settings.mix},
                "reward_top_p": settings.reward_top_p,
                "kv_type": emulator.kv_type,
                "context": emulator.context,
                "models": models(emulator.members.specs, emulator.members.views),
            }
        }

    # --- likelihoods --------------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **_: object
    ) -> list[tuple[float, bool]]:
        """For each request: the log-probability of its completion, and whether each token is the likeliest.

        Requests that begin alike are scored one after the other, so that what they share is computed once.
        """
        order = sorted(range(len(requests)), key=lambda i: requests[i][1:])
        found: dict[int, tuple[float, bool]] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            at_once = min(SCORED_AT_ONCE, self._parallel or SCORED_AT_ONCE)
            for start in range(0, len(order), at_once):
                group = order[start : start + at_once]
                pairs = [(*self._pair(requests[i]), self._dials) for i in group]
                for i, likelihood in zip(group, self._emulator.likelihoods(pairs), strict=True):
                    if isinstance(likelihood, EftError):
                        raise likelihood
                    found[i] = likelihood
                    if (texts := requests[i][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", texts, found[i])
                bar.update(len(group))
        return [found[i] for i in range(len(requests))]

    def _pair(self, request: Request) -> tuple[Prompt, str | list[int]]:
        """A prompt and what is scored after it. A text that is too long loses its beginning, as in the harness."""
        texts, context, completion = request
        if texts is not None and isinstance(texts[0], Rendered):
            return texts[0].messages, texts[1]
        return Ids(self._fitting(context, self.max_length + 1 - len(completion))), completion

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text: in windows of the whole context, each token once."""
        windows: list[Request] = []
        of: list[int] = []  # for each window: its request
        for i, request in enumerate(requests):
            pairs = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            found = [(None, *make_disjoint_window(pair)) for pair in pairs]
            windows += found
            of += [i] * len(found)
        sums = [0.0] * len(requests)
        for i, (logprob, _) in zip(of, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            sums[i] += logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    # --- answers ------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each request, without thoughts, and without the text that ended it.

        Nothing but the task's settings counts: it is greedy if the task does not say that it samples.
        """
        found: dict[int, str] = {}
        order = sorted(range(len(requests)), key=lambda i: str(requests[i].args[0]))
        jobs = (self._job(i, *requests[i].args[:2]) for i in order)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for answer in self._emulator.answers(jobs, parallel=self._parallel):
                if isinstance(answer.reply, EftError):
                    raise answer.reply
                found[answer.tag] = answer.reply.answer
                self.cache_hook.add_partial("generate_until", requests[answer.tag].args, found[answer.tag])
                bar.update()
        return [found[i] for i in range(len(requests))]

    def _job(self, number: int, context: str, given: Mapping[str, Any]) -> Job:
        wanted = normalize_gen_kwargs(dict(given), MAX_TOKENS)
        most = min(wanted["max_gen_toks"], self.max_length)
        if unknown := sorted(wanted.keys() - NAMES.keys() - KNOWN):
            self._tell(f"These settings of a task have no effect: {', '.join(unknown)}.")
        sampling: Any = {NAMES[name]: value for name, value in wanted.items() if name in NAMES}
        dials: Dials = {**NEUTRAL, **sampling, **self._dials, "max_tokens": most, "stop": self._stops(wanted["until"])}
        if isinstance(context, Rendered):
            return Job(context.messages, dials, number, number)
        return Job(Ids(self._fitting(self.tok_encode(context), self._emulator.context - most)), dials, number, number)

    def _stops(self, until: Iterable[str]) -> list[str]:
        """The stop strings. One that holds a control token and other text never matches anything, and is left out."""
        tokenizer, kept = self._emulator.tokenizer, []
        for stop in filter(None, until):
            ids = tokenizer.encode(stop, controls=True)
            if len(ids) > 1 and any(map(tokenizer.is_control, ids)):
                self._tell(f"The stop string {stop!r} never occurs in a text, and has no effect.")
            else:
                kept.append(stop)
        return kept

    def _fitting(self, tokens: list[int], room: int) -> list[int]:
        """The last `room` tokens."""
        if len(tokens) > room:
            self._tell(
                f"Prompts lose their beginning where they do not fit in the context of {self.max_length} tokens."
            )
        return tokens[-max(1, room) :]

    def _tell(self, text: str) -> None:
        """Tell something once."""
        if text not in self._told:
            self._told.add(text)
            log.warning(printable(text))


@register_model("eftlocal")
class FromCommandLine(EmulatorLM):
    """The model that `eftlocal lm-eval` hands to the harness's command line. The harness makes it, from strings."""

    load: ClassVar[Callable[[], Emulator]]
    role: ClassVar[str | None] = None

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "FromCommandLine":
        """Load the emulator. `--batch_size N` says how many requests run at a time. Raises SettingError."""
        size = str((additional_config or {}).get("batch_size", "auto"))
        if not size.isdecimal() and not size.startswith("auto"):
            raise SettingError(f"--batch_size is {size!r}; it must be a whole number or auto.")
        dials: Dials = {} if cls.role is None else {"alone": cls.role}
        return cls(cls.load(), dials, parallel=int(size) if size.isdecimal() else None)
