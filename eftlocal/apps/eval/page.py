"""The report: one HTML file, a pure function of what an evaluation found and of its lines. It opens offline.

It has no script and loads nothing, and its content security policy forbids both, whatever a model or a file says.
"""

from collections.abc import Iterable, Iterator, Sequence

from eftlocal.apps.eval.page_acts import acts
from eftlocal.apps.eval.page_figures import main_columns
from eftlocal.apps.eval.page_items import items
from eftlocal.apps.eval.page_markup import Html, html, joined
from eftlocal.apps.eval.page_run import best, calibration, ran, words
from eftlocal.apps.eval.page_scores import gaps, kinds, scores, strength, tiles
from eftlocal.apps.eval.page_style import STYLE
from eftlocal.evaluation.line import Line
from eftlocal.evaluation.results import ColumnFigures, Evaluation

__all__ = ["page"]

STRENGTH = (
    "How each figure changes with the strength of the pair, which stands below: 0 is the base, 1 is as configured. "
    "Thin lines are 95 % intervals; a ring marks the best strength."
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(evaluation: Evaluation, lines: Sequence[Line]) -> str:
    """The report as HTML, to be written as UTF-8."""
    sections = [(key, title, body) for key, title, body in _sections(evaluation, lines) if body]
    links = (html('<li><a href="#{key}">{title}</a></li>', key=key, title=title) for key, title, _ in sections)
    return html(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        "<title>{name}: evaluation by eftlocal</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<header>\n<p class="eyebrow">eftlocal eval</p>\n<h1>{name}</h1>\n<p class="about">{about}</p>\n'
        '<nav aria-label="Contents"><ul>{links}</ul></nav>\n</header>\n<main>\n{body}</main>\n'
        "<footer>Computed by eftlocal from items.jsonl alone; results.json has the same figures with more digits."
        "</footer>\n"
        "</body>\n</html>\n",
        policy=Html(POLICY),
        style=Html(STYLE),
        name=evaluation.emulator,
        about=_about(evaluation),
        links=joined(links),
        body=joined(_section(*section) for section in sections),
    )


def _about(evaluation: Evaluation) -> str:
    sources = [group.name for group in evaluation.of("source")] or [
        str(each) for each in evaluation.settings.get("data", [])
    ]
    failed = f" {evaluation.failed:,} more could not be measured." if evaluation.failed else ""
    of = f" of {', '.join(sources)}" if sources else ""
    return f"{evaluation.n:,} item{'' if evaluation.n == 1 else 's'}{of}. Seed {evaluation.seed}.{failed}"


def _section(key: str, title: str, body: Html) -> Html:
    return html('<section id="{key}">\n<h2>{title}</h2>\n{body}</section>\n', key=key, title=title, body=body)


def _sections(evaluation: Evaluation, lines: Sequence[Line]) -> Iterator[tuple[str, str, Html]]:
    """Key, title and body of each section; an empty one is left out."""
    chosen = None if evaluation.best is None else evaluation.best.beta
    main = main_columns(evaluation.all, chosen)
    columns = [column.column for column in main]
    emulated = next((column for column in columns if column.startswith("emulated@")), None)
    yield "short", "In short", _findings(evaluation, main)
    yield "scores", "Scores", scores(evaluation)
    yield "strength", "Strength", _with(STRENGTH, strength(evaluation))
    yield "gap", "Gap closed", _with("How much of the way to the truly fine-tuned large model.", gaps(evaluation))
    yield "best", "Best strength", best(evaluation.best) if evaluation.best else Html("")
    yield "calibration", "Calibration", calibration(evaluation.calibration) if evaluation.calibration else Html("")
    names = {group.name for group in evaluation.of("kind")}
    title = "Knowledge and behaviour" if names == {"knowledge", "behaviour"} else "By kind"
    said = _listed(text for text in evaluation.findings[1:] if _of_kind(text))
    shown = kinds(evaluation)
    yield "kinds", title, _with("Each kind of item that the data names.", joined([shown, said]) if shown else shown)
    yield "acts", "Where the pair acts", acts(evaluation.acts) if evaluation.acts else Html("")
    yield "items", "Ten items", _with(_picked(evaluation), items(lines, columns, emulated))
    yield "ran", "What ran", ran(evaluation)
    yield "words", "Words", words()


def _findings(evaluation: Evaluation, columns: Sequence[ColumnFigures]) -> Html:
    """The main columns' scores, the first finding as the verdict on them, then the others but those on kinds."""
    first, *others = evaluation.findings or ("Nothing follows from these items.",)
    _, _, verdict = first.partition(". ")
    shown = verdict.replace("It is", "The emulator is", 1) if verdict and columns else first
    warning = evaluation.acts.warning if evaluation.acts else None
    listed = _listed(text for text in others if text != warning and not _of_kind(text))
    seen = Html("")
    if evaluation.acts is not None and warning is not None:
        seen = html(
            '<p class="warning"><strong>Look closer.</strong> The pair changes the likeliest token at {share} of '
            'positions: <a href="#acts">where the pair acts</a>.</p>\n',
            share=f"{evaluation.acts.intervention.value:.0%}",
        )
    lead = html('<p class="lead">{shown}</p>\n', shown=shown)
    return joined([tiles(evaluation.all, columns), lead, listed, seen])


def _of_kind(finding: str) -> bool:
    """Whether a finding compares columns on one kind, or on several: it stands below the table of kinds."""
    return finding.startswith("On ")


def _listed(texts: Iterable[str]) -> Html:
    rest = joined(html("<li>{text}</li>\n", text=text) for text in texts)
    return html('<ul class="findings">\n{rest}</ul>\n', rest=rest) if rest else Html("")


def _picked(evaluation: Evaluation) -> str:
    if evaluation.n <= 10:
        return "All items, in their order."
    return (
        f"Ten of {evaluation.n:,} items: up to four that only the emulator gets right (and ends by itself), up to four "
        "that only the base gets, then those that neither gets, then the first ones."
    )


def _with(text: str, body: Html) -> Html:
    return joined([html("<p>{text}</p>\n", text=text), body]) if body else Html("")
