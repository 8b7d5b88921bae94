"""Compares lm-evaluation-harness over `eftlocal serve` with eftlocal itself: `python -m tools.check_lm_eval PROGRAM`.

PROGRAM is an installed `lm_eval` (pip install 'lm-eval[api]'), usually in a virtual environment of its own. It is run
as anybody would run it, on tasks of one local JSON file each:

    choices   multiple choice through local-completions: log-likelihoods of each choice, and which token was the best
    answers   generate_until through local-completions, as text and as token ids, several requests at a time
    chat      generate_until through local-chat-completions

Each number is compared with `Emulator.score`, and each text with `Emulator.generate`, both in this process, with the
same F32 cache. The table shows the largest difference. The exit code is 1 if it is above 1e-4, or if a text differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eftlocal.emulation.emulator import Emulator, Raw
from eftlocal.evaluation.demo import questions
from tests.apps.serve.running import Running

TOLERANCE = 1e-4
CONTINENTS = ("Africa", "Asia", "Europe", "North America", "Oceania", "South America")
LIMIT = 24  # tokens of an answer
GENERATION = {"until": ["\n"], "max_gen_toks": LIMIT, "temperature": 0.0}
EXACT: dict[str, Any] = {"kv_type": "f32", "draft": 0}


class Run(NamedTuple):
    """One run of lm-eval: a task, what its model is told beside the address, and further words of the command line."""

    what: str
    task: str
    arguments: Mapping[str, object] = {}
    words: tuple[str, ...] = ()


RUNS = (
    Run("choices, one at a time", "eftlocal_choices"),
    Run("choices, 8 in a request", "eftlocal_choices", words=("--batch_size", "8")),
    Run("choices, 8 at a time", "eftlocal_choices", {"num_concurrent": 8}),
    Run("choices, as text", "eftlocal_choices", {"tokenized_requests": False}),
    Run("answers, one at a time", "eftlocal_answers"),
    Run(
        "answers, 8 requests at a time, as text", "eftlocal_answers", {"num_concurrent": 8, "tokenized_requests": False}
    ),
    Run("chat, 4 at a time", "eftlocal_chat", {"num_concurrent": 4}, ("--apply_chat_template",)),
)


def documents(number: int) -> list[dict[str, Any]]:
    """Questions of the demo about continents, as a transcript, with a choice for each continent."""
    asked = [q for q in questions() if q.kind == "continent"]
    return [
        {
            "question": q.prompt,
            "prompt": f"User:\n{q.prompt}\n\nAssistant:\n",
            "choices": [f"That would be {name}." for name in CONTINENTS],
            "right": CONTINENTS.index(q.answers[-1]),
        }
        for q in asked[:number]
    ]


def add_emulator(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the emulator."""
    parser.add_argument("-e", "--emulator", default="demo", help="emulator to serve (default: demo)")
    parser.add_argument("--models", type=Path, help="a models.toml that defines it")
    parser.add_argument("--parallel", help="answers to decode at once (default: the server's)")


def exact(given: argparse.Namespace) -> Running:
    """A server of the emulator that the options name, whose numbers are exact."""
    options = {"--models": given.models, "--parallel": given.parallel, "--kv-type": "f32", "--draft": 0}
    words = [(name, str(value)) for name, value in options.items() if value is not None]
    return Running(given.emulator, *(word for pair in words for word in pair))


def task(name: str, data: Path, **more: object) -> dict[str, object]:
    """The settings of one task, as lm-eval's YAML files hold them; JSON is YAML, too."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "target_delimiter": "",
        **more,
    }


def tasks(data: Path) -> Iterator[dict[str, object]]:
    choices = {"doc_to_choice": "{{choices}}", "doc_to_target": "{{right}}"}
    yield task("eftlocal_choices", data, output_type="multiple_choice", **choices)
    target = {"doc_to_target": "{{choices[right]}}", "metric_list": [{"metric": "exact_match"}]}
    generated = {"output_type": "generate_until", "generation_kwargs": GENERATION, **target}
    yield task("eftlocal_answers", data, **generated)
    yield task("eftlocal_chat", data, **generated, doc_to_text="{{question}}")


def lm_eval(program: str, model: str, folder: Path, address: str, run: Run) -> list[dict[str, Any]]:
    """Run one task. Returns its samples. Raises RuntimeError with what lm-eval wrote if it fails."""
    out = folder / f"out-{len(list(folder.iterdir()))}"
    chat = run.task == "eftlocal_chat"
    url = f"{address}/v1/{'chat/completions' if chat else 'completions'}"
    arguments = {"model": model, "base_url": url, "max_length": 512, **run.arguments}
    command = (
        *(program, "--model", "local-chat-completions" if chat else "local-completions", "--model_args"),
        ",".join(f"{key}={value}" for key, value in arguments.items()),
        *("--tasks", run.task, "--include_path", str(folder), *run.words),
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        (*command, "--output_path", str(out), "--log_samples"),
        env={**os.environ, **offline},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    (samples,) = out.rglob(f"samples_{run.task}_*.jsonl")
    return [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]


def scored(emulator: Emulator, samples: Sequence[Mapping[str, Any]]) -> tuple[int, float, int]:
    """Numbers compared, the largest difference of a log-likelihood, and how often `is_greedy` differs."""
    number, largest, greedy = 0, 0.0, 0
    for sample in samples:
        for arguments, (response,) in zip(sample["arguments"].values(), sample["resps"], strict=True):
            context, completion = arguments["arg_0"], arguments["arg_1"]
            bare = context.rstrip()  # lm-eval moves the space at the end of a context to the completion
            score = emulator.score(Raw(bare), context[len(bare) :] + completion, top=1)
            best = all(token.id == top[0].id for token, top in zip(score.tokens, score.top, strict=True))
            number += 1
            largest = max(largest, abs(float(response[0]) - score.logprob))
            greedy += (str(response[1]) == "True") != best
    return number, largest, greedy


def differing(emulator: Emulator, samples: Sequence[Mapping[str, Any]]) -> int:
    """How many texts differ from those that the emulator gives in this process."""
    wrong = 0
    for sample in samples:
        asked = sample["arguments"]["gen_args_0"]["arg_0"]
        chat = sample["doc"]["prompt"] != asked
        prompt = sample["doc"]["question"] if chat else Raw(asked)
        expected = emulator.generate(prompt, temperature=0, stop="\n", max_tokens=LIMIT, draft=0).text
        wrong += sample["resps"][0][0] != expected
    return wrong


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("program", help="an installed lm_eval")
    parser.add_argument("-n", type=int, default=40, help="questions (default: 40)")
    add_emulator(parser)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, exact(given) as server:
        folder = Path(name)
        data = folder / "questions.json"
        data.write_text("".join(json.dumps(document) + "\n" for document in documents(given.n)), encoding="utf-8")
        for each in tasks(data):
            (folder / f"{each['task']}.yaml").write_text(json.dumps(each), encoding="utf-8")
        failed = False
        with Emulator.load(given.emulator, models=given.models, **EXACT) as emulator:
            for run in RUNS:
                samples = lm_eval(given.program, given.emulator, folder, server.url, run)
                if run.task == "eftlocal_choices":
                    number, largest, greedy = scored(emulator, samples)
                    print(f"{run.what}: {number} log-likelihoods, difference {largest:.1e}, is_greedy differs {greedy}")
                    failed |= largest > TOLERANCE or greedy > 0 or not number
                else:
                    wrong = differing(emulator, samples)
                    print(f"{run.what}: {len(samples)} texts, {wrong} differ")
                    failed |= wrong > 0 or not samples
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
