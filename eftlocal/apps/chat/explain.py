"""Shows what the small pair did: /compare and /sweep answer one prompt several ways, /why looks at each token."""

import math
import secrets
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from eftlocal.apps.chat.markdown import clean
from eftlocal.apps.chat.state import Chat
from eftlocal.decoding.generation import Reply
from eftlocal.emulation.scoring import Score, ScoredToken
from eftlocal.errors import EftError, SettingError
from eftlocal.runtime.views import Message
from eftlocal.text import printable

__all__ = ["compare", "sweep", "why"]

TOP = 10  # candidates that /why N shows
NARROW = 34  # columns that an answer needs to stand beside another
# (nats, colour): a token that the reward moved by at least so many nats, up or down, gets this colour.
LIKELIER = ((3.0, "#08519c"), (1.0, "#2171b5"), (0.2, "#6baed6"))
RARER = ((3.0, "#a50f15"), (1.0, "#cb181d"), (0.2, "#fb6a4a"))


# --- the same prompt, several ways ------------------------------------------------------------------------------------


def compare(chat: Chat, prompt: str) -> None:
    """Answer with the base alone, each tuned model alone and the emulator, in turn; then show them side by side.

    Without a prompt, the last question is answered. Raises EftError if there is none.
    """
    roles = [role for role in chat.emulator.roles if role == "base" or role.split(".")[-1] == "tuned"]
    ways: dict[str, Mapping[str, Any]] = {f"{role} alone": {"alone": role} for role in roles}
    beta = chat.emulator.settings.beta
    _side_by_side(chat, prompt, {**ways, f"emulated, beta {beta:g}": {"alone": None}})


def sweep(chat: Chat, argument: str) -> None:
    """Answer the last question at several betas. Raises SettingError for what is not a number."""
    try:
        betas = [float(word) for word in argument.replace(",", " ").split()] or [0.0, 0.5, 1.0, 1.5]
    except ValueError:
        raise SettingError(f"/sweep takes numbers, not {argument!r}.", "Example: /sweep 0 0.5 1 1.5") from None
    _side_by_side(chat, "", {f"beta {beta:g}": {"beta": beta, "alone": None} for beta in betas})


def _side_by_side(chat: Chat, prompt: str, ways: Mapping[str, Mapping[str, Any]]) -> None:
    """Answer one prompt in several ways, all with the same seed. The conversation does not change."""
    emulator = chat.emulator
    last = chat.question()
    if prompt:
        messages = [*chat.messages, Message("user", prompt)]
    elif last is not None:
        messages = chat.messages[: last + 1]
    else:
        raise EftError("There is no prompt yet.", "Ask something first, or give one: /compare PROMPT")
    seed = emulator.settings.seed
    if seed is None:
        seed = chat.last.reply.seed if chat.last is not None and not prompt else secrets.randbits(32)
    answers: dict[str, Reply] = {}
    chat.interrupts.answering(True)
    try:
        for name, dials in ways.items():
            with chat.screen.waiting(f"{name} ({len(answers) + 1} of {len(ways)})"):
                answers[name] = emulator.generate(messages, cancelled=chat.interrupts.asked, seed=seed, **dials)
            if chat.interrupts.asked():
                break
    finally:
        chat.interrupts.answering(False)
    _show(chat, answers, seed)


def _show(chat: Chat, answers: Mapping[str, Reply], seed: int) -> None:
    width = chat.screen.width
    if chat.screen.plain:
        for name, reply in answers.items():
            chat.screen.show(f"--- {name}\n{clean(reply.text)}\n")
    elif width >= NARROW * len(answers):
        table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), pad_edge=False)
        for name in answers:
            table.add_column(printable(name), ratio=1, overflow="fold")
        table.add_row(*(_answer(reply) for reply in answers.values()))
        chat.screen.show(table)
    else:
        for name, reply in answers.items():
            chat.screen.show(
                Panel(_answer(reply), title=Text(printable(name)), title_align="left", box=box.HORIZONTALS)
            )
    speeds = [f"{name} {r.tokens_per_s:.1f} tokens/s" for name, r in answers.items() if r.tokens_per_s]
    chat.screen.note("; ".join([f"seed {seed}", *speeds]))


def _answer(reply: Reply) -> Markdown:
    cut = {"length": "…", "cancelled": " (stopped)", "context": " (the context is full)"}.get(reply.finish_reason, "")
    return Markdown(clean(reply.text) + cut, code_theme="ansi_dark", hyperlinks=False)


# --- the last answer, token by token ----------------------------------------------------------------------------------


def why(chat: Chat, argument: str) -> None:
    """Show the last answer coloured by what the reward did; with an argument, the candidates for one token.

    Raises EftError if there is no such answer or token.
    """
    score = _scored(chat)
    if not argument:
        _heat(chat, score)
        return
    _candidates(chat, score, _which(score, argument))


def _scored(chat: Chat) -> Score:
    """The last answer's tokens, scored by each role. The score is kept until the conversation or settings change."""
    at = chat.answered()
    if at is None or not chat.messages[at].tokens:
        raise EftError("There is no answer whose tokens are known.", "Ask something first, then use /why.")
    before, answer = chat.messages[:at], chat.messages[at]
    settings = chat.last.settings if chat.last is not None else chat.emulator.settings
    key = (tuple(chat.messages), settings, chat.emulator.name)
    if chat.explained is None or chat.explained[0] != key:
        turned: dict[str, Any] = {name: getattr(settings, name) for name in ("beta", "mix", "reward_top_p", "alone")}
        with chat.screen.waiting("scoring the answer's tokens with each model"):
            chat.explained = (key, chat.emulator.score(before, answer.tokens, top=TOP, **turned))
    score = chat.explained[1]
    assert isinstance(score, Score)
    return score


def _which(score: Score, argument: str) -> int:
    """The index of the token with this number, counted from 1, or of the first token that contains this text."""
    if argument.isdecimal():
        number = int(argument)
        if not 1 <= number <= len(score.tokens):
            raise EftError(f"There is no token {number}; the answer has {len(score.tokens)} tokens.")
        return number - 1
    found = [i for i, token in enumerate(score.tokens) if argument in token.text]
    if not found:
        raise EftError(f"No token of the answer contains {argument!r}.", "/why shows the tokens with their numbers.")
    return found[0]


def moved(token: ScoredToken) -> float:
    """How far the reward moved the token's log-probability, in nats. Above 0 it is likelier than under the base."""
    return token.logprob - token.base


def _heat(chat: Chat, score: Score) -> None:
    text = Text()
    for number, token in enumerate(score.tokens, start=1):
        if number % 10 == 0:
            text.append(_small(number), style="dim")
        text.append(clean(token.text), style=_style(moved(token)))
    shifts = [moved(token) for token in score.tokens]
    far = sorted(range(len(shifts)), key=lambda i: -abs(shifts[i]))[:8]
    if not chat.screen.plain:
        legend = Text("the reward made it  ")
        for least, colour in reversed(RARER):
            legend.append(f" ÷{math.exp(least):.0f} " if least >= 1 else " rarer ", style=f"white on {colour}")
        legend.append(" as the base ")
        for least, colour in reversed(LIKELIER):
            legend.append(f" ×{math.exp(least):.0f} " if least >= 1 else " likelier ", style=f"white on {colour}")
        chat.screen.show(text)
        chat.screen.show(Text())
        chat.screen.show(legend)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="moved farthest", title_justify="left")
    for name in ("N", "token", "base", "emulated", "moved by"):
        table.add_column(name, justify="left" if name == "token" else "right")
    for i in sorted(far):
        token = score.tokens[i]
        table.add_row(
            str(i + 1),
            _quoted(token),
            _percent(token.base),
            _percent(token.logprob),
            Text(f"{shifts[i]:+.2f}", _style(shifts[i])),
        )
    chat.screen.show(table)
    mean = sum(map(abs, shifts)) / len(shifts)
    chat.screen.note(
        f"{len(shifts)} tokens, moved by {mean:.2f} nats on average; /why N shows the candidates for token N"
    )


def _candidates(chat: Chat, score: Score, index: int) -> None:
    chosen, top = score.tokens[index], list(score.top[index])
    if all(token.id != chosen.id for token in top):
        top.append(chosen)
    rewards = list(chosen.rewards)
    prefix = {name: f"{printable(name)} " if len(rewards) > 1 else "" for name in rewards}
    before = clean("".join(token.text for token in score.tokens[:index]))[-60:].replace("\n", "⏎")
    title = Text(f"token {index + 1}, after “{before}”", style="table.title")  # a plain string would be markup
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("")
    table.add_column("token")
    for name in (
        "base",
        *(f"{prefix[r]}{role}" for r in rewards for role in ("tuned", "reference")),
        "combined",
        "moved by",
    ):
        table.add_column(name, justify="right")
    for token in top:
        pairs = [token.rewards[r][role] for r in rewards for role in ("tuned", "reference")]
        table.add_row(
            ">" if token.id == chosen.id else "",
            _quoted(token),
            *map(_percent, (token.base, *pairs)),
            _percent(token.logprob),
            Text(f"{moved(token):+.2f}", _style(moved(token))),
            style="bold" if token.id == chosen.id else None,
        )
    chat.screen.show(table)


def _style(shift: float) -> str:
    for least, colour in LIKELIER if shift > 0 else RARER:
        if abs(shift) >= least:
            return f"white on {colour}"
    return ""


def _percent(logprob: float) -> str:
    p = math.exp(logprob)
    return f"{p:.1%}" if p >= 0.001 else f"{p * 100:.1g}%" if p >= 1e-6 else "<0.0001%"


def _quoted(token: ScoredToken) -> str:
    return repr(clean(token.text) if token.text.isprintable() else token.text)


def _small(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
