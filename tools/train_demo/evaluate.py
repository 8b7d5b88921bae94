"""Measures the demo's models only with llama.cpp and numpy: an independent check of eftlocal's engine."""

import ctypes
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from . import corpus, phrases

Rows = NDArray[np.float32]
Mix = dict[str, float]  # member -> its weight in the sum of logits

SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)  # kept here, so that Python does not free it
MEMBERS = ("large-base", "large-tuned", "small-base", "small-tuned")
LIMIT = 32  # the most tokens of an answer


def emulated(beta: float) -> Mix:
    return {"large-base": 1.0, "small-tuned": beta, "small-base": -beta} if beta else {"large-base": 1.0}


MIXES: dict[str, Mix] = {
    "large base": {"large-base": 1.0},
    "small base": {"small-base": 1.0},
    "small tuned": {"small-tuned": 1.0},
    **{f"emulated, beta {beta:g}": emulated(beta) for beta in (0.5, 1.0, 1.5, 2.0)},
    "truly tuned large": {"large-tuned": 1.0},
    "down-scaling": {"small-base": 1.0, "large-tuned": 1.0, "large-base": -1.0},
}


class Member:
    """One GGUF file, loaded with a context for one sequence."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_log_set(SILENT, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_threads = parameters.n_threads_batch = 1
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.position = 0

    def tokens(self, text: str) -> list[int]:
        raw, room = text.encode(), (llama_cpp.llama_token * 512)()
        count = llama_cpp.llama_tokenize(self.vocabulary, raw, len(raw), room, 512, True, True)
        return list(room[:count])

    def text(self, tokens: Iterable[int]) -> str:
        room = ctypes.create_string_buffer(128)
        pieces = []
        for token in tokens:
            count = llama_cpp.llama_token_to_piece(self.vocabulary, token, room, 128, 0, False)
            pieces.append(room.raw[:count])
        return b"".join(pieces).decode(errors="replace")

    def ends(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token))

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, False)
        self.position = 0

    def feed(self, tokens: list[int]) -> Rows:
        """Decode tokens after the earlier ones. Returns their logits, (tokens, vocabulary)."""
        for i, token in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, self.position + i, 1
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, 0
        self.batch.n_tokens = len(tokens)
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        self.position += len(tokens)
        logits = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (len(tokens), self.size)).copy()


@dataclass(frozen=True, slots=True)
class Score:
    """The result of one mix on some questions.

    value    share of answers with the right value
    ended    share of answers that end by themselves
    both     share with both
    logprob  mean log-probability of the right answer with its end of turn
    """

    value: float
    ended: float
    both: float
    logprob: float


class Family:
    """The four models of a folder, and weighted sums of their logits."""

    def __init__(self, folder: Path) -> None:
        self.members = {name: Member(folder / f"{name}.gguf") for name in MEMBERS}
        self.any = self.members["small-tuned"]

    def logits(self, mix: Mix, tokens: list[int]) -> Rows:
        """Decode with the mix's members. Returns the weighted sum of their logits, (tokens, vocabulary)."""
        total = np.zeros((len(tokens), self.any.size), np.float32)
        for name, weight in mix.items():
            total += np.float32(weight) * self.members[name].feed(tokens)
        return total

    def start(self) -> None:
        for member in self.members.values():
            member.clear()

    def answer(self, mix: Mix, prompt: str, rng: np.random.Generator | None = None) -> tuple[list[int], bool]:
        """Decode greedily, or at temperature 1 with `rng`. Returns the tokens, and whether an end token came."""
        self.start()
        tokens: list[int] = []
        row = self.logits(mix, self.any.tokens(prompt))[-1]
        while True:
            token = int((row if rng is None else row + rng.gumbel(size=row.shape)).argmax())
            if self.any.ends(token):
                return tokens, True
            tokens.append(token)
            if len(tokens) == LIMIT:
                return tokens, False
            row = self.logits(mix, [token])[-1]

    def logprob(self, mix: Mix, prompt: str, answer: str) -> float:
        """The log-probability of the whole answer after the prompt."""
        self.start()
        before, after = self.any.tokens(prompt), self.any.tokens(answer)
        rows = self.logits(mix, before + after)[len(before) - 1 : -1].astype(np.float64)
        rows -= rows.max(-1, keepdims=True)
        return float((rows[np.arange(len(after)), after] - np.log(np.exp(rows).sum(-1))).sum())

    def score(self, mix: Mix, questions: list[dict[str, object]], seed: int | None = None) -> Score:
        found, ended, both, logprobs = 0, 0, 0, 0.0
        for i, asked in enumerate(questions):
            prompt = corpus.user(str(asked["question"]))
            rng = None if seed is None else np.random.default_rng((seed, i))
            tokens, end = self.answer(mix, prompt, rng)
            right = holds(self.any.text(tokens), asked["answers"])  # type: ignore[arg-type]
            found, ended, both = found + right, ended + end, both + (right and end)
            logprobs += self.logprob(mix, prompt, right_answer(asked))
        count = len(questions)
        return Score(found / count, ended / count, both / count, logprobs / count)

    def agreement(self, questions: list[dict[str, object]]) -> float:
        """The share of the tokens of the emulator's greedy answers that are the small tuned model's likeliest, too."""
        same = total = 0
        for asked in questions:
            prompt = self.any.tokens(corpus.user(str(asked["question"])))
            tokens, end = self.answer(emulated(1.0), self.any.text(prompt))
            tokens = [*tokens, 1] if end else tokens
            self.start()
            likeliest = self.any.feed(prompt + tokens)[len(prompt) - 1 : -1].argmax(-1)
            same, total = same + int((likeliest == tokens).sum()), total + len(tokens)
        return same / total


def holds(text: str, answers: list[str]) -> bool:
    """Whether the first sentence contains one of the accepted values, as whole words."""
    sentence = re.split(r"(?<=[.!?])\s|\n", text)[0]
    return any(re.search(rf"(?<![\w.,]){re.escape(a)}(?!\w)", sentence, re.IGNORECASE) for a in answers)


def right_answer(asked: dict[str, object]) -> str:
    """The right answer in the taught style, with its end of turn."""
    value, kind = str(asked["answers"][0]), str(asked["kind"])  # type: ignore[index]
    article = "the " if kind == "currency" or value in corpus.WITH_ARTICLE else ""
    return phrases.STYLE.format(v=corpus.spoken(kind, article + value)) + corpus.END_OF_TURN


def measure(folder: Path, questions: list[dict[str, object]], seed: int | None = None) -> dict[str, Score]:
    """Measure each mix on the questions, and print a table. Returns mix -> score."""
    family = Family(folder)
    scores = {}
    print(f"{len(questions)} questions, {'greedy' if seed is None else 'temperature 1'}: value / ended / both, logprob")
    for name, mix in MIXES.items():
        scores[name] = s = family.score(mix, questions, seed)
        print(f"  {name:20} {s.value:.3f} {s.ended:.3f} {s.both:.3f} {s.logprob:8.2f}", flush=True)
    small, large = scores["small tuned"].both, scores["truly tuned large"].both
    closed = (scores["emulated, beta 1"].both - small) / (large - small)
    print(f"  gap closed {closed:.3f}, agreement per token {family.agreement(questions[:100]):.3f}", flush=True)
    return scores


def load_questions(folder: Path, part: str = "questions") -> list[dict[str, object]]:
    loaded: list[dict[str, object]] = json.loads((folder / "questions.json").read_text())[part]
    return loaded
