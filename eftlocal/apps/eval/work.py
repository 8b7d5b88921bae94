"""An evaluation as a run that can be killed and continued: items in, lines of items.jsonl out."""

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eftlocal.decoding.settings import Dials
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError
from eftlocal.evaluation.columns import Column
from eftlocal.evaluation.items import Item, fields
from eftlocal.evaluation.measure import Measured, Measuring
from eftlocal.runs import work as runs
from eftlocal.runs.fingerprint import models
from eftlocal.runs.lines import LineError
from eftlocal.runs.output import encoded

__all__ = ["Items", "Record", "Work"]

COLUMNS_OWN: Final = (
    "alone",
    "beta",
    "logprobs",
    "constraint",
)  # settings that each column has, or that have no effect


@dataclass(frozen=True, slots=True)
class Record:
    """One item. `line` is its number in the data, from 1."""

    line: int
    item: Item
    digest: str
    fields: Mapping[str, object]
    samples: int = 1

    @classmethod
    def of(cls, number: int, item: Item) -> "Record":
        found = fields(item)
        text = json.dumps(found, sort_keys=True)
        return cls(number, item, hashlib.sha256(text.encode()).hexdigest()[:16], found)


class Items:
    """The items of an evaluation, as the runner reads them (runs.work.Input)."""

    rereadable = True
    waits = False

    def __init__(self, items: Sequence[tuple[int, Item]], name: str, paths: Sequence[str]) -> None:
        self.name = name
        self.paths = tuple(paths)
        self._records = {number: Record.of(number, item) for number, item in items}

    def records(self) -> Generator[Record | LineError, None, None]:
        yield from self._records.values()

    def place(self, line: int) -> str:
        return self._records[line].item.where if line in self._records else self.name

    def line(self, record: Record | LineError, sample: int | None, own: Mapping[str, object]) -> bytes:
        return encoded({"index": record.line, "digest": record.digest, **record.fields, **own})

    def read_back(self, line: Mapping[str, object]) -> Record | LineError:
        return next(iter(self._records.values()))  # settings do not differ between items


class Work:
    """Measures items. All lines say how they were made with the same words."""

    unit = "item"

    def __init__(
        self,
        emulator: Emulator,
        columns: Sequence[Column],
        *,
        seed: int,
        max_tokens: int | None,
        answers: Dials,
        parallel: int | None,
        generates: bool,
    ) -> None:
        dials: Dials = {"seed": seed, **answers}
        self._measuring = Measuring(
            emulator, columns, answers=dials, max_tokens=max_tokens, parallel=parallel, generates=generates
        )
        self._items: dict[int, runs.Item[Record]] = {}
        self._origin = _origin(emulator, columns, self._measuring.answers, max_tokens, generates=generates)

    @property
    def room(self) -> int:
        return self._measuring.room

    def __len__(self) -> int:
        return len(self._measuring)

    def origin(self, record: Record | None) -> dict[str, object]:
        return self._origin

    def add(self, item: runs.Item[Record]) -> runs.Finished[Record] | None:
        refused = self._measuring.add(item.place, item.record.item)
        if refused is None:
            self._items[item.place] = item
            return None
        assert isinstance(refused.line, EftError)
        return runs.Finished(item, refused.line)

    def step(self) -> list[runs.Finished[Record]]:
        return [self._finished(measured) for measured in self._measuring.step()]

    def cancel(self) -> None:
        self._measuring.cancel()

    def close(self) -> None:
        self._measuring.close()

    def _finished(self, measured: Measured) -> runs.Finished[Record]:
        item, line = self._items.pop(measured.number), measured.line
        result = line if isinstance(line, EftError) else line.measured()
        return runs.Finished(item, result, measured.tokens)


def _origin(
    emulator: Emulator, columns: Sequence[Column], answers: Dials, max_tokens: int | None, *, generates: bool
) -> dict[str, object]:
    """The fields that say how a line is made."""
    found: dict[str, object] = {"columns": [column.name for column in columns]}
    if generates:
        dials = emulator.settings.turned(**answers).dials()
        found |= {name: value for name, value in dials.items() if name not in COLUMNS_OWN}
        found["logit_bias"] = {str(token): bias for token, bias in emulator.settings.sampling.logit_bias.items()}
        found["max_tokens"] = max_tokens
    found["mix"] = {name: emulator.settings.mix.get(name, beta) for name, beta in emulator.betas.items()}
    found["reward_top_p"] = emulator.settings.reward_top_p
    if (day := emulator.members.date) is not None:
        found["date"] = day.isoformat()
    found |= {"system": emulator.members.system, "context": emulator.context, "kv_type": emulator.kv_type}
    settings = {name: value for name, value in found.items() if value is not None}
    described = models(emulator.members.specs, emulator.members.views)
    return {"settings": settings, "emulator": emulator.name, "models": described}
