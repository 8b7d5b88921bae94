"""What a training takes before it starts: memory, time and room on the disk."""

from collections.abc import Sequence
from time import monotonic

from eftlocal.apps.common import size, span
from eftlocal.apps.tune.options import Options
from eftlocal.apps.tune.plan import Plan
from eftlocal.errors import FitError
from eftlocal.runtime.gguf_header import Header
from eftlocal.runtime.machine import here
from eftlocal.training import devices
from eftlocal.training.examples import Example
from eftlocal.training.memory import Way, estimate, ways
from eftlocal.training.objectives import Supervised
from eftlocal.training.shape import shape_of
from eftlocal.training.trainer import Recipe, mean_loss, steps_of
from eftlocal.training.trial import EXPECTED, short_steps
from eftlocal.training.tunable import Tunable

__all__ = ["duration", "way_that_fits"]


def way_that_fits(
    options: Options,
    header: Header,
    rows: Sequence[Example],
    device: devices.Device,
    *,
    fixed: bool,
    plan: Plan | None,
) -> tuple[Way, str]:
    """How a step is computed in the memory that is free, and a line that says so. Raises FitError.

    fixed  whether the loss is the emulator's
    plan   of a run that goes on: its way is taken, or none
    """
    host, there = here().free, devices.free(device)
    free, of = (host, "memory") if there is None else (there, f"the memory of {devices.described(device)}")
    share, longest = sum(row.trained for row in rows) / sum(map(_length, rows)), max(map(_length, rows))
    rank, shape = options.rank if options.adapts else None, shape_of(header)
    able = ways(longest, gpu=there is not None) if plan is None else [Way(plan.fed, plan.checkpointed, plan.half)]
    gpu = there is not None
    needs = [(way, estimate(shape, header, way, rank=rank, share=share, fixed=fixed, gpu=gpu)) for way in able]
    if gpu and host and (need := needs[0][1].host) > host:
        raise FitError(
            f"Training {header.path.name} takes about {size(need)} of memory beside the GPU's; {size(host)} are free.",
            "Take --method lora, or a smaller reference.",
        )
    for way, each in needs:
        if not free or each.total <= free:
            return way, f"about {size(each.total)} of {of}; {size(free)} are free"
    smaller = f"Take --method lora, a smaller --length, or a smaller reference{', or --device cpu' if gpu else ''}."
    raise FitError(
        f"Training {header.path.name} takes about {size(needs[-1][1].total)} of {of}; {size(free)} are free.",
        smaller if plan is None else "Free some memory: a run that goes on computes its steps as it began.",
    )


def _length(row: Example) -> int:
    return len(row.tokens)


def duration(
    rows: Sequence[Example], kept: Sequence[Example], tunable: Tunable, recipe: Recipe, n: int, *, tried: bool
) -> str:
    """How long the training of `n` items takes, by one step that is not kept. tried: whether a trial finds the rate.

    What is `kept` back is only fed forwards, at each look and after each short run of the trial.
    """
    some = Supervised(rows[: recipe.batch])
    n_tokens = sum(map(_length, some.examples))

    def step_of(n: int) -> None:
        some.total(tunable.network(tunable.parameters), range(n)).backward()  # type: ignore[no-untyped-call]

    step_of(1)  # torch prepares itself
    started = monotonic()
    step_of(len(some))
    stepped = monotonic()
    mean_loss(tunable.network(tunable.parameters), some, recipe.fed)
    step, look = (stepped - started) / n_tokens, (monotonic() - stepped) / n_tokens  # seconds a token
    each, others = sum(map(_length, rows)), sum(map(_length, kept))
    steps = steps_of(recipe, n)
    shorter = EXPECTED * short_steps(recipe, n) if tried else 0
    trained = recipe.epochs * each * (1 + shorter / steps)
    looks = min(recipe.looks, steps) + 1 + (EXPECTED if tried else 0)
    trial = ", and a trial" if tried else ""
    took = span(trained * step + looks * others * look)
    return f"about {took}: {recipe.epochs:g} epochs of {each:,.0f} tokens{trial}, {1 / step:.0f} a second"
