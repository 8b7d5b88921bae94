"""Runs a batch in its own process, which tests can kill: `python -m tests.apps.batch.program IN OUT KEY=VALUE ...`.

kind   "scripted", or an emulator of the catalogue
step   seconds that a step of the scripted emulator takes
limit  the most bytes that a file may have
user   id of the user who runs it
score  write scores instead of answers

quiet, ordered, parallel and samples are options of the run. All other keys are settings.
"""

import json
import os
import sys
import time
from datetime import date
from typing import Any

from eftlocal.apps import batch
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError
from tests.apps.batch.fake import Scripted, over


def main(source: str, target: str, *given: str) -> int:
    values: dict[str, Any] = {key: _value(text) for key, _, text in (word.partition("=") for word in given)}
    kind, step = values.pop("kind", "scripted"), values.pop("step", 0.0)
    if (limit := values.pop("limit", None)) is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    options = {key: values.pop(key) for key in ("quiet", "ordered", "parallel", "samples") if key in values}
    work = batch.score if values.pop("score", False) else batch.generate
    if (user := values.pop("user", None)) is not None:
        os.setuid(user)

    def load(day: date) -> Emulator:
        if kind == "scripted":
            return Scripted(on_step=lambda _: time.sleep(step), **values).load(day)
        return Emulator.load(kind, threads=1, kv_type="f32", date=day, **values)

    try:
        return work(load, over(source, target, **options))
    except BrokenPipeError:
        return 0
    except EftError as error:
        print(f"eftlocal: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
