"""Constrained answers with a base on a server, and with the base here: python -m tools.check_constraints EMULATOR

A real llama-server (package xllamacpp) serves the emulator's base. Prompts are answered under a JSON schema, a regex, a
choice and a grammar. What is shown of each: how many texts are those of the base here (`as here`; the server's build of
llama.cpp rounds otherwise, so near ties differ), and of whole rows (`as before`, with `--whole`), how many rows
were asked for, how many of them again with more tokens, and how many of those whole; tokens a second, and with
`--whole` those of rows that are all whole, as they were for every constrained token before.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eftlocal import Constraint, Emulator
from eftlocal.catalog import models as catalog
from eftlocal.decoding.generation import Generation, Reply
from eftlocal.runtime.remote.context import RemoteContext
from tests import llama_server
from tools.check_partial import PROMPTS

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 60},
        "topics": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 1, "maxItems": 3},
        "difficulty": {"enum": ["easy", "medium", "hard"]},
        "minutes": {"type": "integer", "minimum": 1, "maximum": 500},
    },
    "required": ["title", "topics", "difficulty", "minutes"],
}
CONSTRAINTS = {
    "schema": Constraint.json_schema(SCHEMA),
    "regex": Constraint.regex(r"[A-Z][a-z]+( [a-z]+){2,8}\. \([0-9]{4}-[0-9]{2}\)"),
    "choice": Constraint.choice(["yes", "no", "it depends", "I would rather not say", "zebra crossing"]),
    "grammar": Constraint.grammar('root ::= "- " item ("\\n- " item){1,2}\nitem ::= [A-Za-z ]{3,30} ": " [0-9]{1,3}'),
}


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the rows that servers are asked for."""
    found: Counter[str] = Counter()
    feed, more = RemoteContext.feed, RemoteContext.more

    def feeding(self: RemoteContext, feeds: Any) -> Any:
        for each in feeds:
            found["rows"] += each[2]
            found["whole"] += each[2] if each[3] else 0
        return feed(self, feeds)

    def asking(self: RemoteContext, sequence: int, tokens: Any, known: int) -> Any:
        row = more(self, sequence, tokens, known)
        if row is not None:
            found["more"] += 1
            found["whole"] += bool((row > -1e30).all())
        return row

    with patch.object(RemoteContext, "feed", feeding), patch.object(RemoteContext, "more", asking):
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emulator")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--top", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=80, help="of an answer")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--whole", action="store_true", help="also with whole rows only")
    given = parser.parse_args()
    cat = catalog.load(given.models)
    emulator = cat.emulators[given.emulator]
    file = cat.models[emulator.base].file
    assert isinstance(file, Path)
    settings = {"max_tokens": given.tokens, "temperature": given.temperature}
    with Emulator.load(given.emulator, models=cat) as here:
        wanted = {
            name: [here.generate(p, constraint=c, seed=i, **settings) for i, p in enumerate(PROMPTS[: given.prompts])]
            for name, c in CONSTRAINTS.items()
        }
    with llama_server.running(file, context=2048) as server:
        base = catalog.Model(name="far", file=catalog.Server(url=server.url, top=given.top))
        far = replace(emulator, name="far", base="far")
        cat = replace(cat, models={**cat.models, "far": base}, emulators={**cat.emulators, "far": far})
        with Emulator.load("far", models=cat) as there:
            for name, constraint in CONSTRAINTS.items():
                before = wanted[name]
                for whole in (True, False) if given.whole else (False,):
                    before = _look(there, name, constraint, settings, {"here": wanted[name], "before": before}, whole)


def _look(
    there: Emulator,
    name: str,
    constraint: Constraint,
    settings: dict[str, Any],
    wanted: dict[str, list[Reply]],
    whole: bool,
) -> list[Reply]:
    """Answers, and shows what they took. wanted: the answers of the base here, and those of the whole rows."""
    with ExitStack() as stack:
        if whole:
            stack.enter_context(patch.object(Generation, "needs_whole", True))
        found = stack.enter_context(counted())
        began = time.perf_counter()
        replies = [
            there.generate(prompt, constraint=constraint, seed=i, **settings)
            for i, prompt in enumerate(PROMPTS[: len(wanted["here"])])
        ]
        seconds = time.perf_counter() - began
    tokens = sum(len(reply.tokens) for reply in replies)
    here, before = (sum(a.text == b.text for a, b in zip(replies, each, strict=True)) for each in wanted.values())
    kept = [pair for reply in replies for pair in reply.left_out]
    worst = max((bound for _, bound in kept), default=0.0)
    mean = sum(bound for _, bound in kept) / max(1, len(kept))
    print(
        f"{name:8} {'whole' if whole else 'top':5}: of {len(replies)} texts {here} as here, {before} as before, "
        f"{tokens} tokens, {found['rows']} rows, {found['more']} again, {found['whole']} whole; "
        f"{tokens / seconds:.1f} tokens/s; bound {mean:.4f}, worst {worst:.3f}",
        flush=True,
    )
    return replies


if __name__ == "__main__":
    main()
