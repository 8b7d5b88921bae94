"""The report: what stands in it is what was found, and nothing that a model or a file says becomes part of the page."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eftlocal.apps.eval.page import page
from eftlocal.apps.eval.page_figures import number
from eftlocal.apps.eval.page_items import SHOWN, chosen, outcome
from eftlocal.apps.eval.page_markup import Html, html, plain
from eftlocal.apps.eval.page_plots import Scale, scale_of
from eftlocal.apps.eval.page_style import DARK, LIGHT, STYLE
from eftlocal.evaluation.line import Answered, Line, TokenFact
from eftlocal.evaluation.results import Estimate
from eftlocal.evaluation.summary import summary
from tests.evaluation import made

ALONE = {"meta", "line", "circle", "rect", "path"}  # elements without an end
KNOWN = re.findall(
    r"\S+",
    "html head meta title style body header main footer section article nav p h1 h2 h3 a ul li dl dt dd div span "
    "strong table caption thead tbody tr th td figure figcaption svg line circle rect path text pre code mark",
)
ATTRIBUTES = re.findall(
    r"\S+",
    "lang charset http-equiv content name id class href title scope role tabindex aria-label aria-hidden "
    "x y x1 x2 y1 y2 cx cy r d dx dy rx width height overflow text-anchor",
)
EVIL = (
    "<script>alert(1)</script>",
    "</style></pre></code><img src=x onerror=alert(1)>",
    '"><svg onload="alert(1)">',
    "' onmouseover='alert(1)",
    "<!-- --> ]]> &lt;b&gt; &#60;",
    "{name} {0} {style} {{}}",
    "javascript:alert(1) http://example.com/x.js url(http://example.com/y)",
    "\x00\x1b[31m\x9b\r\u202e\u2066\ufeff\ud800\udcff\ufffe",
    "\n\n\t  \n",
    "a\u200db 京都 é \u00a0 \u3000",
)


class Page(HTMLParser):
    """Reads a page as a browser does, and checks that each element is known, closed, and has known attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in KNOWN, tag
        for name, value in attrs:
            assert name in ATTRIBUTES and value is not None, (tag, name)
            assert name != "href" or value.startswith("#")
            self.titles += [value] if name == "title" else []
        if tag not in ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ALONE:  # <line/> has its end at once
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def evil(line: Line, i: int) -> Line:
    """The line with a nasty text wherever a file or a model has one."""
    text = EVIL[i % len(EVIL)]
    columns = {
        name: dataclasses.replace(column, text=text) if isinstance(column, Answered) else column
        for name, column in line.columns.items()
    }
    return dataclasses.replace(
        line,
        where=f"{text}:{i}",
        source=EVIL[i % 3],
        kind=EVIL[i % 4],
        prompt=text,
        answers=tuple(f"{text}{j}" for j, _ in enumerate(line.answers)),
        columns=columns,
        tokens=tuple(TokenFact(text if j % 2 else t.piece, *t[1:]) for j, t in enumerate(line.tokens)),
    )


def test_every_outline_of_an_evaluation_is_a_page_that_is_closed_and_knows_no_script() -> None:
    for evaluation in made.several():
        found = Page(page(evaluation, made.lines(12)))
        assert evaluation.emulator in found.text and "What ran" in found.text


def test_nothing_that_a_model_or_a_file_says_becomes_markup() -> None:
    lines = [evil(line, i) for i, line in enumerate(made.lines(40))]
    evaluation = summary(
        lines,
        emulator=EVIL[0],
        rewards=made.pairs(("a",)),
        settings={EVIL[1]: EVIL[2], "data": list(EVIL)},
        models={EVIL[0]: {"file": EVIL[1], "fingerprint": EVIL[2], "view": EVIL[3], "bytes": 3}},
    )
    text = page(evaluation, lines)
    found = Page(text)  # raises for an element, an attribute or a link that the page does not have
    for each in EVIL[:7]:
        assert each in found.text
    text.encode()  # half of a surrogate pair is escaped
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", text)


def test_the_page_forbids_scripts_and_loads_nothing() -> None:
    text = page(made.evaluation(), made.lines())
    assert "default-src 'none'" in text and "<script" not in text and "@import" not in STYLE
    assert not re.search(r"(src|srcset|data|action|xlink:href)=|url\(|https?://", text)


def test_every_figure_of_every_column_stands_on_the_page_with_its_interval() -> None:
    evaluation, lines = made.evaluation(), made.lines()
    text = Page(page(evaluation, lines)).text
    for group in evaluation.of("source"):
        for column in group.columns:
            for metric, estimate in column.figures.items():
                assert number(estimate.value, metric) in text
                if estimate.low is not None and estimate.high is not None:
                    low = number(estimate.low, metric).removesuffix("%")
                    assert f"{low} – {number(estimate.high, metric)}" in text
    assert evaluation.best is not None and evaluation.best.toml in text
    assert evaluation.acts is not None and evaluation.acts.moved[0].token in text


def test_the_page_is_the_same_for_the_same_lines() -> None:
    assert page(made.evaluation(), made.lines()) == page(made.evaluation(), made.lines())


def test_ten_items_are_shown_and_both_ways_of_differing_are_among_them() -> None:
    lines = [*made.lines(60)]
    picked = chosen(lines, "emulated@1")
    assert len(picked) == SHOWN and picked == [line for line in lines if line in picked]
    outcomes = [outcome(line, "emulated@1") for line in lines]
    for each in ("gained", "lost"):
        wanted = min(4, outcomes.count(each))
        assert [outcome(line, "emulated@1") for line in picked].count(each) >= wanted
    assert chosen(lines[:3], "emulated@1") == lines[:3] and chosen(lines, None)


def test_the_table_has_heads_and_every_picture_a_title() -> None:
    text = page(made.evaluation(), made.lines())
    assert text.count("<table") == text.count("<caption") == text.count("<thead")
    pictures = re.findall(r'<svg[^>]*role="img"[^>]*>(<title>[^<]+</title>)?', text)
    assert len(pictures) > 50 and all(pictures)


def test_a_template_escapes_every_value_but_html() -> None:
    assert html("<b>{x}</b>", x="<i> & \"'") == "<b>&lt;i&gt; &amp; &quot;&#x27;</b>"
    assert html("<b>{x}</b>", x=Html("<i>")) == "<b><i></b>"
    assert plain("a\nb\t\x1b\u202ec\u00a0") == "a\nb\t\\x1b\\u202ec\u00a0"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [((0.1, 0.9), (0.0, 0.25, 0.5, 0.75, 1.0)), ((0.701, 0.74), (0.7, 0.71, 0.72, 0.73, 0.74)), ((0.98, 1.0), None)],
)
def test_an_axis_has_round_ticks_around_what_it_shows(
    values: tuple[float, ...], ticks: tuple[float, ...] | None
) -> None:
    scale = scale_of([Estimate(v, None, None, 9) for v in values], "right")
    assert scale.low <= min(values) and scale.high >= max(values) and scale.high <= 1
    assert ticks is None or scale.ticks == pytest.approx(ticks)
    assert 0 <= scale.share(min(values)) <= scale.share(max(values)) <= 1
    one = scale_of([Estimate(0.0, 0.0, 0.0, 9)], "nats")
    assert isinstance(one, Scale) and one.low < one.high


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_texts_have_enough_contrast_in_both_schemes(scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for texts."""
    colours = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
    for ground in ("paper", "card"):
        for ink in ("ink", "soft", "accent", "good", "bad"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for tint in ("up1", "up2", "up3", "down1", "down2", "down3"):
        assert contrast(colours["ink"], colours[tint]) >= 4.5, tint


def contrast(one: str, other: str) -> float:
    light, dark = sorted(map(luminance, (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_picture_of_the_documents_is_small() -> None:
    for picture in (Path(__file__).parents[3] / "docs").glob("eval-*.png"):
        assert picture.stat().st_size < 200_000
