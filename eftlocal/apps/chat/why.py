"""/why: what the rewards did to each token of the last answer, and to the token that ended it."""

import math
from dataclasses import replace
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from eftlocal.apps.chat import dials
from eftlocal.apps.chat.compare import has_rewards
from eftlocal.apps.chat.rows import clean
from eftlocal.apps.chat.state import Chat
from eftlocal.emulation.scoring import Score, ScoredToken
from eftlocal.emulation.tokenizer import Tokenizer
from eftlocal.errors import EftError
from eftlocal.text import printable

__all__ = ["moved", "why"]

TOP = 10  # candidates that /why N shows
FARTHEST = 8  # tokens that /why lists, if each of them was moved by MOVED nats
MOVED = 0.05
END = "<end>"  # how the token that ended the answer is shown
# (nats, colour): a token that the reward moved by at least so many nats, up or down, gets this colour.
LIKELIER = ((3.0, "#08519c"), (1.0, "#2171b5"), (0.2, "#6baed6"))
RARER = ((3.0, "#a50f15"), (1.0, "#cb181d"), (0.2, "#fb6a4a"))


def why(chat: Chat, argument: str) -> None:
    """Show the last answer coloured by what the reward did; with an argument, the candidates for one token.

    Raises EftError if there is no such answer or token.
    """
    if not has_rewards(chat, "explain"):
        return
    score = _scored(chat)
    if not argument:
        _heat(chat, score)
        return
    _candidates(chat, score, _which(score, argument))


def _scored(chat: Chat) -> Score:
    """The last answer's tokens, scored by each role. The score is kept until the conversation or settings change.

    The token that ended the answer is the last one, if a token ended it and is known: sessions do not keep it.
    """
    at = chat.answered()
    if at is None or not chat.messages[at].tokens:
        raise EftError("There is no answer whose tokens are known.", "Ask something first, then use /why.")
    before, tokens, last = chat.messages[:at], chat.messages[at].tokens, chat.last
    end = last.reply.end_token if last is not None and last.whole else None
    settings = last.settings if last is not None else chat.emulator.settings
    key = (tuple(chat.messages), end, settings, chat.emulator.name)
    if chat.explained is None or chat.explained[0] != key:
        turned: dict[str, Any] = {name: getattr(settings, name) for name in ("beta", "mix", "reward_top_p", "alone")}
        with chat.screen.waiting("scoring the answer's tokens with each model"):
            found = chat.emulator.score(before, tokens if end is None else (*tokens, end), top=TOP, **turned)
        chat.explained = (key, _named(found, end, chat.emulator.tokenizer))
    score = chat.explained[1]
    assert isinstance(score, Score)
    return score


def _named(score: Score, end: int | None, tokenizer: Tokenizer) -> Score:
    """The score with a name for each token that has no text of its own. `end`: the token that ended the answer."""

    def named(token: ScoredToken) -> ScoredToken:
        if token.id == end:
            return replace(token, text=END)
        return token if token.text else replace(token, text=tokenizer.text_of([token.id]))

    tops = tuple(tuple(map(named, top)) for top in score.top)
    return replace(score, tokens=tuple(map(named, score.tokens)), top=tops)


def _which(score: Score, argument: str) -> int:
    """The index of the token with this number, counted from 1, or of the first token that contains this text."""
    if argument.isdecimal():
        number = dials.number(argument)
        if number is None or number > len(score.tokens):
            raise EftError(f"There is no token {argument}; the answer has {len(score.tokens)} tokens.")
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
    far = sorted(range(len(shifts)), key=lambda i: -abs(shifts[i]))[:FARTHEST]
    far = [i for i in far if abs(shifts[i]) >= MOVED] or far[:1]
    if not chat.screen.plain:
        legend = Text("the reward made it  ")
        for least, colour in RARER:
            legend.append(f" ÷{math.exp(least):.0f} " if least >= 1 else " rarer ", style=_ink(least, colour))
        legend.append(" as the base ")
        for least, colour in reversed(LIKELIER):
            legend.append(f" ×{math.exp(least):.0f} " if least >= 1 else " likelier ", style=_ink(least, colour))
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
    n, end = len(shifts), score.tokens[-1].text == END
    n -= end
    tokens = f"{n} token{'s' * (n != 1)}{' and the end' * end}"
    chat.screen.note(f"{tokens}, moved by {mean:.2f} nats on average; /why N shows the candidates for token N")


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
            return _ink(least, colour)
    return ""


def _ink(least: float, colour: str) -> str:
    """The style of text on one of the colours; the lightest takes black text."""
    return f"{'black' if least < 1 else 'white'} on {colour}"


def _percent(logprob: float) -> str:
    p = math.exp(logprob)
    return f"{p:.1%}" if p >= 0.001 else f"{p * 100:.1g}%" if p >= 1e-6 else "<0.0001%"


def _quoted(token: ScoredToken) -> str:
    if token.text == END:
        return END
    return repr(clean(token.text) if token.text.isprintable() else token.text)


def _small(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
