"""Makes up lines of an evaluation without a model: all shapes, kinds, several rewards, with and without an upper."""

import random
from collections.abc import Iterator, Sequence

from eftlocal.catalog.entries import Reward
from eftlocal.evaluation.line import Answered, Apart, Chosen, Column, Likelihood, Line, Preferred, TokenFact
from eftlocal.evaluation.results import Evaluation
from eftlocal.evaluation.summary import summary

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
SHAPES = ("question", "choices", "truth", "preference", "text")
KINDS = ("knowledge", "behaviour", None)
CITIES = ("Lyon", "Turin", "Malmö", "Gdańsk", "京都", "São Paulo")
PIECES = (
    *(" The", " city", " of", " {}", " has", " about", " ", "5", "2", "0", ",", "0", "0", "0", " people"),
    *(".", "\n\n", "-", " **", "It", "**", " isn", "'t", " the", " large", "st", ".", ""),
)


def lines(
    n: int = 60,
    *,
    shapes: Sequence[str] = SHAPES,
    kinds: Sequence[str | None] = KINDS,
    rewards: Sequence[str] = ("instruct",),
    betas: Sequence[float] = BETAS,
    upper: bool = True,
    failed: int = 0,
    seed: int = 0,
) -> list[Line]:
    """n lines, the shapes and kinds in turn, and `failed` lines with an error. `truth` is choices as TruthfulQA's.

    The emulator is best at the strength 0.75, the base knows, the tuned model behaves, and the upper one does both.
    """
    rng = random.Random(seed)
    made = [_line(i, shapes[i % len(shapes)], kinds[i % len(kinds)], rewards, betas, upper, rng) for i in range(n)]
    broken = Line(where="", source="questions.jsonl", kind=None, shape="question", prompt="?", error="too long: 9 of 8")
    return made + [broken] * failed


def evaluation(n: int = 60, **options: object) -> Evaluation:
    """What made-up lines say."""
    names = options.get("rewards", ("instruct",))
    assert isinstance(names, tuple)
    return summary(
        lines(n, **options),  # type: ignore[arg-type]
        emulator="mine",
        rewards=pairs(names),
        settings={"data": ["questions.jsonl", "mc.jsonl"], "betas": list(BETAS), "seed": 0},
        models={"base": {"name": "big", "file": "big.gguf", "sha256": "0" * 16}},
        seed=0,
    )


def pairs(names: Sequence[str]) -> tuple[Reward, ...]:
    """Rewards of these names, as a models.toml has them."""
    return tuple(
        Reward(name=name, tuned=f"small-{name}", reference="small", beta=1 - 0.2 * i) for i, name in enumerate(names)
    )


def column_names(rewards: Sequence[str], betas: Sequence[float], *, upper: bool) -> list[str]:
    """The columns that a run has, in its order."""
    several = [f":{name}" for name in rewards] if len(rewards) > 1 else [""]
    small = [f"{role}{name}" for name in several for role in ("tuned", "reference")]
    return ["base", *small, *(f"emulated@{beta:g}" for beta in betas), *(["upper"] if upper else [])]


def tokens(rng: random.Random, n: int | None = None) -> tuple[TokenFact, ...]:
    """Facts of an answer's tokens: the pair acts at the beginning and at the end."""
    city = rng.choice(CITIES)
    pieces = [piece.format(city) for piece in PIECES[: n or len(PIECES)]]
    return tuple(
        TokenFact(piece, -rng.expovariate(0.7), rng.gauss(0, 4 if i == 0 or not piece else 1), rng.random() < 0.15)
        for i, piece in enumerate(pieces)
    )


def _line(
    i: int,
    shape: str,
    kind: str | None,
    rewards: Sequence[str],
    betas: Sequence[float],
    upper: bool,
    rng: random.Random,
) -> Line:
    source = {"question": "questions.jsonl", "text": "wiki.txt", "preference": "pairs.jsonl"}.get(shape, f"{shape}.csv")
    names = column_names(rewards, betas, upper=upper)
    n = rng.randint(3, 5)
    right = {"choices": frozenset({rng.randrange(n)}), "truth": frozenset(range(2))}.get(shape, frozenset())
    texts = tuple(f"{rng.randint(1, 900)},000 people" for _ in range(n))
    answers = {"text": (), "preference": texts[:2], "question": texts[:1]}.get(shape, texts)
    hard = rng.random()  # shared by the columns, so that they differ less than the items do
    facts = tokens(rng)
    return Line(
        where=f"{source}:{i + 1}",
        source=source,
        kind=kind,
        shape="choices" if shape == "truth" else shape,  # type: ignore[arg-type]
        prompt=f"How large is {rng.choice(CITIES)}?",
        answers=answers,
        right=right,
        columns={name: _column(shape, name, n, sorted(right), hard, len(facts), upper, rng) for name in names},
        tokens=facts,
    )


def _loss(name: str, hard: float, rng: random.Random) -> float:
    """Nats a token of a right answer in this column."""
    role, _, beta = name.partition("@")
    role = role.partition(":")[0]
    own = {"base": 2.0, "tuned": 1.6, "reference": 2.4, "upper": 0.5}.get(role)
    level = 0.7 + abs(float(beta) - 0.75) if own is None else own
    return level * (0.5 + hard) + rng.uniform(0, 0.1)


def _column(
    shape: str, name: str, n: int, right: Sequence[int], hard: float, n_tokens: int, upper: bool, rng: random.Random
) -> Column:
    loss = _loss(name, hard, rng)
    apart = _apart(name, n_tokens, upper, rng) if name.startswith("emulated@") else None
    if shape == "preference":
        chosen, rejected = (-n_tokens * (loss + rng.gauss(at, 0.3)) for at in (0, 0.2))
        return Preferred(chosen=chosen, rejected=rejected, tokens=(n_tokens, n_tokens), apart=apart)
    if shape in ("choices", "truth"):
        sizes = [rng.randint(3, 9) for _ in range(n)]
        logprobs = [-size * (loss + rng.gauss(0 if i in right else 0.2, 0.3)) for i, size in enumerate(sizes)]
        return Chosen(
            logprobs=tuple(logprobs), tokens=tuple(sizes), bytes=tuple(4 * size for size in sizes), apart=apart
        )
    likelihood = Likelihood(logprob=-n_tokens * loss, tokens=n_tokens, bytes=4 * n_tokens, apart=apart)
    if shape == "text":
        return likelihood
    ends = not name.startswith(("base", "reference")) or rng.random() < 0.1
    return Answered(
        likelihood=likelihood,
        text="About 520,000 people." if ends else "About 520,000 people.\n\nUser:\nAnd **Turin**?",
        right=rng.random() < 0.9 - 0.3 * loss,
        ended=ends,
        length=rng.randint(5, 12) if ends else 32,
    )


def _apart(name: str, positions: int, upper: bool, rng: random.Random) -> Apart:
    beta = float(name.partition("@")[2])
    same = round(positions * max(0.4, 1 - 0.15 * beta))
    return Apart(
        positions=positions,
        kl_base=positions * 0.3 * beta * rng.uniform(0.8, 1.2),
        same_base=same,
        kl_upper=positions * (0.1 + abs(beta - 0.75)) * rng.uniform(0.8, 1.2) if upper else None,
        same_upper=round(0.8 * positions) if upper else None,
    )


def several() -> Iterator[Evaluation]:
    """Evaluations of every outline: all shapes, one shape, several rewards, no upper model, one item, no emulation."""
    yield evaluation()
    yield evaluation(40, shapes=("question",), kinds=(None,), upper=False)
    yield evaluation(30, rewards=("helpful", "harmless"), failed=2)
    yield evaluation(1, shapes=("text",), kinds=(None,), upper=False)
    yield evaluation(9, betas=(), upper=False)
