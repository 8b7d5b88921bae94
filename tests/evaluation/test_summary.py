"""What the lines say, against plain sums over their JSON."""

import json
import math
import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from eftlocal.errors import SettingError
from eftlocal.evaluation.line import Answered, Chosen, Likelihood, Line, Preferred, TokenFact
from eftlocal.evaluation.metrics import METRICS
from eftlocal.evaluation.results import Estimate
from eftlocal.evaluation.summary import summary
from tests.evaluation import made


def said(lines: Sequence[Line], **options: Any) -> Any:
    return summary(lines, emulator="mine", rewards=made.pairs(("instruct",)), **options)


def question(i: int, columns: dict[str, Answered], kind: str | None = None) -> Line:
    return Line(where=f"q:{i}", source="q", kind=kind, shape="question", prompt="?", answers=("!",), columns=columns)


def answered(logprob: float, tokens: int = 4, *, right: bool | None = None) -> Answered:
    return Answered(likelihood=Likelihood(logprob=logprob, tokens=tokens, bytes=3 * tokens), right=right)


# --- figures ----------------------------------------------------------------------------------------------------------


def plain(lines: Sequence[dict[str, Any]], column: str) -> Iterator[tuple[str, float]]:
    """A column's metrics from the lines' JSON, each written out."""
    by_shape = {
        shape: [
            (line, line["columns"][column])
            for line in lines
            if line["shape"] == shape and line["source"] != "truth.csv"
        ]
        for shape in ("question", "choices", "preference", "text")
    }
    truth = [(line, line["columns"][column]) for line in lines if line["source"] == "truth.csv"]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    def largest(values: Sequence[float]) -> int:
        return values.index(max(values))

    questions, choices = by_shape["question"], by_shape["choices"]
    yield "right", mean([c["right"] for _, c in questions])
    yield "ended", mean([c["ended"] for _, c in questions])
    yield "both", mean([c["right"] and c["ended"] for _, c in questions])
    yield "length", mean([c["length"] for _, c in questions])
    yield "logprob", mean([c["logprob"] for _, c in questions])
    yield "accuracy_sum", mean([largest(c["logprobs"]) in line["right"] for line, c in choices])
    for name, per in (("mean", "tokens"), ("bytes", "bytes")):
        scores = [[p / n for p, n in zip(c["logprobs"], c[per], strict=True)] for _, c in choices]
        yield (
            f"accuracy_{name}",
            mean([largest(s) in line["right"] for s, (line, _) in zip(scores, choices, strict=True)]),
        )
    yield "mc1", mean([c["logprobs"][0] > max(c["logprobs"][2:]) for _, c in truth])
    masses = [[math.exp(p) for p in c["logprobs"]] for _, c in truth]
    yield "mc2", mean([(m[0] + m[1]) / sum(m) for m in masses])
    yield "preferred", mean([c["chosen"] > c["rejected"] for _, c in by_shape["preference"]])
    firsts = [(line, c, line["right"][0]) for line, c in [*choices, *truth]]
    whole = [*questions, *by_shape["text"]]
    losses = [-c["logprob"] for _, c in whole] + [-c["logprobs"][i] for _, c, i in firsts]
    tokens = [c["tokens"] for _, c in whole] + [c["tokens"][i] for _, c, i in firsts]
    sizes = sum(c["bytes"] for _, c in whole) + sum(c["bytes"][i] for _, c, i in firsts)
    yield "bits", sum(losses) / math.log(2) / sizes
    losses += [-c["chosen"] for _, c in by_shape["preference"]]
    tokens += [c["tokens"][0] for _, c in by_shape["preference"]]
    yield "nats", sum(losses) / sum(tokens)
    yield "perplexity", math.exp(sum(losses) / sum(tokens))
    if column.startswith("emulated"):
        every = [line["columns"][column] for line in lines]
        for name in ("kl_base", "same_base", "kl_upper", "same_upper"):
            yield name, sum(c[name] for c in every) / sum(c["positions"] for c in every)


def test_every_figure_is_the_plain_one_and_no_metric_is_left_out() -> None:
    lines = made.lines(100)
    found = said(lines).all
    written = [json.loads(json.dumps(line.to_json())) for line in lines]
    told: set[str] = set()
    for column in made.column_names(("instruct",), made.BETAS, upper=True):
        expected = dict(plain(written, column))
        figures = found.column(column).figures
        assert {metric: figure.value for metric, figure in figures.items()} == pytest.approx(expected, abs=1e-9)
        told |= figures.keys()
    assert told == METRICS.keys()


def test_the_pair_ranks_by_the_difference_of_tuned_and_reference() -> None:
    lines = made.lines(50, shapes=("preference",), rewards=("a", "b"))
    found = said(lines).all
    for name in ("a", "b"):
        wins = 0
        for line in lines:
            tuned, reference = line.columns[f"tuned:{name}"], line.columns[f"reference:{name}"]
            assert isinstance(tuned, Preferred) and isinstance(reference, Preferred)
            wins += tuned.chosen - reference.chosen > tuned.rejected - reference.rejected
        assert found.column(f"reward:{name}").figures["preferred"].value == wins / 50
    tie = Preferred(chosen=-3.0, rejected=-3.0, tokens=(2, 2))
    both = replace(lines[0], columns={"tuned": tie, "reference": tie})
    assert said([both]).all.column("reward").figures["preferred"].value == 0.5


def test_an_interval_holds_its_figure_and_one_item_has_none_but_for_shares() -> None:
    for figures in (column.figures for group in said(made.lines(100)).groups for column in group.columns):
        for metric, figure in figures.items():
            assert figure.low <= figure.value + 1e-9 and figure.value <= figure.high + 1e-9, metric
    alone = said([question(1, {"base": answered(-2.0, right=True)})]).all.column("base").figures
    assert alone["nats"] == Estimate(0.5, None, None, 1)
    assert alone["right"].low == pytest.approx(0.2065, abs=1e-4) and alone["right"].high == 1


def test_differences_are_of_the_same_items_and_a_column_has_none_from_itself() -> None:
    found = said(made.lines(100))
    base, emulated = found.all.column("base"), found.all.column("emulated@1")
    assert base.to_base == {} and base.to_tuned.keys() == emulated.to_tuned.keys() - {
        "kl_base",
        "kl_upper",
        "same_base",
        "same_upper",
    }
    for metric, change in emulated.to_base.items():
        assert change.value == pytest.approx(emulated.figures[metric].value - base.figures[metric].value)
        assert change.low <= change.value + 1e-9 <= change.high + 2e-9
    # the items differ far more than the columns do on one item, so a paired interval is narrow
    widths = [
        each.high - each.low for each in (emulated.to_base["nats"], emulated.figures["nats"], base.figures["nats"])
    ]
    assert widths[0] < 0.8 * math.hypot(*widths[1:])


def test_a_metric_goes_over_the_items_that_have_it_in_all_columns() -> None:
    lines = [
        question(1, {"base": answered(-4.0), "tuned": answered(-2.0)}),
        question(2, {"base": answered(-8.0), "tuned": Answered(right=True)}),
        question(3, {"base": answered(-6.0), "tuned": answered(-2.0)}),
    ]
    found = said(lines).all
    assert found.column("base").figures["nats"].value == 10 / 8 and found.column("base").figures["nats"].n == 2


# --- the gap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0, 1.5, -0.5])
def test_a_known_share_of_the_gap_is_closed_under_both_definitions(share: float) -> None:
    rng = random.Random(2)
    lines = []
    for i in range(60):
        base, upper, tuned = -12 - rng.random(), -2 - rng.random(), -8 - rng.random()
        emulated = base + share * (upper - base)
        each = {"base": base, "tuned": tuned, "emulated@1": emulated, "upper": upper}
        lines.append(question(i, {name: answered(logprob) for name, logprob in each.items()}))
    found = said(lines).all
    gaps = {gap.definition: gap for gap in found.gaps if gap.metric == "nats"}
    large, small = gaps["proxy-tuning"], gaps["from the small tuned model"]
    assert large.closed.value == pytest.approx(share) and large.start == found.column("base").figures["nats"].value
    assert (large.closed.low, large.closed.high) == pytest.approx((share, share))
    value = {c: found.column(c).figures["nats"].value for c in ("tuned", "emulated@1", "upper")}
    expected = (value["emulated@1"] - value["tuned"]) / (value["upper"] - value["tuned"])
    assert small.closed.value == pytest.approx(expected) and small.closed.low < expected < small.closed.high


def test_no_share_is_told_where_the_ends_are_not_apart_or_the_wrong_way_round() -> None:
    for upper in (-12.0, -14.0):
        rng = random.Random(3)
        lines = [
            question(
                i, {n: answered(v + rng.gauss(0, 3)) for n, v in (("base", -12), ("emulated@1", -6), ("upper", upper))}
            )
            for i in range(30)
        ]
        assert {gap.closed for gap in said(lines).all.gaps if gap.metric == "nats"} == {None}


# --- groups -----------------------------------------------------------------------------------------------------------


def test_groups_are_the_lines_of_a_source_or_a_kind_alone() -> None:
    lines = made.lines(90)
    found = said(lines)
    assert [group.name for group in found.of("kind")] == ["knowledge", "behaviour"]
    assert [group.name for group in found.of("source")] == list(dict.fromkeys(line.source for line in lines))
    for group in found.groups[1:]:
        own = [line for line in lines if group.name in (line.source, line.kind)]
        assert group.n == len(own) == sum(group.shapes.values())
        alone = said(own).all
        for one, other in zip(group.columns, alone.columns, strict=True):
            assert {m: f.value for m, f in one.figures.items()} == {m: f.value for m, f in other.figures.items()}
    assert said(made.lines(6, shapes=("text",), kinds=(None,))).groups[1:] == ()


def test_headlines_say_most_about_their_items() -> None:
    names = {shape: said(made.lines(6, shapes=(shape,), kinds=(None,))).all.headline for shape in made.SHAPES}
    expected = {
        "question": "both",
        "choices": "accuracy_sum",
        "truth": "mc1",
        "preference": "preferred",
        "text": "nats",
    }
    assert names == expected


def test_lines_with_an_error_are_counted_and_left_out() -> None:
    lines = made.lines(30, failed=3)
    found = said(lines)
    assert (found.n, found.failed) == (30, 3)
    assert found.groups == said(lines[:30]).groups
    with pytest.raises(SettingError, match=r"(?s)Nothing was measured.*too long: 9 of 8"):
        said(lines[30:])
    with pytest.raises(SettingError, match="there are no items"):
        said([])


# --- the best strength ------------------------------------------------------------------------------------------------


def strengths(best: float, n: int = 40, noise: float = 0.0, betas: Sequence[float] = made.BETAS) -> list[Line]:
    rng = random.Random(1)
    lines = []
    for i in range(n):
        hard = rng.random()
        columns = {
            f"emulated@{beta:g}": answered(-4 * (hard + abs(beta - best)) - rng.gauss(0, noise)) for beta in betas
        }
        lines.append(question(i, {"base": answered(-4 * (hard + 3)), **columns}))
    return lines


def test_the_best_strength_is_found_and_follows_for_models_toml() -> None:
    found = said(strengths(0.5)).best
    assert (found.beta, found.over, found.n_chose, found.n_judged, found.edge) == (0.5, "answers", 20, 20, False)
    assert found.to_one.high < 0 and found.to_base.high < 0
    assert found.judged["emulated@0.5"].value < found.judged["emulated@1"].value < found.judged["base"].value
    (reward,) = tomllib.loads(found.toml)["rewards"]
    assert reward == {"name": "instruct", "tuned": "small-instruct", "reference": "small", "beta": 0.5}
    assert any("The best strength for right answers is 0.5" in line for line in said(strengths(0.5)).findings)


def test_a_strength_that_is_best_as_configured_changes_nothing() -> None:
    found = said(strengths(1.0)).best
    assert (found.beta, found.to_one, found.toml) == (1.0, None, "")


def test_each_rewards_beta_is_scaled_by_the_strength() -> None:
    lines = made.lines(40, shapes=("question",), rewards=("a", "b"))
    found = summary(lines, emulator="mine", rewards=made.pairs(("a", "b"))).best
    assert found is not None and found.beta == 0.75 and dict(found.rewards) == {"a": 0.75, "b": 0.6}


def test_a_strength_at_the_edge_is_told_and_a_pair_that_does_not_help_is_left() -> None:
    assert said(strengths(3.0)).best.edge
    findings = said(
        [replace(line, columns={**line.columns, "base": answered(-0.1)}) for line in strengths(0.5)]
    ).findings
    assert any("leave the pair" in line for line in findings)


def test_a_pair_that_is_left_has_no_line_for_models_toml() -> None:
    """Its strength would be written beside the advice not to use it."""
    lines = [replace(line, columns={**line.columns, "base": answered(-0.1)}) for line in strengths(0.5)]
    found = said(lines).best
    assert (found.beta, found.helps, found.toml) == (0.5, False, "")
    assert said(strengths(0.5)).best.helps


def test_the_judging_half_did_not_choose() -> None:
    """Where all strengths are equal but for noise, the chosen one looks good only to those that chose it."""
    luck = 0
    for seed in range(20):
        found = said(strengths(0.0, 40, 3.0, betas=(0.0, 1e-6, 2e-6, 3e-6, 4e-6)), seed=seed).best
        chosen = f"emulated@{found.beta:g}"
        judged = [each.value for column, each in found.judged.items() if column != "base"]
        mean = sum(judged) / len(judged)
        assert found.chose[chosen].value == min(each.value for each in found.chose.values())
        luck += found.judged[chosen].value < mean
    assert luck <= 12  # of items that are divided, one half's luck is the other's misfortune: few, not half of them


def test_too_few_items_or_strengths_choose_nothing_and_texts_choose_where_no_item_has_an_answer() -> None:
    assert said(strengths(0.5, 7)).best is None and said(strengths(0.5, betas=(1.0,))).best is None
    assert said(made.lines(20, shapes=("text",))).best.over == "texts"
    mixed = said(made.lines(60, shapes=("text", "question"))).best
    assert (mixed.over, mixed.n_chose + mixed.n_judged) == ("answers", 30)
    assert said([replace(line, columns={"base": Answered(right=True)}) for line in strengths(0.5)]).best is None


# --- where the pair acts ----------------------------------------------------------------------------------------------


def test_the_shares_of_classes_and_positions_are_plain_sums() -> None:
    facts = (
        TokenFact(" The", -1.0, 2.0, True),
        TokenFact(" the", -1.0, -0.5, False),
        TokenFact(" city", -2.0, 0.25, False),
        TokenFact("\n", -2.0, 0.25, True),
        TokenFact("7", -2.0, 1.0, False),
        TokenFact("", -1.0, -4.0, True),
    )
    lines = [replace(question(i, {"base": answered(-1)}), tokens=facts) for i in range(3)]
    acts = said(lines).acts
    assert acts.tokens == 18 and acts.intervention.value == 0.5
    classes = {part.name: (part.tokens, part.acts, part.mean, part.signed, part.moved) for part in acts.classes}
    assert classes == {
        "content word": (3, pytest.approx(0.25 / 8), 0.25, 0.25, 0.0),
        "function word": (3, pytest.approx(0.5 / 8), 0.5, -0.5, 0.0),
        "digit": (3, pytest.approx(1 / 8), 1.0, 1.0, 0.0),
        "layout": (3, pytest.approx(0.25 / 8), 0.25, 0.25, 1.0),
        "first token": (3, pytest.approx(2 / 8), 2.0, 2.0, 1.0),
        "end of answer": (3, pytest.approx(4 / 8), 4.0, -4.0, 1.0),
    }
    positions = {part.name: (part.tokens, part.acts) for part in acts.positions}
    assert positions == {"0": (3, 0.25), "1-3": (9, 0.125), "4-7": (6, 0.625)}
    assert sum(part.share for part in acts.classes) == pytest.approx(1)
    assert [(token.token, token.n, token.mean, token.total) for token in acts.moved[:2]] == [
        ("(end of answer)", 3, -4.0, 12.0),
        (" The", 3, 2.0, 6.0),
    ]
    example = acts.moved[1].examples[0]
    assert (example.where, example.before, example.token, example.after) == ("q:0", "", " The", " the city\n7")


def test_a_text_has_no_first_token_of_an_answer_and_its_positions_do_not_count_among_answers() -> None:
    lines = made.lines(40, shapes=("text", "question"))
    acts = said(lines).acts
    answers = [line for line in lines if line.shape == "question"]
    assert sum(part.tokens for part in acts.positions) == sum(len(line.tokens) for line in answers)
    assert next(part.tokens for part in acts.classes if part.name == "first token") == len(answers)


def test_a_high_intervention_rate_is_warned_of_with_its_sources() -> None:
    calm = made.lines(20, shapes=("question",))
    moved = [
        replace(line, tokens=tuple(t._replace(moved=i % 3 == 0) for i, t in enumerate(line.tokens))) for line in calm
    ]
    assert said(calm).acts.warning is None
    found = said(moved)
    assert found.acts.warning in found.findings and "arXiv" in found.acts.warning
    assert found.acts.intervention.low < 0.36 < found.acts.intervention.high + 0.05


def test_lines_without_tokens_say_nothing_of_where_the_pair_acts() -> None:
    assert said([question(1, {"base": answered(-1)})]).acts is None


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_tree_is_json_and_the_same_lines_say_the_same_also_after_json() -> None:
    for found in made.several():
        json.dumps(found.to_json(), allow_nan=False)
    lines = made.lines(60)
    again = [Line.from_json(json.loads(json.dumps(line.to_json()))) for line in lines]
    assert said(again).to_json() == said(lines).to_json()


def test_what_is_not_finite_is_null_in_json() -> None:
    found = said([question(i, {"base": answered(-math.inf)}) for i in range(4)])
    assert found.to_json()["groups"][0]["columns"][0]["figures"]["nats"]["value"] is None


def test_few_items_are_not_called_sure() -> None:
    columns = {"base": answered(-9, right=False), "emulated@1": answered(-1, right=True)}
    few, many = ([question(i, columns) for i in range(n)] for n in (4, 40))
    assert "too few" in said(few).findings[0] and "better than the base" in said(many).findings[0]


def test_knowledge_and_behaviour_are_told_against_each_other() -> None:
    columns = {
        "base": answered(-9, right=False),
        "tuned": answered(-5, right=True),
        "emulated@1": answered(-1, right=True),
    }
    rows = [question(i, columns, "behaviour") for i in range(20)]
    known = {
        "base": answered(-9, right=True),
        "tuned": answered(-5, right=False),
        "emulated@1": answered(-1, right=True),
    }
    rows += [question(i, known, "knowledge") for i in range(20, 40)]
    (told,) = (line for line in said(rows).findings if "EFT" in line)
    assert "gains behaviour +100.0 points (+100.0 to +100.0) over the base" in told
    assert "and knowledge +100.0 points (+100.0 to +100.0) over the small tuned model." in told
    assert not any("EFT" in line for line in said(rows[:20]).findings)
    assert not any("EFT" in line for line in said([*rows[:20], *rows[20:25]]).findings), "five items say nothing"
    columns = {"base": answered(-9), "tuned": answered(-5), "emulated@1": answered(-1)}
    losses = [replace(row, columns=columns) for row in rows]
    assert any("gains behaviour +2 nats a token" in line for line in said(losses).findings)


def test_many_kinds_are_told_together() -> None:
    columns = {"base": answered(-9, right=False), "emulated@1": answered(-1, right=True)}
    rows = [question(i, columns, f"kind {i % 5}") for i in range(100)]
    rows[0] = replace(rows[0], kind="one alone")
    found = [line for line in said(rows).findings if line.startswith("On ")]
    assert found == [
        "On one alone, there are too few items to tell it from the base.",
        "On kind 1, kind 2, kind 3, kind 4 and kind 0, emulated@1 is better than the base.",
    ]


def test_what_is_so_on_all_kinds_and_against_both_others_is_one_sentence() -> None:
    columns = {
        "base": answered(-9, right=False),
        "tuned": answered(-5, right=False),
        "emulated@1": answered(-1, right=True),
    }
    rows = [question(i, columns, f"kind {i % 4}") for i in range(80)]
    found = [line for line in said(rows).findings if line.startswith("On ")]
    assert found == ["On all 4 kinds, emulated@1 is better than the base and the small tuned model."]


def test_with_several_rewards_the_tuned_model_that_is_compared_with_is_named() -> None:
    columns = {
        "base": answered(-9, right=False),
        "tuned:law": answered(-5, right=False),
        "tuned:wit": answered(-5, right=True),
        "emulated@1": answered(-1, right=True),
    }
    (first, *_) = said([question(i, columns) for i in range(40)]).findings
    assert "the small tuned model of law 0.0%" in first
    assert first.endswith("It is better than the base and the small tuned model of law.")


def test_unlikely_numbers_of_choices_and_missing_pieces_are_no_trouble() -> None:
    one = Chosen(logprobs=(-1.0,), tokens=(1,), bytes=(0,))
    line = Line(
        where="c:1",
        source="c",
        kind=None,
        shape="choices",
        prompt="?",
        answers=("a",),
        right=frozenset({0}),
        columns={"base": one},
    )
    assert said([line]).all.column("base").figures["accuracy_bytes"].value == 1
