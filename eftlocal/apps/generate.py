"""`eftlocal generate` and `eftlocal score` for one prompt: they print an answer, or log-probabilities."""

import os
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict

from eftlocal.apps.common import INTERRUPTED, print_json
from eftlocal.decoding.generation import Reply
from eftlocal.emulation.emulator import Emulator, Prompt, Raw
from eftlocal.emulation.scoring import Score
from eftlocal.emulation.stream import Stream
from eftlocal.errors import EftError, SettingError
from eftlocal.runs.ctrl_c import interruptible
from eftlocal.runtime.remote.troubles import Trouble, told
from eftlocal.runtime.views import Message
from eftlocal.text import as_unicode, printable

WAIT_S = 3.0  # seconds without the end of standard input, before that is said


def read_prompt(argument: str | None) -> tuple[str, bool]:
    """The prompt, and whether standard input has a part in it.

    A text that is piped in stands before the argument, with an empty line between them. Alone, it is the prompt, and
    `-` asks for it also at a terminal. Raises EftError if standard input is not UTF-8.
    """
    given = argument if argument not in (None, "-") else ""
    if not (argument == "-" or _is_piped()):
        return given, False
    if sys.stdin is None:
        return given, False
    piped = _read_stdin().removesuffix("\n")
    if not piped.strip():
        return given, False
    return (f"{piped.removesuffix(chr(10))}\n\n{given}" if given.strip() else piped), True


def _is_piped() -> bool:
    """Whether standard input is a text for this command.

    It is not where it is closed, a terminal or the null device; nor where it is a file that another program has begun
    to read, as in `while read line; do eftlocal generate "$line"; done < file`.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return False
    try:
        number = sys.stdin.fileno()
        kind = os.fstat(number).st_mode
        if stat.S_ISREG(kind):
            return os.lseek(number, 0, os.SEEK_CUR) == 0
    except (OSError, ValueError):  # not a file of the system
        return True
    return not stat.S_ISCHR(kind)


def _read_stdin() -> str:
    """All of standard input. Says so on stderr if it has to wait for it."""
    waits = threading.Timer(WAIT_S, print, ["eftlocal: waiting for the end of standard input"], {"file": sys.stderr})
    waits.daemon = True
    waits.start()
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise EftError(f"Standard input is not UTF-8 text (byte {error.start}).") from None
    finally:
        waits.cancel()


def as_prompt(text: str, *, system: str | None, raw: bool) -> Prompt:
    """The emulator's prompt: the text as it is (`raw`), or the system text and the text as the user's message.

    Raises SettingError for a raw prompt with a system text.
    """
    text = as_unicode(text)
    if raw and system is not None:
        raise SettingError("A raw prompt cannot have a system text.", "Leave out --system or --raw.")
    if raw:
        return Raw(text)
    return [*([Message("system", as_unicode(system))] if system is not None else []), Message("user", text)]


def generate(emulator: Emulator, prompt: Prompt, *, as_json: bool, thoughts: bool = True) -> int:
    """Print the answer to one prompt: as it decodes, or as one JSON object at the end. Returns the exit code.

    Without `thoughts`, only what it says after them is printed. JSON has both apart, beside the whole text.
    """
    with interruptible() as stop, told(_of_trouble):
        stream = emulator.stream(prompt, cancelled=stop.is_set)
        for delta in stream if thoughts else _spoken(stream):
            if not as_json:
                stop.writing = True
                sys.stdout.write(delta)
                sys.stdout.flush()
                stop.writing = False
    reply = stream.reply
    if as_json:
        print_json(_json(emulator, reply))
    elif not (reply.text if thoughts else reply.answer).endswith("\n"):
        print()
    if not thoughts and not as_json and reply.thinking and not reply.answer:
        print("(the answer ended within its thoughts; a larger --max-tokens may help)", file=sys.stderr)
    if reply.doubt is not None:
        print(f"({reply.doubt})", file=sys.stderr)
    if reply.finish_reason == "context":
        print(f"(the context of {emulator.context} tokens is full)", file=sys.stderr)
    return INTERRUPTED if reply.finish_reason == "cancelled" else 0


def _of_trouble(trouble: Trouble) -> None:
    """Tell that a server does not answer, and that it does again: on a row of its own."""
    if line := str(trouble):
        print(f"{chr(10) if sys.stdout.isatty() else ''}({printable(line)})", file=sys.stderr, flush=True)


def _spoken(stream: Stream) -> Iterator[str]:
    """The deltas of an answer without its thoughts."""
    splitter = stream.splitter()
    for delta in stream:
        yield from (part.text for part in splitter.push(delta) if not part.thinking)
    yield from (part.text for part in splitter.finish() if not part.thinking)


def _json(emulator: Emulator, reply: Reply) -> dict[str, object]:
    more: dict[str, object] = {"logprobs": [asdict(token) for token in reply.logprobs]} if reply.logprobs else {}
    if reply.complete is not None:
        more["complete"] = reply.complete
    if unknown := reply.unknown:
        more["unknown"] = unknown
    return {
        "text": reply.text,
        **({"parts": parts} if (parts := reply.parts) else {}),
        "finish_reason": reply.finish_reason,
        "tokens": reply.tokens,
        "emulator": emulator.name,
        "beta": reply.beta,
        "seed": reply.seed,
        "usage": {"prompt_tokens": reply.prompt_tokens, "completion_tokens": len(reply.tokens)},
        "timings": {"load_s": emulator.load_s, "ttft_s": reply.ttft_s, "tokens_per_s": reply.tokens_per_s},
        **more,
    }


def score(emulator: Emulator, prompt: Prompt, completion: str, *, as_json: bool) -> int:
    """Print the log-probabilities of a completion's tokens, as a table or as one JSON object. Returns the exit code."""
    result = emulator.score(prompt, as_unicode(completion))
    if as_json:
        tokens = [asdict(token) for token in result.tokens]
        print_json({"tokens": tokens, "logprob": result.logprob})
    else:
        _table(result)
    return 0


def _table(result: Score) -> None:
    roles = [printable(f"{name} {role}") for name in result.tokens[0].rewards for role in ("tuned", "reference")]
    head = ["token", "emulator", "base", *roles]
    values = [[t.logprob, t.base, *(v for pair in t.rewards.values() for v in pair.values())] for t in result.tokens]
    texts = [repr(t.text)[1:-1] for t in result.tokens]
    sums = [sum(column) for column in zip(*values, strict=True)]
    rows = [[text, *(f"{v:.3f}" for v in row)] for text, row in zip([*texts, "sum"], [*values, sums], strict=True)]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for name, *cells in [head, *rows]:
        print("  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))]))
