"""The command that hands an emulator to lm-evaluation-harness."""

from functools import partial
from typing import Annotated

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import EmulatorOption, Options, with_options

PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}
OF_TASKS = ("temperature", "top_k", "top_p", "min_p", "seed", "max_tokens", "stop")  # a task sets them


@app.command("lm-eval", context_settings=PASSED_ON)
@partial(with_options, but=OF_TASKS)
def lm_eval(
    options: Options,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] --tasks TASK...",
            help="Emulator to measure, then what the harness is asked: --tasks, --limit, --num_fewshot, --batch_size, "
            "--apply_chat_template, --output_path, --log_samples, --include_path and its other options, unchanged.",
        ),
    ] = None,
    emulator: EmulatorOption = None,
    role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE", help="Measure one role by itself: base, tuned or reference (default: the emulator)."
        ),
    ] = None,
) -> int:
    """Measure an emulator on the tasks of lm-evaluation-harness (needs the extra `lm-eval`)."""
    from eftlocal.apps.harness import run

    words = list(words or [])
    if words and not words[0].startswith("-"):
        if emulator is not None:
            raise typer.BadParameter(f"{words[0]} and -e {emulator} both name the emulator: leave one of them out")
        emulator = words.pop(0)
    catalog, name = options.catalog(emulator)
    chosen = catalog.emulator(name)
    catalog.must_be_here(chosen)
    told = {"model": chosen.name, "role": role, "beta": options.beta, "reward_top_p": options.reward_top_p}
    if options.mix:
        told["mix"] = "+".join(options.mix)
    return run.lm_eval(
        lambda: options.load_and_tell(catalog, name), words, role=role, told={**told, "kv_type": options.kv_type}
    )
