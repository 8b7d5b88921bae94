"""One run of `eftlocal tune`: data and models in, a trained file out; what was interrupted goes on."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from eftlocal.apps.common import size
from eftlocal.apps.tune import check, plan, setup
from eftlocal.apps.tune.check import Prepared
from eftlocal.apps.tune.data import Data, Split, WrongLinesError, must_suit, read, split
from eftlocal.apps.tune.entry import entry
from eftlocal.apps.tune.estimates import duration, way_that_fits
from eftlocal.apps.tune.files import write, write_report
from eftlocal.apps.tune.fitting import fit, restore, tried_rate
from eftlocal.apps.tune.fixed import fixed_rows
from eftlocal.apps.tune.judging import judge
from eftlocal.apps.tune.options import Options
from eftlocal.apps.tune.plan import Plan
from eftlocal.apps.tune.progress import Tell, TuneProgress
from eftlocal.apps.tune.setup import Setup
from eftlocal.apps.tune.stop import Stop
from eftlocal.apps.tune.verdict import Verdict
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog
from eftlocal.errors import SettingError, TrainingError
from eftlocal.interrupt import before_leaving
from eftlocal.runtime.machine import usable_cores
from eftlocal.training import devices, parity, precision, weights
from eftlocal.training.examples import NOTHING, Example
from eftlocal.training.here import use_threads
from eftlocal.training.memory import Way
from eftlocal.training.network import Network
from eftlocal.training.objectives import Consistent, Objective, Preferences, Supervised
from eftlocal.training.rows import bytes_of
from eftlocal.training.shape import shape_of
from eftlocal.training.trainer import Trainer, mean_loss
from eftlocal.training.tunable import Tunable, adapted, copied
from eftlocal.training.weights import Matrix

__all__ = ["Outcome", "tune"]

STOPPED: Final = "stopped; the same command goes on from here"
PROBED: Final = 128  # tokens of the examples on which our computation is compared with llama.cpp's


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. The file is written; what the run needs to go on is still there (files.clean).

    emulator  the emulator that the trained model is part of, whose models are in `catalog`
    before    the held-out loss before the training, and `after` it; None if nothing was kept back
    verdict   how good it is on what was kept back; None if nothing of that can be asked
    """

    emulator: catalog.Emulator
    catalog: Catalog
    before: float | None
    after: float | None
    verdict: Verdict | None = None


def tune(cat: Catalog, options: Options, tell: Tell) -> Outcome | None:
    """Trains the reference on the examples, and writes the result to `options.output`. None for a dry run.

    A run that was interrupted goes on. Raises EftError (for data, WrongLinesError), and KeyboardInterrupt after Ctrl-C,
    when what was reached is on the disk.
    """
    use_threads(options.threads or usable_cores())
    data = read(options.data)
    held_out = read(options.valid) if options.valid else None
    for each in (data, *([held_out] if held_out else [])):
        must_suit(each, pairs=options.method == "dpo")
    if problems := [*data.problems, *(held_out.problems if held_out else ())]:
        raise WrongLinesError(problems)
    if data.unread:
        tell(TuneProgress(phase="checking", text=data.unread))
    parts = split(data.records, held_out.records if held_out else None, seed=options.seed)
    if not parts.trained:
        raise SettingError("All examples are in --valid, which is not trained on.", "Leave it out, or give others.")
    made = setup.make(cat, options)
    with closing(made.loaded.engine):
        return _Run(options, data, parts, made, tell).run()


class _Run:
    """The parts of a run, one after the other."""

    def __init__(self, options: Options, data: Data, records: Split, made: Setup, tell: Tell) -> None:
        self.options, self.data, self.records, self.made, self.tell = options, data, records, made, tell
        self.header, self.shape = made.reference, shape_of(made.reference)
        self.consistent = made.base is not None and options.method != "dpo"
        self.identity = options.identity(data.digest, made.identity, str(records.held_out))
        self.device = devices.chosen(options.device)

    def run(self) -> Outcome | None:
        trained, problems = check.prepare(self.records.trained, self.made.asked, self.made.length)
        held_out, more = check.prepare(self.records.held_out, self.made.asked, self.made.length)
        if problems or more:
            raise WrongLinesError([*problems, *more])
        self._check(trained, held_out)
        trained, held_out = ([each for each in part if each.rows] for part in (trained, held_out))
        if not trained:
            raise TrainingError("Nothing is left to train on.", "Give shorter examples, or a larger --length.")
        rows = [row for each in trained for row in each.rows]
        kept = None if self.options.dry_run else plan.load(self.options.plan, self.identity)
        way, line = way_that_fits(self.options, self.header, rows, self.device, fixed=self.consistent, plan=kept)
        self._say(line)
        tensors = weights.read(self.header)
        self._compare(tensors, rows)
        network = Network.of(self.shape, tensors, self.device)
        if kept is None:
            way = replace(way, half=self._half(network))
        make = partial(self._tunable, network, way)
        if self.options.dry_run:
            self._dry(rows, [row for each in held_out for row in each.rows], make())
            return None
        with before_leaving(lambda: self._say(STOPPED)):
            with Stop(lambda: self._say("stopping after this step; Ctrl-C again stops at once")) as stop:
                objectives = self._objectives(network, trained, held_out, stop)
                if objectives is None:
                    raise self._stopped(None)
                context = self.made.loaded.engine.n_ctx
                self.made.loaded.engine.close()  # its memory is needed now
                if (done := kept or self._plan(make, *objectives, way, stop)) is None:
                    raise self._stopped(None)
                outcome = self._train(make(), *objectives, done, stop)
                if stop.asked:  # while the file was written
                    raise self._stopped(None)
            del tensors, network, make, objectives  # and theirs for the models that are compared
            devices.release(self.device)
            return self._judged(outcome, held_out, context)

    def _say(self, text: str) -> None:
        self.tell(TuneProgress(phase="checking", text=text))

    # --- before -------------------------------------------------------------------------------------------------------

    def _check(self, trained: list[Prepared], held_out: list[Prepared]) -> None:
        """Tells what the data is: how much, what is odd in it, and two examples as tokens."""
        self._say(check.summary(trained, held_out))
        if self.records.moved:
            self._say(f"{self.records.moved:,} ask what is kept back, and are not trained on")
        for note in check.notes([*trained, *held_out], self.made.length):
            self._say(note)
        rows = [row for each in trained for row in each.rows]
        for row in dict.fromkeys((*rows[:1], *rows[len(rows) // 2 :][:1])):
            self._say(f"  {check.shown(row, self.made.model)}")

    def _compare(self, tensors: Mapping[str, Matrix], rows: Sequence[Example]) -> None:
        """Refuses a model that llama.cpp computes differently, by the tokens of the first examples."""
        tokens = [token for row in rows for token in row.tokens.tolist()]
        most = max(PROBED, (self.shape.window or 0) + PROBED // 4)
        found = parity.check(self.header, tensors, tokens[:most], self.device)
        self._say(f"the model is computed as llama.cpp does it (divergence {found.divergence:.0e} nats)")

    def _half(self, network: Network) -> bool:
        """Whether layers are computed in bfloat16."""
        chosen = precision.choose(network, precision.measured)
        self._say(f"trained on {devices.described(self.device)}, {chosen}")
        return chosen.half

    def _tunable(self, network: Network, way: Way) -> Tunable:
        options = self.options
        if not options.adapts:
            return copied(self.shape, network.weights, checkpointed=way.checkpointed, half=way.half)
        alpha = options.alpha or 2.0 * options.rank
        return adapted(
            self.shape,
            network.weights,
            rank=options.rank,
            alpha=alpha,
            seed=options.seed,
            checkpointed=way.checkpointed,
            half=way.half,
        )

    def _dry(self, rows: Sequence[Example], kept: Sequence[Example], tunable: Tunable) -> None:
        n = len(rows) // (2 if self.options.method == "dpo" else 1)
        self._say(duration(rows, kept, tunable, self.options.recipe(n, 1024), n, tried=self.options.lr is None))
        if self.consistent:
            targets = np.concatenate([row.targets[row.targets != NOTHING] for row in (*rows, *kept)])
            room = bytes_of(targets, self.made.loaded.members.n_real)
            self._say(f"{size(room)} on the disk for what base and reference say")
        self._say("nothing was trained (--dry-run)")

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
        prepared = [*trained, *held_out]
        beta, folder = self.options.beta, self.options.rows
        fixed = fixed_rows(self.made, prepared, folder, self.identity, beta, self.tell, lambda: stop.asked)
        if fixed is None:
            return None
        starts = _starts([*rows, *kept])
        judged = Consistent(kept, fixed, beta, starts[len(rows) :]) if kept else None
        return Consistent(rows, fixed, beta, starts[: len(rows)]), judged

    def _pairs(self, network: Network, prepared: list[Prepared]) -> Preferences:
        pairs = [(each.rows[0], each.rows[1]) for each in prepared]
        return Preferences.of(network, pairs, beta=self.options.preference, likelihood=self.options.likelihood)

    # --- training -----------------------------------------------------------------------------------------------------

    def _plan(
        self, make: Callable[[], Tunable], objective: Objective, held_out: Objective | None, way: Way, stop: Stop
    ) -> Plan | None:
        """How it is trained, with the learning rate that was given or that a trial finds. None if it was stopped."""
        lr = self.options.lr
        if lr is None:
            recipe = self.options.recipe(len(objective), way.fed)
            lr = tried_rate(make, objective, recipe, held_out, self.tell, lambda: stop.asked)
        if lr is None:
            return None
        made = Plan(way.fed, way.checkpointed, way.half, lr)
        plan.save(made, self.options.plan, self.identity)
        return made

    def _train(
        self, tunable: Tunable, objective: Objective, held_out: Objective | None, how: Plan, stop: Stop
    ) -> Outcome:
        recipe = replace(self.options.recipe(len(objective), how.fed), lr=how.lr)
        trainer = Trainer(tunable, objective, recipe, held_out)
        network = tunable.network(trainer.best)
        before = None if held_out is None else mean_loss(network, held_out, recipe.fed)
        restore(trainer, self.options.checkpoint, self.identity, self.tell)
        error = fit(trainer, self.options.checkpoint, self.identity, self.tell, lambda: stop.asked)
        if stop.asked:
            raise self._stopped(trainer)
        outcome = self._write(trainer, before)
        if error is not None:
            hint = f"{error.hint} The best parameters before that are in {self.options.output}."
            raise TrainingError(error.message, hint)
        return outcome

    def _stopped(self, trainer: Trainer | None) -> KeyboardInterrupt:
        if trainer is not None and trainer.best_loss < float("inf"):
            self._write(trainer, None)
        elif trainer is not None:
            self._say("no file is written yet: it was too early to know a best")
        self._say(STOPPED)
        return KeyboardInterrupt()

    def _write(self, trainer: Trainer, before: float | None) -> Outcome:
        """Writes the best parameters, and tells where. `before` is the held-out loss before the training."""
        path, adapts = self.options.output, self.options.adapts
        asked = self.made.asked.template if self.records.answers else None
        write(self.options, self.header, trainer, self.data.digest, asked)
        kind = f"{'an adapter' if adapts else 'a whole model'}, {size(path.stat().st_size)}"
        after = None if before is None else trainer.best_loss
        text = f"{path}: {kind}{' (the best so far)' if trainer.taken < trainer.steps else ''}"
        if before is not None and after is not None:
            if self.options.method == "dpo":
                text += f"\nheld out, the loss of a pair: {before:.3f} before, {after:.3f} after"
            else:
                whose = "the emulator's" if self.consistent else "the small model's"
                text += f"\nheld out, {whose} loss: {before:.3f} nats a token before, {after:.3f} after"
        self.tell(TuneProgress(phase="writing", text=text))
        cat, emulator = entry(self.made, path, adapter=adapts)
        return Outcome(emulator, cat, before, after)

    def _judged(self, outcome: Outcome, held_out: list[Prepared], context: int) -> Outcome:
        """The outcome with how good it is, and the emulator with the best beta."""
        verdict = judge(
            outcome.catalog,
            outcome.emulator,
            self.made.small,
            held_out,
            context=context,
            threads=self.options.threads,
            tell=self.tell,
        )
        report = write_report(self.options, verdict, outcome.before, outcome.after)
        if report is None:
            self._say(f"the report could not be written to {self.options.report}")
        if verdict is None or verdict.chosen is None:
            return replace(outcome, verdict=verdict)
        bias = catalog.Bias(end=verdict.chosen.end) if verdict.chosen.end else None
        rewards = tuple(replace(r, beta=verdict.chosen.beta, bias=bias) for r in outcome.emulator.rewards)
        return replace(outcome, emulator=replace(outcome.emulator, rewards=rewards), verdict=verdict)


def _starts(rows: Sequence[Example]) -> list[int]:
    """Where the stored rows of each example begin."""
    starts, total = [], 0
    for row in rows:
        starts.append(total)
        total += row.trained
    return starts
