"""Trains and exports the demo's models: `python -m tools.train_demo`. The package's docstring logs the results."""

import argparse
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer

from . import corpus, evaluate, export, phrases, vocabulary
from .cities import all_cities, all_countries, split
from .model import LARGE, SMALL, Llama, Shape
from .train import LARGE_PLAN, SMALL_PLAN, TUNING, Plan, pretrain, tune

HERE = Path(__file__).parents[2]
SHAPES = {"large": LARGE, "small": SMALL}

STAGES = ("large", "small", "tune", "export", "evaluate")


class Family:
    """The stages of one run. Each stage reads the files that earlier stages wrote to the folder `work`."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.seed = work, seed
        work.mkdir(parents=True, exist_ok=True)
        self.cities = all_cities()
        self.split = split(self.cities)
        countries = all_countries()
        self.corpus = corpus.Corpus(self.cities + countries, self.split.asked + countries)
        self.tuned_on = self.split.tuned + countries[::4]
        path = work / "tokenizer.json"
        if not path.exists():
            vocabulary.train(islice(self.corpus.documents(random.Random(0)), 30_000)).save(str(path))
        self.tokenizer: Tokenizer = vocabulary.load(path)

    def encode(self, texts: list[str]) -> list[list[int]]:
        return vocabulary.encode(self.tokenizer, texts)

    def known_examples(self) -> list[tuple[list[int], int]]:
        """[(tokens, how many of them are the value), ...]: development questions and answers, cut after the value."""
        examples = []
        opening = phrases.STYLE.partition(" {v}")[0]
        for asked in corpus.questions(self.split.development, random.Random(0)):
            city = next(c for c in self.split.development if c.name == asked["city"])
            kind = str(asked["kind"])
            prompt = corpus.user(str(asked["question"])) + opening
            whole, part = self.encode([f"{prompt} {corpus.spoken(kind, city.facts[kind])}", prompt])
            examples.append((whole, len(whole) - len(part)))
        return examples

    def base(self, name: str, shape: Shape, plan: Plan) -> None:
        torch.manual_seed(self.seed)
        model = Llama(shape, vocabulary.SIZE)
        rng = random.Random(f"{name} {self.seed}")

        def rows(length: int) -> Iterator[list[int]]:
            return corpus.rows(self.corpus.documents(rng), self.encode, 0, length)

        pretrain(model, rows, plan, name, self.known_examples())
        torch.save(model.state_dict(), self.work / f"{name}-base.pt")

    def tuned(self, name: str, shape: Shape) -> None:
        torch.manual_seed(self.seed)
        model = Llama(shape, vocabulary.SIZE)
        model.load_state_dict(torch.load(self.work / f"{name}-base.pt"))
        rng = random.Random(f"tune {name} {self.seed}")
        texts = corpus.tuning_examples(self.tuned_on, rng, TUNING.examples)
        prompts, answers = self.encode([p for p, _ in texts]), self.encode([a + corpus.END_OF_TURN for _, a in texts])
        tune(model, list(zip(prompts, answers, strict=True)), TUNING, rng)
        torch.save(model.state_dict(), self.work / f"{name}-tuned.pt")

    def export(self, out: Path) -> None:
        """Write the four GGUF files and the questions to the folder `out`."""
        out.mkdir(parents=True, exist_ok=True)
        for size, shape in SHAPES.items():
            for stage in ("base", "tuned"):
                weights = torch.load(self.work / f"{size}-{stage}.pt")
                path = out / f"{size}-{stage}.gguf"
                export.write(path, f"eftlocal demo {size} {stage}", shape, weights, self.tokenizer, stage == "tuned")
        questions = corpus.questions(self.split.held_out, random.Random("questions"))
        random.Random("order").shuffle(questions)
        written = {
            "attribution": export.ATTRIBUTION,
            "development": corpus.questions(self.split.development, random.Random("development")),
            "questions": questions,
        }
        lines = ",\n".join(json.dumps(key) + ": " + json_lines(value) for key, value in written.items())
        (out / "questions.json").write_text("{\n" + lines + "\n}\n")


def json_lines(value: object) -> str:
    """JSON; a list has one line for each item, so that a diff is readable."""
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo", description="Train and export the demo family.")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices but the split of the cities")
    parser.add_argument("--work", type=Path, default=HERE / "build" / "train_demo", help="folder for checkpoints")
    parser.add_argument("--out", type=Path, default=HERE / "demo", help="folder for the files that ship")
    parser.add_argument("--only", nargs="*", choices=STAGES, default=STAGES, help="stages to run")
    parser.add_argument("--questions", type=int, default=300, help="number of questions to measure on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    family = Family(arguments.work, arguments.seed)
    if "large" in arguments.only:
        family.base("large", LARGE, LARGE_PLAN)
    if "small" in arguments.only:
        family.base("small", SMALL, SMALL_PLAN)
    if "tune" in arguments.only:
        for size, shape in SHAPES.items():
            family.tuned(size, shape)
    if "export" in arguments.only:
        family.export(arguments.out)
    if "evaluate" in arguments.only:
        evaluate.measure(arguments.out, evaluate.load_questions(arguments.out, "development"))
        questions = evaluate.load_questions(arguments.out)[: arguments.questions]
        evaluate.measure(arguments.out, questions)
        evaluate.measure(arguments.out, questions, seed=arguments.seed)


if __name__ == "__main__":
    main()
