"""One run of `eftlocal tune`: data and models in, a trained file out; what was interrupted goes on."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Final

from eftlocal.apps.common import size
from eftlocal.apps.tune import check, setup
from eftlocal.apps.tune.check import Prepared
from eftlocal.apps.tune.data import Data, Split, read, split
from eftlocal.apps.tune.entry import entry
from eftlocal.apps.tune.options import Options
from eftlocal.apps.tune.report import Told, say, span
from eftlocal.apps.tune.setup import Setup
from eftlocal.apps.tune.stop import Stop
from eftlocal.apps.tune.verdict import Verdict, judge, table
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog
from eftlocal.errors import EftError, FitError, SettingError, TrainingError
from eftlocal.interrupt import INTERRUPTED
from eftlocal.runs.examples import Pair
from eftlocal.runs.lines import LineError
from eftlocal.runtime.machine import here, usable_cores
from eftlocal.training import checkpoint, output, parity, weights
from eftlocal.training.examples import Example
from eftlocal.training.here import use_threads, version
from eftlocal.training.memory import Way, estimate, ways
from eftlocal.training.network import Network
from eftlocal.training.objectives import Consistent, Objective, Preferences, Supervised
from eftlocal.training.rows import Rows, bytes_of, remove
from eftlocal.training.shape import shape_of
from eftlocal.training.trainer import Trainer, mean_loss
from eftlocal.training.tunable import Tunable, adapted, copied
from eftlocal.training.weights import Matrix

__all__ = ["Outcome", "tune"]

PROBED: Final = 128  # tokens of the examples on which our computation is compared with llama.cpp's
SAVED_S: Final = 1.0  # at most so often a checkpoint is written, but always at an interruption and at the end
SAVING: Final = 0.05  # share of the time that writing checkpoints may take
PROBLEMS: Final = 20  # so many wrong lines are shown


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    path      the file that was written
    emulator  the emulator that the trained model is part of, whose models are in `catalog`
    before    the held-out loss before the training, and `after` it
    verdict   how good it is on what was kept back
    """

    exit_code: int
    path: Path | None = None
    emulator: catalog.Emulator | None = None
    catalog: Catalog | None = None
    before: float | None = None
    after: float | None = None
    verdict: Verdict | None = None


def tune(cat: Catalog, options: Options) -> Outcome:
    """Trains the reference on the examples, and writes the result to `options.output`. Tells what it does on stderr.

    A run that was interrupted goes on. Raises EftError.
    """
    use_threads(options.threads or usable_cores())
    data = read(options.data)
    held_out = read(options.valid) if options.valid else None
    _must_suit(data, options)
    if problems := [*data.problems, *(held_out.problems if held_out else ())]:
        return _broken(problems)
    if data.ignored:
        say(f"not read: {', '.join(path.name for path in data.ignored[:5])}")
    parts = split(data.records, held_out.records if held_out else None, seed=options.seed)
    made = setup.make(cat, options)
    with closing(made.loaded.engine):
        return _Run(options, data, parts, made).run()


def _must_suit(data: Data, options: Options) -> None:
    """Raises SettingError for data that the method does not train on."""
    pairs = any(isinstance(record, Pair) for record in data.records)
    if pairs and options.method != "dpo" and not data.problems:
        raise SettingError("These are pairs of answers, of which one is preferred.", "Train on them with --method dpo.")
    if not pairs and options.method == "dpo" and data.records:
        raise SettingError(
            "dpo trains on pairs, and there is none.", 'Each line needs "prompt", "chosen" and "rejected".'
        )


def _broken(problems: Sequence[LineError]) -> Outcome:
    for problem in problems[:PROBLEMS]:
        say(f"eftlocal: {problem}")
    more = f" ({len(problems) - PROBLEMS:,} more are not shown)" if len(problems) > PROBLEMS else ""
    are = "line is" if len(problems) == 1 else "lines are"
    say(f"eftlocal: {len(problems):,} {are} wrong{more}; nothing was trained")
    return Outcome(1)


class _Run:
    """The parts of a run, one after the other."""

    def __init__(self, options: Options, data: Data, records: Split, made: Setup) -> None:
        self.options, self.data, self.records, self.made = options, data, records, made
        self.header, self.shape = made.reference, shape_of(made.reference)
        self.consistent = made.base is not None and options.method != "dpo"
        self.identity = options.identity(data.digest, made.identity, str(records.held_out))

    def run(self) -> Outcome:
        trained, problems = check.prepare(self.records.trained, self.made.asked, self.made.length)
        held_out, more = check.prepare(self.records.held_out, self.made.asked, self.made.length)
        if problems or more:
            return _broken([*problems, *more])
        self._tell(trained, held_out)
        trained, held_out = ([each for each in part if each.rows] for part in (trained, held_out))
        if not trained:
            raise TrainingError("Nothing is left to train on.", "Give shorter examples, or a larger --length.")
        way = self._way([row for each in trained for row in each.rows])
        tensors = weights.read(self.header)
        self._compare(tensors, trained)
        network = Network.of(self.shape, tensors)
        tunable = self._tunable(network, way)
        if self.options.dry_run:
            return self._dry(trained, tunable)
        self.options.folder.mkdir(parents=True, exist_ok=True)
        with Stop() as stop:
            objectives = self._objectives(network, trained, held_out, stop)
            if objectives is None:
                return self._stopped(None)
            context = self.made.loaded.engine.n_ctx
            self.made.loaded.engine.close()  # its memory is needed now
            outcome = self._train(tunable, *objectives, way, stop)
        del tensors, network, tunable, objectives  # and theirs for the models that are compared
        return self._judged(outcome, held_out, context) if outcome.exit_code == 0 else outcome

    # --- before -------------------------------------------------------------------------------------------------------

    def _tell(self, trained: list[Prepared], held_out: list[Prepared]) -> None:
        say(check.summary(trained, held_out))
        if self.records.moved:
            say(f"{self.records.moved:,} ask what is kept back, and are not trained on")
        for note in check.notes([*trained, *held_out], self.made.length):
            say(note)
        rows = [row for each in trained for row in each.rows]
        for row in dict.fromkeys((*rows[:1], *rows[len(rows) // 2 :][:1])):
            say(f"  {check.shown(row, self.made.model)}")

    def _way(self, rows: Sequence[Example]) -> Way:
        """How a step is computed, in the memory that is free. Raises FitError."""
        free, longest = here().free, max(len(row.tokens) for row in rows)
        share = sum(row.trained for row in rows) / sum(len(row.tokens) for row in rows)
        rank = self.options.rank if self.options.method in ("lora", "dpo") else None
        needs = [
            (way, estimate(self.shape, self.header, way, rank=rank, share=share, fixed=self.consistent).total)
            for way in ways(longest)
        ]
        for way, need in needs:
            if not free or need <= free:
                say(f"about {size(need)} of memory; {size(free)} are free")
                return way
        raise FitError(
            f"Training {self.header.path.name} takes about {size(needs[-1][1])} of memory; {size(free)} are free.",
            "Take --method lora, a smaller --length, or a smaller reference.",
        )

    def _compare(self, tensors: Mapping[str, Matrix], trained: list[Prepared]) -> None:
        """Refuses a model that llama.cpp computes differently, by the tokens of the first examples."""
        tokens = [token for each in trained for row in each.rows for token in row.tokens.tolist()]
        most = max(PROBED, (self.shape.window or 0) + PROBED // 4)
        found = parity.check(self.header, tensors, tokens[:most])
        say(f"the model is computed as llama.cpp does it (divergence {found.divergence:.0e} nats)")

    def _tunable(self, network: Network, way: Way) -> Tunable:
        options = self.options
        if options.method in ("full", "mofo"):
            return copied(self.shape, network.weights, checkpointed=way.checkpointed)
        alpha = options.alpha or 2.0 * options.rank
        return adapted(
            self.shape,
            network.weights,
            rank=options.rank,
            alpha=alpha,
            seed=options.seed,
            checkpointed=way.checkpointed,
        )

    def _dry(self, trained: list[Prepared], tunable: Tunable) -> Outcome:
        """Tells what the run would take, by one step that is not kept."""
        rows = [row for each in trained for row in each.rows]
        recipe = self.options.recipe(len(trained if self.options.method == "dpo" else rows), 1024)
        some = rows[: recipe.batch]
        started = time.monotonic()
        Supervised(some).total(tunable.network(tunable.parameters), range(len(some))).backward()  # type: ignore[no-untyped-call]
        rate = sum(len(row.tokens) for row in some) / (time.monotonic() - started)
        total = recipe.epochs * sum(len(row.tokens) for row in rows)
        each = f"{recipe.epochs:g} epochs of {total / recipe.epochs:,.0f} tokens, {rate:.0f} a second"
        say(f"about {span(total / rate)}: {each}")
        if self.consistent:
            count = sum(row.trained for row in rows)
            say(f"{size(bytes_of(count, self.made.loaded.members.n_real))} on the disk for what base and reference say")
        say("nothing was trained (--dry-run)")
        return Outcome(0)

    # --- objectives ---------------------------------------------------------------------------------------------------

    def _objectives(
        self, network: Network, trained: list[Prepared], held_out: list[Prepared], stop: Stop
    ) -> tuple[Objective, Objective | None] | None:
        """What is trained, and what is looked at in between. None if the user stopped it."""
        if self.options.method == "dpo":
            return self._pairs(network, trained), self._pairs(network, held_out) if held_out else None
        rows, kept = ([row for each in part for row in each.rows] for part in (trained, held_out))
        if not self.consistent:
            return Supervised(rows), Supervised(kept) if kept else None
        fixed = self._fixed([*trained, *held_out], stop)
        if fixed is None:
            return None
        starts = _starts([*rows, *kept])
        beta = self.options.beta
        judged = Consistent(kept, fixed, beta, starts[len(rows) :]) if kept else None
        return Consistent(rows, fixed, beta, starts[: len(rows)]), judged

    def _pairs(self, network: Network, prepared: list[Prepared]) -> Preferences:
        pairs = [(each.rows[0], each.rows[1]) for each in prepared]
        return Preferences.of(network, pairs, beta=self.options.preference, likelihood=self.options.likelihood)

    def _fixed(self, prepared: list[Prepared], stop: Stop) -> Rows | None:
        """What base and reference say of each trained token, computed where it is not there yet. None if stopped."""
        answers = setup.forced_answers(self.made, prepared)
        count = sum(len(answer.tokens) for answer in answers)
        n_real = self.made.loaded.members.n_real
        rows = Rows(self.options.folder / "rows", count, n_real, self.identity)
        if rows.have == count:
            return rows
        say(
            f"what base and reference say of {count:,} tokens: {size(bytes_of(count, n_real))} in {self.options.folder}"
        )
        began, started, last = rows.have, time.monotonic(), time.monotonic()

        def told(have: int) -> bool:
            nonlocal last
            if time.monotonic() - last > 10:
                last = time.monotonic()
                say(f"  {have:,} of {count:,}, {span((last - started) / (have - began) * (count - have))} left")
            return stop.asked

        setup.fill(self.made, answers, rows, told)
        return rows if rows.have == count else None

    # --- training -----------------------------------------------------------------------------------------------------

    def _train(
        self, tunable: Tunable, objective: Objective, held_out: Objective | None, way: Way, stop: Stop
    ) -> Outcome:
        recipe = self.options.recipe(len(objective), way.fed)
        trainer = Trainer(tunable, objective, recipe, held_out)
        path = self.options.folder / "checkpoint"
        before = None if held_out is None else mean_loss(tunable.network(trainer.best), held_out, recipe.fed)
        if (state := checkpoint.load(path)) is not None:
            if state.pop("identity", None) != self.identity:
                raise TrainingError(
                    f"{self.options.folder} is of a run with other data, models or settings.",
                    "Delete it to start again, or give another --output.",
                )
            trainer.restore(state)
            say(f"going on after step {trainer.taken} of {trainer.steps}")
        what = "" if held_out is None else "held out, emulated" if self.consistent else "held out"
        fed = sum(objective.size(item) for item in range(len(objective))) * recipe.epochs / trainer.steps
        told, saved, cost = Told(fed, what), time.monotonic(), 0.0
        error: EftError | None = None
        run = trainer.run()
        while not stop.asked:
            try:
                progress = next(run, None)
            except TrainingError as wrong:
                error = wrong
                break
            if progress is None:
                break
            told.step(progress)
            if time.monotonic() - saved > max(SAVED_S, cost / SAVING):
                began = time.monotonic()
                self._save(path, trainer)
                saved, cost = time.monotonic(), time.monotonic() - began
        self._save(path, trainer)
        if not stop.asked and error is None and trainer.taken < trainer.steps:
            say(f"ended early: nothing better came in {recipe.patience} looks at what is kept back")
        if stop.asked:
            return self._stopped(trainer)
        outcome = self._write(trainer, before)
        if error is not None:
            say(f"eftlocal: {error}")
            say("the best parameters before that are in the file")
            return replace(outcome, exit_code=1)
        self._clean(path)
        return outcome

    def _clean(self, path: Path) -> None:
        """Removes what a finished run does not need any more."""
        path.unlink(missing_ok=True)
        rows = self.options.folder / "rows"
        remove(rows)
        for folder in (rows, self.options.folder):
            with suppress(OSError):  # something of the user's is in it, or it was never made
                folder.rmdir()

    def _judged(self, outcome: Outcome, held_out: list[Prepared], context: int) -> Outcome:
        """Tells how good the result is, and gives the emulator the best beta."""
        emulator = outcome.emulator
        assert emulator is not None and outcome.catalog is not None
        verdict = judge(
            outcome.catalog, emulator, self.made.small, held_out, context=context, threads=self.options.threads
        )
        if verdict is None:
            return outcome
        say(table(verdict))
        if (better := verdict.better) is not None:
            say(f"the {better} model alone gives these answers better than the emulator: it does not help with them")
        if verdict.beta is not None:
            emulator = replace(emulator, rewards=tuple(replace(r, beta=verdict.beta) for r in emulator.rewards))
        return replace(outcome, emulator=emulator, verdict=verdict)

    def _save(self, path: Path, trainer: Trainer) -> None:
        checkpoint.save(path, {**trainer.state(), "identity": self.identity})

    def _stopped(self, trainer: Trainer | None) -> Outcome:
        if trainer is not None and trainer.best_loss < float("inf"):
            self._write(trainer, None, part=True)
        elif trainer is not None:
            say("no file is written yet: it was too early to know a best")
        say("stopped; the same command goes on from here")
        return Outcome(INTERRUPTED)

    def _write(self, trainer: Trainer, before: float | None, *, part: bool = False) -> Outcome:
        """Writes the best parameters, as an adapter or a whole model."""
        options, path = self.options, self.options.output
        record = self._record(trainer)
        network, adapter = trainer.tunable.network(trainer.best), options.method in ("lora", "dpo")
        if adapter:
            output.write_adapter(path, self.header, network.adapter, name=options.name, record=record)
        else:
            output.write_model(path, self.header, trainer.best, name=options.name, record=record)
        kind = "an adapter" if adapter else "a whole model"
        say(f"{path}: {kind}, {size(path.stat().st_size)}{' (the best so far)' if part else ''}")
        after = trainer.best_loss if before is not None else None
        if before is not None and after is not None:
            whose = "the emulator's" if self.consistent else "the small model's"
            say(f"held out, {whose} loss: {before:.3f} nats a token before, {after:.3f} after")
        cat, emulator = entry(self.made, path, adapter=adapter)
        return Outcome(0, path, emulator, cat, before, after)

    def _record(self, trainer: Trainer) -> dict[str, str]:
        """How the file was made, for its metadata."""
        left_out = ("data", "valid", "output", "threads", "dry_run")
        settings = {name: value for name, value in asdict(self.options).items() if name not in left_out}
        settings = {name: value if isinstance(value, (int, float)) else str(value) for name, value in settings.items()}
        return {
            "data_sha256": self.data.digest,
            "settings": json.dumps({**settings, **asdict(trainer.recipe)}),
            "steps": str(trainer.taken),
            "reference": self.header.path.name,
            "versions": json.dumps({"torch": version(), "eftlocal": metadata.version("eftlocal")}),
        }


def _starts(rows: Sequence[Example]) -> list[int]:
    """Where the stored rows of each example begin."""
    starts, total = [], 0
    for row in rows:
        starts.append(total)
        total += row.trained
    return starts
