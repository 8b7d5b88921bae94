"""What the server counts, and its text for Prometheus."""

import time
from collections import Counter, deque
from typing import Final

from eftlocal.decoding.generation import Reply

__all__ = ["Metrics"]

WINDOW: Final = 60.0  # seconds over which tokens per second are counted


class Metrics:
    """Counts since the start. The owner's thread counts answers, the event loop's thread counts requests."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # (path, status)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.guesses = 0
        self.hits = 0
        self.first_tokens = 0  # answers that had a first token
        self.first_seconds = 0.0  # and how long they waited for it, together
        self.running = 0  # answers that have a place
        self.waiting = 0  # answers that wait for a place
        self.open = 0  # requests that have not ended
        self._recent: deque[tuple[float, int]] = deque()  # (when an answer ended, its tokens)

    def answered(self, reply: Reply) -> None:
        """Count an answer that has ended."""
        self.completion_tokens += len(reply.tokens)
        self.cached_tokens += reply.cached_tokens
        self.guesses += len(reply.hits)
        self.hits += sum(reply.hits)
        if reply.ttft_s is not None:
            self.first_tokens += 1
            self.first_seconds += reply.ttft_s
        self._recent.append((time.monotonic(), len(reply.tokens)))
        self._forget()

    def _forget(self) -> None:
        while self._recent and self._recent[0][0] < time.monotonic() - WINDOW:
            self._recent.popleft()

    def text(self) -> str:
        """All counts in Prometheus' text format."""
        self._forget()
        lines = list[str]()

        def tell(name: str, kind: str, text: str, *values: tuple[str, float]) -> None:
            lines.extend((f"# HELP eftlocal_{name} {text}", f"# TYPE eftlocal_{name} {kind}"))
            lines.extend(f"eftlocal_{name}{labels} {value}" for labels, value in values)

        requests = [(f'{{path="{path}",status="{n}"}}', count) for (path, n), count in sorted(self.requests.items())]
        tell("requests_total", "counter", "Requests that were answered.", *requests)
        tell("prompt_tokens_total", "counter", "Tokens of prompts.", ("", self.prompt_tokens))
        tell("cached_tokens_total", "counter", "Tokens of prompts that caches held.", ("", self.cached_tokens))
        tell("completion_tokens_total", "counter", "Tokens of answers.", ("", self.completion_tokens))
        tell("requests_open", "gauge", "Requests that run or wait.", ("", self.open))
        tell("answers_running", "gauge", "Answers that are being read or decoded.", ("", self.running))
        tell("answers_waiting", "gauge", "Answers that wait for a place.", ("", self.waiting))
        recent = round(sum(n for _, n in self._recent) / WINDOW, 3)
        tell("tokens_per_second", "gauge", "Tokens of answers that ended in the last minute.", ("", recent))
        tell("draft_guesses_total", "counter", "Tokens that were guessed by drafts.", ("", self.guesses))
        tell("draft_hits_total", "counter", "Guesses that were right.", ("", self.hits))
        share = self.hits / self.guesses if self.guesses else 0.0
        tell("draft_acceptance", "gauge", "Share of the guesses that were right.", ("", share))
        tell("time_to_first_token_seconds_sum", "counter", "Seconds to the first tokens.", ("", self.first_seconds))
        tell("time_to_first_token_seconds_count", "counter", "Answers with a first token.", ("", self.first_tokens))
        return "\n".join(lines) + "\n"
