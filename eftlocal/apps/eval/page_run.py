"""What ran: settings, models and fingerprints; what was calibrated; and the words that the report uses."""

import json
from collections.abc import Mapping
from typing import Any, Final

from eftlocal.apps.eval.page_figures import change, figure, name
from eftlocal.apps.eval.page_markup import Html, cell, html, joined, table
from eftlocal.apps.eval.page_plots import nats
from eftlocal.evaluation.results import Best, Calibrated, Evaluation

__all__ = ["WORDS", "best", "calibration", "ran", "words"]

WORDS: Final[Mapping[str, str]] = {
    "base": "The large model, as it was before any fine-tuning.",
    "tuned, reference": "The pair: a small fine-tuned model, and the small model that it was made from.",
    "emulated": "The base, steered by the pair: each token’s log-probability under the base, plus the strength times "
    "the difference between tuned and reference. Strength 0 is the base, 1 is as configured.",
    "upper": "A large model that was truly fine-tuned, to compare with.",
    "interval": "In 95 of 100 evaluations like this one, the true figure is within it. Shares have Wilson’s interval; "
    "other figures and all differences have that of a bootstrap, which draws the items again and again, in pairs.",
    "right": "The answer that was generated is one of those accepted. ‘Ends by itself’: it stopped before its limit.",
    "nats a token": "How surprised a model is by right answers; 0 is not at all. A bit is 0.69 nats.",
    "KL": "How far two models’ next-token distributions are apart, in nats a token; 0 is nowhere.",
    "push": "The size of what the pair adds to a token’s log-probability, in nats; 0.7 nats double or halve it.",
}


def best(found: Best) -> Html:
    """The strength that one half of the items chose, with its loss on the other half."""
    columns = sorted(found.chose, key=lambda c: float(c.partition("@")[2] or 0))
    rows = [
        (
            cell(html("<strong>{n}</strong>", n=name(column)) if _is(column, found) else name(column), head="row"),
            cell(figure(found.chose[column], "nats")),
            cell(figure(found.judged.get(column), "nats")),
        )
        for column in columns
    ]
    if "base" in found.judged:
        rows.insert(
            0, (cell("Base", head="row"), cell(figure(None, "nats")), cell(figure(found.judged["base"], "nats")))
        )
    told = [
        f"{change(estimate, 'nats')[0]} nats a token against {other}"
        for other, estimate in (("the base", found.to_base), ("strength 1", found.to_one))
        if estimate is not None
    ]
    text = html(
        "<p>Strength <strong>{beta}</strong> has the lowest loss on the {a} items that choose. On the {b} others, "
        "which did not choose, it has {told}.</p>",
        **{
            "beta": f"{found.beta:g}",
            "a": found.n_chose,
            "b": found.n_judged,
            "told": ", and ".join(told) or "no other to be compared with",
        },
    )
    heads = ("", f"loss on the {found.n_chose} that choose", f"loss on the {found.n_judged} that judge")
    shown = table("Loss of each strength, in nats a token", heads, rows, kind="slim")
    if found.toml:
        return joined([text, shown, _line(found.toml)])
    follows = "Nothing changes in models.toml: this is the strength as configured."
    if not found.helps:
        follows = "That is not surely better than the base: leave the pair."
    return joined([text, shown, html("<p>{follows}</p>", follows=follows)])


def _line(toml: str) -> Html:
    return html("<p>For its emulator in models.toml:</p><pre><code>{toml}</code></pre>\n", toml=toml)


def _is(column: str, found: Best) -> bool:
    return column == f"emulated@{found.beta:g}"


def calibration(found: Calibrated) -> Html:
    """What was fitted on one half of the items, and the loss on the other with it."""
    told = [f"{reward}: strength {beta:.3g}" for reward, beta in found.betas.items()]
    told.append(f"tokens that end an answer: {nats(found.end)} nats")
    if found.unseen is not None:
        told.append(f"tokens that the fine-tuning data never showed: {nats(found.unseen)} nats")
    verdict = "It helps there." if found.helps else "It does not surely help there: leave the emulator as it is."
    text = html(
        "<p>Fitted on {a} items: {told}. On the {b} others the loss changes by {change} nats a token. "
        "<strong>{verdict}</strong></p>",
        **{"a": found.n_fitted, "b": found.n_judged, "told": "; ".join(told), "verdict": verdict},
        change=change(found.change, "nats")[0],
    )
    rows = [(cell(step, head="row"), cell(figure(loss, "nats"))) for step, loss in found.steps.items()]
    shown = table("Calibration", ("", f"loss on {found.n_judged} other items"), rows, kind="slim")
    return joined([text, shown, _line(found.toml) if found.toml else Html("")])


def ran(evaluation: Evaluation) -> Html:
    """Every file with its fingerprint, and every setting."""
    rows = []
    for member, facts in evaluation.models.items():
        own: Mapping[str, Any] = facts if isinstance(facts, Mapping) else {"file": facts}
        size = own.get("bytes")
        lora = own.get("lora")
        added = (
            f" + {lora.get('file')} × {lora.get('scale')} ({lora.get('fingerprint')})"
            if isinstance(lora, Mapping)
            else ""
        )
        print_ = own.get("fingerprint", own.get("sha256", ""))
        rows.append(
            (
                cell(member, head="row"),
                cell(f"{own.get('file', '')}{added}", kind="text"),
                cell(f"{size / 1e6:,.1f} MB" if isinstance(size, int) else ""),
                cell(html("<code>{p}</code>", p=print_) if print_ else ""),
                cell(html("<code>{v}</code>", v=own["view"]) if "view" in own else ""),
            )
        )
    heads = ("model", cell("file", kind="text", head="col"), "size", "fingerprint", "its view’s")
    models = table("Models", heads, rows) if rows else Html("")
    settings = "\n".join(
        f"{key} = {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in evaluation.settings.items()
    )
    told = html("<h3>Settings</h3>\n<pre><code>{settings}</code></pre>\n", settings=settings) if settings else Html("")
    return joined([models, told])


def words() -> Html:
    """What the report's words mean."""
    parts = (html("<dt>{word}</dt><dd>{text}</dd>", word=word, text=text) for word, text in WORDS.items())
    return html('<dl class="words">{parts}</dl>\n', parts=joined(parts))
