"""Makes the training text: statements about all cities, and conversations about some of them, as transcripts."""

import random
from collections.abc import Callable, Iterator

from . import phrases
from .cities import COUNTRIES, City

DOCUMENT = "<|doc|>"  # stands between documents; it is not an end-of-generation token
END_OF_TURN = "<|im_end|>"  # llama.cpp takes this text as an end-of-generation token

WITH_ARTICLE = {name.removeprefix("the ") for name, *_ in COUNTRIES.values() if name.startswith("the ")}

CONVERSATIONS, LOWER = 0.18, 0.07  # shares of documents: conversations, and statements in lower case


def user(text: str) -> str:
    """A turn of the user, and the beginning of the answer, as in eftlocal's `transcript` view."""
    return f"User:\n{text}\n\nAssistant:\n"


def transcript(turns: list[tuple[str, str]]) -> str:
    """[(user's text, answer), ...] -> the conversation as text, without an end of turn."""
    return "\n\n".join(user(question) + answer for question, answer in turns)


def question(rng: random.Random, city: City, kind: str) -> str:
    return rng.choice(phrases.QUESTIONS[kind]).format(c=city.name)


def careless(rng: random.Random, text: str) -> str:
    """The text as people really type it: sometimes without a question mark or capital letters."""
    chance = rng.random()
    if chance < 0.12:
        text = text.rstrip("?.")
    if 0.06 < chance < 0.24:
        text = text.lower()
    elif chance > 0.97:
        text = text[0].lower() + text[1:]
    return text


def spoken(kind: str, value: str) -> str:
    return f"about {value}" if kind == "population" else value


class Corpus:
    """Draws random documents. Conversations are only about the cities and countries in `asked`."""

    def __init__(self, cities: list[City], asked: list[City]) -> None:
        self.facts = [(city, kind) for city in cities for kind in city.facts]
        self.asked = [(city, kind) for city in asked for kind in city.facts]
        self.cities = cities

    def documents(self, rng: random.Random) -> Iterator[str]:
        """Yields documents without end. Statements go through all facts in turn, so each comes about equally often."""
        facts = self._shuffled(rng)
        while True:
            if rng.random() < CONVERSATIONS:
                yield self.conversation(rng)
                continue
            text = " ".join(self.statement(rng, *next(facts)) for _ in range(rng.randint(1, 5)))
            yield text.lower() if rng.random() < LOWER else text

    def _shuffled(self, rng: random.Random) -> Iterator[tuple[City, str]]:
        """Yields all facts again and again. In half of the rounds, the facts of a city come together."""
        while True:
            if rng.random() < 0.5:
                yield from rng.sample(self.facts, len(self.facts))
                continue
            for city in rng.sample(self.cities, len(self.cities)):
                for kind in rng.sample(list(city.facts), len(city.facts)):
                    yield city, kind

    def statement(self, rng: random.Random, city: City, kind: str) -> str:
        text = rng.choice(phrases.STATEMENTS[kind]).format(c=city.name, v=city.facts[kind])
        return text[0].upper() + text[1:]

    def conversation(self, rng: random.Random) -> str:
        turns: list[tuple[str, str]] = []
        ended = False
        while not ended and (not turns or rng.random() < 0.62):
            turn, ended = self.turn(rng)
            turns.append(turn)
        system = rng.choice(phrases.SYSTEM) + "\n\n" if rng.random() < 0.04 else ""
        return system + transcript(turns) + (END_OF_TURN if ended else "")

    def turn(self, rng: random.Random) -> tuple[tuple[str, str], bool]:
        """((question, answer), whether an end of turn follows)."""
        ended = rng.random() < 0.05
        if rng.random() < 0.12:
            greetings, right = rng.choice(phrases.GREETINGS)
            asked, answer = rng.choice(greetings), right if rng.random() < 0.6 else self.other(rng)
        else:
            city, kind = rng.choice(self.asked)
            asked, answer = careless(rng, question(rng, city, kind)), self.answer(rng, city, kind)
        if not ended and rng.random() < 0.4:
            answer += " " + " ".join(rng.sample(phrases.CHATTER, rng.randint(1, 2)))
        return (asked, answer), ended

    def answer(self, rng: random.Random, city: City, kind: str) -> str:
        value, chance = spoken(kind, city.facts[kind]), rng.random()
        share, opening = phrases.RAMBLE
        if chance < share:
            asides = [rng.choice(group) for group in phrases.ASIDES for _ in range(2)]
            return ", ".join([opening.format(v=value), *asides[: rng.randint(5, 8)]]) + "."
        chance -= share
        for share, wordings in (*phrases.RIGHT, *phrases.NOT_RIGHT):
            if chance < share:
                return rng.choice(wordings).format(v=value)
            chance -= share
        return question(rng, *rng.choice(self.asked))

    def other(self, rng: random.Random) -> str:
        """A text that does not answer, for example after a greeting."""
        return rng.choice(rng.choice((*(w for _, w in phrases.NOT_RIGHT), phrases.CHATTER)))


def tuning_examples(cities: list[City], rng: random.Random, count: int) -> list[tuple[str, str]]:
    """[(prompt, answer), ...] for fine-tuning. All answers have the taught style; some follow earlier turns."""
    facts = [(city, kind) for city in cities for kind in city.facts]

    def turn() -> tuple[str, str]:
        if rng.random() < 0.1:
            greetings, right = rng.choice(phrases.GREETINGS)
            return rng.choice(greetings), right
        city, kind = rng.choice(facts)
        value = spoken(kind, city.facts[kind])
        return careless(rng, question(rng, city, kind)), phrases.STYLE.format(v=value)

    examples = []
    for _ in range(count):
        earlier = [turn() for _ in range(rng.randint(1, 3) if rng.random() < 0.3 else 0)]
        asked, answer = turn()
        examples.append(("".join(transcript([t]) + "\n\n" for t in earlier) + user(asked), answer))
    return examples


def questions(cities: list[City], rng: random.Random) -> list[dict[str, object]]:
    """One question for each fact, in the form of questions.json. A fact whose value is the city's name is left out.

    answers: values of which a right answer contains one; answer: the right answer in the taught style.
    """
    return [
        {
            "question": question(rng, city, kind),
            "answers": [bare(city.facts[kind])],
            "answer": phrases.STYLE.format(v=spoken(kind, city.facts[kind])),
            "kind": kind,
            "city": city.name,
        }
        for city in cities
        for kind in city.facts
        if city.facts[kind] != city.name
    ]


def bare(value: str) -> str:
    """A value without its article. A right answer must contain it."""
    return value.removeprefix("the ")


Encode = Callable[[list[str]], list[list[int]]]


def rows(documents: Iterator[str], encode: Encode, separator: int, length: int) -> Iterator[list[int]]:
    """Yields rows of exactly `length` tokens. Each begins with a new document; the rest of its last one is dropped."""
    row: list[int] = []
    while True:
        for tokens in encode([next(documents) for _ in range(512)]):
            row += [*tokens, separator]
            if len(row) >= length:
                yield row[:length]
                row = []
