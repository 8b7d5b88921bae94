"""Ten items side by side: what each model answered, and how far the pair moved the tokens of what is right."""

from collections.abc import Iterator, Sequence
from typing import Final

from eftlocal.apps.eval.page_acts import visible
from eftlocal.apps.eval.page_figures import name, numeral
from eftlocal.apps.eval.page_markup import Html, cell, html, joined, table
from eftlocal.apps.eval.page_plots import nats
from eftlocal.evaluation.line import Answered, Chosen, Column, Likelihood, Line, Preferred, TokenFact

__all__ = ["chosen", "items", "outcome"]

SHOWN: Final = 10
EACH: Final = 4  # of those that the emulator wins, and of those that it loses
LONGEST: Final = 1200  # characters of a text
STEPS: Final = (0.25, 1.0, 3.0)  # nats from which on a token is coloured a little, more, most


def items(lines: Sequence[Line], columns: Sequence[str], emulated: str | None) -> Html:
    """The legend, and ten items. `columns`: those whose answers are shown, `emulated` one of them."""
    able = [line for line in lines if line.columns]
    parts = (_item(line, [c for c in columns if c in line.columns], emulated) for line in chosen(able, emulated))
    return joined([_legend(), *parts])


def chosen(lines: Sequence[Line], emulated: str | None) -> list[Line]:
    """Ten lines in their order: some that only the emulator gets right, some that only the base does, then others."""
    by_outcome: dict[str, list[Line]] = {}
    for line in lines:
        by_outcome.setdefault(outcome(line, emulated), []).append(line)
    picked = [*by_outcome.get("gained", [])[:EACH], *by_outcome.get("lost", [])[:EACH]]
    for line in (*by_outcome.get("neither", []), *lines):
        if len(picked) < SHOWN and not any(line is other for other in picked):
            picked.append(line)
    return [line for line in lines if any(line is other for other in picked)]


def outcome(line: Line, emulated: str | None) -> str:
    """gained, lost, both or neither: whether the emulator and the base get the item right; "" where it is not known."""
    base, own = (_right(line, line.columns.get(column or "")) for column in ("base", emulated))
    if base is None or own is None:
        return ""
    return {(False, True): "gained", (True, False): "lost", (True, True): "both"}.get((base, own), "neither")


def _right(line: Line, column: Column | None) -> bool | None:
    match column:
        case Answered(right=bool() as right):
            return right and column.ended is not False
        case Chosen():
            return max(range(len(column.logprobs)), key=lambda i: column.logprobs[i]) in line.right
        case Preferred():
            return column.chosen > column.rejected
    return None


OUTCOMES: Final = {
    "gained": "only the emulator gets it",
    "lost": "only the base gets it",
    "both": "the emulator and the base get it",
    "neither": "neither the emulator nor the base gets it",
}


def _legend() -> Html:
    parts = [
        html('<span class="t {kind} key">{text}</span>', kind=kind, text=text)
        for kind, text in (
            *(("d3", "−3 nats and less"), ("d2", "−1"), ("d1", "−0.25"), ("", "0")),
            *(("u1", "+0.25"), ("u2", "+1"), ("u3", "+3 nats and more")),
            ("o", "another token wins"),
        )
    ]
    return html(
        '<p class="note">How far the pair moves each token of the right answer: amber over a dashed line where it '
        "makes the token less likely, blue over a full line where it makes it likelier, the line thicker where it is "
        "more. A frame stands where the emulator’s likeliest token is not the base’s.</p><p>{parts}</p>\n",
        parts=joined(parts, " "),
    )


def _item(line: Line, columns: Sequence[str], emulated: str | None) -> Html:
    kind, told = line.kind or "", OUTCOMES.get(outcome(line, emulated), "")
    heads = joined(html("<span>{text}</span>", text=text) for text in (line.where, kind, told) if text)
    prompt = Html("") if line.shape == "text" else html('<p class="prompt">{text}</p>\n', text=_cut(line.prompt))
    tokens = Html("")
    if line.tokens:
        tokens = html('<p class="tokens">{parts}</p>\n', parts=joined(map(_token, line.tokens)))
    return html(
        '<article class="item"><h3>{heads}</h3>{prompt}{tokens}{answers}</article>\n',
        **{"heads": heads, "prompt": prompt, "tokens": tokens, "answers": _answers(line, columns)},
    )


def _token(token: TokenFact) -> Html:
    size = sum(abs(token.reward) >= step for step in STEPS)
    kind = f"{'u' if token.reward > 0 else 'd'}{size}" if size else ""
    if token.moved:
        kind += " o"
    title = f"{nats(token.reward)} nats; the base gives it {100 * _p(token.base):.3g}%"
    if not token.piece:
        return html(' <span class="t end {kind}" title="{title}">end</span>', kind=kind, title=title)
    text = token.piece
    if not text.strip():
        text = f"{visible(text)}\n" if "\n" in text else visible(text)
    return html('<span class="t {kind}" title="{title}">{text}</span>', kind=kind, title=title, text=text)


def _p(logprob: float) -> float:
    return float(2.718281828459045 ** min(0.0, logprob))


def _answers(line: Line, columns: Sequence[str]) -> Html:
    match next(iter(line.columns.values())):
        case Chosen():
            return _choices(line, columns)
        case Preferred():
            return _pairs(line, columns)
        case Likelihood():
            return _losses(line, columns)
    parts = [
        html(
            "<div><dt>{name}</dt><dd>{text}{under}</dd></div>",
            name=name(column),
            text=_cut(answer.text),
            under=html('<span class="under">{told}</span>', told=", ".join(_told(answer))),
        )
        for column in columns
        if isinstance(answer := line.columns[column], Answered) and answer.text is not None
    ]
    return html('<dl class="answers">{parts}</dl>\n', parts=joined(parts)) if parts else _losses(line, columns)


def _told(answer: Answered) -> Iterator[str]:
    if answer.right is not None:
        yield "right" if answer.right else "not right"
    if answer.ended is not None:
        yield "ends by itself" if answer.ended else f"cut after {answer.length} tokens"


def _choices(line: Line, columns: Sequence[str]) -> Html:
    found = {column: line.columns[column] for column in columns}
    logprobs = {column: own.logprobs for column, own in found.items() if isinstance(own, Chosen)}
    rows = []
    for i, text in enumerate(line.answers):
        right = html(' <span class="under">right</span>') if i in line.right else Html("")
        cells = [cell(html("{text}{right}", text=_cut(text), right=right), head="row")]
        for own in logprobs.values():
            picked = " ◀" if i < len(own) and own[i] == max(own) else ""
            cells.append(cell(f"{numeral(own[i])}{picked}" if i < len(own) else ""))
        rows.append(tuple(cells))
    heads = ("log-probability (◀ the one that it takes)", *(name(column) for column in logprobs))
    return table(f"Choices of {line.where}", heads, rows)


def _pairs(line: Line, columns: Sequence[str]) -> Html:
    texts = [
        html("<div><dt>{name}</dt><dd>{text}</dd></div>", name=each, text=_cut(text))
        for each, text in zip(("Preferred", "Rejected"), line.answers, strict=False)
    ]
    rows = [
        (cell(name(column), head="row"), cell(f"{nats(own.chosen - own.rejected)} nats"))
        for column in columns
        if isinstance(own := line.columns[column], Preferred)
    ]
    answers = html('<dl class="answers">{texts}</dl>\n', texts=joined(texts))
    return joined([answers, table(f"Preference of {line.where}", ("", "preferred over rejected by"), rows)])


def _losses(line: Line, columns: Sequence[str]) -> Html:
    rows = []
    for column in columns:
        own = line.columns[column]
        likelihood = own.likelihood if isinstance(own, Answered) else own
        if isinstance(likelihood, Likelihood) and likelihood.tokens:
            rows.append((cell(name(column), head="row"), cell(numeral(-likelihood.logprob / likelihood.tokens))))
    return table(f"Loss of {line.where}", ("", "loss in nats a token"), rows) if rows else Html("")


def _cut(text: str) -> str:
    more = len(text) - LONGEST
    return text if more <= 0 else f"{text[:LONGEST]}… ({more:,} more characters)"
