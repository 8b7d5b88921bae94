"""Where the pair acts, as the report shows it: classes of tokens, positions, and the tokens that are moved most."""

from collections.abc import Sequence

from eftlocal.apps.eval.page_figures import interval, numeral
from eftlocal.apps.eval.page_markup import Html, cell, html, joined, table
from eftlocal.apps.eval.page_plots import bar, nats
from eftlocal.evaluation.results import ActsOn, Example, Part

__all__ = ["acts"]

MOVED = 12  # tokens that are shown; results.json has more


def acts(found: ActsOn) -> Html:
    """The share of places where another token wins, with its warning; then which tokens, where, and examples."""
    estimate = found.intervention
    sure = interval(estimate, "both")
    text = html(
        "<p>The emulator’s likeliest token is not the base’s at <strong>{share}</strong> of {n} positions{sure}: "
        "there the pair decides.</p>",
        share=f"{estimate.value:.1%}",
        n=f"{found.tokens:,}",
        sure=f" ({sure})" if sure else "",
    )
    warning = Html("")
    if found.warning is not None:
        warning = html('<div class="warning"><strong>Look closer.</strong> {text}</div>\n', text=found.warning)
    note = html(
        '<p class="note">Bar: its share of all that the pair pushes. Line across the bar: its share of the tokens. '
        "Where a bar passes its line, the pair acts more than elsewhere.</p>\n"
    )
    parts = [text, warning, note, _parts("Kinds of tokens", "class", found.classes)]
    if len(found.positions) > 1:
        parts.append(_parts("Positions in the answer", "tokens before it", found.positions))
    if found.moved:
        parts.append(_moved(found))
    return joined(parts)


def _parts(title: str, head: str, parts: Sequence[Part]) -> Html:
    most = max([0.01, *(max(part.acts, part.share) for part in parts)])
    heads = (
        cell(head, head="col"),
        cell("share of the push", head="col"),
        cell("", kind="picture", head="col"),
        *("share of tokens", "push a token, nats", "towards the right token, nats", "another token wins"),
    )
    rows = [
        (
            cell(part.name, head="row"),
            cell(f"{part.acts:.1%}"),
            cell(bar(part.acts, most, mark=part.share, title=f"{part.name}: {part.acts:.1%}"), kind="picture"),
            cell(f"{part.share:.1%}"),
            cell(numeral(part.mean)),
            cell(nats(part.signed)),
            cell(f"{part.moved:.1%}"),
        )
        for part in parts
    ]
    return joined([html("<h3>{title}</h3>\n", title=title), table(title, heads, rows, kind="parts")])


def _moved(found: ActsOn) -> Html:
    rows = []
    for token in found.moved[:MOVED]:
        example = token.examples[0] if token.examples else None
        rows.append(
            (
                cell(html("<code>{token}</code>", token=visible(token.token)), head="row"),
                cell(f"{token.n:,}"),
                cell(nats(token.mean)),
                cell(_example(example) if example else "", kind="text said"),
            )
        )
    heads = ("token", "places", "mean push, nats", cell("where it is pushed most", kind="text", head="col"))
    return joined([html("<h3>Tokens that are moved most</h3>\n"), table("Tokens that are moved most", heads, rows)])


def _example(example: Example) -> Html:
    return html(
        '{before}<mark class="{kind}">{token}</mark>{after}<span class="under">{where}: {reward} nats</span>',
        **{"before": example.before, "after": example.after, "where": example.where, "reward": nats(example.reward)},
        token=example.token if example.token.strip() else visible(example.token),
        kind="less" if example.reward < 0 else "more",
    )


def visible(token: str) -> str:
    """A token with signs for spaces at its ends and for line ends."""
    inner = token.strip(" ")
    left = len(token) - len(token.lstrip(" ")) if inner else len(token)
    right = len(token) - left - len(inner)
    return ("\u2423" * left + inner + "\u2423" * right).replace("\n", "\u23ce").replace("\t", "\u21e5")
